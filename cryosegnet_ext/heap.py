"""What the C library does with memory that is freed: keep it for the next micrograph, or give it back to the system.

By default it gives back every large array when that is freed. The system fills the memory of the next array with
zeros, page by page, and all threads wait for it meanwhile: a twentieth of the time of picking on a CPU.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

# Parameters of `mallopt` (malloc.h of the GNU C library): freed memory at the top of the heap that is given back, and
# arrays that get pages of their own, if they have more bytes than this.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST = 1 << 30
# Of the environment, by which users set this themselves.
_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")


def keep_freed() -> bool:
    """Keep freed memory, up to 1 GB, in this process until `give_back`; returns whether it is so.

    It is not so without the GNU C library, nor if the environment has settings of its own for it.
    """
    library = _library()
    own = any(name in os.environ for name in _SETTINGS) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if library is None or own:
        return False
    return all([library.mallopt(parameter, _MOST) == 1 for parameter in (_MMAP_THRESHOLD, _TRIM_THRESHOLD)])


def give_back() -> None:
    """Give all memory that is not in use back to the system, as a program should before it waits."""
    library = _library()
    if library is not None:
        library.malloc_trim(0)


@cache
def _library() -> Any:
    """The C library of this process, if it has both functions."""
    try:
        library = ctypes.CDLL(None)
        return library if library.mallopt and library.malloc_trim else None
    except (AttributeError, OSError, TypeError):
        return None
