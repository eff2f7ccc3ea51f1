"""CryoSPARC's particle locations, a NumPy structured array in a .cs file."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ...errors import option
from ..text import Floats, bad
from .table import PickColumns, TableOfPicks, check_finite, concatenated

_MAGIC, _COMPRESSED = b"\x93NUMPY", b"\x95CSDAT"
_ROWS = 20_000


def read_cs(file: BinaryIO, path: Path, pixel_size: float | None) -> TableOfPicks:
    """Particle locations: fractions of the micrograph's width and height, y from row 0 of the array, no flip."""
    return concatenated([_table(rows, path, pixel_size) for rows in _parts(file, path)])


def _parts(file: BinaryIO, path: Path) -> Iterator[NDArray[np.void]]:
    """The table of an open file in parts, of which a large one need not be in memory as a whole; at least one."""
    start = file.read(len(_MAGIC))
    if start == _COMPRESSED:
        raise bad(path, "it is a compressed CryoSPARC dataset", "save it in NumPy format with cryosparc-tools")
    damaged = bad(path, "it is damaged, or not a .cs file", "export it from CryoSPARC again")
    if start != _MAGIC:
        raise damaged
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            major, _ = file.read(2)
            read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[major]
            shape, _, dtype = read(file)
    except Exception as error:  # NumPy parses the header as Python, which can raise anything
        raise damaged from error
    if dtype.hasobject:
        raise damaged
    if dtype.names is None or len(shape) != 1:
        raise bad(path, "it contains no table", "give a particle .cs file of CryoSPARC")
    for first in range(0, max(shape[0], 1), _ROWS):
        count = min(_ROWS, shape[0] - first)
        data = file.read(count * dtype.itemsize)
        if len(data) < count * dtype.itemsize:
            raise damaged
        yield np.frombuffer(data, dtype, count)


def _table(rows: NDArray[np.void], path: Path, pixel_size: float | None) -> TableOfPicks:
    def column(name: str, shape: tuple[int, ...] = ()) -> Floats | None:
        if name not in (rows.dtype.names or ()):
            return None
        values = rows[name]
        if values.dtype.kind not in "iuf" or values.shape != (len(rows), *shape):
            raise bad(path, f"the column {name} has the type {rows.dtype[name]}", "export it from CryoSPARC again")
        return values.astype(np.float64)

    x, y = column("location/center_x_frac"), column("location/center_y_frac")
    shape = column("location/micrograph_shape", (2,))
    if x is None or y is None or shape is None:
        what = "it lacks location/center_x_frac, location/center_y_frac or location/micrograph_shape"
        raise bad(path, what, "give the .cs file, or its passthrough, that holds the locations")
    if not np.all((shape >= 1) & (shape < 2**31)):
        raise bad(path, "a location/micrograph_shape is not a size in pixels", "export it from CryoSPARC again")
    sizes = column("location/micrograph_psize_A")
    if sizes is not None:
        sizes[~(sizes > 0)] = np.nan
    diameter = column("location/min_dist_A")
    if diameter is not None:
        given = np.full(len(rows), pixel_size or np.nan)
        diameter = diameter / (given if sizes is None else np.where(sizes > 0, sizes, given))
    names = None
    for name in ("location/micrograph_path", "location/micrograph_uid"):
        if names is None and name in (rows.dtype.names or ()):
            values = rows[name].tolist()
            texts = {v: os.fsdecode(v) if isinstance(v, bytes) else str(v) for v in set(values)}
            # CryoSPARC marks a path inside its own project with ">".
            texts = {value: text.removeprefix(">") for value, text in texts.items()}
            names = [texts[value] for value in values]
    score = column("pick_stats/ncc_score")
    return TableOfPicks(x * shape[:, 1], y * shape[:, 0], diameter, score, names, sizes, shape.astype(np.int64))


def cs_bytes(table: Mapping[str, PickColumns], path: Path) -> bytes:
    """The content of a .cs file, of micrograph path -> picks; see `cryosegnet_ext.files.picks.write_cs`."""
    width = max((len(os.fsencode(name)) for name in table), default=1) or 1
    fields = [
        ("uid", "<u8"),
        ("location/micrograph_uid", "<u8"),
        ("location/exp_group_id", "<u4"),
        ("location/micrograph_path", f"S{width}"),
        ("location/micrograph_shape", "<u4", (2,)),
        ("location/center_x_frac", "<f4"),
        ("location/center_y_frac", "<f4"),
        ("location/micrograph_psize_A", "<f4"),
        ("location/min_dist_A", "<f4"),
        ("pick_stats/ncc_score", "<f4"),
        ("pick_stats/power", "<f4"),
        ("pick_stats/template_idx", "<u4"),
        ("pick_stats/angle_rad", "<f4"),
    ]
    parts = [np.zeros(0, dtype=fields)]
    for name, picks in table.items():
        check_finite(picks, path)
        if picks.shape is None:
            raise bad(
                path, f"the shape of micrograph {name} is not known", f"give it: {option('shape')} (rows and columns)"
            )
        ny, nx = picks.shape
        part = np.zeros(len(picks), dtype=fields)
        part["uid"] = _uids(name, picks)
        part["location/micrograph_uid"] = _hash(name)
        part["location/exp_group_id"] = 1
        part["location/micrograph_path"] = os.fsencode(name)
        part["location/micrograph_shape"] = (ny, nx)
        part["location/center_x_frac"] = picks.x / nx
        part["location/center_y_frac"] = picks.y / ny
        part["location/micrograph_psize_A"] = picks.pixel_size or 0
        part["location/min_dist_A"] = np.nan_to_num(picks.diameter) if picks.pixel_size else 0
        part["pick_stats/ncc_score"] = picks.score
        part["pick_stats/power"] = picks.score
        parts.append(part)
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate(parts), allow_pickle=False)
    return buffer.getvalue()


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(os.fsencode(text)).digest()[:8], "little")


def _uids(name: str, picks: PickColumns) -> list[int]:
    """Uids that are the same for the same picks; two picks at one place get different ones."""
    seen: Counter[str] = Counter()
    uids = []
    for x, y in zip(picks.x, picks.y):
        place = f"{name}\n{x:.3f}\n{y:.3f}"
        uids.append(_hash(f"{place}\n{seen[place]}"))
        seen[place] += 1
    return uids


def write_cs_file(picks: PickColumns, path: Path, _: int | None) -> bytes:
    """The content of a .cs file of one micrograph; where its name is not known, that of the file stands for it."""
    return cs_bytes({picks.micrograph or path.stem: picks}, path)
