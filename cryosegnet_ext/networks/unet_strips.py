"""The U-Net on a CPU: level by level in strips of rows, so that what one layer writes the next reads from the cache.

It computes what `AttentionUNet` computes, to rounding. Batch norms are folded into their convolutions. A strip has the
rows around it that its convolutions see, so nothing is cut off. Of a whole level only the skip connection and the
level's result are kept, and memory is a fifth.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, max_pool2d
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .cpu_threads import each
from .tile_position import TilePosition, upsampled_as_part

ROWS, LEAST_ROWS, STRIPS = 64, 16, 8
"""Most and fewest rows of a strip, and how many strips a level has at least if they have more rows."""

_HALO = 2

Layer = tuple[Tensor, Tensor]
"""Weight and bias of a convolution."""

Strip = tuple[int, int]
"""First and end row."""


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
        self._decoders = [
            (self._gate(getattr(model, f"d{i}").ag), self._pair(getattr(model, f"d{i}").c1)) for i in levels
        ]
        self._output = self._layer(model.output.weight, model.output.bias)

    def _layer(self, weight: Tensor, bias: Tensor | None) -> Layer:
        assert bias is not None
        # without the copy the network's own tensors would be used where nothing was folded
        return weight.detach().to(self._dtype, memory_format=torch.channels_last), bias.detach().to(self._dtype)

    def _folded(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
        """Weight and bias of a convolution with its batch norm, float32."""
        assert norm.running_mean is not None and norm.running_var is not None
        return fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )

    def _pair(self, block: Any) -> tuple[Layer, Layer]:
        parts = block.conv
        return self._layer(*self._folded(parts[0], parts[1])), self._layer(*self._folded(parts[3], parts[4]))

    def _gate(self, gate: Any) -> tuple[Layer, Layer]:
        """Both inner convolutions, whose results are added, as one of the concatenated channels; and the outer one."""
        coarse, skip = (self._folded(part[0], part[1]) for part in (gate.Wg, gate.Ws))
        inner = self._layer(torch.cat([coarse[0], skip[0]], 1), coarse[1] + skip[1])
        outer = self._layer(gate.output[0].weight, gate.output[0].bias)
        return inner, outer

    def __call__(self, image: Tensor, position: TilePosition | None = None) -> Tensor:
        """Planes (planes, h, w) float32 -> probability (h, w) float32, as `AttentionUNet.forward` and a sigmoid.

        Height and width are multiples of the network's stride. ``position``: of a part in a whole.
        """
        x = image[None].to(self._dtype, memory_format=torch.channels_last)
        skips = []
        for layers in self._encoders:
            skip, x = _encoded(x, layers)
            skips.append(skip)
        bottom = _empty(x, len(self._bottom[1][1]), x.shape[2], x.shape[3])

        def descend(strip: Strip) -> None:
            first, last = strip
            bottom[:, :, first:last] = _convolved(x, 0, first, last, self._bottom)

        each(descend, _strips(x.shape[2]))
        result = torch.empty(image.shape[1:])
        below = bottom
        for gate, layers in self._decoders:
            skip = skips.pop()
            at = None if position is None else TilePosition(*(value >> len(skips) for value in position))
            below = self._up(below, skip, at, gate, layers, None if skips else result)
        return result

    def _up(
        self,
        x: Tensor,
        skip: Tensor,
        position: TilePosition | None,
        gate: tuple[Layer, Layer],
        layers: tuple[Layer, Layer],
        result: Tensor | None,
    ) -> Tensor:
        """`Decoder.forward` of what comes up (1, D, h / 2, w / 2) and a skip connection (1, C, h, w).

        The last level writes the probability into ``result`` and keeps nothing else.
        """
        height, channels = skip.shape[2], x.shape[1]
        whole = _empty(skip, skip.shape[1], *skip.shape[2:]) if result is None else skip

        def ascend(strip: Strip) -> None:
            first, last = strip
            top, bottom = _around(first, last, height)
            both = torch.cat([_upsampled(x, top, bottom, position), skip[:, :, top:bottom]], 1)
            inner = conv2d(both, *gate[0]).relu_()
            both[:, channels:].mul_(conv2d(inner, *gate[1]).sigmoid_())
            part = _convolved(both, top, first, last, layers, height)
            if result is None:
                whole[:, :, first:last] = part
            else:
                result[first:last] = torch.sigmoid(conv2d(part, *self._output).float())[0, 0]

        each(ascend, _strips(height))
        return whole


def _by_pixel(x: Tensor) -> Tensor:
    """(1, C, h, w) in channels-last order -> (1, h, w, C), the same memory."""
    return x.permute(0, 2, 3, 1)


def _strips(height: int) -> list[Strip]:
    """First and end row of each strip of an image of this height: even, so that pooling does not cross their ends."""
    rows = min(ROWS, max(LEAST_ROWS, 2 * -(-height // (2 * STRIPS))))
    return [(first, min(first + rows, height)) for first in range(0, height, rows)]


def _empty(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    return torch.empty((1, channels, height, width), dtype=like.dtype, memory_format=torch.channels_last)


def _around(first: int, last: int, height: int) -> tuple[int, int]:
    """The rows that two 3 x 3 convolutions see for these rows."""
    return max(first - _HALO, 0), min(last + _HALO, height)


def _convolved(x: Tensor, start: int, first: int, last: int, layers: tuple[Layer, Layer], height: int = 0) -> Tensor:
    """Rows first..last after two of [convolution, ReLU].

    ``x`` begins at row ``start`` and has at least the rows around; ``height`` is that of the whole, default ``x``'s.
    """
    height = height or x.shape[2]
    top, bottom = _around(first, last, height)
    y = x[:, :, top - start : bottom - start]
    # at the image's border zeros are outside, elsewhere the rows around
    edge = first < _HALO or last + _HALO > height
    for weight, bias in layers:
        y = conv2d(y, weight, bias, padding=(int(edge), 1)).relu_()
    skipped = first - top if edge else 0
    return y[:, :, skipped : skipped + last - first]


def _encoded(x: Tensor, layers: tuple[Layer, Layer]) -> tuple[Tensor, Tensor]:
    """A level's skip connection (1, C, h, w) and what goes down (1, C, h / 2, w / 2)."""
    height, width = x.shape[2:]
    channels = len(layers[1][1])
    skip, pooled = _empty(x, channels, height, width), _empty(x, channels, height // 2, width // 2)

    def work(strip: Strip) -> None:
        first, last = strip
        part = _convolved(x, 0, first, last, layers)
        skip[:, :, first:last] = part
        pooled[:, :, first // 2 : last // 2] = max_pool2d(part, 2)

    each(work, _strips(height))
    return skip, pooled


def _upsampled(x: Tensor, first: int, last: int, position: TilePosition | None) -> Tensor:
    """Rows first..last of ``x`` (1, D, h / 2, w / 2), upsampled twofold (bilinear, align_corners)."""
    coarse, width = x.shape[2], 2 * x.shape[3]
    if position is not None:
        return upsampled_as_part(x, position, (first, last))
    at = torch.arange(first, last, dtype=torch.float64) * ((coarse - 1) / (2 * coarse - 1))
    low = at.long().clamp(max=max(coarse - 2, 0))
    weight = (at - low).to(x.dtype)[:, None, None]
    lines = _by_pixel(x)
    rows = torch.lerp(lines.index_select(1, low), lines.index_select(1, (low + 1).clamp(max=coarse - 1)), weight)
    return interpolate(rows.permute(0, 3, 1, 2), (last - first, width), mode="bilinear", align_corners=True)
