"""Existing picks (``--in_coords``): read from RELION's lists, then scored again or refined by the picker."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cryosegnet_ext.errors import CryoSegNetError, plural, some
from cryosegnet_ext.evaluation import match as match_pairs
from cryosegnet_ext.files.inputs import Input
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.files.micrograph_names import match_micrographs
from cryosegnet_ext.files.picks import Picks, as_relion_reads, read_many, read_picks
from cryosegnet_ext.files.relion import coordinate_list, list_in_job
from cryosegnet_ext.runs.candidates import read_candidates
from cryosegnet_ext.runs.journal import Record, read_records

if TYPE_CHECKING:
    from cryosegnet_ext.picking.picker import Picker

# A candidate within this share of the diameter is the same particle.
_REACH = 0.5


class ExistingPicks:
    """Picks of an earlier job.

    Parameters
    ----------
    path
        A list of coordinate files (see `coordinate_list`) or the folder of the job with it, or a table of picks with
        the micrographs' names.
    names
        The micrographs, as their STAR file calls them; see `match_micrographs` for what they may be called in the list.

    Attributes
    ----------
    source
        The file that was read.
    remarks
        Sentences about micrographs that get no picks.
    others
        A sentence about micrographs that only the list has; empty without any.

    Raises
    ------
    CryoSegNetError
        The file cannot be read, is neither of these, or has no coordinates of any of the micrographs.
    """

    def __init__(self, path: str, names: Sequence[str]) -> None:
        self.path = path
        self.source = (list_in_job(path) or path) if os.path.isdir(path) else path
        if os.path.isdir(self.source):
            what = "this folder has no list of coordinate files, as autopick.star of a picking job is"
            raise CryoSegNetError(f"{path}: {what}: choose the list, or the folder of the job.")
        self._files = coordinate_list(self.source, names)
        self._tables = read_many(self.source) if self._files is None else {}
        listed = list(self._tables if self._files is None else self._files)
        self._listed, unclear = match_micrographs(names, listed)
        of_all = plural(len(names), "micrograph")
        if not self._listed:
            what = f"the first is called {names[0]} here and {listed[0]} there" if listed else "it names none at all"
            remedy = "choose the coordinates of these micrographs"
            if unclear:
                what = f"it lists several called like {unclear[0]} in other jobs or folders"
                remedy = "choose the picks of the job that made these micrographs"
            raise CryoSegNetError(f"{path}: it has coordinates of none of the {of_all} of this job; {what}: {remedy}.")
        gone = [name for name in self._listed if self._files is not None and not self._file(name).exists()]
        if len(gone) == len(self._listed):
            what = f"the coordinate files of the {of_all} of this job do not exist; the first is {self._file(gone[0])}"
            raise CryoSegNetError(f"{path}: {what}: restore them, or pick again.")
        self._gone = set(gone)
        not_clear = set(unclear)
        missing = [name for name in names if name not in self._listed and name not in not_clear]
        self.remarks = [
            f"{len(those)} of {of_all} {'gets' if len(those) == 1 else 'get'} no picks, because {why}: {some(those)}"
            for those, why in (
                (missing, f"{path} does not list {'it' if len(missing) == 1 else 'them'}"),
                (unclear, f"{path} lists several of that name in other jobs or folders"),
                (gone, f"the coordinate file that {path} lists does not exist"),
            )
            if those
        ]
        used = set(self._listed.values())
        others = [name for name in listed if name not in used]
        count = plural(len(others), "micrograph")
        self.others = f"{count} in {path} not used by this job: {some(others, 3)}" if others else ""

    def of(self, name: str) -> Picks:
        """The picks of one micrograph; empty if the job has none."""
        listed = self._listed.get(name)
        if listed is None:
            return Picks.empty()
        if self._files is None:
            return self._tables[listed]
        return Picks.empty() if name in self._gone else read_picks(self._file(name))

    def file_of(self, name: str) -> str | os.PathLike[str] | None:
        """The file with the picks of one micrograph; None if the job has none."""
        if name not in self._listed:
            return None
        return self.source if self._files is None else self._file(name)

    def _file(self, name: str) -> Path:
        assert self._files is not None
        return self._files[self._listed[name]]


def remark_on_frames(folder: Path, existing: ExistingPicks, records: Iterable[Record]) -> str | None:
    """A sentence about existing picks outside their micrographs, which are dropped; None if there are none.

    Parameters
    ----------
    folder
        The job's directory, where the candidates tell the micrographs' shapes.
    existing
        The picks.
    records
        Of the micrographs that are finished.

    Raises
    ------
    CryoSegNetError
        All picks are outside.
    """
    total = 0
    outside: dict[str, int] = {}
    for record in records:
        saved = read_candidates(folder, record.stem) if record.done else None
        if saved is not None and saved.candidates.shape is not None:
            picks = existing.of(record.name)
            total += len(picks)
            lost = len(picks) - int(inside(picks, saved.candidates.shape).sum())
            outside |= {record.name: lost} if lost else {}
    if not outside:
        return None
    lost = sum(outside.values())
    text = f"{lost} of {plural(total, 'existing pick')} {'lies' if lost == 1 else 'lie'} outside the micrograph"
    where = some([f"{name} {count}" for name, count in outside.items()])
    text += f" ({where}); check that {existing.path} was made from micrographs of this size"
    if lost == total:
        raise CryoSegNetError(f"{text}.")
    return f"{text}; the others are scored."


def inside(picks: Picks, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which picks lie inside a micrograph of shape (ny, nx)."""
    ny, nx = shape
    return (picks.x >= 0) & (picks.y >= 0) & (picks.x <= nx - 1) & (picks.y <= ny - 1)


def forget_changed(folder: Path, existing: ExistingPicks, inputs: Sequence[Input]) -> None:
    """Make Continue score micrographs again whose coordinates were changed, restored or listed since then."""
    records = read_records(folder)
    for one in inputs:
        file = existing.file_of(one.name)
        if file is not None and one.key in records:
            record = records[one.key]
            scored = folder / "picks" / f"{record.stem}.star"
            with contextlib.suppress(FileNotFoundError):
                # ctime: a file that was restored has its old time of modification.
                changed = os.stat(file).st_ctime_ns
                if not record.picks:
                    changed = max(changed, os.stat(existing.source).st_ctime_ns)
                if changed > scored.stat().st_mtime_ns:
                    scored.unlink()


class CoordinatePicker:
    """Gives existing picks the scores, and if asked the centres, of the picker's candidates at the same particles.

    Parameters
    ----------
    picker
        Made with threshold 0, so that it returns every candidate.
    existing
        The picks.
    inputs
        The micrographs, with their names in RELION.
    refine
        False: centres stay, and a pick without a candidate scores 0. True: centres are the candidates', and picks
        without one are dropped.
    threshold
        Lowest score that is kept.
    """

    def __init__(
        self,
        picker: Picker,
        existing: ExistingPicks,
        inputs: Sequence[Input],
        refine: bool,
        threshold: float | None,
    ) -> None:
        self._picker = picker
        self._existing = existing
        self._names = {str(one.path): one.name for one in inputs}
        self._refine = refine
        self.threshold = 0.0 if threshold is None else threshold

    @property
    def device(self) -> str | None:
        """The picker's device."""
        return getattr(self._picker, "device", None)

    @property
    def settings(self) -> Mapping[str, object]:
        """The picker's settings, and how which coordinates are used."""
        mode = "refine" if self._refine else "rescore"
        ours = {"in_coords": self._existing.path, "coords": mode, "coords_threshold": self.threshold}
        return {**self._picker.settings, **ours}

    @property
    def needs_diameter(self) -> bool:
        """As the picker."""
        return self._picker.needs_diameter

    def estimate_diameter(self, micrographs: Sequence[Micrograph]) -> float | None:
        """As the picker."""
        return self._picker.estimate_diameter(micrographs)

    def estimate_sizes(self, micrographs: Sequence[Micrograph], looked: Callable[[int], None]) -> tuple[float, ...]:
        """As the picker."""
        return self._picker.estimate_sizes(micrographs, looked)

    def looks_inverted(self, micrographs: Sequence[Micrograph]) -> bool:
        """As the picker."""
        return self._picker.looks_inverted(micrographs)

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        """The existing picks of one micrograph with their new scores; those outside the micrograph are dropped."""
        return self.candidates(micrograph, diameter).above(self.threshold)

    def candidates(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        """The same without a threshold."""
        ny, nx = micrograph.data.shape
        name = self._names.get(micrograph.name, micrograph.name)
        old = self._existing.of(name)
        old = as_relion_reads(replace(old.take(inside(old, (ny, nx))), shape=(ny, nx)), name)
        if not len(old):
            return Picks.empty(micrograph.pixel_size, (ny, nx))
        found = match(old, self._picker.pick(micrograph, diameter), self._refine)
        return replace(found, pixel_size=micrograph.pixel_size, shape=(ny, nx))


def match(old: Picks, new: Picks, refine: bool) -> Picks:
    """Pair picks with candidates one to one.

    Parameters
    ----------
    old, new
        Picks and candidates of the same micrograph; the candidates know their diameters.
    refine
        Take the candidates' centres and drop picks without one.
    """
    reach = _REACH * float(np.median(new.diameter_px)) if len(new) else 0.0
    i, j = match_pairs(np.c_[old.x, old.y], np.c_[new.x, new.y], reach)
    if refine:
        return new.take(j[np.argsort(i)])
    score, diameter = np.zeros(len(old)), np.full(len(old), np.median(new.diameter) if len(new) else np.nan)
    score[i], diameter[i] = new.score[j], new.diameter[j]
    return Picks(old.x, old.y, diameter, score, new.pixel_size, new.shape)
