"""Strips of rows of an image on a CPU: their convolutions, and the memory of the levels that they make up."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.utils.fusion import fuse_conv_bn_weights

ROWS, LEAST_ROWS, STRIPS = 64, 16, 8
"""Most and fewest rows of a strip, and how many strips a level has at least if they have more rows."""

KEPT = 1 << 29
"""Most bytes of levels that are kept between images."""

HALO = 2
"""Rows that two 3 x 3 convolutions see on either side."""

Layer = tuple[Tensor, Tensor]
"""Weight and bias of a convolution."""

Strip = tuple[int, int]
"""First and end row."""


def as_layer(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Layer:
    """A copy of a convolution's weight, in channels-last order, and its bias."""
    assert bias is not None
    # without the copy the network's own tensors would be used where nothing was folded
    return weight.detach().to(dtype, memory_format=torch.channels_last), bias.detach().to(dtype)


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with its batch norm, float32."""
    assert norm.running_mean is not None and norm.running_var is not None
    return fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )


def strips(height: int) -> list[Strip]:
    """First and end row of each strip of an image of this height: even, so that pooling does not cross their ends."""
    rows = min(ROWS, max(LEAST_ROWS, 2 * -(-height // (2 * STRIPS))))
    return [(first, min(first + rows, height)) for first in range(0, height, rows)]


class LevelMemory:
    """Memory for the levels of a U-Net, used again for its next image.

    The system fills new memory with zeros, page by page, which takes longer than to write a level.
    """

    def __init__(self) -> None:
        self._flat: dict[tuple[str, int], Tensor] = {}

    def empty(self, name: str, like: Tensor, channels: int, height: int, width: int) -> Tensor:
        """(1, channels, height, width) in channels-last order, until this name and width is asked for again."""
        size, key = channels * height * width, (name, channels)
        flat = self._flat.get(key)
        if flat is None or flat.dtype != like.dtype or len(flat) < size:
            self._flat.pop(key, None)
            flat = self._flat[key] = torch.empty(size, dtype=like.dtype)
        return flat[:size].view(1, height, width, channels).permute(0, 3, 1, 2)

    @property
    def bytes(self) -> int:
        """Of all levels."""
        return sum(flat.nbytes for flat in self._flat.values())


_unused: queue.Queue[LevelMemory] = queue.Queue(1)


@contextlib.contextmanager
def level_memory() -> Iterator[LevelMemory]:
    """Memory that no other thread uses meanwhile; afterwards up to `KEPT` bytes of it wait for the next image."""
    try:
        memory = _unused.get_nowait()
    except queue.Empty:
        memory = LevelMemory()
    yield memory
    if memory.bytes <= KEPT:
        with contextlib.suppress(queue.Full):
            _unused.put_nowait(memory)


def by_pixel(x: Tensor) -> Tensor:
    """(1, C, h, w) in channels-last order -> (1, h, w, C), the same memory."""
    return x.permute(0, 2, 3, 1)


def around(first: int, last: int, height: int) -> tuple[int, int]:
    """The rows that two 3 x 3 convolutions see for these rows."""
    return max(first - HALO, 0), min(last + HALO, height)


def at_border(first: int, last: int, height: int) -> bool:
    """Whether two 3 x 3 convolutions see beyond the image."""
    return first < HALO or last + HALO > height


def convolved(x: Tensor, layer: Layer, border: bool) -> Tensor:
    """[Convolution, ReLU]; the first and last row are lost except at the image's border, outside of which are zeros."""
    return conv2d(x, *layer, padding=(int(border), 1)).relu_()
