"""Where labels and picks come from: files, folders of files, tables of many micrographs, RELION's job folders."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..errors import CryoSegNetError
from ..files.micrograph import read_shape
from ..files.picks import Picks, read_many
from ..files.relion import coordinate_list
from .folders import coordinate_files, inner, is_mask
from .masks import read_mask
from .names import assign, stem_of

Shape = tuple[int, int]

# Boxes are chosen larger than the particle, by habit and not by measure, and would let wrong picks pass as right.
_SIZELESS = (".box",)


@dataclass
class Found:
    """Picks or labels of some micrographs.

    Attributes
    ----------
    tables
        Picks by the micrograph's stem.
    files
        Where those of each stem were read.
    notes
        What was odd, one sentence each.
    unread
        Stems of files that belong to no labelled micrograph and were not read.
    """

    tables: dict[str, Picks] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def read_labels(
    path: str | Path,
    shapes: Mapping[str, Shape] | None = None,
    pixel_size: float | None = None,
    shape: Shape | None = None,
) -> Found:
    """Read the labels of a file or of a folder with its subfolders.

    Parameters
    ----------
    path
        A STAR, CSV, BOX, CBOX, Topaz or .cs file, a mask image, a folder of them, or what ``cryosegnet simulate`` or
        ``cryosegnet pick`` wrote to.
    shapes
        (ny, nx) of micrographs by stem, so that reduced masks can be scaled to them.
    pixel_size
        Angstrom per pixel, for files that do not carry it.
    shape
        (ny, nx) of micrographs that are not in ``shapes``.

    Raises
    ------
    CryoSegNetError
        There are none, one is empty or cannot be read, or two files are of one micrograph.
    """
    path = _existing(Path(path))
    if not path.is_dir():
        return read_label_files([path], shapes, pixel_size, shape)
    files, emptied = coordinate_files(inner(path), masks=True)
    if emptied:
        # Passed over, its micrograph would not count, and the score would rise.
        more = f", as {len(emptied) - 1} more" if len(emptied) > 1 else ""
        raise CryoSegNetError(
            f"{emptied[0]}: it is empty or has lost its header{more}: restore or remove it, or leave the header "
            "without rows for a micrograph that has no particles."
        )
    if not files:
        hint = "; it has the layout of CryoPPP: use --cryoppp" if any(path.glob("**/ground_truth")) else ""
        raise CryoSegNetError(f"{path}: there are no labels in this folder or below it{hint}.")
    return read_label_files(files, shapes, pixel_size, shape)


def read_label_files(
    files: Iterable[Path],
    shapes: Mapping[str, Shape] | None = None,
    pixel_size: float | None = None,
    shape: Shape | None = None,
) -> Found:
    """Read labels from every one of the files; else as `read_labels`."""
    found = Found()
    for file in files:
        if is_mask(file):
            stem = stem_of(file.name)
            tables = {stem: read_mask(file, (shapes or {}).get(stem, shape))}
        else:
            tables = {stem_of(name): table for name, table in read_many(file, pixel_size).items()}
            if not tables:
                tables = {stem_of(file.name): Picks.empty(pixel_size)}
        for stem, table in tables.items():
            if file.suffix.lower() in _SIZELESS:
                table = replace(table, diameter=np.full(len(table), np.nan))
            if stem in found.tables:
                raise CryoSegNetError(
                    f"micrograph {stem} has labels twice, in {found.files[stem]} and {file}: give one folder of labels."
                )
            found.tables[stem], found.files[stem] = table, file
    return found


def read_set(path: str | Path, stems: Collection[str], pixel_size: float | None = None) -> Found:
    """Read the picks of the labelled micrographs.

    Parameters
    ----------
    path
        A file of one or many micrographs, a folder with subfolders (also a RELION job's), or what ``cryosegnet pick``
        wrote to.
    stems
        Of the labelled micrographs. Picks of others are kept under their own stems where a table holds them, and not
        read where they are files of their own.
    pixel_size
        Angstrom per pixel, for files that do not carry it.

    Raises
    ------
    CryoSegNetError
        There are no picks, one cannot be read, or none is of a labelled micrograph.
    """
    path = _existing(Path(path))
    if path.is_dir():
        files, emptied = coordinate_files(inner(path), masks=False)
    else:
        listed = coordinate_list(path)
        files, emptied = [path] if listed is None else list(listed.values()), []
    if not files:
        what = "there are no pick files in this folder or below it"
        if emptied:
            what = f"its pick files ({len(emptied)}) are all empty or have lost their header"
        raise CryoSegNetError(f"{path}: {what}; check the path.")
    found = Found()
    named = assign([file.name for file in files], stems) if path.is_dir() or len(files) > 1 else {}
    others: list[str] = []
    for file in files:
        stem = named.get(file.name)
        if stem is not None:
            _add_file(found, stem, file, pixel_size)
    if not found.tables:
        joined: dict[str, str] = {}
        for file in files:
            others += _add_table(found, file, stems, pixel_size, len(files) == 1, joined)
        if joined:
            stem, where = next(iter(joined.items()))
            more = f", and {len(joined) - 1} more likewise" if len(joined) > 1 else ""
            found.notes.append(
                f"micrograph {stem} has picks in {where}{more}; all of them count: give one table if they are the same."
            )
    else:
        found.unread = sorted({stem_of(f.name) for f in files if f.name not in named})
    for name, stem in assign([file.name for file in emptied], stems).items():
        if stem not in found.tables:
            found.notes.append(f"{name} is empty or has lost its header, so there are no picks for {stem}.")
    if not any(stem in found.tables for stem in stems):
        raise CryoSegNetError(_nothing_in_common(path, others, stems))
    return found


def picks_of_others(found: Found, stems: Collection[str]) -> list[str]:
    """Micrographs that have picks and no labels."""
    return [*(stem for stem in found.tables if stem not in stems), *found.unread]


def read_shapes(folder: str | Path, stems: Collection[str]) -> dict[str, Shape]:
    """Shapes (ny, nx) of the micrographs below a folder, by stem, of those that are asked for; from their headers.

    Raises
    ------
    CryoSegNetError
        The folder is missing, or a micrograph's header cannot be read.
    """
    from ..files.inputs import expand_inputs

    inputs = expand_inputs([str(folder)])
    named = assign([Path(one.path).name for one in inputs], stems)
    return {named[one.path.name]: read_shape(one.path) for one in inputs if one.path.name in named}


def with_shapes(tables: Mapping[str, Picks], shapes: Mapping[str, Shape]) -> dict[str, Picks]:
    """The same picks, with the shapes of the micrographs where they are known."""
    return {stem: replace(p, shape=shapes[stem]) if stem in shapes else p for stem, p in tables.items()}


def _existing(path: Path) -> Path:
    if not path.exists():
        raise CryoSegNetError(f"{path}: no such file or folder; check the path.")
    return path


def _add_file(found: Found, stem: str, file: Path, pixel_size: float | None) -> None:
    if stem in found.tables:
        exact, other = sorted((found.files[stem], file), key=lambda f: (len(f.name), str(f)))
        found.notes.append(f"micrograph {stem} has picks in {exact} and in {other}; the first was taken.")
        if exact != file:
            return
    tables = read_many(file, pixel_size)
    if len(tables) > 1:
        raise CryoSegNetError(f"{file}: it holds picks of {len(tables)} micrographs; give this file by itself.")
    found.tables[stem], found.files[stem] = next(iter(tables.values()), Picks.empty(pixel_size)), file


def _add_table(
    found: Found, file: Path, stems: Collection[str], pixel_size: float | None, alone: bool, joined: dict[str, str]
) -> list[str]:
    """Add the picks of a file that may be of many micrographs; the stems of those that are not labelled.

    ``joined`` takes the micrographs that had picks before, and where.
    """
    tables = read_many(file, pixel_size)
    if not tables:
        tables = {file.stem: Picks.empty(pixel_size)}
    named = assign(tables, stems)
    # A file that names no micrograph has its picks under its own stem.
    if alone and list(tables) == [file.stem] and len(stems) == 1 and not named:
        # One file of picks and one of labels, whatever they are called.
        named = {file.stem: next(iter(stems))}
        found.notes.append(f"{file.name} was taken for the micrograph {next(iter(stems))}, as each holds just one.")
    for name, table in tables.items():
        stem = named.get(name, stem_of(name))
        if stem in found.tables:
            joined.setdefault(stem, f"{found.files[stem]} and under {name} in {file}")
            first = found.tables[stem]
            x, y, diameter, scores = (
                np.r_[getattr(first, c), getattr(table, c)] for c in ("x", "y", "diameter", "score")
            )
            table = Picks(x, y, diameter, scores, first.pixel_size, first.shape)
        found.tables[stem], found.files[stem] = table, file
    return [stem_of(name) for name in tables if name not in named]


def _nothing_in_common(path: Path, others: Iterable[str], stems: Collection[str]) -> str:
    picked = sorted(set(others))
    shown = ", ".join(picked[:2]) + (", ..." if len(picked) > 2 else "")
    labelled = ", ".join(sorted(stems)[:2]) + (", ..." if len(stems) > 2 else "")
    return (
        f"{path}: none of its picks ({shown or 'no names'}) is of a labelled micrograph ({labelled}): "
        "rename the files so that a pick file begins with its micrograph's name."
    )
