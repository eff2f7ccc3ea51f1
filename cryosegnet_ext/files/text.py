"""Tables in text files: reading the text and its numbers, and the error for a damaged file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import CryoSegNetError

Floats = NDArray[np.float64]

MISSING = {"", "<NA>", "NA", "None", "null", "?", "."}
"""What programs write where a value is not known."""


def bad(path: str | Path, what: str, remedy: str) -> CryoSegNetError:
    """The error about a file, as one sentence: what is wrong, and what to do."""
    return CryoSegNetError(f"{path}: {what}; {remedy}.")


def read_bytes(path: str | Path) -> bytes:
    """The content of a file.

    Raises
    ------
    CryoSegNetError
        It cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise bad(path, f"cannot be read ({reason})", "check the name and its permissions") from error


def text_of(data: bytes) -> str:
    """The text of a file in UTF-8, with or without a byte order mark."""
    # A byte that is not UTF-8 may stand in a comment or a name; in a number it is caught as one.
    return data.decode("utf-8-sig", errors="replace")


def numbers(texts: Sequence[str], lines: Sequence[int], column: str, path: Path) -> Floats:
    """Convert texts to numbers (n,), NaN for missing ones; ``lines`` (n,) are their line numbers, for errors."""
    values = np.empty(len(texts))
    for i, text in enumerate(texts):
        try:
            values[i] = np.nan if text in MISSING else float(text)
        except ValueError:
            what = f"line {lines[i]} has {text[:40]!r} for a number in column {column}"
            raise bad(path, what, "the file is damaged: export it again") from None
    return values
