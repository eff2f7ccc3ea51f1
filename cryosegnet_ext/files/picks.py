"""The picks of a micrograph, in the one form that all parts use, and reading and writing their files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import CryoSegNetError, option
from .atomic import write_atomic
from .diameter import from_pixels
from .formats import READERS, WRITERS, PickColumns, TableOfPicks, check_finite, cs_bytes
from .relion_paths import is_flipped
from .text import bad, opened

if TYPE_CHECKING:
    from .micrograph import Micrograph

__all__ = ["Picks", "read_many", "read_picks", "write_cs", "write_picks"]

_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # how Python writes bytes of a file's name that are not UTF-8


@dataclass(frozen=True, repr=False)
class Picks(PickColumns):
    """Picked particles of one micrograph.

    Attributes
    ----------
    x, y : (n,) float64
        Centres in pixels of the micrograph's array: x = column, y = row, 0-based, array order (row 0 of the MRC data is
        y = 0, no flip). An integer is the centre of that pixel.
    diameter : (n,) float64
        Particle diameter in angstrom; in pixels where ``pixel_size`` is None. NaN where it is not known, as in picks
        read from a STAR file.
    diameter_px : (n,) float64
        The same in pixels.
    score : (n,) float64
        Figure of merit: 0..1 for our own picks, else as the other program gives it (Topaz: log-odds).
    pixel_size : float or None
        Angstrom per pixel of the micrograph; None where it is not known.
    shape : (ny, nx) or None
        Shape of the micrograph in pixels, where it is known.
    sought : float or None
        The particle diameter that the picker used, in the unit of ``diameter``: given, or estimated for the data set.
        One size for all micrographs, which box files need.
    micrograph : str or None
        Name of the micrograph, where it is known: its path, as it was given to the picker.

    Raises
    ------
    ValueError
        The four columns differ in length.
    """

    @classmethod
    def empty(cls, pixel_size: float | None = None, shape: tuple[int, int] | None = None) -> Picks:
        """A micrograph without picks."""
        none = np.zeros(0)
        return cls(none, none, none, none, pixel_size, shape)

    def __repr__(self) -> str:
        """A summary in one line; the columns have their own representation."""
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

    def _repr_html_(self) -> str:
        """What a notebook shows: the summary, the first rows, and a picture where the micrograph is read quickly."""
        from .plotting import html_of

        return html_of(self, repr(self).strip("<>"))

    @property
    def expected_false(self) -> float:
        """Expected share of false picks, 0..1: one minus the mean score.

        It is an estimate, which takes each score for the probability that the pick is a particle. Our own scores of the
        default recipe are calibrated for that; on data unlike those of the calibration it can be off. NaN without
        picks, and where a score lies outside 0..1 as Topaz's do.

        Examples
        --------
        >>> Picks([10, 90], [20, 40], [50, 50], [0.75, 0.5]).expected_false
        0.375
        """
        if not len(self) or not ((self.score >= 0) & (self.score <= 1)).all():
            return float("nan")
        return float(1 - self.score.mean())

    def take(self, which: ArrayLike) -> Picks:
        """The picks chosen by a boolean mask or by indices, in that order."""
        i = np.asarray(which)
        return replace(self, x=self.x[i], y=self.y[i], diameter=self.diameter[i], score=self.score[i])

    def above(self, threshold: float) -> Picks:
        """The picks whose score is at least ``threshold``."""
        return self.take(self.score >= threshold)

    def by_score(self) -> Picks:
        """The same picks, best first; ties by y, then x, so that the order is always the same."""
        return self.take(np.lexsort((self.x, self.y, -self.score)))

    def plot(
        self, micrograph: Micrograph | str | os.PathLike[str] | NDArray[np.floating] | None = None, ax: Any = None
    ) -> Any:
        """Draw the picks on their micrograph with matplotlib.

        The micrograph has the contrast of a run's pictures. Circles have the sizes of the picks (see `draw_overlay` for
        picks without a size) and the colours of their scores, 0 to 1, or wider where scores lie outside. Axes are
        pixels of the micrograph's array: x to the right, y downwards, no flip.

        Parameters
        ----------
        micrograph
            A `Micrograph`, a path, or an array (ny, nx). Default: the file that was picked, read again.
        ax
            Matplotlib's Axes to draw on. Default: a new figure.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        CryoSegNetError
            matplotlib is not installed; the micrograph is not known, cannot be read, or has another shape than the one
            of the picks.

        Examples
        --------
        >>> picks = Picker().pick("mic_001.mrc")
        >>> picks.plot().figure.savefig("mic_001.png")
        """
        from .plotting import plot_picks  # OpenCV and more, which few readers of picks need

        return plot_picks(self, micrograph, ax)

    def write(self, path: str | Path, box_size: int | None = None) -> None:
        """Write to ``path``; its suffix (.star, .box, .cbox, .csv, .cs) names the format.

        Parameters
        ----------
        path
            The file, replaced in one step if it exists.
        box_size
            Side of the boxes of .box and .cbox, pixels; see `write_picks`.

        Raises
        ------
        CryoSegNetError
            Unknown suffix, a number that is not finite, a box without a size, or a file that cannot be written.
        """
        write_picks(self, path, box_size)


def write_picks(picks: Picks, path: str | Path, box_size: int | None = None) -> None:
    """Write the picks of one micrograph; the suffix of ``path`` (.star, .box, .cbox, .csv, .cs) names the format.

    Rows keep the order of ``picks``. STAR and BOX hold whole pixels, rounded half up and moved inside the micrograph
    where ``picks.shape`` is known, because RELION truncates coordinates; CBOX and CSV keep the fractions.

    Parameters
    ----------
    picks
        The picks; none at all gives a file with its header only.
    path
        The file, replaced in one step if it exists.
    box_size
        Side of the boxes of BOX and CBOX files in pixels, an even number. Where it is None they have the diameter of
        the dataset's particles (``picks.sought``), or else the median of the picks' own, rounded to an even number.

    Raises
    ------
    CryoSegNetError
        Unknown suffix, a coordinate or score that is not finite, a box without a size, .cs without the micrograph's
        shape, or a file that cannot be written.
    """
    write_atomic(path, encode_picks(picks, Path(path), box_size))


def encode_picks(picks: Picks, path: Path, box_size: int | None = None) -> bytes:
    """The content of the file that `write_picks` writes; it raises the same."""
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise bad(path, f"cannot write picks as '{path.suffix}'", f"use one of {', '.join(WRITERS)}")
    content = writer(picks, path, box_size)
    return content.encode(errors="surrogateescape") if isinstance(content, str) else content


def read_picks(path: str | Path, pixel_size: float | None = None, shape: tuple[int, int] | None = None) -> Picks:
    """Read the picks of one micrograph; the suffix of ``path`` names the format.

    Parameters
    ----------
    path
        A .star, .box, .cbox, .csv, .txt or .tsv (Topaz), .cs, .json (EMAN2) or .plt (cisTEM) file.
    pixel_size
        Angstrom per pixel, for files that do not carry it; a STAR with optics, a CSV of ours and .cs do.
    shape
        (ny, nx) of the micrograph, for files that do not carry it; .plt needs it, .cs does not.

    Returns
    -------
    Picks
        In the file's order. Diameters are NaN where the format has none. Scores are the file's own figures of merit:
        0..1 in our files, log-odds in Topaz's; 1 where the file has none (RELION's manual picks included).

    Raises
    ------
    CryoSegNetError
        The file is missing, damaged, in no known format, or holds picks of several micrographs.
    """
    table = read_many(path, pixel_size, shape)
    if len(table) > 1:
        first, second = list(table)[:2]
        raise bad(
            path,
            f"it contains picks of {len(table)} micrographs ({first}, {second}, ...)",
            "split it with 'cryosegnet export' or read it with read_many",
        )
    return next(iter(table.values()), Picks.empty(pixel_size, shape))


def read_many(
    path: str | Path, pixel_size: float | None = None, shape: tuple[int, int] | None = None
) -> dict[str, Picks]:
    """Read a table of picks of many micrographs: Topaz .txt, STAR with rlnMicrographName, CSV with a micrograph, .cs.

    Parameters are those of :func:`read_picks`.

    Returns
    -------
    dict of str to Picks
        Keyed by the micrograph's name as the file has it, in order of first appearance; by the file's stem where the
        file names no micrograph.

    Raises
    ------
    CryoSegNetError
        As :func:`read_picks`.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise bad(path, f"'{path.suffix}' is not a known format of picks", f"use one of {', '.join(READERS)}")
    if pixel_size is not None and not (np.isfinite(pixel_size) and pixel_size > 0):
        raise CryoSegNetError(f"the pixel size must be in angstrom per pixel, above zero (got {pixel_size}).")
    with np.errstate(all="ignore"), opened(path) as file:
        table = reader(file, path, pixel_size)
        if table.from_last_row:
            if shape is None:
                what = "y is counted from the last row, and the file lacks the micrograph's height"
                raise bad(path, what, f"give {option('shape')} (rows and columns)")
            table = replace(table, y=shape[0] - 1 - table.y)
        return _by_micrograph(table, path, pixel_size, shape)


def write_cs(table: Mapping[str, Picks], path: str | Path) -> None:
    """Write the picks of many micrographs as CryoSPARC particle locations: a NumPy structured array in a .cs file.

    Fields and types are those of CryoSPARC's own pickers. ``uid`` and ``location/micrograph_uid`` are computed from the
    name and the coordinates, so the same picks give the same file. Inside a CryoSPARC project the exposures have their
    own uids; ``cryosegnet-cryosparc`` writes those. ``location/min_dist_A`` carries the diameter. A micrograph
    without picks has no row.

    Parameters
    ----------
    table
        Micrograph path, as CryoSPARC should show it -> its picks; each with a shape.
    path
        The .cs file.

    Raises
    ------
    CryoSegNetError
        A micrograph's shape is not known, a number is not finite, or the file cannot be written.
    """
    write_atomic(path, cs_bytes(table, Path(path)))


def as_relion_reads(picks: Picks, name: str) -> Picks:
    """Picks of a micrograph in RELION's coordinates, or picks in RELION's coordinates in ours.

    Of TIFF files (see `is_flipped`) y becomes ny - 1 - y. Others stay as they are.

    Parameters
    ----------
    picks
        With the micrograph's shape.
    name
        The micrograph's file, whose suffix tells RELION the format.
    """
    if not is_flipped(name):
        return picks
    assert picks.shape is not None
    return replace(picks, y=picks.shape[0] - 1 - picks.y)


def _by_micrograph(
    table: TableOfPicks, path: Path, pixel_size: float | None, known: tuple[int, int] | None
) -> dict[str, Picks]:
    """The picks of each micrograph in a table; under the file's stem if it names no micrograph."""
    n = len(table.x)
    unknown = np.full(n, np.nan)
    diameter = unknown if table.diameter is None else np.where(table.diameter > 0, table.diameter, np.nan)
    diameter = np.where(np.isfinite(diameter), diameter, np.nan)
    score = unknown if table.score is None else table.score
    score = np.where(np.isnan(score), 1.0, score)
    every = Picks(table.x, table.y, diameter, score)
    check_finite(every, path, "the file is damaged: export it again")
    names: dict[str, int] = {}
    if table.micrograph is None:
        names[path.stem] = 0
        owners = np.zeros(n, np.int64)
    else:
        owners = np.fromiter((names.setdefault(name, len(names)) for name in table.micrograph), np.int64, n)
        for name in names:
            if not name or not _NOT_UTF8.sub("", name).isprintable():
                raise bad(path, f"{name!r} is not a micrograph's name", "the file is damaged: export it again")
    rows = np.split(np.argsort(owners, kind="stable"), np.cumsum(np.bincount(owners, minlength=len(names)))[:-1])
    result = {}
    for name, i in zip(names, rows):
        sizes = np.zeros(0) if table.pixel_size is None else table.pixel_size[i]
        sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
        size = float(sizes[0]) if len(sizes) else pixel_size
        shape = known
        if table.shape is not None and len(i):
            shape = int(table.shape[i[0], 0]), int(table.shape[i[0], 1])
        result[name] = replace(every.take(i), diameter=from_pixels(diameter[i], size), pixel_size=size, shape=shape)
    return result
