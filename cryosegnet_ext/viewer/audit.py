"""Picks that no label vouches for, and the file of what was said of them: particle, junk or unsure.

Labels are rarely complete, so a pick without a label is not always wrong. An audit file is JSON: what it belongs to,
and under ``picks`` for each micrograph's stem a row for each pick: x and y in pixels, score, one verdict or several.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CryoSegNetError
from ..evaluation import match
from ..files.atomic import make_folder, write_atomic
from ..files.picks import Picks

PARTICLE, JUNK, UNSURE = "particle", "junk", "unsure"
#: What can be said of a pick.
VERDICTS = (PARTICLE, JUNK, UNSURE)
_MOST_BYTES = 100_000_000


@dataclass(frozen=True)
class AuditedPick:
    """A pick and what was said of it.

    Attributes
    ----------
    x, y
        Pixels.
    score
        NaN if it is not known.
    passes
        The verdict of each pass over the picks; one at least.
    """

    x: float
    y: float
    score: float
    passes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """What all passes say; unsure where they differ.

        >>> AuditedPick(1, 2, 0.5, ("junk", "particle")).verdict
        'unsure'
        """
        return self.passes[0] if len(set(self.passes)) == 1 else UNSURE


@dataclass(frozen=True)
class Audit:
    """The content of an audit file.

    Attributes
    ----------
    about
        What it belongs to and how it was made; any JSON but ``picks``.
    picks
        By the micrograph's stem.
    """

    about: Mapping[str, Any]
    picks: Mapping[str, Sequence[AuditedPick]]

    def write(self, path: Path) -> None:
        """Write the file whole or not at all, one line a pick; raises CryoSegNetError if it cannot be written."""
        parts = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in self.about.items() if key != "picks"]
        tables = []
        for stem, picks in self.picks.items():
            rows = [json.dumps([p.x, p.y, p.score if math.isfinite(p.score) else None, *p.passes]) for p in picks]
            tables.append(f"  {json.dumps(stem)}: [{','.join(f'{chr(10)}   {row}' for row in rows)}]")
        parts.append(' "picks": {\n' + ",\n".join(tables) + "\n }")
        make_folder(path.parent)
        write_atomic(path, "{\n" + ",\n".join(parts) + "\n}\n")


def read_audit(path: str | Path) -> Audit:
    """Read an audit file.

    Raises
    ------
    CryoSegNetError
        It cannot be read, or is no audit file.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise CryoSegNetError(f"{path} is too large for an audit file: check the path.")
        about = json.loads(path.read_text(encoding="utf-8"))
        tables = {stem: [_row(row) for row in rows] for stem, rows in about.pop("picks").items()}
    except OSError as error:
        raise CryoSegNetError(f"cannot read {path} ({error.strerror or error}): check the path.") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CryoSegNetError(f"{path} is no audit file, or damaged: name another file or restore it.") from error
    return Audit(about, tables)


def _row(row: Any) -> AuditedPick:
    x, y, score, *passes = row
    numbers = [x, y] if score is None else [x, y, score]
    sound = all(type(value) in (int, float) and math.isfinite(value) for value in numbers)
    if not (sound and passes and all(verdict in VERDICTS for verdict in passes)):
        raise ValueError("not a row of an audit file")
    return AuditedPick(float(x), float(y), math.nan if score is None else float(score), tuple(passes))


def unlabelled(picks: Picks, labels: Picks, reach: float) -> Picks:
    """The picks that are paired with no label, one to one, within ``reach`` pixels; in their order."""
    right = match(np.c_[picks.x, picks.y], np.c_[labels.x, labels.y], reach)[0]
    alone = np.ones(len(picks), bool)
    alone[right] = False
    return picks.take(alone)


def audited(picks: NDArray[np.float64], rows: Sequence[AuditedPick], reach: float) -> list[AuditedPick | None]:
    """The audited pick at each pick, paired one to one; None where there is none.

    Parameters
    ----------
    picks : (n, 2)
        x, y in pixels.
    rows
        Audited picks of the same micrograph.
    reach
        Farthest that they lie apart, pixels.
    """
    places = np.array([(row.x, row.y) for row in rows], float).reshape(-1, 2)
    found: list[AuditedPick | None] = [None] * len(picks)
    for i, j in zip(*match(picks, places, reach)):
        found[i] = rows[j]
    return found


class AuditSession:
    """The picks to judge and their verdicts, kept in a file that a later session goes on with.

    Verdicts in the file at places where this run has no such pick stay in it.

    Parameters
    ----------
    path
        The audit file; it is made with the first verdict.
    todo
        Picks to judge by the micrograph's stem; their number is their place in the table.
    reach
        Farthest that a pick lies from its place in the file, pixels.
    about
        Written into a new file.

    Raises
    ------
    CryoSegNetError
        The file is damaged, or holds several verdicts a pick.
    """

    def __init__(self, path: Path, todo: Mapping[str, Picks], reach: float, about: Mapping[str, Any]) -> None:
        self.path = path
        self.todo = todo
        self._saving = threading.Lock()
        before = read_audit(path) if path.exists() else Audit({}, {})
        if any(len(p.passes) > 1 for p in _all(before.picks)):
            raise CryoSegNetError(f"{path} holds several verdicts for each pick: name another --audit-file.")
        self._about = {**about, **before.about}
        self._others = {stem: list(rows) for stem, rows in before.picks.items()}
        self._verdicts: dict[str, list[str | None]] = {}
        for stem, picks in todo.items():
            rows = self._others.get(stem, [])
            judged = audited(np.c_[picks.x, picks.y], rows, reach)
            taken = {id(row) for row in judged if row is not None}
            self._others[stem] = [row for row in rows if id(row) not in taken]
            self._verdicts[stem] = [None if row is None else row.verdict for row in judged]

    def rows(self, stem: str) -> list[list[Any]]:
        """Lists of x, y (pixels), diameter (None: not known), score and verdict (None: not judged)."""
        if stem not in self.todo:
            return []
        p = self.todo[stem]
        return [
            [float(x), float(y), float(d) if np.isfinite(d) else None, float(s), verdict]
            for x, y, d, s, verdict in zip(p.x, p.y, p.diameter, p.score, self._verdicts[stem])
        ]

    def mark(self, stem: str, number: object, verdict: object) -> dict[str, Any]:
        """Note the verdict of a pick and write the file; None takes it back.

        Raises
        ------
        CryoSegNetError
            There is no such pick or verdict, or the file cannot be written; the verdict then stays as it was.
        """
        known = self._verdicts.get(stem, [])
        if type(number) is not int or not 0 <= number < len(known):
            raise CryoSegNetError("no such pick.")
        if verdict is not None and verdict not in VERDICTS:
            raise CryoSegNetError(f"a pick is {', '.join(VERDICTS[:-1])} or {VERDICTS[-1]}.")
        with self._saving:
            before = known[number]
            known[number] = None if verdict is None else str(verdict)
            try:
                self._audit().write(self.path)
            except BaseException:
                known[number] = before
                raise
        return {"path": str(self.path), "judged": self.judged, "all": self.total}

    @property
    def judged(self) -> int:
        """How many of the picks have a verdict."""
        return sum(verdict is not None for found in self._verdicts.values() for verdict in found)

    @property
    def total(self) -> int:
        """How many picks there are to judge."""
        return sum(map(len, self._verdicts.values()))

    def _audit(self) -> Audit:
        tables = {stem: list(rows) for stem, rows in self._others.items()}
        for stem, picks in self.todo.items():
            for x, y, score, verdict in zip(picks.x, picks.y, picks.score, self._verdicts[stem]):
                if verdict is not None:
                    place = round(float(x), 2), round(float(y), 2), round(float(score), 4)
                    tables.setdefault(stem, []).append(AuditedPick(*place, (verdict,)))
        return Audit(self._about, {stem: rows for stem, rows in sorted(tables.items()) if rows})


def _all(tables: Mapping[str, Sequence[AuditedPick]]) -> Iterable[AuditedPick]:
    return (pick for rows in tables.values() for pick in rows)
