"""A whole training, from labels to weights for the picker."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import CryoSegNetError, plural
from ..files.overlay import save_overlay
from ..files.picks import Picks
from ..networks.memory import ran_out
from ..networks.unet import AttentionUNet
from ..picking.picker import Picker
from ..picking.scoring import Calibration
from ..runs.stopping import Stop
from ..simulation.micrograph import ProjectionStack
from ..weights import load_unet
from . import result
from .batches import Crops, FrameBatches, Frames, Loader, Samples, default_workers, validation_crops
from .calibration import best_threshold, fit_calibration, gather, score_picker
from .crops_on_device import CropRenderer
from .data import Data, load_data
from .fit import Batch, Recipe, fit
from .folder import CANDIDATE, PICTURE, WEIGHTS, TrainingFolder
from .options import Options
from .parallel import Group
from .progress import Watcher
from .result import finish

log = logging.getLogger(__name__)


def train(options: Options, folder: TrainingFolder, group: Group, watcher: Watcher, stop: Stop) -> None:
    """Train a network. Resumes where an earlier call was stopped or killed. Each process of a group calls this.

    Raises
    ------
    CryoSegNetError
        Something is wrong with the user's files or options.
    Stopped
        A signal came; the same call resumes.
    """
    with stop.interrupts():
        data = group.in_turn(lambda: load_data(options, folder, group.device))
    begin(folder, data, group, options.seed, "particle")
    model = run(options, data, folder.path, group, watcher, stop)
    if group.first:
        with stop.interrupts():
            conclude(options, data, model, folder, group.device)
    group.wait()


def begin(folder: TrainingFolder, data: Data, group: Group, seed: int, noun: str) -> None:
    """Begin the run in its folder once the data are loaded, or resume it.

    Raises
    ------
    CryoSegNetError
        The run in the folder began with other data.
    """
    if group.first:
        labels = sum(len(e.x) for e in data.training)
        log.info(
            f"{plural(len(data.training), 'micrograph')} ({plural(labels, noun)}) to train on, "
            f"{len(data.validation)} to validate; particle diameter {data.size}"
        )
        known = data.described(folder.path.name)
        names = {"seed": seed, "train": sorted(known["train"]), "validation": sorted(known["validation"])}
        folder.begin(data.inputs, names, {"data": known, "environment": result.environment(group.device)})
        if not (folder.path / PICTURE).exists():
            shown = max(data.training, key=lambda e: len(e.x))
            picks = Picks(shown.x, shown.y, np.full(len(shown.x), shown.diameter_px), np.ones(len(shown.x)))
            save_overlay(folder.path / PICTURE, shown.as_in_file().data, picks)
    group.wait()


def run(options: Options, data: Data, folder: Path, group: Group, watcher: Watcher, stop: Stop) -> AttentionUNet:
    """Run the training loop of a recipe; returns the best network."""
    base, levels = options.sizes()
    started = load_unet(options.start)[0] if options.start else None
    samples: Samples
    validation: Sequence[Batch]
    renderer: CropRenderer | None = None
    if options.recipe == "published":
        batch = options.batch or 6
        samples = frames = Frames(data.training, batch, options.seed, least=group.size)
        validation = FrameBatches(data.validation, batch)
        # Adam, a constant rate of 1e-4, 200 epochs, validation each epoch, float32
        recipe = Recipe(
            base_channels=base,
            levels=levels,
            planes=started.planes if started else 1,
            steps=options.steps or (options.epochs or 200) * frames.steps_an_epoch,
            learning_rate=options.learning_rate or 1e-4,
            weight_decay=0.0,
            seed=options.seed,
            optimizer="adam",
            schedule="constant",
            precision="float32" if options.precision == "auto" else options.precision,
            clip=0.0,
            validate_every=frames.steps_an_epoch,
            patience=options.patience or 0,
        )
    else:
        batch = options.batch or 8
        if batch < group.size:
            raise CryoSegNetError(
                f"--batch {batch} is less than the {group.size} processes: give at least one crop each"
            )
        stacks = specimens(options.simulate, group.device)
        share = options.simulated if stacks else 0.0
        later = options.crops_on_device
        samples = Crops(data.training, stacks, share, options.crop, batch, options.seed, rendered_later=later)
        renderer = CropRenderer(stacks, group.device) if later else None
        validation = validation_crops(data.validation, options.crop, batch, options.seed)
        # AdamW, one cycle, crops at the working scale
        steps = options.steps or 3000
        recipe = Recipe(
            base_channels=base,
            levels=levels,
            planes=started.planes if started else 1,
            steps=steps,
            learning_rate=options.learning_rate or (1e-3 if options.start else 2e-3),
            seed=options.seed,
            precision=precision_for(options.precision, group.device),
            validate_every=max(10, min(100, steps // 10)),
            patience=12 if options.patience is None else options.patience,
        )
    start = started.state_dict() if started else None
    every = min(200, max(recipe.validate_every, 20))
    return fit_samples(options, recipe, samples, validation, start, folder, group, watcher, stop, every, renderer)


def fit_samples(
    options: Options,
    recipe: Recipe,
    samples: Samples,
    validation: Sequence[Batch],
    start: dict[str, Tensor] | None,
    folder: Path,
    group: Group,
    watcher: Watcher,
    stop: Stop,
    checkpoint_every: int,
    renderer: CropRenderer | None = None,
) -> AttentionUNet:
    """`fit` a network to samples, with the user's number of worker processes.

    Raises
    ------
    CryoSegNetError
        Memory ran out.
    """
    workers = default_workers(group.device) if options.workers is None else options.workers
    try:
        return fit(
            recipe,
            Loader(samples, recipe.steps, group, workers, renderer),
            folder,
            start,
            validation=validation,
            group=group,
            watch=watcher,
            stop=lambda: stop.requested,
            checkpoint_every=checkpoint_every,
        )
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        less = "--batch" if options.recipe == "published" else "--batch or --crop"
        raise CryoSegNetError(f"training ran out of memory on {group.device}: give a smaller {less}") from error


def precision_for(name: str, device: str) -> Any:
    """The precision of that name; ``auto`` is bf16 if the device has units for it, else float32.

    Raises
    ------
    CryoSegNetError
        float16 on a CPU.
    """
    import torch

    from ..networks.precision import bf16_pays

    if name == "float16" and not device.startswith("cuda"):
        raise CryoSegNetError("--precision float16 needs a GPU: use bf16 or float32")
    if name != "auto":
        return name
    return "bf16" if bf16_pays(torch.device(device)) else "float32"


def specimens(paths: Sequence[str], device: str) -> list[ProjectionStack]:
    """Projections of specimens, for simulation.

    Raises
    ------
    CryoSegNetError
        A file is neither a density map nor an atomic model.
    """
    from ..simulation.projection import project, random_rotations
    from ..simulation.specimens import read_specimen

    stacks = []
    for i, path in enumerate(paths):
        specimen = read_specimen(path)
        images = project(specimen, random_rotations(60, np.random.default_rng([5, i])), device)
        stacks.append(ProjectionStack(specimen.name, images, specimen.voxel_size, specimen.diameter))
    return stacks


def conclude(options: Options, data: Data, model: AttentionUNet, folder: TrainingFolder, device: str) -> None:
    """Calibrate and score the network, and write weights, model card and report."""
    log.info("calibrating the score on the validation micrographs")
    candidate = folder.path / CANDIDATE
    result.write_weights(model.state_dict(), result.note_of(options.recipe, "candidate"), candidate)
    seen = gather(candidate, data.validation, device, options.denoised)
    published = options.recipe == "published"
    calibration = Calibration() if published else fit_calibration(seen)
    threshold = best_threshold(seen, calibration)
    note = result.note_of(options.recipe, folder.path.name, None if published else calibration, threshold)
    result.write_weights(model.state_dict(), note, folder.path / WEIGHTS)

    plain = Picker(candidate, device=device, threshold=0.5, denoised=options.denoised)
    calibrated = Picker(folder.path / WEIGHTS, device=device, denoised=options.denoised)
    scores = {
        "built-in network": score_picker(Picker(device=device), data.validation),
        "this network, not calibrated": score_picker(plain, data.validation),
        "this network, calibrated": score_picker(calibrated, data.validation),
    }
    finish(folder, data, scores, threshold, [])
