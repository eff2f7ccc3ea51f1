"""How programs disagree about coordinates: an axis counted from its other end, axes exchanged, another binning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Placement:
    """A way in which coordinates may be meant.

    Attributes
    ----------
    name
        What they are then; goes on from "the picks fit ...".
    matrix
        Its rows make the new x and y of the scaled ones; a negative one counts its axis from the other end.
    scale
        What x and y are multiplied by first.
    """

    name: str
    matrix: Rows = ((1, 0), (0, 1))
    scale: float = 1.0

    def apply(self, x: Floats, y: Floats, shape: tuple[int, int]) -> tuple[Floats, Floats]:
        """Coordinates x, y (n,) as they are meant, pixels of a micrograph (ny, nx)."""
        a, b = (self.scale * (row[0] * x + row[1] * y) for row in self.matrix)
        ends = (size - 1 if min(row) < 0 else 0 for row, size in zip(self.matrix, shape[::-1]))
        return a + next(ends), b + next(ends)


AS_THEY_ARE = Placement("as they are")

FLIPS = {
    "y": Placement("mirrored top to bottom", ((1, 0), (0, -1))),
    "x": Placement("mirrored left to right", ((-1, 0), (0, 1))),
    "xy": Placement("turned by 180 degrees", ((-1, 0), (0, -1))),
    "swap": Placement("with x and y exchanged", ((0, 1), (1, 0))),
}
"""By the word of ``cryosegnet train --flip-labels``."""

TURNS = (
    AS_THEY_ARE,
    *FLIPS.values(),
    Placement("turned by 90 degrees", ((0, 1), (-1, 0))),
    Placement("turned by -90 degrees", ((0, -1), (1, 0))),
    Placement("with x and y exchanged and turned by 180 degrees", ((0, -1), (-1, 0))),
)
"""All that can be done to a square without stretching it."""


def scaled_by(factor: float) -> Placement:
    """Coordinates on micrographs of another binning."""
    shown = f"{factor:g}" if factor >= 1 else f"1/{1 / factor:g}"
    return Placement(f"with their coordinates times {shown} (another binning)", scale=factor)
