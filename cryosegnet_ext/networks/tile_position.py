"""Where a tile lies in its image, and upsampling that depends on it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class TilePosition(NamedTuple):
    """First row and column of a tile, height and width of the whole image: multiples of the network's stride."""

    top: int
    left: int
    height: int
    width: int


def upsampled_as_part(x: Tensor, position: TilePosition, rows: tuple[int, int] | None = None) -> Tensor:
    """Upsample a tile twofold (bilinear, align_corners) so that it equals the same part of the whole, upsampled.

    ``x`` (B, C, H/2, W/2), ``position`` on the fine grid -> (B, C, H, W), or only the ``rows`` (first, end) of it.
    Beyond the tile's border, its border pixels are repeated.
    """
    for axis, first, length in ((2, position.top, position.height), (3, position.left, position.width)):
        coarse = x.shape[axis]
        start, end = rows if rows is not None and axis == 2 else (0, 2 * coarse)
        fine = torch.arange(first + start, first + end, device=x.device, dtype=torch.float64)
        at = (fine * ((length // 2 - 1) / (length - 1)) - first / 2).clamp(0, coarse - 1)
        low = at.floor().long().clamp(max=max(coarse - 2, 0))
        weight = (at - low).to(x.dtype).reshape([-1 if i == axis else 1 for i in range(4)])
        high = (low + 1).clamp(max=coarse - 1)
        x = torch.lerp(x.index_select(axis, low), x.index_select(axis, high), weight)
    return x.contiguous(memory_format=torch.channels_last)
