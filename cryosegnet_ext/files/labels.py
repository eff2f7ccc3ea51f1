"""Files of labels and picks: finding them in folders, reading them, and matching their names to micrographs.

Training, evaluation and export all use this module. It reads the formats of `cryosegnet_ext.files.picks`, RELION's
lists of coordinate files, and (as labels) mask images.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import CryoSegNetError, plural, some
from .formats import READABLE
from .formats.star import MOTION_TABLES
from .inputs import STATE_FOLDER, walk_files
from .masks import MASK_SUFFIXES, called_mask, is_mask, read_mask
from .micrograph import micrograph_stem, read_shape
from .picks import Picks, as_relion_reads, read_many
from .relion import coordinate_list, list_in_job, project_root
from .relion_paths import is_flipped
from .text import bad, opened, spelt

log = logging.getLogger(__name__)

#: Where a micrograph has files in several formats, the first of these is read.
PREFERRED = (".star", ".cs", ".csv", ".cbox", ".box", ".json", ".txt", ".tsv")
_WORDS = {
    # y as well: a damaged header then counts as coordinates, and reading it tells what is wrong.
    ".star": ("_rlnCoordinateX", "_rlnCoordinateY", "_cisTEMOriginalXPosition"),
    ".cbox": ("_CoordinateX", "_CoordinateY"),
    ".csv": ("x", "x_coord", "x-coordinate", "rlncoordinatex", "axis-1"),
    ".cs": ("location/center_x_frac",),
    ".json": ('"boxes"',),
    ".txt": ("x_coord", "x"),
    ".tsv": ("x_coord", "x"),
}
_HEAD = 1 << 20  # thousands of optics groups may come before the coordinates
_COORDINATES, _EMPTIED, _OTHER = range(3)
_JOB = re.compile(r"job\d{3}")


_UID = re.compile(r"^\d{15,21}_(?=.)")  # CryoSPARC puts an exposure's uid before the name of an imported file
_ADDED = re.compile(
    r"_(auto|manual|topaz|log|cryolo)?(pick|picks|picked|coords|coordinates|particles|boxes|box|labels|label|mask|masks"
    r"|gt|truth|extract|info)$",
    re.IGNORECASE,
)
_CORRECTED = re.compile(r"_(((patch_|rigid_)?aligned_)?doseweighted|(patch|rigid)_aligned)$")


@dataclass(frozen=True)
class CoordinateFile:
    """A file of picks or labels.

    Attributes
    ----------
    path
        The file: a table of one or many micrographs, or a mask image.
    micrograph
        The micrograph that RELION's list gives for it; None without a list.
    in_folder
        It was found in a folder, where pictures of other kinds may lie as well.
    tiff
        The micrograph's file, if the list of the RELION job gives one that RELION reads with its last row first.
    """

    path: Path
    micrograph: str | None = None
    in_folder: bool = False
    tiff: Path | None = None

    @property
    def name(self) -> str:
        """The name to match with micrographs: the micrograph's in the list, else the file's own."""
        return self.micrograph or self.path.name

    def read(self, pixel_size: float | None = None, shape: tuple[int, int] | None = None) -> dict[str, Picks]:
        """The picks of each micrograph, by its name in the list or the file; by the file's path if neither names it.

        A table without rows is a micrograph without particles. Parameters are those of `read_picks`.

        Raises
        ------
        CryoSegNetError
            The file cannot be read, or contains several micrographs where a list names one; or a TIFF micrograph, of
            which the height is needed, cannot be read.
        """
        tables = read_many(self.path, pixel_size, shape) or {self.path.stem: Picks.empty(pixel_size, shape)}
        if self.micrograph is not None and len(tables) > 1:
            raise bad(self.path, f"it contains picks of {len(tables)} micrographs", "give this file on its own")
        if any(map(is_flipped, tables)) and _is_extracted(self.path):
            root = project_root(self.path, list(tables))
            for name in filter(is_flipped, tables):
                of_name = replace(tables[name], shape=tables[name].shape or read_shape(root / name))
                tables[name] = as_relion_reads(of_name, name)
        elif self.tiff is not None:
            shape = read_shape(self.tiff)
            tables = {name: as_relion_reads(replace(p, shape=shape), self.tiff.name) for name, p in tables.items()}
        if self.micrograph is not None or list(tables) == [self.path.stem]:
            return {self.micrograph or str(self.path): next(iter(tables.values()))}
        return tables

    def read_labels(self, pixel_size: float | None = None) -> dict[str, Picks]:
        """As `read`, but masks are read too (in pixels of the mask), and picks of BOX files have no diameter.

        A picture in a folder that is not a mask, as a micrograph without labels, gives nothing.
        """
        if is_mask(self.path):
            mask = read_mask(self.path, certain=not self.in_folder)
            return {} if mask is None else {self.micrograph or str(self.path): mask}
        if self.path.suffix.lower() not in READABLE:
            remedy = f"use one of {', '.join(READABLE)} or a mask image"
            raise bad(self.path, f"'{self.path.suffix}' is not a format of labels", remedy)
        tables = self.read(pixel_size)
        if self.path.suffix.lower() != ".box":
            return tables
        # Boxes are larger than the particle by an unknown factor: training would learn a wrong size, and evaluation
        # would count wrong picks as right.
        return {name: replace(picks, diameter=np.full(len(picks), np.nan)) for name, picks in tables.items()}


def label_files(path: str | Path, leave_out: Collection[str] = ()) -> list[CoordinateFile]:
    """The label files in a path, as `coordinate_files` finds them, masks included.

    Raises
    ------
    CryoSegNetError
        There are none; or a file is empty or has lost its header, and skipping it would drop its micrograph silently.
    """
    files, emptied = coordinate_files(path, (*PREFERRED, *MASK_SUFFIXES), leave_out)
    if emptied:
        more = f" ({plural(len(emptied) - 1, 'other file')} too)" if len(emptied) > 1 else ""
        raise CryoSegNetError(
            f"{emptied[0]}: it is empty or has lost its header{more}: restore or remove it; a micrograph without "
            "particles has a file with a header and no rows."
        )
    if not files:
        wanted = ", ".join((*PREFERRED, *MASK_SUFFIXES))
        raise CryoSegNetError(f"{path}: there are no labels in this folder or its subfolders; looked for {wanted}.")
    return files


def coordinate_files(
    path: str | Path, suffixes: Sequence[str] = PREFERRED, leave_out: Collection[str] = ()
) -> tuple[list[CoordinateFile], list[Path]]:
    """Find the files of picks or labels in a path.

    Job folders contain other tables, lists, logs and pictures as well, so only files whose header names coordinates are
    taken from a folder.

    Parameters
    ----------
    path
        A file, one of RELION's lists of coordinate files (see `coordinate_list`) or the folder of the job with it, or
        any other folder with its subfolders. Of an output folder of ``cryosegnet pick`` or ``simulate`` only the picks
        or the truth are searched.
    suffixes
        The formats to look for. Where a micrograph has files in several, the first is taken.
    leave_out
        Real paths of files that are not to be taken, as the micrographs themselves.

    Returns
    -------
    list of CoordinateFile
        From a folder in order of their paths.
    list of Path
        Files of a folder that are empty or have no header.

    Raises
    ------
    CryoSegNetError
        There is no such file or folder, or the list is damaged.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise CryoSegNetError(f"{path}: no such file or folder; check the path.")
    listing = (list_in_job(path) if inner(path) == path else None) if os.path.isdir(path) else path
    if listing is not None:
        listed = coordinate_list(listing)
        if listed is not None:
            gone = [micrograph for micrograph, file in listed.items() if not os.path.exists(file)]
            if gone:
                count = f"{len(gone)} of {plural(len(listed), 'listed coordinate file')}"
                log.warning(f"{listing}: {count} not found; these micrographs count as not picked: {some(gone)}")
            tiffs = _tiffs(listing, listed)
            there = {name: file for name, file in listed.items() if os.path.exists(file)}
            return [CoordinateFile(f, name, tiff=tiffs.get(os.path.realpath(f))) for name, f in there.items()], []
    tiffs = _tiffs_of_job(path)
    if listing is not None:
        real = os.path.realpath(path)
        return [CoordinateFile(path, tiff=tiffs.get(real))] if real not in leave_out else [], []
    best: dict[Path, tuple[int, Path]] = {}
    pictures: dict[Path, Path] = {}
    emptied = []
    for file in map(Path, walk_files(inner(path))):
        rank = next((i for i, suffix in enumerate(suffixes) if file.name.lower().endswith(suffix)), None)
        if rank is None or (leave_out and os.path.realpath(file) in leave_out):
            continue
        kind = _kind(file)
        if kind == _EMPTIED:
            emptied.append(file)
        if kind != _COORDINATES:
            continue
        key = file.with_name(stem_of(file.name)) if is_mask(file) else file.with_suffix("")
        if is_mask(file) and not called_mask(file):
            pictures[file] = key  # only its pixels tell whether it is a mask
        elif key not in best or rank < best[key][0]:
            best[key] = rank, file
    found = [file for _, file in best.values()] + [file for file, key in pictures.items() if key not in best]
    return [CoordinateFile(f, in_folder=True, tiff=tiffs.get(os.path.realpath(f))) for f in sorted(found)], emptied


def stem_of(name: str) -> str:
    """The stem of the micrograph that a name of a file or in a table means.

    Folders, suffixes, CryoSPARC's uid at the beginning, and what RELION, CryoSPARC and other programs append
    (``_autopick``, ``_patch_aligned_doseweighted``, ``_mask``) are removed. Accents have one spelling (see `spelt`).

    Examples
    --------
    >>> stem_of("AutoPick/job010/Movies/mic_001_autopick.star")
    'mic_001'
    >>> stem_of("001234567890123456789_mic_001_patch_aligned_doseweighted.mrc")
    'mic_001'
    """
    stem = _UID.sub("", _without_suffix(spelt(name)))
    for pattern in (_ADDED, _CORRECTED):
        shorter = pattern.sub("", stem)
        stem = shorter or stem
    return stem


def match_names(names: Iterable[str], stems: Collection[str]) -> dict[str, str]:
    """Name -> stem of the micrograph that it means (see `match_name`); names that match none are left out."""
    known = set(stems)
    found = {name: match_name(name, known) for name in names}
    return {name: stem for name, stem in found.items() if stem is not None}


def match_name(name: str, stems: Collection[str]) -> str | None:
    """The micrograph that a name of a file or in a table means.

    It is the micrograph of that name, with or without what programs add to names (see `stem_of`). Otherwise it is the
    one with the longest stem that the name begins with, if the rest starts with ``_``, ``-`` or ``.`` and is not just
    a number: ``mic_1_weird.star`` belongs to ``mic_1``, ``mic_1_2.star`` does not.

    Parameters
    ----------
    name
        Of a file, with or without folders, or of a micrograph in a table.
    stems
        Of the micrographs; a set or dict if there are many.

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
    """The longest known stem that this one begins with."""
    for cut in range(len(stem) - 1, 0, -1):
        if stem[cut] in "_-." and re.search("[a-zA-Z]", stem[cut:]) and stem[:cut] in known:
            return stem[:cut]
    return None


def inner(folder: Path) -> Path:
    """The subfolder with coordinates in what ``cryosegnet pick`` or ``simulate`` wrote; any other folder itself."""
    if os.path.isfile(folder / "simulation.json") and os.path.isdir(folder / "truth"):
        return folder / "truth"
    ours = os.path.isdir(folder / STATE_FOLDER) or os.path.isfile(folder / "summary.json")
    return folder / "picks" if ours and os.path.isdir(folder / "picks") else folder


def _tiffs(listing: Path, listed: Mapping[str, Path]) -> dict[str, Path]:
    """TIFF micrographs in RELION's list, by the real paths of their coordinate files."""
    root = project_root(listing, list(listed))
    return {os.path.realpath(file): root / name for name, file in listed.items() if is_flipped(name)}


def _tiffs_of_job(path: Path) -> dict[str, Path]:
    """The same of the list of the RELION job in which a path lies; empty if it lies in none."""
    job = next((folder for folder in Path(os.path.abspath(path)).parents if _JOB.match(folder.name)), None)
    listing = None if job is None else list_in_job(job)
    if listing is None:
        return {}
    try:
        return _tiffs(listing, coordinate_list(listing) or {})
    except CryoSegNetError:
        return {}  # the list was not asked for


def _is_extracted(path: Path) -> bool:
    """Whether it is a table of particles that RELION extracted, which has their images."""
    with opened(path) as file:
        return b"_rlnImageName" in file.read(_HEAD)


def _kind(file: Path) -> int:
    """Whether a file's header names coordinates, something else, or nothing at all."""
    suffix = file.suffix.lower()
    words = _WORDS.get(suffix)
    if words is None:
        return _COORDINATES
    try:
        with open(file, "rb") as stream:
            head = stream.read(_HEAD).decode("utf-8-sig", errors="replace")
    except OSError:
        return _COORDINATES  # reading all of it will tell what is wrong
    if not head.strip("\0 \t\r\n"):
        return _EMPTIED
    if suffix == ".cbox" and any(map(_is_number, head.split()[:1])):
        return _COORDINATES  # of crYOLO before 1.8, which the reader refuses
    if suffix in (".star", ".cbox", ".cs", ".json"):
        if any(word in table for table in _tables(head) for word in words):
            return _COORDINATES
        # RELION 3.1 writes coords_suffix_autopick.star, whose only line is a file name.
        named = suffix in (".cs", ".json") or file.name.startswith("coords_suffix")
        return _OTHER if named or any(line.lstrip().startswith("_") for line in head.splitlines()) else _EMPTIED
    header = next((line for line in head.splitlines() if line.strip() and not line.startswith("#")), "")
    columns = [c.strip().strip('"').strip().lower() for c in header.replace(";", ",").replace("\t", ",").split(",")]
    if any(column in words for column in columns):
        return _COORDINATES
    return _EMPTIED if sum(map(_is_number, columns)) >= 2 or not header else _OTHER


def _tables(head: str) -> list[str]:
    """The text of each block of a STAR file's head; without MotionCorr's tables, which name coordinates as well."""
    return [table for table in re.split(r"^data_", head, flags=re.MULTILINE) if not table.startswith(MOTION_TABLES)]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
