"""Pick files of this and other programs: RELION STAR, EMAN BOX, crYOLO CBOX, CSV, Topaz tables and CryoSPARC .cs.

Inside, picks are centres in pixels of the array (row 0 of the MRC data is y = 0). Each format's own convention, corner
or centre, pixel or fraction, ends in this folder; ``docs/formats.md`` shows them side by side. No reader flips y.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ...errors import CryoSegNetError
from ..atomic import write_atomic
from ..picks import Picks
from .boxes import read_box, read_cbox, write_box, write_cbox
from .cryosparc import cs_bytes, read_cs, write_cs_file
from .csv import read_csv, write_csv
from .star import read_star, write_star
from .table import MISSING, Floats, Table, bad, by_micrograph

__all__ = ["MISSING", "READABLE", "WRITABLE", "Floats", "read_many", "read_picks", "write_cs", "write_picks"]


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
    path = Path(path)
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise bad(path, f"cannot write picks as '{path.suffix}'", f"use one of {', '.join(_WRITERS)}")
    write_atomic(path, writer(picks, path, box_size))


def read_picks(path: str | Path, pixel_size: float | None = None) -> Picks:
    """Read the picks of one micrograph; the suffix of ``path`` names the format.

    Parameters
    ----------
    path
        A .star, .box, .cbox, .csv, .txt or .tsv (Topaz) or .cs file.
    pixel_size
        Angstrom per pixel, for files that do not carry it; a STAR with optics, a CSV of ours and .cs do.

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
    table = read_many(path, pixel_size)
    if len(table) > 1:
        first, second = list(table)[:2]
        raise bad(
            path,
            f"it holds the picks of {len(table)} micrographs ({first}, {second}, ...)",
            "split it with 'cryosegnet export' or read it with read_many",
        )
    return next(iter(table.values()), Picks.empty(pixel_size))


def read_many(path: str | Path, pixel_size: float | None = None) -> dict[str, Picks]:
    """Read a table of picks of many micrographs: Topaz .txt, STAR with rlnMicrographName, CSV with a micrograph, .cs.

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
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise bad(path, f"'{path.suffix}' is no known format of picks", f"use one of {', '.join(_READERS)}")
    if pixel_size is not None and not (np.isfinite(pixel_size) and pixel_size > 0):
        raise CryoSegNetError(f"the pixel size is {pixel_size}: give it in angstrom per pixel, above zero.")
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise bad(path, f"cannot be read ({reason})", "check the name and its permissions") from error
    with np.errstate(all="ignore"):
        return by_micrograph(reader(data, path, pixel_size), path, pixel_size)


def write_cs(table: Mapping[str, Picks], path: str | Path) -> None:
    """Write the picks of many micrographs as CryoSPARC particle locations: a NumPy structured array in a .cs file.

    Fields and types are those of CryoSPARC's own pickers. ``uid`` and ``location/micrograph_uid`` are made from the
    name and the coordinates, so the same picks give the same file; inside a CryoSPARC project the exposures have uids
    of their own, and ``cryosegnet-cryosparc`` writes those. ``location/min_dist_A`` carries the diameter. A micrograph
    without picks has no row.

    Parameters
    ----------
    table
        Micrograph path, as CryoSPARC shall know it, to its picks; each with a shape.
    path
        The .cs file.

    Raises
    ------
    CryoSegNetError
        A micrograph's shape is not known, a number is not finite, or the file cannot be written.
    """
    write_atomic(path, cs_bytes(table, Path(path)))


_READERS: dict[str, Callable[[bytes, Path, float | None], Table]] = {
    ".star": read_star,
    ".box": read_box,
    ".cbox": read_cbox,
    ".csv": read_csv,
    ".txt": read_csv,
    ".tsv": read_csv,
    ".cs": read_cs,
}

_WRITERS: dict[str, Callable[[Picks, Path, int | None], str | bytes]] = {
    ".star": write_star,
    ".box": write_box,
    ".cbox": write_cbox,
    ".csv": write_csv,
    ".cs": write_cs_file,
}

READABLE = tuple(_READERS)
"""The suffixes that can be read."""

WRITABLE = tuple(_WRITERS)
"""The suffixes that can be written."""
