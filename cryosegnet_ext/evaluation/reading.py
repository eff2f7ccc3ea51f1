"""Read the labels and the sets of picks to compare, by micrograph."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..errors import CryoSegNetError, plural
from ..files.inputs import expand_inputs
from ..files.labels import CoordinateFile, coordinate_files, match_names, stem_of
from ..files.masks import in_micrograph, is_mask
from ..files.micrograph import read_shape
from ..files.picks import Picks
from ..runs.written import refuse_changed
from .measures import Shape


@dataclass
class PickSet:
    """Picks or labels of some micrographs.

    Attributes
    ----------
    tables
        Picks by the micrograph's stem.
    files
        The file of each micrograph, by stem.
    notes
        Remarks on the files, one sentence each.
    unread
        Stems of files that were not read because they belong to no labelled micrograph.
    """

    tables: dict[str, Picks] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def read_labels(files: Iterable[CoordinateFile], pixel_size: float | None = None) -> PickSet:
    """Read labels from files; see `cryosegnet_ext.files.labels.label_files`.

    Parameters
    ----------
    files
        Every one is read.
    pixel_size
        Angstrom per pixel, for files that do not carry it.

    Returns
    -------
    PickSet
        Those of masks are in pixels of the mask; see `on_micrographs`.

    Raises
    ------
    CryoSegNetError
        A file cannot be read, or a micrograph has two files.
    """
    found = PickSet()
    pictures: list[Path] = []
    for file in files:
        refuse_changed(file.path)
        tables = file.read_labels(pixel_size)
        if not tables:
            pictures.append(file.path)
        for name, table in tables.items():
            stem = stem_of(name)
            if stem in found.tables:
                raise CryoSegNetError(
                    f"micrograph {stem} has labels twice, in {found.files[stem]} and {file.path}: "
                    "give one folder of labels."
                )
            found.tables[stem], found.files[stem] = table, file.path
    if pictures and not found.tables:
        raise CryoSegNetError(f"{pictures[0]}: it is not a mask, and no labels are beside it: give masks or picks.")
    if pictures:
        found.notes.append(f"left out, as they are not masks: {plural(len(pictures), 'picture')} ({pictures[0]}).")
    return found


def read_set(path: str | Path, stems: Collection[str], pixel_size: float | None = None) -> PickSet:
    """Read the picks of the labelled micrographs.

    Parameters
    ----------
    path
        A file of one or many micrographs, a RELION list of coordinate files, a folder with its subfolders (also of a
        RELION job), or an output folder of ``cryosegnet pick``.
    stems
        Of the labelled micrographs. Picks of other micrographs are kept under their own stems if they are in the same
        table, and not read if they are in separate files.
    pixel_size
        Angstrom per pixel, for files that do not carry it.

    Raises
    ------
    CryoSegNetError
        There are no picks, a file cannot be read, or no file belongs to a labelled micrograph.
    """
    files, emptied = coordinate_files(path)
    if not files:
        what = "there are no pick files in this folder or its subfolders"
        if emptied:
            what = f"its pick files ({len(emptied)}) are all empty or have lost their header"
        raise CryoSegNetError(f"{path}: {what}; check the path.")
    found = PickSet()
    alone = len(files) == 1 and not os.path.isdir(path)
    named = {} if alone else match_names([file.name for file in files], stems)
    others: list[str] = []
    if named:
        for file in files:
            if file.name in named:
                _add_file(found, named[file.name], file, pixel_size)
        found.unread = sorted({stem_of(file.name) for file in files if file.name not in named})
    else:
        others = _add_tables(found, files, stems, pixel_size, alone)
    for name, stem in match_names([file.name for file in emptied], stems).items():
        if stem not in found.tables:
            found.notes.append(f"{name} is empty or has lost its header: there are no picks for {stem}.")
    if not any(stem in found.tables for stem in stems):
        raise CryoSegNetError(_nothing_in_common(path, others, stems))
    return found


def picks_of_others(found: PickSet, stems: Collection[str]) -> list[str]:
    """Micrographs with picks but without labels."""
    return [*(stem for stem in found.tables if stem not in stems), *found.unread]


def read_shapes(folder: str | Path, stems: Collection[str]) -> dict[str, Shape]:
    """Shapes (ny, nx) of micrographs in a folder and its subfolders, by stem, read from their headers.

    Raises
    ------
    CryoSegNetError
        The folder is missing, or a micrograph's header cannot be read.
    """
    inputs = expand_inputs([str(folder)])
    named = match_names([Path(one.path).name for one in inputs], stems)
    return {named[one.path.name]: read_shape(one.path) for one in inputs if one.path.name in named}


def on_micrographs(labels: PickSet, shapes: Mapping[str, Shape]) -> dict[str, Picks]:
    """Labels with the shapes (ny, nx) of their micrographs, where known; those of masks are scaled to them."""
    tables = with_shapes(labels.tables, shapes)
    for stem, shape in shapes.items():
        mask = labels.tables[stem]
        if mask.shape is not None and is_mask(labels.files[stem]):
            x, y, diameter = in_micrograph(mask.x, mask.y, mask.diameter, mask.shape, shape)
            tables[stem] = Picks(x, y, np.asarray(diameter), mask.score, shape=shape)
    return tables


def with_shapes(tables: Mapping[str, Picks], shapes: Mapping[str, Shape]) -> dict[str, Picks]:
    """The same picks with the shapes of their micrographs, where known."""
    return {stem: replace(p, shape=shapes[stem]) if stem in shapes else p for stem, p in tables.items()}


def _add_file(found: PickSet, stem: str, file: CoordinateFile, pixel_size: float | None) -> None:
    """Add the picks of a file whose name is that of a labelled micrograph."""
    if stem in found.tables:
        exact, other = sorted((found.files[stem], file.path), key=lambda f: (len(f.name), str(f)))
        found.notes.append(f"micrograph {stem} has picks in {exact} and in {other}; the first is used.")
        if exact != file.path:
            return
    refuse_changed(file.path)
    tables = list(file.read(pixel_size).values())
    if len(tables) > 1:
        raise CryoSegNetError(
            f"{file.path}: it contains picks of {len(tables)} micrographs; give this file on its own."
        )
    found.tables[stem], found.files[stem] = tables[0], file.path


def _add_tables(
    found: PickSet, files: Iterable[CoordinateFile], stems: Collection[str], pixel_size: float | None, alone: bool
) -> list[str]:
    """Add the picks of files of one or many micrographs each; returns the stems of micrographs without labels.

    ``alone``: this is the only file. If there is also only one labelled micrograph, its name need not match.
    """
    joined: list[str] = []
    others: list[str] = []
    for file in files:
        refuse_changed(file.path)
        tables = file.read(pixel_size)
        named = match_names(tables, stems)
        if alone and list(tables) == [str(file.path)] and len(stems) == 1 and not named:
            (only,) = stems
            if _series(stem_of(file.name)) == _series(only):
                raise CryoSegNetError(
                    f"{file.path}: by its name it has the picks of another micrograph than {only}, the only labelled "
                    "one: give the picks of that one, or rename the file if these are."
                )
            named = {str(file.path): only}
            found.notes.append(
                f"{file.path.name} does not carry the name of {only}, the only labelled micrograph, and is compared "
                "with it: check that it has its picks."
            )
        for name, table in tables.items():
            stem = named.get(name, stem_of(name))
            if stem in found.tables:
                joined.append(f"micrograph {stem} has picks in {found.files[stem]} and under {name} in {file.path}")
                table = _joined(found.tables[stem], table)
            found.tables[stem], found.files[stem] = table, file.path
        others += [stem_of(name) for name in tables if name not in named]
    if joined:
        more = f" ({plural(len(joined) - 1, 'other micrograph')} too)" if len(joined) > 1 else ""
        found.notes.append(f"{joined[0]}{more}; all of them count: give one table if they are copies.")
    return others


def _series(stem: str) -> str:
    """A name without its numbers, which is the same for the micrographs of one session."""
    return re.sub(r"\d+", "0", stem)


def _joined(first: Picks, second: Picks) -> Picks:
    x, y, diameter, score = (np.r_[getattr(first, c), getattr(second, c)] for c in ("x", "y", "diameter", "score"))
    return replace(first, x=x, y=y, diameter=diameter, score=score)


def _nothing_in_common(path: str | Path, others: Iterable[str], stems: Collection[str]) -> str:
    picked = sorted(set(others))
    shown = ", ".join(picked[:2]) + (", ..." if len(picked) > 2 else "")
    labelled = ", ".join(sorted(stems)[:2]) + (", ..." if len(stems) > 2 else "")
    return (
        f"{path}: none of its picks ({shown or 'no names'}) belongs to a labelled micrograph ({labelled}): "
        "rename the files so that a pick file begins with its micrograph's name."
    )
