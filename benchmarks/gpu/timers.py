"""Time by step: functions of the chain are timed where it calls them, each without the others that it calls."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable
from functools import wraps
from typing import Any
from unittest import mock

from benchmarks.gpu.limits import wait

_PICKING = "cryosegnet_ext.picking"
#: Step, and where the chain looks its function up.
STEPS = (
    ("read", "benchmarks.gpu.fast:read_micrograph"),
    ("upload, bad areas", f"{_PICKING}.on_device:OnDevice.__init__"),
    ("working image", f"{_PICKING}.on_device:working_image"),
    ("U-Net", f"{_PICKING}.on_device:map_of_tensor"),
    ("published denoising", f"{_PICKING}.denoise_torch:published"),
    ("non-local means", f"{_PICKING}.denoise_torch:non_local_means"),
    ("contrast (CLAHE)", f"{_PICKING}.denoise_torch:clahe"),
    ("peaks", f"{_PICKING}.picker:peaks_of"),
    ("peaks of the inverted part", f"{_PICKING}.picker:null_peaks"),
    ("small SAM: its windows", f"{_PICKING}.windows:Windows.__init__"),
    ("small SAM: its windows", f"{_PICKING}.windows:Windows.__call__"),
    ("small SAM", f"{_PICKING}.windows:WindowSam.__call__"),
    ("small SAM: masks", f"{_PICKING}.picker:cut"),
    ("SAM's encoder", f"{_PICKING}.prompts:encode"),
    ("SAM's decoder, masks", f"{_PICKING}.prompts:prompted"),
    ("masks without overlaps", f"{_PICKING}.windows:without_overlaps"),
    ("masks without overlaps", f"{_PICKING}.segment:without_overlaps"),
    ("masks measured", f"{_PICKING}.windows:measured"),
    ("masks measured", f"{_PICKING}.segment:measured"),
    ("darkness, noise, heights", f"{_PICKING}.picker:darkness"),
    ("darkness, noise, heights", f"{_PICKING}.picker:local_noise"),
    ("darkness, noise, heights", f"{_PICKING}.picker:heights_of"),
    ("rule", f"{_PICKING}.picker:default_rule"),
)


def timed(work: Callable[[], None], device: str, repeats: int) -> list[list[object]]:
    """Rows of step, milliseconds, share of the whole; what is no step is the rest."""
    spent: dict[str, float] = {}
    inner: list[float] = [0.0]

    def watched(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(*given: Any, **named: Any) -> Any:
            wait(device)
            began = time.perf_counter()
            inner.append(0.0)
            try:
                return function(*given, **named)
            finally:
                wait(device)
                taken = time.perf_counter() - began
                spent[step] = spent.get(step, 0.0) + taken - inner.pop()
                inner[-1] += taken

        return run

    with contextlib.ExitStack() as patches:
        for step, where in STEPS:
            module, _, names = where.partition(":")
            holder = importlib.import_module(module)
            *outer, name = names.split(".")
            for one in outer:
                holder = getattr(holder, one)
            patches.enter_context(mock.patch.object(holder, name, watched(step, getattr(holder, name))))
        began = time.perf_counter()
        for _ in range(repeats):
            work()
        wait(device)
        whole = time.perf_counter() - began
    rest = whole - sum(spent.values())
    rows = sorted((spent | {"the rest": rest}).items(), key=lambda item: -item[1])
    found: list[list[object]] = [[step, 1e3 * seconds / repeats, seconds / whole] for step, seconds in rows]
    return [*found, ["all", 1e3 * whole / repeats, 1.0]]
