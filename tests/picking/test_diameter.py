"""The particle diameter is estimated from the scale at which a network finds most, for any camera."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import pytest

from cryosegnet_ext import Micrograph
from cryosegnet_ext.picking.diameter import (
    STEP,
    Votes,
    consensus_diameter,
    diameter_votes,
    disc_diameter,
    other_diameter,
)
from cryosegnet_ext.picking.on_device import OnCpu

WORKING, SHARE = 32.0, 0.7


def blob_network(image, calls=None):
    """Finds dark blobs of 18 to 55 px and no others, and paints discs of 0.7 of their size."""
    if calls is not None:
        calls.append(image.shape)
    smooth = cv2.GaussianBlur(image, (0, 0), 1.5)
    # an image without particles has no blob far below its noise
    if np.percentile(smooth, 1) > -1.2:
        return np.zeros(image.shape, np.float32)
    dark = (smooth < 0.5 * np.percentile(smooth, 1)).astype(np.uint8)
    count, _, stats, middles = cv2.connectedComponentsWithStats(dark)
    plane = np.zeros(image.shape, np.float32)
    yy, xx = np.mgrid[: image.shape[0], : image.shape[1]]
    for i in range(1, count):
        x0, y0, w, h, area = stats[i]
        d = np.sqrt(4 * area / np.pi)
        touches = x0 == 0 or y0 == 0 or x0 + w == image.shape[1] or y0 + h == image.shape[0]
        if 18 <= d <= 55 and not touches and 0.7 < w / h < 1.4:
            x, y = middles[i]
            near = np.s_[max(int(y - d), 0) : int(y + d) + 1, max(int(x - d), 0) : int(x + d) + 1]
            r = np.hypot(xx[near] - x, yy[near] - y)
            plane[near] = np.maximum(plane[near], np.clip(SHARE * d / 2 - r + 0.5, 0, 1) * 0.95)
    return plane


def particles(diameter, shape=(700, 800), seed=0):
    """Dark discs of one size in noise, on a jittered lattice."""
    rng = np.random.default_rng(seed)
    data = rng.normal(300, 30, shape).astype(np.float32)
    depth = np.zeros(shape, np.float32)
    at = [np.arange(diameter, side - diameter, 1.7 * diameter) for side in shape]
    for y in at[0]:
        for x in at[1]:
            jx, jy = rng.uniform(-0.25, 0.25, 2) * diameter
            cv2.circle(depth, (round((x + jx) * 16), round((y + jy) * 16)), round(diameter * 8), 60.0, -1, shift=4)
    return data - cv2.GaussianBlur(depth, (0, 0), max(0.03 * diameter, 0.5))


def votes(data, low=None, high=None, network=blob_network):
    view = OnCpu(Micrograph(data, None, "test"), network)
    return diameter_votes(view.working_image_and_map, data.shape, low, high, WORKING, SHARE)


@cache
def seen(diameter, seed=0):
    return votes(particles(diameter, seed=seed))


@pytest.mark.parametrize("diameter", [16, 26, 43, 66, 100])
def test_the_diameter_is_found(diameter):
    found = consensus_diameter([seen(diameter)])
    assert found == pytest.approx(diameter, rel=0.15)


@pytest.mark.parametrize("shape", [(300, 900), (800, 400), (512, 512)])
def test_frames_of_any_shape(shape):
    assert consensus_diameter([votes(particles(40, shape))]) == pytest.approx(40, rel=0.15)


@pytest.mark.parametrize("pixel_size", [0.66, 1.0, 3.7])
def test_the_unit_is_that_of_the_votes(pixel_size):
    found = consensus_diameter([seen(43).scaled(pixel_size)])
    assert found == pytest.approx(43 * pixel_size, rel=0.15)
    assert consensus_diameter([seen(43).scaled(pixel_size / 2).scaled(2)]) == pytest.approx(found)


def test_micrographs_of_several_pixel_sizes_agree():
    """180 A at three magnifications."""
    sizes = (2.0, 3.1, 4.4)
    all_votes = [seen(180 / p, seed=i).scaled(p) for i, p in enumerate(sizes)]
    found = consensus_diameter(all_votes)
    assert found == pytest.approx(180, rel=0.15)
    assert consensus_diameter(all_votes[::-1]) == pytest.approx(found, rel=0.05)


def test_the_majority_decides():
    assert consensus_diameter([seen(43), seen(43), seen(43), seen(100)]) == pytest.approx(43, rel=0.2)


def test_an_empty_micrograph_does_not_spoil_the_others():
    noise = np.random.default_rng(5).normal(0, 1, (500, 500)).astype(np.float32)
    assert consensus_diameter([votes(noise), seen(66), votes(noise)]) == pytest.approx(66, rel=0.15)


def test_nothing_seen_is_no_diameter():
    noise = np.random.default_rng(5).normal(0, 1, (500, 600)).astype(np.float32)
    assert consensus_diameter([votes(noise, low=20)]) is None
    assert consensus_diameter([votes(np.full((300, 300), 7, np.float32))]) is None
    assert consensus_diameter([]) is None
    assert consensus_diameter([votes(particles(40), network=lambda image: np.zeros_like(image))]) is None


def test_two_particles_are_too_few():
    data = np.random.default_rng(0).normal(300, 30, (700, 700)).astype(np.float32)
    cv2.circle(data, (200, 200), 25, 180.0, -1)
    assert consensus_diameter([votes(data)]) is None


@pytest.mark.parametrize(
    ("low", "high"), [(30, 60), (None, 60), (30, None), (44, 46), (100, 110), (None, 20), (400, 500)]
)
def test_only_sizes_within_the_limits_are_tried(low, high):
    found = votes(particles(45), low, high)
    tried = STEP ** found.rung.astype(float)
    assert len(tried) >= 1
    # the ladder's rungs around each limit belong to it
    assert low is None or tried.min() >= low / STEP * 0.999
    assert high is None or tried.max() <= high * STEP * 1.001
    if (low or 0) < 45 < (high or 1e9):
        assert consensus_diameter([found]) == pytest.approx(45, rel=0.15)


def test_a_scale_at_which_neighbours_merge_is_too_large():
    """Masks that are too large at every scale point to a scale with fewer particles."""
    rung = np.arange(16, 22)
    size = np.array([1.6, 1.45, 1.45, 1.12, 0.95, 0.95])
    response = np.array([0.05, 0.31, 0.31, 0.32, 0.30, 0.2])
    third = np.full(6, 0.95)
    fewer = np.array([30.0, 140, 137, 135, 100, 34])
    found = consensus_diameter([Votes(rung, response, fewer, size, third)])
    assert found == pytest.approx(STEP**19)
    # if as many are found, the size of the masks alone decides
    same = np.array([30.0, 140, 140, 140, 140, 34])
    assert consensus_diameter([Votes(rung, response, same, size, third)]) == pytest.approx(STEP**20, rel=0.01)


def test_the_same_micrographs_give_the_same_answer():
    data = particles(43)
    before = data.copy()
    assert consensus_diameter([votes(data)]) == consensus_diameter([seen(43)])
    assert np.array_equal(data, before)


def test_bad_areas_are_not_looked_at():
    data = particles(45)
    data[:, 450:] = 0
    bad = np.zeros(data.shape, bool)
    bad[:, 450:] = True
    assert np.array_equal(OnCpu(Micrograph(data, None, "test"), blob_network).bad, bad)
    assert consensus_diameter([votes(data)]) == pytest.approx(45, rel=0.15)


def test_a_large_micrograph_is_seen_in_part():
    """A rung costs the same for micrographs of any size."""
    calls: list[tuple[int, int]] = []
    data = np.random.default_rng(0).normal(size=(3000, 4100)).astype(np.float32)
    votes(data, 30, 60, lambda image: blob_network(image, calls))
    assert calls and max(max(shape) for shape in calls) <= 1026


@pytest.mark.parametrize("unit", [1.0, 1.06, 0.885, 3.3])
@pytest.mark.parametrize("first", [5, 9])
def test_the_ends_of_the_ladder_count(unit, first):
    """Particles found on the first or last rung only are not lost by rounding."""
    rung = np.arange(first, first + 6)
    for at in (0, 5):
        response = np.zeros(6)
        response[at] = 0.3
        size = np.full(6, np.nan)
        size[at] = 1.0
        single = Votes(rung, response, response * 100, size, np.ones(6)).scaled(unit)
        assert consensus_diameter([single, single]) == pytest.approx(STEP ** rung[at] * unit, rel=0.15)


@pytest.mark.parametrize("diameter", [16, 34, 90])
def test_the_discs_of_a_map_tell_their_size(diameter):
    """Also where pairs of them touch, between crumbs, and at the frame's border."""
    plane = np.zeros((1024, 1024), np.float32)
    rng = np.random.default_rng(3)
    for y in np.arange(0, 1024, 2.6 * diameter):
        for x in np.arange(0, 1024, 3.2 * diameter):
            for shift in (0, 0.96 * diameter) if rng.random() < 0.5 else (0,):
                cv2.circle(plane, (round((x + shift) * 16), round(y * 16)), round(diameter * 8), 0.9, -1, shift=4)
    for x, y in rng.integers(10, 1010, (40, 2)).tolist():
        cv2.circle(plane, (x, y), 3, 0.9, -1)
    assert disc_diameter(plane) == pytest.approx(diameter, rel=0.1)


def test_a_map_of_few_discs_tells_no_size():
    plane = np.zeros((300, 300), np.float32)
    assert disc_diameter(plane) is None
    for x in (50, 120, 200):
        cv2.circle(plane, (x, 100), 20, 1.0, -1)
    assert disc_diameter(plane) is None
    assert disc_diameter(np.ones((300, 300), np.float32)) is None


@pytest.mark.parametrize("diameter", [16, 26, 43, 66, 100])
def test_particles_of_one_size_have_no_second_one(diameter):
    assert other_diameter([seen(diameter)], consensus_diameter([seen(diameter)])) is None


@pytest.mark.parametrize("unit", [1.0, 2.5])
def test_a_second_size_is_seen(unit):
    both = [seen(26).scaled(unit), seen(26, seed=1).scaled(unit), seen(100).scaled(unit)]
    found = consensus_diameter(both)
    assert found == pytest.approx(26 * unit, rel=0.2)
    assert other_diameter(both, found) == pytest.approx(100 * unit, rel=0.25)


def test_votes_without_what_fits_tell_of_no_second_size():
    bare = [replace(v, fitting=np.zeros((0, 2))) for v in (seen(26), seen(100))]
    assert other_diameter(bare, 26.0) is None and other_diameter([], 26.0) is None
