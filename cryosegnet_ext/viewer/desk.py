"""What is being looked at: micrographs by number, their picks, and the files that edits are saved to."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CryoSegNetError
from ..files.diameter import from_pixels, to_pixels
from ..files.inputs import Input, output_stems
from ..files.micrograph import Micrograph, read_micrograph, read_shape
from ..files.picks import Picks, read_picks
from ..report.collect import Run, collect
from ..report.command import choose_command
from ..report.pack import choose, level_of, levels_of, pack
from ..runs.candidates import read_candidates
from .pictures import Pictures

#: Micrographs that one page holds.
MOST_MICROGRAPHS = 10_000
_CANDIDATE_BYTES = 60_000_000
_MOST_PICKS = 100_000
_OWN_FOLDERS = ("picks", "overlays", ".cryosegnet")


@dataclass(frozen=True)
class Sheet:
    """One micrograph on the desk.

    Attributes
    ----------
    path, name, stem
        The file, what the user calls it, and the path of its edited picks without suffix.
    pixel_size
        Angstrom per pixel, or None.
    shape : (ny, nx)
        (0, 0) where the file cannot be read.
    diameter
        Of its particles, angstrom (pixels without a pixel size); 0 where it is not known.
    """

    path: Path
    name: str
    stem: str
    pixel_size: float | None
    shape: tuple[int, int]
    diameter: float


class Desk:
    """Micrographs and the picks made on them; everything the server does, by number and never by path.

    Parameters
    ----------
    sheets
        The micrographs.
    data
        The page's data.
    target
        Folder for edited picks.
    diameter
        Of new circles, in the page's unit.
    suffixes
        Formats to save; the first is read again at the next start.
    blank
        There are no picks to start from.
    output
        The run's folder, which keeps small pictures.
    """

    def __init__(
        self,
        sheets: Sequence[Sheet],
        data: Mapping[str, Any],
        target: Path,
        diameter: float,
        suffixes: Sequence[str],
        blank: bool,
        output: Path | None = None,
    ) -> None:
        self.sheets = sheets
        self.data = data
        self.target = target
        self.diameter = diameter
        self.suffixes = tuple(suffixes)
        self.blank = blank
        self._output = output
        self._pictures = Pictures(self._read, self._diameter_px)
        self._saving = threading.Lock()

    def view(self, token: str) -> dict[str, Any]:
        """What the page needs beside its data."""
        return {
            "token": token,
            "blank": self.blank,
            "diameter": self.diameter,
            "target": str(self.target),
            "edited": self._edited(),
        }

    def tile(self, number: int, level: int, column: int, row: int, smoothing: int) -> bytes:
        """As `Pictures.tile`."""
        self._sheet(number)
        return self._pictures.tile(number, level, column, row, smoothing)

    def thumbnail(self, number: int) -> bytes:
        """As `Pictures.thumbnail`, from what the run has kept where it can be."""
        sheet = self._sheet(number)
        kept = read_candidates(self._output, sheet.stem, thumbnail=True) if self._output is not None else None
        return kept.thumbnail if kept is not None and kept.thumbnail else self._pictures.thumbnail(number)

    def save(self, number: int, rows: object) -> dict[str, Any]:
        """Write the picks of a micrograph.

        Parameters
        ----------
        number
            The micrograph's.
        rows
            Lists of x and y (pixels), diameter (None: not known) and score.

        Raises
        ------
        CryoSegNetError
            The rows are no picks of this micrograph, or cannot be written.
        """
        sheet = self._sheet(number)
        x, y, size, score = _columns(rows, sheet)
        picks = Picks(x, y, size, score, sheet.pixel_size, sheet.shape if min(sheet.shape) else None)
        with self._saving:
            for suffix in self.suffixes:
                path = self._path(sheet, suffix)
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise CryoSegNetError(f"cannot make {path.parent} ({error.strerror}): check the folder.") from error
                picks.write(path)
        return {"path": str(self._path(sheet, self.suffixes[0])), "picks": len(picks)}

    def discard(self, number: int) -> dict[str, Any]:
        """Remove the edited picks of a micrograph; the run's own are not touched."""
        sheet = self._sheet(number)
        with self._saving:
            for suffix in self.suffixes:
                try:
                    self._path(sheet, suffix).unlink(missing_ok=True)
                except OSError as error:
                    raise CryoSegNetError(f"cannot remove the edited picks ({error.strerror}): check them.") from error
        return {"picks": None}

    def _sheet(self, number: int) -> Sheet:
        if not 0 <= number < len(self.sheets):
            raise CryoSegNetError("no such micrograph.")
        return self.sheets[number]

    def _path(self, sheet: Sheet, suffix: str) -> Path:
        path = self.target / f"{sheet.stem}.{suffix}"
        # A journal that was tampered with must not lead out of the folder.
        if not path.resolve().is_relative_to(self.target.resolve()):
            raise CryoSegNetError(f"{sheet.name}: its picks would lie outside {self.target}; they are not written.")
        return path

    def _read(self, number: int) -> Micrograph:
        sheet = self.sheets[number]
        return read_micrograph(sheet.path, pixel_size=sheet.pixel_size)

    def _diameter_px(self, number: int) -> float:
        sheet = self.sheets[number]
        return to_pixels(sheet.diameter or self.diameter, sheet.pixel_size)

    def _edited(self) -> dict[int, list[list[float | None]]]:
        """Edited picks of earlier sessions, by number."""
        found: dict[int, list[list[float | None]]] = {}
        if not self.target.is_dir():
            return found
        for number, sheet in enumerate(self.sheets):
            path = self._path(sheet, self.suffixes[0])
            if not path.is_file():
                continue
            picks = read_picks(path, pixel_size=sheet.pixel_size)
            size = np.where(np.isfinite(picks.diameter), picks.diameter, sheet.diameter or self.diameter)
            found[number] = np.stack([picks.x, picks.y, size, picks.score], axis=1).tolist()
        return found


def _columns(rows: object, sheet: Sheet) -> NDArray[np.float64]:
    """(4, n) x, y, diameter and score; CryoSegNetError where the rows are anything but picks of this micrograph."""
    if not isinstance(rows, list) or len(rows) > _MOST_PICKS:
        raise CryoSegNetError("no list of picks.")
    ny, nx = sheet.shape
    for row in rows:
        if not isinstance(row, list) or len(row) != 4:
            raise CryoSegNetError("a pick is x, y, diameter and score.")
        x, y, diameter, score = row
        numbers = (x, y, score, 1.0 if diameter is None else diameter)
        if not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in numbers):
            raise CryoSegNetError("a pick is made of numbers.")
        if not (0 <= x <= nx - 1 and 0 <= y <= ny - 1):
            raise CryoSegNetError("a pick lies outside the micrograph.")
    return np.array([[math.nan if value is None else value for value in row] for row in rows], float).reshape(-1, 4).T


def open_run(output: str | Path, target: str | Path | None = None, suffixes: Sequence[str] = ("star",)) -> Desk:
    """The desk of a folder that was picked into.

    Parameters
    ----------
    output
        The folder.
    target
        Folder for edited picks; ``picks_edited`` in the run's by default.
    suffixes
        Formats to save.

    Raises
    ------
    CryoSegNetError
        Nothing was picked into the folder, or ``target`` holds the run's own files.
    """
    run = collect(output, fallback=[choose_command(str(output))])
    target = run.output / "picks_edited" if target is None else Path(target)
    _refuse_own(run, target)
    # Nothing is mailed here, so that the page may be larger.
    chosen = choose(run.done, MOST_MICROGRAPHS, _CANDIDATE_BYTES)
    data = pack(run, pictures=False, chosen=chosen, room=_CANDIDATE_BYTES)
    records = chosen.shown
    shapes = zip(data["micrographs"]["height"], data["micrographs"]["width"])
    sheets = [Sheet(Path(r.key), r.name, r.stem, r.pixel_size, s, r.diameter or 0.0) for r, s in zip(records, shapes)]
    sizes = [record.diameter for record in records if record.diameter]
    typical = float(np.median(sizes)) if sizes else float(run.settings.get("diameter") or 100.0)
    return Desk(sheets, data, target, typical, suffixes, blank=False, output=run.output)


def open_micrographs(
    inputs: Sequence[Input],
    target: str | Path,
    *,
    diameter: float | None = None,
    pixel_size: float | None = None,
    suffixes: Sequence[str] = ("star",),
) -> Desk:
    """The desk of micrographs without picks, to label them.

    Parameters
    ----------
    inputs
        The micrographs.
    target
        Folder for the labels.
    diameter
        Of new circles, angstrom where the pixel size is given, else pixels; a thirtieth of the micrograph by default.
    pixel_size
        Angstrom per pixel of all micrographs.
    suffixes
        Formats to save.

    Raises
    ------
    CryoSegNetError
        Too many micrographs, or none can be read.
    """
    if len(inputs) > MOST_MICROGRAPHS:
        raise CryoSegNetError(f"{len(inputs)} micrographs are more than a page holds ({MOST_MICROGRAPHS}): name fewer.")
    sheets: list[Sheet] = []
    failed: list[list[str]] = []
    for one, stem in zip(inputs, output_stems(inputs)):
        try:
            sheets.append(Sheet(Path(one.path), one.name, stem, pixel_size, read_shape(one.path), 0.0))
        except CryoSegNetError as error:
            failed.append([one.name, str(error)])
    if not sheets:
        raise CryoSegNetError(f"none of the {len(inputs)} micrographs can be read; the first: {failed[0][1]}")
    longest = float(np.median([max(sheet.shape) for sheet in sheets]))
    typical = diameter or round(from_pixels(longest / 30, pixel_size))
    return Desk(sheets, _blank(sheets, failed, pixel_size), Path(target), typical, suffixes, blank=True)


def _blank(sheets: Sequence[Sheet], failed: Sequence[Sequence[str]], pixel_size: float | None) -> dict[str, Any]:
    """The page's data of micrographs without picks."""
    count = len(sheets)
    none = {"level": "", "size": "", "x": "", "y": ""}
    return {
        "title": f"{count} micrograph{'' if count == 1 else 's'}",
        "folder": "",
        "threshold": 0.0,
        "levels": levels_of(0.0).tolist(),
        "floor": int(level_of(np.zeros(1), levels_of(0.0))[0]),
        "complete": True,
        "unit": "px" if pixel_size is None else "Å",
        "settings": {},
        "totals": {"micrographs": count, "failed": len(failed), "picks": 0, "seconds": 0.0},
        "micrographs": {
            "name": [sheet.name for sheet in sheets],
            "picks": [0] * count,
            "width": [sheet.shape[1] for sheet in sheets],
            "height": [sheet.shape[0] for sheet in sheets],
            "pixel_size": [sheet.pixel_size for sheet in sheets],
            "seconds": [0.0] * count,
        },
        "columns": [],
        "candidates": {"counts": [0] * count, **none},
        "thumbnails": [],
        "others": {"micrographs": 0, "scale": 1.0, "level": "", "size": "", "count": ""},
        "failed": [list(row) for row in failed],
        "commands": [],
    }


def _refuse_own(run: Run, target: Path) -> None:
    for name in _OWN_FOLDERS:
        own = (run.output / name).resolve()
        if own == target.resolve() or own in target.resolve().parents:
            raise CryoSegNetError(f"{target} holds the run's own files, which are never overwritten: choose another.")
