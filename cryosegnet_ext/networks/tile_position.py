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


def upsampled_as_part(x: Tensor, position: TilePosition) -> Tensor:
    """Upsample a tile twofold (bilinear, align_corners) so that it equals the same part of the whole, upsampled.

    ``x`` (B, C, H/2, W/2), ``position`` on the fine grid -> (B, C, H, W). Beyond the tile's border, its border
    pixels are repeated.
    """
    for axis, first, length in ((2, position.top, position.height), (3, position.left, position.width)):
        low, high, weight = neighbours(torch.arange(2 * x.shape[axis], device=x.device), first, length, x.shape[axis])
        weight = weight.to(x.dtype).reshape([-1 if i == axis else 1 for i in range(4)])
        x = torch.lerp(x.index_select(axis, low), x.index_select(axis, high), weight)
    return x.contiguous(memory_format=torch.channels_last)


def neighbours(at: Tensor, first: int, length: int, coarse: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two coarse lines that each fine line lies between, and how near it is to the second (0..1), float64.

    Parameters
    ----------
    at : (n,) int
        Fine lines of a tile, counted from its first.
    first, length
        The tile's first fine line in the whole image, and the whole image's number of them.
    coarse
        Number of the tile's coarse lines. Beyond the tile's border, its border lines are repeated.
    """
    fine = at.double() + first
    place = (fine * ((length // 2 - 1) / (length - 1)) - first / 2).clamp(0, coarse - 1)
    low = place.floor().long().clamp(max=max(coarse - 2, 0))
    return low, (low + 1).clamp(max=coarse - 1), place - low
