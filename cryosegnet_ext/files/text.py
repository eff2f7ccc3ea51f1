"""Tables in text files: reading the text and its numbers, and the error for a damaged file."""

from __future__ import annotations

import re
import stat
import unicodedata
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import fstat
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import CryoSegNetError

Floats = NDArray[np.float64]

MISSING = {"", "<NA>", "NA", "None", "null", "?", "."}
"""What programs write where a value is not known."""

_PACKED_ROWS = 4096
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+(e[-+]?\d+)?", re.IGNORECASE)


def bad(path: str | Path, what: str, remedy: str) -> CryoSegNetError:
    """The error about a file, as one sentence: what is wrong, and what to do."""
    return CryoSegNetError(f"{path}: {what}; {remedy}.")


@contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for reading.

    Raises
    ------
    CryoSegNetError
        It cannot be opened or read, or it is a device, which may have no end.
    """
    try:
        with open(_possible(path), "rb") as file:
            kind = fstat(file.fileno()).st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):
                raise bad(path, "it is a device or socket", "name a file")
            yield file
    except OSError as error:
        reason = error.strerror or str(error)
        raise bad(path, f"cannot be read ({reason})", "check the name and its permissions") from error


def _possible(path: str | Path) -> str | Path:
    if "\0" in str(path):
        raise bad(ascii(str(path)), "is not a possible file name", "check how the list was made")
    return path


def read_bytes(path: str | Path) -> bytes:
    """The content of a file; raises as `opened`."""
    with opened(path) as file:
        return file.read()


def text_of(data: bytes) -> str:
    """The text of a file in UTF-8, with or without a byte order mark."""
    # A byte that is not UTF-8 may stand in a comment, or in the name of a file, which must still be found by it. In a
    # number it is caught as one.
    return data.decode("utf-8-sig", errors="surrogateescape")


def spelt(name: str) -> str:
    """A file's name in one spelling: a list may be in Latin-1, and macOS writes an accent as a sign of its own."""
    data = name.encode(errors="surrogateescape")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return unicodedata.normalize("NFC", text)


def text_lines(file: BinaryIO, path: Path) -> Iterator[str]:
    """The lines of an open file as `text_of` reads them, without holding all of it in memory.

    Raises
    ------
    CryoSegNetError
        It contains null bytes.
    """
    for line in file:
        if b"\0" in line:
            raise bad(path, "it is damaged, or not a text file (it contains null bytes)", "export or copy it again")
        yield from text_of(line).splitlines(keepends=True)


class Columns:
    """Columns of text, row after row, packed: a table of a million rows takes bytes, not an object for each value.

    Parameters
    ----------
    count
        How many columns there are.
    """

    def __init__(self, count: int) -> None:
        self._parts: list[list[NDArray[np.bytes_]]] = [[] for _ in range(count)]
        self._fresh: list[Sequence[str]] = []
        #: The line of each row in its file, for errors.
        self.lines = array("q")

    def __len__(self) -> int:
        return len(self.lines)

    def add(self, values: Sequence[str], line: int) -> None:
        """Add a row: the values of the columns, none of which contains a null byte."""
        self._fresh.append(values)
        self.lines.append(line)
        if len(self._fresh) * len(self._parts) >= _PACKED_ROWS:
            self._pack()

    def _pack(self) -> None:
        for parts, values in zip(self._parts, zip(*self._fresh)):
            parts.append(np.array([value.encode(errors="surrogateescape") for value in values]))
        self._fresh.clear()

    def text(self, column: int) -> list[str]:
        """A column as text; values that repeat are one object."""
        self._pack()
        known: dict[bytes, str] = {}
        values = (value for part in self._parts[column] for value in part.tolist())
        return [
            known[value] if value in known else known.setdefault(value, value.decode(errors="surrogateescape"))
            for value in values
        ]

    def numbers(self, column: int, name: str, path: Path) -> Floats:
        """A column of numbers, NaN where a value is missing; ``name`` and ``path`` are for the error."""
        self._pack()
        return self._floats(column, lambda texts, first: numbers(texts, self.lines[first:], name, path))

    def floats(self, column: int) -> Floats:
        """A column of numbers, NaN where a value is missing or not a number."""
        self._pack()
        return self._floats(column, lambda texts, _: np.array([_number(text) for text in texts]))

    def _floats(self, column: int, slowly: Callable[[list[str], int], Floats]) -> Floats:
        found, first = [np.empty(0)], 0
        for part in self._parts[column]:
            try:
                found.append(part.astype(np.float64))
            except ValueError:
                texts = [value.decode(errors="surrogateescape") for value in part.tolist()]
                found.append(slowly(texts, first))
            first += len(part)
        return np.concatenate(found)


def numbers(texts: Sequence[str], lines: Sequence[int], column: str, path: Path) -> Floats:
    """Convert texts to numbers (n,), NaN for missing ones; ``lines`` (n,) are their line numbers, for errors."""
    values = np.empty(len(texts))
    for i, text in enumerate(texts):
        try:
            values[i] = np.nan if text in MISSING else float(text)
        except ValueError:
            what = f"line {lines[i]} has {text[:40]!r} for a number in column {column}"
            remedy = "the file is damaged: export it again"
            if _DECIMAL_COMMA.fullmatch(text):
                remedy = "decimal commas are not read: export the file again with decimal points"
            raise bad(path, what, remedy) from None
    return values


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan
