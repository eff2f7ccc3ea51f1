"""Class averages of picks, against particles that are known and against noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, rotate, shift

from cryosegnet_ext.picking.averages import Averages, boxes, classify, compare, ratio_map, whitened

SIDE, DIAMETER = 24, 16.0


def blobs(*places):
    """A particle of Gaussian blobs at (x, y) from its centre."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    return sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / 8) for a, b in places).astype(np.float32)


BAR = blobs((-5, 0), (0, 0), (5, 0))
RING = blobs(*(5 * np.array([(np.cos(a), np.sin(a)) for a in np.arange(8) * np.pi / 4])))


def noise(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, SIDE, SIDE)).astype(np.float32)


def turned(view, n, strength, seed=0):
    """Boxes of a particle at random angles, in noise."""
    angles = np.random.default_rng(seed).uniform(0, 360, n)
    views = np.stack([rotate(view, a, reshape=False, order=1) for a in angles])
    return (strength * views + noise(n, seed + 1)).astype(np.float32)


def likeness(average, view):
    """Best correlation of an average with a view at any angle."""
    turns = [rotate(average, a, reshape=False, order=1).ravel() for a in range(0, 360, 10)]
    return max(np.corrcoef(one, view.ravel())[0, 1] for one in turns)


def test_turned_particles_are_aligned():
    averages = classify(turned(BAR, 200, 1.5), diameter=DIAMETER, classes=1)
    assert averages.images.shape == (1, SIDE, SIDE)
    # the mean without alignment is round
    assert likeness(averages.images[0], BAR) > 0.95 > 0.88 > likeness(turned(BAR, 200, 1.5).mean(0), BAR)


def test_two_particles_make_two_classes():
    mixed = np.concatenate((turned(BAR, 150, 2), turned(RING, 150, 2, seed=5)))
    averages = classify(mixed, diameter=DIAMETER, classes=2)
    found = [max(likeness(one, view) for one in averages.images) for view in (BAR, RING)]
    assert min(found) > 0.9
    label = compare(mixed, averages).label
    same = max((label[:150] == a).mean() + (label[150:] != a).mean() for a in (0, 1)) / 2
    assert same > 0.9


def test_other_boxes_with_the_particle_are_told_from_noise():
    averages = classify(turned(BAR, 200, 1.5), diameter=DIAMETER, classes=1)
    particles, empty = compare(turned(BAR, 100, 1.5, seed=7), averages), compare(noise(100, 9), averages)
    assert (particles.ratio > 0).mean() > 0.95 and (empty.ratio < 0).mean() > 0.95
    assert particles.z.mean() > empty.z.mean() + 3


def test_noise_alone_vouches_for_nothing():
    averages = classify(noise(200), diameter=DIAMETER, classes=2)
    other = compare(noise(200, 1), averages)
    assert other.ratio.mean() <= 0 and (other.ratio > 1).mean() < 0.05


def test_angle_and_shift_are_those_of_the_particle():
    averages = Averages(3 * BAR[None], np.ones(1), DIAMETER)
    moved = shift(rotate(BAR, 30, reshape=False, order=1), (1, -1), order=1)
    found = compare(3 * moved[None], averages)
    assert np.abs(found.shift[0] - (-1, 1)).max() <= 0.5
    assert found.angle[0] % 180 == pytest.approx(30, abs=5)


def test_boxes_unlikely_to_hold_a_particle_take_no_part():
    pictures = np.concatenate((turned(BAR, 100, 1.5), noise(100, 3)))
    odds = np.repeat([5.0, -9.0], 100)
    assert classify(pictures, diameter=DIAMETER, classes=1, odds=odds).counts.sum() == pytest.approx(100, abs=8)


def test_the_same_seed_gives_the_same_averages():
    pictures = turned(BAR, 50, 1.5)
    first, second = (classify(pictures, diameter=DIAMETER, classes=2, iterations=3) for _ in range(2))
    assert np.array_equal(first.images, second.images)


def test_whitened_noise_is_white():
    rng = np.random.default_rng(0)
    coloured = 7 * (rng.normal(size=(200, 240)) + 3 * gaussian_filter(rng.normal(size=(200, 240)), 3)) + 3
    white = whitened(coloured.astype(np.float32))
    assert white.std() == pytest.approx(1, abs=0.02)
    power = np.abs(np.fft.fft2(white)) ** 2 / white.size
    assert power[:20, 1:20].mean() == pytest.approx(1, abs=0.2)
    assert power[80:100, 80:100].mean() == pytest.approx(1, abs=0.2)


def test_phases_are_flipped_where_the_transfer_is_negative():
    image = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    transfer = -np.ones((64, 33))
    assert np.allclose(whitened(image, transfer), -whitened(image), atol=1e-5)


def test_a_box_has_its_pick_in_the_middle_and_zeros_beyond_the_image():
    image = np.arange(1, 101, dtype=np.float32).reshape(10, 10)
    cut = boxes(image, [4, 0], [6.2, 9], 4)
    assert cut.shape == (2, 4, 4) and cut[0, 2, 2] == image[6, 4] and cut[1, 2, 2] == image[9, 0]
    assert not cut[1, 3].any() and not cut[1, :, :2].any()


def test_the_map_is_positive_at_particles_whatever_their_angle_and_negative_elsewhere():
    image = np.random.default_rng(0).normal(size=(90, 120)).astype(np.float32)
    places = [(20, 25), (70, 40), (95, 70)]
    for (x, y), angle in zip(places, (0, 50, 100)):
        image[y - 12 : y + 12, x - 12 : x + 12] += 1.5 * rotate(BAR, angle, reshape=False, order=1)
    found = ratio_map(image, Averages(1.5 * BAR[None], np.ones(1), DIAMETER))
    rows, columns = np.unravel_index(np.argsort(-found, axis=None), found.shape)
    assert np.hypot(columns[0] - np.array(places)[:, 0], rows[0] - np.array(places)[:, 1]).min() <= 2
    assert min(found[y, x] for x, y in places) > 5
    far = np.hypot(*(np.mgrid[:90, :120][..., None] - np.array(places).T[::-1, None, None])).min(-1) > 22
    assert np.median(found[far]) < 0 and found[far].max() < 5


def test_the_map_and_the_boxes_agree():
    image = np.random.default_rng(1).normal(size=(60, 70)).astype(np.float32)
    averages = Averages(np.stack((BAR, RING)), np.array([3.0, 1.0]), DIAMETER)
    dense = ratio_map(image, averages, turns=36, spread=0.08)
    places = np.array([(30, 30), (40, 25), (22, 35)])
    ratio = compare(boxes(image, *places.T, SIDE), averages).ratio
    assert np.corrcoef(dense[places[:, 1], places[:, 0]], ratio)[0, 1] > 0.9
    assert dense[places[:, 1], places[:, 0]] == pytest.approx(ratio, abs=0.5)


def test_no_boxes_and_boxes_of_no_size():
    none = classify(np.zeros((0, SIDE, SIDE), np.float32), diameter=DIAMETER)
    assert none.images.shape == (0, SIDE, SIDE)
    assert not compare(noise(3), none).ratio.any() and not ratio_map(noise(1)[0], none).any()
    with pytest.raises(ValueError, match="boxes are"):
        classify(np.zeros((3, 4, 5), np.float32))
    with pytest.raises(ValueError, match="3 boxes but 2 odds"):
        classify(noise(3), odds=np.zeros(2))
