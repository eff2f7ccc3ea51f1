"""Find the particles in mask images: discs that may overlap, separate shapes, or one number per particle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import CryoSegNetError
from .micrograph import MICROGRAPH_SUFFIXES, read_pixels
from .picks import Picks
from .text import Floats

MASK_SUFFIXES = (*MICROGRAPH_SUFFIXES, ".bmp")

# A component of at most this many disc areas is one particle; larger components are overlapping discs.
_SINGLE = 1.3
# At least this share of a disc must be inside the mask, and this share must not be covered by other discs.
_INSIDE, _NEW = 0.93, 0.4
# Radius of the smallest disc that is not taken for a speck, pixels of the mask.
_LEAST_RADIUS = 1.5
_CALLED = re.compile(r"(?<![a-z])(masks?|labels?|gt|truth|seg|segmentation|annotations?)(?![a-z])", re.IGNORECASE)
# In a mask at least this share of pixels equals its neighbour, also after JPEG; in an 8-bit micrograph a tenth does.
_FLAT = 0.75
# The same where the name says that it is a mask: gt_0001.mrc may still be a micrograph.
_FLAT_IF_CALLED = 0.3


def is_mask(path: str | Path) -> bool:
    """Whether a file may be a mask, by its suffix."""
    return str(path).lower().endswith(MASK_SUFFIXES)


def called_mask(path: str | Path) -> bool:
    """Whether a file's name says that it is a mask, as mic_1_mask.png does."""
    return _CALLED.search(Path(path).name) is not None


def read_mask(path: str | Path, certain: bool = True) -> Picks | None:
    """The particles of a mask image.

    Parameters
    ----------
    path
        An image with zeros where there is no particle; see `centres_of_mask`.
    certain
        False: the image may be something else, as a micrograph. A mask is mostly flat, whatever it is called.

    Returns
    -------
    Picks or None
        In pixels of the mask, with the mask's shape; `in_micrograph` converts them. None if it is not a mask.

    Raises
    ------
    CryoSegNetError
        The file cannot be read, or is not a mask.
    """
    image: NDArray[Any] | None = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    try:
        # None: an MRC file, or a TIFF that OpenCV does not know.
        pixels = read_pixels(path) if image is None else image
    except CryoSegNetError:
        if certain or called_mask(path):
            raise
        return None
    # Nothing lies below zero, the background. Edges of 255 and 0 look like signed bytes that were read wrong.
    pixels = pixels.view(np.uint8) if pixels.dtype == np.int8 else pixels
    mask = pixels if pixels.ndim == 2 else pixels[..., :3].max(-1)
    least = _FLAT_IF_CALLED if called_mask(path) else _FLAT
    if not certain and np.mean(mask[:, 1:] == mask[:, :-1]) < least:
        return None
    try:
        x, y, diameter = centres_of_mask(mask)
    except CryoSegNetError as error:
        raise CryoSegNetError(f"{path}: {error}") from None
    none = np.ones(len(x))
    return Picks(x, y, none * diameter, none, shape=(mask.shape[0], mask.shape[1]))


def in_micrograph(
    x: Floats, y: Floats, diameter: Floats | float, mask: tuple[int, int], micrograph: tuple[int, int]
) -> tuple[Floats, Floats, Floats | float]:
    """Centres and diameters in pixels of the micrograph; ``mask`` and ``micrograph`` are the shapes (ny, nx)."""
    fy, fx = micrograph[0] / mask[0], micrograph[1] / mask[1]
    return (x + 0.5) * fx - 0.5, (y + 0.5) * fy - 0.5, diameter * float(np.sqrt(fx * fy))


def centres_of_mask(mask: NDArray[Any]) -> tuple[Floats, Floats, float]:
    """Find the particles of a mask.

    Parameters
    ----------
    mask : (ny, nx)
        Zero is background. With two values it is a union of discs (CryoPPP) or shapes; with several whole numbers, each
        in one place, an instance mask. Anything else (a JPEG, a resized mask) is thresholded at half of its range.

    Returns
    -------
    x, y : (n,)
        Centres, pixels of the mask; an integer is the centre of that pixel.
    diameter : float
        Of a typical particle, pixels of the mask; nan if there are no particles.

    Raises
    ------
    CryoSegNetError
        Most of it is foreground: it is inverted, or not a mask.
    """
    instances = _instances(mask)
    if instances is None:
        low, high = float(mask.min()), float(mask.max())
        plane = (mask > (low + high) / 2) if high > low else np.full(mask.shape, high != 0)
        if plane.mean() > 0.6:
            raise CryoSegNetError(
                f"particles cover {plane.mean():.0%} of the mask: it is inverted, or not a mask; particles must be the "
                "brighter value"
            )
        return _discs(plane)
    numbers = np.unique(instances)
    numbers = numbers[numbers > 0]
    centres = np.array(ndimage.center_of_mass(instances > 0, instances, numbers), np.float64).reshape(-1, 2)
    area = np.bincount(instances.ravel())[numbers]
    return centres[:, 1], centres[:, 0], float(np.median(np.sqrt(4 * area / np.pi)))


def _instances(mask: NDArray[Any]) -> NDArray[np.int64] | None:
    """The mask as instance numbers, if it is an instance mask: three or more values, each in one connected piece."""
    if mask.dtype.kind == "f" and (not np.array_equal(mask, np.round(mask)) or np.abs(mask).max() > 1e6):
        return None
    whole = mask.astype(np.int64)
    numbers = np.unique(whole)
    if len(numbers) < 3 or numbers[0] < 0 or len(numbers) > 20_000:
        return None
    places = ndimage.find_objects(whole.astype(np.int32))
    for number in numbers[numbers > 0].tolist():
        place = places[number - 1]
        part = (whole[place] == number).astype(np.uint8)
        if cv2.connectedComponents(part, connectivity=8)[0] != 2:
            return None
    return whole


def _discs(plane: NDArray[np.bool_]) -> tuple[Floats, Floats, float]:
    """Cover a mask (ny, nx) by equal discs; their radius is measured on the mask."""
    none = np.zeros(0)
    if not plane.any():
        return none, none, float("nan")
    count, component, stats, middles = cv2.connectedComponentsWithStats(plane.astype(np.uint8), connectivity=8)
    radius = _radius(plane, component)
    if radius < _LEAST_RADIUS:
        return none, none, float("nan")
    area = np.pi * radius**2
    found: list[tuple[float, float]] = []
    crowded = np.zeros(plane.shape, np.float32)
    ny, nx = plane.shape
    for i in range(1, count):
        x0, y0, w, h, size = stats[i].tolist()
        if size < 0.3 * area:
            continue
        cut = x0 == 0 or y0 == 0 or x0 + w == nx or y0 + h == ny
        if size <= _SINGLE * area and not cut:
            found.append((float(middles[i][0]), float(middles[i][1])))
        else:
            crowded[component == i] = 1
    found += _cover(crowded, radius)
    points = np.array(found, np.float64).reshape(-1, 2)
    return points[:, 0], points[:, 1], 2 * radius


def _radius(plane: NDArray[np.bool_], component: NDArray[Any]) -> float:
    """Radius of the discs: the median over the components of the largest distance from the background.

    Where three discs overlap that distance is a little too large, which hardly changes the median over many components.
    The areas of the components that are one disc then give the radius to a fraction of a pixel.
    """
    padded = cv2.copyMakeBorder(plane.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    numbers = np.arange(1, component.max() + 1)
    deepest = np.asarray(ndimage.maximum(depth, component, numbers), np.float64)
    radius = float(np.median(deepest[deepest >= min(_LEAST_RADIUS, deepest.max())]))
    areas = np.bincount(component.ravel())[1:]
    from_area = np.sqrt(areas / np.pi)
    single = from_area[(from_area > 0.85 * radius) & (from_area < 1.15 * radius)]
    return float(np.median(single)) if len(single) else radius


def _cover(todo: NDArray[np.float32], radius: float) -> list[tuple[float, float]]:
    """Add the disc that covers most of what is not covered yet, again and again; the border counts as a mirror."""
    if not todo.any():
        return []
    reach = int(np.ceil(radius))
    yy, xx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (xx**2 + yy**2 <= radius**2).astype(np.float32)
    disc /= disc.sum()
    # The border is mirrored once. Every disc is whole inside the padded plane, so a new disc changes only its patch.
    pad = 2 * reach
    plane = np.pad(todo, pad, mode="symmetric") if min(todo.shape) > pad else np.pad(todo, pad)
    whole = cv2.filter2D(plane, -1, disc, borderType=cv2.BORDER_CONSTANT)
    allowed = np.zeros(plane.shape, bool)
    allowed[pad : pad + todo.shape[0], pad : pad + todo.shape[1]] = True
    gain = np.where((whole >= _INSIDE) & allowed, whole, np.float32(0))
    found: list[tuple[float, float]] = []
    while True:
        y, x = np.unravel_index(int(gain.argmax()), gain.shape)
        if gain[y, x] < _NEW:
            return found
        found.append((float(x - pad), float(y - pad)))
        patch = plane[y - reach : y + reach + 1, x - reach : x + reach + 1]
        patch[disc > 0] = 0
        y0, y1, x0, x1 = max(y - pad, 0), y + pad + 1, max(x - pad, 0), x + pad + 1
        fresh = cv2.filter2D(
            plane[max(y0 - reach, 0) : y1 + reach, max(x0 - reach, 0) : x1 + reach],
            -1,
            disc,
            borderType=cv2.BORDER_CONSTANT,
        )
        dy, dx = y0 - max(y0 - reach, 0), x0 - max(x0 - reach, 0)
        part = gain[y0:y1, x0:x1]
        part[...] = np.where(part > 0, fresh[dy : dy + part.shape[0], dx : dx + part.shape[1]], 0)
