"""Read what the report shows from the output folder of a run."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CryoSegNetError
from ..files.atomic import write_atomic
from ..files.inputs import STATE_FOLDER
from ..files.json_text import parse_json
from ..files.relion import read_micrographs_tables
from ..runs.finished import FinishedRun, open_finished
from ..runs.journal import read_records

NOTES = "report.json"

# Numbers that a micrographs STAR may give for each micrograph: key, columns (their mean), factor, name, unit.
_COLUMNS = (
    ("defocus", ("rlnDefocusU", "rlnDefocusV"), 1e-4, "Defocus", "µm"),
    ("resolution", ("rlnCtfMaxResolution",), 1.0, "CTF fit good to (ice, drift)", "A"),
    ("fom", ("rlnCtfFigureOfMerit",), 1.0, "CTF figure of merit", ""),
    ("motion", ("rlnAccumMotionTotal",), 1.0, "Total motion", "A"),
)


@dataclass(frozen=True)
class Column:
    """One number for each micrograph, from the input STAR.

    Attributes
    ----------
    key, label, unit
        Its name in the page's data, its name on the page, and its unit.
    values
        By name of the micrograph.
    """

    key: str
    label: str
    unit: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class RunData(FinishedRun):
    """A run with what its report shows besides.

    Attributes
    ----------
    columns
        Numbers from the input STAR.
    notes
        ``command`` and ``stars`` of this report or of an earlier one.
    """

    columns: Sequence[Column] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)


def collect(
    output: str | Path | FinishedRun,
    *,
    command: Sequence[Mapping[str, Any]] = (),
    stars: Sequence[str] = (),
    fallback: Sequence[Mapping[str, Any]] = (),
) -> RunData:
    """Read the journal of an output folder and the input STAR files.

    Parameters
    ----------
    output
        Output folder of the run, or the run if it is open already.
    command, stars
        Commands to show, and micrographs STAR files of the input. If they are not given, those of the folder's last
        report are used.
    fallback
        Commands to show if there is no earlier report.

    Raises
    ------
    CryoSegNetError
        Nothing was picked into the folder.
    """
    run = output if isinstance(output, FinishedRun) else open_finished(output)
    before = _read_notes(run.output)
    stars = list(stars) or before.get("stars", [])
    notes = {"command": list(command) or before.get("command") or list(fallback), "stars": stars}
    return RunData(run.output, run.settings, run.records, read_columns(stars), notes)


def check_stars(output: str | Path, stars: Sequence[str]) -> None:
    """Check that STAR files which a user names have something to show of the micrographs of an output folder.

    Raises
    ------
    CryoSegNetError
        One of them cannot be read, lists no micrographs, or has no defocus, CTF fit or motion of any of the folder's.
    """
    names = {record.name for record in read_records(output).values()}
    for star in stars:
        listed = [name for table, _ in read_micrographs_tables(star) for name in table.text("rlnMicrographName")]
        if names and names.isdisjoint(listed):
            raise CryoSegNetError(
                f"{star}: it lists none of the micrographs of {output} (it has {listed[0] if listed else 'none'}, the "
                f"folder {next(iter(names))}); give the micrographs STAR that was picked, or one with the same names"
            )
        if not any(names & column.values.keys() for column in read_columns([star])):
            labels = ", ".join(label for _, some, *_ in _COLUMNS for label in some)
            raise CryoSegNetError(
                f"{star}: it has nothing to show of the micrographs (none of {labels}); give the one of CtfFind"
            )


def save_notes(run: RunData) -> None:
    """Save the commands and STAR files for the next report of this folder."""
    write_atomic(run.output / STATE_FOLDER / NOTES, json.dumps(run.notes))


def _read_notes(output: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        notes = parse_json((output / STATE_FOLDER / NOTES).read_bytes())
        return notes if isinstance(notes, dict) else {}
    return {}


def read_columns(stars: Sequence[str]) -> list[Column]:
    """Read the numbers for each micrograph from micrographs STAR files; missing files are skipped."""
    found: dict[str, dict[str, float]] = {}
    for star in stars:
        try:
            tables = read_micrographs_tables(star)
        except CryoSegNetError:
            continue
        for (table, _), (key, labels, factor, _, _) in itertools.product(tables, _COLUMNS):
            if there := [table.floats(label) for label in labels if label in table.labels]:
                names, values = table.text("rlnMicrographName"), np.mean(there, axis=0) * factor
                found.setdefault(key, {}).update((n, v) for n, v in zip(names, values.tolist()) if math.isfinite(v))
    return [Column(key, label, unit, found[key]) for key, _, _, label, unit in _COLUMNS if found.get(key)]
