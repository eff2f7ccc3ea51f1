"""Changes of a training crop after which particles are still particles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..picking.denoise import CLIP

Image = NDArray[np.float32]

# Share of crops whose power spectrum is changed, by factors of this spread (of the amplitude's logarithm) at each
# octave: for detectors, envelopes, ice and filters that are not in the training data.
BENT_SHARE, BENT = 0.5, 0.35
# Octaves at which the spectrum is changed, log2 of the frequency: periods of 64 to 2 px.
OCTAVES = np.arange(-6, 0)
# Share of crops with a lower contrast, down to this factor: dirt on a micrograph changes its contrast, too.
FAINT_SHARE, FAINTEST = 0.2, 0.2


@dataclass(frozen=True)
class Augmentation:
    """The changes, in this order.

    Attributes
    ----------
    turns, mirrored
        Quarter turns, then left to right.
    bends : (6,) float64 or None
        Logarithm of the factor on the amplitude at each of `OCTAVES`.
    contrast, offset
        Factor and summand.
    noise
        Standard deviation of added white noise.
    """

    turns: int
    mirrored: bool
    bends: NDArray[np.float64] | None
    contrast: float
    offset: float
    noise: float

    def placed(self, plane: NDArray[Any]) -> NDArray[Any]:
        """An image or a label (side, side), turned and mirrored."""
        plane = np.rot90(plane, self.turns)
        return np.ascontiguousarray(plane[:, ::-1] if self.mirrored else plane)


def draw_augmentation(rng: np.random.Generator) -> Augmentation:
    """Draw the changes of one crop."""
    turns, mirrored = int(rng.integers(4)), bool(rng.random() < 0.5)
    bends = _draw_bends(rng) if rng.random() < BENT_SHARE else None
    contrast = np.exp(rng.uniform(np.log(FAINTEST), 0) if rng.random() < FAINT_SHARE else rng.normal(0, 0.15))
    offset = rng.normal(0, 0.1) * min(contrast, 1)
    noise = contrast * rng.uniform(0.1, 0.6) if rng.random() < 0.2 else 0.0
    return Augmentation(turns, mirrored, bends, float(contrast), float(offset), float(noise))


def augment(image: Image, label: NDArray[np.uint8], rng: np.random.Generator) -> tuple[Image, NDArray[np.uint8]]:
    """Rotate, mirror, change spectrum and contrast, add noise."""
    drawn = draw_augmentation(rng)
    image = drawn.placed(image)
    if drawn.bends is not None:
        image = _bent(image, drawn.bends)
    image = image * np.float32(drawn.contrast) + np.float32(drawn.offset)
    if drawn.noise:
        image = image + rng.standard_normal(image.shape, np.float32) * np.float32(drawn.noise)
    return np.ascontiguousarray(image, dtype=np.float32), drawn.placed(label)


def bend_spectrum(image: Image, rng: np.random.Generator) -> Image:
    """A working image (side, side) with its frequencies weighted by a smooth random function of their radius.

    The noise level (median absolute deviation) stays the same.
    """
    return _bent(image, _draw_bends(rng))


def _draw_bends(rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.normal(0, BENT, len(OCTAVES))


def margin_of(shape: tuple[int, ...]) -> int:
    """Pixels by which an image is padded before its spectrum is bent, so that one side does not leak into the other."""
    return min(48, *(n - 1 for n in shape))


def gain_of(bends: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Factors (ny, nx // 2 + 1) on the real Fourier transform of a padded image."""
    radius = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :])
    return np.exp(np.interp(np.log2(np.maximum(radius, 2.0**-9)), OCTAVES, bends))


def _bent(image: Image, bends: NDArray[np.float64]) -> Image:
    margin = margin_of(image.shape)
    padded = np.pad(image, margin, mode="reflect")
    ny, nx = padded.shape
    bent = np.fft.irfft2(np.fft.rfft2(padded) * gain_of(bends, (ny, nx)), s=(ny, nx)).astype(np.float32)
    bent = bent[margin : ny - margin, margin : nx - margin]
    before, after = (float(np.median(np.abs(v - np.median(v)))) for v in (image, bent))
    if after > 0 and before > 0:
        bent = bent * np.float32(before / after)
    return np.clip(bent, -CLIP, CLIP)
