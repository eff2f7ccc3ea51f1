"""How a run shows its progress: tables, lines with loss and time left, a picture of its curves, TensorBoard."""

from __future__ import annotations

import csv
import itertools
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import CryoSegNetError, plural
from ..files.atomic import atomic_path, explained, write_atomic
from ..runs.progress import Pace, duration

log = logging.getLogger(__name__)

LOSS_COLUMNS = ["step", "loss", "learning_rate", "seconds"]
VALIDATION_COLUMNS = ["step", "loss", "dice"]
_LINE_SECONDS = 15.0


@dataclass(frozen=True)
class Moment:
    """State of a run at one of its steps; None for what was not measured at that step."""

    step: int
    steps: int
    loss: float | None = None
    learning_rate: float | None = None
    validation_loss: float | None = None
    validation_dice: float | None = None
    best: bool = False


class Table:
    """A CSV file of a run. It begins with the rows up to the checkpoint; a killed run may have written more.

    Parameters
    ----------
    path
        The file.
    columns
        Names of the columns; the first one is the step.
    step
        Step of the checkpoint.
    written
        Write the file; if False, `add` does nothing.

    Raises
    ------
    CryoSegNetError
        The file cannot be written; `add` raises it too.
    """

    def __init__(self, path: Path, columns: list[str], step: int, written: bool) -> None:
        self._path, self._written = path, written
        self._began = time.monotonic()
        if written:
            rows = _rows_until(step, path)
            # time goes on from the last row that is kept
            if rows and columns[-1] == "seconds":
                self._began -= float(rows[-1][-1])
            write_atomic(path, "".join(",".join(row) + "\n" for row in [columns, *rows]))

    @property
    def seconds(self) -> float:
        """Seconds since the run began, without the time between stop and resume."""
        return round(time.monotonic() - self._began, 1)

    def add(self, *values: object) -> None:
        """Add a row, on disk at once."""
        if self._written:
            with explained(self._path), open(self._path, "a") as stream:
                stream.write(",".join(map(str, values)) + "\n")


def _rows_until(step: int, path: Path) -> list[list[str]]:
    """Rows of a table up to ``step``."""
    if not step or not path.exists():
        return []
    with open(path, newline="") as stream:
        return [row for row in csv.reader(stream) if row and row[0].isdigit() and int(row[0]) <= step]


class Watcher:
    """Reports the progress of a run: in log messages and, if asked for, to TensorBoard.

    Parameters
    ----------
    folder
        Folder of the run; TensorBoard's files go into a folder below it.
    tensorboard
        Write events for TensorBoard.

    Raises
    ------
    CryoSegNetError
        TensorBoard is not installed.
    """

    def __init__(self, folder: Path, tensorboard: bool = False) -> None:
        self._pace: Pace | None = None
        self._loss: float | None = None
        self._writer: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise CryoSegNetError(
                    "--tensorboard needs TensorBoard, which is not installed: pip install tensorboard, or leave out "
                    "the option"
                ) from error
            self._writer = SummaryWriter
        self._folder = folder / "tensorboard"
        self._events: Any = None

    def __call__(self, moment: Moment) -> None:
        """Report a moment of the run."""
        if self._pace is None:
            # the time before, in which micrographs were prepared, says nothing about the speed
            self._pace = Pace(moment.steps, moment.step, _LINE_SECONDS)
            return
        self._pace.count = moment.step
        if moment.loss is None and moment.validation_dice is None:
            log.info(f"{plural(moment.steps, 'step')}: about {duration(self._pace.seconds_left or 0.0)}")
            return
        if moment.loss is not None:
            self._loss = moment.loss if self._loss is None else 0.8 * self._loss + 0.2 * moment.loss
            self._event("loss/training", moment.loss, moment.step)
            self._event("learning_rate", moment.learning_rate, moment.step)
        if moment.validation_dice is not None:
            self._event("loss/validation", moment.validation_loss, moment.step)
            self._event("dice/validation", moment.validation_dice, moment.step)
        if moment.validation_dice is not None or self._pace.is_due:
            self._pace.told()
            words = [f"step {moment.step}/{moment.steps}"]
            if self._loss is not None:
                words.append(f"loss {self._loss:.3f}")
            if moment.validation_dice is not None:
                words.append(f"validation Dice {moment.validation_dice:.3f}{' (best so far)' if moment.best else ''}")
            if self._pace.seconds_left is not None:
                words.append(f"{duration(self._pace.seconds_left)} left")
            log.info(", ".join(words))

    def _event(self, name: str, value: float | None, step: int) -> None:
        if self._writer is None or value is None:
            return
        # not earlier: before its first step a run writes nothing into its folder
        self._events = self._events or self._writer(str(self._folder))
        self._events.add_scalar(name, value, step)

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._events is not None:
            self._events.close()


def draw_curves(folder: Path) -> Path | None:
    """Draw ``loss.csv`` and ``validation.csv`` of a run as ``curves.png``; None if there is nothing to draw."""
    losses, validation = _table(folder / "loss.csv"), _table(folder / "validation.csv")
    if not losses.get("step"):
        return None
    # without pyplot, which looks for a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left = figure.add_subplot()
    smooth = list(itertools.accumulate(losses["loss"], lambda level, value: 0.9 * level + 0.1 * value))
    left.plot(losses["step"], losses["loss"], color="0.75", lw=0.8)
    left.plot(losses["step"], smooth, color="C0", label="training loss (smoothed)")
    if validation.get("step"):
        left.plot(validation["step"], validation["loss"], color="C1", marker="o", ms=3, label="validation loss")
    left.set(xlabel="step", ylabel="(BCE + Dice loss) / 2", ylim=(0, None))
    lines, names = left.get_legend_handles_labels()
    if validation.get("step"):
        right = left.twinx()
        right.plot(validation["step"], validation["dice"], color="C2", marker="o", ms=3, label="validation Dice")
        best = max(range(len(validation["dice"])), key=validation["dice"].__getitem__)
        where = (validation["step"][best], validation["dice"][best])
        right.annotate(f"best {where[1]:.3f}", where, xytext=(0, 6), textcoords="offset points", ha="right", size=8)
        right.set(ylabel="Dice", ylim=(0, 1.05))
        more = right.get_legend_handles_labels()
        lines, names = lines + more[0], names + more[1]
    left.legend(lines, names, loc="center right", fontsize=8)
    target = folder / "curves.png"
    with atomic_path(target) as temporary:
        figure.savefig(temporary, dpi=130)
    return target


def _table(path: Path) -> dict[str, list[float]]:
    if not path.exists():
        return {}
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else ())}
