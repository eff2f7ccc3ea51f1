"""What RELION takes from the names of micrographs: output paths, and how it reads them. Imports nothing heavy."""

from __future__ import annotations

import re

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


def is_flipped(name: str) -> bool:
    """Whether RELION reads a micrograph with its last row first: it does so with TIFF files (src/rwTIFF.h).

    >>> is_flipped("M/mic_001.tif"), is_flipped("M/mic_001.mrc")
    (True, False)
    """
    return name.lower().endswith((".tif", ".tiff"))
