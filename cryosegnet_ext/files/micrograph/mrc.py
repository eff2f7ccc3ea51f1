"""MRC files: modes 0, 1, 2, 6 and 12, either byte order, plain or compressed."""

from __future__ import annotations

import bz2
import gzip
import struct
import zlib
from typing import Any

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray

from ..limits import (
    BadFile,
    check_expansion,
    check_memory,
    check_shape,
    one_line,
    plausible,
    rounded,
    skip,
    take,
    truncated,
)
from .pictures import picture_kind
from .stored import StoredImage

_MRC_TYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_PACKERS = {b"\xfd7zX": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
_MRC_DIMENSION_LIMIT = 1_000_000
_LONGEST_REST = 16 << 20
_TORN = 0.05


def read_compressed_mrc(stream: gzip.GzipFile | bz2.BZ2File, size: int) -> StoredImage:
    """Read an MRC image from the compressed stream of a file of ``size`` bytes; see `read_mrc`."""
    try:
        with stream:
            # The checksum comes after the data; a wrong one explains a strange header. A stream that has failed is not
            # read any further: libbz2 would corrupt memory.
            try:
                image = read_mrc(stream, None, size)
            except BadFile:
                skip(stream, _LONGEST_REST)
                raise
            skip(stream, _LONGEST_REST)
            return image
    except EOFError:
        raise BadFile("is truncated (its compressed stream ends early): copy it again") from None
    except (OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BadFile(f"is damaged (invalid compressed stream: {one_line(error)}): copy it again") from None


def read_mrc(stream: Any, size: int | None, compressed: int = 0) -> StoredImage:
    """Read an MRC image from a binary stream of ``size`` bytes (None: unpacked from ``compressed`` bytes)."""
    head = bytes(take(stream, HEADER_DTYPE.itemsize))
    header = mrc_image_header(head)
    nx, ny, mode = (int(header[field]) for field in ("nx", "ny", "mode"))
    extended = int(header["nsymbt"])
    if extended < 0:
        raise BadFile(f"has a damaged MRC header (extended header of {extended} bytes): copy or write the file again")
    dtype = np.dtype(_MRC_TYPES[mode]).newbyteorder(header.dtype["nx"].byteorder)
    expected = HEADER_DTYPE.itemsize + extended + nx * ny * dtype.itemsize
    if size is None:
        check_expansion(expected, compressed)
    elif size < expected:
        raise truncated(expected, size)
    check_memory(ny, nx)
    found = HEADER_DTYPE.itemsize + skip(stream, extended)
    count = expected - HEADER_DTYPE.itemsize - extended
    # of a file that is as long as it says no copy is made
    pixels = take(stream, count) if size is None else _taken_at_once(stream, count)
    found += len(pixels)
    if found < expected:
        raise truncated(expected, found)
    remark = None
    if mode == 0:
        dtype, remark = _byte_type(head, header, np.frombuffer(pixels, "u1").reshape(ny, nx))
    return StoredImage(np.frombuffer(pixels, dtype).reshape(ny, nx), _mrc_pixel_size(header), remark)


def _taken_at_once(stream: Any, count: int) -> memoryview:
    """Read up to ``count`` bytes of a file that has at least so many, without a copy in between."""
    taken = np.empty(count, np.uint8).data
    found = 0
    while found < count and (got := stream.readinto(taken[found:])):
        found += got
    return taken[:found]


def mrc_image_header(head: bytes) -> Any:
    """Parse the header of one image and check that it can be read."""
    if kind := picture_kind(head[:8]):
        raise BadFile(f"is a compressed {kind} picture, which is not read: unpack it first (gunzip or bunzip2)")
    if packer := _PACKERS.get(head[:4]):
        raise BadFile(f"is compressed with {packer}, which is not read: unpack it first, or compress it with gzip")
    if len(head) < HEADER_DTYPE.itemsize:
        raise BadFile(
            f"is truncated or not a micrograph ({len(head)} bytes, and an MRC header alone has "
            f"{HEADER_DTYPE.itemsize}): copy it again"
        )
    header = _mrc_header(head)
    nx, ny, nz, mode = (int(header[field]) for field in ("nx", "ny", "nz", "mode"))
    possible = all(1 <= n <= _MRC_DIMENSION_LIMIT for n in (nx, ny, nz)) and 0 <= mode <= 127
    if not possible:
        if head[208:211] == b"MAP":
            raise BadFile(
                f"has a damaged MRC header (nx {nx}, ny {ny}, nz {nz}, mode {mode}): copy or write the file again"
            )
        raise BadFile("is not an MRC, TIFF, PNG or JPEG image: give the micrograph itself, in one of these formats")
    if mode in (3, 4):
        raise BadFile(f"contains complex numbers (MRC mode {mode}), a Fourier transform: give the micrograph itself")
    if mode not in _MRC_TYPES:
        raise BadFile(f"has MRC mode {mode}, which cannot be read: convert it to mode 0, 1, 2, 6 or 12")
    if nz > 1:
        raise BadFile(
            f"contains {nz} frames, so it is a movie, stack or volume: motion-correct it and give one image per file"
        )
    check_shape(ny, nx)
    return header


def _mrc_header(head: bytes) -> Any:
    """Parse the header in the byte order that gives sensible dimensions; old programs write no machine stamp."""
    stamped = "big" if head[212:214] == b"\x11\x11" else "little"

    def sense(order: str) -> tuple[int, bool]:
        numbers = struct.unpack("<4i" if order == "little" else ">4i", head[:16])
        return sum(0 <= n < 65536 for n in numbers), order == stamped

    order = max(("little", "big"), key=sense)
    return np.frombuffer(head, HEADER_DTYPE.newbyteorder("<" if order == "little" else ">"))[0]


def _byte_type(head: bytes, header: Any, values: NDArray[np.uint8]) -> tuple[np.dtype[Any], str | None]:
    """Whether the bytes of mode 0 are signed, as MRC2014 says, or unsigned, as many programs write them.

    Parameters
    ----------
    head, header
        The header.
    values : (ny, nx)
        The bytes, as unsigned ones.

    Returns
    -------
    dtype
        Of the bytes.
    str or None
        What was assumed and why; None if the file tells, or if both readings are the same.
    """
    signed, unsigned = np.dtype("i1"), np.dtype("u1")
    # IMOD's page mrc_format: imodStamp and imodFlags.
    stamp, flags = np.frombuffer(head, header.dtype["nx"], count=2, offset=152)
    if int(stamp) == 1146047817:
        return signed if int(flags) & 1 else unsigned, None
    if values.max() < 128:
        return signed, None
    sample = values[:: max(1, values.size >> 20)]
    torn = {dtype: _torn(sample.view(dtype)) for dtype in (signed, unsigned)}
    better, worse = (unsigned, signed) if torn[unsigned] < torn[signed] else (signed, unsigned)
    by_header = _by_range(header, values)
    if torn[worse] > _TORN and torn[better] < torn[worse] / 10:
        why = "by its values" if by_header in (better, None) else "by its values, which contradict the header's range"
        return better, _byte_remark(better, why)
    if by_header is not None:
        return by_header, _byte_remark(by_header, "by the range in the header")
    return better, _byte_remark(better, "by its values; the header does not tell")


def _torn(values: NDArray[Any]) -> float:
    """Share of neighbours in a row that differ by more than half of a byte's range: many if its sign is read wrong."""
    return float((np.abs(np.diff(values.astype(np.int16), axis=1)) > 128).mean())


def _by_range(header: Any, values: NDArray[np.uint8]) -> np.dtype[Any] | None:
    """The type of the bytes by the header's range; None if there is none, or the values lie outside of it.

    A file that was converted to bytes may have the range of its original.
    """
    low, high = float(header["dmin"]), float(header["dmax"])
    possible = "u1" if low >= 0 and 127 < high <= 255 else "i1" if -128 <= low < 0 and high <= 127 else None
    if possible is None or values.view(possible).min() < low - 1 or values.view(possible).max() > high + 1:
        return None
    return np.dtype(possible)


def _byte_remark(dtype: np.dtype[Any], why: str) -> str:
    kind = "unsigned bytes (0 to 255)" if dtype.kind == "u" else "signed bytes (-128 to 127)"
    return f"MRC mode 0 is read as {kind}, {why}"


def _mrc_pixel_size(header: Any) -> float | None:
    """Mean of the plausible ones of the header's x and y pixel sizes."""
    sizes = []
    for axis in "xy":
        length, samples = float(header["cella"][axis]), int(header[f"m{axis}"])
        if samples > 0 and plausible(length / samples):
            sizes.append(length / samples)
    return rounded(sum(sizes) / len(sizes)) if sizes else None
