"""A second set of picks over those of a run: which are common, by the rule of ``cryosegnet evaluate``."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CryoSegNetError, plural, some
from ..evaluation import remarks
from ..evaluation.matching import MAX_DISTANCE, match
from ..files.diameter import to_pixels
from ..files.inputs import STATE_FOLDER
from ..files.labels import coordinate_files
from ..files.micrograph_names import match_micrographs
from ..files.picks import Picks
from ..report.collect import collect
from ..runs.edited_picks import EditedPicks

_MOST_ROWS = 100_000
_MOST_COORDINATE = 1e6


@dataclass(frozen=True)
class Comparison:
    """Another set of picks of the session's micrographs.

    Attributes
    ----------
    name
        The file or folder.
    tables
        The other picks by the number of the micrograph; those without are not compared.
    reach
        Farthest that a common pick's two places lie apart, pixels, by the number of the micrograph.
    counts
        When the session was opened: picks in both sets, only in the session's, and only in the other one.
    notes
        What cannot be compared, and what is odd; one sentence each.
    """

    name: str
    tables: Mapping[int, Picks]
    reach: Mapping[int, float]
    counts: tuple[int, int, int]
    notes: Sequence[str] = field(default=())

    def rows(self) -> dict[str, Any]:
        """What the page needs: columns of float32 in base64, one micrograph after the other."""
        picks = list(self.tables.values())
        columns = {c: _base64([getattr(p, c) for p in picks]) for c in ("x", "y", "diameter", "score")}
        counts = [len(self.tables[i]) if i in self.tables else None for i in range(max(self.tables, default=-1) + 1)]
        return {"name": self.name, "notes": list(self.notes), "counts": counts, "distance": MAX_DISTANCE, **columns}

    def common(self, sets: object) -> dict[str, list[list[int]]]:
        """Pair picks of the page with the other ones, one to one, as `evaluation.matching.match` does.

        Parameters
        ----------
        sets
            By the number of the micrograph, as text: lists of x and y, pixels.

        Returns
        -------
        dict of str to list
            By the same number: the numbers of the paired picks of the page, and those of their partners.

        Raises
        ------
        CryoSegNetError
            These are no picks of micrographs that are compared.
        """
        if not isinstance(sets, dict):
            raise CryoSegNetError("these are not picks by micrograph.")
        found = {}
        for key, places in sets.items():
            number = int(key) if key.isascii() and key.isdigit() and len(key) < 7 else -1
            if number not in self.tables:
                raise CryoSegNetError("this micrograph is not compared.")
            other = self.tables[number]
            pairs = match(_places(places), _centres(other), self.reach[number])
            found[key] = [side.tolist() for side in pairs]
        return found


def read_comparison(
    path: str | Path,
    names: Sequence[str],
    pixel_sizes: Sequence[float | None],
    diameter: float,
    own: Mapping[int, Picks],
) -> Comparison:
    """Read the picks of another run or program.

    Parameters
    ----------
    path
        The folder of a run, or what `coordinate_files` reads.
    names
        The session's micrographs. Those of the other picks are found as `match_micrographs` does.
    pixel_sizes
        Angstrom per pixel, or None.
    diameter
        Of the particles, angstrom (pixels without a pixel size).
    own
        The session's picks by the number of the micrograph, for its shape and for remarks on shifted or mirrored ones.

    Raises
    ------
    CryoSegNetError
        There are no picks, or none of the session's micrographs has any there.
    """
    path = Path(path)
    tables, notes = _of_run(path) if (path / STATE_FOLDER).is_dir() else _of_files(path)
    found, unclear = match_micrographs(names, tables)
    if not found:
        raise CryoSegNetError(
            f"{path}: none of its {plural(len(tables), 'micrograph')} ({some(list(tables))}) is in the run "
            f"({some(list(names))}): give picks of the same micrographs."
        )
    notes += _unmatched(path, names, tables, found, unclear)
    other: dict[int, Picks] = {}
    sizes: list[str] = []
    for number, name in enumerate(names):
        if name not in found:
            continue
        picks, known = tables[found[name]], own[number].shape
        if known and picks.shape and picks.shape != known:
            sizes.append(f"{name} ({picks.shape[1]} x {picks.shape[0]} pixels, here {known[1]} x {known[0]})")
            continue
        other[number] = replace(picks, shape=known or picks.shape, pixel_size=pixel_sizes[number])
    if sizes:
        notes.append(
            f"{path}: {plural(len(sizes), 'micrograph')} of another size in pixels, as if binned, not compared: "
            f"{some(sizes)}."
        )
    if not other:
        raise CryoSegNetError(f"{notes[-1]} Give picks of the same micrographs, not binned.")
    reach = {number: MAX_DISTANCE * to_pixels(diameter, pixel_sizes[number]) for number in other}
    named = {names[number]: picks for number, picks in other.items()}
    mine = {names[number]: picks for number, picks in own.items() if number in other}
    if any(len(picks) for picks in mine.values()):
        notes += [f"{path}: {line}" for line in remarks.on_picks(named, mine, float(np.median(list(reach.values()))))]
    both = sum(len(match(_centres(own[i]), _centres(other[i]), reach[i])[0]) for i in other)
    counts = (both, sum(len(own[i]) for i in other) - both, sum(map(len, other.values())) - both)
    return Comparison(str(path), other, reach, counts, notes)


def _centres(picks: Picks) -> NDArray[np.float64]:
    return np.c_[picks.x, picks.y]


def _of_run(path: Path) -> tuple[dict[str, Picks], list[str]]:
    """The picks of another run, edited ones where there are, by the names of its micrographs."""
    run = collect(path)
    edits = EditedPicks(run)
    tables = {record.name: edits.picks(record) for record in run.done if record.stem not in edits.damaged}
    notes = [edits.sentence, *edits.remarks]
    if run.failed:
        notes.append(f"{plural(len(run.failed), 'micrograph')} of it failed.")
    return tables, [f"{path}: {note}" for note in notes if note]


def _of_files(path: Path) -> tuple[dict[str, Picks], list[str]]:
    """The picks of files, and why some are left out."""
    files, emptied = coordinate_files(path)
    tables: dict[str, Picks] = {}
    reasons = [f"{file} is empty or has lost its header" for file in emptied]
    twice: list[str] = []
    for file in files:
        try:
            read = file.read()
        except CryoSegNetError as error:
            reasons.append(str(error))
            continue
        for name, picks in read.items():
            if name in tables:
                twice.append(name)
                continue
            # Boxes are larger than the particle by an unknown factor.
            boxed = file.path.suffix.lower() == ".box"
            tables[name] = replace(picks, diameter=np.full(len(picks), np.nan)) if boxed else picks
    if not tables:
        why = reasons[0] if reasons else "there are no picks in it"
        raise CryoSegNetError(f"{path}: nothing to compare with: {why}; check the path.")
    notes = []
    if reasons:
        notes.append(f"{path}: {plural(len(reasons), 'file')} not read: {some(reasons)}")
    if twice:
        notes.append(f"{path}: {plural(len(twice), 'micrograph')} there twice, the first is taken: {some(twice)}.")
    return tables, notes


def _unmatched(
    path: Path, names: Sequence[str], tables: Mapping[str, Picks], found: Mapping[str, str], unclear: Sequence[str]
) -> list[str]:
    """What of either side has no partner."""
    doubtful = set(unclear)
    lacking = [name for name in names if name not in found and name not in doubtful]
    taken = set(found.values())
    extra = [name for name in tables if name not in taken]
    lines = []
    if lacking:
        lines.append(f"{len(lacking)} of {plural(len(names), 'micrograph')} have no picks there: {some(lacking)}.")
    if doubtful:
        lines.append(f"{plural(len(doubtful), 'micrograph')} cannot be told from others by the name: {some(unclear)}.")
    if extra:
        lines.append(f"{plural(len(extra), 'micrograph')} there not among those shown: {some(extra)}.")
    return [f"{path}: {line}" for line in lines]


def _places(places: object) -> NDArray[np.float64]:
    """(n, 2) of x, y; raises CryoSegNetError if they are none."""
    try:
        found = np.array(places, np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError) as error:
        raise CryoSegNetError("a pick must be x and y.") from error
    if len(found) > _MOST_ROWS or not (np.abs(found) <= _MOST_COORDINATE).all():
        raise CryoSegNetError("these are not picks of a micrograph.")
    return found


def _base64(parts: Sequence[NDArray[np.float64]]) -> str:
    return base64.b64encode(np.concatenate([np.zeros(0), *parts]).astype("<f4").tobytes()).decode()
