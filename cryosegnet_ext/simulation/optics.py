"""Contrast transfer: from a phase shift in the specimen plane to contrast on the detector."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

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
    """CTF times envelope on the grid of a real FFT, (ny, nx // 2 + 1); negative at low frequency, so protein is dark.

    Sign and astigmatism as in CTFFIND4 (Rohou and Grigorieff, J. Struct. Biol. 192, 2015, eq. 2 to 5).
    """
    sy = fft.fftfreq(shape[0], pixel_size)[:, None]
    sx = fft.rfftfreq(shape[1], pixel_size)[None, :]
    s2 = sx**2 + sy**2
    mean, half = (optics.defocus_u + optics.defocus_v) / 2, (optics.defocus_u - optics.defocus_v) / 2
    twice, lam = 2 * np.deg2rad(optics.defocus_angle), optics.wavelength
    chi = s2 * (mean - 0.5 * lam**2 * optics.cs * 1e7 * s2)
    if half:  # s^2 cos(2 (angle - angle of u)) without an angle for every frequency
        chi += half * np.cos(twice) * (sx**2 - sy**2) + 2 * half * np.sin(twice) * sx * sy
    chi *= np.pi * lam
    chi += np.arcsin(optics.amplitude_contrast)
    return (-np.sin(chi) * np.exp(-optics.b_factor * s2 / 4)).astype(np.float32)


def layered_contrast(
    layers: Iterable[tuple[float, NDArray[np.float32]]],
    optics: Optics,
    pixel_size: float,
    absorption: NDArray[np.float32] | None = None,
    drift: float = 0.0,
    rng: np.random.Generator | None = None,
    device: str = "cpu",
) -> NDArray[np.float32]:
    """Relative intensity (ny, nx) behind layers of a weak phase object, each with its own defocus.

    Parameters
    ----------
    layers
        Depth of each layer (angstrom, added to the defocus) and its phase shift (ny, nx), radian.
    optics, pixel_size
        Imaging conditions; angstrom per pixel.
    absorption
        Factor (ny, nx) on the intensity.
    drift
        Motion at constant speed during the exposure, angstrom, in a direction drawn from ``rng``.
    device
        "cpu" (SciPy) or a torch device for the Fourier transforms.
    """
    forward, backward = _transforms(device)
    total, shape = None, (0, 0)
    for depth, phase in layers:
        shape = (phase.shape[0], phase.shape[1])
        here = replace(optics, defocus_u=optics.defocus_u + depth, defocus_v=optics.defocus_v + depth)
        wave = forward(phase, contrast_transfer(here if depth else optics, shape, pixel_size))
        total = wave if total is None else total + wave
    if total is None:
        raise ValueError("no layers")
    blur = None
    if drift > 0 and rng is not None:
        angle = rng.uniform(0, 2 * np.pi)
        sy, sx = fft.fftfreq(shape[0], pixel_size)[:, None], fft.rfftfreq(shape[1], pixel_size)[None, :]
        blur = np.sinc(drift * (sx * np.cos(angle) + sy * np.sin(angle))).astype(np.float32)
    intensity = 1 + 2 * backward(total, blur, shape)
    if absorption is not None:
        intensity = intensity * absorption
    return np.maximum(intensity, 0.02).astype(np.float32)


def _transforms(device: str) -> tuple[Any, Any]:
    """The Fourier transform (ny, nx) times a filter, and its inverse times an optional filter; SciPy's or torch's."""
    if device == "cpu":

        def forward(image: Any, factor: Any) -> Any:
            return fft.rfft2(image, workers=2) * factor

        def backward(spectrum: Any, factor: Any, shape: tuple[int, int]) -> Any:
            return fft.irfft2(spectrum if factor is None else spectrum * factor, s=shape, workers=2)

        return forward, backward
    import torch

    def forward_torch(image: Any, factor: Any) -> Any:
        return torch.fft.rfft2(torch.from_numpy(image).to(device)) * torch.from_numpy(factor).to(device)

    def backward_torch(spectrum: Any, factor: Any, shape: tuple[int, int]) -> Any:
        if factor is not None:
            spectrum = spectrum * torch.from_numpy(factor).to(device)
        return torch.fft.irfft2(spectrum, s=shape).cpu().numpy()

    return forward_torch, backward_torch
