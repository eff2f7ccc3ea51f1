"""STAR files: reading the blocks of any of them, and writing tables for other programs.

The project has its own reader. A file that was damaged by a full disk, a crash or an editor must give one error and
never wrong numbers. `starfile` fills a short row with NaN, shifts the columns of a long row, cannot read a header that
has a comment after it, returns no blocks for a file that is not a STAR file, and turns a micrograph called 001 into the
number 1. A check before it would have to split every line into values, which is what a reader does.

`starfile` writes the tables for other programs. Two kinds of files are written by hand: coordinate files, because some
pipelines skip exactly six header lines (`formats.star`), and the files of a RELION job, which look as RELION writes
them (`relion_external.nodes`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .text import Floats, bad, numbers, read_bytes, text_of


@dataclass
class Block:
    """One data block of a STAR file: a loop, or single values as a loop of one row."""

    name: str
    labels: list[str]
    rows: list[list[str]]
    lines: list[int]
    path: Path

    def text(self, label: str) -> list[str]:
        """A column as text, as it is in the file."""
        column = self.labels.index(label)
        return [row[column] for row in self.rows]

    def numbers(self, label: str) -> Floats:
        """A column of numbers, NaN where a value is missing."""
        return numbers(self.text(label), self.lines, label, self.path)

    def floats(self, label: str) -> Floats:
        """A column of numbers, NaN where a value is missing or not a number."""
        return np.array([_number(text) for text in self.text(label)], dtype=np.float64)


def read_star_blocks(path: str | Path) -> list[Block]:
    """The blocks of a STAR file.

    Raises
    ------
    CryoSegNetError
        The file cannot be read, or is damaged.
    """
    return star_blocks(read_bytes(path), Path(path))


def star_blocks(data: bytes, path: Path) -> list[Block]:
    """The blocks of a STAR file's content; else as `read_star_blocks`."""
    if b"\0" in data:
        raise bad(path, "not a STAR file, or a damaged one (it contains null bytes)", "export it again")
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
            raise bad(
                path, f"line {number} comes before the first 'data_' line", "this is not a STAR file: export it again"
            )
        block = blocks[-1]
        if first == "loop_":
            if block.labels:
                raise bad(path, f"line {number} starts a second table in one block", "give each its own 'data_' line")
            looping = True
        elif first.startswith("_") and not (looping and block.rows):
            if first[1:] in block.labels:
                raise bad(path, f"column {first} appears twice (line {number})", "export the file again")
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


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def star_text(blocks: Mapping[str, Mapping[str, Sequence[object]]], *comments: str) -> str:
    """The text of a STAR file of tables.

    Parameters
    ----------
    blocks
        Block name -> column label (without ``_``) -> values. Text is written as it is, numbers with six decimals.
    *comments
        Lines at the top, after RELION's version.
    """
    import pandas as pd
    import starfile

    text = starfile.to_string({name: pd.DataFrame(columns) for name, columns in blocks.items()})
    # starfile's first line contains the time, so that the same tables would not give the same file.
    return "\n".join(["# version 30001", *(f"# {line}" for line in comments), text.partition("\n")[2]])
