"""EM files (.em) of the TOM toolbox and its relatives, read with emfile.

Source: ``tom_emread.m`` of the TOM toolbox. Its parameter OBJ is the pixel size in angstrom times 1000.
"""

from __future__ import annotations

import numpy as np

from ..limits import BadFile, check_memory, check_shape, plausible, rounded, truncated
from .stored import StoredImage

_HEADER = 512
_LITTLE_ENDIAN = (1, 2, 6)  # VAX, Convex (as TOM reads it) and PC
_TYPES = {1: "u1", 2: "<i2", 4: "<i4", 5: "<f4", 9: "<f8"}
_COMPLEX = (8, 10)


def is_em(magic: bytes) -> bool:
    """Whether a file that begins with these bytes is an EM file: a machine, two zeros, and a type of pixels."""
    return len(magic) >= 4 and 1 <= magic[0] <= 6 and magic[1:3] == b"\0\0" and magic[3] in (*_TYPES, *_COMPLEX)


def read_em(name: str, size: int) -> StoredImage:
    """The image of an EM file of ``size`` bytes; row 0 is the first row of the file."""
    try:
        import emfile
    except ImportError:
        raise BadFile(
            "is an EM file, which needs emfile: pip install 'cryosegnet-ext[formats]', or convert it to MRC"
        ) from None
    if size < _HEADER:
        raise truncated(_HEADER, size)
    header, _ = emfile.read(name, header_only=True)
    if header["machine"] not in _LITTLE_ENDIAN:
        raise BadFile(f"was written by a big-endian machine (code {header['machine']} of EM): convert it to MRC")
    if header["dtype"] in _COMPLEX:
        raise BadFile("contains complex numbers, a Fourier transform: give the micrograph itself")
    nx, ny, nz = (int(header[side]) for side in ("xdim", "ydim", "zdim"))
    if nz > 1:
        raise BadFile(f"contains {nz} frames, so it is a stack or volume: give one image per file")
    check_shape(ny, nx)
    dtype = np.dtype(_TYPES[header["dtype"]])
    if size != _HEADER + nx * ny * dtype.itemsize:
        raise truncated(_HEADER + nx * ny * dtype.itemsize, size)
    check_memory(ny, nx)
    pixels = emfile.read(name)[1][0]
    given = header["OBJ"] / 1000
    return StoredImage(pixels.view(dtype), rounded(given) if plausible(given) else None)
