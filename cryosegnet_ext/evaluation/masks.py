"""Mask images as labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import CryoSegNetError
from ..files.discs import centres_of_mask
from ..files.micrograph import read_micrograph
from ..files.picks import Picks

MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".mrc")


def read_mask(path: str | Path, shape: tuple[int, int] | None = None) -> Picks:
    """The particles of a mask image: discs that may overlap, shapes, or a number for each particle.

    Parameters
    ----------
    path
        An image, zero where there is no particle.
    shape
        (ny, nx) of the micrograph, where the mask is a reduced copy of it; the mask's own otherwise.

    Returns
    -------
    Picks
        Centres and diameters in pixels of the micrograph.

    Raises
    ------
    CryoSegNetError
        The file cannot be read, or is no mask.
    """
    mask = _read(path)
    try:
        x, y, diameter = centres_of_mask(mask)
    except CryoSegNetError as error:
        raise CryoSegNetError(f"{path}: {error}") from None
    ny, nx = mask.shape
    to = shape or (ny, nx)
    sy, sx = to[0] / ny, to[1] / nx
    size = np.full(len(x), diameter * np.sqrt(sx * sy))
    return Picks((x + 0.5) * sx - 0.5, (y + 0.5) * sy - 0.5, size, np.ones(len(x)), shape=to)


def _read(path: str | Path) -> NDArray[Any]:
    """The mask's values, (ny, nx); unlike a micrograph it may be of one value, where there is no particle."""
    image: NDArray[Any] | None = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        return read_micrograph(path).data
    return image if image.ndim == 2 else image[..., :3].max(-1)
