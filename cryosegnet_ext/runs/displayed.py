"""Coordinates of a picking job of ours that were changed in RELION, as its Display does."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..errors import CryoSegNetError
from ..files.checksums import is_changed
from ..files.inside import inside
from ..files.picks import Picks, as_relion_reads, read_picks
from ..files.relion import coordinate_list, list_in_job
from ..files.relion_paths import is_flipped
from .finished import FinishedRun
from .journal import Record
from .written import each


def changed_in_relion(run: FinishedRun) -> tuple[Path, list[str]] | None:
    """The list of coordinate files of a RELION job, and the micrographs whose coordinates there are not the run's.

    Those of micrographs that could not be picked count if somebody has added some. None if the run's folder is not that
    of a RELION job.
    """
    listing = list_in_job(run.output)
    if listing is None:
        return None
    with suppress(CryoSegNetError):
        listed = coordinate_list(listing, [record.name for record in run.records]) or {}
        pairs = [(record, listed[record.name]) for record in run.records if record.name in listed]
        changed = each(lambda pair: _is_changed(run, *pair), pairs)
        return listing, [record.name for (record, _), is_so in zip(pairs, changed) if is_so]
    return None


def _is_changed(run: FinishedRun, record: Record, shown: Path) -> bool:
    """Whether the places in a coordinate file differ from those that the run picked."""
    own = f"picks/{record.stem}.star"
    known = (record.checksums or {}).get(own)
    if not shown.is_file() or (known is not None and not is_changed(shown, known)):
        return False
    try:
        there = _places(read_picks(shown))
    except CryoSegNetError:
        return record.done
    if not record.done:
        # Damaged files of the run itself are told elsewhere.
        return known is None and bool(there)
    try:
        picks = read_picks(inside(run.output, own))
    except CryoSegNetError:
        return False  # as here
    if is_flipped(record.name):
        shape = run.candidates(record)[0].candidates.shape
        if shape is None:
            return False  # they cannot be compared
        picks = as_relion_reads(replace(picks, shape=shape), record.name)
    return there != _places(picks)


def _places(picks: Picks) -> list[tuple[float, float]]:
    return sorted(zip(picks.x.round().tolist(), picks.y.round().tolist()))
