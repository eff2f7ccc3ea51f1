"""The U-Net on a CPU: level by level in strips of rows, so that what one layer writes the next reads from the cache.

It computes what `AttentionUNet` computes, to rounding. Batch norms are folded into their convolutions. A strip has the
rows around it that its convolutions see, so nothing is cut off. Of a whole level only the skip connection and the
level's result are kept, and memory is a fifth.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

from .cpu_threads import each
from .strips import Layer, LevelMemory, Strip, around, as_layer, at_border, convolved, folded, level_memory, strips
from .tile_position import TilePosition
from .unet_ascent import Ascent


class StripUNet:
    """A U-Net for one image or tile after another.

    Parameters
    ----------
    model : AttentionUNet
        In evaluation mode, on the CPU. Its weights are copied.
    dtype
        In which it computes.
    """

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        self._dtype = dtype
        levels = range(1, model.levels + 1)
        self._encoders = [self._pair(getattr(model, f"e{i}").conv) for i in levels]
        self._bottom = self._pair(model.b1)
        self._decoders = [Ascent(getattr(model, f"d{i}"), dtype) for i in levels]
        self._output = as_layer(model.output.weight, model.output.bias, dtype)

    def _pair(self, block: Any) -> tuple[Layer, Layer]:
        parts = block.conv
        first, second = folded(parts[0], parts[1]), folded(parts[3], parts[4])
        return as_layer(*first, self._dtype), as_layer(*second, self._dtype)

    def __call__(self, image: Tensor, position: TilePosition | None = None) -> Tensor:
        """Planes (planes, h, w) float32 -> probability (h, w) float32, as `AttentionUNet.forward` and a sigmoid.

        Height and width are multiples of the network's stride. ``position``: of a part in a whole.
        """
        with level_memory() as memory:
            return self._run(image, position, memory)

    def _run(self, image: Tensor, position: TilePosition | None, memory: LevelMemory) -> Tensor:
        x = image[None].to(self._dtype, memory_format=torch.channels_last)
        skips = []
        for layers in self._encoders:
            skip, x = _encoded(x, layers, memory)
            skips.append(skip)
        bottom = memory.empty("up", x, len(self._bottom[1][1]), x.shape[2], x.shape[3])

        def descend(strip: Strip) -> None:
            bottom[:, :, strip[0] : strip[1]] = _convolved_twice(x, strip, self._bottom)

        each(descend, strips(x.shape[2]))
        below = bottom
        for decoder in self._decoders:
            skip = skips.pop()
            at = None if position is None else TilePosition(*(value >> len(skips) for value in position))
            if skips:
                below = decoder(below, skip, at, memory.empty("up", skip, *skip.shape[1:]))
            else:
                below = decoder(below, skip, at, torch.empty(image.shape[1:]), self._probability)
        return below

    def _probability(self, x: Tensor) -> Tensor:
        return torch.sigmoid(conv2d(x, *self._output).float())[0, 0]


def _convolved_twice(x: Tensor, strip: Strip, layers: tuple[Layer, Layer]) -> Tensor:
    """The rows of a strip after two of [convolution, ReLU]."""
    first, last = strip
    top, bottom = around(first, last, x.shape[2])
    border = at_border(first, last, x.shape[2])
    y = x[:, :, top:bottom]
    for layer in layers:
        y = convolved(y, layer, border)
    skipped = first - top if border else 0
    return y[:, :, skipped : skipped + last - first]


def _encoded(x: Tensor, layers: tuple[Layer, Layer], memory: LevelMemory) -> tuple[Tensor, Tensor]:
    """A level's skip connection (1, C, h, w) and what goes down (1, C, h / 2, w / 2)."""
    height, width = x.shape[2:]
    channels = len(layers[1][1])
    skip = memory.empty("skip", x, channels, height, width)
    pooled = memory.empty("down", x, channels, height // 2, width // 2)

    def work(strip: Strip) -> None:
        first, last = strip
        part = _convolved_twice(x, strip, layers)
        skip[:, :, first:last] = part
        pooled[:, :, first // 2 : last // 2] = max_pool2d(part, 2)

    each(work, strips(height))
    return skip, pooled
