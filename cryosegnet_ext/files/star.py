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

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .text import Columns, Floats, bad, opened, text_lines


class Block:
    """One data block of a STAR file: a loop, or single values as a loop of one row.

    Attributes
    ----------
    name
        What follows ``data_``.
    labels
        The labels of its columns, without ``_``, and the place of each in a row.
    path
        The file, for errors.
    """

    def __init__(self, name: str, path: Path, keep: Collection[str] | None = None) -> None:
        self.name = name
        self.labels: dict[str, int] = {}
        self.path = path
        self._keep = keep
        self._kept: dict[str, int] = {}
        self._columns = Columns(0)

    def __len__(self) -> int:
        """How many rows it has."""
        return len(self._columns)

    def add(self, values: Sequence[str], line: int) -> None:
        """Add a row: a value for each label, and its line in the file."""
        if not len(self):
            self._kept = {n: i for n, i in self.labels.items() if self._keep is None or n in self._keep}
            self._columns = Columns(len(self._kept))
        self._columns.add([values[i] for i in self._kept.values()], line)

    def text(self, label: str) -> list[str]:
        """A column as text, as it is in the file."""
        return self._columns.text(self._column(label)) if len(self) else []

    def numbers(self, label: str) -> Floats:
        """A column of numbers, NaN where a value is missing."""
        return self._columns.numbers(self._column(label), label, self.path) if len(self) else np.zeros(0)

    def floats(self, label: str) -> Floats:
        """A column of numbers, NaN where a value is missing or not a number."""
        return self._columns.floats(self._column(label)) if len(self) else np.zeros(0)

    def line(self, row: int) -> int:
        """The line of a row in the file."""
        return self._columns.lines[row]

    def _column(self, label: str) -> int:
        return list(self._kept).index(label)


def read_star_blocks(path: str | Path, keep: Collection[str] | None = None) -> list[Block]:
    """The blocks of a STAR file.

    Parameters
    ----------
    path
        The file.
    keep
        Labels of the columns that are needed; the others are checked and not held in memory. By default all.

    Raises
    ------
    CryoSegNetError
        The file cannot be read, or is damaged.
    """
    with opened(path) as file:
        return star_blocks(file, Path(path), keep)


def star_blocks(file: BinaryIO, path: Path, keep: Collection[str] | None = None) -> list[Block]:
    """The blocks of an open STAR file, which is closed; else as `read_star_blocks`."""
    blocks: list[Block] = []
    looping = False
    single: list[str] = []
    last = 0
    for number, line in enumerate(text_lines(file, path), 1):
        tokens = _star_tokens(line)
        if not tokens:
            continue
        first = tokens[0]
        labels = blocks[-1].labels if blocks else {}
        value = looping and first.startswith(("d", "_")) and len(tokens) == len(labels) and _is_path(first, labels)
        if first.startswith("data_") and len(tokens) == 1 and not value:
            _end(blocks, single, last)
            blocks.append(Block(first[5:], path, keep))
            looping, single = False, []
            continue
        if not blocks:
            raise bad(
                path, f"line {number} comes before the first 'data_' line", "this is not a STAR file: export it again"
            )
        block = blocks[-1]
        if first == "loop_":
            if labels:
                raise bad(path, f"line {number} starts a second table in one block", "give each its own 'data_' line")
            looping = True
        elif first.startswith("_") and not value and not (looping and len(block)):
            if first[1:] in labels:
                raise bad(path, f"column {first} appears twice (line {number})", "export the file again")
            labels[first[1:]] = len(labels)
            if not looping:
                if len(tokens) != 2:
                    raise bad(path, f"line {number} should be a label and one value", "export the file again")
                single.append(tokens[1])
                last = number
        elif looping and len(tokens) == len(labels):
            block.add(tokens, number)
        else:
            what = f"line {number} has {len(tokens)} values for {len(labels)} columns"
            raise bad(path, what, "the file is cut off or damaged: export it again")
    _end(blocks, single, last)
    return blocks


def _is_path(word: str, labels: Mapping[str, int]) -> bool:
    """Whether a word is a path, as data_1.mrc and _1.mrc are; mmCIF has labels with a dot, as _atom_site.id."""
    return ("." in word or "/" in word) and "." not in next(iter(labels))


def _end(blocks: Sequence[Block], single: Sequence[str], line: int) -> None:
    """Give the last block its row, if it has single values."""
    if single:
        blocks[-1].add(single, line)


# A quote ends a value only before a space, and RELION writes a bell before quotes inside (nextTokenInSTAR in
# src/strings.cpp).
_TOKEN = re.compile(r"\"(.*?)(?<!\a)\"(?=\s|$)|'(.*?)(?<!\a)'(?=\s|$)|(\S+)")


def _star_tokens(line: str) -> list[str]:
    if "#" not in line and '"' not in line and "'" not in line:
        return line.split()
    tokens = []
    for double, single, bare in _TOKEN.findall(line):
        if bare.startswith("#"):
            break
        tokens.append((double or single).replace("\a", "") or bare)
    return tokens


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
