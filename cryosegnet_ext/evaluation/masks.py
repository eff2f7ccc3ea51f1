"""Mask images as labels: the centres of the discs that were painted."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import CryoSegNetError
from ..micrograph import read_micrograph
from ..picks import Picks

MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".mrc")

_SOLID = 0.8  # of the discs' radius: what is thinner is the rim of a disc, or JPEG's noise


def read_mask(path: str | Path, shape: tuple[int, int] | None = None) -> Picks:
    """The particles of a mask image, painted as discs that may touch and overlap.

    Parameters
    ----------
    path
        An image, zero (black) where there is no particle.
    shape
        (ny, nx) of the micrograph, where the mask is a reduced copy of it; the mask's own otherwise.

    Returns
    -------
    Picks
        Centres and diameters in pixels of the micrograph.

    Raises
    ------
    CryoSegNetError
        The file cannot be read, or is no mask: grey throughout.
    """
    data = read_micrograph(path).data
    low, high = float(data.min()), float(data.max())
    middle = (low + high) / 2
    clear = np.abs(data - middle) > 0.25 * (high - low)
    if high > low and clear.mean() < 0.9:
        raise CryoSegNetError(
            f"{path}: it is no mask, as its pixels are not black or white; give the labels as a mask."
        )
    # A mask of one value is all background, whatever the value: nobody paints a particle of a whole micrograph.
    inside = (data > middle) if high > low else np.zeros(data.shape, bool)
    y, x, diameter = centres(inside)
    ny, nx = data.shape
    to = shape or (ny, nx)
    sy, sx = to[0] / ny, to[1] / nx
    size = diameter * np.sqrt(sx * sy)
    return Picks((x + 0.5) * sx - 0.5, (y + 0.5) * sy - 0.5, size, np.ones(len(x)), shape=to)


def centres(
    inside: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Centres y, x (n,) and diameters (n,) of equal discs in a mask (ny, nx), in its pixels.

    A disc's centre is where the distance to the background is largest and close to the discs' radius, which is the
    radius of most of them. Discs that overlap by more than about half a diameter come out as one.
    """
    distance = np.asarray(
        cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float64
    )
    peaks = _peaks(distance, 3)
    if not len(peaks):
        return np.zeros(0), np.zeros(0), np.zeros(0)
    heights = np.sort(distance[peaks[:, 0], peaks[:, 1]])
    radius = float(np.median(heights[heights > 0.5 * heights[int(0.9 * (len(heights) - 1))]]))
    peaks = _peaks(distance, max(3, int(radius) | 1))
    peaks = peaks[distance[peaks[:, 0], peaks[:, 1]] > _SOLID * radius]
    found = peaks.astype(np.float64)
    # A distance of r to the first background pixel's centre is a radius of r - 1/2 from pixel edge to pixel edge.
    return found[:, 0], found[:, 1], np.full(len(found), max(2 * radius - 1, 1.0))


def _peaks(distance: NDArray[np.float64], window: int) -> NDArray[np.intp]:
    """Local maxima of the distance map within a window, one for each plateau, (n, 2) of y, x."""
    highest = ndimage.maximum_filter(distance, window, mode="constant")
    top = (distance == highest) & (distance > 0)
    plateaus, count = ndimage.label(top, np.ones((3, 3)))
    middles = ndimage.center_of_mass(top, plateaus, np.arange(1, count + 1))
    return np.round(np.array(middles, np.float64)).astype(np.intp).reshape(-1, 2)
