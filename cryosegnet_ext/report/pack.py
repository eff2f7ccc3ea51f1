"""Pack a run into the page's data. Its size is bounded, however many micrographs there are."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..cores import usable_cores
from ..files.picks import Picks
from ..runs.candidates import SavedCandidates
from ..runs.false_picks import has_probabilities
from ..runs.journal import Record
from .averages import pack_averages
from .collect import RunData
from .command import in_folder
from .particles import pack_crops

#: Largest size of the page, bytes, and the candidates' part of it.
PAGE_BYTES, CANDIDATE_BYTES = 25_000_000, 12_000_000
#: Most micrographs that the page shows; the others are only counted.
MOST_SHOWN = 2000
#: Candidates of at most this many micrographs are read; counts are then scaled up, and the page says so.
MOST_READ = 10_000
_MOST_FAILED = 500
_EXTREMES = 200
#: Thresholds that the page offers; the run's own is added.
_STEPS = 1000
#: Bytes of one candidate in the page.
_EACH = 4 * 2 * 4 / 3
_UNKNOWN_SIZE = 65535
_SIDES = (512, 448, 384, 320, 256, 208, 160, 128)
_QUALITIES = {512: 80, 448: 72, 384: 70, 320: 68, 256: 66, 208: 62, 160: 58, 128: 50}
_THREADS = min(8, 2 * usable_cores())


@dataclass
class PageSelection:
    """Which micrographs the page shows.

    Attributes
    ----------
    shown, counted
        Micrographs that are shown, and those whose candidates are only counted.
    scale
        Factor on the counts, if only some of the others are read.
    even
        Those of ``shown`` that are spread evenly over the run.
    """

    shown: list[Record]
    counted: list[Record]
    scale: float = 1.0
    even: list[Record] = field(default_factory=list)


def select_for_page(done: Sequence[Record], most: int = MOST_SHOWN, room: int = CANDIDATE_BYTES) -> PageSelection:
    """Select the micrographs to show: all; of many, those with the fewest and the most picks, and some between.

    Parameters
    ----------
    done
        Picked micrographs, in order.
    most
        How many to show at most.
    room
        Bytes of the page for candidates; at least the picks must fit.
    """
    each = _EACH * sum(record.picks for record in done) / max(1, len(done))
    most = min(most, max(1, int(0.9 * room / max(each, 1.0))))
    if len(done) <= most:
        return PageSelection(list(done), [], even=list(done))
    by_picks = sorted(range(len(done)), key=lambda i: done[i].picks)
    extremes = min(_EXTREMES, most // 5)
    wanted = {*by_picks[:extremes], *by_picks[-extremes:]}
    even = set(np.linspace(0, len(done) - 1, most - len(wanted)).round().astype(int).tolist())
    wanted |= even
    rest = [record for i, record in enumerate(done) if i not in wanted]
    places = np.linspace(0, len(rest) - 1, min(len(rest), MOST_READ - len(wanted))).round().astype(int)
    read = [rest[i] for i in places]
    scale = len(rest) / max(1, len(read))
    return PageSelection([done[i] for i in sorted(wanted)], read, scale, [done[i] for i in sorted(even)])


def levels_of(threshold: float) -> NDArray[np.float64]:
    """(k,) thresholds that the page offers, ascending: thousandths, and the run's own."""
    return np.union1d(np.arange(_STEPS + 1) / _STEPS, [threshold])


def level_of(score: NDArray[np.float64], levels: NDArray[np.float64]) -> NDArray[np.uint16]:
    """(n,) the highest level that each score reaches: ``score >= levels[i]`` if and only if its level is at least i."""
    return np.maximum(np.searchsorted(levels, score, side="right") - 1, 0).astype(np.uint16)


def size_code(diameter: NDArray[np.float64]) -> NDArray[np.uint16]:
    """(n,) codes of diameters that compare exactly with whole limits: twice the whole part, plus one for a fraction.

    For a whole number m, ``diameter >= m`` is ``code >= 2 * m`` and ``diameter <= m`` is ``code <= 2 * m``. An unknown
    diameter is 65535.
    """
    whole = np.floor(np.nan_to_num(diameter))
    code = np.clip(2 * whole + (diameter > whole), 0, _UNKNOWN_SIZE - 1)
    return np.where(np.isfinite(diameter), code, _UNKNOWN_SIZE).astype(np.uint16)


def pack(
    run: RunData, *, pictures: bool = True, chosen: PageSelection | None = None, room: int = CANDIDATE_BYTES
) -> dict[str, Any]:
    """The page's data, JSON-able.

    Parameters
    ----------
    run
        The run.
    pictures
        Include thumbnails of the micrographs; without them the page asks a server.
    chosen
        Micrographs to show and to count (default: those of `select_for_page`).
    room
        Bytes for candidates.
    """
    chosen = chosen or select_for_page(run.done, room=room)
    levels = levels_of(run.threshold)
    with ThreadPoolExecutor(_THREADS) as pool:
        kept = list(pool.map(lambda record: run.candidates(record, pictures), chosen.shown))
        others = _tally(pool.map(lambda record: run.candidates(record)[0].candidates, chosen.counted), levels)
        sets = [one.candidates for one, _ in kept]
        lowest = min(_floor(sets, levels, room), run.threshold)
        whole = all(complete for _, complete in kept)
        if not whole:
            # Below the run's threshold, micrographs with only a pick file would look empty.
            lowest = max(lowest, run.threshold)
        counts = [int((picks.score >= lowest).sum()) for picks in sets]
        # Crops name candidates by number, so picks of a pick file have none.
        numbered = {record.stem for record, (_, complete) in zip(chosen.shown, kept) if complete}
        crops = pack_crops(run, chosen.shown, counts, pool, [r for r in chosen.even if r.stem in numbered])
        thumbnails = []
        if pictures:
            used = int(_EACH * sum(counts)) + sum(len(sheet["jpeg"]) for sheet in crops["sheets"])
            thumbnails = _thumbnails([one for one, _ in kept], pool, PAGE_BYTES - used)
    floor = int(np.searchsorted(levels, lowest))
    records = chosen.shown
    return {
        "title": run.output.resolve().name or str(run.output),
        "folder": str(run.output),
        "threshold": run.threshold,
        "levels": levels.tolist(),
        "floor": floor,
        "complete": whole,
        "probabilities": has_probabilities(run.settings),
        "unit": "A" if any(r.pixel_size for r in run.done) or not run.done else "px",
        "settings": {name: run.settings.get(name) for name in ("weights", "diameter")},
        "totals": {
            "micrographs": len(run.done),
            "failed": len(run.failed),
            "picks": sum(record.picks for record in run.done),
            "seconds": sum(record.seconds for record in run.done),
        },
        "micrographs": {
            "name": [r.name for r in records],
            "picks": [r.picks for r in records],
            "width": [_shape(one.candidates)[1] for one, _ in kept],
            "height": [_shape(one.candidates)[0] for one, _ in kept],
            "pixel_size": [r.pixel_size for r in records],
            "seconds": [r.seconds for r in records],
            # Picks that a person edited, in a job that hands them on: their share of false ones is not known.
            "by_hand": ["from_run" in run.settings and r.expected_false is None for r in records],
        },
        "columns": [
            {"key": c.key, "label": c.label, "unit": c.unit, "values": [_finite(c.values.get(r.name)) for r in records]}
            for c in run.columns
        ],
        "candidates": _pack_candidates(sets, levels, floor),
        "thumbnails": thumbnails,
        "crops": crops,
        "averages": pack_averages(run),
        "others": {"micrographs": len(run.done) - len(records), "scale": chosen.scale, **others},
        "failed": [[r.name, r.reason or ""] for r in run.failed[:_MOST_FAILED]],
        "commands": [in_folder(one, str(run.output)) for one in run.notes.get("command", [])],
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _shape(picks: Picks) -> tuple[int, int]:
    """(ny, nx); guessed from the picks if the shape was not saved."""
    if picks.shape is not None:
        return picks.shape
    return tuple(int(np.max(v, initial=99)) + 1 for v in (picks.y, picks.x))  # type: ignore[return-value]


def _floor(sets: Sequence[Picks], levels: NDArray[np.float64], room: int) -> float:
    """The lowest threshold whose candidates fit into ``room`` bytes; 0 if all fit."""
    most = int(room / _EACH)
    if sum(map(len, sets)) <= most:
        return 0.0
    counts = np.bincount(np.concatenate([level_of(p.score, levels) for p in sets]), minlength=len(levels))
    above = np.cumsum(counts[::-1])[::-1]
    fits = np.flatnonzero(above <= most)
    return float(levels[fits[0]]) if len(fits) else 1.0


def _pack_candidates(sets: Sequence[Picks], levels: NDArray[np.float64], floor: int) -> dict[str, Any]:
    """Columns of uint16 in base64, little-endian: one micrograph after another, best score first."""
    columns: dict[str, list[NDArray[np.uint16]]] = {"level": [], "size": [], "x": [], "y": []}
    counts = []
    for picks in sets:
        level = level_of(picks.score, levels)
        seen = level >= floor
        counts.append(int(seen.sum()))
        columns["level"].append(level[seen])
        columns["size"].append(size_code(picks.diameter[seen]))
        for name, values in (("x", picks.x), ("y", picks.y)):
            # Whole pixels, rounded as in the STAR files.
            columns[name].append(np.clip(np.floor(values[seen] + 0.5), 0, _UNKNOWN_SIZE).astype(np.uint16))
    return {
        "counts": counts,
        **{name: _base64(np.concatenate([np.zeros(0, np.uint16), *c])) for name, c in columns.items()},
    }


def _tally(sets: Iterable[Picks], levels: NDArray[np.float64]) -> dict[str, str]:
    """Count the candidates of micrographs that are not shown, by level and size; parallel columns."""
    found: Counter[int] = Counter()
    for picks in sets:
        found.update((level_of(picks.score, levels).astype(np.int64) << 16 | size_code(picks.diameter)).tolist())
    keys = np.fromiter(found, np.int64, len(found))
    return {
        "level": _base64(keys >> 16),
        "size": _base64(keys & 0xFFFF),
        "count": _base64(np.fromiter(found.values(), np.int64, len(found)), "<u4"),
    }


def _base64(values: NDArray[np.integer[Any]], kind: str = "<u2") -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode()


def _thumbnails(kept: Sequence[SavedCandidates], pool: ThreadPoolExecutor, room: int) -> list[str]:
    """JPEG files in base64, in the largest size at which all fit; empty if there is no thumbnail."""
    each = room / max(1, len(kept)) * 0.75
    sample = [one.thumbnail for one in kept[:: max(1, len(kept) // 12)] if one.thumbnail]
    side = next((s for s in _SIDES if np.mean([len(shrink(t, s)) for t in sample] or [0]) <= 0.9 * each), _SIDES[-1])
    left = room
    texts = []
    for small in pool.map(lambda one: shrink(one.thumbnail, side), kept):
        text = base64.b64encode(small).decode()
        left -= len(text)
        texts.append(text if left > 0 else "")
    return texts


def shrink(thumbnail: bytes, side: int) -> bytes:
    """Shrink a JPEG file to at most ``side`` pixels along its longer side; 512 leaves it as it is."""
    if not thumbnail or side >= _SIDES[0]:
        return thumbnail
    image = cv2.imdecode(np.frombuffer(thumbnail, np.uint8), cv2.IMREAD_GRAYSCALE)
    if image is None:
        return b""
    scale = min(1.0, side / max(image.shape))
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    ok, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITIES[side]])
    return encoded.tobytes() if ok else b""
