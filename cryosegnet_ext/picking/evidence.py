"""Evidence against the micrograph's own noise: what the network finds where there is nothing to see.

A faint micrograph and an empty one may have the same number of unlikely peaks. They differ from a surrogate of their
own that has the same grain but no particles: the micrograph with inverted contrast. Where the network finds as many
peaks of some height in the surrogate as in the micrograph, all of them may be noise; where it finds far fewer, most are
not (a local false discovery rate; Efron, JASA 99, 2004). Noise with the micrograph's power spectrum is a worse
surrogate: it keeps the power of the particles and of the ice on it, and the network finds particles in that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..networks.cpu_threads import each
from .masks import Masks
from .segment import middles

Image = NDArray[np.float32]
Floats = NDArray[np.float64]

# Peaks are searched in the map's logit, smoothed over a particle's inner part, less a share of its wider surroundings:
# faint particles stand out of their surroundings rather than above a level. Particle diameters.
SMOOTHING, SURROUNDINGS, SURROUNDINGS_SHARE = 0.16, 0.35, 0.3
# Least distance of two peaks, particle diameters.
SEPARATION = 0.4
# Largest side of the part of the micrograph of which a surrogate is made, working pixels.
LARGEST_PART = 512
# Heights are compared within about this distance, natural logarithms of the odds.
WIDTH = 0.7
# Few peaks prove little by their number. So the micrograph counts as having so many more at every height, all of them
# noise below this height and particles above it, with a soft passage between (natural logarithms of the odds).
PRIOR, BELIEVED, PASSAGE = 3.0, 3.0, 0.6
# Peaks of which more than this share is expected to be noise are no candidates.
MOST_FALSE = 0.85
# The mask's own peak lies within this distance of its centre, particle diameters.
_REACH = 0.2
# Heights beyond these count as these.
_RANGE = (-14.0, 14.0)


@dataclass(frozen=True)
class Peaks:
    """Peaks of a height map (`height_map`).

    Attributes
    ----------
    rows, columns : (n,) int
        Pixels of the map; highest first.
    height : (n,) float64
        The height there, natural logarithm of odds.
    area : float
        Of the map, pixels.
    """

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    height: Floats
    area: float


def height_map(probability: Image, diameter_px: float) -> Image:
    """Natural logarithm of the odds of a map (h, w) of 0..1, smoothed, less a share of that of the surroundings."""
    p = np.clip(probability, 1e-12, np.float32(1 - 1e-7))
    logit = np.log(p) - np.log1p(-p)
    inner, outer = each(
        lambda size: cv2.GaussianBlur(logit, (0, 0), size * diameter_px, borderType=cv2.BORDER_REFLECT),
        (SMOOTHING, SURROUNDINGS),
    )
    return np.asarray(inner - np.float32(SURROUNDINGS_SHARE) * outer, np.float32)


def peaks_of(heights: Image, diameter_px: float) -> Peaks:
    """Every peak of a height map (h, w), however low, that is the highest point within `SEPARATION` diameters."""
    half = max(1, int(SEPARATION * diameter_px / np.sqrt(2)))
    window = np.ones((2 * half + 1, 2 * half + 1), np.uint8)
    # rounding makes flat tops flat again
    steps = np.rint(heights * 1024.0).astype(np.float32)
    rows, columns = middles(steps >= cv2.dilate(steps, window))
    height = heights[rows, columns].astype(np.float64)
    order = np.lexsort((columns, rows, -height))
    return Peaks(rows[order], columns[order], height[order], float(heights.size))


def heights_of(heights: Image, masks: Masks, diameter_px: float) -> Floats:
    """Height (n,) of the peak under each mask: the highest point near its centre."""
    half = max(1, int(_REACH * diameter_px))
    highest = cv2.dilate(heights, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * half + 1, 2 * half + 1)))
    y = np.clip(np.rint(masks.y).astype(int), 0, heights.shape[0] - 1)
    x = np.clip(np.rint(masks.x).astype(int), 0, heights.shape[1] - 1)
    return highest[y, x].astype(np.float64)


def null_peaks(image: Image, network: Callable[[Image], Image], diameter_px: float) -> Peaks:
    """Peaks that the network finds in the surrogate of a working image: the image with inverted contrast.

    Parameters
    ----------
    image : (h, w) float32
        The working image; the surrogate is made of its middle, at most `LARGEST_PART` wide.
    network
        Image -> probability map of the same shape.
    diameter_px
        Particle diameter, working pixels.
    """
    y0, x0 = (max((n - LARGEST_PART) // 2, 0) for n in image.shape)
    part = image[y0 : y0 + LARGEST_PART, x0 : x0 + LARGEST_PART]
    return peaks_of(height_map(network(np.ascontiguousarray(-part)), diameter_px), diameter_px)


def true_share(heights: Floats, found: Peaks, null: Peaks) -> Floats:
    """Share of particles to expect among peaks of these heights (n,), by the micrograph's own noise; 0..1.

    Parameters
    ----------
    heights
        Where to tell the share.
    found
        All peaks of the micrograph.
    null
        Peaks of its surrogate.
    """
    at = np.linspace(*_RANGE, 281)
    seen = _density(found.height, at)
    noise = _density(null.height, at) * (found.area / null.area)
    doubtful = PRIOR / (1 + np.exp((at - BELIEVED) / PASSAGE))
    false = (noise + doubtful) / (seen + PRIOR)
    # of higher peaks no smaller share is true
    return np.interp(heights, at, 1 - np.minimum(np.minimum.accumulate(false), 1.0))


def _density(heights: Floats, at: Floats) -> Floats:
    """How many of the heights are near each point, within about `WIDTH`."""
    inside = np.clip(heights, *_RANGE)
    return np.asarray(np.exp(-0.5 * ((at[:, None] - inside) / WIDTH) ** 2).sum(1), np.float64)
