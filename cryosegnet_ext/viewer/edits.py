"""Edited picks as the page sends and gets them: rows of x, y (pixels), diameter and score."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ..errors import CryoSegNetError
from ..files.picks import Picks
from ..runs.edited_picks import read_edited

_MOST_PICKS = 100_000
#: Greatest diameter and score; scores of other programs are not 0 to 1.
_LARGEST = 1e6


def picks_of(rows: object, shape: tuple[int, int], pixel_size: float | None) -> Picks:
    """The picks of rows that the page sent.

    Parameters
    ----------
    rows
        Lists of x, y (pixels), diameter (None: not known) and score.
    shape : (ny, nx)
        Of the micrograph; (0, 0) if it is not known.
    pixel_size
        Angstrom per pixel, or None.

    Raises
    ------
    CryoSegNetError
        The rows are not picks of this micrograph.
    """
    if not isinstance(rows, list) or len(rows) > _MOST_PICKS:
        raise CryoSegNetError("this is not a list of picks.")
    ny, nx = shape if min(shape) else (_LARGEST, _LARGEST)
    for row in rows:
        if not isinstance(row, list) or len(row) != 4:
            raise CryoSegNetError("a pick must be x, y, diameter and score.")
        x, y, diameter, score = row
        numbers = (x, y, score, 0.0 if diameter is None else diameter)
        # Not math.isfinite, which fails on an integer of 400 digits.
        if not all(type(value) in (int, float) and abs(value) <= _LARGEST for value in numbers):
            raise CryoSegNetError(f"a pick must consist of numbers, at most {_LARGEST:.0f}.")
        if diameter is not None and diameter < 0:
            raise CryoSegNetError("a pick has a diameter below 0.")
        if not (0 <= x <= nx - 1 and 0 <= y <= ny - 1):
            raise CryoSegNetError("a pick lies outside the micrograph.")
    values = [[math.nan if value is None else value for value in row] for row in rows]
    x, y, size, score = np.array(values, float).reshape(-1, 4).T
    return Picks(x, y, size, score, pixel_size, shape if min(shape) else None)


def read_rows(path: Path, shape: tuple[int, int], pixel_size: float | None, diameter: float) -> list[list[float]]:
    """The rows of a file of edited picks.

    Parameters
    ----------
    path
        The file.
    shape, pixel_size
        As for `picks_of`.
    diameter
        Where the file has none, angstrom (pixels without a pixel size).

    Raises
    ------
    CryoSegNetError
        The file is damaged, or does not hold picks of this micrograph.
    """
    picks = read_edited(path, shape if min(shape) else None, pixel_size)
    size = np.where(np.isfinite(picks.diameter), picks.diameter, diameter)
    rows: list[list[float]] = np.stack([picks.x, picks.y, size, picks.score], axis=1).tolist()
    try:
        picks_of(rows, shape, pixel_size)
    except CryoSegNetError as error:
        raise CryoSegNetError(f"{path}: {error}") from error
    return rows
