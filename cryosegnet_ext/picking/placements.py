"""The ways in which programs disagree about coordinates: mirrored, turned, axes exchanged, another binning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Placement:
    """One way to convert coordinates that another program meant differently.

    Attributes
    ----------
    name
        What is done to them; completes "the picks fit ...".
    matrix
        Its rows give the new x and y from the scaled ones. A negative row counts its axis from the other end.
    scale
        What x and y are multiplied by before.
    """

    name: str
    matrix: Rows = ((1, 0), (0, 1))
    scale: tuple[float, float] = (1.0, 1.0)

    @property
    def linear(self) -> Floats:
        """Matrix and scale as (2, 2), by which (n, 2) of x, y are multiplied from the right."""
        return np.diag(self.scale) @ np.array(self.matrix, float).T

    def apply(self, x: Floats, y: Floats, shape: tuple[int, int]) -> tuple[Floats, Floats]:
        """Convert coordinates x, y (n,); ``shape`` (ny, nx) is the micrograph's, in pixels."""
        ends = [size - 1 if min(row) < 0 else 0 for row, size in zip(self.matrix, shape[::-1])]
        a, b = (np.column_stack([x, y]) @ self.linear + ends).T
        return a, b


AS_THEY_ARE = Placement("as they are")

FLIPS = {
    "y": Placement("mirrored top to bottom", ((1, 0), (0, -1))),
    "x": Placement("mirrored left to right", ((-1, 0), (0, 1))),
    "xy": Placement("turned by 180 degrees", ((-1, 0), (0, -1))),
    "swap": Placement("with x and y exchanged", ((0, 1), (1, 0))),
}
"""By the value of ``cryosegnet train --flip-labels``."""

TURNS = (
    AS_THEY_ARE,
    *FLIPS.values(),
    Placement("turned by 90 degrees", ((0, 1), (-1, 0))),
    Placement("turned by -90 degrees", ((0, -1), (1, 0))),
    Placement("with x and y exchanged and turned by 180 degrees", ((0, -1), (-1, 0))),
)
"""The eight symmetries of a square."""


def scaled_by(factor: float) -> Placement:
    """Coordinates that were picked on micrographs of another binning."""
    shown = f"{factor:g}" if factor >= 1 else f"1/{1 / factor:g}"
    return Placement(f"with their coordinates times {shown} (another binning)", scale=(factor, factor))
