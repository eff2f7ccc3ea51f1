"""One session of ``cryosegnet view``: numbered micrographs, their picks, and the files for edited picks."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CryoSegNetError
from ..files.atomic import make_folder
from ..files.inside import inside
from ..files.micrograph import Micrograph, read_micrograph
from ..runs.candidates import read_candidates
from ..runs.edited_picks import SUFFIXES, edited_file
from .audit import AuditSession
from .comparison import Comparison
from .edits import picks_of, read_rows
from .tiles import LOWPASS, TileRenderer


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
        Formats to save; the next session reads the newest, or that with most columns.
    blank
        The session starts without picks.
    output
        The run's folder, which holds thumbnails.
    audit
        Picks to judge; the page then edits no picks.
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
        audit: AuditSession | None = None,
    ) -> None:
        self.micrographs = micrographs
        self.data = data
        self.target = target
        self.diameter = diameter
        self.suffixes = tuple(suffixes)
        self.blank = blank
        self.audit = audit
        #: Commands of the page that hand on what it shows.
        self.hand_on: list[dict[str, Any]] = []
        #: Picks of another run or program, to show over these.
        self.comparison: Comparison | None = None
        self._output = output
        self._tiles = TileRenderer(self._read, lambda number: self.micrographs[number].pixel_size)
        self._saving = threading.Lock()

    def view(self, token: str) -> dict[str, Any]:
        """What the page needs besides its data."""
        edited, unreadable = self._edited() if self.audit is None else ({}, {})
        return {
            "token": token,
            "blank": self.blank,
            "diameter": self.diameter,
            "lowpass": max(1, round(LOWPASS * self.diameter)),
            "target": str(self.target),
            "edited": edited,
            "unreadable": unreadable,
            "compare": None if self.comparison is None else self.comparison.rows(),
            "audit": None if self.audit is None else self._audited(self.audit),
        }

    def tile(self, number: int, level: int, column: int, row: int, lowpass: int) -> bytes:
        """As `TileRenderer.tile`."""
        self._micrograph(number)
        return self._tiles.tile(number, level, column, row, lowpass)

    def thumbnail(self, number: int) -> bytes:
        """The thumbnail that the run saved, or else that of `TileRenderer.thumbnail`."""
        micrograph = self._micrograph(number)
        kept = read_candidates(self._output, micrograph.stem, thumbnail=True) if self._output is not None else None
        return kept.thumbnail if kept is not None and kept.thumbnail else self._tiles.thumbnail(number)

    def crops(self, number: int, places: object, width: object) -> bytes:
        """As `TileRenderer.crops`."""
        self._micrograph(number)
        return self._tiles.crops(number, places, width)

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
            The rows are not picks of this micrograph, or cannot be written. Or what is there is damaged, and was
            therefore not shown: nobody's work is replaced unseen.
        """
        micrograph = self._micrograph(number)
        picks = picks_of(rows, micrograph.shape, micrograph.pixel_size)
        with self._saving:
            self._edited_rows(micrograph)
            for suffix in self.suffixes:
                path = self._path(micrograph, suffix)
                make_folder(path.parent)
                picks.write(path)
            self._averages_are_old()
        return {"path": str(self._path(micrograph, self.suffixes[0])), "picks": len(picks)}

    def mark(self, number: int, pick: object, verdict: object) -> dict[str, Any]:
        """Note what is said of a pick of the audit; see `AuditSession.mark`, which says what is raised."""
        micrograph = self._micrograph(number)
        if self.audit is None:
            raise CryoSegNetError("nothing is audited here.")
        return self.audit.mark(micrograph.stem, pick, verdict)

    def common(self, sets: object) -> dict[str, Any]:
        """As `Comparison.common`."""
        if self.comparison is None:
            raise CryoSegNetError("nothing is compared here.")
        return self.comparison.common(sets)

    def discard(self, number: int) -> dict[str, Any]:
        """Remove the edited picks of a micrograph; the run's own picks stay."""
        micrograph = self._micrograph(number)
        with self._saving:
            for suffix in SUFFIXES:
                try:
                    self._path(micrograph, suffix[1:]).unlink(missing_ok=True)
                except OSError as error:
                    raise CryoSegNetError(f"cannot remove the edited picks ({error.strerror}): check them.") from error
            self._averages_are_old()
        return {"picks": None}

    def _averages_are_old(self) -> None:
        """Averages that were made with edits are of other picks now; the page may be loaded again."""
        averages = self.data["averages"]
        if averages is not None and averages["edits"] is not None:
            averages["old"] = True

    def _micrograph(self, number: int) -> ViewedMicrograph:
        if not 0 <= number < len(self.micrographs):
            raise CryoSegNetError("no such micrograph.")
        return self.micrographs[number]

    def _path(self, micrograph: ViewedMicrograph, suffix: str) -> Path:
        return inside(self.target.parent, f"{self.target.name}/{micrograph.stem}.{suffix}")

    def _read(self, number: int) -> Micrograph:
        micrograph = self.micrographs[number]
        return read_micrograph(micrograph.path, pixel_size=micrograph.pixel_size)

    def _audited(self, audit: AuditSession) -> dict[str, Any]:
        picks = {i: audit.rows(micrograph.stem) for i, micrograph in enumerate(self.micrographs)}
        return {"path": str(audit.path), "picks": picks}

    def _edited(self) -> tuple[dict[int, list[list[float]]], dict[int, str]]:
        """Edited picks of earlier sessions by number, and why others cannot be shown."""
        found: dict[int, list[list[float]]] = {}
        unreadable: dict[int, str] = {}
        for number, micrograph in enumerate(self.micrographs):
            try:
                rows = self._edited_rows(micrograph)
            except CryoSegNetError as error:
                unreadable[number] = str(error)
            else:
                if rows is not None:
                    found[number] = rows
        return found, unreadable

    def _edited_rows(self, micrograph: ViewedMicrograph) -> list[list[float]] | None:
        """Edited picks of a micrograph; None if there are none. CryoSegNetError if they cannot be read."""
        path = edited_file(self.target, micrograph.stem)
        if path is None:
            return None
        return read_rows(path, micrograph.shape, micrograph.pixel_size, micrograph.diameter or self.diameter)
