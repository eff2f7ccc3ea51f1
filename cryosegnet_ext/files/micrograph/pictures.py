"""TIFF, PNG and JPEG files."""

from __future__ import annotations

import io
import itertools
import logging
import re
import struct
import zlib
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..limits import BadFile, check_expansion, check_shape, one_line, plausible, rounded, truncated
from .stored import StoredImage

TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"

# Without a handler of their own, tifffile's messages about a bad file would be printed on stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def picture_kind(magic: bytes) -> str | None:
    """TIFF, PNG or JPEG, if a file begins with these 8 bytes; else None."""
    if magic[:4] in TIFF_MAGICS:
        return "TIFF"
    return "PNG" if magic == PNG_MAGIC else "JPEG" if magic[:3] == JPEG_MAGIC else None


def read_tiff(file: BinaryIO, size: int) -> StoredImage:
    """A TIFF file of ``size`` bytes with one page."""
    import tifffile

    with tifffile.TiffFile(file) as tif:
        pages: list[Any] = list(itertools.islice((p for p in tif.pages if not p.is_reduced), 2))
        if not pages:
            raise BadFile("is truncated or damaged (a TIFF file without pages): copy it again")
        page = pages[0]
        frames = (tif.imagej_metadata or {}).get("images", 1) if tif.is_imagej else 1
        if len(pages) > 1 or page.imagedepth > 1 or frames > 1:
            raise BadFile("contains several pages, so it is a movie or stack: motion-correct it first")
        check_shape(page.imagelength, page.imagewidth)
        if page.dtype is None or page.dtype.kind not in "iufb":
            raise BadFile("contains neither integers nor real numbers: convert it to MRC")
        end = max((o + n for o, n in zip(page.dataoffsets, page.databytecounts)), default=0)
        if end > size:
            raise truncated(end, size)
        check_expansion(page.nbytes, size)
        try:
            image = np.asarray(page.asarray(maxworkers=1))
        except (ValueError, NotImplementedError) as error:
            if "imagecodecs" not in str(error):
                raise
            kind = getattr(page.compression, "name", page.compression)
            raise BadFile(
                f"is a TIFF file (compression {kind}) that needs a decoder: install imagecodecs "
                "(pip install 'cryosegnet-ext[tiff]') or convert it to MRC"
            ) from None
        pixel_size, remark = _tiff_pixel_size(page), None
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
            return StoredImage(_grey(page.colormap[:, image], 0), pixel_size)
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            image = -image if image.dtype.kind == "f" else ~image
            remark = "the TIFF file says that 0 is white (MinIsWhite), so its values are inverted"
        return StoredImage(_grey(image, page.axes.find("S")), pixel_size, remark)


def _tiff_pixel_size(page: Any) -> float | None:
    """Pixel size from the resolution tags; a printer's resolution (72 dpi ...) is far from any micrograph's."""
    angstrom = {2: 2.54e8, 3: 1e8}.get(int(page.tags.valueof("ResolutionUnit", default=0)))
    resolution = page.tags.valueof("XResolution")
    if angstrom is None or not isinstance(resolution, tuple) or len(resolution) != 2 or 0 in resolution:
        return None
    size = angstrom * resolution[1] / resolution[0]
    return rounded(size) if plausible(size) else None


def read_png(content: bytes) -> StoredImage:
    """A PNG file."""
    from PIL.PngImagePlugin import PngImageFile

    # Only the chunks of the picture go to the decoder, which checks neither the checksums of others nor the end.
    picture = [content[:8]]
    position, kind = 8, b""
    while kind != b"IEND":
        if position + 12 > len(content):
            raise BadFile("is truncated (the PNG file ends before its last chunk): copy it again")
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length
        if end > len(content):
            raise truncated(end, len(content))
        if struct.unpack_from(">I", content, end - 4)[0] != zlib.crc32(memoryview(content)[position + 4 : end - 4]):
            raise BadFile("is damaged (wrong checksum in the PNG file): copy it again")
        if kind == b"acTL" and length >= 4 and struct.unpack_from(">I", content, position + 8)[0] > 1:
            raise BadFile("is an animation of several frames: give one image per file")
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            picture.append(content[position:end])
        position = end
    return StoredImage(_decode(PngImageFile, b"".join(picture), "PNG"))


def read_jpeg(content: bytes) -> StoredImage:
    """A JPEG file."""
    from PIL.JpegImagePlugin import JpegImageFile

    # The decoder fills in what is missing after the last whole block, so this looks for the end marker.
    marker, position = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]"), 2
    while True:
        found = marker.search(content, position)
        if found is None:
            raise BadFile("is truncated (the JPEG file has no end marker): copy it again")
        position = found.end()
        if found[0] == b"\xff\xd9":
            return StoredImage(_decode(JpegImageFile, content, "JPEG"))
        if found[0] not in (b"\xff\x01", b"\xff\xd8"):
            position += int.from_bytes(content[position : position + 2], "big")


def _decode(decoder: Any, content: bytes, kind: str) -> NDArray[Any]:
    """Decode with one of Pillow's classes; unlike ``Image.open`` they give no warning about large images."""
    try:
        with decoder(io.BytesIO(content)) as image:
            check_shape(image.height, image.width)
            depth = 4 if image.mode in ("I", "F") else 2 if image.mode.startswith("I") else 1
            channels = len(image.getbands()) if image.mode in ("1", "L", "LA", "F") or depth > 1 else 3
            check_expansion(image.height * image.width * channels * depth, len(content))
            if image.mode == "1":
                return np.asarray(image.convert("L"))
            if image.mode == "LA":
                return np.asarray(image.getchannel(0))
            if image.mode == "L" or image.mode.startswith("I"):
                return np.asarray(image)
            return _grey(np.asarray(image.convert("RGB")), 2)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise BadFile(f"is damaged or truncated {kind} data ({one_line(error)}): copy it again") from None


def _grey(image: NDArray[Any], colour_axis: int) -> NDArray[Any]:
    """Reduce to (ny, nx): the mean of the first three channels, or the only one before a transparency."""
    if colour_axis >= 0:
        image = np.moveaxis(image, colour_axis, -1)
        image = image[..., :3] if image.shape[-1] >= 3 else image[..., :1]
        image = image.mean(axis=-1, dtype=np.float64 if image.dtype.itemsize > 2 else np.float32)
    if image.ndim != 2:
        raise BadFile(f"contains an array of {image.ndim} axes: give one grey image per file")
    return image
