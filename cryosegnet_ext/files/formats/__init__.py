"""Pick files of this and other programs: RELION, EMAN, crYOLO, CryoSPARC, Topaz, cisTEM, napari and CSV.

Inside the program, picks are centres in pixels of the array (row 0 of the MRC data is y = 0). Each format's convention,
corner or centre, pixels or fractions, is converted in this folder and nowhere else; ``docs/formats.md`` compares them.
No reader flips y; where a format counts it from the last row, `TableOfPicks` says so. Readers turn an open file into a
`TableOfPicks`; `cryosegnet_ext.files.picks` opens the files and makes `Picks`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from .boxes import read_box, read_cbox, write_box, write_cbox
from .cistem import read_plt
from .cryosparc import cs_bytes, read_cs, write_cs_file
from .csv import read_csv, write_csv
from .eman import read_eman_json
from .star import read_star, write_star
from .table import PickColumns, TableOfPicks, check_finite

__all__ = ["READABLE", "READERS", "WRITABLE", "WRITERS", "PickColumns", "TableOfPicks", "check_finite", "cs_bytes"]

READERS: dict[str, Callable[[BinaryIO, Path, float | None], TableOfPicks]] = {
    ".star": read_star,
    ".box": read_box,
    ".cbox": read_cbox,
    ".csv": read_csv,
    ".txt": read_csv,
    ".tsv": read_csv,
    ".cs": read_cs,
    ".json": read_eman_json,
    ".plt": read_plt,
}
"""By suffix: a function of the open file, its name (for messages) and the pixel size that the caller knows."""

WRITERS: dict[str, Callable[[PickColumns, Path, int | None], str | bytes]] = {
    ".star": write_star,
    ".box": write_box,
    ".cbox": write_cbox,
    ".csv": write_csv,
    ".cs": write_cs_file,
}
"""By suffix: a function of the picks of one micrograph, the file's name and the box size; returns the content."""

READABLE = tuple(READERS)
"""The suffixes that can be read."""

WRITABLE = tuple(WRITERS)
"""The suffixes that can be written."""
