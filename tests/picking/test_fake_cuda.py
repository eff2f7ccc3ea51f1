"""Every way through the picker with the networks on a GPU that is not there: nothing mixes devices or types."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from cryosegnet_ext import Micrograph, Picker, read_micrograph
from cryosegnet_ext.evaluation import agreement
from cryosegnet_ext.networks.precision import all_in
from cryosegnet_ext.networks.unet import AttentionUNet, map_of_tensor
from cryosegnet_ext.picking import denoise, denoise_torch, segment
from cryosegnet_ext.simulation.micrograph import ProjectionStack, Scene, simulate_micrograph
from cryosegnet_ext.simulation.projection import project, random_rotations
from cryosegnet_ext.simulation.slices import SliceProjector
from cryosegnet_ext.simulation.specimens import Specimen, make_specimen
from tests.fake_cuda import WrongDevice, fake_cuda
from tests.picking.images import particles

GPU = "cuda:0"


@pytest.fixture
def there() -> Iterator[None]:
    with fake_cuda():
        yield


@pytest.fixture(scope="module")
def sample() -> Micrograph:
    whole = read_micrograph(files("cryosegnet_ext") / "data" / "sample.mrc")
    return Micrograph(np.ascontiguousarray(whole.data[:560, :600]), whole.pixel_size, "part.mrc")


def test_it_refuses_what_a_gpu_refuses(there: None) -> None:
    on_gpu = torch.ones(3).to(GPU)
    assert on_gpu.device.type == "cuda" and float(on_gpu.sum()) == 3
    assert (on_gpu * torch.tensor(2.0))[torch.tensor([0, 1])].cpu().tolist() == [2, 2]
    with pytest.raises(WrongDevice):
        on_gpu + torch.ones(3)
    with pytest.raises((RuntimeError, TypeError)):
        on_gpu.numpy()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert (torch.ones(2, 2, device=GPU) @ torch.ones(2, 2, device=GPU)).dtype == torch.bfloat16


@pytest.mark.parametrize("options", [{}, {"segmenter": "watershed"}], ids=str)
def test_the_built_in_networks(sample: Micrograph, options: dict[str, str]) -> None:
    expected = Picker(device="cpu", **options).pick(sample, 171.0)
    assert len(expected) > 0
    for precision in ("float32", "bf16", "float16"):
        with fake_cuda(), all_in(precision):
            picker = Picker(device=GPU, **options)
            found = picker.pick(sample, 171.0)
        assert agreement(np.c_[found.x, found.y], np.c_[expected.x, expected.y], 5.0).f1 == 1


def test_the_size_is_estimated(sample: Micrograph) -> None:
    expected = Picker(device="cpu").estimate_diameter([sample])
    with fake_cuda():
        assert Picker(device=GPU).estimate_diameter([sample]) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("segmenter", ["peaks", "grid", "watershed"])
def test_the_published_recipe(
    published_weights: Path, sam_file: Path, monkeypatch: pytest.MonkeyPatch, segmenter: str
) -> None:
    monkeypatch.setattr(segment, "grid", partial(segment.grid, points_per_side=4))
    one = Micrograph(particles((300, 320), seed=8), 2.0, "m.mrc")
    sam = None if segmenter == "watershed" else sam_file
    with fake_cuda():
        Picker(published_weights, sam=sam, segmenter=segmenter, device=GPU, diameter=48).candidates(one)


def test_a_network_of_two_planes() -> None:
    torch.manual_seed(0)
    network, image = AttentionUNet(2, 2, planes=2).eval(), torch.randn(90, 100)
    with all_in("float32"):
        expected = map_of_tensor(network, image)
        with fake_cuda():
            found = map_of_tensor(network.to(GPU), image.to(GPU)).cpu()
    torch.testing.assert_close(found, expected)


def test_any_sam_at_the_peaks_of_the_default_recipe(default_weights: Path, sam_file: Path) -> None:
    one = Micrograph(particles((300, 320), seed=8), 2.0, "m.mrc")
    with fake_cuda():
        Picker(default_weights, sam=sam_file, segmenter="peaks", device=GPU).candidates(one, 48.0)


def test_the_published_denoising_has_the_same_bytes() -> None:
    data = particles((300, 330), seed=7)
    with fake_cuda():
        found = denoise_torch.published(torch.from_numpy(data).to(GPU)).cpu().numpy()
    expected = denoise.published(data).astype(int)
    # in a small frame one different byte can change the few levels of a CLAHE tile
    assert (np.abs(found.astype(int) - expected) > 1).mean() < 0.02


@pytest.fixture(scope="module")
def specimen() -> Specimen:
    grid = np.indices((24, 24, 24), np.float32)
    return make_specimen("ball", np.exp(-((grid - 11.5) ** 2).sum(0) / 30), 4.0)


def test_projections_and_micrographs_are_simulated(specimen: Specimen) -> None:
    turns = random_rotations(3, np.random.default_rng(0))
    scene = Scene(drift=2.0, ice_thickness=500.0, tilt=20.0)
    results = []
    for device in ("cpu", GPU):
        with fake_cuda():
            images = project(specimen, turns, device)
            slices = SliceProjector(specimen, 3.0, device).project(turns)
            stack = ProjectionStack("ball", images, 4.0, specimen.diameter)
            results.append((images, slices, simulate_micrograph([stack], scene, (96, 100), 4.0, 1, device)[0]))
    for here, there in zip(*results):
        assert there == pytest.approx(here, rel=1e-4, abs=1e-4 * float(np.abs(here).max()))
