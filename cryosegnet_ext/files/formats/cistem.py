"""cisTEM's coordinates: ``.plt`` files of its export, and the columns of its STAR files.

Sources: cisTEM's ``MyParticlePositionExportDialog.cpp`` for ``.plt``, whose x and y change places and whose y counts
from the last row; ``cistem_parameters.cpp`` for the STAR files, whose positions are angstrom.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..star import Block
from ..text import Columns, bad, text_lines
from .table import TableOfPicks

NEEDED = ("cisTEMOriginalXPosition", "cisTEMOriginalYPosition", "cisTEMPixelSize", "cisTEMOriginalImageFilename")


def read_plt(file: BinaryIO, path: Path, _: float | None) -> TableOfPicks:
    """Rows of ny - y + 1, x + 1 and 1."""
    rows = Columns(2)
    for number, line in enumerate(text_lines(file, path), 1):
        tokens = line.split("#")[0].split()
        if not tokens or tokens[0] == "C":  # a comment of Frealign and cisTEM
            continue
        if len(tokens) not in (2, 3):
            raise bad(path, f"line {number} has {len(tokens)} values instead of 3", "export it from cisTEM again")
        rows.add(tokens[:2], number)
    return TableOfPicks(rows.numbers(1, "x", path) - 1, rows.numbers(0, "y", path) - 2, from_last_row=True)


def cistem_table(block: Block, pixel_size: float | None) -> TableOfPicks:
    """The picks of a STAR file of particles; a given pixel size goes before the particles', which may be binned."""
    sizes = np.full(len(block), np.nan if pixel_size is None else pixel_size)
    if pixel_size is None and "cisTEMPixelSize" in block.labels:
        sizes = block.numbers("cisTEMPixelSize")
    if not np.all(sizes > 0):
        raise bad(block.path, "its positions are angstrom, and it has no pixel size", "give the micrographs'")
    name = "cisTEMOriginalImageFilename"
    return TableOfPicks(
        x=block.numbers("cisTEMOriginalXPosition") / sizes,
        y=block.numbers("cisTEMOriginalYPosition") / sizes,
        micrograph=block.text(name) if name in block.labels else None,
        pixel_size=sizes,
    )
