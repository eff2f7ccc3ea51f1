"""The stages of the training of the built-in weights, in their order."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

UNET, SAM = "benchmarks.weights.train_default", "benchmarks.weights.train_sam"
ALL = "empiar-10017-denoised apoferritin empiar-10059 views"
# EMPIAR-10017 twice: it has the most particles, and labels that are the hardest to foresee.
WEIGHED = "empiar-10017-denoised apoferritin empiar-10017-denoised empiar-10059 views"
FAINT = (
    "empiar-10017-denoised apoferritin-one-frame apoferritin empiar-10017-denoised empiar-10059 views apoferritin-more"
)
# `faint` has a constant rate and a running mean, so it may end at any step: the one at which it was stopped.
FAINT_STEPS, FAINTER_STEPS = 1000, 550
SAM_FAINT_STEPS, SAM_EMPTY_STEPS = 1000, 850


@dataclass(frozen=True)
class Stage:
    """One run of a training script.

    ``options`` may speak of the stages before as ``{runs}/<stage>``; ``steps`` are those of the schedule, of which a
    run takes the first ``taken``, where that is given.
    """

    name: str
    script: str
    options: str
    steps: int
    taken: int | None = None
    processes: int = 1

    def last(self, share: float) -> int:
        """The step after which it is finished, with ``share`` of the steps."""
        return _part(self.taken or self.steps, share)

    def recipe(self, share: float) -> str:
        """What decides its result, apart from the step at which it ends; the same on every machine."""
        words = [self.script.rpartition(".")[2], *self._words(share)]
        return " ".join(words) + (f" in {self.processes} processes" if self.processes > 1 else "")

    def command(self, runs: Path, share: float, device: str = "cpu", devices: int = 0) -> list[str]:
        """Its command line.

        Parameters
        ----------
        runs
            Folder of all stages.
        share
            This part of the steps, and of the scenes to draw from; two at least.
        device
            ``cpu`` or ``cuda``, for the U-Net.
        devices
            How many GPUs there are. Where they are too few for the stage's processes, one process does the work of all.
        """
        words = ["-m", self.script, "--output", str(runs / self.name)]
        words += [word.format(runs=runs) for word in self._words(share)]
        if self.taken is not None:
            words += ["--stop-after", str(self.last(share))]
        words += ["--stdin-stops"]
        processes = self.processes
        if self.script == UNET and device != "cpu":
            words += ["--device", device]
            if devices < processes:
                words += ["--batches", str(processes)]
                processes = 1
        if processes == 1:
            return [sys.executable, *words]
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        return [*launch, "--nproc-per-node", str(processes), *words]

    def needs(self, begun: bool = False) -> set[str]:
        """The stages whose weights it reads; one that has ``begun`` no longer those that it started from."""
        options = re.sub(r"--from \S+", "", self.options) if begun else self.options
        return set(re.findall(r"\{runs\}/([^/\s]+)/", options))

    def _words(self, share: float) -> list[str]:
        words = self.options.split()
        if "--scenes" in words:
            k = words.index("--scenes") + 1
            words[k] = str(_part(int(words[k]), share))
        return [*words, "--steps", str(_part(self.steps, share))]


def _part(steps: int, share: float) -> int:
    return max(round(steps * share), 2)


def _few(name: str, options: str, steps: int, taken: int | None = None) -> Stage:
    """Of simulation, and one crop in eight of one data set."""
    return Stage(name, UNET, f"--stage mixed --real 1 --turns empiar-10059 {options}", steps, taken)


def _all(name: str, options: str, steps: int) -> Stage:
    """Of all there is, half of it real, in two processes."""
    return Stage(name, UNET, f"--stage mixed --real 4 --empty 0.8 {options}", steps, processes=2)


def _sam(name: str, options: str, steps: int) -> Stage:
    """On the maps of the last stage of the U-Net."""
    return Stage(name, SAM, f"--unet {{runs}}/fainter/checkpoint.pt {options}", steps)


STAGES: Sequence[Stage] = (
    Stage("simulated", UNET, "--stage simulated", 1300, 600),
    _few("zero-before", "--from {runs}/simulated/checkpoint.pt --rate 1.5e-3 --seed 12", 3600, 800),
    _few("zero", "--from {runs}/zero-before/checkpoint.pt --rate 1e-3 --seed 13", 900),
    _all("wide", f"--from {{runs}}/zero/checkpoint.pt --turns {ALL} --rate 1.2e-3 --seed 131", 1700),
    _all("wider", f"--from {{runs}}/wide/checkpoint.pt --turns {WEIGHED} --rate 8e-4 --seed 151", 700),
    _all("final", f"--from {{runs}}/wider/checkpoint.pt --turns {WEIGHED} --rate 1e-3 --seed 171", 2600),
    Stage(
        "faint",
        UNET,
        f"--stage mixed --schedule constant --mean-of 300 --from {{runs}}/final/checkpoint.pt --real 3 --turns {FAINT} "
        "--empty 0.8 --planted 0.2 --small 0.4 --rate 8e-4 --seed 201",
        20000,
        FAINT_STEPS,
        processes=2,
    ),
    Stage(
        "fainter",
        UNET,
        f"--stage mixed --mean-of 60 --from {{runs}}/faint/checkpoint.pt --real 3 --turns {FAINT} --empty 0.8 "
        "--planted 0.2 --small 0.4 --rate 7e-4 --seed 202",
        FAINTER_STEPS,
        processes=2,
    ),
    _sam("sam-first", "--scenes 600 --rate 1e-3 --real-share 0.35 --empty-share 0.12 --seed 21", 4500),
    _sam(
        "sam",
        "--from {runs}/sam-first/checkpoint.pt --scenes 600 --rate 6e-4 --real-share 0.25 --empty-share 0.08 --seed 22",
        1800,
    ),
    _sam(
        "sam-faint",
        "--from {runs}/sam/checkpoint.pt --scenes 250 --rate 6e-4 --real-share 0.25 --empty-share 0.1 --seed 23",
        SAM_FAINT_STEPS,
    ),
    _sam(
        "sam-empty",
        "--from {runs}/sam-faint/checkpoint.pt --scenes 250 --rate 6e-4 --real-share 0.25 --empty-share 0.28 --seed 24",
        SAM_EMPTY_STEPS,
    ),
)

#: The stages whose networks are calibrated and become the built-in weights: the U-Net is the mean of these, by shares.
UNET_PARTS, SAM_STAGE = {"faint": 0.6, "fainter": 0.4}, "sam-empty"
