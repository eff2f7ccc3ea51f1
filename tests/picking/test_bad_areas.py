"""Areas without an image: stripes, dead lines, padding, saturation."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cryosegnet_ext.picking.denoise import bad_areas
from tests.picking.images import noise, stretched


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_not_bad(seed):
    data = noise((512, 700), seed)
    assert not bad_areas(data).any()
    assert not bad_areas(np.round(data * 3)).any()
    assert not bad_areas(np.random.default_rng(seed).poisson(0.8, (512, 700)).astype(np.float32)).any()
    for sigma in (1, 3, 6):
        smooth = cv2.GaussianBlur(data, (0, 0), sigma)
        assert bad_areas(smooth).mean() < 0.002
        assert bad_areas(stretched(smooth).astype(np.float32)).mean() < 0.002


def test_particles_and_ice_are_not_bad():
    data = noise((600, 600), 2, 500, 40)
    for x, y, r, depth in ((100, 100, 30, 60), (200, 130, 30, 90), (420, 400, 90, 250)):
        disc = np.zeros(data.shape, np.float32)
        cv2.circle(disc, (x, y), r, 1.0, -1)
        data -= cv2.GaussianBlur(disc, (0, 0), 2) * depth
    assert not bad_areas(data).any()
    quieter = np.sqrt(np.maximum(data, 0) / 500) * (data - 500) + 500  # fewer electrons under thick ice: less noise
    assert not bad_areas(quieter.astype(np.float32)).any()


@pytest.mark.parametrize("value", [0.0, 100.0, 1e4])
@pytest.mark.parametrize("eight_bit", [False, True])
def test_stripes_and_patches_without_image(value, eight_bit):
    data = noise((500, 640), mean=100, std=12)
    truth = np.zeros(data.shape, bool)
    truth[:70] = True  # a black stripe at the border
    truth[:, 400:450] = True  # and one inside
    truth[300:380, 100:200] = True  # a saturated patch
    data[truth] = value
    if eight_bit:
        data = np.clip(data, 0, 255).round()
    found = bad_areas(data)
    core = cv2.erode(truth.astype(np.uint8), np.ones((33, 33), np.uint8), borderValue=1).astype(bool)
    assert found[core].all()
    assert found[truth].mean() > 0.8
    rim = cv2.dilate(truth.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
    assert not found[~rim].any()


@pytest.mark.parametrize("width", [1, 2, 5, 20, 31])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("at", [0, 5, 333])
def test_dead_lines(width, axis, at):
    data = noise((512, 460), mean=10)
    truth = np.zeros(data.shape, bool)
    index = [slice(None), slice(None)]
    index[axis] = slice(at, at + width)
    truth[tuple(index)] = True
    data[truth] = 0
    found = bad_areas(data)
    assert found[truth].all()
    assert found.mean() < truth.mean() + 0.07


def test_a_line_that_is_nearly_dead():
    data = noise((512, 460), mean=10)
    data[:, 200] = 10 + 0.01 * data[:, 200]
    assert bad_areas(data)[:, 200].all()
    data[:, 300] *= 0.3  # a weak line is not dead
    assert not bad_areas(data)[:, 300].any()


def test_a_saturated_corner_reaches_the_edge():
    """Blocks of 16 do not divide this frame."""
    data = noise((411, 427), mean=10)
    data[330:, 350:] = 255
    found = bad_areas(data)
    assert found[336:, 352:].all()
    assert not found[:330].any() and not found[:, :350].any()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("width", [3, 16, 40])
def test_replicated_borders(axis, width):
    data = noise((400, 440), mean=10)
    index = [slice(None), slice(None)]
    index[axis] = slice(0, -width)
    padding = [(0, 0), (0, 0)]
    padding[axis] = (0, width)
    padded = np.pad(data[tuple(index)], padding, mode="edge")
    found = np.moveaxis(bad_areas(padded), axis, 0)
    assert found[-width:].all()
    assert not found[: -width - 17].any()


def test_more_padding_than_image():
    data = np.zeros((512, 512), np.float32)
    data[100:300, 120:380] = noise((200, 260), mean=10)
    found = bad_areas(data)
    assert found[:80].all() and found[320:].all() and found[:, :96].all()
    assert not found[128:272, 144:350].any()


def test_pixels_that_the_file_did_not_hold():
    data = noise((300, 300))
    valid = np.ones(data.shape, bool)
    valid[50:60, 70:90] = False
    valid[200, 200] = False
    found = bad_areas(data, valid)
    assert np.array_equal(found, ~valid)
    assert valid.sum() == 300 * 300 - 201


@pytest.mark.parametrize("shape", [(64, 64), (40, 50), (20, 300), (5, 5), (1, 9), (2, 2)])
def test_small_images(shape):
    data = noise(shape)
    found = bad_areas(data)
    assert found.shape == shape and found.dtype == bool
    if min(shape) >= 20:
        assert not found.any()
        data[:, 7] = 0
        assert bad_areas(data)[:, 7].all()


def test_a_constant_image_is_bad_or_not_but_does_not_break():
    assert bad_areas(np.full((100, 100), 3, np.float32)).shape == (100, 100)
