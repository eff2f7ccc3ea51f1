"""RELION's lists: micrographs with their pixel sizes, and the coordinate files that its picking jobs leave."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..errors import CryoSegNetError
from .relion_paths import strip_job, without_extension
from .star import Block, read_star_blocks
from .text import Floats, bad, read_bytes

_SUFFIX_FILE = "coords_suffix"
_COORDINATES = "rlnMicrographCoordinates"
_HEAD = 1 << 16


def project_root(file: Path, names: Sequence[str]) -> Path:
    """The folder that a file's names are relative to: this one, or the nearest above the file where one exists."""
    # From the whole list: the first micrographs of a long session may be archived by now.
    some = names[:: max(1, -(-len(names) // 20))]
    for root in (Path(), *Path(os.path.abspath(file)).parents):
        if any((root / name).exists() for name in some):
            return root
    return Path()


def read_micrographs_table(path: str | Path) -> tuple[Block, Block | None]:
    """The table of micrographs of a STAR file, and the table of optics groups where there is one.

    Raises
    ------
    CryoSegNetError
        The file cannot be read, is damaged, lists movies, or lists no micrographs.
    """
    # A file that is being written may end within a row. The reader refuses it: with a number missing, the rows before
    # it lost their optics groups, and with them their pixel sizes.
    blocks = read_star_blocks(path)
    optics = next((block for block in blocks if block.name == "optics"), None)
    for block in blocks:
        if block is not optics and "rlnMicrographName" in block.labels:
            return block, optics
    if any("rlnMicrographMovieName" in block.labels for block in blocks):
        raise CryoSegNetError(f"{path}: this STAR file lists movies; run motion correction and give its micrographs")
    raise CryoSegNetError(f"{path}: no column rlnMicrographName; give a STAR file of micrographs")


def listed_micrographs(path: str | Path) -> list[tuple[Path, str, float | None]]:
    """File, name and pixel size (angstrom; None if unknown) of each row of a micrographs STAR, in its order.

    Raises
    ------
    CryoSegNetError
        As `read_micrographs_table`.
    """
    table, optics = read_micrographs_table(path)
    names = table.text("rlnMicrographName")
    if not names:
        raise CryoSegNetError(f"{path}: the STAR file lists no micrographs")
    root = project_root(Path(path), names)
    sizes = [float(size) if math.isfinite(size) and size > 0 else None for size in _pixel_sizes(table, optics)]
    return [(root / name, name, size) for name, size in zip(names, sizes)]


def _pixel_sizes(table: Block, optics: Block | None) -> Floats:
    """Angstrom per pixel of each row: from its optics group (RELION 3.1 and later), else from its own columns."""
    of_group = optics_pixel_sizes(table, optics)
    if of_group is not None:
        return of_group
    if "rlnMicrographPixelSize" in table.labels:
        return table.floats("rlnMicrographPixelSize")
    if {"rlnDetectorPixelSize", "rlnMagnification"} <= set(table.labels):
        with np.errstate(all="ignore"):
            return table.floats("rlnDetectorPixelSize") * 1e4 / table.floats("rlnMagnification")
    return np.full(len(table.rows), np.nan)


def optics_pixel_sizes(table: Block, optics: Block | None) -> Floats | None:
    """The micrograph pixel size (angstrom) of each row's optics group, (n,), NaN where unknown; None without groups."""
    if optics is None or not {"rlnOpticsGroup", "rlnMicrographPixelSize"} <= set(optics.labels):
        return None
    sizes = dict(zip(optics.text("rlnOpticsGroup"), optics.floats("rlnMicrographPixelSize").tolist()))
    if "rlnOpticsGroup" in table.labels:
        return np.array([sizes.get(group, np.nan) for group in table.text("rlnOpticsGroup")], dtype=np.float64)
    return np.full(len(table.rows), next(iter(sizes.values())) if len(sizes) == 1 else np.nan)


def micrographs_of(path: str) -> str:
    """The STAR file of the micrographs of a list of coordinates: 3.1 names one, later lists are one themselves.

    Raises
    ------
    CryoSegNetError
        The file that it names does not exist.
    """
    if not _is_suffix_file(Path(path)):
        return path
    named = read_bytes(path).decode(errors="replace").partition("\n")[0].strip()
    star = project_root(Path(path), [named]) / named
    if not named or not star.exists():
        raise bad(path, "it does not name an existing micrographs STAR", "choose one at 'Input micrographs' as well")
    return str(star)


def coordinate_list(path: str | Path, names: Iterable[str] | None = None) -> dict[str, Path] | None:
    """The coordinate files in one of RELION's lists, by micrograph name; files that do not exist are left out.

    Parameters
    ----------
    path
        ``autopick.star`` or ``manualpick.star`` of RELION 4 and 5, or ``coords_suffix_autopick.star`` of 3.1, whose
        name says how the coordinate files are called.
    names
        The micrographs, for 3.1; by default those in the STAR file that the list names.

    Returns
    -------
    dict
        None if the file is not such a list.

    Raises
    ------
    CryoSegNetError
        The list cannot be read or is damaged, or none of its coordinate files exists.
    """
    path = Path(path)
    if _is_suffix_file(path):
        if names is None:
            names = [name for _, name, _ in listed_micrographs(micrographs_of(str(path)))]
        suffix = path.name[len(_SUFFIX_FILE) :]
        files = {n: path.parent / (without_extension(strip_job(n).lstrip("/")) + suffix) for n in names}
    else:
        # A table of particles may be large: it is not read twice.
        if path.suffix.lower() != ".star" or f"_{_COORDINATES}".encode() not in read_bytes(path)[:_HEAD]:
            return None
        block = next((b for b in read_star_blocks(path) if {"rlnMicrographName", _COORDINATES} <= set(b.labels)), None)
        if block is None:
            raise bad(path, f"it has no table with rlnMicrographName and {_COORDINATES}", "export the list again")
        listed = block.text(_COORDINATES)
        root = project_root(path, listed)
        files = {name: root / file for name, file in zip(block.text("rlnMicrographName"), listed)}
    there = {name: file for name, file in files.items() if file.exists()}
    if not there:
        raise bad(
            path, "none of the coordinate files in this list exists", "give the folder they are in, or pick again"
        )
    return there


def _is_suffix_file(path: Path) -> bool:
    return path.name.startswith(_SUFFIX_FILE)
