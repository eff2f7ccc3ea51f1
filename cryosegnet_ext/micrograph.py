"""Reading micrographs: MRC, TIFF, PNG and JPEG files into one array, and every way in which a file can be bad."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import itertools
import logging
import math
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray

from .errors import CryoSegNetError

MICROGRAPH_SUFFIXES: tuple[str, ...] = (
    ".mrc",
    ".mrcs",
    ".mrc.gz",
    ".mrcs.gz",
    ".mrc.bz2",
    ".mrcs.bz2",
    ".tif",
    ".tiff",
    ".png",
    ".jpg",
    ".jpeg",
)

MIN_SIDE, MAX_SIDE = 64, 32768
MIN_PIXEL_SIZE, MAX_PIXEL_SIZE = 0.05, 100.0
LARGEST_VALUE = 1e15
"""Values of a larger magnitude count as not finite: a flipped bit makes them, and float32 sums overflow on them."""
MOST_INVALID = 0.1

_TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC = b"\xff\xd8\xff"
_MRC_TYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_MRC_DIMENSION_LIMIT = 1_000_000
_ENCODED_LIMIT = 2 << 30
_MAX_EXPANSION = 1100  # deflate reaches 1032 at best, and only where an image is constant
_CHUNK = 8 << 20
_LONGEST_REST = 16 << 20

# Without a handler of its own, tifffile's complaints about a bad file reach stderr through logging's last resort.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class _BadFile(Exception):
    """What is wrong with a file and what to do: the sentence less its subject (the file's name) and full stop."""


@dataclass(frozen=True, eq=False)
class Micrograph:
    """One micrograph in memory.

    Attributes
    ----------
    data : (ny, nx) float32
        Pixel values, C-contiguous and finite. Row 0 is the first row of the file: of the data section of an MRC file
        (mrcfile's array order, no flip), the top row of a TIFF, PNG or JPEG image.
    pixel_size : float or None
        Angstrom per pixel; None where neither the file nor the caller gives it.
    name : str
        The path as it was given.
    valid : (ny, nx) bool or None
        False where the file held no usable number and ``data`` holds the median of the others; None where all are good.
    """

    data: NDArray[np.float32]
    pixel_size: float | None
    name: str
    valid: NDArray[np.bool_] | None = None


def micrograph_stem(path: str | os.PathLike[str]) -> str:
    """File name without folder and without a suffix of ``MICROGRAPH_SUFFIXES``: ``dir/a.b.mrc.gz`` gives ``a.b``."""
    name = Path(path).name
    for suffix in sorted(MICROGRAPH_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def require_pixel_size(micrograph: Micrograph, why: str) -> float:
    """Pixel size in angstrom per pixel, for work that cannot do without.

    Parameters
    ----------
    micrograph
        The micrograph.
    why
        What needs it, as the subject of "needs": ``"a diameter in angstrom"``.

    Raises
    ------
    CryoSegNetError
        The pixel size is not known.
    """
    if micrograph.pixel_size is None:
        raise CryoSegNetError(
            f"{_shown(micrograph.name)} does not say its pixel size, which {why} needs: "
            "give it with --pixel-size, in angstrom per pixel."
        )
    return micrograph.pixel_size


def read_micrograph(path: str | os.PathLike[str], pixel_size: float | None = None) -> Micrograph:
    """Read one micrograph; what the file holds decides its format, not its suffix.

    MRC: modes 0, 1, 2, 6 and 12, either byte order, plain or compressed with gzip or bzip2, one image (a stack of one
    frame counts). Mode 0 is signed as MRC2014 says, unless IMOD's flags (bytes 152 to 159) say it is not. TIFF: one
    page of integers or floats. PNG and JPEG: 8 or 16 bit. Colour becomes grey as the mean of red, green and blue,
    which leaves equal channels as they are; transparency is ignored.

    The pixel size comes from the caller, else from the header (mean of x and y) or from a TIFF's resolution tags. A
    value in the file outside 0.05 to 100 angstrom counts as not given.

    Parameters
    ----------
    path
        The file.
    pixel_size
        Angstrom per pixel; overrides the file.

    Returns
    -------
    Micrograph
        With NaN, infinite and absurd values (magnitude over 1e15) replaced by the median, if they are 10 % at most.

    Raises
    ------
    CryoSegNetError
        The file is missing, unreadable, truncated, damaged, not an image, a movie or stack, complex or of an unknown
        mode, smaller than 64 or larger than 32768 pixels a side, constant, or mostly not finite; or ``pixel_size`` is
        absurd. No content of a file makes any other exception, and nothing is printed or warned of.
    """
    name = os.fsdecode(path)
    with _explained(name):
        if pixel_size is not None:
            pixel_size = _callers_pixel_size(pixel_size)
        with np.errstate(all="ignore"):
            raw, from_file = _read_file(name)
            data, valid = _clean(raw)
    return Micrograph(data, from_file if pixel_size is None else pixel_size, name, valid)


def read_shape(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Rows and columns (ny, nx) of a micrograph, from the header alone where it is an MRC file.

    Raises
    ------
    CryoSegNetError
        As `read_micrograph`, but of an MRC file's pixels nothing is known.
    """
    name = os.fsdecode(path)
    with _explained(name):
        if os.path.isfile(name):
            with open(name, "rb") as file:
                magic = file.read(8)
                file.seek(0)
                stream: Any = file
                if magic[:2] == b"\x1f\x8b":
                    stream = gzip.GzipFile(fileobj=file)
                elif magic[:3] == b"BZh":
                    stream = bz2.BZ2File(file)
                if not _is_picture(magic):
                    with stream:
                        header = _mrc_image_header(bytes(_take(stream, HEADER_DTYPE.itemsize)))
                    return int(header["ny"]), int(header["nx"])
        ny, nx = _read_file(name)[0].shape
    return int(ny), int(nx)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Whatever goes wrong with a file as one sentence about it."""
    try:
        yield
    except _BadFile as error:
        raise CryoSegNetError(f"{_shown(name)} {error}.") from None
    except MemoryError:
        raise CryoSegNetError(f"{_shown(name)} does not fit into memory: run fewer jobs at a time.") from None
    except OSError as error:
        raise CryoSegNetError(f"{_shown(name)} {_os_reason(error)}.") from error
    except Exception as error:  # decoders raise whatever they like on damaged files
        reason = _one_line(f"{type(error).__name__}: {error}")
        raise CryoSegNetError(f"{_shown(name)} is damaged and cannot be decoded ({reason}): copy it again.") from error


def _read_file(name: str) -> tuple[NDArray[Any], float | None]:
    """Pixels as stored, (ny, nx), and the pixel size that the file gives."""
    if "\0" in name:
        raise _BadFile("is not a possible file name: check how the list of micrographs was made")
    status = os.stat(name)
    if stat.S_ISDIR(status.st_mode):
        raise _BadFile("is a directory: name the micrographs in it")
    if not stat.S_ISREG(status.st_mode):
        raise _BadFile("is a device, pipe or socket: name a file")
    with open(name, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise _BadFile("is empty (0 bytes): copy or write it again")
        magic = file.read(8)
        file.seek(0)
        if magic[:2] == b"\x1f\x8b":
            return _read_compressed_mrc(gzip.GzipFile(fileobj=file))
        if magic[:3] == b"BZh":
            return _read_compressed_mrc(bz2.BZ2File(file))
        if magic[:4] in _TIFF_MAGICS:
            return _read_tiff(file, size)
        if magic == _PNG_MAGIC:
            return _read_png(_whole(file, size)), None
        if magic[:3] == _JPEG_MAGIC:
            return _read_jpeg(_whole(file, size)), None
        return _read_mrc(file, size)


def _is_picture(magic: bytes) -> bool:
    return magic[:4] in _TIFF_MAGICS or magic == _PNG_MAGIC or magic[:3] == _JPEG_MAGIC


# MRC


def _read_compressed_mrc(stream: gzip.GzipFile | bz2.BZ2File) -> tuple[NDArray[Any], float | None]:
    try:
        with stream:
            # The checksum stands behind the data and, where it is wrong, explains what the header seems to say.
            try:
                return _read_mrc(stream, None)
            finally:
                _skip(stream, _LONGEST_REST)
    except EOFError:
        raise _BadFile("is truncated, as its compressed stream ends early: copy it again") from None
    except (OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _BadFile(
            f"is damaged, as its compressed stream is not valid ({_one_line(error)}): copy it again"
        ) from None


def _read_mrc(stream: Any, size: int | None) -> tuple[NDArray[Any], float | None]:
    """Read an MRC image from a binary stream of ``size`` bytes (None: not known, as it is compressed)."""
    head = bytes(_take(stream, HEADER_DTYPE.itemsize))
    header = _mrc_image_header(head)
    nx, ny, mode = (int(header[field]) for field in ("nx", "ny", "mode"))
    extended = int(header["nsymbt"])
    if extended < 0:
        raise _BadFile(f"has a damaged MRC header (extended header of {extended} bytes): copy or write the file again")
    dtype = np.dtype(_MRC_TYPES[mode]).newbyteorder(header.dtype["nx"].byteorder)
    if mode == 0 and _imod_unsigned(head, header):
        dtype = np.dtype("u1")
    expected = HEADER_DTYPE.itemsize + extended + nx * ny * dtype.itemsize
    if size is not None and size < expected:
        raise _truncated(expected, size)
    found = HEADER_DTYPE.itemsize + _skip(stream, extended)
    pixels = _take(stream, expected - HEADER_DTYPE.itemsize - extended)
    found += len(pixels)
    if found < expected:
        raise _truncated(expected, found)
    return np.frombuffer(pixels, dtype).reshape(ny, nx), _mrc_pixel_size(header)


def _mrc_image_header(head: bytes) -> Any:
    """The header of one image of a mode that is read."""
    if len(head) < HEADER_DTYPE.itemsize:
        raise _BadFile(
            f"is truncated or no micrograph, as it holds {len(head)} bytes and an MRC header alone takes "
            f"{HEADER_DTYPE.itemsize}: copy it again"
        )
    header = _mrc_header(head)
    nx, ny, nz, mode = (int(header[field]) for field in ("nx", "ny", "nz", "mode"))
    possible = all(1 <= n <= _MRC_DIMENSION_LIMIT for n in (nx, ny, nz)) and 0 <= mode <= 127
    if not possible:
        if head[208:211] == b"MAP":
            raise _BadFile(
                f"has a damaged MRC header (nx {nx}, ny {ny}, nz {nz}, mode {mode}): copy or write the file again"
            )
        raise _BadFile("is not an MRC, TIFF, PNG or JPEG image: give the micrograph itself, in one of these formats")
    if mode in (3, 4):
        raise _BadFile(f"holds complex numbers (MRC mode {mode}), a Fourier transform: give the micrograph itself")
    if mode not in _MRC_TYPES:
        raise _BadFile(f"is of MRC mode {mode}, which is not read: convert it to mode 0, 1, 2, 6 or 12")
    if nz > 1:
        raise _BadFile(
            f"holds {nz} frames, so it is a movie, stack or volume: motion-correct it first, and give one image a file"
        )
    _check_shape(ny, nx)
    return header


def _mrc_header(head: bytes) -> Any:
    """Parse the header in the byte order in which its dimensions make sense; old writers leave no machine stamp."""
    stamped = "big" if head[212:214] == b"\x11\x11" else "little"

    def sense(order: str) -> tuple[int, bool]:
        numbers = struct.unpack("<4i" if order == "little" else ">4i", head[:16])
        return sum(0 <= n < 65536 for n in numbers), order == stamped

    order = max(("little", "big"), key=sense)
    return np.frombuffer(head, HEADER_DTYPE.newbyteorder("<" if order == "little" else ">"))[0]


def _imod_unsigned(head: bytes, header: Any) -> bool:
    """Whether IMOD wrote the bytes as unsigned (IMOD's ``mrc_format`` page: ``imodStamp`` and ``imodFlags``)."""
    stamp, flags = np.frombuffer(head, header.dtype["nx"], count=2, offset=152)
    return int(stamp) == 1146047817 and not int(flags) & 1


def _mrc_pixel_size(header: Any) -> float | None:
    """Mean of the header's x and y pixel sizes, of those that are plausible."""
    sizes = []
    for axis in "xy":
        length, samples = float(header["cella"][axis]), int(header[f"m{axis}"])
        if samples > 0 and _plausible(length / samples):
            sizes.append(length / samples)
    return _rounded(sum(sizes) / len(sizes)) if sizes else None


# TIFF, PNG, JPEG


def _read_tiff(file: BinaryIO, size: int) -> tuple[NDArray[Any], float | None]:
    import tifffile

    with tifffile.TiffFile(file) as tif:
        pages: list[Any] = list(itertools.islice((p for p in tif.pages if not p.is_reduced), 2))
        if not pages:
            raise _BadFile("is truncated or damaged, as this TIFF file holds no page: copy it again")
        page = pages[0]
        frames = (tif.imagej_metadata or {}).get("images", 1) if tif.is_imagej else 1
        if len(pages) > 1 or page.imagedepth > 1 or frames > 1:
            raise _BadFile("holds several pages, so it is a movie or stack: motion-correct it first")
        _check_shape(page.imagelength, page.imagewidth)
        if page.dtype is None or page.dtype.kind not in "iufb":
            raise _BadFile("holds neither integers nor real numbers: convert it to MRC")
        end = max((o + n for o, n in zip(page.dataoffsets, page.databytecounts)), default=0)
        if end > size:
            raise _truncated(end, size)
        _check_expansion(page.nbytes, size)
        try:
            image = np.asarray(page.asarray(maxworkers=1))
        except (ValueError, NotImplementedError) as error:
            if "imagecodecs" not in str(error):
                raise
            kind = getattr(page.compression, "name", page.compression)
            raise _BadFile(
                f"is a TIFF file (compression {kind}) that needs a decoder: install imagecodecs or convert it to MRC"
            ) from None
        return _grey(image, page.axes.find("S")), _tiff_pixel_size(page)


def _tiff_pixel_size(page: Any) -> float | None:
    """Pixel size from the resolution tags; no printer's resolution (72 dpi ...) is plausible as one of a micrograph."""
    angstrom = {2: 2.54e8, 3: 1e8}.get(int(page.tags.valueof("ResolutionUnit", default=0)))
    resolution = page.tags.valueof("XResolution")
    if angstrom is None or not isinstance(resolution, tuple) or len(resolution) != 2 or 0 in resolution:
        return None
    size = angstrom * resolution[1] / resolution[0]
    return _rounded(size) if _plausible(size) else None


def _read_png(content: bytes) -> NDArray[Any]:
    from PIL.PngImagePlugin import PngImageFile

    # Only the chunks that make the picture go to the decoder; it cares neither for checksums of others nor for the end.
    picture = [content[:8]]
    position, kind = 8, b""
    while kind != b"IEND":
        if position + 12 > len(content):
            raise _BadFile("is truncated, as this PNG file ends before its last chunk: copy it again")
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length
        if end > len(content):
            raise _truncated(end, len(content))
        if struct.unpack_from(">I", content, end - 4)[0] != zlib.crc32(memoryview(content)[position + 4 : end - 4]):
            raise _BadFile("is damaged, as a checksum in this PNG file is wrong: copy it again")
        if kind == b"acTL" and length >= 4 and struct.unpack_from(">I", content, position + 8)[0] > 1:
            raise _BadFile("is an animation of several frames: give one image a file")
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            picture.append(content[position:end])
        position = end
    return _decode(PngImageFile, b"".join(picture), "PNG")


def _read_jpeg(content: bytes) -> NDArray[Any]:
    from PIL.JpegImagePlugin import JpegImageFile

    # The decoder makes up what is missing behind the last whole block, so the end marker is looked for here.
    marker, position = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]"), 2
    while True:
        found = marker.search(content, position)
        if found is None:
            raise _BadFile("is truncated, as this JPEG file has no end marker: copy it again")
        position = found.end()
        if found[0] == b"\xff\xd9":
            return _decode(JpegImageFile, content, "JPEG")
        if found[0] not in (b"\xff\x01", b"\xff\xd8"):
            position += int.from_bytes(content[position : position + 2], "big")


def _decode(decoder: Any, content: bytes, kind: str) -> NDArray[Any]:
    """Decode with one of Pillow's classes, which print nothing and, unlike ``Image.open``, warn of no large image."""
    try:
        with decoder(io.BytesIO(content)) as image:
            _check_shape(image.height, image.width)
            _check_expansion(image.height * image.width, len(content))
            if image.mode == "1":
                return np.asarray(image.convert("L"))
            if image.mode == "LA":
                return np.asarray(image.getchannel(0))
            if image.mode == "L" or image.mode.startswith("I"):
                return np.asarray(image)
            return _grey(np.asarray(image.convert("RGB")), 2)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise _BadFile(f"is damaged or truncated {kind} data ({_one_line(error)}): copy it again") from None


def _grey(image: NDArray[Any], colour_axis: int) -> NDArray[Any]:
    """Reduce to (ny, nx): the mean of the first three channels, or the one in front of a transparency."""
    if colour_axis >= 0:
        image = np.moveaxis(image, colour_axis, -1)
        image = image[..., :3] if image.shape[-1] >= 3 else image[..., :1]
        image = image.mean(axis=-1, dtype=np.float64 if image.dtype.itemsize > 2 else np.float32)
    if image.ndim != 2:
        raise _BadFile(f"holds an array of {image.ndim} axes: give one grey image a file")
    return image


# What all formats share


def _clean(raw: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """float32 in native order without a bad value, and the mask of the good ones where there are bad ones."""
    valid = None
    if raw.dtype.kind == "f":
        if raw.dtype.itemsize < 4:
            raw = raw.astype(np.float32)
        good = (raw > -LARGEST_VALUE) & (raw < LARGEST_VALUE)
        bad = good.size - int(np.count_nonzero(good))
        if bad == good.size:
            raise _BadFile("has no usable pixel, as all are NaN, infinite or absurd: write it again")
        if bad > MOST_INVALID * good.size:
            raise _BadFile(
                f"has {100 * bad / good.size:.3g} % of its pixels NaN, infinite or absurd, over the limit of "
                f"{100 * MOST_INVALID:g} %: write it again"
            )
        valid = good if bad else None
    data = np.ascontiguousarray(raw, dtype=np.float32)
    if valid is not None:
        if not data.flags.writeable:
            data = data.copy()
        data[~valid] = np.median(data[valid])
    if data.min() == data.max():
        raise _BadFile(f"is constant, as every pixel is {data.flat[0]:g}: check the step that wrote it")
    return data, valid


def _check_shape(ny: int, nx: int) -> None:
    if min(ny, nx) < MIN_SIDE:
        raise _BadFile(f"is {nx} x {ny} pixels, too small for a micrograph: give one of at least {MIN_SIDE} a side")
    if max(ny, nx) > MAX_SIDE:
        raise _BadFile(
            f"claims to be {nx} x {ny} pixels, and {MAX_SIDE} a side is the most that is read: copy it again or bin it"
        )


def _check_expansion(nbytes: int, size: int) -> None:
    if nbytes > _MAX_EXPANSION * size:
        raise _BadFile(f"is {size} bytes for an image of {nbytes}, too few to be a micrograph: copy or write it again")


def _truncated(expected: int, found: int) -> _BadFile:
    return _BadFile(f"is truncated, as {expected} bytes were expected and {found} found: copy it again")


def _take(stream: Any, count: int) -> bytearray:
    """Up to ``count`` bytes; memory grows with what is there, not with what a header claims."""
    taken = bytearray()
    while len(taken) < count:
        chunk = stream.read(min(_CHUNK, count - len(taken)))
        if not chunk:
            break
        taken += chunk
    return taken


def _skip(stream: Any, count: int) -> int:
    skipped = 0
    while skipped < count:
        chunk = stream.read(min(_CHUNK, count - skipped))
        if not chunk:
            break
        skipped += len(chunk)
    return skipped


def _whole(file: BinaryIO, size: int) -> bytes:
    if size > _ENCODED_LIMIT:
        raise _BadFile(f"is {size} bytes, too large for a PNG or JPEG micrograph: convert it to MRC")
    return file.read(size)


def _plausible(pixel_size: float) -> bool:
    return math.isfinite(pixel_size) and MIN_PIXEL_SIZE <= pixel_size <= MAX_PIXEL_SIZE


def _rounded(pixel_size: float) -> float:
    """Six digits: what float32 holds of the decimal number that was meant."""
    return float(f"{pixel_size:.6g}")


def _callers_pixel_size(pixel_size: Any) -> float:
    try:
        value = float(pixel_size)
    except (TypeError, ValueError):
        value = math.nan
    if not _plausible(value):
        raise _BadFile(
            f"was given a pixel size of {_one_line(pixel_size)} angstrom, which is absurd: give one from "
            f"{MIN_PIXEL_SIZE:g} to {MAX_PIXEL_SIZE:g}"
        )
    return value


def _os_reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "does not exist: check the path"
    if isinstance(error, PermissionError):
        return "may not be read by this user: ask its owner for permission"
    reason = _one_line(error.strerror or error)
    return f"could not be read ({reason}): check the disk or network file system and try again"


def _one_line(text: object) -> str:
    """An error's text fit to stand within a sentence: one line, no full stop at its end, not long."""
    return " ".join(str(text).split()).rstrip(".")[:160] or "no reason given"


def _shown(name: str) -> str:
    """The name as it is, or escaped where it holds a line break or what a terminal cannot print."""
    return name if name.isprintable() and name else ascii(name)
