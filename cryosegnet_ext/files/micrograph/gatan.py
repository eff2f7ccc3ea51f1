"""DigitalMicrograph files (.dm3, .dm4) of Gatan's cameras, read with ncempy."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np

from ..limits import BadFile, check_memory, check_shape, one_line, plausible, rounded, truncated
from .stored import StoredImage

_MAGICS = (b"\0\0\0\3", b"\0\0\0\4")
_ANGSTROM = {"pm": 0.01, "A": 1, "Å": 1, "nm": 10, "um": 1e4, "µm": 1e4, "μm": 1e4}


def is_dm(magic: bytes) -> bool:
    """Whether a file that begins with these bytes is a DM3 or DM4 file."""
    return magic[:4] in _MAGICS


def read_dm(file: BinaryIO, size: int) -> StoredImage:
    """The image of a DM3 or DM4 file of ``size`` bytes; row 0 is its first, the top one in DigitalMicrograph."""
    try:
        from ncempy.io.dm import fileDM
    except ImportError:
        raise BadFile(
            "is a DigitalMicrograph file, which needs ncempy: pip install 'cryosegnet-ext[formats]', or convert it to "
            "MRC"
        ) from None
    try:
        with np.errstate(all="ignore"):
            dm = fileDM(file)
            index = _only_image(dm)
            nx, ny = int(dm.xSize[index]), int(dm.ySize[index])
            end = int(dm.dataOffset[index]) + int(dm.dataSize[index])
            if dm.dataShape[index] > 2:
                raise BadFile(
                    f"contains {int(dm.zSize[index])} frames, so it is a movie or stack: motion-correct it and give "
                    "one image per file"
                )
            check_shape(ny, nx)
            if end > size:
                raise truncated(end, size)
            check_memory(ny, nx)
            image = dm.getDataset(0)
    except BadFile:
        raise
    except Exception as error:  # ncempy raises all kinds, OSError among them, on files that it cannot read
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = one_line(str(error).partition(". ")[0] or type(error).__name__)
        raise BadFile(
            f"is damaged, or a DM file that ncempy cannot read ({reason}): copy it again, or save it as MRC"
        ) from None
    pixels = image["data"]
    if pixels.dtype.kind == "c":
        raise BadFile("contains complex numbers, a Fourier transform: give the micrograph itself")
    return StoredImage(pixels, _pixel_size(image["pixelSize"], image["pixelUnit"]))


def _only_image(dm: Any) -> int:
    """The place of the image among the data sets of a file, the first of which is its thumbnail if there are two."""
    images = dm.numObjects - dm.thumbnail
    if images != 1:
        raise BadFile(f"contains {images} images: give one image per file")
    return int(dm.thumbnail)


def _pixel_size(sizes: list[Any], units: list[str]) -> float | None:
    """Mean over x and y of the sizes whose units are lengths; None for diffraction patterns and without calibration."""
    known = [float(size) * _ANGSTROM.get(unit.strip("\0 "), 0) for size, unit in zip(sizes, units)]
    known = [size for size in known if plausible(size)]
    return rounded(sum(known) / len(known)) if known else None
