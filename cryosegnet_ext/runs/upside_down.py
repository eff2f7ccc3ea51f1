"""Whether picks lie on particles only when mirrored top to bottom, seen in the micrographs themselves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import CryoSegNetError
from ..files.micrograph import read_micrograph
from ..files.picks import Picks
from ..files.text import Floats

_MICROGRAPHS = 4  # that are read, those with the most picks
_SIDE = 512  # pixels of the longer side at which they are looked at
_SURE = 5.0  # standard errors that count as a signal
_LEAST = 20  # picks that are needed


def fits_upside_down(picked: Sequence[tuple[Path, Picks]]) -> bool:
    """Whether the micrographs differ from their surroundings at the mirrored picks, and not at the picks.

    Particles are darker or brighter than the ice around them. The mean of a smoothed micrograph at the picks is
    compared with its spread; the same is done with y mirrored.

    Parameters
    ----------
    picked
        Files and their picks, each with a shape, in our coordinates (y = row of the file). Files that cannot be read
        are left out.
    """
    most = sorted(picked, key=lambda one: -len(one[1]))[:_MICROGRAPHS]
    if sum(len(picks) for _, picks in most) < _LEAST:
        return False
    as_they_are, mirrored = [], []
    for path, picks in most:
        with suppress(CryoSegNetError):
            image = read_micrograph(path).data
            if image.shape != picks.shape:
                continue
            small, step = _smoothed(image, picks)
            x, y = (picks.x / step).astype(int), (picks.y / step).astype(int)
            x, y = np.clip(x, 0, small.shape[1] - 1), np.clip(y, 0, small.shape[0] - 1)
            as_they_are.append(small[y, x])
            mirrored.append(small[-1 - y, x])
    if not as_they_are:
        return False
    here, there = (abs(_standard_errors(np.concatenate(values))) for values in (as_they_are, mirrored))
    return there > _SURE and there > 2 * here


def _smoothed(image: NDArray[np.float32], picks: Picks) -> tuple[Floats, float]:
    """The micrograph smoothed at about a particle's size, less its surroundings, over its spread; and the reduction."""
    step = max(1.0, max(image.shape) / _SIDE)
    known = picks.diameter_px[picks.diameter_px > 0]
    size = (float(np.median(known)) if len(known) else max(image.shape) / 40) / step
    small = ndimage.zoom(ndimage.uniform_filter(image, int(step)), 1 / step, order=1)
    fine = ndimage.gaussian_filter(small, max(size / 4, 1)) - ndimage.gaussian_filter(small, size)
    spread = 1.4826 * np.median(np.abs(fine - np.median(fine)))
    # A few black or white areas must not decide.
    return np.clip((fine - np.median(fine)) / max(spread, 1e-12), -4, 4), step


def _standard_errors(values: Floats) -> float:
    return float(values.mean() * np.sqrt(len(values)))
