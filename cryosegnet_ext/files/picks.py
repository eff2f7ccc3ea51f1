"""The Picks table: the only form in which picks travel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, repr=False)
class Picks:
    """Picked particles of one micrograph.

    Attributes
    ----------
    x, y : (n,) float64
        Centres in pixels of the micrograph's array: x = column, y = row, 0-based, array order (row 0 of the MRC data is
        y = 0, no flip). An integer is the centre of that pixel.
    diameter : (n,) float64
        Particle diameter in angstrom; in pixels where ``pixel_size`` is None. NaN where it is not known, as in picks
        read from a STAR file.
    score : (n,) float64
        Figure of merit: 0..1 for our own picks, whatever their program gave for others' (Topaz: log-odds).
    pixel_size : float or None
        Angstrom per pixel of the micrograph; None where it is not known.
    shape : (ny, nx) or None
        Shape of the micrograph in pixels, where it is known.
    sought : float or None
        The particle diameter that was looked for, in the unit of ``diameter``: the one that was given, or the dataset's
        estimate. One size for all micrographs, which box files need.

    Raises
    ------
    ValueError
        The four columns differ in length.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    diameter: NDArray[np.float64]
    score: NDArray[np.float64]
    pixel_size: float | None = None
    shape: tuple[int, int] | None = None
    sought: float | None = None

    def __post_init__(self) -> None:
        columns = [np.array(c, dtype=np.float64).reshape(-1) for c in (self.x, self.y, self.diameter, self.score)]
        if len({len(c) for c in columns}) != 1:
            raise ValueError(f"x, y, diameter and score differ in length: {[len(c) for c in columns]}")
        for name, column in zip(("x", "y", "diameter", "score"), columns):
            object.__setattr__(self, name, column)

    @classmethod
    def empty(cls, pixel_size: float | None = None, shape: tuple[int, int] | None = None) -> Picks:
        """A table without picks."""
        none = np.zeros(0)
        return cls(none, none, none, none, pixel_size, shape)

    def __repr__(self) -> str:
        """One line; the columns have their own."""
        unit = "px" if self.pixel_size is None else "A"
        words = [f"{len(self)} picks"]
        sizes = self.diameter[np.isfinite(self.diameter)]
        if len(sizes):
            words.append(f"median diameter {np.median(sizes):.4g} {unit}")
        if len(self):
            words.append(f"scores {self.score.min():.2f} to {self.score.max():.2f}")
        words.append("pixel size not known" if self.pixel_size is None else f"{self.pixel_size:g} A/px")
        if self.shape is not None:
            words.append(f"micrograph {self.shape[0]} x {self.shape[1]} (ny x nx)")
        return f"<Picks: {', '.join(words)}>"

    def __len__(self) -> int:
        return len(self.x)

    @property
    def diameter_px(self) -> NDArray[np.float64]:
        """Diameters in pixels of the micrograph, (n,)."""
        return self.diameter / (self.pixel_size or 1.0)

    def take(self, which: ArrayLike) -> Picks:
        """The picks chosen by a boolean mask or by indices, in that order."""
        i = np.asarray(which)
        return replace(self, x=self.x[i], y=self.y[i], diameter=self.diameter[i], score=self.score[i])

    def above(self, threshold: float) -> Picks:
        """The picks whose score is at least ``threshold``."""
        return self.take(self.score >= threshold)

    def by_score(self) -> Picks:
        """The same picks, best first; ties by y, then x, so that the order never depends on how they were found."""
        return self.take(np.lexsort((self.x, self.y, -self.score)))

    def write(self, path: str | Path, box_size: int | None = None) -> None:
        """Write to ``path``; its suffix (.star, .box, .cbox, .csv, .cs) names the format.

        Parameters
        ----------
        path
            The file, replaced in one step if it exists.
        box_size
            Side of the boxes of .box and .cbox, pixels; see `cryosegnet_ext.files.formats.write_picks`.

        Raises
        ------
        CryoSegNetError
            Unknown suffix, a number that is not finite, a box without a size, or a file that cannot be written.
        """
        from .formats import write_picks

        write_picks(self, path, box_size)


def read_picks(path: str | Path, pixel_size: float | None = None) -> Picks:
    """Read a pick file of this or another program (.star, .box, .cbox, .csv, Topaz's .txt, .cs).

    Parameters
    ----------
    path
        The file; its suffix names the format.
    pixel_size
        Angstrom per pixel, for formats that do not carry it.

    Raises
    ------
    CryoSegNetError
        The file is missing, damaged, in no known format, or holds picks of several micrographs.
    """
    from .formats import read_picks as read

    return read(path, pixel_size=pixel_size)
