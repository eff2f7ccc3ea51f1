"""Formats that store the corner of a box: EMAN's BOX and crYOLO's CBOX."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...errors import CryoSegNetError, option
from ..diameter import to_pixels
from ..star import Block, star_blocks
from ..text import Columns, Floats, bad, text_lines, text_of
from .table import PickColumns, TableOfPicks, check_finite, joined, refuse_tomogram, whole_pixels

_OLD_CBOX = re.compile(r"\s*[-+\d.]\S*([ \t,]+\S+){3}")
_CBOX_HEADER = """\
data_global

_cbox_format_version 1.0

data_cryolo

loop_
_CoordinateX #1
_CoordinateY #2
_CoordinateZ #3
_Width #4
_Height #5
_Depth #6
_EstWidth #7
_EstHeight #8
_Confidence #9
_NumBoxes #10
_Angle #11
"""
_CBOX_FOOTER = """
data_cryolo_include

loop_
_slice_index #1
"""


#: EMAN's flags, in the fifth column, of boxes at the two ends of a helix.
_HELIX_ENDS = ("-1", "-2")


def read_box(file: BinaryIO, path: Path, _: float | None) -> TableOfPicks:
    """EMAN's box file: corner with the smallest x and y, width, height, and perhaps a flag."""
    rows = Columns(4)
    for number, line in enumerate(text_lines(file, path), 1):
        tokens = line.split("#")[0].split()
        if not tokens:
            continue
        if len(tokens) not in (4, 5):
            what = f"line {number} has {len(tokens)} values instead of x, y, width, height"
            raise bad(path, what, "the file is cut off, or not a BOX file: export it again")
        if tokens[4:] and tokens[4] in _HELIX_ENDS:
            what = f"line {number} is the end of a helix (flag {tokens[4]})"
            raise bad(path, what, "give boxes of particles: export the segments along the helices")
        rows.add(tokens, number)
    names = ("x", "y", "width", "height")
    x, y, width, height = (rows.numbers(i, name, path) for i, name in enumerate(names))
    return _boxes(x, y, width, height, path)


def _boxes(
    x: Floats, y: Floats, width: Floats, height: Floats, path: Path, score: Floats | None = None
) -> TableOfPicks:
    # Programs that know no size write 0 for both, and the centre as the corner.
    possible = (width > 0) & (height > 0) | (width == 0) & (height == 0)
    if not np.all(possible):
        row = int(np.argmin(possible)) + 1
        raise bad(path, f"the box of pick {row} has an impossible size", "the file is damaged: export it again")
    return TableOfPicks(x=x + width / 2, y=y + height / 2, diameter=(width + height) / 2, score=score)


def write_box(picks: PickColumns, path: Path, box_size: int | None) -> str:
    """EMAN's box file with boxes of one size around whole pixels."""
    x, y = whole_pixels(picks, path)
    side = one_box(picks, path, box_size)
    return "".join(f"{int(a) - side // 2}\t{int(b) - side // 2}\t{side}\t{side}\n" for a, b in zip(x, y))


def read_cbox(file: BinaryIO, path: Path, _: float | None) -> TableOfPicks:
    """CrYOLO's CBOX: corners; diameters are crYOLO's estimated sizes, else the box sizes."""
    if file.seekable():
        head = text_of(file.read(1 << 10))
        file.seek(0)
        if _OLD_CBOX.match(head):
            what = "its columns have no names, as in CBOX files of crYOLO before 1.8"
            raise bad(path, what, "give the STAR or BOX files of that run, or predict with crYOLO 1.8 or later")
    blocks = [b for b in star_blocks(file, path) if b.name == "cryolo"]
    needed = ["CoordinateX", "CoordinateY", "Width", "Height"]
    absent = [label for label in needed if any(label not in b.labels for b in blocks)] if blocks else needed
    if absent:
        what = f"the block data_cryolo lacks {', '.join('_' + label for label in absent)}"
        raise bad(path, what, "give a CBOX file of crYOLO 1.8 or later")
    return joined([_cryolo_table(block, path) for block in blocks], path)


def _cryolo_table(block: Block, path: Path) -> TableOfPicks:
    if "CoordinateZ" in block.labels:
        refuse_tomogram(block.numbers("CoordinateZ"), path)
    score = block.numbers("Confidence") if "Confidence" in block.labels else None
    x, y, width, height = (block.numbers(label) for label in ("CoordinateX", "CoordinateY", "Width", "Height"))
    table = _boxes(x, y, width, height, path, score)
    if not {"EstWidth", "EstHeight"} <= block.labels.keys() or table.diameter is None:
        return table
    estimate = (block.numbers("EstWidth") + block.numbers("EstHeight")) / 2
    return TableOfPicks(table.x, table.y, np.where(estimate > 0, estimate, table.diameter), score)


def write_cbox(picks: PickColumns, path: Path, box_size: int | None) -> str:
    """CrYOLO's CBOX, with <NA> for values that we do not have: z, the number of merged boxes, the angle."""
    check_finite(picks, path)
    lines = []
    box = one_box(picks, path, box_size)
    for x, y, diameter, score in zip(picks.x, picks.y, picks.diameter_px, picks.score):
        size = f"{diameter:.6f}" if np.isfinite(diameter) else "<NA>"
        corner = f"{x - box / 2:.6f} {y - box / 2:.6f}"
        lines.append(f"{corner} <NA> {box:.1f} {box:.1f} 1.0 {size} {size} {score:.6f} <NA> <NA>\n")
    return _CBOX_HEADER + "".join(lines) + _CBOX_FOOTER


def one_box(picks: PickColumns, path: Path, box_size: int | None) -> int:
    """Side of all boxes of a file in pixels; even, so that a box around a whole pixel has a whole corner.

    It is ``box_size``, else the diameter of the dataset's particles (``picks.sought``), else the median of the picks'
    own.
    """
    if box_size is not None:
        if box_size < 2 or box_size % 2:
            raise CryoSegNetError(f"the box size must be an even number of pixels, at least 2 (got {box_size}).")
        return int(box_size)
    if picks.sought is not None:
        diameter = to_pixels(picks.sought, picks.pixel_size)
    elif len(picks) == 0:
        return 0  # no box is written
    else:
        known = picks.diameter_px[picks.diameter_px > 0]
        if len(known) == 0:
            raise bad(
                path, "the picks have no diameter, and boxes need one", f"give a box size with {option('box_size')}"
            )
        diameter = float(np.median(known))
    return max(2, 2 * int(np.floor(diameter / 2 + 0.5)))
