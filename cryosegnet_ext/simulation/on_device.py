"""Simulated micrographs on a GPU, several of one shape at a time: `micrograph.electrons_of` in PyTorch.

What is in them is drawn on the CPU (`micrograph.draw`), and is the same on both paths; noise comes from a generator of
the device. With the same noise the intensities are those of the CPU path except for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from ..picking.on_device import resizing
from .detector import FEW_ELECTRONS
from .micrograph import GRAIN, Drawn
from .optics import Optics
from .placement import side_of
from .scene import ProjectionStack

# Ingredients of a scene that the CPU path alone has.
_CPU_ONLY = ("stripes", "ice_thickness", "ice_wedge", "tilt", "drift")


class Noise:
    """Random numbers of one device; the same seed gives the same ones there."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self._generator = torch.Generator(device).manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        """Of mean 0 and standard deviation 1, float32."""
        return torch.randn(shape, generator=self._generator, device=self.device)

    def angles(self, count: int) -> Tensor:
        """(count,) float32, radian."""
        return 2 * math.pi * torch.rand(count, generator=self._generator, device=self.device)

    def poisson(self, rate: Tensor) -> Tensor:
        """Counts at each rate, float32."""
        return torch.poisson(rate, generator=self._generator)


class StacksOnDevice:
    """Projections of specimens, uploaded once."""

    def __init__(self, stacks: Sequence[ProjectionStack], device: torch.device) -> None:
        self.stacks, self.device = stacks, device
        self._images = [torch.from_numpy(np.asarray(stack.images, np.float32)).to(device) for stack in stacks]

    def potential(self, drawn: Sequence[Drawn], numbers: Sequence[Sequence[int]]) -> Tensor:
        """Projected potential (b, ny, nx) of the particles of wide frames, volt x angstrom.

        ``numbers`` has for each frame the indices here of the specimens from which it was drawn.
        """
        ny, nx = drawn[0].shape
        found = [self._particles(one, of) for one, of in zip(drawn, numbers)]
        border = max((images.shape[1] for frame in found for images, _, _ in frame), default=0)
        canvas = torch.zeros(len(drawn), ny + 2 * border, nx + 2 * border, device=self.device)
        for plane, frame in zip(canvas, found):
            for images, top, left in frame:
                reach = border + torch.arange(images.shape[1], device=self.device)
                at = (top[:, None] + reach)[:, :, None] * canvas.shape[2] + (left[:, None] + reach)[:, None]
                plane.view(-1).index_add_(0, at.flatten(), images.flatten())
        return canvas[:, border : border + ny, border : border + nx]

    def _particles(self, drawn: Drawn, numbers: Sequence[int]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each specimen: projections (n, m, m) as they lie in the frame, first row and column (n,) of each."""
        placed, found = drawn.placed, []
        ny, nx = drawn.shape
        for which, number in enumerate(numbers):
            stack, images = self.stacks[number], self._images[number]
            m = side_of(stack, drawn.pixel_size)
            left, top = (np.rint(np.array(v) - (m - 1) / 2).astype(np.int64) for v in (placed.x, placed.y))
            inside = (left > -m) & (top > -m) & (left < nx) & (top < ny)
            chosen = np.flatnonzero((np.array(placed.stack, int) == which) & inside)
            if not len(chosen):
                continue
            pose = [np.array(v, np.int64)[chosen] for v in (placed.view, placed.turns, placed.mirrored)]
            view, turns, mirrored, first_row, first_column = torch.from_numpy(
                np.stack([*pose, top[chosen], left[chosen]])
            ).to(self.device)
            projections = images[view]
            n = images.shape[1]
            if n != m:
                matrix = resizing(n, m, cv2.INTER_AREA if m < n else cv2.INTER_LINEAR, self.device)
                projections = matrix @ projections @ matrix.T
            found.append((turned(projections, turns, mirrored), first_row, first_column))
        return found


def turned(images: Tensor, turns: Tensor, mirrored: Tensor) -> Tensor:
    """Square images (b, n, n) by quarter turns (b,), and then those that are mirrored (b,) left to right."""
    n = images.shape[1]
    pixels = torch.arange(n * n, device=images.device).view(n, n)
    ways = [torch.rot90(pixels, k) for k in range(4)]
    table = torch.stack(ways + [way.flip(1) for way in ways]).flatten(1)
    return images.flatten(1).gather(1, table[turns + 4 * mirrored.long()]).view_as(images)


def electrons(drawn: Sequence[Drawn], numbers: Sequence[Sequence[int]], stacks: StacksOnDevice, noise: Noise) -> Tensor:
    """Electrons counted in drawn micrographs of one shape; (b, ny, nx) float32.

    Parameters
    ----------
    drawn
        From `micrograph.draw`.
    numbers
        For each, the indices in ``stacks`` of the specimens from which it was drawn.
    stacks, noise
        On the device that does it.

    Raises
    ------
    ValueError
        A scene has an ingredient that the CPU path alone has: stripes, thickness, tilt, drift, modulation transfer.
    """
    rows, columns = drawn[0].cut
    return counted(intensities(drawn, numbers, stacks, noise), drawn, noise)[:, rows, columns]


def intensities(
    drawn: Sequence[Drawn], numbers: Sequence[Sequence[int]], stacks: StacksOnDevice, noise: Noise
) -> Tensor:
    """`micrograph.intensity_of` for several wide frames, (b, ny, nx)."""
    device, shape = noise.device, drawn[0].shape
    scenes = [one.scene for one in drawn]
    for scene in scenes:
        if any(getattr(scene, name) for name in _CPU_ONLY) or scene.mtf < 1:
            raise ValueError(f"a scene with {', '.join(_CPU_ONLY)} or a modulation transfer is for the CPU")
    per_frame = _per_frame(device)
    volts = [scene.optics.interaction * scene.contrast for scene in scenes]
    phase = stacks.potential(drawn, numbers) * per_frame(volts)
    absorption: Tensor | None = None
    for i, one in enumerate(drawn):  # most frames are clean
        rest = one.planes.phase + one.clumps * np.float32(volts[i])
        if rest.any():
            phase[i] += torch.from_numpy(rest).to(device)
        if (one.planes.absorption != 1).any():
            absorption = torch.ones_like(phase) if absorption is None else absorption
            absorption[i] = torch.from_numpy(one.planes.absorption).to(device)
    grain = per_frame([GRAIN * one.scene.structural_noise / one.pixel_size for one in drawn])
    phase += grain * noise.normal(len(drawn), *shape)
    transfer = _transfer([scene.optics for scene in scenes], shape, [one.pixel_size for one in drawn], device)
    result = 1 + 2 * torch.fft.irfft2(torch.fft.rfft2(phase) * transfer, s=shape)
    if absorption is not None:
        result = result * absorption
    result = result.clamp_(min=0.02)
    angle, bend = noise.angles(len(drawn))[:, None, None], _smooth(noise.normal(len(drawn), *shape), max(shape) / 3)
    down, across = (torch.linspace(-0.5, 0.5, n, device=device) for n in shape)
    ramp = torch.cos(angle) * across + torch.sin(angle) * down[:, None]
    return result * (1 + per_frame([scene.gradient for scene in scenes]) * (ramp + 0.3 * bend))


def counted(intensity: Tensor, drawn: Sequence[Drawn], noise: Noise) -> Tensor:
    """`detector.detect` of several wide frames, (b, ny, nx), with a perfect detector."""
    per_frame = _per_frame(noise.device)
    doses = [one.scene.dose * one.pixel_size**2 for one in drawn]
    shares = [one.scene.detector_efficiency for one in drawn]
    share = per_frame(shares)
    expected = intensity.clamp(min=0.01) * per_frame(doses)
    result = expected + noise.normal(*intensity.shape) * (expected / share).sqrt()
    few = [i for i, (dose, part) in enumerate(zip(doses, shares)) if dose * part < FEW_ELECTRONS]
    if few:
        result[few] = noise.poisson(expected[few] * share[few]) / share[few]
    return result


def _per_frame(device: torch.device) -> Callable[[Sequence[float]], Tensor]:
    """Numbers of b frames as a tensor (b, 1, 1)."""
    return lambda values: torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


def _transfer(
    optics: Sequence[Optics], shape: tuple[int, int], pixel_sizes: Sequence[float], device: torch.device
) -> Tensor:
    """`optics.contrast_transfer` of several frames, (b, ny, nx // 2 + 1)."""
    columns = [
        pixel_sizes,
        [(o.defocus_u + o.defocus_v) / 2 for o in optics],
        [(o.defocus_u - o.defocus_v) / 2 for o in optics],
        [2 * math.radians(o.defocus_angle) for o in optics],
        [float(o.wavelength) for o in optics],
        [o.cs * 1e7 for o in optics],
        [math.asin(o.amplitude_contrast) for o in optics],
        [o.b_factor for o in optics],
    ]
    values = torch.tensor(columns, dtype=torch.float64, device=device)[:, :, None, None]
    pixel, mean, half, twice, wavelength, cs, shift, b_factor = values
    sy = torch.fft.fftfreq(shape[0], dtype=torch.float64, device=device)[:, None] / pixel
    sx = torch.fft.rfftfreq(shape[1], dtype=torch.float64, device=device) / pixel
    x2, y2 = sx**2, sy**2
    s2 = x2 + y2
    chi = s2 * (mean - 0.5 * wavelength**2 * cs * s2)
    chi += half * torch.cos(twice) * (x2 - y2) + 2 * half * torch.sin(twice) * sx * sy
    chi = chi * (math.pi * wavelength) + shift
    return (-torch.sin(chi) * torch.exp(-b_factor * s2 / 4)).float()


def _smooth(field: Tensor, scale: float) -> Tensor:
    """`textures.smooth_noise` of white noise (b, ny, nx)."""
    ny, nx = field.shape[1:]
    fy, fx = torch.fft.fftfreq(ny, device=field.device)[:, None], torch.fft.rfftfreq(nx, device=field.device)
    spectrum = torch.fft.rfft2(field) * torch.exp(-2 * (math.pi * scale) ** 2 * (fx**2 + fy**2))
    smooth = torch.fft.irfft2(spectrum, s=(ny, nx))
    return smooth / smooth.std((1, 2), correction=0, keepdim=True).clamp(min=1e-12)
