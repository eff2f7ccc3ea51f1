"""Picks that a person edited in ``cryosegnet view``: wherever picks are handed on, they are those of their micrograph.

All commands and hosts that hand picks on ask this module, so that the rule is the same: what was edited counts as it
is, whatever its score; other micrographs have the picks of the run.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import CryoSegNetError, plural, some
from ..files.inputs import walk_files
from ..files.inside import inside
from ..files.picks import Picks, read_picks
from ..files.text import spelt
from .displayed import changed_in_relion
from .finished import FinishedRun
from .journal import Record

#: Folder of edited picks in the output folder of a run.
FOLDER = "picks_edited"
#: Formats of edited picks, the one that keeps most first.
SUFFIXES = (".csv", ".cbox", ".star", ".box")
#: Files of one micrograph in several formats that were saved within this time are of one edit.
_TOGETHER_NS = 2_000_000_000
_SHOWN = 5


class EditedPicks:
    """The edited picks of a run, all read.

    Parameters
    ----------
    run
        The run.
    folder
        Where they are (default: ``picks_edited`` in the run's folder).
    used
        False: they are ignored, and the sentence says so.

    Attributes
    ----------
    run, folder, used
        As given; the default folder is named.
    damaged
        Stem -> why the edited picks of this micrograph cannot be used. It then has no picks at all: the run's own are
        those that a person has corrected.
    sentence
        How many micrographs are edited, and where; empty if there are none.
    remarks
        Sentences about edits to look at: each says how many and which.

    Raises
    ------
    CryoSegNetError
        ``folder`` was given and does not exist.
    """

    def __init__(self, run: FinishedRun, folder: str | Path | None = None, used: bool = True) -> None:
        if folder is not None and not os.path.isdir(folder):
            raise CryoSegNetError(f"{folder}: there is no such folder of edited picks; check the path.")
        self.run = run
        self.used = used
        self.folder = run.output / FOLDER if folder is None else Path(folder)
        self.damaged: dict[str, str] = {}
        self.remarks: list[str] = []
        self._picks: dict[str, Picks] = {}
        self._files: dict[str, Path] = {}
        records = {spelt(record.stem): record for record in run.done}
        files = edited_files(self.folder)
        mine = {stem: path for stem, path in files.items() if spelt(stem) in records}
        of_all = f"{len(mine)} of {plural(len(run.done), 'micrograph')}"
        self.sentence = ""
        if mine and not used:
            self.sentence = f"{of_all} {_are(mine)} edited in {self.folder}; the edits are ignored, as asked"
        elif mine:
            self.sentence = f"{of_all} {_are(mine)} edited: picks from {self.folder}"
        self._remark_on_relion()
        if not used:
            return
        for stem, path in mine.items():
            record = records[spelt(stem)]
            self._files[record.stem] = path
            try:
                self._picks[record.stem] = self._read(path, record)
            except CryoSegNetError as error:
                self.damaged[record.stem] = str(error)
        self._remark(records, [stem for stem in files if stem not in mine])

    def __contains__(self, record: Record) -> bool:
        """Whether a micrograph was edited."""
        return record.stem in self._files

    def __len__(self) -> int:
        """Number of micrographs that were edited."""
        return len(self._files)

    def of(self, record: Record) -> Picks | None:
        """The edited picks of a micrograph; None if it was not edited.

        Raises
        ------
        CryoSegNetError
            They are damaged.
        """
        if record.stem in self.damaged:
            raise CryoSegNetError(
                f"{record.name} gets no picks, because its edited ones cannot be used: "
                f"{self.damaged[record.stem].rstrip('.')}; repair or remove the file."
            )
        return self._picks.get(record.stem)

    def file(self, record: Record) -> Path | None:
        """The file of the edited picks of a micrograph; None if it was not edited."""
        return self._files.get(record.stem)

    def picks(self, record: Record, threshold: float | None = None) -> Picks:
        """What is handed on: the edited picks of a micrograph, else the run's above a threshold (None: the run's).

        Raises
        ------
        CryoSegNetError
            The edited picks are damaged, or the run saved no candidates down to this threshold.
        """
        edited = self.of(record)
        return self.run.with_diameters(self.run.above(record, threshold), record) if edited is None else edited

    def digest(self) -> str:
        """Changes with the edits and with what the run picked: 16 hexadecimal digits."""
        parts = [json.dumps([dict(self.run.settings), str(self.folder)], sort_keys=True, default=str).encode()]
        parts += [f"{stem}\n".encode() + path.read_bytes() for stem, path in sorted(self._files.items())]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]

    def _read(self, path: Path, record: Record) -> Picks:
        shape = self.run.candidates(record)[0].candidates.shape
        return self.run.with_diameters(read_edited(path, shape, record.pixel_size), record)

    def _remark_on_relion(self) -> None:
        """Say that coordinates which RELION shows are not those that are handed on."""
        found = changed_in_relion(self.run)
        if found is not None and found[1]:
            listing, names = found
            was, it = ("was", "it") if len(names) == 1 else ("were", "them")
            self.remarks.append(
                f"{plural(len(names), 'micrograph')} {was} changed in RELION's Display, and the coordinates there are "
                f"not handed on, but what the run picked or what was edited in view: {some(names, _SHOWN)}; give "
                f"{listing} itself to use {it}"
            )

    def _remark(self, records: dict[str, Record], strangers: list[str]) -> None:
        """Say what about the edits needs a look."""
        edited = [record for record in records.values() if record.stem in self._files]
        names = [record.name for record in edited if record.stem in self.damaged]
        if names:
            first = self.damaged[next(iter(self.damaged))].rstrip(".")
            self.remarks.append(
                f"the edited picks of {plural(len(names), 'micrograph')} cannot be used, and {_it(names)} no picks: "
                f"{some(names, _SHOWN)} (the first: {first}); repair or remove the {_files(names)}"
            )
        if strangers:
            self.remarks.append(
                f"the edits of {plural(len(strangers), 'micrograph')} in {self.folder} belong to no micrograph that "
                f"this run has picked, and are not used: {some(strangers, _SHOWN)}"
            )
        names = [record.name for record in edited if self._picked_since(record)]
        if names:
            was, it = ("was", "it") if len(names) == 1 else ("were", "them")
            self.remarks.append(
                f"{plural(len(names), 'micrograph')} {was} picked again, or copied, after the edits, "
                f"and the edits are used: {some(names, _SHOWN)}; look at {it} in view"
            )
        names = [record.name for record in edited if not len(self._picks.get(record.stem, [0]))]
        if names:
            self.remarks.append(
                f"{plural(len(names), 'edited micrograph')} {'has' if len(names) == 1 else 'have'} no picks left, and "
                f"{'stays' if len(names) == 1 else 'stay'} empty: {some(names, _SHOWN)}"
            )

    def _picked_since(self, record: Record) -> bool:
        """Whether the run's own file of a micrograph is newer than its edits."""
        try:
            names = [name for name in record.files or {} if name.startswith("picks/")]
            own = min(os.stat(inside(self.run.output, name)).st_mtime_ns for name in names)
            return own > os.stat(self._files[record.stem]).st_mtime_ns
        except (OSError, ValueError, CryoSegNetError):
            return False


def edited_files(folder: Path) -> dict[str, Path]:
    """Stem of each micrograph with edited picks -> their file; of several formats the newest, or that with most."""
    found: dict[str, list[Path]] = {}
    for path in map(Path, walk_files(folder)):
        if path.suffix.lower() in SUFFIXES:
            found.setdefault(str(path.relative_to(folder).with_suffix("")), []).append(path)
    return {stem: _newest(paths) for stem, paths in found.items()}


def edited_file(folder: Path, stem: str) -> Path | None:
    """The file of the edited picks of one micrograph, as `edited_files` finds it; None if it was not edited.

    Raises
    ------
    CryoSegNetError
        The stem leads out of the folder, or its files cannot be reached.
    """
    paths = [inside(folder.parent, f"{folder.name}/{stem}{suffix}") for suffix in SUFFIXES]
    try:
        there = [path for path in paths if path.is_file()]
    except OSError as error:
        raise CryoSegNetError(f"cannot read {paths[0]} ({error.strerror}): check its folder.") from error
    return _newest(there) if there else None


def read_edited(path: Path, shape: tuple[int, int] | None, pixel_size: float | None) -> Picks:
    """Read a file of edited picks.

    Parameters
    ----------
    path
        The file.
    shape : (ny, nx) or None
        Of the micrograph.
    pixel_size
        Angstrom per pixel, or None.

    Raises
    ------
    CryoSegNetError
        The file is damaged, or does not hold picks of this micrograph.
    """
    picks = replace(read_picks(path, pixel_size, shape), pixel_size=pixel_size, shape=shape)
    if shape is None:
        return picks
    # Box files hold whole corners, so a pick on the edge may come back half a pixel outside.
    x, y = _pulled_in(picks.x, shape[1]), _pulled_in(picks.y, shape[0])
    if not ((x >= 0) & (y >= 0) & (x <= shape[1] - 1) & (y <= shape[0] - 1)).all():
        raise CryoSegNetError(f"{path}: a pick lies outside the micrograph.")
    return replace(picks, x=x, y=y)


def _pulled_in(values: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Coordinates of up to a pixel outside, moved to the edge."""
    inside_it = np.clip(values, 0, max(length - 1, 0))
    return np.where(np.abs(values - inside_it) <= 1, inside_it, values)


def _newest(paths: list[Path]) -> Path:
    times = {path: os.stat(path).st_mtime_ns for path in paths}
    last = max(times.values())
    together = [path for path in paths if times[path] > last - _TOGETHER_NS]
    return min(together, key=lambda path: SUFFIXES.index(path.suffix.lower()))


def _are(names: object) -> str:
    return "is" if len(names) == 1 else "are"  # type: ignore[arg-type]


def _it(names: list[str]) -> str:
    return "it gets" if len(names) == 1 else "they get"


def _files(names: list[str]) -> str:
    return "file" if len(names) == 1 else "files"
