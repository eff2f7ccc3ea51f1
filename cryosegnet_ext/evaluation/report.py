"""An evaluation as text for the terminal, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..files.atomic import make_folder, write_atomic
from .curves import draw
from .measures import MicrographScore, SetScore

SCHEMA = 1

AS_PUBLISHED = "as published (best of each over the micrographs; an upper end)"
"""Title of the paper's statistic in all outputs."""

_LONGEST = 40  # most rows of micrographs on the terminal
_NAMED = 5  # most micrographs named in a remark


def table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Format rows as aligned text, header first; the first ``left`` columns are left-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def terminal(sets: Sequence[SetScore], settings: dict[str, Any], remarks: Iterable[str] = ()) -> str:
    """The evaluation as text for the terminal; ``remarks`` on the labels come before those on the sets."""
    parts = [_settings(settings), table([_HEADER, *(_row(s) for s in sets)])]
    rows = [["mean over micrographs", "P", "R", "F1", "Dice"]]
    rows += [[s.name, *(_3(s.mean[k]) for k in ("precision", "recall", "f1", "dice"))] for s in sets]
    parts.append(table(rows))
    rows = [[AS_PUBLISHED, "P", "R", "F1", "Dice"]]
    rows += [
        [s.name, *map(_3, (s.published.precision, s.published.recall, s.published.f1, s.published.dice))] for s in sets
    ]
    parts.append(table(rows))
    if sum(len(s.micrographs) for s in sets) <= _LONGEST:
        rows = [["micrograph", "set", "labels", "picks", "P", "R", "F1", "Dice", "offset px"]]
        rows += [
            _micrograph_row(m, s.name) for group in zip(*(s.micrographs for s in sets)) for m, s in zip(group, sets)
        ]
        parts.append(table(rows, left=2))
    lines = [*remarks, *(line for s in sets for line in _remarks(s))]
    parts += ["\n".join(f"note: {line}" for line in lines)] if lines else []
    return "\n\n".join(parts)


def _remarks(score: SetScore) -> list[str]:
    lines = [f"{score.name}: {note}" for note in score.notes]
    if score.missing:
        lines.append(f"{score.name}: no picks for {_names(score.missing)}; their labels count as missed.")
    if score.unlabelled:
        lines.append(f"{score.name}: picks of {_names(score.unlabelled)} are left out, because there are no labels.")
    return lines


def write_files(sets: Sequence[SetScore], settings: dict[str, Any], folder: Path) -> str:
    """Write tables and plots into a folder, which is made if needed; returns a message that names them.

    Raises
    ------
    CryoSegNetError
        The folder cannot be made.
    """
    make_folder(folder)
    files = [folder / "evaluation.csv", folder / "evaluation.json"]
    _write_csv(sets, files[0])
    write_atomic(files[1], json.dumps(as_json(sets, settings), indent=1) + "\n")
    files += draw(sets, folder)
    lines = [f"written: {', '.join(map(str, files))}"]
    if not any(s.has_scores for s in sets):
        lines.append("f1_threshold.png is not drawn: no set has picks of different scores")
    return "\n".join(lines)


def _write_csv(sets: Sequence[SetScore], path: Path) -> None:
    """For each set one row per micrograph, then one for the total and one for the mean."""
    columns = ["set", "micrograph", "labels", "picks", "right", "precision", "recall", "f1", "dice", "pixel_precision"]
    columns += ["pixel_recall", "median_offset_px", "shift_x_px", "shift_y_px", "average_precision", "best_f1"]
    columns += ["best_threshold", "missing"]
    rows = [columns]
    for s in sets:
        values = [(m.name, _micrograph_values(m)) for m in s.micrographs]
        for name, row in (*values, ("(total)", _total_values(s)), ("(mean)", s.mean)):
            rows.append([s.name, name, *(_cell(row.get(c)) for c in columns[2:])])
    write_rows(rows, path)


def write_rows(rows: Iterable[Sequence[Any]], path: Path) -> None:
    """Write a table as CSV."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomic(path, text.getvalue().encode(errors="surrogateescape"))


def as_json(sets: Sequence[SetScore], settings: dict[str, Any]) -> dict[str, Any]:
    """The evaluation for other programs, with numbers that are not rounded."""
    return {
        "schema": SCHEMA,
        "version": __version__,
        "settings": settings,
        "sets": [
            {
                "name": s.name,
                "threshold": s.threshold,
                "total": _total_values(s),
                "mean": s.mean,
                "as_published": {"what": AS_PUBLISHED, **_values(s.published, "precision", "recall", "f1", "dice")},
                "curve": _curve(s),
                "notes": list(s.notes),
                "missing": s.missing,
                "unlabelled": list(s.unlabelled),
                "micrographs": [{"name": m.name, **_micrograph_values(m)} for m in s.micrographs],
            }
            for s in sets
        ],
    }


_HEADER = ["total", "micrographs", "labels", "picks", "P", "R", "F1"]
_HEADER += ["best F1", "at", "AP", "Dice", "offset px", "shift x, y px"]


def _row(s: SetScore) -> list[str]:
    name = s.name if s.threshold is None else f"{s.name} (>= {s.threshold:g})"
    best, at = s.best or (None, None)
    offset = "-" if s.median_offset is None else f"{s.median_offset:.1f}"
    shift = "-" if s.shift is None else f"{s.shift[0]:+.1f}, {s.shift[1]:+.1f}"
    cells = [name, str(len(s.micrographs)), str(s.labels), str(s.picks), _3(s.precision), _3(s.recall), _3(s.f1)]
    return [*cells, _3(best), "-" if at is None else f"{at:.3g}", _3(s.average_precision), _3(s.dice), offset, shift]


def _micrograph_row(m: MicrographScore, name: str) -> list[str]:
    offset = _micrograph_values(m)["median_offset_px"]
    picks = "none" if m.missing else str(m.picks)
    cells = [m.name, name, str(m.labels), picks, _3(m.precision), _3(m.recall), _3(m.f1), _3(m.dice)]
    return [*cells, "-" if offset is None else f"{offset:.1f}"]


def _values(of: object, *names: str) -> dict[str, Any]:
    return {name: getattr(of, name) for name in names}


def _micrograph_values(m: MicrographScore) -> dict[str, Any]:
    median = float(np.median(np.hypot(*m.offset.T))) if len(m.offset) else None
    x, y = m.offset.mean(0).tolist() if len(m.offset) else (None, None)
    return {
        **_values(
            m, "labels", "picks", "right", "precision", "recall", "f1", "dice", "pixel_precision", "pixel_recall"
        ),
        "median_offset_px": median,
        "shift_x_px": x,
        "shift_y_px": y,
        "missing": m.missing,
    }


def _total_values(s: SetScore) -> dict[str, Any]:
    x, y = s.shift or (None, None)
    best, at = s.best or (None, None)
    return {
        "micrographs": len(s.micrographs),
        **_values(s, "labels", "picks", "right", "precision", "recall", "f1", "average_precision"),
        "best_f1": best,
        "best_threshold": at,
        "dice": s.dice,
        "median_offset_px": s.median_offset,
        "shift_x_px": x,
        "shift_y_px": y,
    }


def _curve(s: SetScore) -> dict[str, list[float]] | None:
    if not s.has_scores:
        return None
    return {name: v.tolist() for name, v in _values(s.curve, "threshold", "precision", "recall", "f1").items()}


def _settings(settings: dict[str, Any]) -> str:
    pixel_size = settings.get("pixel_size")
    diameter = settings["diameter_px"]
    size = f"{diameter:.0f} px" + (f" ({diameter * pixel_size:.0f} A)" if pixel_size else "")
    share = settings["max_distance"]
    return (
        f"A pick is right within {share:g} diameters = {share * diameter:.1f} px of a label, one to one; "
        f"diameter {size}, {settings['diameter_from']}."
    )


def _names(names: Iterable[str]) -> str:
    names = list(names)
    if len(names) == 1:
        return names[0]
    shown = ", ".join(names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} micrographs ({shown}{more})"


def _3(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return int(value)
    return f"{value:.6g}" if isinstance(value, float) else value
