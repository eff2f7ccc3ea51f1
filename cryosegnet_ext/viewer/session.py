"""One session of ``cryosegnet view``: numbered micrographs, their picks, and the files for edited picks."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CryoSegNetError, plural
from ..files.atomic import make_folder
from ..files.diameter import from_pixels, to_pixels
from ..files.inputs import Input, output_stems
from ..files.micrograph import Micrograph, read_micrograph, read_shape
from ..files.picks import Picks, read_picks
from ..report.collect import RunData, collect
from ..report.command import choose_command
from ..report.pack import pack, select_for_page
from ..runs.candidates import read_candidates
from .tiles import TileRenderer

#: Most micrographs in one session.
MOST_MICROGRAPHS = 10_000
_CANDIDATE_BYTES = 60_000_000
_MOST_PICKS = 100_000


@dataclass(frozen=True)
class ViewedMicrograph:
    """One micrograph of the session.

    Attributes
    ----------
    path, name, stem
        The file, its name for the user, and the path of its edited picks without suffix.
    pixel_size
        Angstrom per pixel, or None.
    shape : (ny, nx)
        (0, 0) if the file cannot be read.
    diameter
        Of its particles, angstrom (pixels without a pixel size); 0 if it is not known.
    """

    path: Path
    name: str
    stem: str
    pixel_size: float | None
    shape: tuple[int, int]
    diameter: float


class ViewSession:
    """Micrographs and their edited picks. The server names micrographs by number, never by path.

    Parameters
    ----------
    micrographs
        The micrographs.
    data
        The page's data.
    target
        Folder for edited picks.
    diameter
        Of new circles, in the page's unit.
    suffixes
        Formats to save; the next session reads the first one.
    blank
        The session starts without picks.
    output
        The run's folder, which holds thumbnails.
    """

    def __init__(
        self,
        micrographs: Sequence[ViewedMicrograph],
        data: Mapping[str, Any],
        target: Path,
        diameter: float,
        suffixes: Sequence[str],
        blank: bool,
        output: Path | None = None,
    ) -> None:
        self.micrographs = micrographs
        self.data = data
        self.target = target
        self.diameter = diameter
        self.suffixes = tuple(suffixes)
        self.blank = blank
        self._output = output
        self._tiles = TileRenderer(self._read, self._diameter_px)
        self._saving = threading.Lock()

    def view(self, token: str) -> dict[str, Any]:
        """What the page needs besides its data."""
        return {
            "token": token,
            "blank": self.blank,
            "diameter": self.diameter,
            "target": str(self.target),
            "edited": self._edited(),
        }

    def tile(self, number: int, level: int, column: int, row: int, smoothing: int) -> bytes:
        """As `TileRenderer.tile`."""
        self._micrograph(number)
        return self._tiles.tile(number, level, column, row, smoothing)

    def thumbnail(self, number: int) -> bytes:
        """The thumbnail that the run saved, or else that of `TileRenderer.thumbnail`."""
        micrograph = self._micrograph(number)
        kept = read_candidates(self._output, micrograph.stem, thumbnail=True) if self._output is not None else None
        return kept.thumbnail if kept is not None and kept.thumbnail else self._tiles.thumbnail(number)

    def save(self, number: int, rows: object) -> dict[str, Any]:
        """Write the picks of a micrograph.

        Parameters
        ----------
        number
            Of the micrograph.
        rows
            Lists of x, y (pixels), diameter (None: not known) and score.

        Raises
        ------
        CryoSegNetError
            The rows are not picks of this micrograph, or cannot be written.
        """
        micrograph = self._micrograph(number)
        x, y, size, score = _columns(rows, micrograph)
        picks = Picks(x, y, size, score, micrograph.pixel_size, micrograph.shape if min(micrograph.shape) else None)
        with self._saving:
            for suffix in self.suffixes:
                path = self._path(micrograph, suffix)
                make_folder(path.parent)
                picks.write(path)
        return {"path": str(self._path(micrograph, self.suffixes[0])), "picks": len(picks)}

    def discard(self, number: int) -> dict[str, Any]:
        """Remove the edited picks of a micrograph; the run's own picks stay."""
        micrograph = self._micrograph(number)
        with self._saving:
            for suffix in self.suffixes:
                try:
                    self._path(micrograph, suffix).unlink(missing_ok=True)
                except OSError as error:
                    raise CryoSegNetError(f"cannot remove the edited picks ({error.strerror}): check them.") from error
        return {"picks": None}

    def _micrograph(self, number: int) -> ViewedMicrograph:
        if not 0 <= number < len(self.micrographs):
            raise CryoSegNetError("no such micrograph.")
        return self.micrographs[number]

    def _path(self, micrograph: ViewedMicrograph, suffix: str) -> Path:
        path = self.target / f"{micrograph.stem}.{suffix}"
        # A manipulated journal must not lead out of the folder.
        if not path.resolve().is_relative_to(self.target.resolve()):
            raise CryoSegNetError(f"{micrograph.name}: its picks would lie outside {self.target} and are not written.")
        return path

    def _read(self, number: int) -> Micrograph:
        micrograph = self.micrographs[number]
        return read_micrograph(micrograph.path, pixel_size=micrograph.pixel_size)

    def _diameter_px(self, number: int) -> float:
        micrograph = self.micrographs[number]
        return to_pixels(micrograph.diameter or self.diameter, micrograph.pixel_size)

    def _edited(self) -> dict[int, list[list[float | None]]]:
        """Edited picks of earlier sessions, by number."""
        found: dict[int, list[list[float | None]]] = {}
        if not self.target.is_dir():
            return found
        for number, micrograph in enumerate(self.micrographs):
            path = self._path(micrograph, self.suffixes[0])
            if not path.is_file():
                continue
            picks = read_picks(path, pixel_size=micrograph.pixel_size)
            size = np.where(np.isfinite(picks.diameter), picks.diameter, micrograph.diameter or self.diameter)
            found[number] = np.stack([picks.x, picks.y, size, picks.score], axis=1).tolist()
        return found


def _columns(rows: object, micrograph: ViewedMicrograph) -> NDArray[np.float64]:
    """(4, n) x, y, diameter and score; CryoSegNetError if the rows are not picks of this micrograph."""
    if not isinstance(rows, list) or len(rows) > _MOST_PICKS:
        raise CryoSegNetError("this is not a list of picks.")
    ny, nx = micrograph.shape
    for row in rows:
        if not isinstance(row, list) or len(row) != 4:
            raise CryoSegNetError("a pick must be x, y, diameter and score.")
        x, y, diameter, score = row
        numbers = (x, y, score, 1.0 if diameter is None else diameter)
        if not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in numbers):
            raise CryoSegNetError("a pick must consist of numbers.")
        if not (0 <= x <= nx - 1 and 0 <= y <= ny - 1):
            raise CryoSegNetError("a pick lies outside the micrograph.")
    return np.array([[math.nan if value is None else value for value in row] for row in rows], float).reshape(-1, 4).T


def open_run(output: str | Path, target: str | Path | None = None, suffixes: Sequence[str] = ("star",)) -> ViewSession:
    """Open the output folder of a run.

    Parameters
    ----------
    output
        The folder.
    target
        Folder for edited picks (default: ``picks_edited`` in the run's folder).
    suffixes
        Formats to save.

    Raises
    ------
    CryoSegNetError
        Nothing was picked into the folder, or ``target`` holds the run's own files.
    """
    run = collect(output, fallback=[choose_command(str(output))])
    target = run.output / "picks_edited" if target is None else Path(target)
    run.refuse_own_folders(target)
    # The page is not sent by mail, so it may be larger.
    chosen = select_for_page(run.done, MOST_MICROGRAPHS, _CANDIDATE_BYTES)
    data = pack(run, pictures=False, chosen=chosen, room=_CANDIDATE_BYTES)
    records = chosen.shown
    shapes = zip(data["micrographs"]["height"], data["micrographs"]["width"])
    micrographs = [
        ViewedMicrograph(Path(r.key), r.name, r.stem, r.pixel_size, shape, r.diameter or 0.0)
        for r, shape in zip(records, shapes)
    ]
    sizes = [record.diameter for record in records if record.diameter]
    typical = float(np.median(sizes)) if sizes else float(run.settings.get("diameter") or 100.0)
    return ViewSession(micrographs, data, target, typical, suffixes, blank=False, output=run.output)


def open_micrographs(
    inputs: Sequence[Input],
    target: str | Path,
    *,
    diameter: float | None = None,
    pixel_size: float | None = None,
    suffixes: Sequence[str] = ("star",),
) -> ViewSession:
    """Open micrographs without picks, to label them.

    Parameters
    ----------
    inputs
        The micrographs.
    target
        Folder for the labels.
    diameter
        Of new circles: angstrom if the pixel size is given, else pixels (default: a thirtieth of the micrograph).
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
        raise CryoSegNetError(
            f"at most {MOST_MICROGRAPHS} micrographs can be viewed at a time (got {len(inputs)}): name fewer."
        )
    micrographs: list[ViewedMicrograph] = []
    failed: list[list[str]] = []
    for one, stem in zip(inputs, output_stems(inputs)):
        try:
            micrographs.append(ViewedMicrograph(Path(one.path), one.name, stem, pixel_size, read_shape(one.path), 0.0))
        except CryoSegNetError as error:
            failed.append([one.name, str(error)])
    if not micrographs:
        raise CryoSegNetError(f"none of the {len(inputs)} micrographs can be read; the first: {failed[0][1]}")
    longest = float(np.median([max(micrograph.shape) for micrograph in micrographs]))
    typical = diameter or round(from_pixels(longest / 30, pixel_size))
    data = _blank(micrographs, failed, pixel_size)
    return ViewSession(micrographs, data, Path(target), typical, suffixes, blank=True)


def _blank(
    micrographs: Sequence[ViewedMicrograph], failed: Sequence[Sequence[str]], pixel_size: float | None
) -> dict[str, Any]:
    """The page's data for micrographs without picks."""
    count = len(micrographs)
    nothing = pack(RunData(Path(), {}, ()), pictures=False)
    return nothing | {
        "title": plural(count, "micrograph"),
        "folder": "",
        "unit": "px" if pixel_size is None else "A",
        "settings": {},
        "totals": nothing["totals"] | {"micrographs": count, "failed": len(failed)},
        "micrographs": {
            "name": [micrograph.name for micrograph in micrographs],
            "picks": [0] * count,
            "width": [micrograph.shape[1] for micrograph in micrographs],
            "height": [micrograph.shape[0] for micrograph in micrographs],
            "pixel_size": [micrograph.pixel_size for micrograph in micrographs],
            "seconds": [0.0] * count,
        },
        "candidates": nothing["candidates"] | {"counts": [0] * count},
        "failed": [list(row) for row in failed],
    }
