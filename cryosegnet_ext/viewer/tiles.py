"""Render micrographs for the browser on demand: thumbnails, and tiles of every resolution."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import CryoSegNetError
from ..files.diameter import to_pixels
from ..files.micrograph import Micrograph
from ..files.picks import Picks
from ..runs.candidates import make_thumbnail
from ..runs.crops import cut_sheet

TILE = 512
#: Standard deviation, in pixels, of the Gaussian low-pass that halves the amplitude at a resolution of 1 pixel.
_SIGMA = math.sqrt(math.log(2) / 2) / math.pi
#: The low-pass at first, in particle diameters.
LOWPASS = 0.2
_MOST_LEVELS = 8
_QUALITY = 88
_MOST_CROPS = 1000
# Wider Gaussians are applied to a shrunken picture, which differs by less than the eye sees and takes no longer.
_WIDE_SIGMA = 6.0


class TileRenderer:
    """Renders tiles and thumbnails of numbered micrographs; the last few stay in memory.

    Parameters
    ----------
    read
        Reads the micrograph of a number; raises CryoSegNetError if it cannot.
    pixel_size
        Of the micrograph of a number, angstrom; None if it is not known.
    keep
        How many rendered micrographs stay in memory, at one byte per pixel.
    """

    def __init__(
        self, read: Callable[[int], Micrograph], pixel_size: Callable[[int], float | None], keep: int = 4
    ) -> None:
        self._read = read
        self._pixel_size = pixel_size
        self._keep = keep
        self._lock = threading.Lock()
        self._rendered: OrderedDict[tuple[int, int], list[NDArray[np.uint8]]] = OrderedDict()
        self._last: tuple[int, Micrograph] | None = None
        self._thumbnails: dict[int, bytes] = {}

    def tile(self, number: int, level: int, column: int, row: int, lowpass: int) -> bytes:
        """A JPEG file of at most 512 x 512 pixels, of the micrograph halved ``level`` times.

        Parameters
        ----------
        number, level, column, row
            The micrograph, and the tile's place.
        lowpass
            Resolution at which a Gaussian low-pass halves the amplitude, angstrom (pixels without a pixel size); 0 is
            none.

        Raises
        ------
        CryoSegNetError
            There is no such tile, or the micrograph cannot be read.
        """
        if not 0 <= level < _MOST_LEVELS:
            raise CryoSegNetError("no such tile.")
        pyramid = self._pyramid(number, lowpass)
        image = pyramid[min(level, len(pyramid) - 1)]
        part = image[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        if level >= len(pyramid) or min(row, column) < 0 or not part.size:
            raise CryoSegNetError("no such tile.")
        return _jpeg(part)

    def thumbnail(self, number: int) -> bytes:
        """A small JPEG file of the whole micrograph; raises CryoSegNetError if it cannot be read."""
        if number not in self._thumbnails:
            with self._lock:
                micrograph = self._micrograph(number)
            self._thumbnails[number] = make_thumbnail(micrograph.data, Picks.empty(micrograph.pixel_size))
        return self._thumbnails[number]

    def crops(self, number: int, places: object, width: object) -> bytes:
        """A sheet of crops of a micrograph, see `cut_sheet`.

        Parameters
        ----------
        number
            Of the micrograph.
        places : (n, 2)
            x and y of their centres, pixels; from 1 to 1000 of them.
        width
            Their side, pixels of the micrograph.

        Raises
        ------
        CryoSegNetError
            These are no places on a micrograph, or it cannot be read.
        """
        try:
            centres, side = np.array(places, np.float64), float(width)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError) as error:
            raise CryoSegNetError("crops need numbers x and y, and a width.") from error
        if centres.ndim != 2 or centres.shape[1] != 2 or len(centres) > _MOST_CROPS or not np.isfinite(centres).all():
            raise CryoSegNetError(f"crops need x and y of 1 to {_MOST_CROPS} places.")
        with self._lock:
            data = self._micrograph(number).data
        if not (np.abs(centres) < 2 * max(data.shape)).all() or not 1 <= side <= max(data.shape):
            raise CryoSegNetError("the places or the width do not fit on the micrograph.")
        return cut_sheet(data, centres[:, 0], centres[:, 1], side)

    def _micrograph(self, number: int) -> Micrograph:
        if self._last is None or self._last[0] != number:
            self._last = (number, self._read(number))
        return self._last[1]

    def _pyramid(self, number: int, lowpass: int) -> list[NDArray[np.uint8]]:
        key = number, lowpass
        # One at a time, because the browser asks for several tiles of a micrograph at once.
        with self._lock:
            if key not in self._rendered:
                self._rendered[key] = self._render(number, lowpass)
                while len(self._rendered) > self._keep:
                    self._rendered.popitem(last=False)
            self._rendered.move_to_end(key)
            return self._rendered[key]

    def _render(self, number: int, lowpass: int) -> list[NDArray[np.uint8]]:
        """The micrograph in grey at full size, then halved again and again down to one tile."""
        data = self._micrograph(number).data
        smooth = low_passed(data, to_pixels(lowpass, self._pixel_size(number)))
        step = max(1, min(data.shape) // 1000)
        low, high = np.percentile(smooth[::step, ::step], (1, 99))
        stretched = (smooth - low) * (255 / max(float(high - low), 1e-30))
        pyramid = [np.clip(stretched, 0, 255).astype(np.uint8)]
        while max(pyramid[-1].shape) > TILE and len(pyramid) < _MOST_LEVELS:
            ny, nx = pyramid[-1].shape
            size = max(1, -(-nx // 2)), max(1, -(-ny // 2))
            pyramid.append(np.asarray(cv2.resize(pyramid[-1], size, interpolation=cv2.INTER_AREA), np.uint8))
        return pyramid


def low_passed(data: NDArray[np.float32], resolution: float) -> NDArray[np.float32]:
    """A micrograph (ny, nx) after a Gaussian low-pass that halves the amplitude at ``resolution`` pixels; 0 is none."""
    sigma = min(_SIGMA * resolution, max(data.shape) / 4)
    if sigma < 0.2:
        return data
    factor = max(1.0, sigma / _WIDE_SIGMA)
    ny, nx = data.shape
    size = max(1, round(nx / factor)), max(1, round(ny / factor))
    small = data if factor == 1 else cv2.resize(data, size, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / factor, borderType=cv2.BORDER_REFLECT)
    return np.asarray(small if factor == 1 else cv2.resize(small, (nx, ny), interpolation=cv2.INTER_LINEAR), np.float32)


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    ok, encoded = cv2.imencode(".jpg", np.ascontiguousarray(image), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not ok:
        raise CryoSegNetError("the picture cannot be encoded.")
    return encoded.tobytes()
