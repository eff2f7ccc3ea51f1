"""Pack the crops of picks for the page's gallery of particles."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np

from ..runs.candidates import read_crops
from ..runs.crops import COLUMNS, SIDE, WIDTH, Crops, first_crops, pictures_of
from ..runs.journal import Record
from .collect import RunData

#: Bytes of the page for crops, and most micrographs that they come from.
CROP_BYTES, MOST_SAMPLED = 5_000_000, 200
#: Least mean difference between particle and surroundings that is told, in standard errors.
_CLEAR = 4.0


def pack_crops(
    run: RunData, shown: Sequence[Record], counts: Sequence[int], pool: Executor, even: Sequence[Record]
) -> dict[str, Any]:
    """The crops of the page, JSON-able.

    Parameters
    ----------
    run
        The run.
    shown
        The micrographs of the page.
    counts
        Candidates of each that the page holds, best score first.
    pool
        Reads files and encodes pictures.
    even
        Micrographs spread evenly over the run, among those shown: crops come from these, so that they are a fair
        sample of the run.
    """
    places = {record.stem: i for i, record in enumerate(shown)}
    step = np.linspace(0, len(even) - 1, min(len(even), MOST_SAMPLED)).round().astype(int)
    sampled = [even[k] for k in dict.fromkeys(step.tolist())]
    found = [(r, c) for r, c in zip(sampled, pool.map(lambda r: read_crops(run.output, r.stem), sampled)) if c]
    total = sum(len(crops.sheet) for _, crops in found) * 4 / 3
    share = min(1.0, 0.95 * CROP_BYTES / max(total, 1))
    small = list(pool.map(lambda one: first_crops(one[1], int(len(one[1].index) * share)), found))
    return {
        "side": SIDE,
        "columns": COLUMNS,
        "width": WIDTH,
        "dark": _are_dark([(crops, crops.index < record.picks) for (record, crops) in found]),
        "sheets": [
            {
                "micrograph": places[record.stem],
                "width": round(crops.width, 2),
                # A crop of a candidate that the page leaves out is not shown.
                "index": [int(k) if k < counts[places[record.stem]] else -1 for k in crops.index],
                "jpeg": base64.b64encode(crops.sheet).decode(),
            }
            for (record, _), crops in zip(found, small)
        ],
    }


def _are_dark(sheets: Sequence[tuple[Crops, np.ndarray[Any, np.dtype[np.bool_]]]]) -> bool | None:
    """Whether the picks, those of each sheet's mask, are darker than what is around them; None if that is not clear."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    radius = np.hypot(x, y) * WIDTH / (SIDE / 2)  # 1: the particle's edge
    inner, outer = radius < 0.8, (radius > 1.1) & (radius < 1.45)
    found = [np.zeros(0)]
    for crops, picked in sheets[:: max(1, len(sheets) // 50)]:
        pictures = pictures_of(crops)
        if len(pictures) == len(picked):
            kept = pictures[picked].astype(np.float64)
            found.append(kept[:, inner].mean(1) - kept[:, outer].mean(1))
    values = np.concatenate(found)
    if len(values) < 10 or abs(values.mean()) < _CLEAR * values.std() / np.sqrt(len(values)):
        return None
    return bool(values.mean() < 0)
