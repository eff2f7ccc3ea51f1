"""Stage c: training of the U-Net on faint particles, from the built-in weights on; judged before and after.

Beside the working image the network gets a second plane, the image with white noise. Its weights begin at 0, so that
the first step sees the maps of the built-in network.
"""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.accuracy import contrast, two_passes
from benchmarks.accuracy.faint_sets import WORKING, View
from benchmarks.gpu.limits import seconds_of
from benchmarks.gpu.mixture import EIGHT, Mixture
from benchmarks.gpu.pack import Packed
from benchmarks.gpu.parts import Context, Found, Table
from benchmarks.gpu.scenes import SMALL_SIDE, specimens, stack_of
from benchmarks.weights import state as state_file
from benchmarks.weights.state import State
from benchmarks.weights.train_default import fragments
from cryosegnet_ext import Micrograph, Picker
from cryosegnet_ext.cores import usable_cores
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.evaluation import agreement
from cryosegnet_ext.files.atomic import atomic_path
from cryosegnet_ext.networks.precision import bf16_pays
from cryosegnet_ext.runs.stopping import Stopped
from cryosegnet_ext.simulation.micrograph import ProjectionStack
from cryosegnet_ext.training.batches import Loader
from cryosegnet_ext.training.crops_on_device import CropRenderer, on_device
from cryosegnet_ext.training.fit import Recipe, course, fit
from cryosegnet_ext.training.folder import CHECKPOINT
from cryosegnet_ext.training.parallel import Group
from cryosegnet_ext.training.progress import draw_curves
from cryosegnet_ext.training.result import write_weights
from cryosegnet_ext.weights import load_unet

WEIGHTS, STATE, LOSSES, CURVES = "unet.safetensors", "state.safetensors", "loss.csv", "curves.png"
STAGE, TRAINING = "faint on a GPU", "training"
#: Signal-to-noise ratios of the micrographs that judge; the first is the one that counts.
RATIOS = (0.03, 0.1, 2.0)
#: Seconds for saving and writing after the last step.
SAVING = 12.0
SIDE, BATCH, RATE, MEAN_OF, SEED = 256, 32, 8e-4, 300, 301


@dataclass(frozen=True)
class Judged:
    """Best F1 over all thresholds at each ratio, mean of the specimens; F1 on real micrographs; picks on empty ones."""

    faint: Mapping[float, float]
    real: Mapping[str, float]
    empty: int | None

    def rows(self) -> list[list[object]]:
        """Name and value."""
        found: list[list[object]] = [[f"best F1 at SNR {ratio}, mean", f1] for ratio, f1 in self.faint.items()]
        found += [[f"F1 on {name}", f1] for name, f1 in self.real.items()]
        return [*found, *([["picks on views without particles", self.empty]] if self.empty is not None else [])]


def before(context: Context) -> Found:
    """The built-in network on held-out micrographs."""
    rows = _judge(context, "default").rows()
    table = Table("Held-out micrographs, the built-in network", ("what", "value"), rows)
    return Found([table], {"rows": rows})


def after(context: Context) -> Found:
    """The trained network on the same."""
    # of a training that was ended, as far as it came
    _keep(context, context.scratch / TRAINING, _recipe(context))
    weights = context.output / WEIGHTS
    if not weights.exists():
        raise CryoSegNetError("there are no weights to judge: the training has not come so far")
    rows = _judge(context, weights).rows()
    table = Table("Held-out micrographs, the trained network", ("what", "value"), rows)
    return Found([table], {"rows": rows})


def train(context: Context) -> Found:
    """Train for as long as there is time, and keep what a later run and `cryosegnet pick` need."""
    folder = context.scratch / TRAINING
    folder.mkdir(exist_ok=True)
    recipe = _recipe(context)
    _take(context, folder)
    begun = course(folder).steps if (folder / CHECKPOINT).exists() else 0
    group = Group(device=context.device)
    mixture = _mixture(context)
    renderer = CropRenderer([*mixture.stacks, *mixture.small], context.device)
    later, crops = _faster(context, replace(mixture, rendered_later=True), mixture, renderer)
    made = replace(mixture, rendered_later=later)
    loader = Loader(made, recipe.steps, group, _workers(context), renderer if later else None)
    steps = 3 if context.small else None
    try:
        fit(
            recipe,
            loader,
            folder,
            None if begun else _start(),
            stop_after=begun + steps if steps else None,
            group=group,
            stop=lambda: context.left < SAVING,
            checkpoint_every=500,
            any_precision=True,
        )
    except Stopped:
        pass
    finally:
        _keep(context, folder, recipe)
    done = course(folder).steps
    losses = (folder / LOSSES).read_text().splitlines()
    seconds = float(losses[-1].split(",")[-1]) if len(losses) > 1 else 0.0
    batch = recipe_batch(context)
    rows: list[list[object]] = [["steps", done], ["steps of this run", done - begun], ["crops a step", batch]]
    rows += [["crops a second", batch * done / seconds if seconds else None], ["precision", recipe.precision]]
    rows += crops
    rows += [["loss, the last that was noted", losses[-1].split(",")[1] if seconds else None]]
    return Found([Table("Training", ("what", "value"), rows)], {"rows": rows, "steps": done, "begun": begun})


def _faster(
    context: Context, drawn: Mixture, whole: Mixture, renderer: CropRenderer
) -> tuple[bool, list[list[object]]]:
    """Whether to render simulated crops on the device, and rows of milliseconds a crop: by one CPU core, and there."""
    count = max(recipe_batch(context), EIGHT)
    some = [drawn[number] for number in range(count)]  # reads the data, too
    began = time.process_time()
    for number in range(count):
        drawn[number]
    drawing = (time.process_time() - began) / count
    began = time.process_time()
    for number in range(count):
        whole[number]
    making = (time.process_time() - began) / count
    try:
        there = seconds_of(lambda: on_device(some, renderer, 0), context.device, 3) / count
    except Exception:
        traceback.print_exc()
        there = float("inf")
    workers = max(_workers(context), 1)
    rows: list[list[object]] = [
        ["a crop made by a core, ms", 1e3 * making],
        ["a crop drawn by a core, ms", 1e3 * drawing],
        ["a crop rendered by the device, ms", 1e3 * there],
    ]
    # the device has the training to do besides
    later = context.device != "cpu" and 2 * there + drawing / workers < making / workers
    return later or context.small, [*rows, ["rendered on the device", "yes" if later or context.small else "no"]]


def _start() -> dict[str, torch.Tensor]:
    """The built-in weights, with a second plane that does nothing yet."""
    state = load_unet("default")[0].state_dict()
    first = state["e1.conv.conv.0.weight"]
    return {**state, "e1.conv.conv.0.weight": torch.cat((first, torch.zeros_like(first)), 1)}


def recipe_batch(context: Context) -> int:
    """Crops in a step."""
    return 2 if context.small else BATCH


def _recipe(context: Context) -> Recipe:
    return Recipe(
        planes=2,
        steps=1_000_000,
        learning_rate=RATE,
        seed=SEED,
        schedule="constant",
        precision="bf16" if bf16_pays(torch.device(context.device)) else "float32",
        mean_of=MEAN_OF,
    )


def _workers(context: Context) -> int:
    return 0 if context.small else max(usable_cores() - 2, 1)


def _mixture(context: Context) -> Mixture:
    whole = specimens(context, "train")
    small = [one for one in whole if one.diameter < 110] * 2
    if not context.small:
        large = [one for one in whole if one.diameter > 150 and one.voxel_size < 6 and len(one.density) < 80]
        small += fragments(large, 60, 7)
    views = 4 if context.small else 60
    stacks = [stack_of(one, views, number, context.device) for number, one in enumerate(whole)]
    few = [stack_of(one, max(views // 2, 4), 1000 + number, context.device) for number, one in enumerate(small)]
    side = 64 if context.small else SIDE
    return Mixture(stacks, few or stacks, context.data, recipe_batch(context), side, SEED)


def _take(context: Context, folder: Path) -> None:
    """The checkpoint and the losses of an earlier run, if there are any."""
    state = context.output / STATE
    if (folder / CHECKPOINT).exists() or not state.exists():
        return
    checkpoint = state_file.read(state).checkpoint
    with atomic_path(folder / CHECKPOINT) as temporary:
        torch.save(checkpoint, temporary)
    if (context.output / LOSSES).exists():
        shutil.copy(context.output / LOSSES, folder / LOSSES)


def _keep(context: Context, folder: Path, recipe: Recipe) -> None:
    """Weights, state, losses and curves into the folder of the results, if there is a checkpoint."""
    if not (folder / CHECKPOINT).exists():
        return
    checkpoint = torch.load(folder / CHECKPOINT, weights_only=True, map_location="cpu")
    text = json.dumps([recipe.learning_rate, recipe.seed, recipe.mean_of])
    state_file.write(context.output / STATE, State(STAGE, text, checkpoint["step"], {}, checkpoint))
    how = f"{checkpoint['step']} steps of benchmarks.gpu from the built-in weights on"
    remark = {**load_unet("default")[1], "trained": how}
    write_weights(checkpoint["mean"], remark, context.output / WEIGHTS)
    shutil.copy(folder / LOSSES, context.output / LOSSES)
    draw_curves(folder)
    if (folder / CURVES).exists():
        shutil.copy(folder / CURVES, context.output / CURVES)


# Held-out micrographs ---------------------------------------------------------------------------------------------


def _judge(context: Context, weights: str | Path) -> Judged:
    picker = Picker(weights, device=context.device)
    faint: dict[float, list[float]] = {}
    for ratio, view in _views(context, picker):
        found = two_passes.candidates(two_passes.logit(view), view, WORKING)
        faint.setdefault(ratio, []).append(two_passes.best_f1([found]))
    real, empty = {}, None
    if context.data:
        packed = Packed(context.data)
        most = 1 if context.small else None
        for name, (one, *_) in list(packed.micrographs("compared").items())[:most]:
            picks = picker.pick(Micrograph(one.data, None, name), one.diameter_px)
            pairs = np.c_[picks.x, picks.y], np.c_[one.x, one.y]
            real[name] = float(agreement(*pairs, 0.3 * one.diameter_px).f1)
        blank = packed.micrographs("blank").get("no-particles", [])[:most]
        empty = sum(len(picker.pick(Micrograph(one.data, None, "v"), size)) for one in blank for size in (16, 32))
    return Judged({ratio: float(np.mean(values)) for ratio, values in faint.items()}, real, empty)


def _views(context: Context, picker: Picker) -> list[tuple[float, View]]:
    """Working images and maps of the test specimens; the micrographs are made once in a run."""
    chosen = specimens(context, "test")[: 1 if context.small else None]
    stacks = [stack_of(one, 40, number, context.device) for number, one in enumerate(chosen)]
    with ThreadPoolExecutor(8) as pool:
        made = pool.map(_made, [context] * len(stacks), stacks, range(len(stacks)))
        paths = [one for some in made for one in some]
    return [(ratio, _view(picker, path)) for ratio, path in paths]


def _made(context: Context, stack: ProjectionStack, number: int) -> Sequence[tuple[float, Path]]:
    """One file for each ratio: the micrograph, its centres, which of them count."""
    pixel_size, defocus = contrast.IMAGING[number % len(contrast.IMAGING)]
    paths = [(ratio, context.scratch / f"held-out-{number}-{ratio}.npz") for ratio in RATIOS]
    if not all(path.exists() for _, path in paths):
        made = contrast.micrographs(stack, pixel_size, defocus, number, RATIOS)
        for ratio, path in paths:
            (one,), data = made[ratio].task.micrographs, made[ratio]
            side = SMALL_SIDE if context.small else contrast.SIDE
            within = (data.labels["m"] < side).all(1)
            np.savez(
                path,
                data=one.data[:side, :side],
                centres=data.labels["m"][within],
                inside=data.inside["m"][within],
                sizes=[pixel_size, stack.diameter],
            )
    return paths


def _view(picker: Picker, path: Path) -> View:
    with np.load(path) as file:
        pixel_size, diameter = file["sizes"].tolist()
        one = Micrograph(file["data"], pixel_size, "m")
        found = picker.probability_map(one, diameter)
        steps = np.array([found.scale_x, found.scale_y])
        centres = (file["centres"] + 0.5) * steps - 0.5
        # the image is not used
        return View(found.data, found.data, centres, file["inside"], pixel_size / found.scale_x, None)
