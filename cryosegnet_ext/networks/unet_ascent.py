"""A decoder level of the U-Net on a CPU, in strips of rows, convolving before it upsamples.

`Decoder` upsamples what comes from below and convolves it there. Both are linear, so the products with the weights,
which cost most, can be made first, on a quarter of the pixels: one for each of the nine places of the 3 x 3
convolution. Upsampling then is a product with a matrix that also sums over these places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, linear

from .cpu_threads import each
from .strips import Strip, around, as_layer, at_border, by_pixel, convolved, folded, strips
from .tile_position import TilePosition, neighbours

# Rows whose products stay in the processor's cache; even.
_ROWS = 14
# Columns that are made at once, and how many coarse columns they and their neighbours see.
_COLUMNS, _SEEN = 16, 10

Output = Callable[[Tensor], Tensor]
"""Strip of a level (1, C, rows, w) -> (rows, w)."""


class Ascent:
    """`Decoder` with its batch norms folded.

    Parameters
    ----------
    decoder : Decoder
        In evaluation mode, on the CPU. Its weights are copied.
    dtype
        In which it computes.
    """

    def __init__(self, decoder: Any, dtype: torch.dtype) -> None:
        gate, block = decoder.ag, decoder.c1.conv
        below, beside = (folded(part[0], part[1]) for part in (gate.Wg, gate.Ws))
        self._gate_below = _flat(below[0], below[1] + beside[1], dtype)
        self._gate_beside = _flat(beside[0], None, dtype)
        self._gate_out = _flat(gate.output[0].weight, gate.output[0].bias, dtype)
        weight, bias = folded(block[0], block[1])
        deep = below[0].shape[1]
        self._first = as_layer(weight[:, deep:], bias, dtype)
        self._second = as_layer(*folded(block[3], block[4]), dtype)
        # (out, in, 3 rows, 3 columns) -> for each of the 3 rows a matrix (in, 3 columns x out)
        places = weight[:, :deep].detach().permute(2, 1, 3, 0)
        self._places = places.reshape(3, deep, -1).to(dtype).contiguous()

    def __call__(
        self, x: Tensor, skip: Tensor, position: TilePosition | None, result: Tensor, output: Output | None = None
    ) -> Tensor:
        """Fill and return ``result`` (1, C, h, w) from what comes up (1, D, h / 2, w / 2) and a skip (1, C, h, w).

        With ``output``, ``result`` (h, w) is what that makes of it. ``position``: of a part in a whole.
        """
        height, width = skip.shape[2:]
        place = position or TilePosition(0, 0, height, width)
        columns = _columns_of(width, place, x.shape[3]).to(x.dtype)

        def work(strip: Strip) -> None:
            first, last = strip
            part = self._strip(x, skip, first, last, place, columns)
            if output is None:
                result[:, :, first:last] = part
            else:
                result[first:last] = output(part)

        each(work, strips(height))
        return result

    def _strip(self, x: Tensor, skip: Tensor, first: int, last: int, position: TilePosition, columns: Tensor) -> Tensor:
        """Rows first..last of the result, (1, C, rows, w)."""
        height = skip.shape[2]
        top, bottom = around(first, last, height)
        border = at_border(first, last, height)
        start, rows = _rows_of(top, bottom, x.shape[2], position)
        rows = rows.to(x.dtype)
        lines = by_pixel(x)[0, start : start + rows.shape[1]]
        gated = self._gated(lines, by_pixel(skip)[0, top:bottom], rows, position)
        inner = conv2d(gated.permute(2, 0, 1)[None], *self._first, padding=(int(border), 1))
        self._add_below(by_pixel(inner)[0], lines, rows, columns, border)
        part = convolved(inner.relu_(), self._second, border)
        skipped = first - top if border else 0
        return part[:, :, skipped : skipped + last - first]

    def _gated(self, lines: Tensor, skip: Tensor, rows: Tensor, position: TilePosition) -> Tensor:
        """The skip connection (rows, w, C), weighted by what the coarse lines (coarse, w / 2, D) show there."""
        coarse = linear(lines, *self._gate_below)
        coarse = torch.mm(rows, coarse.flatten(1)).view(len(rows), *coarse.shape[1:])
        inner = linear(skip, *self._gate_beside)
        inner += _widened(coarse, position)
        return linear(inner.relu_(), *self._gate_out).sigmoid_().mul_(skip)

    def _add_below(self, inner: Tensor, lines: Tensor, rows: Tensor, columns: Tensor, border: bool) -> None:
        """Add the convolution of the upsampled coarse lines (coarse, w / 2, D) to ``inner`` (rows, w, C)."""
        outside = torch.zeros_like(rows[:1])
        # what the rows above, here, and below are made of: (rows, 3, coarse)
        seen = torch.stack([torch.cat([outside, rows[:-1]]), rows, torch.cat([rows[1:], outside])], 1)
        if not border:
            seen = seen[1:-1]
        height, width, channels = inner.shape
        blocks, pixel = len(columns), 3 * channels
        for first in range(0, height, _ROWS):
            part = seen[first : first + _ROWS]
            used = part.any(0).any(0).nonzero()
            low, high = int(used[0]), int(used[-1]) + 1
            flat = lines[low:high].flatten(0, 1)
            products = flat.new_empty((3, len(flat), pixel))
            for place, product in zip(self._places, products):
                torch.mm(flat, place, out=product)
            # a coarse column more on the left, and as many on the right as the last block sees
            coarse = flat.new_zeros((len(part), (_COLUMNS // 2 * (blocks - 1) + _SEEN) * pixel))
            into = coarse[:, pixel : (1 + lines.shape[1]) * pixel]
            torch.mm(part[:, :, low:high].flatten(1), products.view(3 * (high - low), -1), out=into)
            wide = flat.new_empty((len(part), blocks, _COLUMNS, channels))
            for row, out in zip(coarse, wide):
                windows = row.as_strided((blocks, 3 * _SEEN, channels), (_COLUMNS // 2 * pixel, channels, 1))
                torch.bmm(columns, windows, out=out)
            inner[first : first + _ROWS] += wide.view(len(part), -1, channels)[:, :width]


def _flat(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """A 1 x 1 convolution as a linear layer, copied."""
    return weight.detach().flatten(1).to(dtype, copy=True), None if bias is None else bias.detach().to(dtype)


def _rows_of(top: int, bottom: int, coarse: int, position: TilePosition) -> tuple[int, Tensor]:
    """The first coarse row that rows top..bottom are made of, and the matrix (rows, coarse rows) that makes them."""
    low, high, weight = neighbours(torch.arange(top, bottom), position.top, position.height, coarse)
    start, rows = int(low[0]), torch.arange(bottom - top)
    matrix = torch.zeros((bottom - top, int(high[-1]) + 1 - start), dtype=torch.float64)
    matrix.index_put_((rows, low - start), 1 - weight, accumulate=True)
    matrix.index_put_((rows, high - start), weight, accumulate=True)
    return start, matrix


def _columns_of(width: int, position: TilePosition, coarse: int) -> Tensor:
    """Matrices that make blocks of columns, and sum over three neighbours of each, of the coarse columns they see.

    (blocks, `_COLUMNS`, `_SEEN` x 3): block j sees `_SEEN` coarse columns, the first of them ``_COLUMNS / 2 * j - 1``.
    """
    blocks = -(-width // _COLUMNS)
    low, high, weight = neighbours(torch.arange(width), position.left, position.width, coarse)
    result = torch.zeros((blocks, _COLUMNS, _SEEN, 3), dtype=torch.float64)
    for place in range(3):
        at = torch.arange(width)
        beside = at + place - 1
        at, beside = at[(beside >= 0) & (beside < width)], beside[(beside >= 0) & (beside < width)]
        block, inside = at // _COLUMNS, at % _COLUMNS
        for column, share in ((low, 1 - weight), (high, weight)):
            where = column[beside] - (_COLUMNS // 2 * block - 1)
            result.index_put_((block, inside, where, torch.tensor(place)), share[beside], accumulate=True)
    return result.flatten(2)


def _widened(coarse: Tensor, position: TilePosition) -> Tensor:
    """(rows, w / 2, C) -> (rows, w, C)."""
    width = 2 * coarse.shape[1]
    if position.width == width:
        planes = coarse[None].permute(0, 3, 1, 2)
        return by_pixel(interpolate(planes, (len(coarse), width), mode="bilinear", align_corners=True))[0]
    low, high, weight = neighbours(torch.arange(width), position.left, position.width, coarse.shape[1])
    return torch.lerp(coarse.index_select(1, low), coarse.index_select(1, high), weight.to(coarse.dtype)[:, None])
