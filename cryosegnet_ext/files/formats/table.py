"""What every format is read into and written from, and the complaints about files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import CryoSegNetError
from ..picks import Picks

Floats = NDArray[np.float64]

MISSING = {"", "<NA>", "NA", "None", "null", "?", "."}
"""What programs write where a value is not known."""


@dataclass(frozen=True)
class Table:
    """What a reader found: one row a pick, diameters in pixels, NaN where a value is not given."""

    x: Floats
    y: Floats
    diameter: Floats | None = None
    score: Floats | None = None
    micrograph: Sequence[str] | None = None
    pixel_size: Floats | None = None
    shape: NDArray[np.int64] | None = None  # (n, 2) as ny, nx


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


def by_micrograph(table: Table, path: Path, pixel_size: float | None) -> dict[str, Picks]:
    """The picks of each micrograph that a file names; of the file's stem where it names none."""
    n = len(table.x)
    unknown = np.full(n, np.nan)
    diameter = unknown if table.diameter is None else np.where(table.diameter > 0, table.diameter, np.nan)
    diameter = np.where(np.isfinite(diameter), diameter, np.nan)
    score = unknown if table.score is None else table.score
    score = np.where(np.isnan(score), 1.0, score)
    for name, values in (("x", table.x), ("y", table.y), ("score", score)):
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values))) + 1
            raise bad(path, f"the {name} of pick {row} is no finite number", "the file is damaged: export it again")
    rows: dict[str, list[int]] = {}
    if table.micrograph is None:
        rows[path.stem] = list(range(n))
    else:
        for row, name in enumerate(table.micrograph):
            rows.setdefault(name, []).append(row)
    for name in rows:
        if not name or not name.isprintable():
            raise bad(path, f"{name!r} is no name of a micrograph", "the file is damaged: export it again")
    result = {}
    for name, chosen in rows.items():
        i = np.array(chosen, dtype=np.int64)
        sizes = np.zeros(0) if table.pixel_size is None else table.pixel_size[i]
        sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
        size = float(sizes[0]) if len(sizes) else pixel_size
        shape = None if table.shape is None or not chosen else (int(table.shape[i[0], 0]), int(table.shape[i[0], 1]))
        result[name] = Picks(table.x[i], table.y[i], diameter[i] * (size or 1.0), score[i], size, shape)
    return result


def check_finite(picks: Picks, path: Path) -> None:
    """See that coordinates and scores are numbers; raises CryoSegNetError."""
    for name, values in (("x", picks.x), ("y", picks.y), ("score", picks.score)):
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values))) + 1
            raise bad(path, f"the {name} of pick {row} is no finite number", "leave that pick out")


def whole_pixels(picks: Picks, path: Path) -> tuple[Floats, Floats]:
    """Coordinates rounded half up, because ``round`` would go to the even neighbour, and inside the micrograph."""
    check_finite(picks, path)
    x, y = np.floor(picks.x + 0.5), np.floor(picks.y + 0.5)
    if picks.shape is not None:
        ny, nx = picks.shape
        x, y = np.clip(x, 0, nx - 1), np.clip(y, 0, ny - 1)
    return x, y
