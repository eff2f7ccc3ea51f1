"""What every format is read into and written from, and the complaints about files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import CryoSegNetError

Floats = NDArray[np.float64]

MISSING = {"", "<NA>", "NA", "None", "null", "?", "."}
"""What programs write where a value is not known."""


@dataclass(frozen=True)
class TableOfPicks:
    """What a reader found: one row a pick, diameters in pixels, NaN where a value is not given."""

    x: Floats
    y: Floats
    diameter: Floats | None = None
    score: Floats | None = None
    micrograph: Sequence[str] | None = None
    pixel_size: Floats | None = None
    shape: NDArray[np.int64] | None = None  # (n, 2) as ny, nx


class PicksToWrite(Protocol):
    """What a writer needs to know of the picks of one micrograph; `cryosegnet_ext.files.picks.Picks` has all of it."""

    @property
    def x(self) -> Floats:
        """Columns, pixels, (n,)."""

    @property
    def y(self) -> Floats:
        """Rows, pixels, (n,)."""

    @property
    def diameter(self) -> Floats:
        """Angstrom, or pixels where ``pixel_size`` is None, (n,)."""

    @property
    def diameter_px(self) -> Floats:
        """Pixels, (n,)."""

    @property
    def score(self) -> Floats:
        """Figures of merit, (n,)."""

    @property
    def pixel_size(self) -> float | None:
        """Angstrom per pixel."""

    @property
    def shape(self) -> tuple[int, int] | None:
        """Of the micrograph, (ny, nx)."""

    @property
    def sought(self) -> float | None:
        """The data set's particle diameter, in the unit of ``diameter``."""

    def __len__(self) -> int: ...


def bad(path: str | Path, what: str, remedy: str) -> CryoSegNetError:
    """The complaint about a file, as one sentence."""
    return CryoSegNetError(f"{path}: {what}; {remedy}.")


def text_of(data: bytes) -> str:
    """The text of a file in UTF-8, with or without a byte order mark."""
    # A byte that is no UTF-8 may stand in a comment or a name; in a number it is caught as one.
    return data.decode("utf-8-sig", errors="replace")


def numbers(texts: Sequence[str], lines: Sequence[int], column: str, path: Path) -> Floats:
    """The numbers (n,) that texts stand for, NaN where one is missing; ``lines`` (n,) are theirs in the file."""
    values = np.empty(len(texts))
    for i, text in enumerate(texts):
        try:
            values[i] = np.nan if text in MISSING else float(text)
        except ValueError:
            what = f"line {lines[i]} has {text[:40]!r} for a number in column {column}"
            raise bad(path, what, "the file is damaged: export it again") from None
    return values


def check_finite(picks: PicksToWrite, path: Path) -> None:
    """See that coordinates and scores are numbers; raises CryoSegNetError."""
    for name, values in (("x", picks.x), ("y", picks.y), ("score", picks.score)):
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values))) + 1
            raise bad(path, f"the {name} of pick {row} is no finite number", "leave that pick out")


def whole_pixels(picks: PicksToWrite, path: Path) -> tuple[Floats, Floats]:
    """Coordinates rounded half up, because ``round`` would go to the even neighbour, and inside the micrograph."""
    check_finite(picks, path)
    x, y = np.floor(picks.x + 0.5), np.floor(picks.y + 0.5)
    if picks.shape is not None:
        ny, nx = picks.shape
        x, y = np.clip(x, 0, nx - 1), np.clip(y, 0, ny - 1)
    return x, y
