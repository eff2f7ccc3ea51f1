"""The published denoising on any device: `denoise.published` in PyTorch, equal except for rounding."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from .nlm import non_local_means

_TILES, _CLIP = 16, 2.0


def published(data: Tensor) -> Tensor:
    """Denoise by the recipe of the published code.

    Parameters
    ----------
    data : (ny, nx) float32
        The micrograph at full size, array order, on any device.

    Returns
    -------
    (ny, nx) uint8
        Array order, on the same device. Sums have another order than OpenCV's. A value may therefore be truncated to
        the next byte, which can change the result by a grey level or two.

    Notes
    -----
    Steps and parameters as in `denoise.published`.
    """
    image = _gaussian(data.flip(0))
    spread = image.std(correction=0)
    if spread > 0:
        image = (image - image.mean()) / spread
    wiener = _wiener(non_local_means(_to_bytes(image)))
    contrast = clahe(_to_bytes(wiener))
    guided = _guided(wiener / 255, contrast.double() / 255, 20, 0.1)
    return _to_bytes(guided).flip(0)


def squeezed(image: Tensor, side: int) -> Tensor:
    """Resize bytes (ny, nx) to (side, side) by linear interpolation without smoothing, as OpenCV does; float32."""
    planes = image[None, None].float()
    small = torch.nn.functional.interpolate(planes, (side, side), mode="bilinear", align_corners=False)
    return (small[0, 0] + 0.5).floor()


def _to_bytes(image: Tensor) -> Tensor:
    low, high = image.min(), image.max()
    scaled = (image - low) / torch.where(high > low, high - low, 1) * 255
    return torch.where(high > low, scaled, 0).to(torch.uint8)


def _gaussian(image: Tensor) -> Tensor:
    """9 x 9 Gaussian of OpenCV's automatic width (1.7 px), in the order of OpenCV's sums.

    Not a convolution: a GPU may shorten its numbers to TF32, which costs grey levels.
    """
    ny, nx = image.shape
    taps = cv2.getGaussianKernel(9, 0, cv2.CV_32F)[:, 0].tolist()
    padded = pad(image[None, None], [4] * 4, mode="reflect")[0, 0]
    across = torch.zeros_like(padded[:, :nx])
    for k, tap in enumerate(taps):
        across.add_(padded[:, k : k + nx], alpha=tap)
    result = across[4 : 4 + ny] * taps[4]
    for k in range(1, 5):
        result.add_(across[4 - k : 4 - k + ny] + across[4 + k : 4 + k + ny], alpha=taps[4 + k])
    return result


def _wiener(image: Tensor) -> Tensor:
    """Wiener filter with the 9 x 9 Gaussian of standard deviation 3 at the corner; bytes -> float64."""
    ny, nx = image.shape
    taps = torch.exp(-0.5 * ((torch.arange(9, dtype=torch.float64) - 4) / 3.0) ** 2).to(image.device)
    taps = taps / taps.sum()
    kernel = torch.fft.fft(taps, n=ny)[:, None] * torch.fft.rfft(taps, n=nx)[None]
    spectrum = torch.fft.rfft2(image.double())
    spectrum *= kernel.conj() / (kernel.abs() ** 2 + 30)
    return torch.fft.irfft2(spectrum, s=(ny, nx)).abs()


def clahe(image: Tensor, tiles: int = _TILES) -> Tensor:
    """Contrast limited adaptive histogram equalisation, as OpenCV's with clip limit 2.0 and so many tiles each way.

    ``image`` (ny, nx) uint8 on any device -> (ny, nx) uint8.
    """
    ny, nx = image.shape
    padded = image
    if ny % tiles or nx % tiles:
        # OpenCV pads both axes if one of them does not fit; the other then gets a whole extra step
        extra = (0, tiles - nx % tiles, 0, tiles - ny % tiles)
        padded = pad(image[None, None].float(), extra, mode="reflect")[0, 0].to(torch.uint8)
    th, tw = padded.shape[0] // tiles, padded.shape[1] // tiles
    cells = padded.view(tiles, th, tiles, tw).permute(0, 2, 1, 3).reshape(tiles**2, th * tw).long()
    cells += 256 * torch.arange(tiles**2, device=image.device)[:, None]
    histogram = torch.bincount(cells.flatten(), minlength=256 * tiles**2).view(-1, 256).cpu().numpy()
    table = torch.from_numpy(_tables(histogram, th * tw)).to(image.device)

    def neighbours(length: int, tile: int) -> tuple[Tensor, Tensor, Tensor]:
        at = torch.arange(length, device=image.device, dtype=torch.float32) * (1.0 / tile) - 0.5
        first = at.floor()
        return first.clamp(0).long(), (first + 1).clamp(max=tiles - 1).long(), at - first

    y1, y2, wy = neighbours(ny, th)
    x1, x2, wx = neighbours(nx, tw)
    grey, flat = image.long(), table.flatten()

    def looked_up(y: Tensor, x: Tensor) -> Tensor:
        return flat[((y[:, None] * tiles + x[None]) << 8) + grey]

    upper = looked_up(y1, x1) * (1 - wx) + looked_up(y1, x2) * wx
    lower = looked_up(y2, x1) * (1 - wx) + looked_up(y2, x2) * wx
    return (upper * (1 - wy)[:, None] + lower * wy[:, None]).round().clamp(0, 255).to(torch.uint8)


def _tables(histogram: np.ndarray, pixels: int) -> np.ndarray:
    """New grey level of each level in each tile, from clipped cumulative histograms; (tiles, 256) float32."""
    limit = max(int(_CLIP * pixels / 256), 1)
    excess = np.maximum(histogram - limit, 0).sum(1)
    clipped = np.minimum(histogram, limit) + (excess // 256)[:, None]
    for tile, rest in enumerate((excess % 256).tolist()):
        if rest:
            step = max(256 // rest, 1)
            clipped[tile, : step * rest : step] += 1
    scale = np.float32(255) / np.float32(pixels)
    return np.clip(np.rint(clipped.cumsum(1).astype(np.float32) * scale), 0, 255).astype(np.float32)


def _guided(guide: Tensor, image: Tensor, box: int, epsilon: float) -> Tensor:
    def mean(a: Tensor) -> Tensor:
        before, after = box // 2, math.ceil(box / 2) - 1
        padded = pad(a[None, None], (before, after, before, after), mode="reflect")
        return avg_pool2d(avg_pool2d(padded, (box, 1), 1), (1, box), 1)[0, 0]

    mean_g, mean_i = mean(guide), mean(image)
    covariance = mean(guide * image) - mean_g * mean_i
    variance = mean(guide * guide) - mean_g * mean_g
    a = covariance / (variance + epsilon)
    return mean(a) * guide + mean(mean_i - a * mean_g)
