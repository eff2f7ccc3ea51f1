"""What readers of pick files return, what writers need, and checks and rounding that writers share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

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


def check_finite(picks: PicksToWrite, path: Path) -> None:
    """Check that coordinates and scores are finite; raises CryoSegNetError."""
    for name, values in (("x", picks.x), ("y", picks.y), ("score", picks.score)):
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values))) + 1
            raise bad(path, f"the {name} of pick {row} is not a finite number", "leave that pick out")


def whole_pixels(picks: PicksToWrite, path: Path) -> tuple[Floats, Floats]:
    """Coordinates as whole pixels inside the micrograph, rounded half up (``round`` would go to the even neighbour)."""
    check_finite(picks, path)
    x, y = np.floor(picks.x + 0.5), np.floor(picks.y + 0.5)
    if picks.shape is not None:
        ny, nx = picks.shape
        x, y = np.clip(x, 0, nx - 1), np.clip(y, 0, ny - 1)
    return x, y
