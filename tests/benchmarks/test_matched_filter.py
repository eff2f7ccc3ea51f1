"""The matched filter finds what it is told to look for, in pixels of the micrograph."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cryosegnet_ext.simulation.micrograph import ProjectionStack
from cryosegnet_ext.simulation.optics import Optics, contrast_transfer

PIXEL_SIZE, DIAMETER = 2.0, 96.0
CENTRES = np.array([[70.5, 80.5], [200.5, 60.5], [150.5, 190.5]])


@pytest.fixture
def stack() -> ProjectionStack:
    """A dumb-bell along x, which no blob describes."""
    y, x = np.mgrid[:24, :24] - 11.5
    bells = np.exp(-((np.abs(x) - 7) ** 2 + y**2) / 4)
    return ProjectionStack("dumb-bell", bells[None].astype(np.float32), 2 * PIXEL_SIZE, DIAMETER)


def scene_of(stack: ProjectionStack, strength: float, turned: bool = False):
    from benchmarks.accuracy import matched_filter

    rng = np.random.default_rng(3)
    optics = Optics(defocus_u=15000, defocus_v=15000)
    view = cv2.resize(stack.images[0], (48, 48))
    view = view.T if turned else view
    signal = np.zeros((260, 260), np.float32)
    for x, y in (CENTRES - 23.5).astype(int):
        signal[y : y + 48, x : x + 48] += view
    signal = np.fft.irfft2(np.fft.rfft2(signal) * contrast_transfer(optics, signal.shape, PIXEL_SIZE), s=signal.shape)
    noise = rng.standard_normal(signal.shape, np.float32)
    image = (strength * signal / signal.std() + noise + np.linspace(-1, 1, 260)[None, :]).astype(np.float32)
    spectrum = matched_filter.spectrum_of([rng.standard_normal(signal.shape, np.float32) for _ in range(4)])
    return matched_filter.Scene(image, PIXEL_SIZE, optics, spectrum)


def test_particles_are_found_where_they_are_and_far_above_the_noise(stack: ProjectionStack) -> None:
    from benchmarks.accuracy import matched_filter

    found = matched_filter.find(scene_of(stack, 0.5), stack.images, stack.voxel_size, DIAMETER)
    best = np.c_[found.x, found.y][:3]
    nearest = np.hypot(*(best[:, None] - CENTRES[None]).transpose(2, 0, 1))
    assert sorted(nearest.argmin(1)) == [0, 1, 2]
    assert nearest.min(1).max() < 2.5
    assert found.score[2] > 1.5 * found.score[3]


def test_scores_are_in_standard_deviations_of_the_noise(stack: ProjectionStack) -> None:
    from benchmarks.accuracy import matched_filter

    found = matched_filter.find(scene_of(stack, 0.0), stack.images, stack.voxel_size, DIAMETER)
    assert 2.0 < found.score[0] < 4.5


def test_the_turned_view_sees_more_than_the_mean_blob(stack: ProjectionStack) -> None:
    from benchmarks.accuracy import matched_filter

    scene = scene_of(stack, 0.5, turned=True)

    def best(views: np.ndarray) -> float:
        return float(matched_filter.find(scene, views, stack.voxel_size, DIAMETER).score[2])

    turned = matched_filter.turned(stack, 90.0)
    assert turned.shape == (4, 24, 24)
    blob = matched_filter.blob(stack)
    assert blob.shape == (1, 24, 24)
    assert best(turned) > 1.2 * max(best(blob), best(stack.images))


def test_the_better_of_two_near_peaks_stays() -> None:
    from benchmarks.accuracy import matched_filter

    image = np.zeros((40, 60))
    image[10, 10], image[10, 16], image[10, 30] = 2.0, 3.0, 1.0
    y, x = matched_filter.peaks(image, 8.0)
    assert (y.tolist(), x.tolist()) == ([10, 10], [16, 30])
