"""What RELION takes from the names of micrographs: output paths, and how it reads them. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath

from ..errors import CryoSegNetError

#: What follows the name of a micrograph in that of its coordinate file.
COORDINATE_SUFFIX = "_autopick.star"

# RELION's decomposePipelineFileName (src/filename.cpp): a folder whose name begins with job and three digits. It looks
# after each slash first, and only then at the beginning.
_JOB_PREFIX = re.compile(r"^.*?/job\d{3}[^/]*/|^job\d{3}[^/]*/")


def strip_job(name: str) -> str:
    """A name without its ``JobType/jobNNN/`` in front.

    >>> strip_job("MotionCorr/job002/Micrographs/mic_001.mrc"), strip_job("Micrographs/mic_001.mrc")
    ('Micrographs/mic_001.mrc', 'Micrographs/mic_001.mrc')
    """
    return _JOB_PREFIX.sub("", name, count=1)


def without_extension(name: str) -> str:
    """A name up to the last dot of the whole path, which is where RELION cuts (FileName::withoutExtension)."""
    return name[: name.rindex(".")] if "." in name else name


def coordinate_file(name: str, suffix: str = COORDINATE_SUFFIX) -> str:
    """The coordinate file of a micrograph, relative to the folder of its list: 3.1 and Extract derive it so.

    >>> coordinate_file("MotionCorr/job002/Micrographs/mic_001.mrc")
    'Micrographs/mic_001_autopick.star'
    """
    return without_extension(strip_job(name).lstrip("/")) + suffix


def new_coordinate_file(name: str) -> str:
    """`coordinate_file` for writing; raises CryoSegNetError if the name leads out of the project."""
    if ".." in PurePath(name).parts:
        raise CryoSegNetError(f"{name} lies outside the project: import micrographs through a link inside it.")
    return coordinate_file(name)


def twins(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of micrographs that differ in their job or suffix only: RELION's Extract writes both into one stack."""
    first: dict[str, str] = {}
    pairs = [(first.setdefault(coordinate_file(name), name), name) for name in dict.fromkeys(names)]
    return [(one, other) for one, other in pairs if one != other]


def is_flipped(name: str) -> bool:
    """Whether RELION reads a micrograph with its last row first: it does so with TIFF files (src/rwTIFF.h).

    >>> is_flipped("M/mic_001.tif"), is_flipped("M/mic_001.mrc")
    (True, False)
    """
    return name.lower().endswith((".tif", ".tiff"))
