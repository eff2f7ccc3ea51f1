"""Centres out of masks."""

from __future__ import annotations

import cv2
import mrcfile
import numpy as np
import pytest

from cryosegnet_ext import CryoSegNetError
from cryosegnet_ext.evaluation import agreement
from cryosegnet_ext.files.masks import centres_of_mask, read_mask


def painted(points, radius, shape=(500, 620)):
    mask = np.zeros(shape, np.uint8)
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    for x, y in points:
        mask[(xx - x) ** 2 + (yy - y) ** 2 <= radius**2] = 255
    return mask


def spread(count, apart, seed=0, shape=(500, 620), border=2):
    rng = np.random.default_rng(seed)
    kept = []
    for x, y in zip(
        rng.uniform(border, shape[1] - border, 40 * count), rng.uniform(border, shape[0] - border, 40 * count)
    ):
        if len(kept) < count and all(np.hypot(x - a, y - b) > apart for a, b in kept):
            kept.append((x, y))
    return np.array(kept)


@pytest.mark.parametrize("radius", [4.4, 9.0, 20.0])
def test_discs_that_overlap_are_parted(radius):
    points = spread(120, 1.3 * radius, border=radius)
    x, y, diameter = centres_of_mask(painted(points, radius))
    found = agreement(np.c_[x, y], points, 0.25 * 2 * radius)
    assert diameter == pytest.approx(2 * radius, rel=0.06)
    assert found.precision > 0.94 and found.recall > 0.94
    assert np.median(found.offsets) < 0.5


def test_discs_cut_by_the_border_are_found():
    x, y, _ = centres_of_mask(painted([(3, 100), (300, 496), (200, 200)], 15))
    found = agreement(np.c_[x, y], np.array([(3.0, 100), (300, 496), (200, 200)]), 4)
    assert found.right == found.picks == 3


def test_a_mask_that_went_through_jpeg():
    points = spread(40, 60)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", painted(points, 14))[1], cv2.IMREAD_GRAYSCALE)
    x, y, _ = centres_of_mask(jpeg)
    assert agreement(np.c_[x, y], points, 3).f1 > 0.97


def test_instance_masks_tell_touching_shapes_apart():
    mask = np.zeros((100, 100), np.uint16)
    mask[10:30, 10:30], mask[10:30, 30:50], mask[60:80, 60:90] = 1, 2, 300
    x, y, diameter = centres_of_mask(mask)
    assert sorted(zip(x.tolist(), y.tolist())) == [(19.5, 19.5), (39.5, 19.5), (74.5, 69.5)]
    assert diameter == pytest.approx(np.sqrt(4 * 400 / np.pi))


def test_specks_and_nothing():
    empty = np.zeros((80, 90), np.uint8)
    assert len(centres_of_mask(empty)[0]) == 0
    points = [(40, 40)]
    mask = painted(points, 12, (80, 90))
    mask[5, 70:72] = 255
    assert len(centres_of_mask(mask)[0]) == 1


def test_an_inverted_mask_is_refused():
    with pytest.raises(CryoSegNetError, match="inverted"):
        centres_of_mask(255 - painted([(50, 50), (200, 300)], 20))


@pytest.mark.parametrize("value", [1, 127, 200, 255])
@pytest.mark.parametrize("tells", [True, False])
def test_masks_in_bytes_of_mrc_files_are_unsigned(tmp_path, value, tells):
    mask = (painted([(200, 100), (400, 300)], 20) // 255) * np.uint8(value)
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(mask.view(np.int8))
        file.header.dmin, file.header.dmax, file.header.dmean = (0, value, 1) if tells else (0, -1, -2)
    found = read_mask(tmp_path / "a.mrc", certain=False)
    assert sorted(zip(found.x, found.y)) == [(200, 100), (400, 300)]
