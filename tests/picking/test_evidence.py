"""The micrograph's own noise as evidence: surrogates, peaks, and the share of particles among them."""

import cv2
import numpy as np
import pytest

from cryosegnet_ext.picking.evidence import (
    LARGEST_PART,
    Peaks,
    height_map,
    heights_of,
    null_peaks,
    peaks_of,
    true_share,
)
from cryosegnet_ext.picking.segment import watershed


def blobs(centres, shape=(300, 340), size=6.0, highest=0.9, lowest=0.01):
    plane = np.zeros(shape, np.float32)
    for x, y in centres:
        yy, xx = np.mgrid[: shape[0], : shape[1]]
        plane = np.maximum(plane, np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * size**2)).astype(np.float32))
    return (lowest + (highest - lowest) * plane).astype(np.float32)


def peaks_at(*heights, area=1.0):
    n = len(heights)
    return Peaks(np.zeros(n, int), np.zeros(n, int), np.sort(np.array(heights, float))[::-1], area)


def test_peaks_are_where_the_map_stands_out_however_low():
    centres = [(60, 50), (150, 200), (290, 100)]
    faint = blobs(centres, highest=0.02, lowest=0.001)
    found = peaks_of(height_map(faint, 32.0), 32.0)
    best = np.c_[found.columns, found.rows][:3]
    assert sorted(map(tuple, best.tolist())) == sorted(centres)
    assert (np.diff(found.height) <= 0).all() and found.area == faint.size
    assert found.height[2] > found.height[3] + 1


def test_two_peaks_are_at_least_the_separation_apart():
    noise = np.random.default_rng(0).random((200, 200)).astype(np.float32)
    found = peaks_of(height_map(noise, 32.0), 32.0)
    points = np.c_[found.columns, found.rows]
    distance = np.abs(points[:, None] - points).max(-1) + 999 * np.eye(len(points))
    assert len(points) > 20 and distance.min() > 0.4 * 32 / np.sqrt(2) - 1


def test_a_mask_has_the_height_of_its_own_peak():
    probability = blobs([(60, 50), (200, 200)])
    relief = height_map(probability, 32.0)
    masks = watershed(probability, diameter_px=32.0)
    heights = heights_of(relief, masks, 32.0)
    assert heights == pytest.approx(relief[[50, 200], [60, 200]], abs=0.05)


def test_as_many_peaks_in_the_surrogates_mean_noise():
    found = peaks_at(*np.linspace(-4, 1, 100))
    null = peaks_at(*np.linspace(-4, 1, 100))
    assert true_share(np.array([-2.0, 0.0, 1.0]), found, null).max() < 0.1


def test_far_fewer_peaks_in_the_surrogates_mean_particles_however_low():
    found = peaks_at(*np.linspace(-4, 0, 100))
    null = peaks_at(*np.linspace(-4, -3, 20))
    share = true_share(np.array([-3.5, -1.0, 0.0]), found, null)
    assert share[1] > 0.8 and share[2] > 0.8 and share[0] < 0.5


def test_the_counts_are_compared_on_equal_areas():
    found = peaks_at(*np.linspace(-3, 0, 100), area=4.0)
    quarter = peaks_at(*np.linspace(-3, 0, 25), area=1.0)
    assert true_share(np.array([-1.0]), found, quarter)[0] < 0.1


def test_a_single_peak_proves_nothing_unless_it_is_beyond_doubt():
    null = peaks_at()
    low, high = (true_share(np.array([h]), peaks_at(h), null)[0] for h in (0.0, 6.0))
    assert low < 0.4 and high > 0.9


def test_higher_peaks_never_have_a_lower_share():
    rng = np.random.default_rng(3)
    found, null = peaks_at(*rng.normal(-1, 2, 200)), peaks_at(*rng.normal(-2, 1, 150))
    share = true_share(np.linspace(-10, 10, 60), found, null)
    assert (np.diff(share) >= 0).all() and share.min() >= 0 and share.max() <= 1


def test_the_surrogate_is_the_inverted_middle_of_the_image():
    rng = np.random.default_rng(5)
    image = cv2.GaussianBlur(rng.standard_normal((LARGEST_PART + 90, 200)).astype(np.float32), (0, 0), 2)
    seen = []

    def network(part):
        seen.append(part)
        return np.clip(0.5 - part, 0.01, 0.99)

    found = null_peaks(image, network, 32.0)
    assert len(seen) == 1 and np.array_equal(seen[0], -image[45 : 45 + LARGEST_PART])
    assert found.area == LARGEST_PART * 200 and len(found.height) > 10
