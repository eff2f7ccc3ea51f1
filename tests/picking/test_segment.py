"""Masks from synthetic probability maps, where the right answer is known."""

from __future__ import annotations

import heapq
import time

import cv2
import numpy as np
import pytest

from cryosegnet_ext.picking.masks import Masks
from cryosegnet_ext.picking.segment import (
    _flood,
    _peaks_of,
    find_peaks,
    smoothed,
    watershed,
)
from tests.picking.maps import (
    discs,
    lattice,
    nearest,
)


def test_separated_discs_are_measured():
    centres = [(40, 30), (100, 35), (60, 90), (130, 110)]
    masks = watershed(discs((150, 170), centres, 28), diameter_px=40)
    assert len(masks) == 4
    assert max(nearest(masks, centres)) < 0.6
    assert masks.area == pytest.approx(np.pi * 14**2, rel=0.08)
    assert masks.box[:, 2:] == pytest.approx(28, abs=2)
    assert masks.score == pytest.approx(masks.probability)
    assert (masks.probability > 0.9).all()


@pytest.mark.parametrize("diameter", [9, 20, 40, 80])
def test_touching_discs_are_kept_apart(diameter):
    gap = 0.75 * diameter
    centres = [(60 + gap * np.cos(a), 60 + gap * np.sin(a)) for a in np.arange(6) * np.pi / 3] + [(60, 60)]
    centres = [(x * 1.0 + diameter, y + diameter) for x, y in centres]
    n = int(120 + 2 * diameter)
    masks = watershed(discs((n, n), centres, 0.7 * diameter, blur=0.04 * diameter), diameter_px=diameter)
    assert len(masks) == 7
    assert max(nearest(masks, centres)) < 0.05 * diameter + 0.5


def test_overlapping_blobs_are_cut_at_the_valley():
    y, x = np.mgrid[:80, :120]
    left = np.exp(-((x - 45) ** 2 + (y - 40) ** 2) / (2 * 9**2))
    right = 0.9 * np.exp(-((x - 72) ** 2 + (y - 40) ** 2) / (2 * 9**2))
    plane = np.maximum(left, right).astype(np.float32)
    masks = watershed(plane, diameter_px=36, level=0.2)
    assert len(masks) == 2
    assert masks.x[0] < 58 < masks.x[1]
    last_left, first_right = masks.box[0, 0] + masks.box[0, 2], masks.box[1, 0]
    assert first_right == pytest.approx(last_left + 1, abs=2)


def test_noise_makes_no_particles_and_loses_none():
    rng = np.random.default_rng(3)
    centres = lattice(rng, 400, 50, 6)
    clean = discs((400, 400), centres, 25)
    noisy = np.clip(0.85 * clean + rng.normal(0.04, 0.08, clean.shape), 0, 1).astype(np.float32)
    masks = watershed(noisy, diameter_px=36)
    assert len(masks) == len(centres)
    assert max(nearest(masks, centres)) < 2
    assert len(watershed(np.clip(rng.normal(0.02, 0.03, (400, 400)), 0, 1), diameter_px=36)) == 0


@pytest.mark.parametrize("angle", [0, 30, 90, 135])
@pytest.mark.parametrize("blur", [0, 2])
def test_an_ellipse_has_one_seed(angle, blur):
    plane = np.zeros((120, 120), np.float32)
    cv2.ellipse(plane, (60, 60), (22, 11), angle, 0, 360, 1.0, -1)
    if blur:
        plane = cv2.GaussianBlur(plane, (0, 0), blur)
    masks = watershed(plane, diameter_px=36)
    assert len(masks) == 1
    assert (masks.x[0], masks.y[0]) == pytest.approx((60, 60), abs=1)


def test_a_faint_particle_keeps_a_mask():
    plane = discs((100, 160), [(50, 50)], 26) + discs((100, 160), [(110, 50)], 26, value=0.3)
    masks = watershed(plane, diameter_px=36)
    assert len(masks) == 2
    assert masks.area[1] == pytest.approx(masks.area[0], rel=0.1)
    assert masks.score[1] < 0.35
    assert len(find_peaks(plane, diameter_px=36, floor=0.4)[0]) == 1


def test_maps_without_particles():
    for plane in (np.zeros((50, 60)), np.full((50, 60), 0.05), np.full((50, 60), np.nan), np.zeros((1, 1))):
        masks = watershed(plane.astype(np.float32), diameter_px=12)
        assert len(masks) == 0
        assert masks.box.shape == (0, 4)
    lone = np.zeros((40, 40), np.float32)
    lone[20, 20] = 1
    assert len(watershed(lone, diameter_px=30)) == 0


def test_a_saturated_map_is_one_mask_that_touches_the_edge():
    masks = watershed(np.ones((50, 61), np.float32), diameter_px=40)
    assert len(masks) == 1
    assert masks.box[0].tolist() == [0, 0, 60, 49]
    assert masks.area[0] == 50 * 61
    assert (masks.x[0], masks.y[0]) == pytest.approx((30, 24.5))


def test_a_single_pixel_is_measured_as_a_disc():
    lone = np.zeros((15, 15), np.float32)
    lone[7, 4] = 1
    masks = watershed(lone, diameter_px=3)
    assert (masks.x[0], masks.y[0], masks.area[0]) == (4, 7, 1)
    assert masks.box[0].tolist() == [4, 7, 0, 0]


def test_discs_cut_by_the_border():
    centres = [(2, 40), (117, 60), (60, 1), (60, 98), (60, 50)]
    masks = watershed(discs((100, 120), centres, 26), diameter_px=36)
    assert len(masks) == 5
    inside = np.hypot(masks.x - 60, masks.y - 50) < 2
    x, y, w, h = masks.box.T
    at_border = (x == 0) | (y == 0) | (x + w == 119) | (y + h == 99)
    assert at_border.tolist() == (~inside).tolist()


def test_the_flood_is_the_plain_watershed():
    """The spanning forest against a flood that takes pixels one by one, highest first."""
    rng = np.random.default_rng(5)
    plane = np.clip(discs((90, 110), lattice(rng, 90, 22, 4), 15, blur=2) + rng.normal(0, 0.05, (90, 110)), 0, 1)
    smooth = smoothed(plane.astype(np.float32), 20)
    rows, columns, values = _peaks_of(smooth, 20, 0.1)
    levels = np.minimum(0.5, 0.5 * values)
    y, x, instance = _flood(smooth, rows, columns, levels, 20)
    fast = np.full(smooth.shape, -1)
    fast[y, x] = instance

    owner = np.full(smooth.shape, -1)
    bottleneck = np.zeros(smooth.shape)
    queue = [(-float(smooth[r, c]), r, c, i, float(smooth[r, c])) for i, (r, c) in enumerate(zip(rows, columns))]
    heapq.heapify(queue)
    while queue:
        _, r, c, i, lowest = heapq.heappop(queue)
        if owner[r, c] >= 0:
            continue
        owner[r, c], bottleneck[r, c] = i, lowest
        for v, u in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
            if 0 <= v < 90 and 0 <= u < 110 and owner[v, u] < 0:
                low = min(lowest, float(smooth[v, u]))
                heapq.heappush(queue, (-low, v, u, i, low))
    slow = np.where(bottleneck >= levels[owner], owner, -1)
    assert len(rows) > 8
    assert (fast == slow).mean() > 0.999


def test_peaks_are_ordered_and_apart():
    rng = np.random.default_rng(8)
    plane = cv2.GaussianBlur(rng.random((200, 200), np.float32), (0, 0), 4)
    plane = (plane - plane.min()) / np.ptp(plane)
    rows, columns, values = find_peaks(plane, diameter_px=30)
    assert (np.diff(values) <= 0).all()
    distance = np.hypot(*(np.subtract.outer(v, v) for v in (rows, columns)))
    assert distance[~np.eye(len(rows), dtype=bool)].min() >= 0.4 * 30


def test_the_map_is_not_changed_and_the_order_does_not_depend_on_it():
    plane = discs((100, 100), [(30, 30), (70, 70)], 26)
    plane[0, 0] = np.nan
    before = plane.copy()
    a, b = watershed(plane, diameter_px=36), watershed(np.asfortranarray(plane).astype(np.float64), diameter_px=36)
    assert np.array_equal(plane, before, equal_nan=True)
    assert np.array_equal(a.x, b.x)
    assert len(a.take([1])) == 1
    assert a.take(a.x > 50).x[0] == pytest.approx(70, abs=0.1)


def test_bad_arguments():
    with pytest.raises(ValueError, match="plane"):
        watershed(np.zeros((3, 4, 5), np.float32), diameter_px=3)
    with pytest.raises(ValueError, match="diameter"):
        watershed(np.zeros((3, 4), np.float32), diameter_px=0)
    assert len(Masks.empty()) == 0


def test_a_whole_micrograph_is_fast():
    rng = np.random.default_rng(0)
    centres = lattice(rng, 1300, 48, 6)
    plane = np.zeros((1300, 1300), np.float32)
    for x, y in centres:
        cv2.circle(plane, (x, y), 14, 1.0, -1)
    plane = np.clip(cv2.GaussianBlur(plane, (0, 0), 3) + rng.normal(0, 0.03, plane.shape), 0, 1).astype(np.float32)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        masks = watershed(plane, diameter_px=38)
        seconds.append(time.process_time() - start)
    assert len(masks) == len(centres) > 600
    assert min(seconds) < 2  # about 0.35 s on one core
