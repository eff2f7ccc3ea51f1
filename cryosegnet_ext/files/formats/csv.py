"""CSV files of ours and others, Topaz's tables, and points that napari saved."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..text import Columns, Floats, bad, text_lines
from .table import PickColumns, TableOfPicks, check_finite, refuse_tomogram, without_names

_OTHER_NAMES = ("micrograph name", "micrograph_path", "micrographs", "mic_name", "filename", "file_name", "image")
_CSV_NAMES = {
    "x": ("x", "x_coord", "x-coordinate", "rlncoordinatex"),
    "y": ("y", "y_coord", "y-coordinate", "rlncoordinatey"),
    "z": ("z", "z_coord", "z-coordinate", "rlncoordinatez"),
    "score": ("score", "rlnautopickfigureofmerit"),
    "diameter_px": ("diameter_px", "diameter"),
    "diameter_A": ("diameter_a",),
    "micrograph": ("micrograph", "micrograph_name", "image_name", "rlnmicrographname", *_OTHER_NAMES),
}
"""Our column names, Topaz's, CryoPPP's and RELION's, and what people call micrographs in tables of their own."""


def read_csv(file: BinaryIO, path: Path, pixel_size: float | None) -> TableOfPicks:
    """A table with a header, separated by commas, semicolons, tabs or spaces.

    With names of micrographs, the header may repeat.
    """
    lines = text_lines(file, path)
    head = []
    for line in lines:
        head.append(line)
        if line.strip() and not line.startswith("#"):
            break
    delimiter = next((d for d in "\t;, " if d in "".join(head[-1:]).strip(" ")), ",")
    stripped = (line.strip(" ") for line in itertools.chain(head, lines))
    reader = csv.reader(stripped, delimiter=delimiter, skipinitialspace=delimiter == " ")
    table = ([field.strip() for field in row] for row in reader if row and not row[0].startswith("#"))
    try:
        header = next(table, [])
        labels = [label.lower() for label in header]
        names_of = _CSV_NAMES | _napari_names(labels, path)
        where = {ours: labels.index(a) for ours, theirs in names_of.items() for a in theirs[::-1] if a in labels}
        if not {"x", "y"} <= where.keys():
            raise bad(path, "the first line does not name columns x and y", "give a table with a header 'x,y,...'")
        if {"width", "height"} <= set(labels):
            what = "it has boxes (width and height), so x and y may be their corners or centres"
            raise bad(path, what, "give a BOX file, or a table of centres with 'x,y,diameter'")
        rows = Columns(len(where))
        for fields in table:
            if len(fields) != len(labels):
                what = f"line {reader.line_num} has {len(fields)} values for {len(labels)} columns"
                remedy = "the file is cut off or damaged: export it again"
                if delimiter == "," and len(fields) > len(labels):
                    remedy = "if its numbers have decimal commas, export it again with decimal points"
                raise bad(path, what, remedy)
            if fields != header:
                rows.add([fields[i] for i in where.values()], reader.line_num)
            elif "micrograph" not in where:
                raise without_names(path)
    except csv.Error as error:
        raise bad(path, f"line {reader.line_num} is not a row of a table ({error})", "export the file again") from error

    def column(name: str) -> Floats | None:
        return rows.numbers(list(where).index(name), labels[where[name]], path) if name in where else None

    x, y, diameter, angstrom, z = (column(name) for name in ("x", "y", "diameter_px", "diameter_A", "z"))
    assert x is not None and y is not None
    if z is not None:
        refuse_tomogram(z, path)
    slices = column("slice")
    if slices is not None and len(np.unique(slices)) > 1:
        raise bad(path, "it has points on several images of a stack", "save the points of each micrograph on their own")
    sizes = None
    if angstrom is not None and np.isfinite(angstrom).any():
        if diameter is not None and np.isfinite(diameter).any():
            # Rounded to ten digits, which gives exactly the pixel size that was written.
            sizes = np.array([float(f"{size:.10g}") for size in angstrom / diameter])
        elif pixel_size is not None:
            diameter = angstrom / pixel_size
        else:
            raise bad(path, "it has diameters in angstrom and no pixel size", "give the pixel size")
    names = rows.text(list(where).index("micrograph")) if "micrograph" in where else None
    return TableOfPicks(x, y, diameter, column("score"), names, sizes)


def _napari_names(labels: Sequence[str], path: Path) -> dict[str, tuple[str, ...]]:
    """The columns of points that napari saved: the axes of the array in their order, so y comes before x."""
    axes = [label for label in labels if label.startswith("axis-")]
    if not axes:
        return {}
    if "shape-type" in labels:
        raise bad(path, "it has corners of shapes that were drawn in napari", "save a layer of points")
    if axes not in (["axis-0", "axis-1"], ["axis-0", "axis-1", "axis-2"]):
        raise bad(path, f"its points have {len(axes)} axes", "save the points of a micrograph")
    names: dict[str, tuple[str, ...]] = {"y": (axes[-2],), "x": (axes[-1],)}
    return names | ({"slice": (axes[0],)} if len(axes) == 3 else {})


def write_csv(picks: PickColumns, path: Path, _: int | None) -> str:
    """Our CSV: all that a pick has, in full precision."""
    check_finite(picks, path)
    angstrom = picks.diameter if picks.pixel_size else np.full(len(picks), np.nan)
    lines = ["x,y,diameter_A,diameter_px,score"]
    for row in zip(picks.x, picks.y, angstrom, picks.diameter_px, picks.score):
        lines.append(",".join(repr(float(value)) if np.isfinite(value) else "" for value in row))
    return "\n".join(lines) + "\n"
