"""EMAN2's JSON files: ``info/NAME_info.json`` with the boxes of a micrograph.

Source: EMAN2's wiki (Eman2InfoMetadata): each box is ``[x, y, "kind"]``, its centre in pixels, y counted from row 0 of
the file. Boxes of tomograms have a z after the kind, or stand in ``boxes_3d``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..json_text import parse_json
from ..text import bad, text_of
from .table import TableOfPicks, refuse_tomogram


def read_eman_json(file: BinaryIO, path: Path, _: float | None) -> TableOfPicks:
    """The boxes of one micrograph: the entry ``boxes``, or a file that is nothing but such a list."""
    try:
        content = parse_json(text_of(file.read()))
    except ValueError as error:
        raise bad(path, "it is damaged, or not a JSON file", "write it again with EMAN2") from error
    if isinstance(content, dict) and content.get("boxes_3d"):
        refuse_tomogram(np.ones(1), path)
    boxes = content.get("boxes") if isinstance(content, dict) else content
    if not isinstance(boxes, list):
        raise bad(path, "it has no boxes of EMAN2", "give an info/*_info.json of a micrograph with boxes")
    for number, box in enumerate(boxes, 1):
        _check(box, number, path)
    x, y = (np.array([box[i] for box in boxes], dtype=np.float64) for i in (0, 1))
    return TableOfPicks(x, y, micrograph=[path.stem.removesuffix("_info")] * len(boxes))


def _check(box: Any, number: int, path: Path) -> None:
    if not (isinstance(box, list) and len(box) >= 2 and all(map(_is_number, box[:2]))):
        raise bad(path, f"box {number} does not begin with x and y", "write it again with EMAN2")
    if len(box) > 2 and not isinstance(box[2], str):
        what = f"box {number} has a number after x and y, so its meaning is not known"
        raise bad(path, what, 'give boxes as EMAN2 writes them, [x, y, "manual"]')
    if len(box) > 3:
        refuse_tomogram(np.ones(1), path)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
