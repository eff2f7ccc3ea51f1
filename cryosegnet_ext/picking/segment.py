"""Probability map to particle masks: watershed, SAM prompted at the map's peaks, or SAM's own grid of points.

Each segmenter takes a probability map (ny, nx) in array order (row 0 is y 0) and returns `Masks`. Which masks become
picks is decided in `postprocess`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.spatial import cKDTree

from .masks import Instance, Masks, measure, measured, without_overlaps

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

SMOOTHING = 0.08
"""Standard deviation of the smoothing before the search for peaks, in particle diameters."""

# Points of the grid at once, as published.
_GRID_BATCH = 64

PEAK_FLOOR = 0.1
"""Peaks of the smoothed map below this probability are not particles."""


def watershed(
    probability: NDArray[np.floating[Any]],
    *,
    diameter_px: float,
    level: float = 0.5,
    peaks: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None,
) -> Masks:
    """Split the map into particles by a watershed from its peaks; needs no SAM.

    Each peak (`find_peaks`) gets the pixels that drain to it along the highest ridge, down to ``level`` or to half of
    the peak's height, whichever is lower, so that faint particles keep a mask.

    Parameters
    ----------
    probability : (ny, nx) float
        Map in 0..1.
    diameter_px
        Expected particle diameter, pixels of the map.
    level
        Probability at which a mask ends.
    peaks
        Rows and columns of the peaks; default: those of `find_peaks`.

    Returns
    -------
    Masks
        One for each peak, best peak first.
    """
    probability = _checked(probability, diameter_px)
    smooth = smoothed(probability, diameter_px)
    rows, columns = _peaks_of(smooth, diameter_px, PEAK_FLOOR)[:2] if peaks is None else peaks
    values = smooth[rows, columns].astype(np.float64)
    if len(rows) == 0:
        return Masks.empty()
    y, x, instance = _flood(smooth, rows, columns, np.minimum(level, 0.5 * values), diameter_px)
    return measure(y, x, instance, len(rows), probability)


def find_peaks(
    probability: NDArray[np.floating[Any]], *, diameter_px: float, floor: float = PEAK_FLOOR
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Peaks of the slightly smoothed map, one for each particle.

    Two peaks are one particle if they are closer than 0.4 diameters, or closer than 0.6 diameters without a clear
    valley between them (on the line between them the map stays above 0.9 of the lower peak). The higher peak is kept.
    A flat top counts once, at its middle.

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
    return _peaks_of(smoothed(probability, diameter_px), diameter_px, floor)


def _checked(probability: NDArray[np.floating[Any]], diameter_px: float = 1.0) -> NDArray[np.float32]:
    if probability.ndim != 2 or probability.size == 0:
        raise ValueError(f"a probability map is a non-empty plane (ny, nx), not {probability.shape}")
    if not diameter_px > 0:
        raise ValueError(f"diameter_px must be positive, not {diameter_px}")
    finite: NDArray[np.float32] = np.nan_to_num(np.ascontiguousarray(probability, np.float32), posinf=1.0, neginf=0.0)
    return finite


def smoothed(probability: NDArray[np.float32], diameter_px: float) -> NDArray[np.float32]:
    """The map blurred by `SMOOTHING` diameters, on which peaks are searched."""
    smooth = cv2.GaussianBlur(probability, (0, 0), SMOOTHING * diameter_px, borderType=cv2.BORDER_REFLECT)
    return np.asarray(smooth, np.float32)


def _peaks_of(
    smooth: NDArray[np.float32], diameter_px: float, floor: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    # rounding removes the smoothing's float noise, so that saturated tops are flat again
    steps = np.rint(smooth * 8192.0).astype(np.float32)
    # the square within the circle of the least separation: a higher pixel in it is always too close
    half = max(1, int(0.4 * diameter_px / np.sqrt(2)))
    window = np.ones((2 * half + 1, 2 * half + 1), np.uint8)
    tops = (steps >= cv2.dilate(steps, window)) & (smooth >= floor)
    rows, columns = middles(tops)
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
    # best first: whether a peak stays is known before it can suppress another
    for better, worse in pairs[same]:
        if kept[better]:
            kept[worse] = False
    return rows[kept], columns[kept], values[kept]


def middles(tops: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column (n,) of the pixel nearest to the centroid of each connected group of True pixels."""
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
    PAMI 31, 2009), which SciPy finds in compiled code; an edge is as high as the lower of its two pixels.
    scikit-image's watershed divides ridges between seeds in another way, so that sizes and picks would change.

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
    # equal heights (saturated maps) are divided halfway between the seeds
    cost = (2.0 - height) + 1e-4 / diameter_px * np.maximum(far[a], far[b])

    # node 0 joins all seeds at the lowest cost; without it each tree holds at most one seed
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
    # every path in the tree is the highest one: without the low edges, the pixels still joined to the seed remain
    deep = np.minimum(value[a], value[b]) >= np.append(levels, np.inf)[owner[a]]
    owner = _owner(a[deep], b[deep], seed, len(y))
    mine = owner >= 0
    return y[mine], x[mine], owner[mine]


def _owner(a: NDArray[np.intp], b: NDArray[np.intp], seed: NDArray[np.int32], size: int) -> NDArray[np.intp]:
    """Index of the seed in each node's tree, -1 where a tree has none; (size,)."""
    count, component = connected_components(csr_matrix((np.ones(len(a), bool), (a, b)), (size, size)), directed=False)
    of_component = np.full(count, -1, np.intp)
    of_component[component[seed]] = np.arange(len(seed))
    return of_component[component]


def grid(probability: NDArray[np.floating[Any]], sam: Sam, **settings: Any) -> Masks:
    """SAM's automatic mask generator over a grid of points; its own settings are the published ones.

    The published chain (Gyawali et al., 2024) gives it a 1024 x 1024 map; SAM resizes any other map. All masks of the
    generator are returned: the published limit on the predicted IoU (0.94) is applied to ``score`` later.

    Parameters
    ----------
    probability : (ny, nx) float
        Map in 0..1.
    sam
        From `weights.load_sam`, on the device that runs it.
    settings
        Other settings of ``segment_anything.SamAutomaticMaskGenerator``.

    Returns
    -------
    Masks
        In the generator's order.

    Raises
    ------
    CryoSegNetError
        Memory ran out.
    """
    from segment_anything import SamAutomaticMaskGenerator

    from ..networks.memory import with_less

    probability = _checked(probability)

    def generated(batch: int) -> list[dict[str, Any]]:
        how = {**settings, "points_per_batch": batch, "output_mode": "uncompressed_rle"}
        return SamAutomaticMaskGenerator(sam, **how).generate(_picture(probability))

    masks = with_less(generated, settings.get("points_per_batch", _GRID_BATCH), 1, "SAM", sam.device)
    found = [Instance(m["predicted_iou"], *_runs(m["segmentation"])) for m in masks]
    return measured([instance for instance in found if len(instance.y)], probability)


def peaks(
    probability: NDArray[np.floating[Any]],
    sam: Sam,
    *,
    diameter_px: float,
    expected_area: float | None = None,
) -> Masks:
    """SAM prompted at the map's peaks (`find_peaks`): one mask for each particle, whatever its size.

    A mask must contain the peak and have 0.2 to 2.5 times the expected area; of several, the one with the best
    predicted IoU is taken. Where masks overlap, the one with the better predicted IoU keeps the pixels, and a mask that
    loses more than half of its pixels is dropped. A map whose long side exceeds 1.5 times SAM's input is processed in
    overlapping tiles of that size; tiles without peaks are skipped. Without peaks, SAM does not run.

    Parameters
    ----------
    probability : (ny, nx) float
        Map in 0..1.
    sam
        From `weights.load_sam`, on the device that runs it.
    diameter_px
        Expected particle diameter, pixels of the map.
    expected_area
        Expected area of a mask, pixels of the map; default: a disc of 0.7 diameters.

    Returns
    -------
    Masks
        Best predicted IoU first.
    """
    from .prompts import prompted, tiles

    probability = _checked(probability, diameter_px)
    rows, columns, _ = _peaks_of(smoothed(probability, diameter_px), diameter_px, PEAK_FLOOR)
    if len(rows) == 0:
        return Masks.empty()
    area = np.pi / 4 * (0.7 * diameter_px) ** 2 if expected_area is None else expected_area
    # the window is twice as wide as the largest plausible disc, so that too large masks are recognised
    half = int(np.ceil(2 * np.sqrt(2.5 * area / np.pi)))
    picture = _picture(probability)
    found: list[Instance] = []
    for tile in tiles(probability.shape, int(sam.image_encoder.img_size), half):
        here = tile.owns(rows, columns)
        if here.any():
            inside = prompted(
                picture[tile.y0 : tile.y1, tile.x0 : tile.x1],
                sam,
                rows[here] - tile.y0,
                columns[here] - tile.x0,
                half=half,
                least=max(0.2 * area, 1.0),
                most=2.5 * area,
            )
            found += [Instance(one.score, one.y + tile.y0, one.x + tile.x0) for one in inside]
    return measured(without_overlaps(found, probability.shape), probability)


def _picture(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The map as SAM's input: min-max to 0..255, three equal channels; (ny, nx, 3)."""
    low, high = float(probability.min()), float(probability.max())
    plane = ((probability - low) * (255.0 / (high - low) if high > low else 0.0)).astype(np.uint8)
    return np.repeat(plane[:, :, None], 3, axis=2)


def _runs(encoded: dict[str, Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pixels of a run-length encoded mask: counts of 0, 1, 0, 1, ... down the columns."""
    height = encoded["size"][0]
    counts = np.asarray(encoded["counts"], np.intp)
    ends = np.cumsum(counts)[1::2]
    lengths = counts[1::2]
    flat = np.arange(lengths.sum()) + np.repeat(ends - np.cumsum(lengths), lengths)
    x, y = np.divmod(flat, height)
    return y, x
