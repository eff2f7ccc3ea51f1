"""Training crops on real grounds and beside filaments and lattices; the running mean of the weights."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from cryosegnet_ext.simulation.micrograph import ProjectionStack
from cryosegnet_ext.training import crops
from cryosegnet_ext.training.crops import Labelled, planted_particles
from cryosegnet_ext.training.distractors import Distractor, filaments, lattice, scrambled
from cryosegnet_ext.training.fit import Recipe, fit

NONE = np.zeros(0)


def ball(diameter=120.0, voxel=5.0, n=30):
    axis = (np.arange(n) - (n - 1) / 2) * voxel
    inside = np.maximum((diameter / 2) ** 2 - axis[:, None] ** 2 - axis**2, 0)
    return ProjectionStack("ball", (2 * 2.1 * np.sqrt(inside))[None].astype(np.float32), voxel, diameter)


def ground(seed=0, shape=(400, 420)):
    return Labelled(np.random.default_rng(seed).normal(100, 5, shape).astype(np.float32), NONE, NONE, 0.0)


@pytest.mark.parametrize("random_phases", [False, True])
def test_planted_particles_are_dark_at_their_labels(monkeypatch, random_phases):
    monkeypatch.setattr(crops, "PLANTED", (9.0, 16.0))
    monkeypatch.setattr(crops, "CLEAR_SHARE", 0.0)
    inside, outside = [], []
    for seed in range(6):
        crop = planted_particles([ball()], [ground()], 128, seed, size=(30, 34), random_phases=random_phases)
        assert crop.image.shape == (128, 128) and np.isfinite(crop.image).all()
        label = crop.label().astype(bool)
        if label.any():
            inside.append(crop.image[label].mean())
            outside.append(crop.image[~label].mean())
    assert len(inside) > 3 and np.mean(inside) < np.mean(outside) - 1


def test_planted_crops_are_told_by_their_seed():
    first, again, other = (planted_particles([ball()], [ground()], 96, seed) for seed in (3, 3, 4))
    assert np.array_equal(first.image, again.image) and not np.array_equal(first.image, other.image)


def test_a_ground_smaller_than_the_crop_is_enlarged():
    crop = planted_particles([ball()], [ground(shape=(60, 50))], 128, 1, size=(30, 34))
    assert crop.image.shape == (128, 128) and (crop.image[:, -1] != 0).any()


@pytest.mark.parametrize("drawn", [filaments, lattice])
def test_what_is_added_is_as_strong_as_asked(drawn):
    image = np.random.default_rng(0).standard_normal((160, 160)).astype(np.float32)
    plane = drawn(image.shape, 32.0, np.random.default_rng(7))
    weak, strong = (Distractor(plane, strength).added_to(image, 32.0) - image for strength in (1.0, 4.0))
    assert np.abs(strong).max() == pytest.approx(4 * np.abs(weak).max(), rel=1e-3)
    assert np.abs(weak).max() > 0.05


def test_scrambling_keeps_the_power_spectrum_and_nothing_else():
    image = cv2.GaussianBlur(np.random.default_rng(0).standard_normal((300, 340)).astype(np.float32), (0, 0), 4)
    noise = scrambled(image, np.random.default_rng(1))
    assert noise.shape == image.shape and noise.dtype == np.float32
    before, after = (np.abs(np.fft.rfft2(v)) for v in (image, noise))
    assert np.allclose(before, after, rtol=1e-3, atol=1e-2 * before.max() / 100)
    inside = np.corrcoef(image.ravel(), noise.ravel())[0, 1]
    assert abs(inside) < 0.5
    assert np.array_equal(noise, scrambled(image, np.random.default_rng(1)))


def test_filaments_are_long():
    lengths = []
    for seed in range(5):
        painted = filaments((200, 200), 32.0, np.random.default_rng(seed))
        rows, columns = np.nonzero(painted > 0.3 * painted.max())
        lengths.append(max(np.ptp(rows), np.ptp(columns)))
    assert np.median(lengths) > 150


def batch(step):
    rng = np.random.default_rng(step)
    return rng.normal(0, 1, (2, 32, 32)).astype(np.float32), (rng.random((2, 32, 32)) < 0.2).astype(np.uint8)


RECIPE = Recipe(base_channels=2, levels=2, steps=8, learning_rate=0.02, precision="float32", schedule="constant")


def test_the_running_mean_lies_between_the_steps(tmp_path):
    last = fit(RECIPE, batch, tmp_path / "last").state_dict()
    mean = fit(replace(RECIPE, mean_of=1000), batch, tmp_path / "mean").state_dict()
    steps = [fit(replace(RECIPE, steps=k), batch, tmp_path / str(k)).state_dict() for k in range(1, 9)]
    name = "output.weight"
    assert not torch.equal(mean[name], last[name])
    every = torch.stack([s[name] for s in steps])
    # of so few steps it is their plain mean, the start included
    assert torch.linalg.norm(mean[name] - every.mean(0)) < torch.linalg.norm(last[name] - every.mean(0))


def test_the_running_mean_goes_on_after_an_interruption(tmp_path):
    recipe = replace(RECIPE, mean_of=5)
    whole = fit(recipe, batch, tmp_path / "whole")
    fit(recipe, batch, tmp_path / "parts", stop_after=3)
    parts = fit(recipe, batch, tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values()))
