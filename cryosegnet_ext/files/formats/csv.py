"""CSV files of ours and others, and Topaz's tables."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from ..text import Floats, bad, numbers, text_of
from .table import PickColumns, TableOfPicks, check_finite

_CSV_NAMES = {
    "x": ("x", "x_coord", "x-coordinate", "rlncoordinatex"),
    "y": ("y", "y_coord", "y-coordinate", "rlncoordinatey"),
    "score": ("score", "rlnautopickfigureofmerit"),
    "diameter_px": ("diameter_px", "diameter"),
    "diameter_A": ("diameter_a",),
    "micrograph": ("micrograph", "micrograph_name", "image_name", "rlnmicrographname"),
}
"""Our column names, Topaz's, CryoPPP's and RELION's."""


def read_csv(data: bytes, path: Path, pixel_size: float | None) -> TableOfPicks:
    """A table with a header, separated by commas, semicolons or tabs."""
    text = text_of(data)
    header = text.split("\n", 1)[0]
    delimiter = next((d for d in "\t;" if d in header), ",")
    rows, lines = [], []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for row in reader:
            if row and not row[0].startswith("#"):
                rows.append([field.strip() for field in row])
                lines.append(reader.line_num)
    except csv.Error as error:
        raise bad(path, f"line {reader.line_num} is not a row of a table ({error})", "export the file again") from error
    labels = [label.lower() for label in rows[0]] if rows else []
    where = {ours: next((labels.index(a) for a in theirs if a in labels), None) for ours, theirs in _CSV_NAMES.items()}
    if where["x"] is None or where["y"] is None:
        raise bad(path, "the first line does not name columns x and y", "give a table with a header 'x,y,...'")
    for row, line in zip(rows, lines):
        if len(row) != len(labels):
            what = f"line {line} has {len(row)} values for {len(labels)} columns"
            raise bad(path, what, "the file is cut off or damaged: export it again")

    def column(name: str) -> Floats | None:
        i = where[name]
        return None if i is None else numbers([row[i] for row in rows[1:]], lines[1:], labels[i], path)

    x, y, diameter, angstrom = column("x"), column("y"), column("diameter_px"), column("diameter_A")
    assert x is not None and y is not None
    sizes = None
    if angstrom is not None and np.isfinite(angstrom).any():
        if diameter is not None and np.isfinite(diameter).any():
            # Rounded to ten digits, which gives exactly the pixel size that was written.
            sizes = np.array([float(f"{size:.10g}") for size in angstrom / diameter])
        elif pixel_size is not None:
            diameter = angstrom / pixel_size
        else:
            raise bad(path, "it has diameters in angstrom and no pixel size", "give the pixel size")
    i = where["micrograph"]
    names = None if i is None else [row[i] for row in rows[1:]]
    return TableOfPicks(x, y, diameter, column("score"), names, sizes)


def write_csv(picks: PickColumns, path: Path, _: int | None) -> str:
    """Our CSV: all that a pick has, in full precision."""
    check_finite(picks, path)
    angstrom = picks.diameter if picks.pixel_size else np.full(len(picks), np.nan)
    lines = ["x,y,diameter_A,diameter_px,score"]
    for row in zip(picks.x, picks.y, angstrom, picks.diameter_px, picks.score):
        lines.append(",".join(repr(float(value)) if np.isfinite(value) else "" for value in row))
    return "\n".join(lines) + "\n"
