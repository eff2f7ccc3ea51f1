"""From data to the built-in weights: every stage of the training in its order, one command.

    python -m benchmarks.weights.make_weights runs
    python -m benchmarks.weights.make_weights runs --minutes 50 --state state.safetensors
    python -m benchmarks.weights.make_weights try --share 0.003    # every stage in a few steps: does it run here?
    python -m benchmarks.weights.make_weights runs --list          # the commands, without running any

The same command goes on where it stopped: a finished stage is passed over, one that was stopped goes on from its last
checkpoint. ``--minutes``, Ctrl-C and SIGTERM stop it with everything saved; a kill loses the steps since the last
checkpoint. With ``--state`` it also goes on on another machine, with an empty folder: that file, below 16 MB, is
written at most every ten minutes and at the end (benchmarks/weights/state.py says what a move costs).

``runs/<stage>`` holds a stage's checkpoint, ``loss.csv`` and ``curves.png``. Last come
``runs/weights/unet_default.safetensors``, ``sam_small.safetensors`` and ``data.json``: every micrograph and specimen
that training and calibration read, with its SHA-256. Seeds are fixed; weights agree up to the rounding of the machine's
bf16 arithmetic. ``--device cuda`` trains the U-Net on GPUs; with fewer GPUs than processes the norms and the loss see
their crops together, so those weights are others. Many hours on two CPU cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import real_data
from benchmarks.weights import state as state_file
from benchmarks.weights.stages import SAM_STAGE, STAGES, UNET_PARTS, Stage
from benchmarks.weights.state import Finished, State
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.atomic import atomic_path, write_atomic
from cryosegnet_ext.runs.folder import locked
from cryosegnet_ext.runs.stopping import Stop, Stopped
from cryosegnet_ext.training.progress import draw_curves

ROOT = Path(__file__).resolve().parents[2]
STATE_SECONDS = 600.0
# How long a training may take to save and end when it is asked to; a step takes seconds, loading takes minutes.
GRACE_SECONDS = 120.0


@dataclass(frozen=True)
class Plan:
    """The stages in a folder: which of them are finished, and what they left.

    Attributes
    ----------
    runs
        The folder; each stage has one of its own in it.
    stages
        All stages, in their order.
    share
        Of each stage's steps.
    last
        The stages whose weights are wanted in the end.
    """

    runs: Path
    stages: Sequence[Stage]
    share: float = 1.0
    last: tuple[str, ...] = (*UNET_PARTS, SAM_STAGE)

    def checkpoint(self, stage: Stage) -> Path:
        """Where a stage keeps its checkpoint."""
        return self.runs / stage.name / "checkpoint.pt"

    def finished(self) -> dict[str, Finished]:
        """The finished stages, up to the first one that is not."""
        result = {}
        for stage in self.stages:
            done = self.runs / stage.name / "DONE"
            try:
                found = Finished(**json.loads(done.read_text()))
            except (OSError, ValueError, TypeError):
                break
            if found.recipe != self.recipe(stage):
                break
            result[stage.name] = found
        return result

    def recipe(self, stage: Stage) -> str:
        """What decides the result of a stage."""
        return f"{stage.recipe(self.share)}, {stage.last(self.share)} steps"

    def step(self, stage: Stage) -> int:
        """The steps in the checkpoint of a stage; 0 without one."""
        if not self.checkpoint(stage).exists():
            return 0
        return int(self._load(stage, mmap=True).get("step", 0))

    def finish(self, stage: Stage) -> None:
        """Note that a stage is finished."""
        weights = state_file.weights_in(self._load(stage))
        self._note(stage, Finished(self.recipe(stage), state_file.digest(weights)))

    def state(self) -> State:
        """How far it is, with what the rest needs."""
        finished = self.finished()
        left = list(self.stages[len(finished) :])
        begun = bool(left) and self.checkpoint(left[0]).exists()
        needed = set(self.last).union(*(s.needs(begun and s is left[0]) for s in left))
        weights = {
            s.name: state_file.weights_in(self._load(s)) for s in self.stages if s.name in needed & set(finished)
        }
        if not left:
            return State("", "", 0, finished, None, weights)
        checkpoint = self._load(left[0]) if begun else None
        recipe = left[0].recipe(self.share)
        return State(left[0].name, recipe, checkpoint["step"] if checkpoint else 0, finished, checkpoint, weights)

    def take(self, state: State, path: Path) -> bool:
        """Go on from a state if it is further than the folder; whether it was.

        Raises
        ------
        CryoSegNetError
            The state belongs to other stages than those of this folder.
        """
        self._check(state, path)
        mine = self.finished()
        index = len(state.finished)
        here = self.step(self.stages[index]) if index < len(self.stages) else 0
        if (index, state.step) <= (len(mine), here):
            return False
        for stage in self.stages[len(mine) : index]:
            if stage.name in state.weights:
                self._save(stage, {"model": state.weights[stage.name]})
            self._note(stage, state.finished[stage.name])
        if state.checkpoint is not None:
            self._save(self.stages[index], state.checkpoint)
        return True

    def _check(self, state: State, path: Path) -> None:
        by_name = {stage.name: stage for stage in self.stages}
        mine = self.finished()
        order = [stage.name for stage in self.stages][: len(state.finished) + 1]
        wrong = None
        if [*state.finished, *([state.stage] if state.stage else [])] != order:
            wrong = "it has other stages"
        elif state.stage and state.recipe != by_name[state.stage].recipe(self.share):
            wrong = f"another recipe of the stage {state.stage}"
        for name, other in state.finished.items() if wrong is None else ():
            if other.recipe != self.recipe(by_name[name]):
                wrong = f"another recipe of the stage {name}"
            elif other.sha256 != mine.get(name, other).sha256:
                wrong = f"its stage {name} gave other weights"
            elif name in state.weights and state_file.digest(state.weights[name]) != other.sha256:
                wrong = f"its weights of the stage {name} are not those of that stage"
        if wrong is not None:
            raise CryoSegNetError(f"{path} does not belong to the runs in {self.runs} ({wrong}): give another one")

    def _load(self, stage: Stage, mmap: bool = False) -> dict[str, Any]:
        path = self.checkpoint(stage)
        try:
            return dict(torch.load(path, weights_only=True, map_location="cpu", mmap=mmap))
        except Exception as error:  # on damaged bytes the unpickler raises almost anything
            raise CryoSegNetError(f"{path} is damaged or missing: remove the folder of this stage") from error

    def _save(self, stage: Stage, checkpoint: object) -> None:
        path = self.checkpoint(stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            torch.save(checkpoint, temporary)

    def _note(self, stage: Stage, finished: Finished) -> None:
        folder = self.runs / stage.name
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "DONE", json.dumps(vars(finished), indent=1) + "\n")


class Keeper:
    """Writes the state file from time to time.

    Parameters
    ----------
    plan
        Whose state.
    path
        The file; None for none.
    seconds
        Least time between two writings by `keep`.
    """

    def __init__(self, plan: Plan, path: Path | None, seconds: float = STATE_SECONDS) -> None:
        self._plan, self._path, self._seconds = plan, path, seconds
        self._written = time.monotonic()

    def keep(self) -> None:
        """Write it if it is time; a failure is told, and the training goes on."""
        if self._path is not None and time.monotonic() - self._written >= self._seconds:
            try:
                self.write()
            except CryoSegNetError as error:
                print(f"warning: {error}", flush=True)
                self._written = time.monotonic()

    def write(self) -> None:
        """Write it now."""
        if self._path is not None:
            state_file.write(self._path, self._plan.state())
            self._written = time.monotonic()


def run(command: list[str], stop: Stop, keep: Callable[[], None] = lambda: None, saves: bool = True) -> None:
    """Run a command in the repository's folder until it ends or is to stop.

    Parameters
    ----------
    command
        Its words.
    stop
        Asked several times a second.
    keep
        Called about every second.
    saves
        Whether the command ends, with everything saved, when its standard input is closed; else it is terminated.

    Raises
    ------
    Stopped
        It was to stop, and has ended.
    SystemExit
        It failed.
    """
    line = " ".join(command)
    print(line, flush=True)
    # In a session of its own it does not hear the terminal's Ctrl-C. Its standard input closes when this process ends,
    # however it ends.
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True) as process:
        try:
            while process.poll() is None:
                stop.pause(1.0)
                keep()
        except Stopped:
            _end(process, saves)
            raise
    if process.returncode:
        sys.exit(f"this stage failed: {line}\nThe stages before it are kept: mend the cause and run this script again.")


def _end(process: subprocess.Popen[bytes], saves: bool) -> None:
    if saves and process.stdin is not None:
        process.stdin.close()
        try:
            process.wait(GRACE_SECONDS)
            return
        except subprocess.TimeoutExpired:
            print("the training does not end; it goes on from its last checkpoint", flush=True)
    # torchrun passes it on, and kills after 30 seconds
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()


def train(plan: Plan, stop: Stop, keeper: Keeper, device: str = "cpu") -> None:
    """Run every stage that is not finished; raises `Stopped` in between."""
    for stage in plan.stages:
        if stage.name in plan.finished():
            print(f"finished before: {stage.name}", flush=True)
            continue
        (plan.runs / stage.name).mkdir(parents=True, exist_ok=True)
        command = stage.command(plan.runs, plan.share, device, torch.cuda.device_count())
        run(command, stop, keeper.keep)
        if plan.step(stage) < stage.last(plan.share):
            raise Stopped
        plan.finish(stage)
        draw_curves(plan.runs / stage.name)
        keeper.write()


def make(plan: Plan, stop: Stop) -> None:
    """Calibrate the networks and write the files of the built-in weights, unless they are there."""
    from benchmarks.weights.train_sam import write_weights

    weights = plan.runs / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    made = json.dumps({name: plan.finished()[name].sha256 for name in plan.last}, indent=1) + "\n"
    done = weights / "DONE"
    if done.exists() and done.read_text() == made:
        print(f"finished before: {weights}", flush=True)
        return
    sam = plan.runs / SAM_STAGE / "sam.safetensors"
    if not sam.exists():  # the stage was finished on another machine
        write_weights(state_file.weights_in(torch.load(sam.with_name("checkpoint.pt"), weights_only=True)), sam)
    write_atomic(weights / "data.json", json.dumps(data_list(), indent=1) + "\n")
    run(calibration(plan.runs), stop, saves=False)
    shutil.copy(sam, weights / "sam_small.safetensors")
    write_atomic(done, made)
    print(f"{weights}: " + ", ".join(sorted(path.name for path in weights.glob("*.safetensors"))))


def calibration(runs: Path) -> list[str]:
    """The command line of the calibration."""
    parts = [f"{runs / stage / 'checkpoint.pt'}={share}" for stage, share in UNET_PARTS.items()]
    command = [sys.executable, "-m", "benchmarks.weights.calibrate", *parts]
    command += ["--sam", str(runs / SAM_STAGE / "sam.safetensors")]
    return [*command, "--output", str(runs / "weights" / "unet_default.safetensors")]


def data_list() -> dict[str, dict[str, str]]:
    """Every file of micrographs and specimens that training (and calibration) reads: its SHA-256, by split."""
    suffixes = {name: suffix for name, (suffix, _) in (real_data.SETS | real_data.FURTHER).items()}
    result: dict[str, dict[str, str]] = {"train": {}, "validation": {}}
    for name, splits in real_data.SPLITS.items():
        for split, files in result.items():
            for stem in splits.get(split, []):
                if name == "specimens":
                    found = sorted((real_data.SHARED / "specimens").glob(f"*/{stem}.*"))
                else:
                    folder = "quality-examples" if name not in suffixes else name
                    found = [real_data.SHARED / "micrographs" / folder / (stem + suffixes.get(name, ".png"))]
                for path in found:
                    files[str(path.relative_to(real_data.SHARED))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return result


def main(words: Sequence[str] | None = None) -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("runs", type=Path, help="where everything goes; the same folder goes on")
    ap.add_argument("--state", type=Path, help="a small file to go on from, and to keep, on any machine")
    ap.add_argument("--minutes", type=float, help="stop after about so many, with everything saved")
    ap.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the U-Net is trained")
    ap.add_argument("--share", type=float, default=1.0, help="share of each stage's steps, to try the way")
    ap.add_argument("--list", action="store_true", help="print the commands and end")
    a = ap.parse_args(words)
    end = time.monotonic() + 60 * a.minutes if a.minutes is not None else None
    plan = Plan(a.runs.resolve(), STAGES, a.share)
    if a.list:
        devices = torch.cuda.device_count()
        commands = [stage.command(plan.runs, a.share, a.device, devices) for stage in STAGES]
        print("\n".join(" ".join(command) for command in (*commands, calibration(plan.runs))))
        return
    try:
        with locked(plan.runs), Stop(lambda: end is not None and time.monotonic() >= end) as stop:
            _work(plan, stop, a.state, a.device)
    except CryoSegNetError as error:
        sys.exit(str(error))


def _work(plan: Plan, stop: Stop, path: Path | None, device: str) -> None:
    if path is not None and os.path.lexists(path):
        taken = plan.take(state_file.read(path), path)
        print(f"{path}: " + ("going on from it" if taken else "not further than the runs"), flush=True)
    keeper = Keeper(plan, path)
    try:
        train(plan, stop, keeper, device)
        make(plan, stop)
    except Stopped:
        keeper.write()
        left = [stage for stage in plan.stages if stage.name not in plan.finished()]
        where = f"step {plan.step(left[0])} of the stage {left[0].name}" if left else "the calibration"
        print(f"stopped at {where}, everything is saved: the same command goes on", flush=True)


if __name__ == "__main__":
    main()
