"""Random fields and shapes that several ingredients use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Image = NDArray[np.float32]


def smooth_noise(shape: tuple[int, ...], scale: float, rng: np.random.Generator) -> Image:
    """Gaussian noise (ny, nx) smoothed to ``scale`` pixels, standard deviation 1."""
    return smoothed(white_noise(shape, rng), scale)


def white_noise(shape: tuple[int, ...], rng: np.random.Generator) -> Image:
    """Gaussian noise (ny, nx), standard deviation 1."""
    return rng.standard_normal((shape[0], shape[1]), np.float32)


def smoothed(noise: Image, scale: float) -> Image:
    """White noise (ny, nx) smoothed to ``scale`` pixels and scaled to standard deviation 1."""
    size = (noise.shape[0], noise.shape[1])
    spectrum = fft.rfft2(noise, workers=2)
    fy, fx = fft.fftfreq(size[0])[:, None], fft.rfftfreq(size[1])[None, :]
    spectrum *= np.exp(-2 * (np.pi * scale) ** 2 * (fx**2 + fy**2)).astype(np.float32)
    smooth = fft.irfft2(spectrum, s=size, workers=2)
    return (smooth / max(float(smooth.std()), 1e-12)).astype(np.float32)


def outside_hole(shape: tuple[int, int], share: float, rng: np.random.Generator, bumps: Image | None = None) -> Image:
    """1 outside the hole of a film, a large circle, and 0 inside (ny, nx); the film covers ``share`` of the frame.

    ``bumps`` (ny, nx) moves the edge, pixels.
    """
    ny, nx = shape
    radius = max(shape) * rng.uniform(0.7, 2.5)
    angle = rng.uniform(0, 2 * np.pi)
    reach = (
        np.cos(angle) * np.linspace(-1, 1, nx)[None, :] * nx / 2
        + np.sin(angle) * np.linspace(-1, 1, ny)[:, None] * ny / 2
    )
    across = (
        -np.sin(angle) * np.linspace(-1, 1, nx)[None, :] * nx / 2
        + np.cos(angle) * np.linspace(-1, 1, ny)[:, None] * ny / 2
    )
    distance = reach - (np.sqrt(np.clip(radius**2 - across**2, 0, None)) - radius)
    if bumps is not None:
        distance = distance + bumps
    return (distance > np.quantile(distance, 1 - share)).astype(np.float32)
