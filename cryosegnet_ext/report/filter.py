"""Write the picks of another threshold or size range, from the candidates that a run saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import CryoSegNetError
from ..files.atomic import make_folder
from ..files.inside import inside
from ..files.picks import Picks
from ..runs.edited_picks import EditedPicks


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
    edits: EditedPicks,
    target: str | Path,
    *,
    threshold: float | None = None,
    min_diameter: float | None = None,
    max_diameter: float | None = None,
    suffix: str = "star",
) -> tuple[int, int, list[str]]:
    """Write the picks of every micrograph that pass the limits, each as ``target/<stem>.<suffix>``.

    Parameters
    ----------
    edits
        The edited picks of the run; an edited micrograph has those, whatever the limits.
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
    failures : list of str
        A sentence for each micrograph that was left out, because its edited picks are damaged.

    Raises
    ------
    CryoSegNetError
        The run saved no candidates down to ``threshold``, or a file cannot be written.
    """
    run = edits.run
    target = Path(target)
    run.refuse_own_folders(target)
    if target.resolve() == edits.folder.resolve():
        raise CryoSegNetError(f"{target} holds your edited picks, which are never overwritten: choose another folder.")
    total, failures = 0, []
    sought, box_size = run.diameters, run.settings.get("box_size")
    for record in run.done:
        path = inside(target, f"{record.stem}.{suffix}")
        make_folder(path.parent)
        try:
            picks = edits.of(record)
        except CryoSegNetError as error:
            failures.append(str(error))
            path.unlink(missing_ok=True)  # of an earlier call: it would look like the picks of this one
            continue
        if picks is None:
            picks = filtered(run.above(record, threshold), -np.inf, min_diameter, max_diameter)
        replace(picks, sought=sought.get(picks.pixel_size is not None)).write(path, box_size)
        total += len(picks)
    return len(run.done) - len(failures), total, failures
