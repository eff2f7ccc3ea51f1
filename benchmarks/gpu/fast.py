"""Stage b: how many micrographs a second, where the time goes, and how far that is from what the card can do."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.limits import card_of, measured, seconds_of, wait
from benchmarks.gpu.parts import RESULTS, Context, Found, Table
from benchmarks.gpu.scenes import SAMPLE_DIAMETER, write_tiled
from benchmarks.gpu.timers import timed
from benchmarks.speed import plain_pipeline as plain
from benchmarks.speed.speed_stages import flops_of, unet_cost
from cryosegnet_ext import Picker, read_micrograph
from cryosegnet_ext.files.diameter import Diameter
from cryosegnet_ext.files.inputs import Input
from cryosegnet_ext.networks import window_sam
from cryosegnet_ext.networks.precision import mixed, precision_on
from cryosegnet_ext.networks.sam_encoder import encode
from cryosegnet_ext.networks.unet import AttentionUNet, map_of_tensor
from cryosegnet_ext.picking import denoise_torch
from cryosegnet_ext.picking.masks import Masks
from cryosegnet_ext.picking.nlm import non_local_means
from cryosegnet_ext.picking.options import BUILT_IN_SAM
from cryosegnet_ext.runs.engines.threads import ThreadedEngine
from cryosegnet_ext.runs.pick_task import PickTask
from cryosegnet_ext.runs.stopping import Stop
from cryosegnet_ext.weights import build_sam, load_sam

Shape = tuple[int, int]

#: Micrographs a second that are aimed at, on an H100, and how many times the plain pipeline.
GOALS, TIMES_PLAIN = {"built-in": 6.0, "published": 3.0}, 30.0
SHAPES: tuple[Shape, ...] = ((4096, 4096), (4092, 5760))
IN_FLIGHT = (4, 2, 1)
#: Files in memory that are picked in turn, and seconds of picking that are timed.
FILES, WINDOW = 6, 6.0

SMALL_SHAPE = (360, 400)
SMALL_SAM: dict[str, Any] = {
    "img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0,
    "qkv_bias": True, "use_rel_pos": True, "window_size": 3, "global_attn_indexes": [1], "prompt_embed_dim": 16,
    "mask_in_chans": 4, "decoder_depth": 2, "decoder_mlp_dim": 24, "decoder_num_heads": 8,
    "num_multimask_outputs": 3, "iou_head_depth": 3, "iou_head_hidden_dim": 16,
}  # fmt: skip


class PublishedShape(Picker):
    """Networks of the published shapes with random weights, whose SAM is shown the built-in network's map.

    The random U-Net runs as any other, but its map has no peaks at which SAM could be asked.
    """

    shown: NDArray[np.float32]
    shown_diameter: float

    def _masks(self, probability: NDArray[np.float32], diameter_px: float, *_: object, **__: object) -> Masks:
        return super()._masks(self.shown, self.shown_diameter)


def built_in(context: Context) -> Found:
    """Micrographs a second with the built-in networks."""
    return _rates(context, "built-in", Picker(device=context.device))


def published(context: Context) -> Found:
    """The same with networks of the published shapes: 64 channels, ViT-H at peaks."""
    return _rates(context, "published", _published(context))


def _published(context: Context) -> PublishedShape:
    """A picker with random weights in the published format; the files are written once."""
    unet, sam = context.scratch / "cryosegnet.pth", context.scratch / "sam.pth"
    if not sam.exists():
        torch.manual_seed(0)
        with torch.device(context.device):
            torch.save(AttentionUNet(2 if context.small else 64, 5).state_dict(), unet)
            torch.save(_random_sam(context).state_dict(), sam)
    picker = PublishedShape(unet, sam=sam, segmenter="peaks", device=context.device)
    (path,) = write_tiled(context.scratch, _shapes(context)[0], 1)
    plane = Picker(device=context.device, segmenter="watershed").probability_map(read_micrograph(path), SAMPLE_DIAMETER)
    picker.shown = cv2.resize(plane.data, (1024, 1024), interpolation=cv2.INTER_AREA)
    picker.shown_diameter = 32.0 * 1024 / plane.data.shape[0]
    return picker


def _random_sam(context: Context) -> Any:
    from segment_anything import sam_model_registry

    return build_sam(SMALL_SAM) if context.small else sam_model_registry["vit_h"]()


def _shapes(context: Context) -> Sequence[Shape]:
    return (SMALL_SHAPE,) if context.small else SHAPES


def _rates(context: Context, name: str, picker: Picker) -> Found:
    rows: list[list[object]] = []
    for shape in _shapes(context):
        paths = write_tiled(context.scratch, shape, 2 if context.small else FILES)
        for number in IN_FLIGHT[:1] if context.small else IN_FLIGHT:
            if rows and context.left < 2 * WINDOW:
                break
            rate, count, failed = _rate(picker, paths, number, 1.0 if context.small else WINDOW)
            rows.append([f"{shape[0]} x {shape[1]}", number, count, failed, rate])
    columns = ("size", "in flight", "micrographs", "failed", "a second")
    title = f"From MRC files in memory to picks, {name} networks, {precision_on(picker.device)}"
    best = max(float(str(row[4])) for row in rows)
    return Found([Table(title, columns, rows)], {"rows": rows, "best": best})


def _rate(picker: Picker, paths: Sequence[Path], in_flight: int, seconds: float) -> tuple[float, int, int]:
    """Micrographs a second once it is warm, how many were timed, and how many failed."""
    diameter, stop = Diameter(SAMPLE_DIAMETER, "angstrom"), Stop()
    given = finished = failed = 0
    first, began, last = 2 * in_flight, float("inf"), 0.0
    with ThreadedEngine(picker, in_flight) as engine:
        while True:
            while engine.room > 0:
                path = paths[given % len(paths)]
                engine.submit(PickTask(Input(path, path.name), f"m{given}", diameter=diameter))
                given += 1
            outcomes = engine.wait(stop, 0.2)
            finished += len(outcomes)
            failed += sum(not one.record.done for one in outcomes)
            last = time.perf_counter()
            if began == float("inf") and finished >= first:
                began, first = last, finished
            if last - began > seconds and finished > first:
                return (finished - first) / (last - began), finished - first, failed


def stages(context: Context) -> Found:
    """Where the time of one micrograph goes, one at a time, with the GPU waited for after each step."""
    tables, figures = [], {}
    (path,) = write_tiled(context.scratch, _shapes(context)[0], 1)
    for name, picker in (("built-in", Picker(device=context.device)), ("published", _published(context))):
        picker._on_device = True

        def pick(picker: Picker = picker) -> None:
            picker.candidates(read_micrograph(path), SAMPLE_DIAMETER)

        pick()
        rows = timed(pick, context.device, 1 if context.small else 5)
        tables.append(Table(f"Time by step, {name} networks", ("step", "ms", "share"), rows))
        figures[name] = rows
    return Found(tables, figures)


def limits(context: Context) -> Found:
    """The heavy steps alone, against what the card can do."""
    device, small = context.device, context.small
    name = torch.cuda.get_device_name(0) if device == "cuda" else "CPU"
    card, rates = card_of(name), measured(device, small)
    bandwidth, bf16, fp32 = (
        (card.bandwidth, card.bf16, card.fp32) if card else (rates["copy"], rates["bf16"], rates["fp32"])
    )
    rows: list[list[object]] = []
    for step, work, flops, size, kind in _steps(context):
        if rows and context.left < 5:
            break
        seconds = seconds_of(work, device, 1 if small else 5)
        least = max(flops / (bf16 if kind == "bf16" else fp32), size / bandwidth)
        by_measure = max(flops / rates[kind], size / rates["copy"])
        rows.append([step, kind, 1e3 * seconds, flops / 1e9, size / 1e9, 1e3 * least, least / seconds])
        rows[-1].append(by_measure / seconds)
    source = "its data sheet" if card else "what was measured, since its data sheet is not here"
    note = f"Limits of {name} by {source}: {bandwidth / 1e12:.2f} TB/s, {bf16 / 1e12:.0f} TFLOP/s in bf16."
    columns = ("step", "precision", "ms", "GFLOP", "GB", "limit, ms", "share of the limit", "of the measured one")
    return Found([Table("Steps against the card's limit", columns, rows, note)], {"rows": rows, "rates": rates})


Step = tuple[str, Callable[[], object], float, float, str]


def _steps(context: Context) -> list[Step]:
    """What is measured alone: name, work, operations, bytes that must move, precision."""
    device, small = context.device, context.small
    shape = _shapes(context)[0]
    kind = "bf16" if precision_on(torch.device(device)) == "bf16" else "fp32"
    size = 2 if kind == "bf16" else 4
    found: list[Step] = []
    for title, channels, levels, side in (("built-in U-Net", 16, 4, 1536), ("published U-Net", 64, 5, 1024)):
        channels, side = (2, 64) if small else (channels, side)
        model = AttentionUNet(channels, levels).eval().requires_grad_(False)
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        image = torch.randn(side, side, device=device)
        flops, moved, _ = unet_cost(channels, levels, side, size, kind)
        work = lambda model=model, image=image: map_of_tensor(model, image)  # noqa: E731
        found.append((f"{title}, {side} x {side}", work, flops, moved, kind))
    with torch.device(device):
        sam = _random_sam(context).eval().requires_grad_(False)
    picture = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3)).astype(np.uint8)
    inside = int(sam.image_encoder.img_size)
    zeros = lambda model: model.image_encoder(torch.zeros(1, 3, inside, inside))  # noqa: E731
    flops = flops_of(lambda: build_sam(SMALL_SAM) if small else _random_sam(context), zeros)
    weights = size * sum(p.numel() for p in sam.image_encoder.parameters())
    found.append(("SAM's image encoder, ViT-H", lambda: encode(sam, picture), flops, weights, kind))
    small_sam = load_sam(BUILT_IN_SAM).to(torch.device(device))
    assert isinstance(small_sam, window_sam.WindowSam)
    for count in (2, 4) if small else (64, 256, 1024):
        windows = torch.randn(count, 3, window_sam.SIDE, window_sam.SIDE, device=device)

        def decode(windows: torch.Tensor = windows) -> None:
            with torch.inference_mode(), mixed(torch.device(device)):
                small_sam(windows)

        with FlopCounterMode(display=False) as counter:
            decode()
        name = f"small SAM, {count} windows"
        found.append((name, decode, float(counter.get_total_flops()), 4 * windows.numel(), kind))
    levels8 = torch.randint(0, 256, shape, device=device).to(torch.uint8)
    pixels = float(shape[0] * shape[1])
    found.append(("non-local means", lambda: non_local_means(levels8), 10 * 220 * pixels, 2 * pixels, "fp32"))
    plane = torch.randn(shape, device=device)
    denoised = lambda: denoise_torch.published(plane)  # noqa: E731
    found.append(("published denoising", denoised, 10 * 220 * pixels + 500 * pixels, 5 * pixels, "fp32"))
    return found


def compiled(context: Context) -> Found:
    """U-Nets and SAM's encoder with and without torch.compile; on a CPU only the encoder is compiled."""
    rows: list[list[object]] = []
    for step, work, *_ in _steps(context)[:3]:
        if rows and context.left < 25:
            break
        plain_seconds = seconds_of(work, context.device, 1 if context.small else 5)
        with mock.patch.dict(os.environ, CRYOSEGNET_COMPILE="1"):
            first = seconds_of(work, context.device, 1, first=False)
            then = seconds_of(work, context.device, 1 if context.small else 5)
        rows.append([step, 1e3 * plain_seconds, 1e3 * then, plain_seconds / then, first])
    columns = ("step", "plain, ms", "compiled, ms", "times as fast", "first time, s")
    return Found([Table("With torch.compile", columns, rows)], {"rows": rows})


def plain_pipeline(context: Context) -> Found:
    """The published pipeline written plainly, on the same card: OpenCV, float32, SAM's generator with 1,024 prompts."""
    device = context.device
    (path,) = write_tiled(context.scratch, _shapes(context)[0], 1)
    data = read_micrograph(path).data
    rows: list[list[object]] = []
    shown = _published(context).shown

    def step(name: str, work: Callable[[], Any], twice: bool = True) -> Any:
        if twice and device == "cuda":
            work()
        wait(device)
        began = time.perf_counter()
        result = work()
        wait(device)
        rows.append([name, time.perf_counter() - began])
        return result

    image = plain.squeeze(step("denoising, OpenCV and NumPy", lambda: plain.denoise(data), twice=False))
    model = AttentionUNet(2, 5).eval() if context.small else plain.network(device)
    image = image[:128, :128].copy() if context.small else image
    step("U-Net", lambda: plain.probability(model, image))
    with torch.device(device):
        sam = _random_sam(context).eval().requires_grad_(False)
    step("SAM's generator, ViT-H", lambda: plain.generate(sam, shown[:64, :64] if context.small else shown))
    total = sum(float(str(row[1])) for row in rows)
    rows.append(["all", total])
    note = f"That is {1 / total:.3f} micrographs a second; the aim is {TIMES_PLAIN:.0f} times as many."
    table = Table(f"The plain published pipeline, {data.shape[0]} x {data.shape[1]}", ("step", "s"), rows, note)
    return Found([table], {"rows": rows, "seconds": total})


def goals(context: Context) -> Found:
    """What was aimed at, and whether it was reached, from what the parts before have found."""
    before = context.output / RESULTS
    done = json.loads(before.read_text())["parts"] if before.exists() else {}
    figures = {name: one.get("figures", {}) for name, one in done.items()}
    seconds = figures.get("plain pipeline", {}).get("seconds")
    rows: list[list[object]] = []
    for name, goal in GOALS.items():
        rate = figures.get(name, {}).get("best")
        if rate is None:
            continue
        rows.append([f"micrographs a second, {name} networks", rate, goal, _reached(rate, goal)])
        if seconds is not None:
            times = rate * seconds
            rows.append(
                [f"times the plain pipeline, {name} networks", times, TIMES_PLAIN, _reached(times, TIMES_PLAIN)]
            )
    columns = ("what", "here", "goal on an H100", "reached")
    return Found([Table("Goals", columns, rows, "The best of all sizes and numbers in flight.")], {"rows": rows})


def _reached(value: float, goal: float) -> str:
    return "yes" if value >= goal else "no"
