"""The picks of another threshold or size range, out of the candidates that a run has kept."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import CryoSegNetError
from ..files.picks import Picks
from .collect import Run, collect


@dataclass(frozen=True)
class Chosen:
    """How many picks of how many micrographs were written."""

    micrographs: int
    picks: int


def within(picks: Picks, threshold: float, low: float | None = None, high: float | None = None) -> Picks:
    """The picks with a score of at least ``threshold`` and a diameter from ``low`` to ``high``, both allowed.

    A pick whose diameter is not known passes only where there is no limit.
    """
    keep = picks.score >= threshold
    with np.errstate(invalid="ignore"):
        if low is not None:
            keep &= picks.diameter >= low
        if high is not None:
            keep &= picks.diameter <= high
    return picks.take(keep)


def choose_picks(
    output: str | Path,
    target: str | Path,
    *,
    threshold: float | None = None,
    min_diameter: float | None = None,
    max_diameter: float | None = None,
    suffix: str = "star",
) -> Chosen:
    """Write the chosen picks of every micrograph of a run, each as ``target/<stem>.<suffix>``.

    Parameters
    ----------
    output
        Folder that was picked into.
    target
        Folder for the files; not one that holds the run's own.
    threshold
        Least score; the run's where it is None.
    min_diameter, max_diameter
        Limits, angstrom, or pixels where a micrograph has no pixel size.
    suffix
        Format: star, box, cbox or csv.

    Raises
    ------
    CryoSegNetError
        Nothing was picked into ``output``, it kept no candidates as low as ``threshold``, or a file cannot be written.
    """
    run = collect(output)
    target = Path(target)
    wanted = run.threshold if threshold is None else threshold
    for name in ("picks", "overlays", ".cryosegnet"):
        own = (run.output / name).resolve()
        if target.resolve() == own or own in target.resolve().parents:
            raise CryoSegNetError(f"{target} holds the run's own files: choose another folder for the chosen picks.")
    total = 0
    sought, box_size = _sought(run), run.settings.get("box_size")
    for record in run.done:
        kept, complete = run.candidates(record)
        if wanted < run.threshold and not complete:
            raise CryoSegNetError(
                f"{record.name}: its candidates below the run's threshold of {run.threshold:g} were not kept: "
                "pick again with the lower threshold."
            )
        picks = within(kept.candidates, wanted, min_diameter, max_diameter)
        path = target / f"{record.stem}.{suffix}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CryoSegNetError(f"cannot make the folder {path.parent} ({error.strerror}): check it.") from error
        replace(picks, sought=sought.get(picks.pixel_size is not None)).write(path, box_size)
        total += len(picks)
    return Chosen(len(run.done), total)


def _sought(run: Run) -> dict[bool, float]:
    """One particle diameter for the boxes of all micrographs, by whether it is in angstrom.

    It is what was picked for, so that box files come out as picking writes them; else the median of the picks.
    """
    found: dict[bool, float] = {}
    for known in (False, True):
        sizes = [r.diameter for r in run.done if r.diameter is not None and (r.pixel_size is not None) == known]
        if sizes:
            found[known] = float(np.median(sizes))
    estimated = None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        estimated = json.loads((run.output / "summary.json").read_bytes())["dataset_diameter"]
    given = run.settings.get("diameter")
    size = given if isinstance(given, int | float) else estimated
    if isinstance(size, int | float):
        found[any(record.pixel_size is not None for record in run.done)] = float(size)
    return found
