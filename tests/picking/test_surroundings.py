"""Noise and darkness around masks, against plain filters and noise of known strength."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cryosegnet_ext.picking.masks import Masks
from cryosegnet_ext.picking.surroundings import darkness, local_noise


def points(x, y):
    x, y = np.asarray(x, float), np.asarray(y, float)
    one = np.ones(len(x))
    return Masks(x, y, one, np.zeros((len(x), 4)), one, one)


def noisy(shape=(480, 640), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_against_plain_filters():
    rng = np.random.default_rng(1)
    image = noisy() * np.linspace(0.5, 2, 640, dtype=np.float32)
    masks = points(rng.uniform(0, 639, 50), rng.uniform(0, 479, 50))
    expected = []
    for fine, coarse, reach in ((0, 1, 20), (2, 4, 10)):
        band = gaussian_filter(image, fine) - gaussian_filter(image, coarse)
        power = gaussian_filter(np.float64(band) ** 2, reach)
        expected.append(np.log(power[masks.y.round().astype(int), masks.x.round().astype(int)]))
    error = local_noise(image, masks, 32.0) - np.stack(expected, 1)
    assert np.abs(error).max() < 0.1 and np.abs(error).mean() < 0.03  # it averages on a coarser grid


def test_twice_the_noise_is_four_times_the_variance():
    image = noisy()
    image[:, 320:] *= 2
    found = local_noise(image, points([150, 490], [240, 240]), 32.0)
    assert found[1] - found[0] == pytest.approx(np.log([4, 4]), abs=0.35)


def test_grain_tells_apart_what_strength_does_not():
    fine = noisy()
    coarse = cv2.GaussianBlur(noisy(seed=1), (0, 0), 2)
    coarse /= coarse.std()
    at = points([320], [240])
    difference = (local_noise(coarse, at, 32.0) - local_noise(fine, at, 32.0))[0]
    assert difference[0] < -1 and difference[1] > 1


def test_particles_of_any_size_in_pixels_see_the_same():
    """The bands follow the particle: an image and its particles, both twice as large, give the same."""
    image = cv2.GaussianBlur(noisy(), (0, 0), 1.5)
    large = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    x, y = np.array([100.0, 320, 500]), np.array([100.0, 240, 400])
    small = local_noise(image, points(x, y), 32.0)
    assert local_noise(large, points(2 * x + 0.5, 2 * y + 0.5), 64.0) == pytest.approx(small, abs=0.1)


@pytest.mark.parametrize("shape", [(40, 3), (2, 2), (1, 50)])
def test_tiny_and_flat_images(shape):
    found = local_noise(np.zeros(shape, np.float32), points([0, 60], [0, 60]), 32.0)
    assert found.shape == (2, 2) and np.isfinite(found).all()
    assert local_noise(np.zeros(shape, np.float32), Masks.empty(), 32.0).shape == (0, 2)


def test_darkness():
    image = np.zeros((100, 100), np.float32)
    cv2.circle(image, (30, 50), 12, -3.0, -1)
    found = darkness(image, points([30, 80], [50, 50]), 24.0)
    assert found[0] > 2 and found[1] == pytest.approx(0, abs=0.01)
