"""Read micrographs from MRC, TIFF, DM, EM, PNG and JPEG files; every bad file gives one sentence."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray

from ...errors import CryoSegNetError, option
from ..limits import PIXEL_SIZES, BadFile, check_shape, is_utf8, one_line, plausible, shown, take, whole
from .em import is_em, read_em
from .gatan import is_dm, read_dm
from .mrc import mrc_image_header, read_compressed_mrc, read_mrc
from .pictures import JPEG_MAGIC, PNG_MAGIC, TIFF_MAGICS, picture_kind, read_jpeg, read_png, read_tiff
from .stored import StoredImage

__all__ = [
    "MICROGRAPH_SUFFIXES",
    "Micrograph",
    "check_pixel_size",
    "inverted",
    "micrograph_of",
    "micrograph_stem",
    "read_micrograph",
    "read_pixels",
    "read_shape",
    "require_pixel_size",
]

MICROGRAPH_SUFFIXES: tuple[str, ...] = (
    ".mrc",
    ".mrcs",
    ".mrc.gz",
    ".mrcs.gz",
    ".mrc.bz2",
    ".mrcs.bz2",
    ".tif",
    ".tiff",
    ".dm4",
    ".dm3",
    ".em",
    ".png",
    ".jpg",
    ".jpeg",
)

# Larger magnitudes count as not finite: a flipped bit can make them, and float32 sums overflow on them.
_LARGEST_VALUE = 1e15
_MOST_INVALID = 0.1


@dataclass(frozen=True, eq=False, repr=False)
class Micrograph:
    """One micrograph in memory.

    Attributes
    ----------
    data : (ny, nx) float32
        Pixel values, C-contiguous and finite. Row 0 is the first row of the file: of the data section of an MRC file
        (mrcfile's array order, no flip), the top row of a TIFF, PNG, JPEG or DigitalMicrograph image.
    pixel_size : float or None
        Angstrom per pixel; None where neither the file nor the caller gives it.
    name : str
        The path as it was given.
    valid : (ny, nx) bool or None
        False where the file has no usable number and ``data`` has the median of the others; None if all are good.
    remark : str or None
        What was assumed about the file where it leaves something open, as the sign of the bytes of MRC mode 0.
    file_pixel_size : float or None
        Angstrom per pixel as the file itself has it; None where it does not.
    """

    data: NDArray[np.float32]
    pixel_size: float | None
    name: str
    valid: NDArray[np.bool_] | None = None
    remark: str | None = None
    file_pixel_size: float | None = None

    def __repr__(self) -> str:
        """A summary in one line, without the pixels."""
        ny, nx = self.data.shape
        size = "pixel size not known" if self.pixel_size is None else f"{self.pixel_size:g} A/px"
        bad = "" if self.valid is None else f", {int((~self.valid).sum())} bad pixels"
        return f"<Micrograph {shown(self.name)}: {ny} x {nx} (ny x nx), {size}{bad}>"


def inverted(micrograph: Micrograph) -> Micrograph:
    """The micrograph with its contrast inverted: every value has the opposite sign; the rest stays."""
    return replace(micrograph, data=-micrograph.data)


def micrograph_stem(path: str | os.PathLike[str]) -> str:
    """File name without folder and without a suffix of ``MICROGRAPH_SUFFIXES``: ``dir/a.b.mrc.gz`` gives ``a.b``."""
    name = Path(path).name
    for suffix in sorted(MICROGRAPH_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def require_pixel_size(micrograph: Micrograph, why: str) -> float:
    """Pixel size in angstrom per pixel, for work that needs it.

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
            f"{shown(micrograph.name)} has no pixel size, which {why} needs: "
            f"give it with {option('pixel_size')}, in angstrom per pixel."
        )
    return micrograph.pixel_size


def check_pixel_size(pixel_size: float, name: str) -> float:
    """A pixel size that somebody gives, angstrom per pixel.

    Parameters
    ----------
    pixel_size
        What was given.
    name
        The micrograph it is for, as messages name it.

    Raises
    ------
    CryoSegNetError
        It is no number from 0.05 to 100.
    """
    with _explained(name):
        return _callers_pixel_size(pixel_size)


def read_micrograph(path: str | os.PathLike[str], pixel_size: float | None = None) -> Micrograph:
    """Read one micrograph; its format is told from its content, not from its suffix.

    MRC: modes 0, 1, 2, 6 and 12, either byte order, plain or compressed with gzip or bzip2, one image (a stack of one
    frame is fine). TIFF: one page of integers or floats; MinIsWhite is inverted, so that large values are bright. PNG
    and JPEG: 8 or 16 bit. DM3, DM4 and EM: one image, with the libraries of the extra ``formats``. Colours are averaged
    to grey (equal channels stay as they are); transparency is ignored.

    The bytes of MRC mode 0 are signed, as in MRC2014, or unsigned, as many programs write them: by IMOD's flags (bytes
    152 to 159), else by the values if one reading tears neighbours apart, else by the header's range if the values lie
    in it. `Micrograph.remark` says which was taken where the flags do not tell and it makes a difference.

    The pixel size comes from the caller, else from the header (mean of x and y; DM files name the unit) or from a
    TIFF's resolution tags. A value in the file outside 0.05 to 100 angstrom counts as not given.

    Parameters
    ----------
    path
        The file.
    pixel_size
        Angstrom per pixel; overrides the file.

    Returns
    -------
    Micrograph
        With NaN, infinite and very large values (magnitude over 1e15) replaced by the median, if at most 10 % are so.

    Raises
    ------
    CryoSegNetError
        The file is missing, unreadable, truncated, damaged, not an image, a movie or stack, complex or of an unknown
        mode, smaller than 64 or larger than 32768 pixels a side, constant, or mostly not finite; or ``pixel_size`` is
        impossible. No file content raises any other exception; nothing is printed, and no warning is given.
    """
    name = os.fsdecode(path)
    with _explained(name):
        if pixel_size is not None:
            pixel_size = _callers_pixel_size(pixel_size)
        with np.errstate(all="ignore"):
            image = _read_file(name)
            data, valid = _clean(image.pixels)
    given = image.pixel_size if pixel_size is None else pixel_size
    return Micrograph(data, given, name, valid, image.remark, image.pixel_size)


def micrograph_of(array: Any, pixel_size: float | None = None, name: str = "the array") -> Micrograph:
    """A micrograph of an array in memory, which stays as it is; it is checked as `read_micrograph` checks a file.

    Parameters
    ----------
    array : (ny, nx)
        Integers or real numbers, row 0 first; or whatever NumPy makes such an array of.
    pixel_size
        Angstrom per pixel.
    name
        What messages call it.

    Raises
    ------
    CryoSegNetError
        The array has no two axes, or not of real numbers, or the errors of `read_micrograph` about pixels.
    """
    with _explained(name):
        if pixel_size is not None:
            pixel_size = _callers_pixel_size(pixel_size)
        pixels = np.asarray(array)
        if pixels.ndim == 3 and pixels.shape[0] == 1:
            pixels = pixels[0]
        if pixels.ndim != 2:
            raise BadFile(
                f"has the shape {pixels.shape}, and a micrograph has two axes (ny, nx): give those of a stack as a list"
            )
        if pixels.dtype.kind not in "fiub":
            raise BadFile(f"has values of the type {pixels.dtype}: give real numbers")
        check_shape(*pixels.shape)
        pixels = pixels.view()
        pixels.flags.writeable = False
        with np.errstate(all="ignore"):
            data, valid = _clean(pixels)
    return Micrograph(data, pixel_size, name, valid)


def read_pixels(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Pixels as a file stores them, (ny, nx), for images other than micrographs: a mask may have one value only.

    Raises
    ------
    CryoSegNetError
        As `read_micrograph`, but the values are not checked.
    """
    name = os.fsdecode(path)
    with _explained(name):
        return _read_file(name).pixels


def read_shape(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Rows and columns (ny, nx) of a micrograph, from the header alone where it is an MRC file.

    Raises
    ------
    CryoSegNetError
        As `read_micrograph`, but the pixels of an MRC file are not checked.
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
                if picture_kind(magic) is None and not is_dm(magic) and not is_em(magic):
                    with stream:
                        header = mrc_image_header(bytes(take(stream, HEADER_DTYPE.itemsize)))
                    return int(header["ny"]), int(header["nx"])
        ny, nx = _read_file(name).pixels.shape
    return int(ny), int(nx)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn whatever goes wrong with a file into one sentence."""
    try:
        yield
    except BadFile as error:
        raise CryoSegNetError(f"{shown(name)} {error}.") from None
    except MemoryError:
        raise CryoSegNetError(f"{shown(name)} does not fit into memory: run fewer jobs at a time.") from None
    except OSError as error:
        reason = _os_reason(error)
        if isinstance(error, FileNotFoundError) and not is_utf8(name):
            reason = "does not exist, and its name is not UTF-8: save the list that names it as UTF-8"
        raise CryoSegNetError(f"{shown(name)} {reason}.") from error
    except Exception as error:  # decoders raise all kinds of exceptions on damaged files
        reason = one_line(f"{type(error).__name__}: {error}")
        raise CryoSegNetError(f"{shown(name)} is damaged and cannot be decoded ({reason}): copy it again.") from error


def _read_file(name: str) -> StoredImage:
    if "\0" in name:
        raise BadFile("is not a possible file name: check how the list of micrographs was made")
    status = os.stat(name)
    if stat.S_ISDIR(status.st_mode):
        raise BadFile("is a directory: name the micrographs in it")
    if not stat.S_ISREG(status.st_mode):
        raise BadFile("is a device, pipe or socket: name a file")
    with open(name, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise BadFile("is empty (0 bytes): copy or write it again")
        magic = file.read(8)
        file.seek(0)
        if magic[:2] == b"\x1f\x8b":
            return read_compressed_mrc(gzip.GzipFile(fileobj=file), size)
        if magic[:3] == b"BZh":
            return read_compressed_mrc(bz2.BZ2File(file), size)
        if magic[:4] in TIFF_MAGICS:
            return read_tiff(file, size)
        if magic == PNG_MAGIC:
            return read_png(whole(file, size))
        if magic[:3] == JPEG_MAGIC:
            return read_jpeg(whole(file, size))
        if is_dm(magic):
            return read_dm(file, size)
        if is_em(magic):
            return read_em(name, size)
        return read_mrc(file, size)


def _clean(raw: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Values as float32 in native order with bad ones replaced, and where they are good; None if all are."""
    valid = None
    if raw.dtype.kind == "f":
        if raw.dtype.itemsize < 4:
            raw = raw.astype(np.float32)
        if not (raw.min() > -_LARGEST_VALUE and raw.max() < _LARGEST_VALUE):  # so it is if one is NaN
            valid = (raw > -_LARGEST_VALUE) & (raw < _LARGEST_VALUE)
            bad = valid.size - int(np.count_nonzero(valid))
            if bad == valid.size:
                raise BadFile("has no usable pixel (all are NaN, infinite or far too large): write it again")
            if bad > _MOST_INVALID * valid.size:
                raise BadFile(
                    f"has {100 * bad / valid.size:.3g} % bad pixels (NaN, infinite or far too large), over the limit "
                    f"of {100 * _MOST_INVALID:g} %: write it again"
                )
    data = np.ascontiguousarray(raw, dtype=np.float32)
    if valid is not None:
        if not data.flags.writeable:
            data = data.copy()
        data[~valid] = np.median(data[valid])
    if data.min() == data.max():
        raise BadFile(f"is constant (every pixel is {data.flat[0]:g}): check the step that wrote it")
    return data, valid


def _callers_pixel_size(pixel_size: Any) -> float:
    try:
        value = math.nan if isinstance(pixel_size, bool) else float(pixel_size)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not plausible(value):
        raise BadFile(
            f"cannot have a pixel size of {one_line(pixel_size)} angstrom: give one from "
            f"{PIXEL_SIZES[0]:g} to {PIXEL_SIZES[1]:g}"
        )
    return value


def _os_reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "does not exist: check the path"
    if isinstance(error, PermissionError):
        return "cannot be read by this user: ask its owner for permission"
    reason = one_line(error.strerror or error)
    return f"could not be read ({reason}): check the disk or network file system and try again"
