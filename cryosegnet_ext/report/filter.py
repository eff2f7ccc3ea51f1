"""Write the picks of another threshold or size range, from the candidates that a run saved."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import CryoSegNetError
from ..files.atomic import make_folder
from ..files.inside import inside
from ..files.picks import Picks
from .collect import RunData, collect


def filtered(picks: Picks, threshold: float, low: float | None = None, high: float | None = None) -> Picks:
    """The picks with a score of at least ``threshold`` and a diameter from ``low`` to ``high``, both included.

    A pick of unknown diameter passes only if there is no limit.
    """
    keep = picks.score >= threshold
    with np.errstate(invalid="ignore"):
        if low is not None:
            keep &= picks.diameter >= low
        if high is not None:
            keep &= picks.diameter <= high
    return picks.take(keep)


def write_filtered_picks(
    output: str | Path,
    target: str | Path,
    *,
    threshold: float | None = None,
    min_diameter: float | None = None,
    max_diameter: float | None = None,
    suffix: str = "star",
) -> tuple[int, int]:
    """Write the picks of every micrograph that pass the limits, each as ``target/<stem>.<suffix>``.

    Parameters
    ----------
    output
        Output folder of the run.
    target
        Folder for the files; not one of the run's own.
    threshold
        Least score; None: the run's threshold.
    min_diameter, max_diameter
        Limits in angstrom, or in pixels if a micrograph has no pixel size.
    suffix
        Format: star, box, cbox or csv.

    Returns
    -------
    micrographs, picks : int
        How many were written.

    Raises
    ------
    CryoSegNetError
        Nothing was picked into ``output``, it saved no candidates down to ``threshold``, or a file cannot be written.
    """
    run = collect(output)
    target = Path(target)
    wanted = run.threshold if threshold is None else threshold
    run.refuse_own_folders(target)
    total = 0
    sought, box_size = _sought(run), run.settings.get("box_size")
    for record in run.done:
        kept, complete = run.candidates(record)
        if wanted < run.threshold and not complete:
            raise CryoSegNetError(
                f"{record.name}: its candidates below the run's threshold of {run.threshold:g} were not saved: "
                "pick again with the lower threshold."
            )
        picks = filtered(kept.candidates, wanted, min_diameter, max_diameter)
        path = inside(target, f"{record.stem}.{suffix}")
        make_folder(path.parent)
        replace(picks, sought=sought.get(picks.pixel_size is not None)).write(path, box_size)
        total += len(picks)
    return len(run.done), total


def _sought(run: RunData) -> dict[bool, float]:
    """One particle diameter for the boxes of all micrographs. The key tells whether it is in angstrom.

    It is the diameter of the run, so that box files equal those of picking; if there is none, the median of the picks.
    """
    found: dict[bool, float] = {}
    for known in (False, True):
        sizes = [r.diameter for r in run.done if r.diameter is not None and (r.pixel_size is not None) == known]
        if sizes:
            found[known] = float(np.median(sizes))
    size = run.settings.get("diameter")
    if not isinstance(size, int | float):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            size = json.loads((run.output / "summary.json").read_bytes())["dataset_diameter"]
    if isinstance(size, int | float):
        found[any(record.pixel_size is not None for record in run.done)] = float(size)
    return found
