"""Non-local means on any device, with the same bits as OpenCV's.

For every shift within the search window, the squared difference of the image and the shifted image is summed over the
template (a box sum), and a table turns it into the weight of the shifted pixel. This takes a few passes over the image
for each shift. A shift and its opposite have the same differences, so half of the shifts are enough. On a GPU where
Triton runs, one kernel does all of it (`nlm_triton`).

Source: A. Buades, B. Coll, J.-M. Morel, "Non-Local Means Denoising", Image Processing On Line 1 (2011); the fixed-point
arithmetic (weights, rounding, border) is that of ``cv2.fastNlMeansDenoising`` for bytes.
"""

from __future__ import annotations

import logging
from threading import Lock

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from ..networks.memory import ran_out

log = logging.getLogger(__name__)

# OpenCV sets smaller weights to 0.
_LEAST_WEIGHT = 0.001

# Pixels each way of the first image of a process in which the kernel's result is checked.
_CHECKED = 128
_lock = Lock()
# Of Triton's kernel: None before its first use.
_kernel_works: bool | None = None


def non_local_means(image: Tensor, h: float = 10.0, template: int = 7, search: int = 21) -> Tensor:
    """Denoise by non-local means.

    Parameters
    ----------
    image : (ny, nx) uint8
        On any device; larger than half of template and search window together.
    h
        Strength: differences of this many grey levels (root mean square over the template) weigh 1/e.
    template, search
        Sides of the compared windows and of the searched one, odd, pixels.

    Returns
    -------
    (ny, nx) uint8
        On the same device.
    """
    border = template // 2 + search // 2
    ny, nx = image.shape
    if min(ny, nx) <= border:
        raise ValueError(f"an image must be larger than {border} pixels each way, not {ny} x {nx}")
    table = _weights(h, template, search, image.device)
    found = _in_one_kernel(image, table, template, search) if image.is_cuda else None
    return by_shifts(image, table, template, search) if found is None else found


def _in_one_kernel(image: Tensor, table: Tensor, template: int, search: int) -> Tensor | None:
    """Run Triton's kernel; None if it does not work on this machine, which the log says once."""
    global _kernel_works
    # the first thread compiles and checks; launches take no time
    with _lock:
        if _kernel_works is False:
            return None
        try:
            from .nlm_triton import one_kernel

            found = one_kernel(image, table, template, search)
            if _kernel_works is None and not _agrees(found, image, table, template, search):
                raise ArithmeticError("its result is wrong")
            _kernel_works = True
        except Exception as error:
            if ran_out(error):
                raise
            _kernel_works = False
            first = (str(error).strip() or "no message").splitlines()[0]
            log.warning(
                "Triton's kernel for non-local means does not work here (%s: %s). The same steps in PyTorch are used. "
                "Picks are the same, only slower.",
                type(error).__name__,
                first,
            )
            return None
    return found


def _agrees(found: Tensor, image: Tensor, table: Tensor, template: int, search: int) -> bool:
    """Whether the upper left part is what `by_shifts` makes of it."""
    border = template // 2 + search // 2
    part = image[: _CHECKED + border, : _CHECKED + border]
    # pixels whose windows end within the part, or at the image's own edge
    ny, nx = (size if size <= _CHECKED + border else _CHECKED for size in image.shape)
    return torch.equal(found[:ny, :nx], by_shifts(part, table, template, search)[:ny, :nx])


def by_shifts(image: Tensor, table: Tensor, template: int, search: int) -> Tensor:
    """Non-local means in passes over the image, on any device: (ny, nx) bytes to bytes; ``table`` holds the weights."""
    near, far = template // 2, search // 2
    border = near + far
    ny, nx = image.shape
    around = pad(image[None, None].float(), [border] * 4, mode="reflect")[0, 0]
    whole = around.to(torch.int32)
    beyond = len(table) - 1
    centre = whole[border : border + ny, border : border + nx]
    total = torch.full((ny, nx), int(table[0]), dtype=torch.int32, device=image.device)
    value = centre * table[0]
    for dy in range(far + 1):
        for dx in range(-far, far + 1):
            if dy == 0 and dx <= 0:
                continue
            # weights of pixel p with p + (dy, dx), for each p of the image and of the image moved by minus the shift
            left, right = max(dx, 0), max(-dx, 0)
            top = border - dy - near
            rows, columns = slice(top, border + ny + near), slice(border - left - near, border + nx + right + near)
            shifted = (
                slice(rows.start + dy, rows.stop + dy),
                slice(columns.start + dx, columns.stop + dx),
            )
            difference = (around[rows, columns] - around[shifted])[None, None]
            # sums of whole numbers below 2^24: exact in float32
            sums = avg_pool2d(difference.square_(), (template, 1), 1, divisor_override=1)
            sums = avg_pool2d(sums, (1, template), 1, divisor_override=1)[0, 0]
            level = (sums.to(torch.int32) >> _shift(template)).clamp_(max=beyond)
            weight = table.index_select(0, level.flatten()).view(level.shape)
            here = weight[dy : dy + ny, left : left + nx]
            total += here
            value.addcmul_(here, whole[border + dy : border + dy + ny, border + dx : border + dx + nx])
            there = weight[:ny, left - dx : left - dx + nx]
            total += there
            value.addcmul_(there, whole[border - dy : border - dy + ny, border - dx : border - dx + nx])
    return ((value.long() + total // 2) // total).to(torch.uint8)


def _shift(template: int) -> int:
    """Bits of the right shift that replaces the division by the template's area."""
    return (template * template - 1).bit_length()


def _weights(h: float, template: int, search: int, device: torch.device) -> Tensor:
    """Weight of each mean difference, in units of 2^shift over the template's area; it ends with the first 0."""
    most = (2**31 - 1) // (search * search * 255)
    unit = 2.0 ** _shift(template) / template**2
    level = torch.arange(int(255**2 / unit) + 2, dtype=torch.float64)
    weight = torch.round(most * torch.exp(-level * unit / (h * h)))
    weight[weight < _LEAST_WEIGHT * most] = 0
    return weight[: int((weight > 0).sum()) + 1].to(torch.int32).to(device)
