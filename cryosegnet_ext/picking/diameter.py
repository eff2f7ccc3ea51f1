"""Estimate the particle diameter: the scale at which the network finds most.

Our network is trained to see particles between about 18 and 55 working pixels and to ignore much larger or smaller
ones. The micrograph is shown to it at a ladder of scales. At the particle's scale, confident masks cover most of the
area, and the size of these masks refines the estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from .denoise import WorkingImage
from .postprocess import robust_diameter
from .segment import watershed

Image = NDArray[np.float32]
Part = tuple[slice, slice]
View = Callable[[float, Part], tuple[WorkingImage, Image]]

STEP = 1.3
# Range of diameters that are tried unless limits are given, in shares of a micrograph's long side.
SMALLEST_SHARE, LARGEST_SHARE = 1 / 110, 1 / 7
MOST_WORKING_PIXELS = 640
# Enlarged from fewer pixels than this (a rung of the ladder), noise looks like particles.
LEAST_PIXELS = STEP**8
# Diameter of masks at the right scale, of the true one: the watershed ends a little inside the label discs.
TYPICAL_SIZE = 0.95
# A scale counts if its response is at least this share of the best one.
LEAST_RESPONSE = 0.35
CONFIDENT = 0.6
# At least this probability of the third-best mask is needed on one micrograph: white noise reaches 0.87.
SURE = 0.88
LEAST_WEIGHT = 5.0
# Share of the largest area, and of the largest number, that counts as all.
ALMOST_ALL = 0.85
# Masks fit a scale if their size is the usual one within this factor. Particles of one size fit at neighbouring scales;
# a second size shows as another peak of what fits: at least this far away, of this share of the highest, with a valley
# between the two that is at most this share of the lower one.
FITS, OTHER_FACTOR, OTHER_SHARE, VALLEY = 1.3, 1.5, 0.3, 0.7
# So many discs in a map are needed to estimate a size.
LEAST_DISCS = 5


@dataclass(frozen=True)
class Votes:
    """Votes of one micrograph for the particle's size.

    Attributes
    ----------
    rung : (k,) int
        Rungs of the ladder: the diameter tried is ``STEP ** rung``.
    response : (k,) float
        Share of the area covered by confident masks, weighted by confidence.
    count : (k,) float
        Sum of the confidences.
    size : (k,) float
        Weighted median size of the masks, in units of the diameter tried; nan if there are none.
    third : (k,) float
        Probability of the third-best mask; 0 if there are fewer.
    unit : float
        Factor from the ladder's pixels to angstrom.
    fitting : (k, 2) float
        Response and count of the masks whose own size fits the scale.
    """

    rung: NDArray[np.int_]
    response: NDArray[np.float64]
    count: NDArray[np.float64]
    size: NDArray[np.float64]
    third: NDArray[np.float64]
    unit: float = 1.0
    fitting: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))

    def scaled(self, unit: float) -> Votes:
        """The same votes in another unit of length: ``unit`` per pixel."""
        return replace(self, unit=self.unit * unit)


def diameter_votes(
    view: View,
    shape: tuple[int, ...],
    low: float | None,
    high: float | None,
    working_diameter: float,
    label_share: float,
) -> Votes:
    """Show one micrograph to the network at a ladder of scales.

    Parameters
    ----------
    view
        (scale, rows and columns) -> working image and probability map of that part of the micrograph.
    shape
        (ny, nx) of the micrograph.
    low, high
        Range of diameters to try, pixels of the micrograph; None for a range from the micrograph's size.
    working_diameter, label_share
        As in training.
    """
    side = max(shape)
    first = max(low or 0.0, side * SMALLEST_SHARE, LEAST_PIXELS)
    last = min(high or np.inf, side * LARGEST_SHARE)
    if high is not None and last < first:
        first = max(low or 0.0, LEAST_PIXELS)
    steps = np.arange(
        np.floor(np.log(first) / np.log(STEP) + 1e-9), np.ceil(np.log(max(last, first)) / np.log(STEP)) + 1
    )
    rungs = steps.astype(int)
    rows = [_look(view, shape, STEP**k, working_diameter, label_share) for k in rungs.tolist()]
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Votes(rungs, table[:, 0], table[:, 1], table[:, 2], table[:, 3], fitting=table[:, 4:])


def _look(
    view: View, shape: tuple[int, ...], diameter: float, working_diameter: float, label_share: float
) -> tuple[float, ...]:
    """Response, count, relative size, third-best probability, response and count of what fits, at one scale."""
    scale = working_diameter / diameter
    most = int(MOST_WORKING_PIXELS / scale)
    y0, x0 = (max((n - most) // 2, 0) for n in shape)
    _, probability = view(scale, (slice(y0, y0 + most), slice(x0, x0 + most)))
    masks = watershed(probability, diameter_px=working_diameter)
    size = np.sqrt(4 * masks.area / np.pi) / label_share / working_diameter
    weight = np.clip((masks.probability - CONFIDENT) / (1 - CONFIDENT), 0, 1)
    weight = np.where((size > 0.45) & (size < 1.9), weight, 0.0)
    if not weight.any():
        return 0.0, 0.0, np.nan, 0.0, 0.0, 0.0
    response = float((weight * masks.area).sum() / probability.size)
    probable = np.sort(masks.probability[weight > 0])[::-1]
    third = float(probable[2]) if len(probable) > 2 else 0.0
    fits = np.where(np.abs(np.log(np.maximum(size, 1e-6) / TYPICAL_SIZE)) < np.log(FITS), weight, 0.0)
    fitting = float((fits * masks.area).sum() / probability.size), float(fits.sum())
    return response, float(weight.sum()), robust_diameter(size, weight), third, *fitting


def disc_diameter(probability: Image) -> float | None:
    """Typical diameter of the discs in a probability map, for networks that see all scales.

    The distance from each likely pixel to the nearest unlikely one has its maxima in the middle of the discs, even if
    discs touch. The median over the maxima is weighted by area, so that crumbs do not count.

    Parameters
    ----------
    probability : (h, w)
        0..1.

    Returns
    -------
    float or None
        Pixels of the map; None if there are fewer than `LEAST_DISCS` discs.
    """
    smooth = cv2.GaussianBlur(np.ascontiguousarray(probability), (0, 0), 1.5)
    # discs at the border are cut: what lies outside counts as unlikely
    likely = np.pad((smooth > 0.5).astype(np.uint8), 1)
    distance = cv2.distanceTransform(likely, cv2.DIST_L2, 5)[1:-1, 1:-1]
    highest = cv2.dilate(distance, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9)))
    count, label = cv2.connectedComponents(((distance == highest) & (distance >= 2)).astype(np.uint8))
    if count - 1 < LEAST_DISCS:
        return None
    at = np.unique(label, return_index=True)[1][1:]
    radius = distance.ravel()[at].astype(np.float64)
    return 2 * robust_diameter(radius, radius**2)


def consensus_diameter(votes: Sequence[Votes]) -> float | None:
    """The particle diameter on which the votes of several micrographs agree, in their common unit.

    Where a particle is shown too large, its masks are smaller than the diameter tried; where it is shown too small,
    they are larger. The estimate is the scale at which they have the same size as in training, next to the scale with
    the most particles. Micrographs may differ in pixel size: their ladders are interpolated to a common one. None if
    hardly any particle was seen.
    """
    votes = [v for v in votes if len(v.rung)]
    if not votes:
        return None
    tried = [np.log(STEP) * v.rung + np.log(v.unit) for v in votes]
    grid = np.arange(min(t[0] for t in tried), max(t[-1] for t in tried) + 1e-6, np.log(STEP))
    response, count, weighted = np.zeros(len(grid)), np.zeros(len(grid)), np.zeros(len(grid))
    for t, v in zip(tried, votes):
        within = (grid > t[0] - 1e-6) & (grid < t[-1] + 1e-6)  # rounding must not remove a ladder's last rung
        seen = np.interp(grid, t, v.count) * within
        log_size = np.interp(grid, t, np.log(np.where(np.isfinite(v.size), v.size, 1.0)))
        response += np.interp(grid, t, v.response) * within
        count += seen
        weighted += seen * log_size
    response[count < LEAST_WEIGHT] = 0
    if not response.any():
        return None
    excess = weighted / np.maximum(count, 1e-9) - np.log(TYPICAL_SIZE)
    best = int(np.argmax(response))
    near = [v.third[np.abs(t - grid[best]) < 1.5 * np.log(STEP)].max(initial=0.0) for t, v in zip(tried, votes)]
    if max(near) < SURE:
        return None
    crossings = []
    for i in range(len(grid) - 1):
        if excess[i] > 0 >= excess[i + 1] and min(response[i], response[i + 1]) > LEAST_RESPONSE * response[best]:
            crossings.append(grid[i] + np.log(STEP) * excess[i] / (excess[i] - excess[i + 1]))
    if crossings:
        found = min(crossings, key=lambda c: abs(c - grid[best]))
    else:
        found = np.clip(grid[best] + np.clip(excess[best], -np.log(STEP), np.log(STEP)), grid[0], grid[-1])
    return float(np.exp(min(found, _last_with_all(grid, response, count))))


def other_diameter(votes: Sequence[Votes], found: float) -> float | None:
    """A second size at which particles are seen, besides the one that was ``found``; None if there is none.

    It is a rung of the ladder, so it is right within a sixth. Two sizes are told apart if they differ by a factor of
    two and a half; closer ones sometimes.
    """
    votes = [v for v in votes if len(v.fitting)]
    if not votes:
        return None
    tried = [np.log(STEP) * v.rung + np.log(v.unit) for v in votes]
    grid = np.arange(min(t[0] for t in tried), max(t[-1] for t in tried) + 1e-6, np.log(STEP))
    response, count = (
        np.sum([np.interp(grid, t, v.fitting[:, k], left=0.0, right=0.0) for t, v in zip(tried, votes)], axis=0)
        for k in (0, 1)
    )
    padded = np.pad(response, 1)
    peak = (response >= padded[:-2]) & (response >= padded[2:]) & (count >= LEAST_WEIGHT)
    peak &= response >= OTHER_SHARE * response.max()
    first = int(np.argmax(np.where(np.abs(grid - np.log(found)) <= np.log(OTHER_FACTOR), response, 0.0)))
    others = []
    for i in np.flatnonzero(peak & (np.abs(grid - np.log(found)) > np.log(OTHER_FACTOR))).tolist():
        valley = response[min(i, first) : max(i, first) + 1].min()
        if valley <= VALLEY * min(response[i], response[first]):
            others.append(i)
    return float(np.exp(grid[max(others, key=lambda i: response[i])])) if others else None


def _last_with_all(grid: NDArray[np.float64], response: NDArray[np.float64], count: NDArray[np.float64]) -> float:
    """The largest scale with almost as many particles as any other scale that covers almost the same area.

    At larger scales neighbours merge: their masks still cover the area, and are as wide as the diameter tried.
    """
    covers = response >= ALMOST_ALL * response.max()
    return float(grid[np.flatnonzero(covers & (count >= ALMOST_ALL * count[covers].max()))[-1]])
