"""RELION's STAR files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .table import Floats, PicksToWrite, TableOfPicks, bad, numbers, text_of, whole_pixels


@dataclass
class Block:
    """One data block of a STAR file: a loop, or single values as a loop of one row."""

    name: str
    labels: list[str]
    rows: list[list[str]]
    lines: list[int]
    path: Path

    def text(self, label: str) -> list[str]:
        """A column as it stands in the file."""
        column = self.labels.index(label)
        return [row[column] for row in self.rows]

    def numbers(self, label: str) -> Floats:
        """A column of numbers, NaN where a value is missing."""
        return numbers(self.text(label), self.lines, label, self.path)


def star_blocks(data: bytes, path: Path) -> list[Block]:
    """The blocks of a STAR file, as text.

    starfile is not used here: it fills a short row with NaN, shifts the columns of a long one, and takes a file that is
    no UTF-8, or a header followed by a comment, for an empty or unreadable table.
    """
    blocks: list[Block] = []
    looping = False
    for number, line in enumerate(text_of(data).splitlines(), 1):
        tokens = _star_tokens(line)
        if not tokens:
            continue
        first = tokens[0]
        if first.startswith("data_") and len(tokens) == 1:
            blocks.append(Block(first[5:], [], [], [], path))
            looping = False
            continue
        if not blocks:
            raise bad(path, f"line {number} stands before any 'data_' line", "this is no STAR file: export it again")
        block = blocks[-1]
        if first == "loop_":
            if block.labels:
                raise bad(path, f"line {number} starts a second table in one block", "give each its own 'data_' line")
            looping = True
        elif first.startswith("_") and not (looping and block.rows):
            if first[1:] in block.labels:
                raise bad(path, f"column {first} is there twice (line {number})", "export the file again")
            block.labels.append(first[1:])
            if not looping:
                if len(tokens) != 2:
                    raise bad(path, f"line {number} should be a label and one value", "export the file again")
                block.rows = [[*(block.rows[0] if block.rows else []), tokens[1]]]
                block.lines = [number]
        elif looping and len(tokens) == len(block.labels):
            block.rows.append(tokens)
            block.lines.append(number)
        else:
            what = f"line {number} has {len(tokens)} values for {len(block.labels)} columns"
            raise bad(path, what, "the file is cut off or damaged: export it again")
    return blocks


def _star_tokens(line: str) -> list[str]:
    if "#" not in line and '"' not in line and "'" not in line:
        return line.split()
    tokens = []
    for quoted, single, bare in re.findall(r"\"([^\"]*)\"(?=\s|$)|'([^']*)'(?=\s|$)|(\S+)", line):
        if bare.startswith("#"):
            break
        tokens.append(quoted or single or bare)
    return tokens


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
    pixel_size = None
    optics = next((b for b in blocks if {"rlnOpticsGroup", "rlnMicrographPixelSize"} <= set(b.labels)), None)
    if optics is not None:
        sizes = dict(zip(optics.text("rlnOpticsGroup"), optics.numbers("rlnMicrographPixelSize")))
        group = block.text("rlnOpticsGroup") if "rlnOpticsGroup" in block.labels else list(sizes)[:1] * len(block.rows)
        pixel_size = np.array([sizes.get(g, np.nan) for g in group], dtype=np.float64)
    return TableOfPicks(
        x=block.numbers("rlnCoordinateX"),
        y=block.numbers("rlnCoordinateY"),
        score=score,
        micrograph=block.text("rlnMicrographName") if "rlnMicrographName" in block.labels else None,
        pixel_size=pixel_size,
    )


def write_star(picks: PicksToWrite, path: Path, _: int | None) -> str:
    """RELION's coordinate file; its header is six lines, which some pipelines skip by count."""
    header = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnAutopickFigureOfMerit #3\n"
    x, y = whole_pixels(picks, path)
    return header + "".join(f"{a:12.6f} {b:12.6f} {s:12.6f}\n" for a, b, s in zip(x, y, picks.score))
