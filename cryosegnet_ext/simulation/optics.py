"""Contrast transfer: from a phase shift in the specimen plane to contrast on the detector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft


@dataclass(frozen=True)
class Optics:
    """Imaging conditions.

    Attributes
    ----------
    voltage : kV
    cs : spherical aberration, mm
    amplitude_contrast : fraction
    defocus_u, defocus_v : angstrom, underfocus positive
    defocus_angle : degrees, of u from the x axis
    b_factor : square angstrom; the envelope is exp(-B s^2 / 4)
    """

    voltage: float = 300.0
    cs: float = 2.7
    amplitude_contrast: float = 0.07
    defocus_u: float = 15000.0
    defocus_v: float = 15000.0
    defocus_angle: float = 0.0
    b_factor: float = 80.0

    @property
    def wavelength(self) -> float:
        """Relativistic electron wavelength, angstrom."""
        v = self.voltage * 1e3
        return 12.2639 / np.sqrt(v + 0.97845e-6 * v * v)

    @property
    def interaction(self) -> float:
        """Phase shift per projected potential, radian / (volt x angstrom)."""
        v, rest = self.voltage * 1e3, 510998.95
        return 2 * np.pi / (self.wavelength * v) * (rest + v) / (2 * rest + v)


def contrast_transfer(optics: Optics, shape: tuple[int, int], pixel_size: float) -> NDArray[np.float32]:
    """CTF times envelope on the grid of a real FFT, (ny, nx // 2 + 1); negative at low frequency: protein looks dark.

    Sign and astigmatism as in CTFFIND4 (Rohou and Grigorieff, J. Struct. Biol. 192, 2015, eq. 2 to 5).
    """
    sy = fft.fftfreq(shape[0], pixel_size)[:, None]
    sx = fft.rfftfreq(shape[1], pixel_size)[None, :]
    s2 = sx**2 + sy**2
    angle = np.arctan2(sy, sx)
    mean, half = (optics.defocus_u + optics.defocus_v) / 2, (optics.defocus_u - optics.defocus_v) / 2
    defocus = mean + half * np.cos(2 * (angle - np.deg2rad(optics.defocus_angle)))
    lam = optics.wavelength
    chi = np.pi * lam * s2 * (defocus - 0.5 * lam**2 * s2 * optics.cs * 1e7)
    chi += np.arcsin(optics.amplitude_contrast)
    return (-np.sin(chi) * np.exp(-optics.b_factor * s2 / 4)).astype(np.float32)


def image_contrast(
    phase: NDArray[np.float32], optics: Optics, pixel_size: float, absorption: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Relative intensity (ny, nx), 1 in empty ice, of a weak phase object given as phase shift in radian (ny, nx)."""
    shape = (phase.shape[0], phase.shape[1])
    transfer = contrast_transfer(optics, shape, pixel_size)
    wave = fft.rfft2(phase, workers=2) * transfer
    intensity = 1 + 2 * fft.irfft2(wave, s=shape, workers=2)
    if absorption is not None:
        intensity = intensity * absorption
    return np.maximum(intensity, 0.02).astype(np.float32)
