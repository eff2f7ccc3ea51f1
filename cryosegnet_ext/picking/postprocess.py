"""Masks on the working map to picks on the micrograph: the default rule and the published one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import mode

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from ..files.diameter import from_pixels
from ..files.picks import Picks
from .masks import Masks
from .scoring import LEAST_REFERENCES, LIKELY, Calibration, MaskFeatures, likely_share, texture
from .segment import PEAK_FLOOR

# Masks this much darker than the likely particles are ice, gold or dirt; robust standard deviations.
DARKEST = 6.0

# Sizes of picks, of the data set's particle size; others count as something else.
SIZE_RANGE = (0.5, 1.75)


@dataclass(frozen=True)
class MapGeometry:
    """Where a map lies on its micrograph.

    Attributes
    ----------
    shape : (ny, nx) of the micrograph
    scale_y, scale_x : map pixels per micrograph pixel
    pixel_size : angstrom, or None
    bad : (ny, nx) bool, True where nothing is picked, or None
    """

    shape: tuple[int, int]
    scale_y: float
    scale_x: float
    pixel_size: float | None = None
    bad: NDArray[np.bool_] | None = None

    def to_micrograph(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Map pixels to micrograph pixels; integers are pixel centres in both."""
        return (x + 0.5) / self.scale_x - 0.5, (y + 0.5) / self.scale_y - 0.5


def default_rule(
    masks: Masks,
    geometry: MapGeometry,
    diameter_px: float,
    calibration: Calibration,
    *,
    darkness: NDArray[np.float64] | None = None,
    noise: NDArray[np.float64] | None = None,
    heights: NDArray[np.float64] | None = None,
    true: NDArray[np.float64] | None = None,
    label_share: float = 1.0,
    size_range: tuple[float, float] = SIZE_RANGE,
    min_diameter_px: float = 0.0,
    max_diameter_px: float = np.inf,
    margin: float = 0.5,
    separation: float = 0.5,
) -> tuple[Picks, MaskFeatures]:
    """The default rule: size, score, borders, bad areas, overlaps.

    Parameters
    ----------
    masks
        Masks on the map.
    geometry
        Position of the map on the micrograph.
    diameter_px
        Expected particle diameter, micrograph pixels.
    calibration
        Mask to score.
    darkness
        (n,) how dark the micrograph is in each mask, any unit; masks far darker than this micrograph's likely particles
        are contamination.
    noise
        (n, k) strength of the noise around each mask (`surroundings.local_noise`), for the score.
    heights, true
        (n,) height of each mask's peak, and the share of particles among such peaks (`evidence`), for the score.
    label_share
        Mask diameter / particle diameter, as in training.
    size_range
        Accepted sizes, as factors of the expected one.
    min_diameter_px, max_diameter_px
        Further limits on a pick's own diameter, micrograph pixels.
    margin
        Least distance from the border, in diameters of the pick itself (0.5: the particle is whole); half of it from
        bad areas. Whole bad rows or columns along a side (edges of drift-corrected frames) lie outside the border.
    separation
        Least distance between picks, in diameters; the pick with the better score stays.

    Returns
    -------
    Picks
        Best score first.
    MaskFeatures
        The features of their scores, in the same order.
    """
    x, y = geometry.to_micrograph(masks.x, masks.y)
    scale = np.sqrt(geometry.scale_x * geometry.scale_y)
    own = np.sqrt(4 * masks.area / np.pi) / label_share / scale
    rim = margin * own - 0.5
    top, bottom, left, right = whole_part(geometry.bad, geometry.shape)
    keep = (x >= left + rim) & (y >= top + rim) & (x <= right - 1 - rim) & (y <= bottom - 1 - rim)
    keep &= (own >= size_range[0] * diameter_px) & (own <= size_range[1] * diameter_px)
    keep &= (own >= min_diameter_px) & (own <= max_diameter_px)
    features = _features(masks, np.log(np.maximum(own, 1e-6) / diameter_px), keep, noise)
    features = replace(features, height=heights, true=true)
    score = calibration.score(features)
    if darkness is not None:
        keep &= ~_far_too_dark(darkness, keep & (score >= 0.5))
    if geometry.bad is not None and geometry.bad.any():
        keep &= _distance_to_bad(geometry.bad, x, y) > 0.5 * margin * diameter_px
    kept = np.flatnonzero(keep)
    kept = kept[np.lexsort((x[kept], y[kept], -score[kept]))]
    kept = kept[_not_too_close(x[kept], y[kept], separation * diameter_px)]
    size = from_pixels(own[kept], geometry.pixel_size)
    picks = Picks(x[kept], y[kept], size, score[kept], geometry.pixel_size, geometry.shape)
    return picks, features.take(kept)


def _features(
    masks: Masks, log_size: NDArray[np.float64], keep: NDArray[np.bool_], noise: NDArray[np.float64] | None
) -> MaskFeatures:
    """Features of all masks (n,); those in ``keep`` are the micrograph's candidates."""
    likely = keep & (masks.probability >= LIKELY)
    # deeper candidates, which the micrograph's own noise allows, tell nothing about its company
    company = keep & (masks.probability >= PEAK_FLOOR)
    return MaskFeatures(
        masks.probability,
        log_size,
        masks.score,
        None if noise is None else texture(noise, likely),
        np.full(len(masks), likely_share(likely[company])),
    )


def _far_too_dark(darkness: NDArray[np.float64], likely: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n,) True where the darkness is far above that of the likely particles."""
    reference = darkness[likely]
    if len(reference) < LEAST_REFERENCES:
        return np.zeros(len(darkness), bool)
    median = np.median(reference)
    spread = 1.4826 * np.median(np.abs(reference - median))
    too_dark: NDArray[np.bool_] = darkness > median + DARKEST * max(spread, 1e-6)
    return too_dark


def whole_part(bad: NDArray[np.bool_] | None, shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and end row, first and end column of the micrograph without bad stripes along its sides."""
    if bad is None or not bad.any():
        return 0, shape[0], 0, shape[1]
    ends = []
    for axis in (1, 0):
        stripe = bad.mean(axis) > 0.5
        ends += [_edge_stripe(stripe), len(stripe) - _edge_stripe(stripe[::-1])]
    return ends[0], ends[1], ends[2], ends[3]


def _edge_stripe(stripe: NDArray[np.bool_], gap: int = 8) -> int:
    """End of the bad lines that begin at line 0 or within ``gap`` lines of it: filters leave a rim on them."""
    end = 0
    while (near := np.flatnonzero(stripe[end : end + gap])).size:
        end += int(near[-1]) + 1
    return end


def _distance_to_bad(bad: NDArray[np.bool_], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance (n,) of each point to the nearest bad pixel, micrograph pixels, to within 4."""
    step = max(1, min(bad.shape) // 1024)
    ny, nx = (n // step * step for n in bad.shape)
    coarse = bad[:ny, :nx].reshape(ny // step, step, nx // step, step).any((1, 3))
    distance = distance_transform_edt(~coarse) * step
    iy = np.clip((y / step).astype(int), 0, coarse.shape[0] - 1)
    ix = np.clip((x / step).astype(int), 0, coarse.shape[1] - 1)
    return distance[iy, ix]


def _not_too_close(x: NDArray[np.float64], y: NDArray[np.float64], reach: float) -> NDArray[np.bool_]:
    """(n,) False for points nearer than ``reach`` to a better point that stays; points come best first."""
    keep = np.ones(len(x), bool)
    if len(x) < 2:
        return keep
    points = np.c_[x, y]
    for i, near in enumerate(cKDTree(points).query_ball_point(points, reach, p=2)):
        if keep[i]:
            worse = [j for j in near if j > i and np.hypot(x[j] - x[i], y[j] - y[i]) < reach]
            keep[worse] = False
    return keep


def robust_diameter(diameters: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Weighted median of mask diameters."""
    order = np.argsort(diameters, kind="stable")
    share = np.cumsum(weights[order])
    return float(diameters[order][np.searchsorted(share, share[-1] / 2)])


def published_rule(masks: Masks, geometry: MapGeometry, *, keep_iou: float = 0.94) -> Picks:
    """The rule of the published code, without its defects.

    Keeps masks with a predicted IoU above ``keep_iou`` whose box is about as large as the most frequent one: with the
    modes w0, h0 of the widths and heights in the 1024 frame, d = the diagonal of the w0 x h0 box in micrograph pixels
    and t = 0.2 * int(d // 2), boxes with w0 - t/3 < w < w0 + t and h0 - t/3 < h < h0 + t stay. The pick is the
    box's centre; its score is the predicted IoU, its diameter d. Source: the published repository, without its
    crash on a micrograph without masks and its second, jittered pick for masks of IoU above 0.9999. Centres in bad
    areas are dropped.

    Parameters
    ----------
    masks
        From SAM's own grid of points, boxes in map pixels.
    geometry
        Position of the map; it is 1024 x 1024, so its two scales differ on micrographs that are not square.

    Returns
    -------
    Picks
        Best score first.
    """
    masks = masks.take(masks.score > keep_iou)
    if len(masks) == 0:
        return Picks.empty(geometry.pixel_size, geometry.shape)
    x0, y0, w, h = np.round(masks.box).T
    # the most frequent value; the first of several, as in the published code
    w0, h0 = float(mode(w.tolist())), float(mode(h.tolist()))
    diameter = float(np.hypot(w0 / geometry.scale_x, h0 / geometry.scale_y))
    tolerance = 0.2 * int(diameter // 2)
    keep = (w > w0 - tolerance / 3) & (w < w0 + tolerance) & (h > h0 - tolerance / 3) & (h < h0 + tolerance)
    x, y = (x0 + w / 2)[keep] / geometry.scale_x, (y0 + h / 2)[keep] / geometry.scale_y
    inside = (x >= 0) & (y >= 0) & (x <= geometry.shape[1] - 1) & (y <= geometry.shape[0] - 1)
    if geometry.bad is not None and inside.any():
        row, column = np.floor(y + 0.5).astype(int), np.floor(x + 0.5).astype(int)
        inside[inside] = ~geometry.bad[row[inside], column[inside]]
    size = np.full(int(inside.sum()), from_pixels(diameter, geometry.pixel_size))
    score = np.clip(masks.score[keep][inside], 0, 1)
    return Picks(x[inside], y[inside], size, score, geometry.pixel_size, geometry.shape).by_score()
