"""Open a run, or micrographs without picks, as a session of ``cryosegnet view``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CryoSegNetError, plural
from ..evaluation.matching import MAX_DISTANCE
from ..evaluation.reading import on_micrographs, read_labels
from ..files.diameter import as_picks_hold, from_pixels, to_pixels
from ..files.inputs import Input, output_stems
from ..files.labels import label_files, match_name
from ..files.micrograph import read_shape
from ..files.picks import Picks
from ..report.collect import RunData, collect
from ..report.command import CHOOSE, edits_commands, in_folder
from ..report.pack import pack, select_for_page
from ..runs.edited_picks import FOLDER, EditedPicks
from ..runs.journal import Record
from .audit import AuditSession, unlabelled
from .comparison import Comparison, read_comparison
from .session import ViewedMicrograph, ViewSession

log = logging.getLogger(__name__)

#: Most micrographs in one session.
MOST_MICROGRAPHS = 10_000
_CANDIDATE_BYTES = 60_000_000


def open_run(
    output: str | Path,
    target: str | Path | None = None,
    suffixes: Sequence[str] = ("star",),
    *,
    compare: str | Path | None = None,
    diameter: float | str | None = None,
) -> ViewSession:
    """Open the output folder of a run.

    Parameters
    ----------
    output
        The folder.
    target
        Folder for edited picks (default: ``picks_edited`` in the run's folder).
    suffixes
        Formats to save.
    compare
        Folder of another run, or file or folder of picks of any program, to show over these.
    diameter
        Of new circles, and of the particles for ``compare``, in the page's unit (default: the run's).

    Raises
    ------
    CryoSegNetError
        Nothing was picked into the folder, ``target`` holds the run's own files, or there is nothing to compare.
    """
    run = collect(output, fallback=[CHOOSE])
    target = run.output / FOLDER if target is None else Path(target)
    run.refuse_own_folders(target)
    session = _session_of(run, run.done, target, suffixes)
    if diameter is not None:
        session.diameter = as_picks_hold(diameter, session.micrographs[0].pixel_size)
    if compare is not None:
        session.comparison = _compared(run, session, compare)
    return session


def _compared(run: RunData, session: ViewSession, path: str | Path) -> Comparison:
    """Other picks of the session's micrographs."""
    records = {record.name: record for record in run.done}
    shown = session.micrographs
    edits = EditedPicks(run, session.target if session.target.is_dir() else None, session.target.is_dir())
    own = {i: _shown(edits, records[m.name]) for i, m in enumerate(shown)}
    pixel_sizes = [m.pixel_size for m in shown]
    return read_comparison(path, [m.name for m in shown], pixel_sizes, session.diameter, own)


def _shown(edits: EditedPicks, record: Record) -> Picks:
    """The picks that the page shows of a micrograph: none if its edited ones are damaged."""
    return Picks.empty(record.pixel_size) if record.stem in edits.damaged else edits.picks(record)


def open_audit(
    output: str | Path, labels: str | Path, file: str | Path | None = None, diameter: float | str | None = None
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
    matched = [(stem, one) for one in run.done if (stem := match_name(one.name, found.tables)) is not None]
    named, records = dict(matched), [record for _, record in matched]
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
    return _session_of(run, records, run.output / FOLDER, ("star",), audit)


def _label_diameter(labels: Mapping[str, Picks], given: float | str | None, picks: Picks) -> float:
    """In pixels: as given, or the median of the labels, or of the picks where labels have none."""
    if given is not None:
        return to_pixels(as_picks_hold(given, picks.pixel_size), picks.pixel_size)
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
    hand_on: list[dict[str, Any]] = []
    if audit is None:
        own = target.resolve() == (run.output / FOLDER).resolve()
        hand_on = [in_folder(one, str(run.output)) for one in edits_commands(None if own else str(target))]
        write = in_folder(CHOOSE, str(run.output))
        data["commands"] = [*hand_on, *(one for one in data["commands"] if one != write)]
    shown = chosen.shown
    shapes = zip(data["micrographs"]["height"], data["micrographs"]["width"])
    micrographs = [
        ViewedMicrograph(Path(r.key), r.name, r.stem, r.pixel_size, shape, r.diameter or 0.0)
        for r, shape in zip(shown, shapes)
    ]
    sizes = [record.diameter for record in shown if record.diameter]
    typical = float(np.median(sizes)) if sizes else 100.0
    given = run.settings.get("diameter")
    if not sizes and isinstance(given, int | float | str):
        typical = as_picks_hold(given, shown[0].pixel_size)
    session = ViewSession(micrographs, data, target, typical, suffixes, blank=False, output=run.output, audit=audit)
    session.hand_on = hand_on
    return session


def open_micrographs(
    inputs: Sequence[Input],
    target: str | Path,
    *,
    diameter: float | str | None = None,
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
        Of new circles: angstrom where a pixel size is known, else pixels (default: a thirtieth of the micrograph).
    pixel_size
        Angstrom per pixel of all micrographs; wins over those of a STAR file.
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
            size = one.known_pixel_size(pixel_size)
            micrographs.append(ViewedMicrograph(Path(one.path), one.name, stem, size, read_shape(one.path), 0.0))
        except CryoSegNetError as error:
            failed.append([one.name, str(error)])
    if not micrographs:
        raise CryoSegNetError(f"none of the {len(inputs)} micrographs can be read; the first: {failed[0][1]}")
    sizes = [micrograph.pixel_size for micrograph in micrographs if micrograph.pixel_size is not None]
    unknown = len(micrographs) - len(sizes)
    if sizes and unknown:
        log.warning(
            f"the pixel size of {unknown} of {plural(len(micrographs), 'micrograph')} is not known; "
            "their diameters are in pixels: give --pixel-size"
        )
    longest = float(np.median([max(micrograph.shape) for micrograph in micrographs]))
    pixel = float(np.median(sizes)) if sizes else None
    typical = round(from_pixels(longest / 30, pixel)) if diameter is None else as_picks_hold(diameter, pixel)
    data = _blank(micrographs, failed, "A" if sizes else "px")
    return ViewSession(micrographs, data, Path(target), typical, suffixes, blank=True)


def _blank(micrographs: Sequence[ViewedMicrograph], failed: Sequence[Sequence[str]], unit: str) -> dict[str, Any]:
    """The page's data for micrographs without picks."""
    count = len(micrographs)
    nothing = pack(RunData(Path(), {}, ()), pictures=False)
    return nothing | {
        "title": plural(count, "micrograph"),
        "folder": "",
        "unit": unit,
        "settings": {},
        "totals": nothing["totals"] | {"micrographs": count, "failed": len(failed)},
        "micrographs": {
            "name": [micrograph.name for micrograph in micrographs],
            "picks": [0] * count,
            "width": [micrograph.shape[1] for micrograph in micrographs],
            "height": [micrograph.shape[0] for micrograph in micrographs],
            "pixel_size": [micrograph.pixel_size for micrograph in micrographs],
            "by_hand": [False] * count,
            "seconds": [0.0] * count,
        },
        "candidates": nothing["candidates"] | {"counts": [0] * count},
        "failed": [list(row) for row in failed],
    }
