"""Stage a: is what a GPU finds what a CPU finds?"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from unittest import mock

import cv2
import numpy as np
import torch

from benchmarks.gpu.limits import measured, seconds_of
from benchmarks.gpu.parts import Context, Found, Table
from benchmarks.gpu.scenes import SAMPLE_DIAMETER, Scene, scenes, tiled
from benchmarks.speed.speed_stages import SAMPLE
from cryosegnet_ext import Micrograph, Picker, Picks, read_micrograph
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.evaluation import agreement
from cryosegnet_ext.networks.memory import OutOfMemoryError
from cryosegnet_ext.networks.precision import Precision, all_in
from cryosegnet_ext.networks.tile_position import TilePosition
from cryosegnet_ext.networks.unet_strips import StripUNet
from cryosegnet_ext.picking import denoise, denoise_torch, nlm

#: Picks agree within this share of the diameter; this F1 is asked for.
REACH, WANTED = 0.1, 0.99
PRECISIONS: tuple[Precision, ...] = ("float32", "bf16", "float16")


def machine(context: Context) -> Found:
    """What the machine is, and what its memory and its matrix units reach."""
    facts: dict[str, object] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "cores": os.cpu_count(),
        "shared memory, GB": _free_gigabytes("/dev/shm"),
    }
    if context.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        facts |= {"gpu": card.name, "memory, GB": card.total_memory / 1e9, "CUDA": torch.version.cuda}
        facts |= {"multiprocessors": card.multi_processor_count, "capability": f"{card.major}.{card.minor}"}
    rates = measured(context.device, context.small)
    facts |= {f"{name}, {'GB' if name == 'copy' else 'GFLOP'}/s": rate / 1e9 for name, rate in rates.items()}
    return Found([Table("Machine", ("what", "value"), list(facts.items()))], {"facts": facts, "rates": rates})


def _free_gigabytes(path: str) -> float | None:
    try:
        state = os.statvfs(path)
    except OSError:
        return None
    return state.f_bavail * state.f_frsize / 1e9


def picks(context: Context) -> Found:
    """Picks and maps of the GPU in each precision, against those of the CPU in float32."""
    here, there = Picker(device="cpu"), Picker(device=context.device)
    # the steps of a GPU, also where there is none
    there._on_device = True
    rows: list[list[object]] = []
    sample = read_micrograph(SAMPLE)
    for scene in scenes(context):
        with all_in("float32"):
            expected = here.pick(scene.micrograph, scene.diameter)
            plane = here.probability_map(scene.micrograph, scene.diameter).data
        for precision in PRECISIONS:
            if rows and context.left < 5:
                break
            with all_in(precision):
                found = there.pick(scene.micrograph, scene.diameter)
                other = there.probability_map(scene.micrograph, scene.diameter).data
            difference = np.abs(other - plane)
            f1 = f1_of(found, expected, scene)
            rows.append([scene.name, precision, len(expected), len(found), f1, "yes" if f1 >= WANTED else "NO"])
            rows[-1] += [float(difference.max()), float(difference.mean()), float((difference > 0.05).mean())]
    columns = ["micrograph", "precision", "picks, CPU", "picks, GPU", "F1", f"at least {WANTED}"]
    columns += ["largest difference of the maps", "mean", "share above 0.05"]
    tables = [Table(f"Picks on {context.device}, against the CPU in float32", columns, rows)]
    if not context.small and context.left > 10:
        with all_in("float32"):
            sizes = [["CPU, float32", here.estimate_diameter([sample])]]
        for precision in PRECISIONS[:2]:
            with all_in(precision):
                sizes.append([f"{context.device}, {precision}", there.estimate_diameter([sample])])
        tables.append(Table("Size estimated on the sample, angstrom", ("where", "size"), sizes))
    worst = min(float(str(row[4])) for row in rows)
    return Found(tables, {"rows": rows, "least F1": worst})


def f1_of(found: Picks, expected: Picks, scene: Scene) -> float:
    """F1 of some picks against others; 1 if both are none."""
    if len(found) == len(expected) == 0:
        return 1.0
    pairs = (np.c_[one.x, one.y] for one in (found, expected))
    return float(agreement(*pairs, REACH * scene.diameter_px).f1)


def published_denoising(context: Context) -> Found:
    """The published recipe's denoising, against OpenCV."""
    images = {scene.name: scene.micrograph.data for scene in scenes(context)}
    if not context.small:
        images |= {"4096 x 4096": tiled((4096, 4096), 0), "4092 x 5760": tiled((4092, 5760), 0)}
    rows: list[list[object]] = []
    for name, data in images.items():
        if rows and context.left < 8:
            break
        here = torch.from_numpy(data).to(context.device)
        levels = denoise._to_bytes(cv2.GaussianBlur(data, (9, 9), 0))
        expected = cv2.fastNlMeansDenoising(levels, None, 10, 7, 21)
        there = torch.from_numpy(levels).to(context.device)
        table = nlm._weights(10.0, 7, 21, there.device)
        ways = (partial(nlm.non_local_means, there), partial(nlm.by_shifts, there, table, 7, 21))
        off_by = [int((way().cpu().numpy() != expected).sum()) for way in ways]
        times = [1e3 * seconds_of(way, context.device, 1, first=False) for way in ways]
        began = time.perf_counter()
        whole = denoise_torch.published(here).cpu().numpy().astype(int)
        seconds = time.perf_counter() - began
        off = np.abs(whole - denoise.published(data).astype(int))
        rows.append([name, f"{data.shape[0]} x {data.shape[1]}", *off_by, *times, float((off > 0).mean())])
        rows[-1] += [float((off > 1).mean()), int(off.max()), seconds]
    columns = ["micrograph", "size", "different bytes after non-local means", "after its passes in PyTorch"]
    columns += ["non-local means, ms", "its passes, ms", "share of different bytes in the end"]
    columns += ["by more than one level", "largest difference", "s"]
    exact = all(row[2] == row[3] == 0 for row in rows)
    note = f"Triton's kernel: {'used' if nlm._kernel_works else 'not used'}."
    figures = {"rows": rows, "exact": exact, "kernel": bool(nlm._kernel_works)}
    return Found([Table("Published denoising, against OpenCV", columns, rows, note)], figures)


def memory(context: Context) -> Found:
    """What happens when memory runs out: the same picks in smaller pieces, or a sentence; and it goes on afterwards."""
    side = SIDE_SMALL if context.small else 4096
    scene = Scene("m", Micrograph(tiled((side, side), 1), 2.0, "m.mrc"), SAMPLE_DIAMETER / 2.0)
    picker = Picker(device=context.device)
    picker._on_device = True
    expected = picker.pick(scene.micrograph, scene.diameter)
    peak = 0.0
    if context.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        picker.pick(scene.micrograph, scene.diameter)
        peak = float(torch.cuda.max_memory_allocated())
    rows: list[list[object]] = []
    for share in (0.8, 0.5, 0.3, 0.15, 0.05):
        with _limited(context, share, peak) as limit, _heard() as said:
            rows.append([limit, *_tried(lambda: picker.pick(scene.micrograph, scene.diameter), expected, scene)])
        rows[-1].append("; ".join(said))
    rows.append(["none again", *_tried(lambda: picker.pick(scene.micrograph, scene.diameter), expected, scene), ""])
    columns = ("memory", "what came", "F1 against the picks without a limit", "said")
    note = f"The micrograph, {side} x {side}, needs {peak / 1e9:.2f} GB where there is enough." if peak else ""
    good = all(str(row[1]) in ("picks", "a sentence") for row in rows) and rows[-1][1] == "picks"
    return Found([Table("When memory runs out", columns, rows, note)], {"rows": rows, "good": good, "peak": peak})


SIDE_SMALL = 700


def _tried(pick: Callable[[], Picks], expected: Picks, scene: Scene) -> list[object]:
    try:
        return ["picks", f1_of(pick(), expected, scene)]
    except CryoSegNetError as error:
        return ["a sentence", None if "memory" in str(error) else str(error)]
    except Exception as error:
        return [f"{type(error).__name__}: {str(error)[:120]}", None]


@contextmanager
def _limited(context: Context, share: float, peak: float) -> Iterator[str]:
    """So much memory, of what is needed; on a CPU, networks that refuse large images."""
    if context.device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        held = torch.cuda.memory_allocated()
        limit = held + share * (peak - held)
        torch.cuda.set_per_process_memory_fraction(limit / total)
        try:
            yield f"{limit / 1e9:.2f} GB"
        finally:
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    most = share * 300**2
    whole = StripUNet.__call__

    def small_only(self: StripUNet, image: torch.Tensor, position: TilePosition | None = None) -> torch.Tensor:
        if image.numel() > most:
            raise OutOfMemoryError("CUDA out of memory.")
        return whole(self, image, position)

    with mock.patch.object(StripUNet, "__call__", small_only):
        yield f"images of {most:.0f} pixels"


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What is logged meanwhile."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    listener, log = Listener(logging.INFO), logging.getLogger("cryosegnet_ext")
    log.addHandler(listener)
    try:
        yield said
    finally:
        log.removeHandler(listener)
