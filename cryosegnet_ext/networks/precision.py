"""The precision in which networks run: bf16 where the device has units for it, else float32; or the one asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import Literal

import torch

Precision = Literal["float32", "bf16", "float16"]

_TYPES = {"bf16": torch.bfloat16, "float16": torch.float16}
# Of all threads, unlike a context variable: micrographs are picked in several.
_asked: list[Precision] = []


def precision_on(device: torch.device) -> Precision:
    """The precision in which networks run on a device."""
    return _asked[-1] if _asked else "bf16" if bf16_pays(device) else "float32"


def type_on(device: torch.device) -> torch.dtype:
    """The type of the numbers in `precision_on` a device."""
    return _TYPES.get(precision_on(device), torch.float32)


@contextlib.contextmanager
def all_in(precision: Precision) -> Iterator[None]:
    """A block in which the networks of all threads run in this precision, on every device; float32 without TF32."""
    before = torch.backends.cudnn.allow_tf32
    _asked.append(precision)
    torch.backends.cudnn.allow_tf32 = before and precision != "float32"
    try:
        yield
    finally:
        _asked.pop()
        torch.backends.cudnn.allow_tf32 = before


def mixed(device: torch.device) -> torch.autocast:
    """A block in which a network runs in `precision_on` the device; its weights stay float32.

    The block keeps no converted weights: PyTorch's store of them is one for all threads, whose streams on a GPU do not
    wait for each other, so that a thread could read weights that another one is still writing.
    """
    kind = precision_on(device)
    return torch.autocast(
        device.type, dtype=_TYPES.get(kind, torch.bfloat16), enabled=kind in _TYPES, cache_enabled=False
    )


def bf16_pays(device: torch.device) -> bool:
    """Whether the device has bf16 units, which make bf16 faster than float32."""
    if device.type == "cuda":
        # `torch.cuda.is_bf16_supported` is also true where bf16 is emulated, and speaks of the current device
        return torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8
    return torch.backends.mkldnn.is_available() and _avx512_bf16()


@cache
def _avx512_bf16() -> bool:
    """Whether the CPU has bf16 units; without them bf16 is emulated and slower than float32."""
    try:
        with open("/proc/cpuinfo") as stream:
            flags = stream.read()
        return any(word in flags for word in ("avx512_bf16", "amx_bf16"))
    except OSError:
        return False
