"""Files of labels and of picks: which there are in a folder, what they hold, and which micrograph they belong to.

Training and evaluation read what `cryosegnet_ext.files.picks` reads, RELION's lists of coordinate files, and masks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import CryoSegNetError
from .formats import READABLE
from .inputs import STATE_FOLDER
from .masks import MASK_SUFFIXES, is_mask, read_mask
from .micrograph import micrograph_stem
from .picks import Picks, read_many
from .relion import coordinate_list
from .text import bad

#: Of one micrograph's coordinates in several formats, the first of these is read.
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


_UID = re.compile(r"^\d{15,21}_(?=.)")  # CryoSPARC puts an exposure's uid before the name of the file that it imports
_ADDED = re.compile(
    r"_(auto|manual|topaz|log|cryolo)?(pick|picks|picked|coords|coordinates|particles|boxes|box|labels|label|mask|masks"
    r"|gt|truth|extract)$",
    re.IGNORECASE,
)
_CORRECTED = re.compile(r"_(patch_aligned_doseweighted|patch_aligned|rigid_aligned|aligned_doseweighted|doseweighted)$")


@dataclass(frozen=True)
class CoordinateFile:
    """A file of picks or labels.

    Attributes
    ----------
    path
        The file: a table of one or many micrographs, or a mask image.
    micrograph
        The micrograph that RELION's list gives it to; None where no list names it.
    """

    path: Path
    micrograph: str | None = None

    @property
    def name(self) -> str:
        """What says whose it is: the micrograph's name in a list, else the file's own."""
        return self.micrograph or self.path.name

    def read(self, pixel_size: float | None = None) -> dict[str, Picks]:
        """The picks of each micrograph, by its name in the file or in the list, else by the file's path.

        A table without rows is a micrograph without particles.

        Raises
        ------
        CryoSegNetError
            The file cannot be read, or a list gives a table of several micrographs to one.
        """
        tables = read_many(self.path, pixel_size) or {self.path.stem: Picks.empty(pixel_size)}
        if self.micrograph is not None and len(tables) > 1:
            raise bad(self.path, f"it holds picks of {len(tables)} micrographs", "give this file by itself")
        if self.micrograph is not None or list(tables) == [self.path.stem]:
            return {self.micrograph or str(self.path): next(iter(tables.values()))}
        return tables

    def read_labels(self, pixel_size: float | None = None) -> dict[str, Picks]:
        """As `read`, but masks are read as well, in their own pixels, and the boxes of BOX files have no diameter."""
        if is_mask(self.path):
            return {self.micrograph or str(self.path): read_mask(self.path)}
        if self.path.suffix.lower() not in READABLE:
            remedy = f"use one of {', '.join(READABLE)} or a mask image"
            raise bad(self.path, f"'{self.path.suffix}' is no format of labels", remedy)
        tables = self.read(pixel_size)
        if self.path.suffix.lower() != ".box":
            return tables
        # Boxes are chosen larger than the particle, by habit and not by measure: training would learn a wrong size,
        # and evaluation would take wrong picks for right.
        return {name: replace(picks, diameter=np.full(len(picks), np.nan)) for name, picks in tables.items()}


def label_files(path: str | Path, leave_out: Collection[str] = ()) -> list[CoordinateFile]:
    """The label files that a path stands for: see `coordinate_files`; ``leave_out`` are real paths of micrographs.

    Raises
    ------
    CryoSegNetError
        A file is empty or has lost its header: passed over, its micrograph would not count.
    """
    files, emptied = coordinate_files(path, (*PREFERRED, *MASK_SUFFIXES), leave_out)
    if emptied:
        more = f", as {len(emptied) - 1} more" if len(emptied) > 1 else ""
        raise CryoSegNetError(
            f"{emptied[0]}: it is empty or has lost its header{more}: restore or remove it, or leave the header "
            "without rows for a micrograph that has no particles."
        )
    return files


def coordinate_files(
    path: str | Path, suffixes: Sequence[str] = PREFERRED, leave_out: Collection[str] = ()
) -> tuple[list[CoordinateFile], list[Path]]:
    """The files of picks or labels that a path stands for.

    Job folders hold other tables, lists, logs and pictures as well, so that of a folder only those files are taken
    whose head names coordinates.

    Parameters
    ----------
    path
        A file, a list of coordinate files of RELION (see `coordinate_list`), or a folder with its subfolders; of what
        ``cryosegnet pick`` or ``simulate`` wrote to, only its picks or its truth.
    suffixes
        What is taken; of one micrograph's files in several formats, the first.
    leave_out
        Real paths of files that are none.

    Returns
    -------
    list of CoordinateFile
        Of a folder in order of their paths.
    list of Path
        Files of a folder that are empty or do not say what is in them.

    Raises
    ------
    CryoSegNetError
        There is no such file or folder, or the list is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise CryoSegNetError(f"{path}: no such file or folder; check the path.")
    if not path.is_dir():
        listed = coordinate_list(path)
        if listed is not None:
            return [CoordinateFile(file, micrograph) for micrograph, file in listed.items()], []
        return [CoordinateFile(path)] if os.path.realpath(path) not in leave_out else [], []
    best: dict[Path, tuple[int, Path]] = {}
    emptied = []
    for file in _walk(inner(path)):
        rank = next((i for i, suffix in enumerate(suffixes) if file.name.lower().endswith(suffix)), None)
        if rank is None or os.path.realpath(file) in leave_out:
            continue
        kind = _kind(file)
        if kind == _EMPTIED:
            emptied.append(file)
        if kind != _COORDINATES:
            continue
        key = file.with_name(stem_of(file.name)) if is_mask(file) else file.with_suffix("")
        if key not in best or rank < best[key][0]:
            best[key] = rank, file
    return [CoordinateFile(file) for _, file in sorted(best.values(), key=lambda one: one[1])], emptied


def stem_of(name: str) -> str:
    """The micrograph's stem in a name of a file or a row of a table.

    Folders, a micrograph's or a pick file's suffix, CryoSPARC's uid in front, and what RELION, CryoSPARC and others put
    behind (``_autopick``, ``_patch_aligned_doseweighted``, ``_mask``) are taken off.

    Examples
    --------
    >>> stem_of("AutoPick/job010/Movies/mic_001_autopick.star")
    'mic_001'
    >>> stem_of("001234567890123456789_mic_001_patch_aligned_doseweighted.mrc")
    'mic_001'
    """
    stem = _UID.sub("", _without_suffix(name))
    for pattern in (_ADDED, _CORRECTED):
        shorter = pattern.sub("", stem)
        stem = shorter or stem
    return stem


def match_names(names: Iterable[str], stems: Collection[str]) -> dict[str, str]:
    """Which of some micrographs each name of a file or of a table's row means, as `match_name` has it.

    Returns
    -------
    dict
        From a name to a stem; names that mean none of the micrographs are not in it.
    """
    known = set(stems)
    found = {name: match_name(name, known) for name in names}
    return {name: stem for name, stem in found.items() if stem is not None}


def match_name(name: str, stems: Collection[str]) -> str | None:
    """Which of some micrographs a name of a file or of a table's row means.

    It is the micrograph of that name, with or without what programs add to it (see `stem_of`), else the one with the
    longest stem that it begins with, where the rest starts with ``_``, ``-`` or ``.`` and is no mere number:
    ``mic_1_weird.star`` is of ``mic_1``, ``mic_1_2.star`` is not.

    Parameters
    ----------
    name
        As a file or a table has it.
    stems
        Of the micrographs; a set or dict, where there are many.

    Returns
    -------
    str or None
        One of ``stems``.
    """
    whole, stem = _without_suffix(name), stem_of(name)
    for exact in (whole, stem):
        if exact in stems:
            return exact
    return _beginning(stem, stems) or _beginning(whole, stems)


def _without_suffix(name: str) -> str:
    stem = micrograph_stem(name)
    for suffix in (*READABLE, ".bmp"):
        if stem.lower().endswith(suffix):
            return stem[: -len(suffix)]
    return stem


def _beginning(stem: str, known: Collection[str]) -> str | None:
    """The longest known stem that this one goes on from."""
    for cut in range(len(stem) - 1, 0, -1):
        if stem[cut] in "_-." and re.search("[a-zA-Z]", stem[cut:]) and stem[:cut] in known:
            return stem[:cut]
    return None


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
