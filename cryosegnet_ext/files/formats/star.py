"""Coordinates in STAR files: RELION's and those that look like them, and cisTEM's."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..relion import optics_pixel_sizes, with_optics
from ..star import Block, star_blocks
from ..text import bad
from .cistem import NEEDED as CISTEM
from .cistem import cistem_table
from .table import PickColumns, TableOfPicks, joined, refuse_tomogram, whole_pixels

_NEEDED = (
    "rlnCoordinateX",
    "rlnCoordinateY",
    "rlnCoordinateZ",
    "rlnTomoName",
    "rlnAutopickFigureOfMerit",
    "rlnMicrographName",
    "rlnOpticsGroup",
    "rlnMicrographPixelSize",
    *CISTEM,
)

#: RELION 5 writes them for tomograms only: angstrom from the tomogram's centre.
_CENTRED = "rlnCenteredCoordinateXAngst"

#: Tables of MotionCorr about the frames, in pixels of the camera.
MOTION_TABLES = ("hot_pixels", "local_shift")


def read_star(file: BinaryIO, path: Path, pixel_size: float | None) -> TableOfPicks:
    """All blocks with coordinates of particles; there are several where files were joined."""
    blocks = star_blocks(file, path, _NEEDED)
    found = [b for b in blocks if {"rlnCoordinateX", "rlnCoordinateY"} <= b.labels.keys()]
    tables = [b for b in found if b.name not in MOTION_TABLES]
    if any(_CENTRED in b.labels for b in blocks):
        what = f"it contains picks of a tomogram, in angstrom from its centre (_{_CENTRED})"
        raise bad(path, what, "give picks of micrographs")
    cistem = [b for b in blocks if set(CISTEM[:2]) <= b.labels.keys()]
    if cistem and not tables:
        return joined([cistem_table(block, pixel_size) for block in cistem], path)
    if not tables:
        remedy = "give a STAR with particle coordinates"
        if any("rlnMicrographCoordinates" in b.labels for b in blocks):
            remedy = "it lists coordinate files: give those"
        if found:
            raise bad(path, f"its coordinates (data_{found[0].name}) are not of particles but of the motion", remedy)
        raise bad(path, "no block has the columns _rlnCoordinateX and _rlnCoordinateY", remedy)
    return joined([_table(block, optics) for block, optics in with_optics(tables, blocks)], path)


def _table(block: Block, optics: Block | None) -> TableOfPicks:
    if "rlnCoordinateZ" in block.labels:
        refuse_tomogram(block.numbers("rlnCoordinateZ"), block.path)
    if "rlnTomoName" in block.labels:
        refuse_tomogram(np.ones(1), block.path)
    score = None
    if "rlnAutopickFigureOfMerit" in block.labels:
        score = block.numbers("rlnAutopickFigureOfMerit")
        score[score == -999] = np.nan  # RELION's value for a pick made by hand
    sizes, unknown = optics_pixel_sizes(block, optics)
    for row, sentence in unknown.items():
        raise bad(block.path, f"the pick in line {block.line(row)} has {sentence.partition('; ')[0]}", "correct it")
    return TableOfPicks(
        x=block.numbers("rlnCoordinateX"),
        y=block.numbers("rlnCoordinateY"),
        score=score,
        micrograph=block.text("rlnMicrographName") if "rlnMicrographName" in block.labels else None,
        pixel_size=sizes,
    )


def write_star(picks: PickColumns, path: Path, _: int | None) -> str:
    """RELION's coordinate file; its header is six lines, which some pipelines skip by count."""
    header = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnAutopickFigureOfMerit #3\n"
    x, y = whole_pixels(picks, path)
    return header + "".join(f"{a:12.6f} {b:12.6f} {s:12.6f}\n" for a, b, s in zip(x, y, picks.score))
