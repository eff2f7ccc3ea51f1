"""A whole training: labels to weights that pick."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..atomic import write_atomic
from ..errors import CryoSegNetError
from ..picker import Picker
from ..progress import plural
from ..scoring import Calibration
from ..simulation.micrograph import ProjectionStack
from ..stopping import Stop
from ..unet import AttentionUNet
from ..weights import load_unet
from . import output
from .batches import Crops, FrameBatches, Frames, Loader, Source, default_workers, validation_crops
from .calibration import MOST_MICROGRAPHS, Scores, best_threshold, fit_calibration, gather, score_picker
from .curves import Watcher, draw_curves
from .dataset import Example, Preparation, chosen, split
from .fit import Batch, Recipe, fit
from .folder import CANDIDATE, WEIGHTS, RunFolder
from .options import Options
from .parallel import Group
from .preparing import Size, Wanted, labelled_examples


@dataclass(frozen=True)
class Data:
    """Examples that are ready, and what is known of them.

    Attributes
    ----------
    training, validation
        To learn from, and held out.
    size
        The particle's.
    inputs
        What tells whether the user changed anything that they come from: see `preparing.digests`.
    """

    training: list[Example]
    validation: list[Example]
    size: Size
    inputs: Mapping[str, str] = field(default_factory=dict)

    def described(self, name: str) -> dict[str, Any]:
        """For ``training.json``."""
        return {
            "name": name,
            "diameter": self.size.value,
            "angstrom": self.size.angstrom,
            "diameter_from": self.size.source,
            "train": [e.name for e in self.training],
            "validation": [e.name for e in self.validation],
            "train_labels": sum(len(e.x) for e in self.training),
            "validation_labels": sum(len(e.x) for e in self.validation),
        }


def train(options: Options, folder: RunFolder, group: Group, watcher: Watcher, stop: Stop) -> None:
    """Train a network; resumes where an earlier call was stopped or killed. Each process of a group calls this.

    Raises
    ------
    CryoSegNetError
        Something is wrong with what the user gave.
    Interrupted, Stopped
        A signal came; the same call goes on from there.
    """
    say = watcher.say if group.first else _silent
    with stop.interrupts():
        data = group.in_turn(lambda: load_data(options, folder, group.device, say))
    begin(folder, data, group, options.seed, say, "particle")
    model, steps = run(options, data, folder.path, group, watcher, stop)
    if group.first:
        with stop.interrupts():
            conclude(options, data, model, folder, group.device, say, steps)
    group.wait()


def begin(folder: RunFolder, data: Data, group: Group, seed: int, say: Callable[[str], None], noun: str) -> None:
    """Begin the run in its folder, now that the data are there, or go on with it.

    Raises
    ------
    CryoSegNetError
        The run in the folder began with other data.
    """
    if group.first:
        labels = sum(len(e.x) for e in data.training)
        say(
            f"{plural(len(data.training), 'micrograph')} ({plural(labels, noun)}) to train on, "
            f"{len(data.validation)} to validate; particle diameter {data.size}"
        )
        known = data.described(folder.path.name)
        names = {"seed": seed, "train": sorted(known["train"]), "validation": sorted(known["validation"])}
        folder.begin(data.inputs, names, {"data": known, "environment": output.environment(group.device)})
    group.wait()


def load_data(options: Options, folder: RunFolder, device: str, say: Callable[[str], None]) -> Data:
    """Prepare and split the user's micrographs."""
    how = Preparation(options.preset, options.denoised, options.pixel_size, options.flip_labels, options.label_scale)
    wanted = Wanted(options.micrographs, options.labels, options.diameter, how, options.skip_bad, device=device)
    examples, size, inputs = labelled_examples(wanted, folder.path, say)
    return split_data(options, examples, size, inputs, folder)


def split_data(
    options: Options, examples: Sequence[Example], size: Size, inputs: Mapping[str, str], folder: RunFolder
) -> Data:
    """Examples to learn from, and those held out.

    Raises
    ------
    CryoSegNetError
        The user's split file is none, or leaves nothing to train or validate on.
    """
    file = folder.split_file(options.split)
    training, validation = split([e.name for e in examples], file, options.seed, options.validation)
    if options.split is not None:
        inputs = {**inputs, options.split: hashlib.sha256(_read(Path(options.split))).hexdigest()[:16]}
    return Data(chosen(examples, training), chosen(examples, validation), size, inputs)


def run(
    options: Options, data: Data, folder: Path, group: Group, watcher: Watcher, stop: Stop
) -> tuple[AttentionUNet, int]:
    """The training loop with the preset's recipe; the best network, and its number of steps."""
    source: Source
    validation: Sequence[Batch]
    if options.preset == "published":
        frames = Frames(data.training, options.batch or 6, options.seed, least=group.size)
        steps = options.steps or (options.epochs or 200) * frames.steps_an_epoch
        recipe = published_recipe(options, steps, frames.steps_an_epoch, group.device)
        source, validation, every = frames, FrameBatches(data.validation, options.batch or 6), frames.steps_an_epoch
    else:
        recipe = default_recipe(options, group.device)
        batch = options.batch or 8
        if batch < group.size:
            raise CryoSegNetError(
                f"--batch {batch} is less than the {group.size} processes: give at least one crop each"
            )
        stacks = specimens(options.simulate, group.device)
        share = options.simulated if stacks else 0.0
        source = Crops(data.training, stacks, share, options.crop, batch, options.seed)
        validation, every = validation_crops(data.validation, options.crop, batch, options.seed), recipe.validate_every
    start: Mapping[str, Tensor] | None = load_unet(options.start)[0].state_dict() if options.start else None
    workers = default_workers(group.device) if options.workers is None else options.workers
    try:
        model = fit(
            recipe,
            Loader(source, recipe.steps, group, workers),
            folder,
            dict(start) if start else None,
            validation=validation,
            group=group,
            watch=watcher,
            stop=lambda: stop.requested,
            checkpoint_every=min(200, max(every, 20)),
        )
    except ValueError as error:  # what the settings do not tell: mixed precision on another kind of device
        raise CryoSegNetError(
            f"{folder} holds a run that was begun on another kind of device: go on there, or add --overwrite"
        ) from error
    return model, recipe.steps


def default_recipe(options: Options, device: str) -> Recipe:
    """Ours: AdamW, one cycle, crops at the working scale."""
    base, levels = options.sizes()
    steps = options.steps or 3000
    return Recipe(
        base_channels=base,
        levels=levels,
        steps=steps,
        learning_rate=options.learning_rate or (1e-3 if options.start else 2e-3),
        seed=options.seed,
        precision=chosen_precision(options.precision, device),
        validate_every=max(10, min(100, steps // 10)),
        patience=12 if options.patience is None else options.patience,
    )


def published_recipe(options: Options, steps: int, epoch: int, device: str) -> Recipe:
    """The paper's: Adam, a constant rate of 1e-4, 200 epochs, validation each epoch; float32 unless asked."""
    base, levels = options.sizes()
    return Recipe(
        base_channels=base,
        levels=levels,
        steps=steps,
        learning_rate=options.learning_rate or 1e-4,
        weight_decay=0.0,
        seed=options.seed,
        optimizer="adam",
        schedule="constant",
        precision="float32" if options.precision == "auto" else options.precision,
        clip=0.0,
        validate_every=epoch,
        patience=options.patience or 0,
    )


def chosen_precision(wanted: str, device: str) -> Any:
    """``auto``: bf16 where the device has units for it, else float32.

    Raises
    ------
    CryoSegNetError
        float16 on a CPU, which has no units for it.
    """
    import torch

    from ..unet import bf16_pays

    if wanted == "float16" and not device.startswith("cuda"):
        raise CryoSegNetError("--precision float16 needs a GPU: use bf16 or float32")
    if wanted != "auto":
        return wanted
    return "bf16" if bf16_pays(torch.device(device)) else "float32"


def specimens(paths: Sequence[str], device: str, views: int = 60) -> list[ProjectionStack]:
    """Projections of the specimens that are to be simulated.

    Raises
    ------
    CryoSegNetError
        A file is neither a map nor a model.
    """
    from ..simulation.projection import project, random_rotations
    from ..simulation.specimens import read_specimen

    stacks = []
    for i, path in enumerate(paths):
        specimen = read_specimen(path)
        images = project(specimen, random_rotations(views, np.random.default_rng([5, i])), device)
        stacks.append(ProjectionStack(specimen.name, images, specimen.voxel_size, specimen.diameter))
    return stacks


def conclude(
    options: Options,
    data: Data,
    model: AttentionUNet,
    folder: RunFolder,
    device: str,
    say: Callable[[str], None],
    steps: int,
) -> None:
    """Calibrate, score, and write the weights, the card and the report."""
    say("calibrating the score on the validation micrographs")
    candidate = folder.path / CANDIDATE
    output.write_weights(model.state_dict(), output.note_of(options.preset, "candidate"), candidate)
    seen = gather(candidate, data.validation, device, options.denoised)
    published = options.preset == "published"
    calibration = Calibration() if published else fit_calibration(seen)
    threshold = best_threshold(seen, calibration)
    note = output.note_of(options.preset, folder.path.name, None if published else calibration, threshold)
    output.write_weights(model.state_dict(), note, folder.path / WEIGHTS)

    scores: dict[str, Scores] = {}
    scores["built-in network"] = score_picker(Picker(device=device), data.validation)
    plain = Picker(candidate, device=device, threshold=0.5, denoised=options.denoised)
    scores["this network, not calibrated"] = score_picker(plain, data.validation)
    calibrated = Picker(folder.path / WEIGHTS, device=device, denoised=options.denoised)
    scores["this network, calibrated"] = score_picker(calibrated, data.validation)
    finish(folder, data, scores, steps, threshold, [])


def finish(
    folder: RunFolder,
    data: Data,
    scores: Mapping[str, Scores],
    steps: int,
    threshold: float,
    remarks: Sequence[str],
    scored_on: str | None = None,
) -> None:
    """Write the report, the card and the curves, and tell the result."""
    count = min(len(data.validation), MOST_MICROGRAPHS)
    results = {
        "steps": steps,
        "threshold": threshold,
        "scored_on": scored_on or f"{count} validation micrograph{'s' if count > 1 else ''}",
        "remarks": list(remarks),
        "scores": {
            name: {**asdict(s), "precision": round(s.precision, 4), "recall": round(s.recall, 4), "f1": round(s.f1, 4)}
            for name, s in scores.items()
        },
    }
    draw_curves(folder.path)
    folder.write({"results": results, "weights": WEIGHTS, "command": ["cryosegnet", *sys.argv[1:]]})
    write_atomic(folder.path / "model_card.md", output.model_card(folder.report))
    folder.write({"status": "finished"})
    folder.tidy()


def summary(report: Mapping[str, Any], folder: Path) -> list[str]:
    """Lines for the user at the end."""
    results, data = report["results"], report["data"]
    names = list(results["scores"])
    width = max((len(name) for name in names), default=0) + 1
    lines = [f"On {results['scored_on']}, size given:"]
    for name in names:
        s = results["scores"][name]
        words = f"precision {s['precision']:.3f}, recall {s['recall']:.3f}, F1 {s['f1']:.3f}"
        lines.append(f"  {name + ':':<{width}} {words}")
    lines += results["remarks"]
    size = f" --diameter {data['diameter']:.0f}" if data["angstrom"] else ""
    lines += [
        f"weights:  {folder / WEIGHTS} (threshold {results['threshold']:g})",
        # A run of fewer steps than a line of loss.csv stands for has no curves.
        *([f"look at:  {folder / 'curves.png'}"] if (folder / "curves.png").exists() else []),
        f"use them: cryosegnet pick MICROGRAPHS -o picked --weights {folder / WEIGHTS}{size}",
    ]
    return lines


def _silent(_: str) -> None:
    pass


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CryoSegNetError(f"--split {path} cannot be read ({error.strerror}): check the path") from error
