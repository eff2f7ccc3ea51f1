"""Which files of a folder hold coordinates: job folders hold other tables, lists, logs and pictures as well."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..files.formats import READABLE
from ..files.inputs import STATE_FOLDER
from .masks import MASK_SUFFIXES
from .names import stem_of

#: Of one micrograph's picks in several formats, the first of these is read.
PREFERRED = (".star", ".cs", ".csv", ".cbox", ".box", ".txt", ".tsv")
_WORDS = {
    # With y as well a damaged header is read, and complained about.
    ".star": ("_rlnCoordinateX", "_rlnCoordinateY"),
    ".cbox": ("_CoordinateX", "_CoordinateY"),
    ".csv": ("x", "x_coord", "x-coordinate", "rlncoordinatex"),
    ".cs": ("location/center_x_frac",),
    ".txt": ("x_coord", "x"),
    ".tsv": ("x_coord", "x"),
}
_HEAD = 1 << 20  # optics groups, of which there may be thousands, stand before the coordinates
_COORDINATES, _EMPTIED, _OTHER = range(3)


def coordinate_files(folder: Path, masks: bool) -> tuple[list[Path], list[Path]]:
    """Files with coordinates below a folder, and those that once may have been some and have no header.

    Parameters
    ----------
    folder
        Of files, with subfolders.
    masks
        Whether images count as well.

    Returns
    -------
    list of Path
        In order of their paths; of one micrograph's the preferred format only.
    list of Path
        Files in a format of coordinates that are empty or do not say what is in them.
    """
    best: dict[Path, Path] = {}
    emptied = []
    for file in _walk(folder):
        suffix = file.suffix.lower()
        if not (suffix in READABLE or (masks and is_mask(file))):
            continue
        kind = _kind(file)
        if kind == _EMPTIED:
            emptied.append(file)
        if kind != _COORDINATES:
            continue
        key = file.with_suffix("") if suffix in READABLE else file.with_name(stem_of(file.name))
        if key not in best or _rank(file) < _rank(best[key]):
            best[key] = file
    return sorted(best.values()), emptied


def is_mask(file: Path) -> bool:
    """Whether the suffix is an image's."""
    return file.suffix.lower() in MASK_SUFFIXES


def inner(folder: Path) -> Path:
    """Where the coordinates are in what ``cryosegnet pick`` or ``simulate`` wrote to; any other folder itself."""
    if (folder / "simulation.json").is_file() and (folder / "truth").is_dir():
        return folder / "truth"
    ours = (folder / STATE_FOLDER).is_dir() or (folder / "summary.json").is_file()
    return folder / "picks" if ours and (folder / "picks").is_dir() else folder


def _walk(folder: Path) -> Iterator[Path]:
    for top, subfolders, names in os.walk(folder, followlinks=True):
        subfolders[:] = sorted(s for s in subfolders if not s.startswith("."))
        yield from (Path(top, name) for name in sorted(names) if not name.startswith("."))


def _rank(file: Path) -> int:
    suffix = file.suffix.lower()
    return PREFERRED.index(suffix) if suffix in PREFERRED else len(PREFERRED)


def _kind(file: Path) -> int:
    """What the head of a file names: coordinates, something else, or nothing at all."""
    suffix = file.suffix.lower()
    words = _WORDS.get(suffix)
    if words is None:
        return _COORDINATES
    try:
        with open(file, "rb") as stream:
            head = stream.read(_HEAD).decode("utf-8-sig", errors="replace")
    except OSError:
        return _COORDINATES  # reading it whole says what is wrong
    if not head.strip("\0 \t\r\n"):
        return _EMPTIED
    if suffix in (".star", ".cbox", ".cs"):
        if any(word in head for word in words):
            return _COORDINATES
        # RELION 3 leaves coords_suffix_autopick.star, whose one line is the name of a file.
        named = suffix == ".cs" or file.name.startswith("coords_suffix")
        return _OTHER if named or any(line.lstrip().startswith("_") for line in head.splitlines()) else _EMPTIED
    header = next((line for line in head.splitlines() if line.strip() and not line.startswith("#")), "")
    columns = [c.strip().strip('"').strip().lower() for c in header.replace(";", ",").replace("\t", ",").split(",")]
    if any(column in words for column in columns):
        return _COORDINATES
    return _EMPTIED if sum(map(_is_number, columns)) >= 2 or not header else _OTHER


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
