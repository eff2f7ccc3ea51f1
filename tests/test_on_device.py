"""The chain for GPUs, run on CPU tensors: the working image, bad areas, maps and picks of the default path."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryosegnet_ext import Micrograph, denoise, on_device
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.unet import AttentionUNet, probability_map
from tests.test_denoise import noise, particles


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return AttentionUNet(2, 2).eval()


@pytest.mark.parametrize("shape", [(300, 300), (256, 411), (390, 201)], ids=str)
@pytest.mark.parametrize("scale", [0.11, 0.37, 0.5, 1.0, 1.4])
def test_the_working_image(shape, scale):
    data = particles(shape, seed=2)
    data[30, 40] = 1e6
    expected = denoise.working_image(data, scale).data
    found = on_device.working_image(torch.from_numpy(data), scale).numpy()
    assert expected.std() > 0.5
    assert found == pytest.approx(expected, abs=2e-3)


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
    work, plane = chain.seen(0.5)
    expected = denoise.working_image(data, 0.5, chain.bad)
    assert (work.scale_y, work.scale_x) == (expected.scale_y, expected.scale_x)
    assert plane == pytest.approx(probability_map(unet, expected.data), abs=0.02)
    part = (slice(40, 340), slice(100, 300))
    assert chain.seen(0.5, part)[0].data == pytest.approx(denoise.working_image(data[part], 0.5).data, abs=2e-3)


def test_memory_that_runs_out_is_told(unet, monkeypatch):
    def none_left(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    chain = on_device.OnDevice(Micrograph(noise((100, 100)), None, "m.mrc"), unet)
    monkeypatch.setattr(on_device, "working_image", none_left)
    with pytest.raises(CryoSegNetError, match="working image ran out of memory on cpu"):
        chain.seen(0.5)
    monkeypatch.setattr(on_device, "_uploaded", none_left)
    with pytest.raises(CryoSegNetError, match="A micrograph ran out of memory"):
        on_device.OnDevice(Micrograph(noise((100, 100)), None, "m.mrc"), unet)
