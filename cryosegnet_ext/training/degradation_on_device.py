"""`degradation` and `distractors` for several images of one shape, on a GPU: equal except for rounding.

Filters are matrices, one for each image, and the grey levels of JPEG files are those of the coded blocks, without the
lossless half of the format.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ..picking.denoise_torch import clahe
from ..picking.on_device import medians
from .degradation import FILE_RANGE, JPEG_QUALITY, LOCAL_RANGE, Degradation
from .distractors import Distractor, smoothing

# Quantisation of brightness at quality 50: Annex K of ITU-T T.81, table K.1.
_JPEG_TABLE = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""


def with_distractors(images: Tensor, distractors: Sequence[Sequence[Distractor]], diameters: Sequence[float]) -> Tensor:
    """Images (b, n, n), each with its distractors; diameters of the particles in pixels."""
    images = images.clone()
    for turn in range(max(map(len, distractors), default=0)):
        which = [i for i, own in enumerate(distractors) if len(own) > turn]
        planes = torch.from_numpy(np.stack([distractors[i][turn].plane for i in which])).to(images.device)
        strength = torch.tensor([distractors[i][turn].strength for i in which], device=images.device)
        smooth = blurred(images[which], [smoothing(diameters[i]) for i in which])[:, ::2, ::2]
        level = (1.4826 * medians((smooth - medians(smooth)).abs())).clamp(min=1e-9)
        images[which] += strength.float()[:, None, None] * level * planes
    return images


def degraded(images: Tensor, degradations: Sequence[Degradation]) -> Tensor:
    """Images (b, n, n), each with its degradation."""
    images = images.clone()

    def change(name: str, work: Callable[[Tensor, list[int]], Tensor]) -> None:
        which = [i for i, one in enumerate(degradations) if getattr(one, name)]
        if which:
            images[which] = work(images[which], which)

    def local_contrast(some: Tensor, which: list[int]) -> Tensor:
        grey = _bytes(some, LOCAL_RANGE).to(torch.uint8)
        return torch.stack([clahe(one, degradations[i].tiles) for one, i in zip(grey, which)]).float()

    def boxes(some: Tensor, which: list[int]) -> Tensor:
        sides = torch.tensor([degradations[i].box for i in which], device=some.device)[:, None, None]

        def weight(offset: Tensor) -> Tensor:
            first = offset + sides // 2
            return ((first >= 0) & (first < sides)) / sides

        return _filtered(_filtered(some, weight), weight)

    change("blur", lambda some, which: blurred(some, [degradations[i].blur for i in which]))
    change("tiles", local_contrast)
    change("box", boxes)
    change("eight_bits", lambda some, _: _bytes(some, FILE_RANGE))
    change("jpeg", lambda some, _: as_jpeg(some))
    return images


def blurred(images: Tensor, sigmas: Sequence[float]) -> Tensor:
    """``cv2.GaussianBlur`` of images (b, n, n), each with its own standard deviation in pixels."""
    sigma = torch.tensor(sigmas, dtype=torch.float64, device=images.device)[:, None, None]
    reach = (8 * sigma + 1).round() // 2  # as OpenCV sets it for floats

    def bell(offset: Tensor) -> Tensor:
        return torch.exp(-0.5 * (offset / sigma) ** 2) * (offset.abs() <= reach)

    whole = bell(torch.arange(-int(reach.max()), int(reach.max()) + 1, device=images.device)).sum(2, keepdim=True)
    return _filtered(images, lambda offset: bell(offset) / whole)


def _filtered(images: Tensor, weight: Callable[[Tensor], Tensor]) -> Tensor:
    """Images (b, n, n) filtered along both axes, reflected at the border without its pixel.

    ``weight`` gives for offsets (n, n) of the source's row from the result's row the weights (b, n, n).
    """
    n = images.shape[1]
    at = torch.arange(n, device=images.device)
    result, source = at[:, None], at[None]
    matrix = weight(source - result)
    matrix = matrix + torch.where(source > 0, weight(-source - result), 0)
    matrix = matrix + torch.where(source < n - 1, weight(2 * (n - 1) - source - result), 0)
    matrix = matrix.to(images.dtype)
    return matrix @ images @ matrix.transpose(1, 2)


def _bytes(images: Tensor, percentiles: tuple[float, float]) -> Tensor:
    """Grey levels of images (b, n, n), whole numbers from 0 to 255, as floats."""
    shares = torch.tensor(percentiles, device=images.device, dtype=images.dtype) / 100
    low, high = torch.quantile(images.flatten(1), shares, dim=1)[:, :, None, None]
    return (((images - low) / (high - low).clamp(min=1e-6)).clamp(0, 1) * 255).floor()


def as_jpeg(grey: Tensor) -> Tensor:
    """Grey levels (b, n, n) after a JPEG file of `JPEG_QUALITY`, within a few levels of libjpeg's."""
    b, n, _ = grey.shape
    step = torch.arange(8, dtype=torch.float32, device=grey.device)
    cosine = torch.cos((2 * step + 1) * step[:, None] * (torch.pi / 16)) / 2
    cosine[0] /= 2**0.5
    table = torch.tensor([int(word) for word in _JPEG_TABLE.split()], device=grey.device).view(8, 8)
    quantum = ((table * (200 - 2 * JPEG_QUALITY) + 50) // 100).clamp(1, 255)
    more = -n % 8
    padded = pad(grey[None], (0, more, 0, more), mode="replicate")[0] - 128
    side = (n + more) // 8
    blocks = padded.view(b, side, 8, side, 8).transpose(2, 3)
    coded = (cosine @ blocks @ cosine.T / quantum).round() * quantum
    decoded = (cosine.T @ coded @ cosine).transpose(2, 3).reshape(b, n + more, n + more)
    return (decoded + 128).round().clamp(0, 255)[:, :n, :n]
