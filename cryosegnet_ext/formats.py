"""Pick files of this and other programs: RELION STAR, EMAN BOX, crYOLO CBOX, CSV, Topaz tables and CryoSPARC .cs.

Inside, picks are centres in pixels of the array (row 0 of the MRC data is y = 0). Each format's own convention, corner
or centre, pixel or fraction, ends in this file; ``docs/formats.md`` shows them side by side. No reader flips y.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .atomic import write_atomic
from .errors import CryoSegNetError
from .picks import Picks

Floats = NDArray[np.float64]

MISSING = {"", "<NA>", "NA", "None", "null", "?", "."}
"""What programs write where a value is not known."""

_CBOX_HEADER = """\
data_global

_cbox_format_version 1.0

data_cryolo

loop_
_CoordinateX #1
_CoordinateY #2
_CoordinateZ #3
_Width #4
_Height #5
_Depth #6
_EstWidth #7
_EstHeight #8
_Confidence #9
_NumBoxes #10
_Angle #11
"""
_CBOX_FOOTER = """
data_cryolo_include

loop_
_slice_index #1
"""


@dataclass(frozen=True)
class _Table:
    """What a reader found: one row a pick, diameters in pixels, NaN where a value is not given."""

    x: Floats
    y: Floats
    diameter: Floats | None = None
    score: Floats | None = None
    micrograph: Sequence[str] | None = None
    pixel_size: Floats | None = None
    shape: NDArray[np.int64] | None = None  # (n, 2) as ny, nx


# --- the public functions ---------------------------------------------------------------------------------------------


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
        Side of the box of BOX and CBOX files in pixels, an even number; each pick's own diameter, rounded to an even
        number, where it is None.

    Raises
    ------
    CryoSegNetError
        Unknown suffix, a coordinate or score that is not finite, a box without a size, .cs without the micrograph's
        shape, or a file that cannot be written.
    """
    path = Path(path)
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise _bad(path, f"cannot write picks as '{path.suffix}'", f"use one of {', '.join(_WRITERS)}")
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
        raise _bad(
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
        raise _bad(path, f"'{path.suffix}' is no known format of picks", f"use one of {', '.join(_READERS)}")
    if pixel_size is not None and not (np.isfinite(pixel_size) and pixel_size > 0):
        raise CryoSegNetError(f"the pixel size is {pixel_size}: give it in angstrom per pixel, above zero.")
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _bad(path, f"cannot be read ({reason})", "check the name and its permissions") from error
    with np.errstate(all="ignore"):
        return _by_micrograph(reader(data, path, pixel_size), path, pixel_size)


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
    write_atomic(path, _cs_bytes(table, Path(path)))


# --- STAR -------------------------------------------------------------------------------------------------------------


@dataclass
class _Block:
    """One data block of a STAR file: a loop, or single values as a loop of one row."""

    name: str
    labels: list[str]
    rows: list[list[str]]
    lines: list[int]
    path: Path

    def text(self, label: str) -> list[str]:
        column = self.labels.index(label)
        return [row[column] for row in self.rows]

    def numbers(self, label: str) -> Floats:
        return _numbers(self.text(label), self.lines, label, self.path)


def _star_blocks(data: bytes, path: Path) -> list[_Block]:
    """The blocks of a STAR file, as text.

    starfile is not used here: it fills a short row with NaN, shifts the columns of a long one, and takes a file that is
    no UTF-8, or a header followed by a comment, for an empty or unreadable table.
    """
    blocks: list[_Block] = []
    looping = False
    for number, line in enumerate(_text(data).splitlines(), 1):
        tokens = _star_tokens(line)
        if not tokens:
            continue
        first = tokens[0]
        if first.startswith("data_") and len(tokens) == 1:
            blocks.append(_Block(first[5:], [], [], [], path))
            looping = False
            continue
        if not blocks:
            raise _bad(path, f"line {number} stands before any 'data_' line", "this is no STAR file: export it again")
        block = blocks[-1]
        if first == "loop_":
            if block.labels:
                raise _bad(path, f"line {number} starts a second table in one block", "give each its own 'data_' line")
            looping = True
        elif first.startswith("_") and not (looping and block.rows):
            if first[1:] in block.labels:
                raise _bad(path, f"column {first} is there twice (line {number})", "export the file again")
            block.labels.append(first[1:])
            if not looping:
                if len(tokens) != 2:
                    raise _bad(path, f"line {number} should be a label and one value", "export the file again")
                block.rows = [[*(block.rows[0] if block.rows else []), tokens[1]]]
                block.lines = [number]
        elif looping and len(tokens) == len(block.labels):
            block.rows.append(tokens)
            block.lines.append(number)
        else:
            what = f"line {number} has {len(tokens)} values for {len(block.labels)} columns"
            raise _bad(path, what, "the file is cut off or damaged: export it again")
    return blocks


def _star_tokens(line: str) -> list[str]:
    if "#" not in line and '"' not in line and "'" not in line:
        return line.split()
    tokens = []
    for quoted, single, bare in re.findall(r"\"([^\"]*)\"(?=\s|$)|'([^']*)'(?=\s|$)|(\S+)", line):
        if bare.startswith("#"):
            break
        tokens.append(quoted or single or bare)
    return tokens


def _read_star(data: bytes, path: Path, _: float | None) -> _Table:
    blocks = _star_blocks(data, path)
    block = next((b for b in blocks if {"rlnCoordinateX", "rlnCoordinateY"} <= set(b.labels)), None)
    if block is None:
        remedy = "give a STAR with particle coordinates"
        if any("rlnMicrographCoordinates" in b.labels for b in blocks):
            remedy = "it lists coordinate files: give those"
        raise _bad(path, "no block has the columns _rlnCoordinateX and _rlnCoordinateY", remedy)
    score = None
    if "rlnAutopickFigureOfMerit" in block.labels:
        score = block.numbers("rlnAutopickFigureOfMerit")
        score[score == -999] = np.nan  # RELION's value for a pick made by hand
    pixel_size = None
    optics = next((b for b in blocks if {"rlnOpticsGroup", "rlnMicrographPixelSize"} <= set(b.labels)), None)
    if optics is not None:
        sizes = dict(zip(optics.text("rlnOpticsGroup"), optics.numbers("rlnMicrographPixelSize")))
        group = block.text("rlnOpticsGroup") if "rlnOpticsGroup" in block.labels else list(sizes)[:1] * len(block.rows)
        pixel_size = np.array([sizes.get(g, np.nan) for g in group], dtype=np.float64)
    return _Table(
        x=block.numbers("rlnCoordinateX"),
        y=block.numbers("rlnCoordinateY"),
        score=score,
        micrograph=block.text("rlnMicrographName") if "rlnMicrographName" in block.labels else None,
        pixel_size=pixel_size,
    )


def _write_star(picks: Picks, path: Path, _: int | None) -> str:
    """RELION's coordinate file; its header is six lines, which some pipelines skip by count."""
    header = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnAutopickFigureOfMerit #3\n"
    x, y = _whole_pixels(picks, path)
    return header + "".join(f"{a:12.6f} {b:12.6f} {s:12.6f}\n" for a, b, s in zip(x, y, picks.score))


# --- BOX and CBOX -----------------------------------------------------------------------------------------------------


def _read_box(data: bytes, path: Path, _: float | None) -> _Table:
    """EMAN's box file: corner with the smallest x and y, width, height; a fifth column is a flag and not read."""
    rows, lines = [], []
    for number, line in enumerate(_text(data).splitlines(), 1):
        tokens = line.split("#")[0].split()
        if not tokens:
            continue
        if len(tokens) not in (4, 5):
            what = f"line {number} has {len(tokens)} values, not x, y, width, height"
            raise _bad(path, what, "the file is cut off or no BOX file: export it again")
        rows.append(tokens)
        lines.append(number)
    names = ("x", "y", "width", "height")
    x, y, width, height = (_numbers([r[i] for r in rows], lines, name, path) for i, name in enumerate(names))
    return _boxes(x, y, width, height, path)


def _boxes(x: Floats, y: Floats, width: Floats, height: Floats, path: Path, score: Floats | None = None) -> _Table:
    if not np.all((width > 0) & (height > 0)):
        row = int(np.argmin((width > 0) & (height > 0))) + 1
        raise _bad(path, f"the box of pick {row} has no size", "the file is damaged: export it again")
    return _Table(x=x + width / 2, y=y + height / 2, diameter=(width + height) / 2, score=score)


def _write_box(picks: Picks, path: Path, box_size: int | None) -> str:
    x, y = _whole_pixels(picks, path)
    sizes = _box_sizes(picks, path, box_size)
    return "".join(f"{int(a) - s // 2}\t{int(b) - s // 2}\t{s}\t{s}\n" for a, b, s in zip(x, y, sizes))


def _read_cbox(data: bytes, path: Path, _: float | None) -> _Table:
    """The CBOX of crYOLO: corners; the estimated size of each particle where crYOLO gives one, else the box."""
    block = next((b for b in _star_blocks(data, path) if b.name == "cryolo"), None)
    needed = ["CoordinateX", "CoordinateY", "Width", "Height"]
    absent = needed if block is None else [label for label in needed if label not in block.labels]
    if block is None or absent:
        what = f"the block data_cryolo lacks {', '.join('_' + label for label in absent)}"
        raise _bad(path, what, "give a CBOX file of crYOLO 1.8 or later")
    if "CoordinateZ" in block.labels:
        z = block.numbers("CoordinateZ")
        if len(np.unique(z[np.isfinite(z)])) > 1:
            raise _bad(path, "it holds picks of a tomogram", "give picks of a micrograph")
    score = block.numbers("Confidence") if "Confidence" in block.labels else None
    x, y, width, height = (block.numbers(label) for label in needed)
    table = _boxes(x, y, width, height, path, score)
    if not {"EstWidth", "EstHeight"} <= set(block.labels) or table.diameter is None:
        return table
    estimate = (block.numbers("EstWidth") + block.numbers("EstHeight")) / 2
    return _Table(table.x, table.y, np.where(estimate > 0, estimate, table.diameter), score)


def _write_cbox(picks: Picks, path: Path, box_size: int | None) -> str:
    """The CBOX of crYOLO, with <NA> for what does not exist here: z, the number of merged boxes, the angle."""
    _check_finite(picks, path)
    lines = []
    sizes = _box_sizes(picks, path, box_size)
    for x, y, box, diameter, score in zip(picks.x, picks.y, sizes, picks.diameter_px, picks.score):
        size = f"{diameter:.6f}" if np.isfinite(diameter) else "<NA>"
        corner = f"{x - box / 2:.6f} {y - box / 2:.6f}"
        lines.append(f"{corner} <NA> {box:.1f} {box:.1f} 1.0 {size} {size} {score:.6f} <NA> <NA>\n")
    return _CBOX_HEADER + "".join(lines) + _CBOX_FOOTER


# --- CSV and Topaz ----------------------------------------------------------------------------------------------------

_CSV_NAMES = {
    "x": ("x", "x_coord", "x-coordinate", "rlncoordinatex"),
    "y": ("y", "y_coord", "y-coordinate", "rlncoordinatey"),
    "score": ("score", "rlnautopickfigureofmerit"),
    "diameter_px": ("diameter_px", "diameter"),
    "diameter_A": ("diameter_a",),
    "micrograph": ("micrograph", "micrograph_name", "image_name", "rlnmicrographname"),
}
"""Our column names, Topaz's, CryoPPP's and RELION's."""


def _read_csv(data: bytes, path: Path, pixel_size: float | None) -> _Table:
    text = _text(data)
    header = text.split("\n", 1)[0]
    delimiter = next((d for d in "\t;" if d in header), ",")
    rows, lines = [], []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for row in reader:
            if row and not row[0].startswith("#"):
                rows.append([field.strip() for field in row])
                lines.append(reader.line_num)
    except csv.Error as error:
        raise _bad(path, f"line {reader.line_num} is no row of a table ({error})", "export the file again") from error
    labels = [label.lower() for label in rows[0]] if rows else []
    where = {ours: next((labels.index(a) for a in theirs if a in labels), None) for ours, theirs in _CSV_NAMES.items()}
    if where["x"] is None or where["y"] is None:
        raise _bad(path, "the first line names no columns x and y", "give a table with a header 'x,y,...'")
    for row, line in zip(rows, lines):
        if len(row) != len(labels):
            what = f"line {line} has {len(row)} values for {len(labels)} columns"
            raise _bad(path, what, "the file is cut off or damaged: export it again")

    def column(name: str) -> Floats | None:
        i = where[name]
        return None if i is None else _numbers([row[i] for row in rows[1:]], lines[1:], labels[i], path)

    x, y, diameter, angstrom = column("x"), column("y"), column("diameter_px"), column("diameter_A")
    assert x is not None and y is not None
    sizes = None
    if angstrom is not None and np.isfinite(angstrom).any():
        if diameter is not None and np.isfinite(diameter).any():
            # Ten digits, so that the division gives back the pixel size that was written.
            sizes = np.array([float(f"{size:.10g}") for size in angstrom / diameter])
        elif pixel_size is not None:
            diameter = angstrom / pixel_size
        else:
            raise _bad(path, "its diameters are in angstrom and it has no pixel size", "give the pixel size")
    i = where["micrograph"]
    names = None if i is None else [row[i] for row in rows[1:]]
    return _Table(x, y, diameter, column("score"), names, sizes)


def _write_csv(picks: Picks, path: Path, _: int | None) -> str:
    _check_finite(picks, path)
    angstrom = picks.diameter if picks.pixel_size else np.full(len(picks), np.nan)
    lines = ["x,y,diameter_A,diameter_px,score"]
    for row in zip(picks.x, picks.y, angstrom, picks.diameter_px, picks.score):
        lines.append(",".join(repr(float(value)) if np.isfinite(value) else "" for value in row))
    return "\n".join(lines) + "\n"


# --- CryoSPARC --------------------------------------------------------------------------------------------------------


def _read_cs(data: bytes, path: Path, pixel_size: float | None) -> _Table:
    """Particle locations: fractions of the micrograph's width and height, y from row 0 of the array, no flip."""
    if data.startswith(b"\x95CSDAT"):
        raise _bad(path, "it is a compressed CryoSPARC dataset", "save it in NumPy format with cryosparc-tools")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # a damaged header is parsed as Python and can raise anything
        raise _bad(path, "it is no .cs file or is damaged", "export it from CryoSPARC again") from error
    if not isinstance(rows, np.ndarray) or rows.dtype.names is None or rows.ndim != 1:
        raise _bad(path, "it holds no table", "give a particle .cs file of CryoSPARC")

    def column(name: str, shape: tuple[int, ...] = ()) -> Floats | None:
        if name not in (rows.dtype.names or ()):
            return None
        values = rows[name]
        if values.dtype.kind not in "iuf" or values.shape != (len(rows), *shape):
            raise _bad(path, f"the column {name} has the type {rows.dtype[name]}", "export it from CryoSPARC again")
        return values.astype(np.float64)

    x, y = column("location/center_x_frac"), column("location/center_y_frac")
    shape = column("location/micrograph_shape", (2,))
    if x is None or y is None or shape is None:
        what = "it lacks location/center_x_frac, location/center_y_frac or location/micrograph_shape"
        raise _bad(path, what, "give the .cs file, or its passthrough, that holds the locations")
    if not np.all((shape >= 1) & (shape < 2**31)):
        raise _bad(path, "a location/micrograph_shape is not a size in pixels", "export it from CryoSPARC again")
    sizes = column("location/micrograph_psize_A")
    if sizes is not None:
        sizes[~(sizes > 0)] = np.nan
    diameter = column("location/min_dist_A")
    if diameter is not None:
        given = np.full(len(rows), pixel_size or np.nan)
        diameter = diameter / (given if sizes is None else np.where(sizes > 0, sizes, given))
    names = None
    for name in ("location/micrograph_path", "location/micrograph_uid"):
        if names is None and name in rows.dtype.names:
            names = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in rows[name].tolist()]
    if names is not None:  # CryoSPARC marks a path inside its own project with ">"
        names = [name.removeprefix(">") for name in names]
    score = column("pick_stats/ncc_score")
    return _Table(x * shape[:, 1], y * shape[:, 0], diameter, score, names, sizes, shape.astype(np.int64))


def _cs_bytes(table: Mapping[str, Picks], path: Path) -> bytes:
    width = max((len(name.encode()) for name in table), default=1) or 1
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
        _check_finite(picks, path)
        if picks.shape is None:
            raise _bad(path, f"the shape of micrograph {name} is not known", "give it (--shape NY NX)")
        ny, nx = picks.shape
        part = np.zeros(len(picks), dtype=fields)
        part["uid"] = _uids(name, picks)
        part["location/micrograph_uid"] = _hash(name)
        part["location/exp_group_id"] = 1
        part["location/micrograph_path"] = name.encode()
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
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def _uids(name: str, picks: Picks) -> list[int]:
    """The same for the same picks, and never twice: of two picks at one place the second has another number."""
    seen: Counter[str] = Counter()
    uids = []
    for x, y in zip(picks.x, picks.y):
        place = f"{name}\n{x:.3f}\n{y:.3f}"
        uids.append(_hash(f"{place}\n{seen[place]}"))
        seen[place] += 1
    return uids


def _write_cs(picks: Picks, path: Path, _: int | None) -> bytes:
    return _cs_bytes({path.stem: picks}, path)


# --- shared -----------------------------------------------------------------------------------------------------------

_READERS: dict[str, Callable[[bytes, Path, float | None], _Table]] = {
    ".star": _read_star,
    ".box": _read_box,
    ".cbox": _read_cbox,
    ".csv": _read_csv,
    ".txt": _read_csv,
    ".tsv": _read_csv,
    ".cs": _read_cs,
}

_WRITERS: dict[str, Callable[[Picks, Path, int | None], str | bytes]] = {
    ".star": _write_star,
    ".box": _write_box,
    ".cbox": _write_cbox,
    ".csv": _write_csv,
    ".cs": _write_cs,
}

READABLE = tuple(_READERS)
"""The suffixes that can be read."""

WRITABLE = tuple(_WRITERS)
"""The suffixes that can be written."""


def _bad(path: str | Path, what: str, remedy: str) -> CryoSegNetError:
    return CryoSegNetError(f"{path}: {what}; {remedy}.")


def _text(data: bytes) -> str:
    # A byte that is no UTF-8 may stand in a comment or a name; in a number it is caught as one.
    return data.decode("utf-8-sig", errors="replace")


def _numbers(texts: Sequence[str], lines: Sequence[int], column: str, path: Path) -> Floats:
    values = np.empty(len(texts))
    for i, text in enumerate(texts):
        try:
            values[i] = np.nan if text in MISSING else float(text)
        except ValueError:
            what = f"line {lines[i]} has {text[:40]!r} for a number in column {column}"
            raise _bad(path, what, "the file is damaged: export it again") from None
    return values


def _by_micrograph(table: _Table, path: Path, pixel_size: float | None) -> dict[str, Picks]:
    n = len(table.x)
    unknown = np.full(n, np.nan)
    diameter = unknown if table.diameter is None else np.where(table.diameter > 0, table.diameter, np.nan)
    diameter = np.where(np.isfinite(diameter), diameter, np.nan)
    score = unknown if table.score is None else table.score
    score = np.where(np.isnan(score), 1.0, score)
    for name, values in (("x", table.x), ("y", table.y), ("score", score)):
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values))) + 1
            raise _bad(path, f"the {name} of pick {row} is no finite number", "the file is damaged: export it again")
    rows: dict[str, list[int]] = {}
    if table.micrograph is None:
        rows[path.stem] = list(range(n))
    else:
        for row, name in enumerate(table.micrograph):
            rows.setdefault(name, []).append(row)
    for name in rows:
        if not name or not name.isprintable():
            raise _bad(path, f"{name!r} is no name of a micrograph", "the file is damaged: export it again")
    result = {}
    for name, chosen in rows.items():
        i = np.array(chosen, dtype=np.int64)
        sizes = np.zeros(0) if table.pixel_size is None else table.pixel_size[i]
        sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
        size = float(sizes[0]) if len(sizes) else pixel_size
        shape = None if table.shape is None or not chosen else (int(table.shape[i[0], 0]), int(table.shape[i[0], 1]))
        result[name] = Picks(table.x[i], table.y[i], diameter[i] * (size or 1.0), score[i], size, shape)
    return result


def _check_finite(picks: Picks, path: Path) -> None:
    for name, values in (("x", picks.x), ("y", picks.y), ("score", picks.score)):
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values))) + 1
            raise _bad(path, f"the {name} of pick {row} is no finite number", "leave that pick out")


def _whole_pixels(picks: Picks, path: Path) -> tuple[Floats, Floats]:
    """Coordinates rounded half up, because ``round`` would go to the even neighbour, and inside the micrograph."""
    _check_finite(picks, path)
    x, y = np.floor(picks.x + 0.5), np.floor(picks.y + 0.5)
    if picks.shape is not None:
        ny, nx = picks.shape
        x, y = np.clip(x, 0, nx - 1), np.clip(y, 0, ny - 1)
    return x, y


def _box_sizes(picks: Picks, path: Path, box_size: int | None) -> list[int]:
    """Even box sides in pixels, so that the corner of a box around a whole pixel is a whole pixel."""
    if box_size is not None:
        if box_size < 2 or box_size % 2:
            raise CryoSegNetError(f"the box size is {box_size} pixels: give an even number of at least 2.")
        return [int(box_size)] * len(picks)
    diameters = picks.diameter_px
    if not np.all(np.isfinite(diameters) & (diameters > 0)):
        raise _bad(path, "the picks have no diameter to make a box of", "give a box size (--box-size N)")
    return [max(2, 2 * int(np.floor(d / 2 + 0.5))) for d in diameters]
