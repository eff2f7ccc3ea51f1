"""The candidates of each micrograph, whatever their score, and small pictures: one file a micrograph, for the report.

Pick files hold only the picks above the threshold. The report's slider goes below it, and another threshold can be
chosen without picking again: both need all candidates. They lie in ``OUT/.cryosegnet/candidates/<stem>.cand``.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..files.atomic import make_folder, write_atomic
from ..files.inputs import CANDIDATES_FOLDER, STATE_FOLDER
from ..files.inside import inside
from ..files.overlay import to_grey
from ..files.picks import Picks
from .crops import MOST_KEPT, Crops, choose, make_crops

SUFFIX = ".cand"
_VERSION = 1
_THUMBNAIL_SIDE = 512
_THUMBNAIL_QUALITY = 80
_MOST_CANDIDATES = 10_000_000


@dataclass(frozen=True)
class SavedCandidates:
    """The content of a candidates file.

    Attributes
    ----------
    candidates
        Best score first; their ``shape`` is the micrograph's.
    thumbnail
        A JPEG file, 512 pixels along its longer side; empty if it was not asked for or could not be made.
    """

    candidates: Picks
    thumbnail: bytes = b""


def encode_candidates(data: NDArray[np.floating], candidates: Picks) -> bytes:
    """The content of a candidates file.

    NumPy arrays in NPY format, one after another: (4,) float64 of version, ny, nx and pixel size (NaN: not known),
    (4, n) float64 of x, y, diameter and score, and (m,) uint8, the bytes of a JPEG file. Then the crops: (1 + k,)
    float64 of their side in pixels of the micrograph and of the columns that they show, and (l,) uint8, their sheet.

    Parameters
    ----------
    data : (ny, nx)
        The micrograph.
    candidates
        All of its candidates.
    """
    best_first = candidates.by_score()
    size = np.nan if candidates.pixel_size is None else candidates.pixel_size
    table = np.stack([best_first.x, best_first.y, best_first.diameter, best_first.score])
    file = io.BytesIO()
    crops = make_crops(data, best_first, choose(best_first.score))
    for array in (
        np.array([_VERSION, *data.shape, size], np.float64),
        table,
        np.frombuffer(make_thumbnail(data, candidates), np.uint8),
        np.array([crops.width, *crops.index], np.float64),
        np.frombuffer(crops.sheet, np.uint8),
    ):
        np.save(file, array, allow_pickle=False)
    return file.getvalue()


def make_thumbnail(data: NDArray[np.floating], picks: Picks, side: int = _THUMBNAIL_SIDE) -> bytes:
    """A JPEG file of a micrograph, at most ``side`` pixels long, smoothed in proportion to the particle diameter."""
    ny, nx = data.shape
    scale = min(1.0, side / max(ny, nx))
    size = max(1, round(nx * scale)), max(1, round(ny * scale))
    ok, encoded = cv2.imencode(
        ".jpg",
        to_grey(np.asarray(data, np.float32), size, scale, picks),
        [cv2.IMWRITE_JPEG_QUALITY, _THUMBNAIL_QUALITY],
    )
    return encoded.tobytes() if ok else b""


def candidates_path(output: Path, stem: str) -> Path:
    """The file of a micrograph's candidates; raises CryoSegNetError if the stem leads out of their folder."""
    return inside(output / STATE_FOLDER, f"{CANDIDATES_FOLDER}/{stem}{SUFFIX}")


def candidates_name(stem: str) -> str:
    """The same file below the output folder."""
    return f"{STATE_FOLDER}/{CANDIDATES_FOLDER}/{stem}{SUFFIX}"


def write_candidates(output: Path, stem: str, content: bytes) -> None:
    """Write what `encode_candidates` returned; raises CryoSegNetError if it cannot be written."""
    path = candidates_path(output, stem)
    make_folder(path.parent)
    write_atomic(path, content)


def read_candidates(output: Path, stem: str, thumbnail: bool = False) -> SavedCandidates | None:
    """Read a micrograph's candidates; None if there is no file or it is not one of ours."""
    try:
        with open(candidates_path(output, stem), "rb") as file:
            version, ny, nx, size = (float(value) for value in _array(file, (4,)))
            if version != _VERSION:
                return None
            x, y, diameter, score = _array(file, (4, None))
            picture = np.load(file, allow_pickle=False).tobytes() if thumbnail else b""
    except (OSError, ValueError, EOFError):
        return None
    shape = int(ny), int(nx)
    return SavedCandidates(Picks(x, y, diameter, score, None if np.isnan(size) else size, shape), picture)


def read_crops(output: Path, stem: str) -> Crops | None:
    """Read the crops of a micrograph's candidates; None if there are none, as in the folders of earlier versions."""
    try:
        with open(candidates_path(output, stem), "rb") as file:
            _array(file, (4,))
            count = _array(file, (4, None)).shape[1]
            np.load(file, allow_pickle=False)
            width, *index = _array(file, (None,)).tolist()
            sheet = np.load(file, allow_pickle=False).tobytes()
    except (OSError, ValueError, EOFError):
        return None
    places = np.array(index).astype(np.intp)
    if not (width > 0 and 0 < len(places) <= MOST_KEPT and places.min() >= 0 and places.max() < count):
        return None
    return Crops(places, width, sheet)


def _array(file: IO[bytes], shape: tuple[int | None, ...]) -> NDArray[Any]:
    """Read the next array of a file; ValueError if it is not float64 of this shape."""
    found = np.load(file, allow_pickle=False)
    right = found.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, found.shape))
    if not right or found.dtype != np.float64 or found.size > 4 * _MOST_CANDIDATES:
        raise ValueError("not a candidates file")
    return np.asarray(found)
