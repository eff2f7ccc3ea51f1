"""A working image with white noise, which a U-Net of two planes sees beside the image itself.

Faint particles are hidden by noise of low frequencies, which is stronger than they are. Where the noise is made white,
every frequency shows the particle as clearly as the noise there allows.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Side of the patches whose spectra tell that of the noise, pixels: two particles.
_PATCH = 64
# As for working images, in standard deviations.
_CLIP = 5.0


def whitened(images: Tensor) -> Tensor:
    """Divide each frequency by the noise there.

    Parameters
    ----------
    images : (B, h, w) float32
        Working images, on any device. The median spectrum of an image's overlapping patches is taken for its noise.

    Returns
    -------
    (B, h, w) float32
        Noise of standard deviation 1; clipped at 5.
    """
    h, w = images.shape[-2:]
    side = min(_PATCH, h, w)
    centred = images - images.mean((-2, -1), keepdim=True)
    waves = _waves(h, w, images.device) * side
    level = _noise_level(centred, side)
    low = waves.floor().long().clamp(max=level.shape[-1] - 1)
    power = torch.lerp(level[:, low], level[:, (low + 1).clamp(max=level.shape[-1] - 1)], (waves - low).clamp(max=1))
    least = 1e-12 * level.amax(1)[:, None, None].clamp(min=1e-30)
    flat = torch.fft.irfft2(torch.fft.rfft2(centred) / torch.maximum(power, least).sqrt(), s=(h, w))
    return flat.clamp(-_CLIP, _CLIP)


def _noise_level(images: Tensor, side: int) -> Tensor:
    """Power (B, n) at 0, 1, 2... waves in ``side`` pixels: the median of overlapping patches of each image."""
    device = images.device
    window = torch.hann_window(side + 2, periodic=False, device=device)[1:-1]
    window = window[:, None] * window
    rows, columns = (_starts(n, side, device) for n in images.shape[-2:])
    y, x = (at[:, None] + torch.arange(side, device=device) for at in (rows, columns))
    patches = images[:, y[:, None, :, None], x[None, :, None, :]]  # (B, rows, columns, side, side)
    power = (torch.fft.rfft2(patches * window).abs() ** 2).flatten(1, 2).flatten(2)
    shell = (_waves(side, side, device) * side).round().long().flatten()
    of_shell = torch.nn.functional.one_hot(shell).to(power.dtype)
    mean = power @ (of_shell / of_shell.sum(0))
    return mean.median(1).values / window.square().sum()


def _starts(length: int, side: int, device: torch.device) -> Tensor:
    count = max(2 * length // side - 1, 1)
    return torch.linspace(0, length - side, count, device=device).round().long()


def _waves(height: int, width: int, device: torch.device) -> Tensor:
    """Waves a pixel (height, width // 2 + 1) on the grid of a real FFT."""
    y, x = torch.fft.fftfreq(height, device=device), torch.fft.rfftfreq(width, device=device)
    return torch.hypot(y[:, None], x[None])
