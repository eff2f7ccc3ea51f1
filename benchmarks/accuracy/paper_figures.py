"""What `paper.py` measures here: each part once, kept in one JSON file, so that a run that was stopped goes on."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import real_data
from benchmarks.accuracy import ablation, finetune_faint, held_out, other_pickers, peers
from benchmarks.speed import speed, speed_stages
from benchmarks.weights.train_default import specimen_files, specimen_stacks
from cryosegnet_ext import read_micrograph, read_picks
from cryosegnet_ext.files.atomic import write_atomic
from cryosegnet_ext.simulation.micrograph import ProjectionStack
from cryosegnet_ext.simulation.projection import project, random_rotations
from cryosegnet_ext.simulation.specimens import make_specimen
from cryosegnet_ext.weights import resolve, sha256_of

Figures = dict[str, object]

TUNED_SPECIMEN, TUNED_RATIO = "1u6g.mrc", 0.05
SAMPLE_DIAMETER = 169.0
"""Of the 20S proteasome in the sample, angstrom."""


class Kept:
    """Figures by name in a JSON file.

    Parameters
    ----------
    path
        The file; it need not be there.
    of
        What the figures depend on. A file of something else is refused (`SystemExit`).
    measures
        False: what is not there stays unknown.
    """

    def __init__(self, path: Path, of: Figures, measures: bool = True) -> None:
        self._path, self._measures = path, measures
        self._all: dict[str, object] = json.loads(path.read_text()) if path.exists() else {"of": of}
        if self._all["of"] != of:
            raise SystemExit(f"{path} has figures of {self._all['of']}, not of {of}: give another folder")

    def __contains__(self, name: str) -> bool:
        return name in self._all

    def __call__(self, name: str, measure: Callable[[], object]) -> Any:
        """The figure of this name; measured and written down if it is not there, or None if nothing is measured."""
        if not self._measures:
            return self._all.get(name)
        if name not in self._all:
            print(f"{time.strftime('%H:%M')} {name}", flush=True)
            self._all[name] = json.loads(json.dumps(measure()))
            write_atomic(self._path, json.dumps(self._all, indent=1) + "\n")
        return self._all[name]


@dataclass(frozen=True)
class Measured:
    """The measurements, for one set of weights.

    Attributes
    ----------
    folder
        Where everything is kept.
    small
        The program's sample and a made-up specimen, in a minute; no data are needed.
    weights
        Name or file.
    cache, topaz
        As of `peers.py`; without a cache, no other programs are run.
    report
        Give what there is in the folder and measure nothing.
    """

    folder: Path
    small: bool
    weights: str = "default"
    cache: Path | None = None
    topaz: str = "topaz"
    report: bool = False

    @property
    def kept(self) -> Kept:
        self.folder.mkdir(parents=True, exist_ok=True)
        of: Figures = {"weights": sha256_of(resolve(self.weights))[:12], "small": self.small}
        return Kept(self.folder / "figures.json", of, not self.report)

    def picking(self) -> list[Figures]:
        """Rows of `peers.figures`, with F1 of picks at random places, ``random_f1``."""
        names = ("ours", "log", "topaz", "stored") if self.cache or self.report else ("ours", "stored")
        if self.report:
            return self._there(names)
        judges = peers.judges(names, self.weights, self.cache or self.folder, self.topaz)

        def rows(judge: peers.Judge, data: held_out.HeldOut) -> list[Figures]:
            return [
                peers.figures(data.group, name, score) | {"set": data.task.name, "random_f1": data.random_f1(score)}
                for name, score in judge(data)
            ]

        return self._on_all(judges, rows)

    def steps(self) -> list[Figures]:
        """The same for each step of the chain."""
        if self.report:
            return self._there(["steps"])
        steps = ablation.Steps(self.weights, None, flips=False)

        def rows(_: object, data: held_out.HeldOut) -> list[Figures]:
            return [peers.figures(data.group, n, score) | {"set": data.task.name} for n, score in steps(data)]

        return self._on_all({"steps": steps}, rows)

    def _on_all(self, judges: dict, rows: Callable[..., list[Figures]]) -> list[Figures]:
        kept, names = self.kept, self._names()
        missing = [name for name in names if any(f"{judge}: {name}" not in kept for judge in judges)]
        for data in self._data(missing):
            for judge, work in judges.items():
                kept(f"{judge}: {data.task.name}", lambda work=work, data=data: rows(work, data))
        return self._there(judges)

    def _there(self, judges: Iterable[str]) -> list[Figures]:
        kept, found = self.kept, []
        for judge in judges:
            for name in self._names():
                if (rows := kept(f"{judge}: {name}", list)) is not None:
                    found += rows
        return found

    def _names(self) -> list[str]:
        if self.small:
            return ["sample"]
        real = [f"{name}-test" for name in (*real_data.SETS, *real_data.TEST_SETS)]
        return real + [f"simulated-{path.name}" for path in specimen_files("test")]

    def _data(self, names: list[str]) -> Iterator[held_out.HeldOut]:
        if self.small:
            yield from [sample()] if names else []
            return
        yield from held_out.real([n for n in (*real_data.SETS, *real_data.TEST_SETS) if f"{n}-test" in names], "test")
        simulated = [path.name for path in specimen_files("test")]
        left_out = [name for name in simulated if f"simulated-{name}" not in names]
        if len(left_out) < len(simulated):
            yield from held_out.simulated(1, left_out)

    def tuning(self) -> Figures | None:
        """Fine-tuning with own picks: a faint specimen that training never saw, before and after."""
        count, test, steps = (3, 1, 2) if self.small else (5, 3, 120)

        def measure() -> Figures:
            stack = made_up() if self.small else chosen(TUNED_SPECIMEN)
            ratio = 0.4 if self.small else TUNED_RATIO
            out = finetune_faint.compare(
                stack,
                self.folder / "tuning",
                ratio=ratio,
                count=count,
                test=test,
                steps=steps,
                weights=self.weights,
                self_train=True,
            )
            of: Figures = {"specimen": stack.name, "ratio": ratio, "micrographs": count, "test": test, "steps": steps}
            of |= {"seconds": out.seconds, "processor_seconds": out.processor_seconds, "kept": out.kept}
            for name, score in (("before", out.before), ("after", out.after)):
                of[name] = peers.figures(stack.name, name, score)
            return of

        return self.kept("self-training", measure)

    def seconds(self, stages: list[str]) -> dict[str, Figures]:
        """Wall and processor seconds and peak memory of stages of `speed.py`, one thread, by name."""
        kept, folder = self.kept, self.folder / "speed"
        size = 1024 if self.small else 4096
        missing = not self.report and any(f"seconds: {name}" not in kept for name in stages)
        if missing and not (folder / "squeezed.npy").exists():
            folder.mkdir(exist_ok=True)
            speed_stages.make_inputs(folder, size)
        a = argparse.Namespace(folder=folder, device="cpu", threads=1, sam=None)
        found = {}
        for name in stages:
            one = kept(f"seconds: {name}", lambda name=name: speed.in_process(a, name) | {"size": size})
            found |= {name: one} if one else {}
        return found

    def training_steps(self) -> dict[str, Figures]:
        """Processor seconds of one step of training, by the network: ours as it is, the published one for a crop."""
        shapes = {"published": (64, 5, 1, 256), "ours": (16, 4, 8, 256)}
        if self.small:
            shapes = {"published": (4, 5, 1, 64), "ours": (4, 4, 1, 64)}
        found = {}
        for name, shape in shapes.items():
            one = self.kept(f"training step: {name}", lambda shape=shape: training_step(*shape))
            found |= {name: one} if one else {}
        return found


def training_step(channels: int, levels: int, batch: int, side: int, repeats: int = 2) -> Figures:
    """The least of some steps in fp32 with one thread; loss and optimiser as published."""
    import torch

    from cryosegnet_ext.networks.unet import AttentionUNet

    torch.set_num_threads(1)
    model = AttentionUNet(channels, levels).train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-4)
    image, label = torch.rand(batch, 1, side, side), (torch.rand(batch, 1, side, side) > 0.5).float()
    seconds = []
    for _ in range(repeats + 1):  # the first one also makes the optimiser's state
        began = time.process_time()
        logit = model(image)
        probability = torch.sigmoid(logit)
        dice = 1 - 2 * (probability * label).sum() / (probability.sum() + label.sum())
        loss = (torch.nn.functional.binary_cross_entropy_with_logits(logit, label) + dice) / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seconds.append(time.process_time() - began)
    parameters = sum(p.numel() for p in model.parameters())
    return {"batch": batch, "side": side, "parameters": parameters, "processor_seconds": min(seconds[1:])}


def chosen(name: str) -> ProjectionStack:
    """A specimen of the test split."""
    return next(stack for stack in specimen_stacks("test", views=40) if stack.name == name)


def sample() -> held_out.HeldOut:
    """The sample of ``cryosegnet demo``; its truth leaves out particles at the border, where nothing is picked."""
    file = speed_stages.SAMPLE
    micrograph, truth = read_micrograph(file), read_picks(file.with_name("sample_truth.star"))
    xy, name = np.c_[truth.x, truth.y], micrograph.name
    task = other_pickers.Task("sample", [micrograph], SAMPLE_DIAMETER, speed_stages.PIXEL_SIZE)
    inside = {name: np.ones(len(xy), bool)}
    return held_out.HeldOut("sample of the program", task, {name: xy}, inside, task.diameter_px)


def made_up() -> ProjectionStack:
    """A specimen of a few blobs."""
    rng = np.random.default_rng(3)
    grid = np.stack(np.meshgrid(*[np.arange(-16, 16)] * 3, indexing="ij"))
    blobs = [np.exp(-((grid - at[:, None, None, None]) ** 2).sum(0) / 18) for at in rng.uniform(-7, 7, (6, 3))]
    specimen = make_specimen("made-up", np.sum(blobs, 0).astype(np.float32), 4.0)
    images = project(specimen, random_rotations(20, rng))
    return ProjectionStack("made-up", images, specimen.voxel_size, specimen.diameter)
