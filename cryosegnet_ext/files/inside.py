"""Paths of output files: they never lead out of their folder, whatever a journal, a list or a message says."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import CryoSegNetError
from .limits import shown
from .relion_paths import COORDINATE_SUFFIX

#: A file name has at most 255 bytes, and the suffix of the pick file of RELION's job is the longest that is added.
_LONGEST_STEM = 255 - len(COORDINATE_SUFFIX)


def inside(folder: Path, name: str) -> Path:
    """The path of an output file below a folder.

    Parameters
    ----------
    folder
        The output folder.
    name
        The file's path below it, with slashes: ``picks/grid_1/mic.star``.

    Raises
    ------
    CryoSegNetError
        The path leads out of the folder: it is absolute, contains ``..``, or a symbolic link below the first folder
        leads elsewhere. (A first folder, such as ``picks``, may be a link to another disk.) Or it cannot be a path.
    """
    path = folder / name
    possible = is_below(name) and _can_be_a_path(name)
    if possible and name.count("/") > 1:
        possible = path.parent.resolve().is_relative_to((folder / name.split("/")[0]).resolve())
    if not possible:
        raise CryoSegNetError(
            f"{shown(name)} is not the name of an output in {folder}: the journal was changed, or a link leads "
            "elsewhere; use a new output folder"
        )
    return path


def check_stem(stem: str) -> None:
    """Raise CryoSegNetError if no output file can have this stem (see `files.inputs.output_stems`)."""
    if not stem or not _can_be_a_path(stem) or not is_below(f"{stem}.star"):
        raise CryoSegNetError(f"{shown(stem)} cannot be the name of a file; check how the list was made")
    if len(os.fsencode(os.path.basename(stem))) > _LONGEST_STEM:
        raise CryoSegNetError(
            f"the file name is too long for its pick file (over {_LONGEST_STEM} bytes without suffix); rename it"
        )


def is_below(name: str) -> bool:
    """Whether a path with slashes leads to a place below the folder in which it begins."""
    return not {"", ".", ".."} & set(name.split("/"))


def _can_be_a_path(name: str) -> bool:
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:  # half of a character, as "\ud800" in JSON
        return False
