"""Find the micrographs that INPUT... names: files, folders, globs, @list files and RELION micrographs STAR files."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..errors import CryoSegNetError, plural
from .folder_images import PACKED, choose_micrographs, described
from .micrograph import MICROGRAPH_SUFFIXES, Micrograph, micrograph_stem, read_micrograph
from .relion import list_in_job, listed_micrographs
from .text import read_bytes, spelt

log = logging.getLogger(__name__)

#: The folder inside an output folder that holds its journal; it marks a folder as an output of this program.
STATE_FOLDER = ".cryosegnet"
#: What this program writes beside it; not searched for input, because overlays and averages are pictures.
OUTPUT_FOLDERS = ("picks", "overlays", "averages")
#: The same for ``--layout facility``.
FACILITY_FOLDERS = ("STAR", "CBOX", "JPEG", "JSON")
#: In the state folder: what the report needs of each micrograph.
CANDIDATES_FOLDER = "candidates"


@dataclass(frozen=True)
class Input:
    """One micrograph to pick.

    Attributes
    ----------
    path
        The file; it may be missing where a list names it.
    name
        The micrograph as the user or the STAR file calls it.
    pixel_size
        Angstrom per pixel from the STAR file; None where it has none.
    problem
        Why its pixel size cannot be told: what is wrong with its row of the STAR file; None if nothing is.
    """

    path: Path
    name: str
    pixel_size: float | None = None
    problem: str | None = None

    @cached_property
    def key(self) -> str:
        """The file's absolute path without symbolic links: what makes two inputs the same micrograph."""
        return os.path.realpath(self.path)

    def read(self, pixel_size: float | None = None) -> Micrograph:
        """Read the micrograph.

        Parameters
        ----------
        pixel_size
            Angstrom per pixel; wins over that of the STAR file, which wins over that of the file.

        Raises
        ------
        CryoSegNetError
            See `read_micrograph`; or there is a ``problem`` and the caller gives no pixel size.
        """
        return read_micrograph(self.path, pixel_size=self.known_pixel_size(pixel_size))

    def known_pixel_size(self, given: float | None = None) -> float | None:
        """Angstrom per pixel as given, else from the STAR file; None if neither. CryoSegNetError as for `read`."""
        if self.problem is not None and given is None:
            raise CryoSegNetError(f"{self.name}: it has {self.problem}.")
        return given or self.pixel_size


def file_identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Size and modification time (ns) of a file, by which a change is noticed; None if it is missing or unreachable."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def expand_inputs(arguments: Iterable[str | Path]) -> list[Input]:
    """The micrographs that the arguments name, in natural order of their paths, each file once.

    If images of a folder or a glob are left out, a line is logged that says what it stands for.

    Parameters
    ----------
    arguments
        Files, folders (searched with their subfolders), globs (``**`` for any depth), ``@list`` (a text file with one
        path per line, ``#`` for comments) and STAR files with ``rlnMicrographName``. Of folders and globs, images that
        other programs put beside micrographs are left out: see `choose_micrographs`.

    Raises
    ------
    CryoSegNetError
        An argument is missing, unreadable, or names no micrograph. A missing file in a list or a STAR file is kept: its
        own reading fails later.
    """
    found: dict[str, Input] = {}
    for argument in arguments:
        inputs, line = _expanded(str(argument))
        if line:
            log.info(line)
        for one in inputs:
            known = found.setdefault(one.key, one)
            if known.pixel_size is None and one.pixel_size is not None:
                found[one.key] = one
    if not found:
        raise CryoSegNetError("no input was given; name micrographs, folders, globs, @list files or a micrographs STAR")
    return sorted(found.values(), key=lambda one: natural_key(str(one.path)))


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Sort key that puts ``mic_2`` before ``mic_10``."""
    parts = re.split(r"(\d+)", text)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], text


def output_stems(inputs: Sequence[Input], known: Mapping[str, str] | None = None) -> list[str]:
    """Path of each input's output below ``picks/``, without suffix; all different.

    It is the file's stem. Where stems repeat, the folders below the inputs' common parent are kept; where that repeats
    as well (``mic.mrc`` beside ``mic.tif``), the file's whole name.

    Parameters
    ----------
    inputs
        The micrographs.
    known
        `Input.key` -> stem of micrographs of earlier runs. They keep their stems, and no other micrograph gets one.
    """
    parent = os.path.commonpath([os.path.dirname(os.path.abspath(one.path)) for one in inputs]) if inputs else ""
    stems = Stems(known, parent)
    times = Counter(micrograph_stem(one.path) for one in inputs if not stems.knows(one))
    return [stems.of(one, plain=times[micrograph_stem(one.path)] == 1) for one in inputs]


class Stems:
    """Gives micrographs their stems one by one, at a cost that does not grow with their number.

    Parameters
    ----------
    known
        `Input.key` -> stem of micrographs of earlier runs.
    parent
        Where stems repeat, folders below this one are kept.
    """

    def __init__(self, known: Mapping[str, str] | None = None, parent: str = "") -> None:
        self._known = dict(known or {})
        self._taken = set(self._known.values())
        self._parent = parent

    def knows(self, one: Input) -> bool:
        """Whether the micrograph already has a stem."""
        return one.key in self._known

    def move(self, old: str, new: str) -> None:
        """A micrograph has another key now."""
        self._known[new] = self._known.pop(old)

    def of(self, one: Input, plain: bool = True) -> str:
        """The micrograph's stem; ``plain`` False: others of this run have the same name, so folders are kept."""
        if one.key in self._known:
            return self._known[one.key]
        path = os.path.abspath(one.path)
        stem = micrograph_stem(path)
        folder = os.path.relpath(os.path.dirname(path), self._parent or os.sep)
        if folder.startswith(os.pardir):
            folder = os.path.dirname(path).lstrip(os.sep)
        tree = "" if folder == os.curdir else folder.replace(os.sep, "/") + "/"
        choices = [tree + stem, tree + os.path.basename(path)]
        if plain:
            choices.insert(0, stem)
        chosen = next((c for c in choices if c not in self._taken), "") or _numbered(choices[-1], self._taken)
        self._known[one.key] = chosen
        self._taken.add(chosen)
        return chosen


def _numbered(stem: str, taken: set[str]) -> str:
    number = 2
    while f"{stem}_{number}" in taken:
        number += 1
    return f"{stem}_{number}"


def expand_one(argument: str) -> list[Input]:
    """The micrographs that one argument names; see `expand_inputs`."""
    return _expanded(argument)[0]


def _expanded(argument: str) -> tuple[list[Input], str]:
    """The micrographs that one argument names, and a line on what it stands for if that is not plain."""
    if argument.startswith("@"):
        return list(_from_list(Path(argument[1:]))), ""
    path = Path(argument)
    listing = list_in_job(path) if os.path.isdir(path) else None
    if listing is not None:  # of a picking job of RELION, the micrographs that it picked
        inputs = [Input(*row) for row in listed_micrographs(listing)]
        return inputs, f"{argument}: {plural(len(inputs), 'micrograph')}, those of its list {listing.name}"
    if os.path.lexists(path) and not os.path.isdir(path):
        rows = listed_micrographs(path) if path.suffix.lower() == ".star" else [(path, argument, None)]
        return [Input(*row) for row in rows], ""
    if not os.path.isdir(path) and not glob.has_magic(argument):
        raise CryoSegNetError(f"{argument}: no such file or folder; check the path")
    taken, left_out = search(argument)
    if not taken:
        raise CryoSegNetError(f"{argument}: {_nothing(argument, left_out)}")
    line = f"{argument}: {plural(len(taken), 'micrograph')}; left out: {described(left_out)}" if left_out else ""
    return [Input(Path(file), file) for file in taken], line


def _nothing(argument: str, left_out: Mapping[str, Sequence[str]]) -> str:
    """Why a folder or a glob names no micrograph, and what to do."""
    if left_out:
        remedy = "unpack them" if left_out.keys() == {PACKED} else "name files themselves to take them"
        return f"no micrographs, only files that are left out: {described(left_out)}; {remedy}"
    if os.path.isdir(argument):
        return f"no micrographs in this folder or below it; looked for {', '.join(MICROGRAPH_SUFFIXES)}"
    matches = len(glob.glob(argument, recursive=True))
    what = f"matches {plural(matches, 'name')} and no micrograph" if matches else "matches no file"
    return f"{what}; check the pattern (** means folders of any depth)"


def search(argument: str) -> tuple[list[str], dict[str, list[str]]]:
    """The micrographs in a folder or of a glob, and what was left out, as from `choose_micrographs`."""
    if os.path.isdir(argument):
        return choose_micrographs(walk_files(argument, output=False), argument)
    top = argument
    while glob.has_magic(top):
        top = os.path.dirname(top)
    return choose_micrographs((m for m in glob.iglob(argument, recursive=True) if not os.path.isdir(m)), top)


def walk_files(top: str | Path, output: bool = True) -> Iterator[str]:
    """Paths of the files below a folder, in order; links are followed, each folder once, hidden names are left out.

    Parameters
    ----------
    top
        The folder.
    output
        False: leave out what this program wrote.
    """
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(top, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        ours = (*OUTPUT_FOLDERS, *FACILITY_FOLDERS) if STATE_FOLDER in subfolders and not output else ()
        subfolders[:] = sorted(s for s in subfolders if not s.startswith(".") and s not in ours)
        yield from (os.path.join(folder, name) for name in sorted(names) if not name.startswith("."))


def _from_list(path: Path) -> Iterator[Input]:
    text = read_bytes(path).decode("utf-8-sig", errors="surrogateescape")
    if "\0" in text:
        raise CryoSegNetError(
            f"@{path}: the list contains null bytes; save it as plain text (UTF-8), one path per line"
        )
    names = [line.strip() for line in text.split("\n")]
    names = [name for name in names if name and not name.startswith("#")]
    if not names:
        raise CryoSegNetError(f"@{path}: the list names no micrographs; write one path per line")
    for name in names:
        # A list in Latin-1 names files that the disk has in UTF-8; Latin-1 on the disk is found as it is.
        places = (Path(folder, spelling) for spelling in (name, spelt(name)) for folder in ("", path.parent))
        yield Input(next((place for place in places if os.path.exists(place)), Path(name)), name)
