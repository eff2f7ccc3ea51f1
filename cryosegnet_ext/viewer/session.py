"""One session of ``cryosegnet view``: numbered micrographs, their picks, and the files for edited picks."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CryoSegNetError, plural
from ..evaluation.reading import on_micrographs, read_labels
from ..files.atomic import make_folder
from ..files.diameter import from_pixels, to_pixels
from ..files.inputs import Input, output_stems
from ..files.inside import inside
from ..files.labels import label_files, match_name
from ..files.micrograph import Micrograph, read_micrograph, read_shape
from ..files.picks import Picks
from ..report.collect import RunData, collect
from ..report.command import CHOOSE
from ..report.pack import pack, select_for_page
from ..runs.candidates import read_candidates
from ..runs.journal import Record
from .audit import MAX_DISTANCE, AuditSession, unlabelled
from .edits import picks_of, read_rows
from .tiles import TileRenderer

#: Most micrographs in one session.
MOST_MICROGRAPHS = 10_000
_CANDIDATE_BYTES = 60_000_000


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
        self._output = output
        self._tiles = TileRenderer(self._read, self._diameter_px)
        self._saving = threading.Lock()

    def view(self, token: str) -> dict[str, Any]:
        """What the page needs besides its data."""
        edited, unreadable = self._edited() if self.audit is None else ({}, {})
        return {
            "token": token,
            "blank": self.blank,
            "diameter": self.diameter,
            "target": str(self.target),
            "edited": edited,
            "unreadable": unreadable,
            "audit": None if self.audit is None else self._audited(self.audit),
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
        return {"path": str(self._path(micrograph, self.suffixes[0])), "picks": len(picks)}

    def mark(self, number: int, pick: object, verdict: object) -> dict[str, Any]:
        """Note what is said of a pick of the audit; see `AuditSession.mark`, which says what is raised."""
        micrograph = self._micrograph(number)
        if self.audit is None:
            raise CryoSegNetError("nothing is audited here.")
        return self.audit.mark(micrograph.stem, pick, verdict)

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
        return inside(self.target.parent, f"{self.target.name}/{micrograph.stem}.{suffix}")

    def _read(self, number: int) -> Micrograph:
        micrograph = self.micrographs[number]
        return read_micrograph(micrograph.path, pixel_size=micrograph.pixel_size)

    def _diameter_px(self, number: int) -> float:
        micrograph = self.micrographs[number]
        return to_pixels(micrograph.diameter or self.diameter, micrograph.pixel_size)

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
        path = self._path(micrograph, self.suffixes[0])
        try:
            if not path.is_file():
                return None
        except OSError as error:
            raise CryoSegNetError(f"cannot read {path} ({error.strerror}): check its folder.") from error
        return read_rows(path, micrograph.shape, micrograph.pixel_size, micrograph.diameter or self.diameter)


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
    run = collect(output, fallback=[CHOOSE])
    target = run.output / "picks_edited" if target is None else Path(target)
    run.refuse_own_folders(target)
    return _session_of(run, run.done, target, suffixes)


def open_audit(
    output: str | Path, labels: str | Path, file: str | Path | None = None, diameter: float | None = None
) -> ViewSession:
    """Open the output folder of a run to judge its picks that lie at no label.

    Parameters
    ----------
    output
        The folder. Micrographs without labels are left out.
    labels
        File or folder of labels.
    file
        The audit file (default: ``audit.json`` in the run's folder); an earlier session's is gone on with.
    diameter
        Of the labels, angstrom (pixels without a pixel size): a pick within 0.3 of it is labelled (default: the median
        of the labels; if they have none, of the picks).

    Raises
    ------
    CryoSegNetError
        Nothing was picked into the folder, none of its micrographs is labelled, or a file is damaged.
    """
    run = collect(output, fallback=[CHOOSE])
    path = run.output / "audit.json" if file is None else Path(file)
    if path.parent.resolve() != run.output.resolve():
        run.refuse_own_folders(path.parent)
    found = read_labels(label_files(labels))
    named = {stem: record for record in run.done if (stem := match_name(record.name, found.tables)) is not None}
    records = [record for record in run.done if match_name(record.name, found.tables) is not None]
    if not records:
        raise CryoSegNetError(f"{labels}: none of the micrographs of {output} has labels here; check the path.")
    if len(named) < len(records):
        raise CryoSegNetError(
            f"{labels}: two micrographs of {output} belong to the same labels: pick those of one folder only."
        )
    picks = {stem: run.candidates(record)[0].candidates.above(run.threshold) for stem, record in named.items()}
    shapes = {stem: p.shape for stem, p in picks.items() if p.shape is not None}
    tables = {stem: p for stem, p in on_micrographs(found, shapes).items() if stem in named}
    reach = {stem: MAX_DISTANCE * _label_diameter(tables, diameter, picks[stem]) for stem in named}
    todo = {named[stem].stem: unlabelled(p, tables[stem], reach[stem]) for stem, p in picks.items()}
    about = {"labels": str(labels), "run": str(output), "weights": run.settings.get("weights")}
    audit = AuditSession(path, todo, float(np.median(list(reach.values()))), about)
    return _session_of(run, records, run.output / "picks_edited", ("star",), audit)


def _label_diameter(labels: Mapping[str, Picks], given: float | None, picks: Picks) -> float:
    """In pixels: as given, or the median of the labels, or of the picks where labels have none."""
    if given is not None:
        return to_pixels(given, picks.pixel_size)
    for sizes in (np.concatenate([p.diameter_px for p in labels.values()]), picks.diameter_px):
        if np.isfinite(sizes).any():
            return float(np.nanmedian(sizes))
    return 0.0


def _session_of(
    run: RunData,
    records: Sequence[Record],
    target: Path,
    suffixes: Sequence[str],
    audit: AuditSession | None = None,
) -> ViewSession:
    """The session of some of a run's micrographs."""
    # The page is not sent by mail, so it may be larger.
    chosen = select_for_page(records, MOST_MICROGRAPHS, _CANDIDATE_BYTES)
    data = pack(run, pictures=False, chosen=chosen, room=_CANDIDATE_BYTES)
    shown = chosen.shown
    shapes = zip(data["micrographs"]["height"], data["micrographs"]["width"])
    micrographs = [
        ViewedMicrograph(Path(r.key), r.name, r.stem, r.pixel_size, shape, r.diameter or 0.0)
        for r, shape in zip(shown, shapes)
    ]
    sizes = [record.diameter for record in shown if record.diameter]
    typical = float(np.median(sizes)) if sizes else float(run.settings.get("diameter") or 100.0)
    return ViewSession(micrographs, data, target, typical, suffixes, blank=False, output=run.output, audit=audit)


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
