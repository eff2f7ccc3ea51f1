"""The tables that a run writes as it goes: ``loss.csv`` and ``validation.csv``."""

from __future__ import annotations

import csv
import time
from pathlib import Path

from ..files.atomic import write_atomic
from .folder import explained

LOSS_COLUMNS = ["step", "loss", "learning_rate", "seconds"]
VALIDATION_COLUMNS = ["step", "loss", "dice"]


class Table:
    """A CSV file of a run, begun anew with the rows that its checkpoint covers: a killed run wrote more than that.

    Parameters
    ----------
    path
        The file.
    columns
        Their names; the first one is the step.
    step
        Of the checkpoint.
    wanted
        Write it; else `add` does nothing.

    Raises
    ------
    CryoSegNetError
        The file cannot be written; `add` raises it too.
    """

    def __init__(self, path: Path, columns: list[str], step: int, wanted: bool) -> None:
        self._path, self._wanted = path, wanted
        self._began = time.monotonic()
        if wanted:
            rows = _rows_until(step, path)
            # time goes on from the last row that is kept
            if rows and columns[-1] == "seconds":
                self._began -= float(rows[-1][-1])
            write_atomic(path, "".join(",".join(row) + "\n" for row in [columns, *rows]))

    @property
    def seconds(self) -> float:
        """Since the run began, but for the time between being stopped and going on."""
        return round(time.monotonic() - self._began, 1)

    def add(self, *values: object) -> None:
        """A row, on disk at once."""
        if self._wanted:
            with explained(self._path), open(self._path, "a") as stream:
                stream.write(",".join(map(str, values)) + "\n")


def _rows_until(step: int, path: Path) -> list[list[str]]:
    """Rows of a table up to ``step``."""
    if not step or not path.exists():
        return []
    with open(path, newline="") as stream:
        return [row for row in csv.reader(stream) if row and row[0].isdigit() and int(row[0]) <= step]
