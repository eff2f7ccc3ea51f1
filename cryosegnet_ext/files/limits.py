"""Limits of what is read as a micrograph, and the error for a file that is outside of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, BinaryIO

MIN_SIDE, MAX_SIDE = 64, 32768
#: Least and largest pixel size, angstrom per pixel.
PIXEL_SIZES = (0.05, 100.0)
_ENCODED_LIMIT = 2 << 30
_MAX_EXPANSION = 1100  # deflate reaches 1032 at best, and only where an image is constant
_CHUNK = 8 << 20


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
    """Refuse a compressed image whose header gives far more pixels than the file can contain."""
    if nbytes > _MAX_EXPANSION * size:
        raise BadFile(f"has {size} bytes, too few for an image of {nbytes} bytes: copy or write it again")


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
