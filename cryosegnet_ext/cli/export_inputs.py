"""What ``cryosegnet export`` reads: pick files, with what their run knows, and what was edited in their place."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from ..errors import CryoSegNetError, plural
from ..files.labels import CoordinateFile, coordinate_files, inner
from ..files.picks import Picks
from ..files.text import spelt
from ..runs.edited_picks import FOLDER, EditedPicks, edited_files
from ..runs.finished import FinishedRun, open_finished, run_holding
from ..runs.journal import Record
from ..runs.written import refuse_changed

log = logging.getLogger(__name__)

#: A run, and its micrographs by their stems and by their names.
_Indexed: TypeAlias = tuple[FinishedRun, dict[str, Record], dict[str, Record]]


@dataclass(frozen=True)
class ExportInput:
    """One file to export.

    Attributes
    ----------
    file
        The file.
    folder
        Its folder, relative to that which was given.
    run, record
        The run in whose folder it lies, and its micrograph there; None if it lies in none.
    edits
        Edited picks, which are read in place of the file.
    """

    file: CoordinateFile
    folder: Path
    run: FinishedRun | None = None
    record: Record | None = None
    edits: EditedPicks | None = None

    def read(self, pixel_size: float | None, shape: tuple[int, int] | None) -> dict[str, Picks]:
        """As `CoordinateFile.read`; diameters, pixel size and shape that are not in the file are those of the run."""
        record = self.record
        if self.edits is None or record is None or self.edits.of(record) is None:
            refuse_changed(self.file.path)
        if self.run is None:
            return self.file.read(pixel_size, shape)
        if record is None:
            tables = self.file.read(pixel_size, shape)
            return {n: replace(p, sought=self.run.diameters.get(p.pixel_size is not None)) for n, p in tables.items()}
        edited = None if self.edits is None else self.edits.of(record)
        if edited is not None:
            tables = {self.file.micrograph or str(self.file.path): edited}
        else:
            tables = self.file.read(pixel_size or record.pixel_size, shape)
        known = self.run.candidates(record)[0].candidates.shape
        return {
            name: self.run.with_diameters(replace(p, shape=p.shape or shape or known), record)
            for name, p in tables.items()
        }


def input_files(
    names: Sequence[str], edits_of: Callable[[FinishedRun], EditedPicks], suffixes: Sequence[str]
) -> list[ExportInput]:
    """The pick files that the arguments name.

    Parameters
    ----------
    names
        Files, folders, RELION's lists, output folders of runs.
    edits_of
        The edited picks of a run whose folder is named.
    suffixes
        Where a micrograph has several files, the first of these formats.

    Raises
    ------
    CryoSegNetError
        A name does not exist, or a folder has no pick files.
    """
    found: list[ExportInput] = []
    for path in map(Path, names):
        output = run_holding(path)
        whole = output is not None and os.path.isdir(path) and output == Path(os.path.abspath(path))
        known = _indexed(open_finished(path)) if whole else _known(output)
        edits = edits_of(known[0]) if known is not None and whole else None
        files, emptied = coordinate_files(path, suffixes)
        files += map(CoordinateFile, emptied)  # reading them tells what is wrong
        top = inner(path)
        # RELION's list of a job's folder names the micrographs, wherever their coordinate files are.
        in_folder = os.path.isdir(path) and (not files or files[0].micrograph is None)
        every = [
            _input(file, file.path.parent.relative_to(top) if in_folder else Path(), output, known) for file in files
        ]
        if edits is not None:
            every = _edited(every, edits, path)
        elif output is not None:
            _tell_of_edits(path, output)
        if not every:
            raise CryoSegNetError(f"the folder {path} contains no pick files: give another one.")
        found += every
    return found


def _input(file: CoordinateFile, folder: Path, output: Path | None, known: _Indexed | None) -> ExportInput:
    """The file, with its run and its micrograph there."""
    if output is None or known is None:
        return ExportInput(file, folder)
    run, by_stem, by_name = known
    record = by_name.get(file.micrograph) if file.micrograph is not None else None
    parts = Path(os.path.abspath(file.path)).relative_to(output).parts
    if record is None and parts[0] in ("picks", FOLDER):
        record = by_stem.get(spelt(str(Path(*parts[1:]).with_suffix(""))) if len(parts) > 1 else "")
    return ExportInput(file, folder, run, record)


@lru_cache(maxsize=4)
def _known(output: Path | None) -> _Indexed | None:
    """The run in a folder; None if there is none or nothing was picked into it. Its files may be named one by one."""
    try:
        return None if output is None else _indexed(open_finished(output))
    except CryoSegNetError:
        return None


def _indexed(run: FinishedRun) -> _Indexed:
    return run, {spelt(r.stem): r for r in run.done}, {r.name: r for r in run.done}


def _edited(inputs: Sequence[ExportInput], edits: EditedPicks, path: Path) -> list[ExportInput]:
    """The same files; edited micrographs have their edited picks, also those of which the run has no file."""
    seen = {one.record.stem for one in inputs if one.record is not None}
    found = []
    for one in inputs:
        file = None if one.record is None else edits.file(one.record)
        if file is not None:
            one = replace(one, file=CoordinateFile(file, one.file.micrograph), edits=edits)
        found.append(one)
    for record in edits.run.done:
        file = edits.file(record)
        if file is not None and record.stem not in seen:
            listed = any(one.file.micrograph is not None for one in inputs)
            alone = CoordinateFile(file, record.name if listed else None)
            folder = Path() if listed else Path(record.stem).parent
            found.append(ExportInput(alone, folder, edits.run, record, edits))
    return found


def _tell_of_edits(path: Path, output: Path) -> None:
    """Warn if the picks of a run are named past its edits."""
    own = Path(os.path.abspath(path)).relative_to(output).parts[0] if Path(os.path.abspath(path)) != output else ""
    edited = len(edited_files(output / FOLDER)) if own != FOLDER else 0
    if edited:
        log.warning(
            f"{path} has the picks of the run, and {plural(edited, 'micrograph')} of it "
            f"{'is' if edited == 1 else 'are'} edited in {output / FOLDER}: give the folder {output} to use the edits"
        )
