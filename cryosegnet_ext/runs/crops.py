"""Small pictures of picks, cut out of their micrograph, to be judged by eye.

A run keeps some for each micrograph in its candidates file, so that the report needs no micrographs.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..files.picks import Picks

Image = NDArray[np.float32]

#: Side of a crop, pixels, and how many stand in a row of a sheet.
SIDE, COLUMNS = 64, 8
#: Most crops that a run keeps of a micrograph.
MOST_KEPT = 64
#: Side of a crop in particle diameters.
WIDTH = 1.5
_SMOOTHING = 0.05
"""Gaussian width in particle diameters."""
_CONTRAST = 3.5
"""Robust standard deviations from the middle grey to black and to white."""
_BINS = 20
_QUALITY = 75
_SMALLEST_BOX = 4


@dataclass(frozen=True)
class Crops:
    """Pictures of some picks of one micrograph, all with the same contrast.

    Attributes
    ----------
    index : (n,) int
        Which picks, by their place in the list, best score first.
    width
        Side of a crop, pixels of the micrograph.
    sheet
        A JPEG file: crops of 64 x 64 pixels, eight in a row, in the order of ``index``. Row 0 of the micrograph is on
        top.
    """

    index: NDArray[np.intp]
    width: float
    sheet: bytes


def choose(score: NDArray[np.float64], most: int = MOST_KEPT) -> NDArray[np.intp]:
    """Choose picks to show: at random, with the same chance within a twentieth of score, and some of each twentieth.

    The choice does not change with ``most``: fewer are the first ones of more.

    Parameters
    ----------
    score : (n,)
        Scores, 0 to 1.
    most
        How many at most.

    Returns
    -------
    (k,) int
        Places in ``score``.
    """
    random = np.random.default_rng(0).random(len(score))
    bins = np.clip(np.nan_to_num(score) * _BINS, 0, _BINS - 1).astype(int)
    turn = np.empty(len(score))
    for b in np.unique(bins):
        inside = np.flatnonzero(bins == b)
        turn[inside[np.argsort(random[inside], kind="stable")]] = np.arange(len(inside))
    return np.lexsort((random, turn))[:most]


def crop_width(picks: Picks) -> float:
    """Side of the crops of a micrograph's picks, pixels of the micrograph: 1.5 times their median diameter."""
    known = picks.diameter_px[np.isfinite(picks.diameter_px)]
    return max(_SMALLEST_BOX, WIDTH * float(np.median(known))) if len(known) else float(SIDE)


def make_crops(data: NDArray[np.floating], picks: Picks, index: NDArray[np.intp]) -> Crops:
    """Cut out picks, smooth them a little, and give all the same contrast.

    Parameters
    ----------
    data : (ny, nx)
        The micrograph.
    picks
        Its picks.
    index : (n,)
        Those to cut out.
    """
    width = crop_width(picks)
    return Crops(index, width, cut_sheet(data, picks.x[index], picks.y[index], width))


def cut_sheet(data: NDArray[np.floating], x: NDArray[np.float64], y: NDArray[np.float64], width: float) -> bytes:
    """The sheet, a JPEG file, of crops around points (n,) of a micrograph (ny, nx); empty without points."""
    if not len(x):
        return b""
    return _sheet(_grey(np.stack([_cut(data, *centre, width) for centre in zip(x, y)])))


def first_crops(crops: Crops, most: int) -> Crops:
    """The first crops only, in whole rows of the sheet."""
    if len(crops.index) <= most:
        return crops
    rows = max(1, most // COLUMNS)
    return Crops(crops.index[: rows * COLUMNS], crops.width, _sheet(pictures_of(crops)[: rows * COLUMNS]))


def pictures_of(crops: Crops) -> NDArray[np.uint8]:
    """(n, 64, 64) the crops of a sheet; none if it cannot be decoded."""
    image = cv2.imdecode(np.frombuffer(crops.sheet, np.uint8), cv2.IMREAD_GRAYSCALE) if crops.sheet else None
    if image is None:
        return np.zeros((0, SIDE, SIDE), np.uint8)
    tiles = image.reshape(-1, SIDE, COLUMNS, SIDE).swapaxes(1, 2).reshape(-1, SIDE, SIDE)
    return np.asarray(tiles[: len(crops.index)], np.uint8)


def _cut(data: NDArray[np.floating], x: float, y: float, width: float) -> Image:
    """(64, 64) the surroundings of a point; what lies outside the micrograph is NaN."""
    side = max(_SMALLEST_BOX, round(width))
    left, top = round(x - (side - 1) / 2), round(y - (side - 1) / 2)
    ny, nx = data.shape
    rows, columns = slice(max(0, top), min(ny, top + side)), slice(max(0, left), min(nx, left + side))
    box = np.full((side, side), np.nan, np.float32)
    if rows.stop > rows.start and columns.stop > columns.start:
        part = data[rows, columns]
        box[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = part
    method = cv2.INTER_AREA if side > SIDE else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(box, (SIDE, SIDE), interpolation=method), np.float32)


def _grey(cut: Image) -> NDArray[np.uint8]:
    """(n, 64, 64) crops smoothed and stretched, all by the same factor, each about its own middle grey."""
    known = np.isfinite(cut)
    middle = np.array([np.median(one[k]) if k.any() else 0.0 for one, k in zip(cut, known)], np.float32)[:, None, None]
    filled = np.where(known, cut - middle, np.float32(0))
    sigma = _SMOOTHING * SIDE / WIDTH
    smooth = np.stack([cv2.GaussianBlur(one, (0, 0), sigma, borderType=cv2.BORDER_REFLECT) for one in filled])
    spread = 1.4826 * float(np.median(np.abs(smooth[known]))) if known.any() else 0.0
    stretched = 127.5 + smooth * (127.5 / max(_CONTRAST * spread, 1e-30))
    return np.clip(stretched, 0, 255).astype(np.uint8)


def _sheet(grey: NDArray[np.uint8]) -> bytes:
    rows = -(-len(grey) // COLUMNS)
    tiles = np.full((rows * COLUMNS, SIDE, SIDE), 128, np.uint8)
    tiles[: len(grey)] = grey
    return _jpeg(tiles.reshape(rows, COLUMNS, SIDE, SIDE).swapaxes(1, 2).reshape(rows * SIDE, COLUMNS * SIDE))


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    ok, encoded = cv2.imencode(".jpg", np.ascontiguousarray(image), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return encoded.tobytes() if ok else b""
