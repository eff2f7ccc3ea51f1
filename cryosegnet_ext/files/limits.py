"""What a micrograph can be, and what is wrong with a file that holds something else."""

from __future__ import annotations

import math
from typing import Any, BinaryIO

MIN_SIDE, MAX_SIDE = 64, 32768
#: Least and largest pixel size, angstrom per pixel.
PIXEL_SIZES = (0.05, 100.0)
MIN_PIXEL_SIZE, MAX_PIXEL_SIZE = PIXEL_SIZES
_ENCODED_LIMIT = 2 << 30
_MAX_EXPANSION = 1100  # deflate reaches 1032 at best, and only where an image is constant
_CHUNK = 8 << 20


class BadFile(Exception):
    """What is wrong with a file and what to do: the sentence less its subject (the file's name) and full stop."""


def check_shape(ny: int, nx: int) -> None:
    """Refuse what is too small or too large for a micrograph."""
    if min(ny, nx) < MIN_SIDE:
        raise BadFile(f"is {nx} x {ny} pixels, too small for a micrograph: give one of at least {MIN_SIDE} a side")
    if max(ny, nx) > MAX_SIDE:
        raise BadFile(
            f"claims to be {nx} x {ny} pixels, and {MAX_SIDE} a side is the most that is read: copy it again or bin it"
        )


def check_expansion(nbytes: int, size: int) -> None:
    """Refuse a compressed image that claims to be far larger than its file can hold."""
    if nbytes > _MAX_EXPANSION * size:
        raise BadFile(f"is {size} bytes for an image of {nbytes}, too few to be a micrograph: copy or write it again")


def truncated(expected: int, found: int) -> BadFile:
    """The complaint about a file that ends early, in bytes."""
    return BadFile(f"is truncated, as {expected} bytes were expected and {found} found: copy it again")


def take(stream: Any, count: int) -> bytearray:
    """Up to ``count`` bytes; memory grows with what is there, not with what a header claims."""
    taken = bytearray()
    while len(taken) < count:
        chunk = stream.read(min(_CHUNK, count - len(taken)))
        if not chunk:
            break
        taken += chunk
    return taken


def skip(stream: Any, count: int) -> int:
    """Pass over up to ``count`` bytes; returns how many there were."""
    skipped = 0
    while skipped < count:
        chunk = stream.read(min(_CHUNK, count - skipped))
        if not chunk:
            break
        skipped += len(chunk)
    return skipped


def whole(file: BinaryIO, size: int) -> bytes:
    """All of an encoded picture, unless it is absurdly large."""
    if size > _ENCODED_LIMIT:
        raise BadFile(f"is {size} bytes, too large for a PNG or JPEG micrograph: convert it to MRC")
    return file.read(size)


def plausible(pixel_size: float) -> bool:
    """Whether this is a pixel size of a micrograph, angstrom."""
    return math.isfinite(pixel_size) and MIN_PIXEL_SIZE <= pixel_size <= MAX_PIXEL_SIZE


def rounded(pixel_size: float) -> float:
    """Six digits: what float32 holds of the decimal number that was meant."""
    return float(f"{pixel_size:.6g}")


def one_line(text: object) -> str:
    """An error's text fit to stand within a sentence: one line, no full stop at its end, not long."""
    return " ".join(str(text).split()).rstrip(".")[:160] or "no reason given"


def shown(name: str) -> str:
    """The name as it is, or escaped where it holds a line break or what a terminal cannot print."""
    return name if name.isprintable() and name else ascii(name)
