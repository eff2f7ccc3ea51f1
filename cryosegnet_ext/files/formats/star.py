"""RELION's coordinate files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..relion import optics_pixel_sizes
from ..star import star_blocks
from ..text import bad
from .table import PickColumns, TableOfPicks, whole_pixels


def read_star(data: bytes, path: Path, _: float | None) -> TableOfPicks:
    """The first block with coordinates."""
    blocks = star_blocks(data, path)
    block = next((b for b in blocks if {"rlnCoordinateX", "rlnCoordinateY"} <= set(b.labels)), None)
    if block is None:
        remedy = "give a STAR with particle coordinates"
        if any("rlnMicrographCoordinates" in b.labels for b in blocks):
            remedy = "it lists coordinate files: give those"
        raise bad(path, "no block has the columns _rlnCoordinateX and _rlnCoordinateY", remedy)
    score = None
    if "rlnAutopickFigureOfMerit" in block.labels:
        score = block.numbers("rlnAutopickFigureOfMerit")
        score[score == -999] = np.nan  # RELION's value for a pick made by hand
    optics = next((b for b in blocks if {"rlnOpticsGroup", "rlnMicrographPixelSize"} <= set(b.labels)), None)
    return TableOfPicks(
        x=block.numbers("rlnCoordinateX"),
        y=block.numbers("rlnCoordinateY"),
        score=score,
        micrograph=block.text("rlnMicrographName") if "rlnMicrographName" in block.labels else None,
        pixel_size=optics_pixel_sizes(block, optics),
    )


def write_star(picks: PickColumns, path: Path, _: int | None) -> str:
    """RELION's coordinate file; its header is six lines, which some pipelines skip by count."""
    header = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnAutopickFigureOfMerit #3\n"
    x, y = whole_pixels(picks, path)
    return header + "".join(f"{a:12.6f} {b:12.6f} {s:12.6f}\n" for a, b, s in zip(x, y, picks.score))
