"""The chain for GPUs, run on CPU tensors: the working image, bad areas, maps and picks of the default path."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pytest
import torch

from cryosegnet_ext import Micrograph, Picker, read_micrograph
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.evaluation import agreement
from cryosegnet_ext.files.micrograph import inverted
from cryosegnet_ext.networks.unet import probability_map
from cryosegnet_ext.picking import denoise, on_device
from tests.networks.test_unet import random_unet
from tests.picking.images import discs, noise, particles


@pytest.fixture(scope="module")
def unet():
    return random_unet(3, 2)


@pytest.mark.parametrize("shape", [(300, 300), (256, 411), (390, 201)], ids=str)
@pytest.mark.parametrize("scale", [0.11, 0.37, 0.5, 1.0, 1.4])
def test_the_working_image(shape, scale):
    data = particles(shape, seed=2)
    data[30, 40] = 1e6
    expected = denoise.working_image(data, scale).data
    found = on_device.working_image(torch.from_numpy(data), scale).numpy()
    assert expected.std() > 0.5
    assert found == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("depth", [15, 1000])
def test_the_working_image_of_clear_particles(depth):
    data, _ = discs(depth)
    expected = denoise.working_image(data, 0.8).data
    assert on_device.working_image(torch.from_numpy(data), 0.8).numpy() == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("scale", [0.25, 0.6])
def test_the_working_image_with_bad_areas(scale):
    data = particles((320, 280), seed=3)
    bad = np.zeros(data.shape, bool)
    bad[:50], bad[100:140, 60:90] = True, True
    data[bad] = -1e4
    expected = denoise.working_image(data, scale, bad).data
    assert on_device.working_image(torch.from_numpy(data), scale, torch.from_numpy(bad)).numpy() == pytest.approx(
        expected, abs=2e-3
    )
    everything = torch.ones(data.shape, dtype=torch.bool)
    assert on_device.working_image(torch.from_numpy(data), scale, everything).isfinite().all()
    assert on_device.working_image(torch.full((60, 60), 3.0), scale).abs().max() == 0


@pytest.mark.parametrize("scale", [0.3, 0.5, 1.2])
@pytest.mark.parametrize("masked", [False, True])
def test_the_working_image_with_a_large_opaque_area(scale, masked):
    data = particles((500, 540), seed=4)
    data[180:420, 200:430] = -1e4
    bad = np.zeros(data.shape, bool)
    bad[:30] = masked
    expected = denoise.working_image(data, scale, bad).data
    found = on_device.working_image(torch.from_numpy(data), scale, torch.from_numpy(bad)).numpy()
    assert (expected == 0).mean() > 0.05 or np.ptp(
        expected[round(300 * scale)][round(250 * scale) : round(380 * scale)]
    ) == 0
    assert found == pytest.approx(expected, abs=2e-3)


def test_bad_areas_are_found_there_too(unet):
    data = noise((300, 340), seed=4)
    data[:, 60], data[120] = 0, 5
    data[200:, 200:] = 1
    expected = denoise.bad_areas(data)
    assert 0.1 < expected.mean() < 0.5
    assert np.array_equal(on_device.OnDevice(Micrograph(data, None, "m.mrc"), unet).bad, expected)
    clean = on_device.OnDevice(Micrograph(noise((300, 340)), None, "m.mrc"), unet)
    assert not clean.bad.any()
    valid = noise((300, 340), seed=5) < 1
    found = on_device.OnDevice(Micrograph(noise((300, 340)), None, "m.mrc", valid), unet).bad
    assert np.array_equal(found, denoise.bad_areas(noise((300, 340)), valid))


def test_the_map_and_parts_of_it(unet):
    data = particles((400, 360), seed=6)
    chain = on_device.OnDevice(Micrograph(data, None, "m.mrc"), unet)
    work, plane = chain.working_image_and_map(0.5)
    expected = denoise.working_image(data, 0.5, chain.bad)
    assert (work.scale_y, work.scale_x) == (expected.scale_y, expected.scale_x)
    assert plane == pytest.approx(probability_map(unet, expected.data), abs=0.02)
    part = (slice(40, 340), slice(100, 300))
    assert chain.working_image_and_map(0.5, part)[0].data == pytest.approx(
        denoise.working_image(data[part], 0.5).data, abs=2e-3
    )


def test_memory_that_runs_out_is_told(unet, monkeypatch):
    def none_left(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    chain = on_device.OnDevice(Micrograph(noise((100, 100)), None, "m.mrc"), unet)
    monkeypatch.setattr(on_device, "working_image", none_left)
    with pytest.raises(CryoSegNetError, match="working image ran out of memory on cpu"):
        chain.working_image_and_map(0.5)
    monkeypatch.setattr(on_device, "_uploaded", none_left)
    with pytest.raises(CryoSegNetError, match="A micrograph ran out of memory"):
        on_device.OnDevice(Micrograph(noise((100, 100)), None, "m.mrc"), unet)


@pytest.fixture(scope="module")
def sample():
    """The sample that comes with the package, as both paths see it with the built-in network."""
    micrograph = read_micrograph(files("cryosegnet_ext") / "data" / "sample.mrc")
    here = Picker(device="cpu", segmenter="watershed")
    there = Picker(device="cpu", segmenter="watershed")
    there._on_device = True
    return micrograph, here, there


def test_picks_are_those_of_the_default_path(sample):
    micrograph, here, there = sample
    a, b = here.pick(micrograph, 171.0), there.pick(micrograph, 171.0)
    assert len(a) > 20
    found = agreement(np.c_[b.x, b.y], np.c_[a.x, a.y], 3.0)
    assert found.f1 >= 0.99
    assert np.median(found.offsets) < 0.2
    assert b.score[:10] == pytest.approx(a.score[:10], abs=0.05)


def test_the_size_is_estimated_alike(sample):
    micrograph, here, there = sample
    part = Micrograph(np.ascontiguousarray(micrograph.data[:700, :700]), micrograph.pixel_size, "part.mrc")
    expected = here.estimate_diameter([part])
    assert expected is not None
    assert there.estimate_diameter([part]) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("there", [False, True])
def test_bright_particles_are_shown_to_the_network_as_dark_ones(default_weights, network, monkeypatch, there):
    """For the size estimate and for the picks, on both paths."""

    def black(_, image):
        network.seen.append(image.numpy().copy())
        return torch.zeros_like(image)

    monkeypatch.setattr(on_device, "map_of_tensor", black)
    dark = Micrograph(particles((300, 320), seed=8), None, "m.mrc")
    shown = []
    for micrograph, invert in ((dark, False), (inverted(dark), True), (inverted(dark), False)):
        picker = Picker(default_weights, device="cpu", invert=invert)
        picker._on_device = there
        picker.estimate_diameter([micrograph])
        picker.pick(micrograph, 40.0)
        shown.append(network.seen[:])
        network.seen.clear()
    assert len(shown[0]) == len(shown[1]) > 5
    assert all(np.array_equal(a, b) for a, b in zip(shown[0], shown[1]))
    assert not any(np.array_equal(a, b) for a, b in zip(shown[0], shown[2]))


def test_the_published_recipe_shows_the_network_the_same(unet, monkeypatch):
    """The map comes back in array order; the network returns its input, except for one half."""
    micrograph = Micrograph(particles((260, 310), seed=7), None, "m.mrc")
    shown = []

    def half(image):
        shown.append(np.array(image))
        return image * (np.arange(256)[:, None] < 128)

    monkeypatch.setattr(on_device, "map_of_tensor", lambda _, image: torch.from_numpy(half(image.numpy())))
    maps = [
        on_device.OnCpu(micrograph, half).published_map(256),
        on_device.OnDevice(micrograph, unet).published_map(256),
    ]
    for a, b in (shown, maps):
        difference = np.abs(a - b)
        assert a.shape == b.shape == (256, 256) and a.std() > 0.05
        # in a small frame one different byte can change the few levels of a CLAHE tile
        assert (difference > 1.5 / 255).mean() < 0.05 and difference.mean() < 0.3 / 255
    assert np.abs(maps[1][:128]).max() == 0 < maps[1][128:].mean()
