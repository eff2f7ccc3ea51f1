"""From intensity to counted electrons: noise of the dose, response of the detector, dead rows and columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from .scene import Scene
from .textures import Image

# Counted electrons in a pixel of empty ice. With fewer, a Gaussian would give counts below zero (0.1 % here).
FEW_ELECTRONS = 10.0


def modulation_transfer(frequency: NDArray[np.floating], at_nyquist: float) -> NDArray[np.float64]:
    """Modulation transfer at ``frequency`` (1 / pixel); exponential, 1 at 0 and ``at_nyquist`` at 0.5."""
    return np.exp(np.log(at_nyquist) * 2 * np.asarray(frequency, np.float64))


def detect(intensity: Image, scene: Scene, pixel_size: float, rng: np.random.Generator) -> Image:
    """Electrons counted in each pixel (ny, nx) at relative ``intensity``, with their noise.

    With `FEW_ELECTRONS` or more in a pixel the noise is Gaussian. With fewer it is Poisson: whole electrons, divided by
    the share that counts, so that the mean is the dose. With a modulation transfer M the power of the noise falls by
    (1 + M^2) / 2. That of the signal falls by more, so that the quantum efficiency falls too.
    """
    electrons = np.maximum(intensity, 0.01) * np.float32(scene.dose * pixel_size**2)
    efficiency = np.float32(scene.detector_efficiency)
    if scene.dose * pixel_size**2 * scene.detector_efficiency < FEW_ELECTRONS:
        noise = rng.poisson(electrons * efficiency).astype(np.float32) / efficiency - electrons
    else:
        noise = rng.standard_normal(intensity.shape, np.float32) * np.sqrt(electrons / efficiency)
    if scene.mtf >= 1:
        return electrons + noise
    shape = (intensity.shape[0], intensity.shape[1])
    s = np.hypot(fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None, :])
    mtf = modulation_transfer(s, scene.mtf).astype(np.float32)
    spectrum = fft.rfft2(electrons, workers=2) * mtf
    spectrum += fft.rfft2(noise, workers=2) * np.sqrt((1 + mtf**2) / 2)
    return np.asarray(fft.irfft2(spectrum, s=shape, workers=2), np.float32)


def add_stripes(image: Image, junk: NDArray[np.bool_], count: int, rng: np.random.Generator) -> None:
    """``count`` black stripes over whole rows or columns, mostly at the border, a pixel to a fiftieth of the frame."""
    for _ in range(count):
        axis = int(rng.integers(2))
        side = image.shape[axis]
        width = int(rng.integers(1, max(side // 50, 2)))
        start = int(rng.choice([0, side - width, int(rng.integers(0, side - width + 1))]))
        band = (slice(None),) * axis + (slice(start, start + width),)
        image[band] = 0
        junk[band] = True
