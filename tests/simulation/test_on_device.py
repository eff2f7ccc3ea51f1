"""Micrographs simulated on a device, here the CPU, against those of the CPU path."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryosegnet_ext.simulation import on_device
from cryosegnet_ext.simulation.micrograph import draw, intensity_of, random_streams
from cryosegnet_ext.simulation.optics import Optics
from cryosegnet_ext.simulation.scene import ProjectionStack, Scene

HERE = torch.device("cpu")
OPTICS = Optics(voltage=200, defocus_u=9000, defocus_v=11000, defocus_angle=30, b_factor=60)
BARE = Scene(structural_noise=0, gradient=0, optics=OPTICS)


def lopsided(name, diameter, seed, n=24, voxel=5.0):
    """Views without any symmetry, so that a wrong turn or mirror is seen."""
    images = np.random.default_rng(seed).uniform(0, 200, (3, n, n)).astype(np.float32)
    return ProjectionStack(name, images, voxel, diameter)


STACKS = [lopsided("a", 80.0, 1), lopsided("b", 110.0, 2, 33), lopsided("c", 90.0, 3)]
SCENES = {
    "particles": BARE,
    "astigmatism and grain": replace(BARE, structural_noise=2.0),
    "gradient": replace(BARE, gradient=0.4),
    "dirt": replace(BARE, ice_blobs=3, carbon=0.2, aggregates=1, gold=2),
    "empty": replace(BARE, coverage=0.0),
}


class AsTheCpu(on_device.Noise):
    """The numbers that the CPU path draws for one frame, in its order."""

    def __init__(self, rng, scene):
        self.device, self._rng = HERE, rng
        self._drawn = [scene.structural_noise > 0, scene.gradient > 0]

    def normal(self, *shape):
        drawn = self._drawn.pop(0)
        return torch.from_numpy(self._rng.standard_normal(shape, np.float32)) if drawn else torch.zeros(shape)

    def angles(self, count):
        return torch.from_numpy(self._rng.uniform(0, 2 * np.pi, count))


def drawn(scene, seed=5, numbers=(0, 1), pixel_size=4.0):
    noise = random_streams(seed)
    return draw([STACKS[i] for i in numbers], scene, (90, 70), pixel_size, *noise), noise


@pytest.mark.parametrize("pixel_size", [3.0, 5.0, 7.5])
@pytest.mark.parametrize("name", SCENES)
def test_the_intensity_is_that_of_the_cpu_path(name, pixel_size):
    one, noise = drawn(SCENES[name], pixel_size=pixel_size)
    stacks = on_device.StacksOnDevice(STACKS, HERE)
    rng, _ = noise2 = random_streams(5)
    again = draw(STACKS[:2], SCENES[name], (90, 70), pixel_size, *noise2)
    found = on_device.intensities([again], [(0, 1)], stacks, AsTheCpu(rng, SCENES[name]))[0].numpy()
    expected, _ = intensity_of(one, STACKS[:2], *noise)
    assert expected.std() > (0.01 if name != "empty" else -1)
    assert found == pytest.approx(expected, abs=1e-4 * max(float(expected.std()), 0.01))


def test_frames_of_a_batch_do_not_touch_each_other():
    stacks = on_device.StacksOnDevice(STACKS, HERE)
    numbers = [(0, 1), (2,), (1, 2)]
    frames = [drawn(scene, seed, which)[0] for seed, (scene, which) in enumerate(zip(SCENES.values(), numbers))]
    together = stacks.potential(frames, numbers)
    for frame, which, plane in zip(frames, numbers, together):
        assert torch.allclose(plane, stacks.potential([frame], [which])[0], atol=1e-3)
        assert plane.std() > 1


def test_the_same_seed_gives_the_same_electrons():
    stacks = on_device.StacksOnDevice(STACKS, HERE)
    frame = drawn(SCENES["dirt"])[0]
    first, again, other = (
        on_device.electrons([frame], [(0, 1)], stacks, on_device.Noise(seed, HERE)) for seed in (1, 1, 2)
    )
    assert first.shape == (1, 90, 70)
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("dose", [0.2, 40.0])
def test_counts_have_the_mean_and_the_noise_of_their_dose(dose):
    """With few electrons they are Poisson's, with many Gaussian."""
    frame = drawn(replace(BARE, dose=dose, detector_efficiency=0.5))[0]
    level = torch.full((1, 400, 400), 0.8)
    seen = on_device.counted(level, [frame], on_device.Noise(0, HERE))
    expected = 0.8 * dose * 16
    assert float(seen.mean()) == pytest.approx(expected, rel=0.02)
    assert float(seen.var()) == pytest.approx(expected / 0.5, rel=0.03)
    assert bool((seen * 0.5 == (seen * 0.5).round()).all()) == (dose < 1)


@pytest.mark.parametrize("change", [{"tilt": 20.0}, {"stripes": 1}, {"mtf": 0.5}, {"drift": 2.0}])
def test_ingredients_of_the_cpu_path_alone_are_refused(change):
    frame = drawn(replace(BARE, **change))[0]
    with pytest.raises(ValueError, match="for the CPU"):
        on_device.electrons([frame], [(0, 1)], on_device.StacksOnDevice(STACKS, HERE), on_device.Noise(0, HERE))
