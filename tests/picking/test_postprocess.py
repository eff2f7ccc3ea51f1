"""Masks to picks: each promise of the default rule, and the published rule against a literal version."""

from __future__ import annotations

from statistics import mode

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from scipy.spatial.distance import pdist

from cryosegnet_ext.picking import postprocess
from cryosegnet_ext.picking.masks import Masks
from cryosegnet_ext.picking.postprocess import MapGeometry, published_rule, robust_diameter
from cryosegnet_ext.picking.scoring import Calibration, MaskFeatures, likely_share, texture

FLAT = Calibration()


def default_rule(*args, **kwargs):
    """The picks of the rule."""
    return postprocess.default_rule(*args, **kwargs)[0]


def discs(x, y, diameter=20.0, probability=0.9, iou=0.97):
    """Masks of discs on the map."""
    x, y, diameter, probability, iou = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(v, float)) for v in (x, y, diameter, probability, iou))
    )
    box = np.column_stack((x - diameter / 2, y - diameter / 2, diameter, diameter))
    return Masks(x, y, np.pi / 4 * diameter**2, box, iou, probability)


def random_masks(rng, n, shape):
    ny, nx = shape
    return discs(
        rng.uniform(0, nx - 1, n), rng.uniform(0, ny - 1, n), rng.uniform(8, 45, n), rng.uniform(0, 1, n).round(2)
    )


WHOLE = MapGeometry((400, 500), 1.0, 1.0)


@pytest.mark.parametrize("scale", [0.25, 1.0, 1.6])
@pytest.mark.parametrize(("pixel_size", "diameter"), [(None, 40), (2.5, 100)])
def test_positions_and_sizes_are_those_of_the_micrograph(scale, pixel_size, diameter):
    geometry = MapGeometry((400, 500), scale, scale, pixel_size)
    x, y = np.array([100.0, 250.0, 440.2]), np.array([90.0, 300.5, 60.0])
    masks = discs((x + 0.5) * scale - 0.5, (y + 0.5) * scale - 0.5, 0.7 * 40 * scale, [0.9, 0.8, 0.7])
    picks = default_rule(masks, geometry, 40.0, FLAT, label_share=0.7)
    assert picks.x == pytest.approx(x)
    assert picks.y == pytest.approx(y)
    assert picks.diameter_px == pytest.approx(40)
    assert picks.diameter == pytest.approx(diameter)
    assert (picks.pixel_size, picks.shape) == (pixel_size, (400, 500))


def test_a_map_whose_sides_are_scaled_differently():
    geometry = MapGeometry((400, 1000), 0.5, 0.25)
    picks = default_rule(discs(125.0, 100.0, 10), geometry, 28.0, FLAT)
    assert (picks.x[0], picks.y[0]) == pytest.approx((501.5, 200.5))
    assert picks.diameter_px[0] == pytest.approx(10 / np.sqrt(0.5 * 0.25))


def test_smeared_edges_are_not_part_of_the_frame():
    bad = np.zeros((400, 300), bool)
    bad[5:40] = True  # the rows before it are lost with it
    bad[:, 290:] = True
    bad[:, 60:63] = True  # dead columns inside the micrograph are none of its edge
    masks = discs([150, 150, 279, 280, 20], [49, 50, 200, 260, 200])
    picks = default_rule(masks, MapGeometry((400, 300), 1.0, 1.0, None, bad), 20.0, FLAT)
    assert sorted(zip(picks.x, picks.y)) == [(20, 200), (150, 50), (279, 200)]


def test_sizes_far_from_the_expected_one_go():
    sizes = np.array([9.9, 10.1, 20, 34.9, 35.1])
    picks = default_rule(discs(60.0 * np.arange(1, 6), 200, sizes), WHOLE, 20.0, FLAT)
    assert sorted(picks.diameter) == pytest.approx([10.1, 20, 34.9])
    picks = default_rule(discs(60.0 * np.arange(1, 6), 200, sizes), WHOLE, 20.0, FLAT, size_range=(0.9, 1.1))
    assert picks.diameter == pytest.approx([20])
    bounded = default_rule(
        discs(60.0 * np.arange(1, 6), 200, sizes), WHOLE, 20.0, FLAT, min_diameter_px=10.5, max_diameter_px=30
    )
    assert bounded.diameter == pytest.approx([20])


def test_particles_cut_by_the_border_go():
    """A pick's circle of the expected size lies within the frame; the frame ends half a pixel outside pixel centres."""
    x = [9.5, 9.4, 489.5, 489.6, 250, 250, 250, 250]
    y = [200, 100, 200, 100, 9.5, 9.4, 389.5, 389.6]
    picks = default_rule(discs(x, y), WHOLE, 20.0, FLAT, separation=0)
    assert sorted(zip(picks.x, picks.y)) == [(9.5, 200), (250, 9.5), (250, 389.5), (489.5, 200)]
    assert len(default_rule(discs(x, y), WHOLE, 20.0, FLAT, margin=0, separation=0)) == 8


@pytest.mark.parametrize("shape", [(400, 500), (2500, 300), (64, 2400)])
def test_nothing_on_bad_areas(shape):
    bad = np.zeros(shape, bool)
    bad[:, 100:130] = True
    bad[shape[0] // 2, 200] = True
    rng = np.random.default_rng(0)
    masks = random_masks(rng, 3000, shape)
    picks = default_rule(masks, MapGeometry(shape, 1.0, 1.0, None, bad), 20.0, FLAT)
    free = default_rule(masks, MapGeometry(shape, 1.0, 1.0, None, np.zeros(shape, bool)), 20.0, FLAT)
    distance = distance_transform_edt(~bad)[picks.y.round().astype(int), picks.x.round().astype(int)]
    assert distance.min() > 20 / 4 - 2
    assert 0 < len(picks) < len(free)
    far = (free.x < 90) | ((free.x > 140) & (np.hypot(free.x - 200, free.y - shape[0] // 2) > 20))
    kept = set(zip(picks.x, picks.y))
    missing = [p for p in zip(free.x[far], free.y[far]) if p not in kept]
    assert len(missing) <= 0.02 * far.sum()  # those that lost to a pick which now stands
    assert len(default_rule(masks, MapGeometry(shape, 1.0, 1.0, None, np.ones(shape, bool)), 20.0, FLAT)) == 0


@pytest.mark.parametrize("seed", range(8))
def test_no_two_picks_are_closer_than_half_a_diameter(seed):
    rng = np.random.default_rng(seed)
    masks = random_masks(rng, int(rng.integers(2, 1500)), (400, 500))
    if seed % 2:  # exact ties in place and in score
        masks = masks.take(rng.integers(0, len(masks), 2 * len(masks)))
    picks = default_rule(masks, WHOLE, 20.0, FLAT)
    assert len(picks) == 1 or pdist(np.c_[picks.x, picks.y]).min() >= 10.0
    assert (np.diff(picks.score) <= 0).all()
    # and each pick that is left out has a better one nearby or another reason
    candidates = default_rule(masks, WHOLE, 20.0, FLAT, separation=0)
    for x, y, score in zip(candidates.x, candidates.y, candidates.score):
        near = np.hypot(picks.x - x, picks.y - y) < 10.0
        assert near.any() and picks.score[near].max() >= score


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_the_masks_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    masks = random_masks(rng, 400, (400, 500))
    first = default_rule(masks, WHOLE, 20.0, FLAT)
    second = default_rule(masks.take(rng.permutation(len(masks))), WHOLE, 20.0, FLAT)
    for column in ("x", "y", "diameter", "score"):
        assert np.array_equal(getattr(first, column), getattr(second, column))


def test_scores_rise_with_the_probability_and_fall_with_an_odd_size():
    calibration = Calibration(offset=0.4, probability_slope=0.8, size_slope=-2.0)
    p = np.linspace(0, 1, 101)
    scores = calibration.score(MaskFeatures(p, np.zeros(101)))
    assert (np.diff(scores) >= 0).all() and (np.diff(scores[1:-1]) > 0).all()
    assert ((scores > 0) & (scores < 1)).all()
    log_size = np.linspace(0, 1, 20)
    assert (np.diff(calibration.score(MaskFeatures(np.full(20, 0.7), log_size))) < 0).all()
    assert calibration.score(MaskFeatures(np.full(20, 0.7), log_size)) == pytest.approx(
        calibration.score(MaskFeatures(np.full(20, 0.7), -log_size))
    )
    assert calibration.score(MaskFeatures(np.array([0.5]), np.zeros(1))) == pytest.approx(1 / (1 + np.exp(-0.4)))
    assert Calibration().score(MaskFeatures(p[1:-1], np.zeros(99))) == pytest.approx(p[1:-1])


def test_the_rule_scores_by_the_size_of_the_particle_not_of_its_mask():
    calibration = Calibration(offset=0.4, probability_slope=0.8, size_slope=-2.0)
    geometry = MapGeometry((400, 500), 0.5, 0.5)
    sizes = np.array([30.0, 40, 50])
    masks = discs([50, 120, 200], 100, sizes * 0.7 * 0.5, 0.8)
    picks = default_rule(masks, geometry, 40.0, calibration, label_share=0.7)
    order = np.argsort(picks.x)
    assert picks.score[order] == pytest.approx(calibration.score(MaskFeatures(np.full(3, 0.8), np.log(sizes / 40))))


def test_picks_in_other_noise_than_the_likely_ones_lose_score():
    """Thirty particles in ice, three on carbon: these are compared with the surroundings of the others."""
    x = np.r_[np.tile(np.arange(30, 330, 30), 3), 400, 430, 460]
    y = np.r_[np.repeat([60, 120, 180], 10), 60, 60, 60]
    p = np.r_[np.full(30, 0.8), 0.8, 0.8, 0.3]
    noise = np.zeros((33, 2))
    noise[30:] = 0.9
    calibration = Calibration(texture_slope=-1.0, likely_slope=2.0)
    picks, features = postprocess.default_rule(discs(x, y, 20, p), WHOLE, 20.0, calibration, noise=noise)
    assert features.texture == pytest.approx(texture(noise, p >= 0.5)[np.r_[0:30, 30, 31, 32]])
    assert set(features.likely) == {likely_share(p >= 0.5)}
    assert np.array_equal(picks.score, calibration.score(features))
    assert (picks.x[:30] < 350).all() and (picks.score[30:32] < picks.score[29] - 0.1).all()
    # masks that the rule leaves out for other reasons are not used as references
    outside = discs(np.r_[x, np.full(50, 2)], np.r_[y, np.arange(50) * 7], 20, np.r_[p, np.full(50, 0.1)])
    again, _ = postprocess.default_rule(outside, WHOLE, 20.0, calibration, noise=np.r_[noise, np.zeros((50, 2))])
    assert np.array_equal(again.score, picks.score)


def test_no_masks_no_picks():
    for rule in (lambda m: default_rule(m, WHOLE, 20.0, FLAT), lambda m: published_rule(m, WHOLE)):
        picks = rule(Masks.empty())
        assert len(picks) == 0
        assert picks.shape == (400, 500)


def test_robust_diameter():
    sizes = np.array([30.0, 31, 29, 30, 90, 3, 30.5])
    assert robust_diameter(sizes, np.ones(7)) == 30
    assert robust_diameter(sizes[::-1], np.ones(7)) == 30
    assert robust_diameter(sizes, np.array([0, 0, 0, 0, 1.0, 0, 0])) == 90
    assert robust_diameter(np.array([10.0, 20]), np.array([1.0, 3])) == 20
    assert robust_diameter(np.array([7.0]), np.array([0.2])) == 7
    rng = np.random.default_rng(0)
    clean, junk = rng.normal(50, 2, 700), rng.uniform(5, 200, 300)
    assert robust_diameter(np.r_[clean, junk], np.ones(1000)) == pytest.approx(50, abs=1.5)


def literal_rule(boxes, ious, ny, nx):
    """The published rule, box by box."""
    kept = [box for box, iou in zip(boxes, ious) if iou > 0.94]
    if not kept:
        return []
    w0, h0 = mode(b[2] for b in kept), mode(b[3] for b in kept)
    d = np.sqrt((w0 * nx / 1024) ** 2 + (h0 * ny / 1024) ** 2)
    t = 0.2 * int(d // 2)
    good = [b for b in kept if w0 - t / 3 < b[2] < w0 + t and h0 - t / 3 < b[3] < h0 + t]
    return [((b[0] + b[2] / 2) / 1024 * nx, (b[1] + b[3] / 2) / 1024 * ny, d) for b in good]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", [(1024, 1024), (4096, 4096), (3838, 3710), (700, 2000)])
def test_the_published_rule_is_the_plain_one(seed, shape):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 300))
    w, h = (np.where(rng.random(n) < 0.7, rng.integers(36, 44, n), rng.integers(5, 200, n)) for _ in range(2))
    x0, y0 = rng.integers(0, 1023 - w), rng.integers(0, 1023 - h)
    ious = rng.uniform(0.88, 1.0, n)
    boxes = np.column_stack((x0, y0, w, h)).astype(float)
    ones = np.ones(n)
    masks = Masks(x0 + w / 2, y0 + h / 2, ones * 800, boxes, ious, ones)
    ny, nx = shape
    picks = published_rule(masks, MapGeometry(shape, 1024 / ny, 1024 / nx, 1.2))
    expected = literal_rule(boxes.tolist(), ious, ny, nx)
    assert len(picks) == len(expected)
    found = np.array(sorted(zip(picks.x, picks.y, picks.diameter_px))).reshape(-1, 3)
    assert found == pytest.approx(np.array(sorted(expected)).reshape(-1, 3))
    assert (np.diff(picks.score) <= 0).all()
    assert (picks.score > 0.94).all() and (picks.score <= 1).all()


def test_a_certain_mask_gives_one_pick_and_a_doubtful_one_none():
    geometry = MapGeometry((2048, 2048), 0.5, 0.5)
    assert len(published_rule(discs(500, 500, 40, iou=0.99999), geometry)) == 1
    assert len(published_rule(discs(500, 500, 40, iou=0.94), geometry)) == 0
    assert len(published_rule(discs(500, 500, 40, iou=0.92), geometry, keep_iou=0.9)) == 1
    picks = published_rule(discs([100, 400, 700], 500, [40, 40, 100], iou=0.95), geometry)
    assert sorted(picks.x) == [200, 800]
