"""The stages that `speed.py` measures: how each is prepared and run, and what bounds it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import mrcfile
import numpy as np

from benchmarks.speed import plain_pipeline as plain

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "cryosegnet_ext" / "data" / "sample.mrc"
PIXEL_SIZE = 2.0
PLAIN = ("plain denoising", "plain U-Net", "plain generator")

Cost = tuple[float, float, str]
"""Operations, bytes, and the precision whose rate counts."""


def make_inputs(folder: Path, size: int) -> None:
    """``mic.mrc``, and what the later stages start from, so that each can be measured alone."""
    from cryosegnet_ext import Picker, read_micrograph
    from cryosegnet_ext.picking import denoise

    sample = read_micrograph(SAMPLE).data
    tiled = np.pad(sample, [(0, max(size - n, 0)) for n in sample.shape], mode="symmetric")[:size, :size]
    noise = np.random.default_rng(0).standard_normal((size, size), np.float32)
    with mrcfile.new(folder / "mic.mrc", overwrite=True) as mrc:
        mrc.set_data((tiled + 0.2 * sample.std() * noise).astype(np.float32))
        mrc.voxel_size = PIXEL_SIZE
    micrograph = read_micrograph(folder / "mic.mrc")
    picker = Picker(segmenter="watershed", device="cpu")
    diameter = picker.estimate_diameter([read_micrograph(SAMPLE)]) or 170.0
    (folder / "diameter.txt").write_text(f"{diameter}")
    found = picker.probability_map(micrograph, diameter)
    np.save(folder / "map.npy", found.data)
    np.save(folder / "working.npy", denoise.working_image(micrograph.data, found.scale_x).data)
    np.save(folder / "squeezed.npy", plain.squeeze(stand_in(micrograph.data)))


def stand_in(data: np.ndarray) -> np.ndarray:
    """Bytes to show the networks; their time does not depend on what is in them."""
    low, high = np.percentile(data, (1, 99))
    return (np.clip((data - low) / (high - low), 0, 1) * 255).astype(np.uint8)


@dataclass
class Context:
    """Where a worker finds its inputs."""

    folder: Path
    device: str
    sam_file: Path | None

    @property
    def diameter(self) -> float:
        return float((self.folder / "diameter.txt").read_text())

    def array(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy")

    @cached_property
    def micrograph(self):
        from cryosegnet_ext import read_micrograph

        return read_micrograph(self.folder / "mic.mrc")

    @cached_property
    def map1024(self) -> np.ndarray:
        """The built-in network's map in the frame of the published chain."""
        import cv2

        return cv2.resize(self.array("map"), (plain.SIDE, plain.SIDE), interpolation=cv2.INTER_AREA)

    @property
    def diameter_in_1024(self) -> float:
        return 32.0 * plain.SIDE / self.array("map").shape[0]

    def sam(self):
        return plain.sam(self.device, self.sam_file)

    def picker(self, **options):
        from cryosegnet_ext import Picker

        return Picker(device=self.device, **options)


@dataclass(frozen=True)
class Stage:
    """A stage: ``prepare`` gives what is measured, which may return a note; ``once`` for what takes minutes."""

    prepare: Callable[[Context], Callable[[], str | None]]
    cost: Callable[[Context], Cost] | None = None
    once: bool = False


def flops_of(build: Callable[[], object], run: Callable[[object], object]) -> float:
    """Operations (two for a multiplication with an addition) of the matrix products and convolutions in a run."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = build()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run(model)
    return float(counter.get_total_flops())


def unet_cost(base: int, levels: int, side: int, size: int, kind: str) -> Cost:
    """Of the U-Net; bytes: every convolution reads its input and writes its output once, all else is fused with it."""
    import torch

    from cryosegnet_ext.networks.unet import AttentionUNet

    moved = 0

    def count(module, inputs, output) -> None:
        nonlocal moved
        moved += size * (inputs[0].numel() + output.numel() + module.weight.numel())

    def run(model) -> None:
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(count)
        model(torch.zeros(1, 1, side, side))

    flops = flops_of(lambda: AttentionUNet(base, levels).eval(), run)
    return flops, moved, kind


def sam_cost(context: Context, prompts: int, kind: str) -> Cost:
    """SAM's encoder once and its decoder per prompt, as segment-anything computes it; bytes: the weights."""
    import torch

    sam = context.sam()
    size = sum(p.numel() for p in sam.parameters()) * 4
    sam = sam.to("meta")

    def encode(model) -> None:
        model.image_encoder(torch.zeros(1, 3, 1024, 1024))

    def decode(model) -> None:
        c = model.prompt_encoder.embed_dim
        model.mask_decoder(
            image_embeddings=torch.zeros(1, c, 64, 64),
            image_pe=torch.zeros(1, c, 64, 64),
            sparse_prompt_embeddings=torch.zeros(1, 2, c),
            dense_prompt_embeddings=torch.zeros(1, c, 64, 64),
            multimask_output=True,
        )

    return flops_of(lambda: sam, encode) + prompts * flops_of(lambda: sam, decode), size, kind


def denoising_cost(context: Context) -> Cost:
    """Non-local means by running sums: about 10 operations a shift and pixel, half of the 441 shifts by symmetry."""
    pixels = context.micrograph.data.size
    transforms = 2 * 2.5 * pixels * np.log2(pixels)
    return 10 * 220 * pixels + transforms + 100 * pixels, 5 * pixels, "fp32"


# The published pipeline ---------------------------------------------------------------------------------------------


def plain_denoising(c: Context):
    data = c.micrograph.data
    return lambda: void(plain.denoise(data))


def plain_unet(c: Context):
    model, image = plain.network(c.device), c.array("squeezed")
    return lambda: void(plain.probability(model, image))


def plain_generator(c: Context):
    sam, plane = c.sam(), c.map1024
    return lambda: f"1024 prompts, {len(plain.generate(sam, plane))} masks"


def void(_: object) -> None:
    return None


# Ours ---------------------------------------------------------------------------------------------------------------


def ours_reading(c: Context):
    from cryosegnet_ext import read_micrograph

    return lambda: void(read_micrograph(c.folder / "mic.mrc"))


def ours_estimate(c: Context):
    picker, micrograph = c.picker(), c.micrograph
    return lambda: f"{picker.estimate_diameter([micrograph]):.0f} A; once a data set"


def ours_working(c: Context):
    from cryosegnet_ext.picking import denoise

    micrograph, scale = c.micrograph, c.array("working").shape[0] / c.micrograph.data.shape[0]

    def run() -> str:
        bad = denoise.bad_areas(micrograph.data, micrograph.valid)
        side = denoise.working_image(micrograph.data, scale, bad).data.shape
        return f"to {side[0]} x {side[1]}"

    return run


def ours_unet(c: Context):
    from cryosegnet_ext.networks.unet import probability_map

    model, image = c.picker(segmenter="watershed")._models.unet, c.array("working")
    return lambda: void(probability_map(model, image))


def ours_watershed(c: Context):
    from cryosegnet_ext.picking.segment import watershed

    plane = c.array("map")
    return lambda: f"{len(watershed(plane, diameter_px=32.0))} masks"


def ours_whole(diameter: bool, **options) -> Callable[[Context], Callable[[], str]]:
    """From the MRC file to the STAR file; models are loaded before."""

    def prepare(c: Context):
        from cryosegnet_ext import read_micrograph

        picker = c.picker(**options)
        size = c.diameter if diameter else None

        def run() -> str:
            picks = picker.pick(read_micrograph(c.folder / "mic.mrc"), size)
            picks.write(c.folder / "picks.star")
            return f"{len(picks)} picks"

        return run

    return prepare


def ours_published_denoising(c: Context):
    from cryosegnet_ext.picking import denoise

    data = c.micrograph.data
    return lambda: void(denoise.published(data))


def ours_published_denoising_torch(c: Context):
    import torch

    from cryosegnet_ext.picking import denoise_torch

    data = torch.from_numpy(c.micrograph.data).to(c.device)
    return lambda: void(denoise_torch.published(data).cpu())


def ours_published_unet(c: Context):
    import torch

    from cryosegnet_ext.networks.unet import probability_map

    model, image = plain.network(c.device).to(memory_format=torch.channels_last), c.array("squeezed")
    return lambda: void(probability_map(model, image))


def ours_peaks(count: int) -> Callable[[Context], Callable[[], str]]:
    """SAM at the ``count`` best peaks of the map, which is blank elsewhere."""

    def prepare(c: Context):
        import cv2

        from cryosegnet_ext.picking.segment import find_peaks, peaks

        diameter = c.diameter_in_1024
        rows, columns, _ = find_peaks(c.map1024, diameter_px=diameter)
        shown = np.zeros(c.map1024.shape, np.uint8)
        for y, x in zip(rows[:count].tolist(), columns[:count].tolist()):
            cv2.circle(shown, (x, y), round(0.5 * diameter), 1, -1)
        plane, sam = np.where(shown, c.map1024, 0), c.sam()
        found = len(find_peaks(plane, diameter_px=diameter)[0])
        return lambda: f"{found} prompts, {len(peaks(plane, sam, diameter_px=diameter))} masks"

    return prepare


def precision(c: Context) -> str:
    import torch

    from cryosegnet_ext.networks.precision import precision_on

    return "bf16" if precision_on(torch.device(c.device)) == "bf16" else "fp32"


def built_in_cost(c: Context) -> Cost:
    side, kind = c.array("working").shape[0], precision(c)
    return unet_cost(16, 4, side + -side % 16, 2 if kind == "bf16" else 4, kind)


def published_cost(c: Context) -> Cost:
    kind = precision(c)
    return unet_cost(64, 5, plain.SIDE, 2 if kind == "bf16" else 4, kind)


STAGES: dict[str, Stage] = {
    "plain denoising": Stage(plain_denoising, denoising_cost),
    "ours published denoising": Stage(ours_published_denoising, denoising_cost),
    "plain U-Net": Stage(plain_unet, lambda c: unet_cost(64, 5, plain.SIDE, 4, "fp32")),
    "ours published U-Net": Stage(ours_published_unet, published_cost),
    "ours reading": Stage(ours_reading, lambda c: (0.0, 2.0 * 4 * c.micrograph.data.size, "fp32")),
    "ours working image": Stage(ours_working, lambda c: (0.0, 4.0 * c.micrograph.data.size, "fp32")),
    "ours U-Net": Stage(ours_unet, built_in_cost),
    "ours watershed": Stage(ours_watershed),
    "ours diameter": Stage(ours_estimate),
    "ours whole, size given": Stage(ours_whole(True)),
    "ours whole, size estimated": Stage(ours_whole(False)),
    "ours whole, size given, watershed": Stage(ours_whole(True, segmenter="watershed")),
    "ours peaks, 100": Stage(ours_peaks(100), lambda c: sam_cost(c, 100, precision(c)), once=True),
    "ours peaks, 600": Stage(ours_peaks(600), lambda c: sam_cost(c, 600, precision(c)), once=True),
    "plain generator": Stage(plain_generator, lambda c: sam_cost(c, 1024, "fp32"), once=True),
}
"""In the order in which they run."""

ON_GPU = {"ours published denoising": ours_published_denoising_torch}
"""What runs in place of a stage on a GPU."""


def topaz_seconds(python: Path, folder: Path, device: str, threads: int) -> float:
    """Seconds a micrograph of Topaz's preprocessing and extraction: three micrographs less one, over two."""
    topaz = python.parent / "topaz"
    gpu = "0" if device.startswith("cuda") else "-1"
    took = []
    for count in (1, 3):
        out = folder / f"topaz{count}"
        out.mkdir(exist_ok=True)
        names = []
        for i in range(count):
            names.append(str(folder / f"topaz_{i}.mrc"))
            if not Path(names[-1]).exists():
                Path(names[-1]).symlink_to(folder / "mic.mrc")
        start = time.perf_counter()
        prepare = [topaz, "preprocess", "-s", "8", "-d", gpu, "-j", str(threads), "-o", f"{out}/", *names]
        subprocess.run([str(part) for part in prepare], check=True, capture_output=True)
        small = [str(out / Path(name).name) for name in names]
        pick = [topaz, "extract", "-r", "8", "-d", gpu, "-o", out / "picks.txt", *small]
        subprocess.run([str(part) for part in pick], check=True, capture_output=True)
        took.append(time.perf_counter() - start)
    return (took[1] - took[0]) / 2
