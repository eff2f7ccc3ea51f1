"""Limits of what is read as a micrograph, and the error for a file that is outside of them."""

from __future__ import annotations

import contextlib
import math
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..cgroups import groups

MIN_SIDE, MAX_SIDE = 64, 32768
#: Least and largest pixel size, angstrom per pixel.
PIXEL_SIZES = (0.05, 100.0)
_ENCODED_LIMIT = 2 << 30
_MAX_EXPANSION = 1100  # deflate reaches 1032 at best, and only where an image is constant
#: Of images of more bytes than this: the noise of a micrograph shrinks far less, and a bomb would fill the memory.
_LARGE, _LARGE_EXPANSION = 512 << 20, 100
#: While an image is decoded and becomes numbers, there are so many times its bytes in memory.
_COPIES = 4
#: Without compression a pixel takes up to so many: as it is stored and as float32, or as float32 and its checks.
_PIXEL_BYTES = 8
_CHUNK = 8 << 20
#: Version of cgroups -> limit of a container or job, what it uses, and how the names of statistics begin.
_CGROUP_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    2: ("memory.max", "memory.current", ""),
}


class BadFile(Exception):
    """What is wrong with a file and what to do: a sentence without its subject (the file's name) and full stop."""


def check_shape(ny: int, nx: int) -> None:
    """Refuse what is too small or too large for a micrograph."""
    if min(ny, nx) < MIN_SIDE:
        raise BadFile(
            f"is {nx} x {ny} pixels, too small for a micrograph: give one with at least {MIN_SIDE} pixels a side"
        )
    if max(ny, nx) > MAX_SIDE:
        raise BadFile(
            f"has {nx} x {ny} pixels by its header, more than the limit of {MAX_SIDE} a side: copy it again or bin it"
        )


def check_expansion(nbytes: int, size: int) -> None:
    """Refuse a compressed image that its header makes far larger than the file can be, or than the memory there is.

    Parameters
    ----------
    nbytes
        Of the whole image without compression, all channels.
    size
        Of the file, bytes.

    Raises
    ------
    BadFile
        The file is too small for the image.
    MemoryError
        The memory is.
    """
    if nbytes > (_MAX_EXPANSION if nbytes <= _LARGE else _LARGE_EXPANSION) * size:
        raise BadFile(f"has {size} bytes, too few for an image of {nbytes} bytes: copy or write it again")
    _check_memory(nbytes * _COPIES)


def check_memory(ny: int, nx: int) -> None:
    """Raise MemoryError if an image without compression of ``ny`` x ``nx`` pixels takes more memory than there is."""
    _check_memory(ny * nx * _PIXEL_BYTES)


def _check_memory(nbytes: int) -> None:
    if nbytes > _LARGE and nbytes > _available_memory():
        raise MemoryError


def _available_memory(root: Path = Path("/")) -> float:
    """Bytes that this process may still take, by the machine, its cgroups and its own limit; inf where nothing says."""
    found = [math.inf]
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = (root / "proc/meminfo").read_text()
        found.append(1024 * int(text.split("MemAvailable:")[1].split()[0]))
    for folder, version in groups("memory", root):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            found.append(_available_in(folder, version))
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        with contextlib.suppress(OSError, ValueError, IndexError):
            found.append(limit - resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0]))
    return min(found)


def _available_in(folder: Path, version: int) -> int:
    """Bytes that a cgroup has left; what it holds of files is given up when memory is needed."""
    most, now, total = _CGROUP_FILES[version]
    statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    cached = sum(int(statistics.get(f"{total}{kind}_file", 0)) for kind in ("active", "inactive"))
    return int((folder / most).read_text()) - int((folder / now).read_text()) + cached


def truncated(expected: int, found: int) -> BadFile:
    """The error about a file that ends early; sizes in bytes."""
    return BadFile(f"is truncated ({expected} bytes expected, {found} found): copy it again")


def take(stream: Any, count: int) -> bytearray:
    """Read up to ``count`` bytes; memory grows with what the file contains, not with what its header says."""
    taken = bytearray()
    for chunk in _chunks(stream, count):
        taken += chunk
    return taken


def skip(stream: Any, count: int) -> int:
    """Skip up to ``count`` bytes; returns how many there were."""
    return sum(map(len, _chunks(stream, count)))


def _chunks(stream: Any, count: int) -> Iterator[bytes]:
    while count > 0 and (chunk := stream.read(min(_CHUNK, count))):
        count -= len(chunk)
        yield chunk


def whole(file: BinaryIO, size: int) -> bytes:
    """Read all of an encoded picture, unless it is far too large."""
    if size > _ENCODED_LIMIT:
        raise BadFile(f"has {size} bytes, too many for a PNG or JPEG micrograph: convert it to MRC")
    return file.read(size)


def plausible(pixel_size: float) -> bool:
    """Whether this can be the pixel size of a micrograph, angstrom per pixel."""
    return math.isfinite(pixel_size) and PIXEL_SIZES[0] <= pixel_size <= PIXEL_SIZES[1]


def rounded(pixel_size: float) -> float:
    """Round to six digits, which is what float32 keeps of a decimal number."""
    return float(f"{pixel_size:.6g}")


def one_line(text: object) -> str:
    """An error's text for use within a sentence: one short line without a full stop."""
    return " ".join(str(text).split()).rstrip(".")[:160] or "no reason given"


def is_utf8(name: str) -> bool:
    """Whether a file's name is UTF-8; bytes that are not are surrogates in it."""
    return not any("\udc80" <= sign <= "\udcff" for sign in name)


def shown(name: str) -> str:
    """The name, escaped if it contains a line break or other characters that a terminal cannot print."""
    return name if name.isprintable() and name else ascii(name)
