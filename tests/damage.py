"""Files that no reader should accept: damaged variants of a good micrograph."""

from __future__ import annotations

import bz2
import gzip
import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import mrcfile
import numpy as np
import tifffile

# Offsets of the MRC header's fields, in bytes.
NX, NY, NZ, MODE, NSYMBT = 0, 4, 8, 12, 92

Variant = tuple[str, bytes]


def damaged_files(folder: Path, good: Path, count: int = 200, seed: int = 0) -> list[Path]:
    """Write ``count`` damaged variants of the plain, little-endian, float32 MRC file ``good`` into ``folder``.

    The kinds of damage take turns, each with its own random draw, and every file must make ``read_micrograph`` raise
    CryoSegNetError. The same seed writes the same files.
    """
    rng = np.random.default_rng(seed)
    content = good.read_bytes()
    with mrcfile.open(good) as mrc:
        data = np.array(mrc.data, dtype=np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(count):
        kind = KINDS[i % len(KINDS)]
        suffix, damaged = kind(content, data, rng)
        path = folder / f"{i:04d}_{kind.__name__.strip('_')}{suffix}"
        path.write_bytes(damaged)
        paths.append(path)
    return paths


def with_field(content: bytes, offset: int, value: int) -> bytes:
    """The file with one 32-bit integer of its header replaced."""
    return content[:offset] + int(value).to_bytes(4, "little", signed=True) + content[offset + 4 :]


def with_data(content: bytes, data: np.ndarray) -> bytes:
    """The file with its pixels replaced."""
    return content[: len(content) - data.size * 4] + data.astype("<f4").tobytes()


def encoded(data: np.ndarray, suffix: str) -> bytes:
    """The picture as an 8-bit PNG, JPEG or (uncompressed) TIFF file."""
    low, high = float(data.min()), float(data.max())
    picture = ((data - low) * (255 / (high - low))).astype(np.uint8)
    if suffix == ".tif":
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, picture)
        return buffer.getvalue()
    return bytes(cv2.imencode(suffix, picture)[1])


def flipped(packed: bytes, first: int, end: int, rng: np.random.Generator, decode: Callable[[bytes], bytes]) -> bytes:
    """The file with one bit turned in bytes ``first`` to ``end``, one on which its content depends."""
    whole = decode(packed)
    while True:
        damaged = bytearray(packed)
        damaged[int(rng.integers(first, end))] ^= 1 << int(rng.integers(8))
        try:
            same = decode(bytes(damaged)) == whole
        except (OSError, EOFError, ValueError, zlib.error):
            same = False
        if not same:
            return bytes(damaged)


def _cut_in_data(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    return ".mrc", content[: int(rng.integers(1024, len(content)))]


def _cut_in_header(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    return ".mrc", content[: int(rng.integers(1, 1024))]


def _empty(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    return str(rng.choice([".mrc", ".mrcs", ".mrc.gz", ".tif", ".png", ".jpg"])), b""


def _absurd_dimension(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    value = int(rng.choice([0, -1, 63, 33000, 10**6, 2**31 - 1, -(2**31), 0x20202020]))
    return ".mrc", with_field(content, int(rng.choice([NX, NY])), value)


def _absurd_extended_header(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    return ".mrc", with_field(content, NSYMBT, int(rng.choice([-1, -(2**31), 2**31 - 1, len(content)])))


def _movie(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    frames = int(rng.integers(2, 6))
    return ".mrcs", with_field(content, NZ, frames) + (frames - 1) * data.astype("<f4").tobytes()


def _no_frames(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    return ".mrc", with_field(content, NZ, int(rng.choice([0, -1, 2**31 - 1])))


def _bad_mode(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    return ".mrc", with_field(content, MODE, int(rng.choice([3, 4, 5, 7, 16, 99, 101, -2, 2**30])))


def _not_finite(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    bad = data.copy()
    bad.flat[rng.permutation(data.size)[: int(data.size * rng.uniform(0.11, 1.0))]] = rng.choice(
        np.array([np.nan, np.inf, -np.inf, 1e38, -3e20], dtype=np.float32)
    )
    return ".mrc", with_data(content, bad)


def _constant(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    return ".mrc", with_data(content, np.full_like(data, rng.choice([0.0, 1.0, -7.25, 1e10])))


def _text(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    return ".mrc", b"<html><body>404 Not Found</body></html>\n" * int(rng.integers(1, 200))


def _zip(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("micrograph.mrc"), content[: int(rng.integers(1, len(content)))])
    return ".mrc", buffer.getvalue()


def _random_bytes(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    return str(rng.choice([".mrc", ".tif", ".png", ".jpg"])), b"\xa5" + rng.bytes(int(rng.integers(1, 5000)))


def _zeros(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    return ".mrc", bytes(len(content) if rng.random() < 0.5 else int(rng.integers(1, 5000)))


def _gzip_cut(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    packed = gzip.compress(content, mtime=0)
    return ".mrc.gz", packed[: int(rng.integers(2, len(packed)))]


def _gzip_flipped(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    packed = gzip.compress(content, mtime=0)
    return ".mrc.gz", flipped(packed, 20, len(packed) - 4, rng, gzip.decompress)


def _gzip_of_text(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    return ".mrc.gz", gzip.compress(b"not a micrograph\n" * int(rng.integers(1, 500)), mtime=0)


def _bzip2_cut(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    packed = bz2.compress(content, 1)
    return ".mrc.bz2", packed[: int(rng.integers(3, len(packed)))]


def _bzip2_flipped(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    packed = bz2.compress(content, 1)
    return ".mrc.bz2", flipped(packed, 4, len(packed) // 2, rng, bz2.decompress)


def _png_cut(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    packed = encoded(data, ".png")
    return ".png", packed[: int(rng.integers(1, len(packed)))]


def _png_flipped(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    packed = bytearray(encoded(data, ".png"))
    packed[int(rng.integers(8, len(packed)))] ^= 1 << int(rng.integers(8))
    return ".png", bytes(packed)


def _jpeg_cut(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    packed = encoded(data, ".jpg")
    return ".jpg", packed[: int(rng.integers(1, len(packed)))]


def _tiff_cut(content: bytes, data: np.ndarray, rng: np.random.Generator) -> Variant:
    packed = encoded(data, ".tif")
    return ".tif", packed[: int(rng.integers(1, len(packed)))]


KINDS: tuple[Callable[[bytes, np.ndarray, np.random.Generator], Variant], ...] = (
    _cut_in_data,
    _cut_in_header,
    _empty,
    _absurd_dimension,
    _absurd_extended_header,
    _movie,
    _no_frames,
    _bad_mode,
    _not_finite,
    _constant,
    _text,
    _zip,
    _random_bytes,
    _zeros,
    _gzip_cut,
    _gzip_flipped,
    _gzip_of_text,
    _bzip2_cut,
    _bzip2_flipped,
    _png_cut,
    _png_flipped,
    _jpeg_cut,
    _tiff_cut,
)


def flip(data: bytes, bit: int) -> bytes:
    """The same bytes with one bit changed."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
