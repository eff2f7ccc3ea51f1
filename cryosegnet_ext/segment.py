"""Probability map to particle masks: watershed, SAM prompted at the map's peaks, or SAM's own grid of points.

Each segmenter takes a probability map (ny, nx) in array order (row 0 = y 0) and gives `Masks`; it decides nothing about
which masks become picks.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.spatial import cKDTree

SMOOTHING = 0.08
"""Standard deviation of the smoothing before peaks are sought, in particle diameters."""

PEAK_FLOOR = 0.1
"""Peaks of the smoothed map below this probability are not particles."""


@dataclass(frozen=True)
class Masks:
    """Instances found on a probability map, one row each; lengths and positions in pixels of that map, array order.

    Attributes
    ----------
    x, y : (n,) float64
        Centroid; an integer is the centre of that pixel.
    area : (n,) float64
        Number of pixels.
    box : (n, 4) float64
        x0, y0, w, h as SAM gives them: w = last column - first column, so that a single pixel has w = 0.
    score : (n,) float64
        The segmenter's own confidence: SAM's predicted IoU, or the mean probability inside for `watershed`.
    probability : (n,) float64
        Mean of the map inside the mask.
    peak : (n,) float64
        Highest value inside the mask of the smoothed map (`grid`: of the map itself, which it does not smooth).
    roundness : (n,) float64
        Ratio of the minor to the major axis, from second moments: 1 for a disc, 0.5 for a 2:1 ellipse.
    touches_edge : (n,) bool
        The mask reaches the first or last row or column of the map.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    area: NDArray[np.float64]
    box: NDArray[np.float64]
    score: NDArray[np.float64]
    probability: NDArray[np.float64]
    peak: NDArray[np.float64]
    roundness: NDArray[np.float64]
    touches_edge: NDArray[np.bool_]

    @classmethod
    def empty(cls) -> Masks:
        """A table without masks."""
        none = np.zeros(0)
        return cls(none, none, none, np.zeros((0, 4)), none, none, none, none, np.zeros(0, bool))

    def __len__(self) -> int:
        return len(self.x)

    def take(self, which: ArrayLike) -> Masks:
        """The masks chosen by a boolean mask or by indices, in that order."""
        i = np.asarray(which)
        return Masks(**{f.name: getattr(self, f.name)[i] for f in fields(self)})


def watershed(
    probability: NDArray[np.floating[Any]], *, diameter_px: float, level: float = 0.5, floor: float = PEAK_FLOOR
) -> Masks:
    """Split the map into particles by flooding it from its peaks; needs no SAM.

    Every peak (`find_peaks`) owns the pixels that drain to it along the highest ridge, down to ``level`` or to half
    of the peak, whichever is lower, so that faint particles keep a mask.

    Parameters
    ----------
    probability : (ny, nx) float
        Map in 0..1.
    diameter_px
        Expected particle diameter, pixels of the map.
    level
        Probability at which a mask ends.
    floor
        Lowest smoothed probability of a peak.

    Returns
    -------
    Masks
        One a peak, best peak first.
    """
    probability = _checked(probability, diameter_px)
    smooth = _smoothed(probability, diameter_px)
    rows, columns, values = _peaks_of(smooth, diameter_px, floor)
    if len(rows) == 0:
        return Masks.empty()
    y, x, instance = _flood(smooth, rows, columns, np.minimum(level, 0.5 * values), diameter_px)
    return _measure(y, x, instance, len(rows), probability, smooth)


def find_peaks(
    probability: NDArray[np.floating[Any]], *, diameter_px: float, floor: float = PEAK_FLOOR
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Peaks of the lightly smoothed map, one a particle.

    Peaks closer than 0.4 diameters are one particle; so are peaks closer than 0.6 diameters with no clear valley
    between them (map on the line that joins them above 0.9 of the lower peak). The higher one stands for both. A flat
    top counts once, at its middle.

    Parameters
    ----------
    probability : (ny, nx) float
        Map in 0..1.
    diameter_px
        Expected particle diameter, pixels of the map.
    floor
        Lowest smoothed probability of a peak.

    Returns
    -------
    rows, columns : (n,) int
        Positions, highest peak first.
    values : (n,) float64
        The smoothed map there.
    """
    probability = _checked(probability, diameter_px)
    return _peaks_of(_smoothed(probability, diameter_px), diameter_px, floor)


def _checked(probability: NDArray[np.floating[Any]], diameter_px: float = 1.0) -> NDArray[np.float32]:
    if probability.ndim != 2 or probability.size == 0:
        raise ValueError(f"a probability map is a non-empty plane (ny, nx), not {probability.shape}")
    if not diameter_px > 0:
        raise ValueError(f"diameter_px must be positive, not {diameter_px}")
    finite: NDArray[np.float32] = np.nan_to_num(np.ascontiguousarray(probability, np.float32), posinf=1.0, neginf=0.0)
    return finite


def _smoothed(probability: NDArray[np.float32], diameter_px: float) -> NDArray[np.float32]:
    smooth = cv2.GaussianBlur(probability, (0, 0), SMOOTHING * diameter_px, borderType=cv2.BORDER_REFLECT)
    return np.asarray(smooth, np.float32)


def _peaks_of(
    smooth: NDArray[np.float32], diameter_px: float, floor: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    # rounding makes saturated tops flat again after the smoothing's float noise
    steps = np.rint(smooth * 8192.0).astype(np.float32)
    # the square that fits in the circle of the least separation: a higher pixel in it is always too close
    half = max(1, int(0.4 * diameter_px / np.sqrt(2)))
    window = np.ones((2 * half + 1, 2 * half + 1), np.uint8)
    tops = (steps >= cv2.dilate(steps, window)) & (smooth >= floor)
    rows, columns = _middles(tops)
    values = smooth[rows, columns].astype(np.float64)
    order = np.lexsort((columns, rows, -values))
    rows, columns, values = rows[order], columns[order], values[order]

    points = np.column_stack((columns, rows)).astype(np.float64)
    pairs = cKDTree(points).query_pairs(0.6 * diameter_px, output_type="ndarray")
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    first, second = points[pairs[:, 0]], points[pairs[:, 1]]
    near = np.hypot(*(first - second).T) < 0.4 * diameter_px
    along = np.linspace(0.0, 1.0, int(0.6 * diameter_px) + 2)
    saddle = np.full(len(pairs), np.inf)
    for t in along:
        x, y = np.rint(first + t * (second - first)).astype(np.intp).T
        saddle = np.minimum(saddle, smooth[y, x])
    same = near | (saddle > 0.9 * values[pairs[:, 1]])

    kept = np.ones(len(rows), bool)
    for better, worse in pairs[same]:  # pairs come best first, so a peak is settled before it can suppress another
        if kept[better]:
            kept[worse] = False
    return rows[kept], columns[kept], values[kept]


def _middles(tops: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Of each connected group of True pixels, the pixel nearest to the group's centroid."""
    _, labels, _, centroids = cv2.connectedComponentsWithStats(tops.astype(np.uint8), connectivity=8)
    rows, columns = np.nonzero(tops)
    label = labels[rows, columns]
    distance = (columns - centroids[label, 0]) ** 2 + (rows - centroids[label, 1]) ** 2
    order = np.lexsort((columns, rows, distance, label))
    first = order[np.unique(label[order], return_index=True)[1]]
    return rows[first], columns[first]


def _flood(
    smooth: NDArray[np.float32],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    levels: NDArray[np.float64],
    diameter_px: float,
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Watershed of the map from the seeds, each down to its own level.

    A watershed from markers is a minimum spanning forest of the pixel graph rooted at the markers (Cousty et al., IEEE
    PAMI 31, 2009), which compiled code finds; an edge is as high as the lower of its two pixels.

    Returns
    -------
    y, x, instance
        Of each pixel in a mask: its position, and the index of its seed.
    """
    n = len(rows)
    seeds = np.ones(smooth.shape, np.uint8)
    seeds[rows, columns] = 0
    distance = cv2.distanceTransform(seeds, cv2.DIST_L2, 5)
    inside = (smooth >= levels.min()) & (distance <= 2 * diameter_px)
    y, x = np.nonzero(inside)
    index = np.zeros(smooth.shape, np.int32)
    index[y, x] = np.arange(len(y), dtype=np.int32)
    across = inside[:, 1:] & inside[:, :-1]
    down = inside[1:] & inside[:-1]
    a = np.concatenate((index[:, :-1][across], index[:-1][down]))
    b = np.concatenate((index[:, 1:][across], index[1:][down]))
    value, far = smooth[y, x], distance[y, x]
    height = np.minimum(value[a], value[b])
    # equal heights (saturated maps) are split halfway between the seeds
    cost = (2.0 - height) + 1e-4 / diameter_px * np.maximum(far[a], far[b])

    # node 0 joins all seeds at a cost below every other, so each tree of the rest holds one seed at most
    seed = index[rows, columns]
    graph = csr_matrix(
        (
            np.concatenate((np.full(n, 1e-3), cost)),
            (np.concatenate((np.zeros(n, np.int32), a + 1)), np.concatenate((seed + 1, b + 1))),
        ),
        shape=(len(y) + 1, len(y) + 1),
    )
    tree = minimum_spanning_tree(graph).tocoo()
    edge = (tree.row > 0) & (tree.col > 0)
    a, b = tree.row[edge] - 1, tree.col[edge] - 1
    owner = _owner(a, b, seed, len(y))
    # along a spanning tree every path is the highest one: cutting the low edges leaves what is joined to the seed
    deep = np.minimum(value[a], value[b]) >= np.append(levels, np.inf)[owner[a]]
    owner = _owner(a[deep], b[deep], seed, len(y))
    mine = owner >= 0
    return y[mine], x[mine], owner[mine]


def _owner(a: NDArray[np.intp], b: NDArray[np.intp], seed: NDArray[np.int32], size: int) -> NDArray[np.intp]:
    """Index of the seed in each node's tree, -1 where a tree holds none; (size,)."""
    count, component = connected_components(csr_matrix((np.ones(len(a), bool), (a, b)), (size, size)), directed=False)
    of_component = np.full(count, -1, np.intp)
    of_component[component[seed]] = np.arange(len(seed))
    return of_component[component]


def _measure(
    y: NDArray[np.intp],
    x: NDArray[np.intp],
    instance: NDArray[np.intp],
    n: int,
    probability: NDArray[np.float32],
    smooth: NDArray[np.float32],
    score: NDArray[np.float64] | None = None,
) -> Masks:
    """Statistics of ``n`` masks given as pixel positions; every instance must own at least one pixel."""
    if n == 0:
        return Masks.empty()
    ny, nx = probability.shape
    area = np.bincount(instance, minlength=n).astype(np.float64)

    def mean(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(instance, values, minlength=n) / area

    order = np.argsort(instance, kind="stable")
    starts = np.concatenate(([0], np.cumsum(area[:-1]))).astype(np.intp)
    xs, ys = x[order], y[order]
    x0, x1 = np.minimum.reduceat(xs, starts), np.maximum.reduceat(xs, starts)
    y0, y1 = np.minimum.reduceat(ys, starts), np.maximum.reduceat(ys, starts)

    cx, cy = mean(x), mean(y)
    dx, dy = x - cx[instance], y - cy[instance]
    # a pixel is a unit square: its own second moment is 1/12
    vx, vy, vxy = mean(dx * dx) + 1 / 12, mean(dy * dy) + 1 / 12, mean(dx * dy)
    middle, spread = (vx + vy) / 2, np.hypot((vx - vy) / 2, vxy)
    inside = mean(probability[y, x])
    return Masks(
        x=cx,
        y=cy,
        area=area,
        box=np.column_stack((x0, y0, x1 - x0, y1 - y0)).astype(np.float64),
        score=inside if score is None else np.asarray(score, np.float64),
        probability=inside,
        peak=np.maximum.reduceat(smooth[ys, xs], starts).astype(np.float64),
        roundness=np.sqrt(np.clip((middle - spread) / (middle + spread), 0.0, 1.0)),
        touches_edge=(x0 == 0) | (y0 == 0) | (x1 == nx - 1) | (y1 == ny - 1),
    )
