"""STAR files: reading the blocks of any of them, and writing tables for other programs.

Reading is the project's own. A file that a full disk, a crash or an editor damaged must give one sentence and never
other numbers, while `starfile` fills a short row with NaN, shifts the columns of a long one, takes a header followed by
a comment for an unreadable table, and a file that is no STAR for one without blocks; it also makes the number 1 of a
micrograph called 001. A check before it would have to take every line apart, as a reader does.

Tables for other programs are written with `starfile`. Two kinds of files are not: coordinate files, as some pipelines
skip their six lines of header by count (`formats.star`), and the files of a RELION job, which are written as RELION
itself writes them (`relion_external.nodes`).
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
        """A column as it stands in the file."""
        column = self.labels.index(label)
        return [row[column] for row in self.rows]

    def numbers(self, label: str) -> Floats:
        """A column of numbers, NaN where a value is missing."""
        return numbers(self.text(label), self.lines, label, self.path)

    def floats(self, label: str) -> Floats:
        """A column of numbers, NaN where a value is missing or is none."""
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
        raise bad(path, "no STAR file, or a damaged one (it holds null bytes)", "export it again")
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
        By the block's name its columns, by label without ``_``; text is written as it is, a number with six decimals.
    *comments
        Lines at the top, below RELION's version.
    """
    import pandas as pd
    import starfile

    text = starfile.to_string({name: pd.DataFrame(columns) for name, columns in blocks.items()})
    # The first line is starfile's own and holds the time: the same tables would not give the same file.
    return "\n".join(["# version 30001", *(f"# {line}" for line in comments), text.partition("\n")[2]])
