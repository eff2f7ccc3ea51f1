"""What happens to files before they are picked: filters, local contrast, 8 bits, JPEG."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]

CLAHE_CLIP, JPEG_QUALITY = 2.0, 85
# Percentiles that become black and white: before the local contrast, and in a file of 8 bits.
LOCAL_RANGE, FILE_RANGE = (0.1, 99.9), (0.3, 99.7)


@dataclass(frozen=True)
class Degradation:
    """The steps, in this order; 0 or False leaves one out.

    Attributes
    ----------
    blur
        Standard deviation of a Gaussian, pixels.
    tiles
        Local contrast (CLAHE of 8 bits) in so many tiles each way.
    box
        Side of two box filters, pixels.
    eight_bits, jpeg
        The file's format.
    """

    blur: float = 0.0
    tiles: int = 0
    box: int = 0
    eight_bits: bool = False
    jpeg: bool = False

    def applied(self, image: Image) -> Image:
        """The degraded image (h, w)."""
        if self.blur:
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), self.blur), np.float32)
        if self.tiles:
            clahe = cv2.createCLAHE(clipLimit=CLAHE_CLIP, tileGridSize=(self.tiles, self.tiles))
            image = clahe.apply(_bytes(image, LOCAL_RANGE)).astype(np.float32)
        if self.box:
            side = (self.box, self.box)
            image = np.asarray(cv2.blur(cv2.blur(image, side), side), np.float32)
        if self.eight_bits:
            eight = _bytes(image, FILE_RANGE)
            if self.jpeg:
                packed = cv2.imencode(".jpg", eight, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
                eight = np.asarray(cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE), np.uint8)
            image = eight.astype(np.float32)
        return image


def draw_degradation(d: float, rng: np.random.Generator) -> Degradation:
    """Draw a degradation for particles of ``d`` pixels; most images get none."""
    kind = rng.random()
    blur, tiles, box = 0.0, 0, 0
    if kind < 0.25:  # like the published denoising: local contrast, then two box filters
        blur, tiles = max(0.04 * d, 0.3), int(rng.integers(2, 7))
        box = max(2, round(d * float(rng.uniform(0.12, 0.26))))
    elif kind < 0.40:
        blur = max(d * float(rng.uniform(0.01, 0.06)), 0.3)
    elif kind < 0.48:
        tiles = int(rng.integers(2, 7))
    eight_bits = bool(rng.random() < 0.3)
    return Degradation(blur, tiles, box, eight_bits, eight_bits and bool(rng.random() < 0.4))


def degrade(image: Image, d: float, rng: np.random.Generator) -> Image:
    """An image (h, w) with a random degradation."""
    return draw_degradation(d, rng).applied(image)


def _bytes(image: Image, percentiles: tuple[float, float]) -> NDArray[np.uint8]:
    low, high = np.percentile(image, percentiles)
    return (np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
