"""Non-local means in one kernel, for GPUs: the numbers of `nlm.by_shifts`, without its passes over the image.

A squared difference of two windows is |a|^2 + |b|^2 - 2ab. The sums |a|^2 are made once. The product ab of four bytes
by four is one instruction (``dp4a``), so the image is stored with four neighbouring bytes in each word. A thread has a
column of 8 pixels and goes through all shifts. For each shift it multiplies 14 rows of 7 bytes, and a running sum over
the rows gives the products of the 8 windows. Numbers are integers of 32 bits; sums and weights stay in registers.

For 1024 x 1024 pixels and the usual windows there are 441 x 2^20 = 4.6e8 pairs of windows. A pair takes 21 instructions
as compiled for an H100: 3.5 ``dp4a``, 5.5 loads of 4 bytes from the first cache, 12 others. These are 1e10 instructions
and 1e10 bytes. The card issues 3e13 a second and loads 7e12 words a second, so either takes 0.35 ms at least. Memory
sees some 50 MB in the preparation and the kernel, which take 0.02 ms. The kernel was not timed yet.
"""

# mypy: disable-error-code="assignment, var-annotated, no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

# Pixels of a thread (down) and of a block (across).
_ROWS, _COLUMNS = 8, 128
# Rows in memory are a multiple of this long, so that images of nearly the same width share a compiled kernel.
_STEP = 512


def one_kernel(image: Tensor, table: Tensor, template: int, search: int) -> Tensor:
    """Non-local means of an image on a GPU.

    Parameters
    ----------
    image : (ny, nx) uint8
        Larger than half of template and search window together.
    table : (n,) int32
        Weight of each distance (`nlm.non_local_means`), same device; the last is 0.
    template, search
        Sides of the windows, odd, pixels; a template of at most 15.

    Returns
    -------
    (ny, nx) uint8
        Same device.
    """
    ny, nx = image.shape
    border = template // 2 + search // 2
    rows = triton.cdiv(ny, _ROWS) * _ROWS + 2 * border
    stride = triton.cdiv(triton.cdiv(nx, _COLUMNS) * _COLUMNS + 2 * border + 4, _STEP) * _STEP
    levels = torch.zeros((rows, stride + 3), device=image.device)
    around = pad(image[None, None].float(), [border] * 4, mode="reflect")[0, 0]
    levels[: ny + 2 * border, : nx + 2 * border] = around
    words = levels.to(torch.uint8).unfold(1, 4, 1).contiguous().view(torch.int32)[..., 0]
    # as for the words, the place of a window is its upper left corner
    sums = avg_pool2d(levels.square_()[None, None], (template, 1), 1, divisor_override=1)
    sums = avg_pool2d(sums, (1, template), 1, divisor_override=1)[0, 0, :, :stride]
    squares = torch.zeros_like(words)
    # of the zeros beyond the image too, so that no distance is negative
    squares[: sums.shape[0], : sums.shape[1]] = sums
    out = torch.empty_like(image, memory_format=torch.contiguous_format)
    with torch.cuda.device_of(image):
        _kernel[(triton.cdiv(nx, _COLUMNS), triton.cdiv(ny, _ROWS))](
            words,
            squares,
            table,
            out,
            ny,
            nx,
            len(table) - 1,
            STRIDE=stride,
            TEMPLATE=template,
            SEARCH=search,
            SHIFT=(template * template - 1).bit_length(),
            ROWS=_ROWS,
            COLUMNS=_COLUMNS,
            # the instruction is NVIDIA's; elsewhere, and in Triton's interpreter, four products
            DP4A=torch.version.cuda is not None and not triton.knobs.runtime.interpret,
            num_warps=_COLUMNS // 32,
        )
    return out


@triton.jit
def _plus_product(total, a, b, DP4A: tl.constexpr):
    """Add the product of four bytes by four."""
    if DP4A:
        return tl.inline_asm_elementwise(
            "dp4a.u32.u32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, total], dtype=tl.uint32, is_pure=True, pack=1
        )
    for byte in tl.static_range(4):
        total += ((a >> (8 * byte)) & 255) * ((b >> (8 * byte)) & 255)
    return total


@triton.jit(do_not_specialize=["ny", "nx", "last"])
def _kernel(
    words,
    squares,
    table,
    out,
    ny,
    nx,
    last,
    STRIDE: tl.constexpr,
    TEMPLATE: tl.constexpr,
    SEARCH: tl.constexpr,
    SHIFT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DP4A: tl.constexpr,
):
    WORDS: tl.constexpr = (TEMPLATE + 3) // 4
    # bytes of the last word that belong to the window
    MASK: tl.constexpr = (1 << (8 * (TEMPLATE - 4 * (WORDS - 1)))) - 1
    NEAR: tl.constexpr = TEMPLATE // 2
    x = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    top = tl.program_id(1) * ROWS
    corner = top * STRIDE + x
    here = corner + (SEARCH // 2) * (STRIDE + 1)
    own = ()
    own_squares = ()
    totals = ()
    values = ()
    for row in tl.static_range(ROWS + TEMPLATE - 1):
        for word in tl.static_range(WORDS):
            four = tl.load(words + here + (row * STRIDE + 4 * word)).to(tl.uint32, bitcast=True)
            own += ((four & MASK) if word == WORDS - 1 else four,)
    for row in tl.static_range(ROWS):
        own_squares += (tl.load(squares + here + row * STRIDE),)
        totals += (tl.zeros((COLUMNS,), tl.int32),)
        values += (tl.zeros((COLUMNS,), tl.int32),)
    for dy in range(SEARCH):
        for dx in range(SEARCH):
            there = corner + (dy * STRIDE + dx)
            products = ()
            centres = ()
            for row in tl.static_range(ROWS + TEMPLATE - 1):
                product = tl.zeros((COLUMNS,), tl.uint32)
                for word in tl.static_range(WORDS):
                    four = tl.load(words + there + (row * STRIDE + 4 * word)).to(tl.uint32, bitcast=True)
                    product = _plus_product(product, own[row * WORDS + word], four, DP4A)
                    if word == NEAR // 4:
                        centres += (((four >> (8 * (NEAR % 4))) & 255).to(tl.int32),)
                products += (product.to(tl.int32),)
            both = tl.zeros((COLUMNS,), tl.int32)
            for row in tl.static_range(TEMPLATE - 1):
                both += products[row]
            new_totals = ()
            new_values = ()
            for row in tl.static_range(ROWS):
                both += products[row + TEMPLATE - 1]
                level = (own_squares[row] + tl.load(squares + there + row * STRIDE) - 2 * both) >> SHIFT
                weight = tl.load(table + level, mask=level < last, other=0)
                new_totals += (totals[row] + weight,)
                new_values += (values[row] + weight * centres[row + NEAR],)
                both -= products[row]
            totals = new_totals
            values = new_values
    for row in tl.static_range(ROWS):
        total = totals[row].to(tl.uint32)
        mean = (values[row].to(tl.uint32) + total // 2) // total
        y = top + row
        tl.store(out + y * nx + x, mean.to(tl.uint8), mask=(x < nx) & (y < ny))
