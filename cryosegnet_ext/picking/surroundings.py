"""Features of the micrograph around a mask: its darkness and its noise."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .masks import Masks

Image = NDArray[np.float32]

# One pixel of a working image, in particle diameters. Bands of noise: standard deviations, in such pixels, of the two
# Gaussians whose difference is the band, and of the one that averages its power.
_PIXEL = 1 / 32
_BANDS = ((0, 1, 20), (2, 4, 10))
_STEP = 4


def darkness(image: Image, masks: Masks, diameter: float) -> NDArray[np.float64]:
    """Darkness (n,) of the working image (h, w) at each mask's centre, in standard deviations of its noise."""
    smooth = cv2.GaussianBlur(image, (0, 0), 0.2 * diameter)
    return -_at(smooth, masks, 1)


def local_noise(image: Image, masks: Masks, diameter: float) -> NDArray[np.float64]:
    """Strength of the noise around each mask's centre, at two scales.

    Parameters
    ----------
    image : (h, w) float32
        The working image, with the same y axis as the masks.
    masks
        n masks.
    diameter
        Of the particle, pixels of the image.

    Returns
    -------
    (n, 2)
        Natural logarithm of the variance: of the finest grain over 0.6 diameters around, and of grains of 1/16 to 1/8
        of the diameter over 0.3 diameters around (standard deviations of Gaussians).
    """
    unit = _PIXEL * diameter
    columns = []
    for fine, coarse, reach in _BANDS:
        upper = cv2.GaussianBlur(image, (0, 0), fine * unit) if fine else image
        power = np.square(upper - cv2.GaussianBlur(image, (0, 0), coarse * unit))
        size = max(power.shape[1] // _STEP, 1), max(power.shape[0] // _STEP, 1)
        power = cv2.resize(power, size, interpolation=cv2.INTER_AREA)
        power = cv2.GaussianBlur(power, (0, 0), reach * unit / _STEP)
        columns.append(np.log(np.maximum(_at(power, masks, _STEP), 1e-6)))
    return np.stack(columns, 1)


def _at(image: NDArray[Any], masks: Masks, step: int) -> NDArray[np.float64]:
    """Values (n,) at the masks' centres of an image that was reduced by ``step``."""
    y = np.clip(np.round((masks.y + 0.5) / step - 0.5).astype(int), 0, image.shape[0] - 1)
    x = np.clip(np.round((masks.x + 0.5) / step - 0.5).astype(int), 0, image.shape[1] - 1)
    return image[y, x].astype(np.float64)
