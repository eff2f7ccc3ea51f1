"""RELION's lists: micrographs with their pixel sizes, and the coordinate files that its picking jobs leave."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from ..errors import CryoSegNetError
from .relion_paths import coordinate_file, strip_job
from .star import Block, read_star_blocks
from .text import Floats, bad, opened, read_bytes, spelt, text_of

_SUFFIX_FILE = "coords_suffix"
_COORDINATES = "rlnMicrographCoordinates"
_HEAD = 1 << 16
_PIXEL_SIZE = ("rlnOpticsGroup", "rlnMicrographPixelSize", "rlnDetectorPixelSize", "rlnMagnification")
# What picking jobs call their lists; training by Topaz has others beside.
_LISTS = ("autopick.star", "manualpick.star")


def project_root(file: Path, names: Sequence[str]) -> Path:
    """The folder that a file's names are relative to: this one, or the nearest above the file where one exists."""
    # From the whole list: the first micrographs of a long session may be archived by now.
    some = names[:: max(1, -(-len(names) // 20))]
    for root in (Path(), *Path(os.path.abspath(file)).parents):
        if any(os.path.exists(root / name) for name in some):
            return root
    return Path()


def read_micrographs_tables(path: str | Path, keep: Collection[str] | None = None) -> list[tuple[Block, Block | None]]:
    """The tables of micrographs of a STAR file, each with its table of optics groups where there is one.

    There are several in a file that was joined of others, which may number their optics groups alike.

    Parameters
    ----------
    path
        The file.
    keep
        Labels that are needed, besides the names; see `read_star_blocks`.

    Raises
    ------
    CryoSegNetError
        The file cannot be read, is damaged, lists movies, or lists no micrographs.
    """
    # A file that is being written may end within a row. The reader refuses it: with a number missing, the rows before
    # it lost their optics groups, and with them their pixel sizes.
    blocks = read_star_blocks(path, None if keep is None else {"rlnMicrographName", *keep})
    tables = with_optics([block for block in blocks if "rlnMicrographName" in block.labels], blocks)
    if tables:
        return tables
    if any("rlnMicrographMovieName" in block.labels for block in blocks):
        raise CryoSegNetError(f"{path}: this STAR file lists movies; run motion correction and give its micrographs")
    raise CryoSegNetError(f"{path}: no column rlnMicrographName; give a STAR file of micrographs")


def with_optics(tables: Sequence[Block], blocks: Sequence[Block]) -> list[tuple[Block, Block | None]]:
    """Each of the tables of a file with the table of optics groups that comes before it, else the file's first."""
    result: list[tuple[Block, Block | None]] = []
    wanted = set(tables)
    # A table of micrographs or particles may have the optics group and the pixel size as columns of its own.
    optics = next((block for block in blocks if block not in wanted and _is_optics(block)), None)
    for block in blocks:
        if block in wanted:
            result.append((block, optics))
        elif _is_optics(block):
            optics = block
    return result


def _is_optics(block: Block) -> bool:
    return block.name == "optics" or {"rlnOpticsGroup", "rlnMicrographPixelSize"} <= block.labels.keys()


def listed_micrographs(path: str | Path) -> list[tuple[Path, str, float | None, str | None]]:
    """The rows of a micrographs STAR, in its order, without rows that say the same.

    Parameters
    ----------
    path
        The STAR file, or a list of coordinate files (see `coordinate_list`).

    Returns
    -------
    list
        Of each row the file, the name, the pixel size (angstrom; None if unknown), and what is wrong with the row, as a
        sentence.

    Raises
    ------
    CryoSegNetError
        As `read_micrographs_tables` and `micrographs_of`.
    """
    path = Path(micrographs_of(path))
    rows: dict[tuple[str, float | None, str | None], None] = {}
    for table, optics in read_micrographs_tables(path, _PIXEL_SIZE):
        sizes, unknown = _pixel_sizes(table, optics)
        for row in np.flatnonzero(sizes <= 0).tolist():
            unknown[row] = f"a pixel size of {sizes[row]:g} in {path}; correct the STAR file"
        problems = [unknown.get(row) for row in range(len(table))]
        known = [size if math.isfinite(size) and size > 0 else None for size in sizes.tolist()]
        # A table of particles names each micrograph many times.
        rows.update(dict.fromkeys(zip(table.text("rlnMicrographName"), known, problems)))
    if not rows:
        raise CryoSegNetError(f"{path}: the STAR file lists no micrographs")
    root = project_root(path, [name for name, _, _ in rows])
    return [(_named(root, name), name, size, problem) for name, size, problem in rows]


def _named(root: Path, name: str) -> Path:
    """The file of a name in a list, which may spell it otherwise than the disk."""
    path, other = root / name, root / spelt(name)
    return other if other != path and os.path.exists(other) and not os.path.exists(path) else path


def _pixel_sizes(table: Block, optics: Block | None) -> tuple[Floats, dict[int, str]]:
    """Angstrom per pixel of each row: from its optics group (RELION 3.1 and later), else from its own columns.

    Also sentences about the rows without an optics group.
    """
    own = _own_pixel_sizes(table)
    if own is None or "rlnOpticsGroup" in table.labels:
        of_group, unknown = optics_pixel_sizes(table, optics)
        if of_group is not None:
            return of_group, unknown
    return np.full(len(table), np.nan) if own is None else own, {}


def _own_pixel_sizes(table: Block) -> Floats | None:
    if "rlnMicrographPixelSize" in table.labels:
        return table.numbers("rlnMicrographPixelSize")
    if {"rlnDetectorPixelSize", "rlnMagnification"} <= table.labels.keys():
        with np.errstate(all="ignore"):
            return table.numbers("rlnDetectorPixelSize") * 1e4 / table.numbers("rlnMagnification")
    return None


def optics_pixel_sizes(table: Block, optics: Block | None) -> tuple[Floats | None, dict[int, str]]:
    """The micrograph pixel size (angstrom) of each row's optics group.

    Returns
    -------
    (n,) float64 or None
        NaN where it is not known; None without optics groups.
    dict
        Row -> a sentence about its optics group, where there is none.
    """
    if optics is None or not {"rlnOpticsGroup", "rlnMicrographPixelSize"} <= optics.labels.keys():
        return None, {}
    sizes: dict[float | str, float] = {}
    for text, size in zip(optics.text("rlnOpticsGroup"), optics.numbers("rlnMicrographPixelSize").tolist()):
        if abs(sizes.setdefault(_group(text), size) - size) > 0:
            what = f"it has optics group {text} twice, with pixel sizes {sizes[_group(text)]:g} and {size:g}"
            raise bad(optics.path, what, "correct the STAR file")
    if "rlnOpticsGroup" in table.labels:
        mine = table.text("rlnOpticsGroup")
        known = {text: sizes.get(_group(text)) for text in set(mine)}
        wrong = {text for text, size in known.items() if size is None}
        remedy = f"which the optics table of {table.path} lacks; correct the STAR file"
        unknown = {i: f"optics group {text}, {remedy}" for i, text in enumerate(mine) if text in wrong}
        return np.array([known[text] for text in mine], dtype=np.float64), unknown
    if len(set(sizes.values())) <= 1:
        return np.full(len(table), next(iter(sizes.values()), np.nan)), {}
    what = f"no optics group, and those of {table.path} differ in pixel size; add a column rlnOpticsGroup"
    return np.full(len(table), np.nan), dict.fromkeys(range(len(table)), what)


def _group(text: str) -> float | str:
    """An optics group; RELION takes it for a whole number, and other programs write 01 or 1.000000."""
    try:
        return float(text)
    except ValueError:
        return text


def micrographs_of(path: str | Path) -> str:
    """The STAR file of the micrographs of a list of coordinates: 3.1 names one, later lists are one themselves.

    Parameters
    ----------
    path
        The list, or the folder of its job.

    Raises
    ------
    CryoSegNetError
        The file that it names does not exist.
    """
    path = Path(path)
    if os.path.isdir(path):
        path = list_in_job(path) or path
    if not _is_suffix_file(path):
        return str(path)
    named = text_of(read_bytes(path)).partition("\n")[0].strip()
    star = project_root(path, [named]) / named
    if not named or not os.path.exists(star):
        raise bad(path, "it does not name an existing micrographs STAR", "choose one at 'Input micrographs' as well")
    return str(star)


def list_in_job(folder: str | Path) -> Path | None:
    """The list of coordinate files in the folder of a job of RELION; None if it has none."""
    files = sorted(Path(folder).glob("*.star"), key=lambda file: (file.name not in _LISTS, file.name))
    listing = [file for file in files if _is_suffix_file(file) or _lists_coordinates(file)]
    # A job that was continued with RELION 4 has the list of 3.1 as well, which may be older.
    return min(listing, key=_is_suffix_file, default=None)


def coordinate_list(path: str | Path, names: Iterable[str] | None = None) -> dict[str, Path] | None:
    """The coordinate files in one of RELION's lists, by micrograph name; some of the files may not exist.

    Parameters
    ----------
    path
        ``autopick.star`` or ``manualpick.star`` of RELION 4 and 5, or ``coords_suffix_autopick.star`` of 3.1, whose
        name says how the coordinate files are called.
    names
        The micrographs, for 3.1, where the STAR file that the list names is gone.

    Returns
    -------
    dict
        None if the file is not such a list.

    Raises
    ------
    CryoSegNetError
        The list cannot be read or is damaged, gives a micrograph two files or two micrographs one, or none of its
        files exists.
    """
    path = Path(path)
    if _is_suffix_file(path):
        try:
            listed = [name for _, name, _, _ in listed_micrographs(path)]
        except CryoSegNetError:
            if names is None:
                raise
            listed = list(names)
        suffix = path.name[len(_SUFFIX_FILE) :]
        rows = [(n, path.parent / coordinate_file(n, suffix)) for n in listed]
    else:
        if not _lists_coordinates(path):
            return None
        needed = {"rlnMicrographName", _COORDINATES}
        lists = [b for b in read_star_blocks(path) if needed <= b.labels.keys()]
        if not lists:
            raise bad(path, f"it has no table with rlnMicrographName and {_COORDINATES}", "export the list again")
        names_there = [name for block in lists for name in block.text("rlnMicrographName")]
        named = [file for block in lists for file in block.text(_COORDINATES)]
        root = project_root(path, named)
        rows = list(zip(names_there, (_coordinate_file(path, root, file) for file in named)))
    files: dict[str, Path] = {}
    owners: dict[Path, str] = {}
    for name, file in rows:
        if files.setdefault(name, file) != file:
            raise bad(path, f"it lists two coordinate files for {name}, {files[name]} and {file}", "remove one of them")
        if owners.setdefault(file, name) != name:
            what = f"it lists {file} for {owners[file]} and for {name}, and it has the picks of one of them"
            raise bad(path, what, "pick the micrographs of each job in a job of their own")
    if files and not any(os.path.exists(file) for file in files.values()):
        what = f"none of the coordinate files in this list exists (the first is {rows[0][1]})"
        raise bad(path, what, "give the folder they are in, or pick again")
    return files


def _coordinate_file(path: Path, root: Path, name: str) -> Path:
    """The file of a name in a list of coordinate files; also if the list's job was copied without its project."""
    file = _named(root, name)
    beside = path.parent / strip_job(name)
    return beside if os.path.exists(beside) and not os.path.exists(file) else file


def _lists_coordinates(path: Path) -> bool:
    # A table of particles may be large: it is not read twice.
    if path.suffix.lower() != ".star":
        return False
    with opened(path) as file:
        return f"_{_COORDINATES}".encode() in file.read(_HEAD)


def _is_suffix_file(path: Path) -> bool:
    return path.name.startswith(_SUFFIX_FILE)
