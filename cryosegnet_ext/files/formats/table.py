"""What readers of pick files return, what writers need, and checks and rounding that writers share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import CryoSegNetError
from ..diameter import to_pixels
from ..text import Floats, bad


@dataclass(frozen=True)
class TableOfPicks:
    """The content of a pick file: one row per pick, diameters in pixels, NaN where a value is not given."""

    x: Floats
    y: Floats
    diameter: Floats | None = None
    score: Floats | None = None
    micrograph: Sequence[str] | None = None
    pixel_size: Floats | None = None
    shape: NDArray[np.int64] | None = None  # (n, 2) as ny, nx
    from_last_row: bool = False  # y is counted from the last row of the micrograph, whose height the file lacks


def joined(tables: Sequence[TableOfPicks], path: Path) -> TableOfPicks:
    """One table of several of a joined file; raises CryoSegNetError if not all name their micrographs."""
    if len(tables) > 1 and not all(table.micrograph is not None for table in tables):
        raise without_names(path)
    return concatenated(tables)


def without_names(path: Path) -> CryoSegNetError:
    """The error about several tables in one file that may belong to different micrographs."""
    what = "it has several tables of picks, which do not all name their micrographs"
    return bad(path, what, "give each table as a file of its own")


def concatenated(tables: Sequence[TableOfPicks]) -> TableOfPicks:
    """One table of parts, of which all or none name micrographs."""
    if len(tables) == 1:
        return tables[0]
    names = [table.micrograph for table in tables if table.micrograph is not None]

    shapes = [table.shape for table in tables if table.shape is not None]

    def column(name: str) -> Floats | None:
        values = [getattr(table, name) for table in tables]
        if all(value is None for value in values):
            return None
        return np.concatenate([np.full(len(t.x), np.nan) if v is None else v for t, v in zip(tables, values)])

    return TableOfPicks(
        x=np.concatenate([table.x for table in tables]),
        y=np.concatenate([table.y for table in tables]),
        diameter=column("diameter"),
        score=column("score"),
        micrograph=list(itertools.chain(*names)) if names else None,
        pixel_size=column("pixel_size"),
        shape=np.concatenate(shapes) if len(shapes) == len(tables) else None,
    )


def refuse_tomogram(z: Floats, path: Path) -> None:
    """Raise CryoSegNetError if a column z (n,) says that the picks are those of a tomogram; NaN and 0 say nothing."""
    if np.any(np.nan_to_num(z)):
        raise bad(path, "it contains picks of a tomogram, with a z", "give picks of micrographs")


@dataclass(frozen=True, repr=False)
class PickColumns:
    """The picks of one micrograph as writers need them: the data of `cryosegnet_ext.files.picks.Picks`."""

    x: Floats
    y: Floats
    diameter: Floats
    score: Floats
    pixel_size: float | None = None
    shape: tuple[int, int] | None = None
    sought: float | None = None
    micrograph: str | None = None

    def __post_init__(self) -> None:
        columns = [np.array(c, dtype=np.float64).reshape(-1) for c in (self.x, self.y, self.diameter, self.score)]
        if len({len(c) for c in columns}) != 1:
            raise ValueError(f"x, y, diameter and score differ in length: {[len(c) for c in columns]}")
        for name, column in zip(("x", "y", "diameter", "score"), columns):
            object.__setattr__(self, name, column)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def diameter_px(self) -> Floats:
        """Diameters in pixels of the micrograph, (n,)."""
        return to_pixels(self.diameter, self.pixel_size)


def check_finite(picks: PickColumns, path: Path, remedy: str = "leave that pick out") -> None:
    """Check that coordinates and scores are finite; raises CryoSegNetError."""
    for name, values in (("x", picks.x), ("y", picks.y), ("score", picks.score)):
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values))) + 1
            raise bad(path, f"the {name} of pick {row} is not a finite number", remedy)


def whole_pixels(picks: PickColumns, path: Path) -> tuple[Floats, Floats]:
    """Coordinates as whole pixels inside the micrograph, rounded half up (``round`` would go to the even neighbour)."""
    check_finite(picks, path)
    x, y = np.floor(picks.x + 0.5), np.floor(picks.y + 0.5)
    if picks.shape is not None:
        ny, nx = picks.shape
        x, y = np.clip(x, 0, nx - 1), np.clip(y, 0, ny - 1)
    return x, y
