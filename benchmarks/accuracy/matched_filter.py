"""What a picker could find that knows the particle: matched filters with the true views, CTF and noise.

No program has this knowledge before the structure is solved. The filters are the limit that `contrast.py` puts beside
the pickers: the view whose correlation with the whitened micrograph is highest, at the scale at which the particle
spans WORKING_DIAMETER pixels. ``blob`` knows only how wide and how dark the particle is, ``turned`` every view.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import fft, ndimage

from cryosegnet_ext import Picks
from cryosegnet_ext.simulation.micrograph import ProjectionStack
from cryosegnet_ext.simulation.optics import Optics, contrast_transfer

WORKING_DIAMETER = 32.0
APART = 0.75
"""Picks are at least this share of a diameter apart; of nearer ones the better stays."""

_BINS = 400


@dataclass(frozen=True)
class Scene:
    """A micrograph (ny, nx) with angstrom per pixel, its imaging, and the power of its noise by frequency.

    ``spectrum`` (k,): mean power at k frequencies, evenly spaced from 0 to half a cycle per pixel of the micrograph,
    for noise of the micrograph's own standard deviation; see `spectrum_of`.
    """

    data: np.ndarray
    pixel_size: float
    optics: Optics
    spectrum: np.ndarray


def spectrum_of(noise: Sequence[np.ndarray]) -> np.ndarray:
    """Power by frequency (k,) of images (ny, nx) of noise, per pixel."""
    total = np.zeros(_BINS)
    for image in noise:
        power = np.abs(fft.rfft2(image)) ** 2 / image.size
        bins = np.minimum((_frequency(image.shape, 1.0) * 2 * _BINS).astype(int), _BINS)
        count = np.bincount(bins.ravel(), minlength=_BINS + 1)[:_BINS]
        total += np.bincount(bins.ravel(), power.ravel(), minlength=_BINS + 1)[:_BINS] / np.maximum(count, 1)
    return total / len(noise)


def blob(stack: ProjectionStack) -> np.ndarray:
    """The mean of all views, averaged over rotations in the plane; (1, n, n)."""
    mean = stack.images.mean(0)
    n = len(mean)
    at = np.arange(n) - (n - 1) / 2
    ring = np.hypot(at[:, None], at[None, :]).astype(int)
    by_ring = np.bincount(ring.ravel(), mean.ravel()) / np.bincount(ring.ravel())
    return by_ring[ring][None].astype(np.float32)


def turned(stack: ProjectionStack, step: float) -> np.ndarray:
    """Every view, rotated in the plane by multiples of ``step`` degrees; (b, n, n)."""
    n = stack.images.shape[-1]
    centre = ((n - 1) / 2, (n - 1) / 2)
    turns = [cv2.getRotationMatrix2D(centre, float(angle), 1.0) for angle in np.arange(0, 360, step)]
    return np.stack([cv2.warpAffine(view, turn, (n, n)) for view in stack.images for turn in turns])


def find(scene: Scene, views: Iterable[np.ndarray], voxel_size: float, diameter: float) -> Picks:
    """Peaks of the highest correlation over all views.

    Parameters
    ----------
    scene
        The micrograph.
    views
        (n, n) each, at ``voxel_size`` angstrom per pixel, centred at (n - 1) / 2.
    diameter
        Of the particle, angstrom.

    Returns
    -------
    Picks
        Best first. A score is the correlation in standard deviations of the noise.
    """
    ny, nx = scene.data.shape
    scale = min(WORKING_DIAMETER * scene.pixel_size / diameter, 1.0)
    shape = (fft.next_fast_len(round(ny * scale), real=True), fft.next_fast_len(round(nx * scale), real=True))
    shape = (min(shape[0], ny), min(shape[1], nx))
    pixel_size = scene.pixel_size * ny / shape[0]
    frequency = _frequency(shape, ny / shape[0])  # cycles per pixel of the micrograph
    power = np.interp(frequency, (np.arange(_BINS) + 0.5) / (2 * _BINS), scene.spectrum)
    passed = ((frequency > 0) & (frequency <= 0.5 * shape[0] / ny)).astype(np.float32)
    transfer = contrast_transfer(scene.optics, shape, pixel_size)
    weight = (passed * transfer / power).astype(np.float32)
    image = fft.rfft2(_without_slope(scene.data)) * np.sqrt(shape[0] * shape[1] / scene.data.size)
    half = shape[0] // 2
    rows = np.r_[0 : shape[0] - half, ny - half : ny]
    seen = (image[rows][:, : shape[1] // 2 + 1] * weight).astype(np.complex64)
    own = (passed * transfer**2 / power).astype(np.float32)
    own[:, 1 : (shape[1] + 1) // 2] *= 2  # the half of the spectrum that a real transform leaves out
    best = np.full(shape, -np.inf, np.float32)
    for view in views:
        n = max(round(view.shape[0] * voxel_size / pixel_size), 8)
        small = cv2.resize(view, (n, n), interpolation=cv2.INTER_AREA if n < view.shape[0] else cv2.INTER_LINEAR)
        small = small[: shape[0], : shape[1]]
        wave = fft.rfft2(small.astype(np.float32), s=shape)
        length = np.sqrt(float((np.abs(wave) ** 2 * own).sum()) / best.size)
        match = fft.irfft2(np.conj(wave) * seen, s=shape) / length
        # the correlation of a view whose corner is here: move it to where the view's centre is
        np.maximum(best, np.roll(match, ((n - 1) // 2, (n - 1) // 2), (0, 1)), out=best)
    y, x = peaks(best, APART * diameter / pixel_size)
    middle = ((n - 1) % 2) / 2
    return Picks(
        (x + middle) * nx / shape[1], (y + middle) * ny / shape[0], np.full(len(x), np.nan), best[y, x].astype(float)
    ).by_score()


def peaks(image: np.ndarray, apart: float) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the local maxima above 0, (k,) each, best first, none nearer than ``apart`` to a better one."""
    y, x = np.nonzero((ndimage.maximum_filter(image, 3) == image) & (image > 0))
    order = np.argsort(-image[y, x], kind="stable")
    y, x = y[order], x[order]
    reach = int(np.ceil(apart))
    offset = np.arange(-reach, reach + 1)
    disc = np.hypot(offset[:, None], offset[None, :]) < apart
    free = np.ones((image.shape[0] + 2 * reach, image.shape[1] + 2 * reach), bool)
    kept = np.zeros(len(y), bool)
    for i, (row, column) in enumerate(zip(y, x)):
        if free[row + reach, column + reach]:
            kept[i] = True
            free[row : row + 2 * reach + 1, column : column + 2 * reach + 1] &= ~disc
    return y[kept], x[kept]


def _frequency(shape: Sequence[int], spacing: float) -> np.ndarray:
    return np.hypot(fft.fftfreq(shape[0], spacing)[:, None], fft.rfftfreq(shape[1], spacing)[None, :])


def _without_slope(data: np.ndarray) -> np.ndarray:
    """The image less the plane that fits it best."""
    ny, nx = data.shape
    y, x = np.linspace(-1, 1, ny)[:, None], np.linspace(-1, 1, nx)[None, :]
    up, across = (data * y).mean() / (y**2).mean(), (data * x).mean() / (x**2).mean()
    return np.asarray(data - data.mean() - up * y - across * x, np.float32)
