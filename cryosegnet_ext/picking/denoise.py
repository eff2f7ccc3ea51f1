"""Denoising: the published recipe, byte for byte, and the default one, whose filters follow the particle's size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from ..networks.cpu_threads import each

Image = NDArray[np.float32]

# Default recipe: background and normalisation, in pixels of the working image, where a particle is ~32 px across.
BACKGROUND_SIGMA = 48.0
CLIP = 5.0
# Side of the blocks in which bad areas are searched, pixels; single dead lines are found too.
BLOCK = 16
# Rows that are searched at a time, a multiple of the block.
_STRIP = 128
# Areas are opaque if their mean is beyond this share of the value at which pixels are clipped. They are searched on a
# grid of cells of so many working pixels, as squares of so many cells: nearly two particles.
OPAQUE, _CELL, _LARGE = 0.75, 8, 7
# If more than this share of the pixels is darker than this, the contrast is lowered, at most to this factor. So many
# dark pixels are not dirt but the particles of a micrograph with little noise, and they must not be clipped.
DARK_SHARE, DARKEST, LEAST_CONTRAST = 0.03, 4.5, 0.25


def published(data: Image) -> NDArray[np.uint8]:
    """Denoise by the published recipe, byte for byte.

    Parameters
    ----------
    data : (ny, nx) float32
        The micrograph at full size, array order.

    Returns
    -------
    (ny, nx) uint8
        Array order. The recipe runs on the image upside down, as published: this matters because its Wiener filter
        shifts the image by 4 pixels.

    Notes
    -----
    Source: Gyawali et al. 2024, bbae282, "Denoising", and the behaviour of the published repository: Gaussian 9 x 9,
    non-local means (h 10, 7, 21), Wiener filter (9 x 9 Gaussian of standard deviation 3, zero-padded at the corner,
    K = 30), CLAHE (2.0, 16 x 16 tiles), guided filter (20 x 20 boxes, epsilon 0.1).
    """
    image = cv2.GaussianBlur(np.ascontiguousarray(data[::-1], dtype=np.float32), (9, 9), 0)
    spread = image.std()
    if spread > 0:
        image = (image - image.mean()) / spread
    nlm = cv2.fastNlMeansDenoising(_to_bytes(image), None, 10, 7, 21)
    wiener = _wiener(nlm)
    clahe = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(16, 16)).apply(_to_bytes(wiener))
    guided = _guided(wiener / 255, clahe / 255, box=20, epsilon=0.1)
    return np.ascontiguousarray(_to_bytes(guided)[::-1])


def _to_bytes(image: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = image.min(), image.max()
    if high == low:
        return np.zeros(image.shape, np.uint8)
    return ((image - low) / (high - low) * 255).astype(np.uint8)


def _wiener(image: NDArray[Any]) -> NDArray[np.float64]:
    ny, nx = image.shape
    taps = np.exp(-0.5 * ((np.arange(9) - 4) / 3.0) ** 2)
    taps /= taps.sum()
    # the kernel is separable, and so is its transform
    down, across = fft.fft(taps, n=ny), fft.rfft(taps, n=nx)
    spectrum = fft.rfft2(image.astype(np.float64), workers=-1, overwrite_x=True)
    for row, k in zip(spectrum, down):
        kernel = k * across
        row *= kernel.conj() / (kernel.real**2 + kernel.imag**2 + 30)
    result = fft.irfft2(spectrum, s=(ny, nx), workers=-1, overwrite_x=True)
    return np.asarray(np.abs(result, out=result))


def _guided(guide: NDArray[np.float64], image: NDArray[np.float64], box: int, epsilon: float) -> NDArray[np.float64]:
    def mean(a: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(cv2.boxFilter(a, cv2.CV_64F, (box, box)), np.float64)

    mean_g, mean_i = mean(guide), mean(image)
    covariance = mean(guide * image) - mean_g * mean_i
    variance = mean(guide * guide) - mean_g * mean_g
    a = covariance / (variance + epsilon)
    b = mean_i - a * mean_g
    return mean(a) * guide + mean(b)


@dataclass(frozen=True)
class WorkingImage:
    """A micrograph as the network sees it.

    Attributes
    ----------
    data : (h, w) float32
        Background 0, standard deviation of the noise about 1, particles dark.
    scale_y, scale_x : float
        Working pixels per micrograph pixel; micrograph x = (working x + 0.5) / scale_x - 0.5.
    """

    data: Image
    scale_y: float
    scale_x: float


def working_image(data: Image, scale: float, bad: NDArray[np.bool_] | None = None) -> WorkingImage:
    """The default recipe: scale the particle to the network's size, subtract the background, set the noise to 1.

    Parameters
    ----------
    data : (ny, nx) float32
        The micrograph, array order.
    scale
        Working pixels per micrograph pixel (network's particle size in px / particle size in micrograph px). All
        filters are set in working pixels, so they follow the particle, not the camera.
    bad : (ny, nx) bool, optional
        Areas that are ignored (`bad_areas`) and filled with their surroundings.

    Notes
    -----
    The denoising is the averaging of pixels to the working scale: structures finer than ~1/16 of the particle are
    lost. Large structures (ice gradient, carbon edge) are removed by subtraction of a wide Gaussian. The noise level is
    the median absolute deviation, which ice and gold do not change. Where particles are much stronger than the noise,
    they set the contrast. Large opaque areas are ignored and filled; otherwise they cast a halo on the ice around.
    """
    ny, nx = data.shape
    h, w = max(1, round(ny * scale)), max(1, round(nx * scale))
    weight: Image | None = None
    if bad is not None and bad.any() and not bad.all():
        weight = np.where(bad, np.float32(0), np.float32(1))
        image, limit = _centred(data, data[~bad])
        image[bad] = 0
    else:
        image, limit = _centred(data, data)
    small = _resize(image, h, w)
    small_weight = None if weight is None else _resize(weight, h, w)
    cells = cv2.resize(small, grid_of(h, w)[::-1], interpolation=cv2.INTER_AREA)
    opaque = opaque_areas(np.asarray(cells, np.float32), limit, (h, w))
    if opaque is not None:
        small = np.where(opaque, np.float32(0), small)
        small_weight = np.where(opaque, np.float32(0), np.float32(1) if small_weight is None else small_weight)
    if small_weight is None:
        background = _wide_gaussian(small, BACKGROUND_SIGMA)
        flat = small - background
    else:
        norm = _wide_gaussian(small_weight, BACKGROUND_SIGMA)
        background = _wide_gaussian(small, BACKGROUND_SIGMA) / np.maximum(norm, np.float32(1e-3))
        corrected = np.where(small_weight > 0.5, small / np.maximum(small_weight, 0.5) - background, 0.0)
        flat = corrected.astype(np.float32)
    used = flat if small_weight is None or not (small_weight > 0.5).any() else flat[small_weight > 0.5]
    level = float(np.median(used))
    noise = 1.4826 * float(np.median(np.abs(used - level)))
    if not noise > 0:
        noise = max(float(used.std()), 1e-12)
    rank = dark_rank(used.size)
    dark = level - float(np.partition(used, rank, axis=None)[rank])
    noise = min(max(noise, dark / DARKEST), noise / LEAST_CONTRAST)
    flat = np.clip((flat - level) / noise, -CLIP, CLIP).astype(np.float32)
    return WorkingImage(flat, h / ny, w / nx)


def dark_rank(count: int) -> int:
    """Index, of ``count`` values in ascending order, below which a share `DARK_SHARE` of them lies."""
    return int(DARK_SHARE * count)


def grid_of(h: int, w: int) -> tuple[int, int]:
    """Shape of the grid of cells for `opaque_areas`, for a working image (h, w)."""
    return max(1, round(h / _CELL)), max(1, round(w / _CELL))


def opaque_areas(cells: Image, limit: float, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Areas much larger than a particle that are almost opaque (ice, gold, a grid bar) or empty (a crack).

    Parameters
    ----------
    cells : float32, of the shape that `grid_of` gives
        The micrograph at the working scale minus its median, averaged over cells.
    limit
        Value at which pixels were clipped. Areas beyond `OPAQUE` of it (of either sign) count, and two cells around.
    shape
        Of the working image.

    Returns
    -------
    bool of that shape, or None
        None if there is no such area.
    """
    beyond = (np.abs(cells) > OPAQUE * limit).astype(np.uint8)
    if not beyond.any():
        return None
    large = cv2.morphologyEx(beyond, cv2.MORPH_OPEN, np.ones((_LARGE, _LARGE), np.uint8))
    if not large.any():
        return None
    whole = cv2.dilate(large, np.ones((5, 5), np.uint8))
    return cv2.resize(whole, shape[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)


def _centred(data: Image, good: Image) -> tuple[Image, float]:
    """Data minus the median of its good pixels; hot pixels and X-rays are clipped at 8 robust standard deviations.

    The second value is that limit; infinite if the deviation is 0.
    """
    sample = good.ravel()[:: max(1, good.size // 500_000)]
    median = np.median(sample)
    spread = 1.4826 * np.median(np.abs(sample - median))
    if spread == 0:
        spread = sample.std()
    limit = float(8 * spread) if spread > 0 else float("inf")
    image = np.empty_like(data)

    def work(rows: slice) -> None:
        np.subtract(data[rows], median, out=image[rows])
        np.clip(image[rows], -limit, limit, out=image[rows])

    each(work, [slice(first, first + _STRIP) for first in range(0, len(data), _STRIP)])
    return image, limit


def _resize(image: Image, h: int, w: int) -> Image:
    """Area average to fewer pixels; cubic interpolation to more."""
    if (h, w) == image.shape:
        return image
    down = h < image.shape[0]
    method = cv2.INTER_AREA if down else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (w, h), interpolation=method), np.float32)


def _wide_gaussian(image: Image, sigma: float) -> Image:
    """Gaussian blur of large sigma on a coarser grid: accurate to a few per mille and ~50 times faster."""
    h, w = image.shape
    factor = max(1, int(sigma / 6))
    coarse = cv2.resize(image, (max(1, -(-w // factor)), max(1, -(-h // factor))), interpolation=cv2.INTER_AREA)
    coarse = cv2.GaussianBlur(coarse, (0, 0), sigma / factor, borderType=cv2.BORDER_REFLECT)
    return np.asarray(cv2.resize(coarse, (w, h), interpolation=cv2.INTER_LINEAR), np.float32)


def bad_areas(data: Image, valid: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Find areas without an image: black stripes, dead rows and columns, saturated ice, padding.

    An area is bad if neighbouring pixels hardly differ along x or along y: real micrographs are noisy everywhere, and
    padding repeats rows or columns.

    Parameters
    ----------
    data : (ny, nx) float32
    valid : (ny, nx) bool, optional
        False where the file has no number.

    Returns
    -------
    (ny, nx) bool
        True where the image is bad.
    """
    return areas_of(each(lambda axis: _change_along(data, axis), (0, 1)), data.shape, valid)


@dataclass(frozen=True)
class Change:
    """Differences of neighbouring pixels along one axis, from which `bad_areas` finds its areas.

    Attributes
    ----------
    blocks : (by, bx) float32
        Mean over blocks of the differences; empty if there are fewer than two blocks along an axis.
    along, across : (n,), (m,) float32
        Mean of the differences over the axis, and over the other one.
    """

    blocks: Image
    along: Image
    across: Image


def _change_along(data: Image, axis: int) -> Change:
    """In strips of rows, which fit a cache: differences of the whole micrograph would take its memory once more."""
    ny, nx = data.shape[0] - (axis == 0), data.shape[1] - (axis == 1)
    if ny == 0 or nx == 0:
        return Change(
            np.zeros((0, 0), np.float32), *(np.zeros(n, np.float32) for n in (data.shape[1 - axis], (ny, nx)[axis]))
        )
    by, bx = ny // BLOCK, nx // BLOCK
    blocks, over_rows, over_columns = [], np.zeros(nx), np.zeros(ny)
    for first in range(0, ny, _STRIP):
        part = data[first : first + _STRIP + (axis == 0)]
        difference = cv2.absdiff(part[1:], part[:-1]) if axis == 0 else cv2.absdiff(part[:, 1:], part[:, :-1])
        over_rows += cv2.reduce(difference, 0, cv2.REDUCE_SUM, dtype=cv2.CV_64F)[0]
        over_columns[first : first + len(difference)] = cv2.reduce(difference, 1, cv2.REDUCE_SUM, dtype=cv2.CV_64F)[
            :, 0
        ]
        rows = len(difference) // BLOCK
        if rows and bx:
            whole = difference[: rows * BLOCK, : bx * BLOCK]
            blocks.append(cv2.resize(whole, (bx, rows), interpolation=cv2.INTER_AREA).reshape(rows, bx))
    profiles = (over_rows / ny).astype(np.float32), (over_columns / nx).astype(np.float32)
    several = by >= 2 and bx >= 2
    return Change(
        np.concatenate(blocks) if several else np.zeros((0, 0), np.float32), *profiles[:: 1 if axis == 0 else -1]
    )


def areas_of(changes: Sequence[Change], shape: tuple[int, ...], valid: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Bad areas (ny, nx) by the changes along y and x of a micrograph of this shape; see `bad_areas`."""
    bad = np.zeros(shape, bool) if valid is None else ~valid
    for axis, change in enumerate(changes):
        _mark_flat_blocks(change.blocks, bad)
        lines = bad if axis == 0 else bad.T
        constant, repeated = _quiet(change.along, shape[axis] - 1), _quiet(change.across, shape[1 - axis])
        lines[:, constant] = True
        lines[:-1][repeated] = True
        lines[1:][repeated] = True
    return bad


def _mark_flat_blocks(energy: Image, bad: NDArray[np.bool_]) -> None:
    """Set ``bad`` in blocks whose pixels hardly differ; pixels beyond the last block are set as that block."""
    size = (energy.shape[0] * BLOCK, energy.shape[1] * BLOCK)
    flat = energy < 0.08 * _usual(energy)
    if not flat.any():
        return
    flat = ndimage.binary_opening(flat, structure=np.ones((2, 2), bool)) | _edge_runs(flat)
    up = cv2.resize(flat.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
    bad[: size[0], : size[1]] |= up
    bad[size[0] :, : size[1]] |= up[-1]
    bad[:, size[1] :] |= bad[:, size[1] - 1 : size[1]]


def _quiet(profile: Image, length: int) -> NDArray[np.bool_]:
    """Lines of ``length`` pixels in which hardly anything changes; none if lines are short."""
    if length < 16:
        return np.zeros(len(profile), bool)
    return profile < 0.02 * _usual(profile)


def _usual(change: NDArray[Any]) -> float:
    """Median of the changes other than 0: more than half of a micrograph may be padding."""
    moving = change[change > 0]
    return float(np.median(moving)) if moving.size else 0.0


def _edge_runs(flat: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whole rows or columns of blocks that are mostly flat, however thin."""
    rows, columns = flat.mean(1) > 0.8, flat.mean(0) > 0.8
    return rows[:, None] | columns[None, :]
