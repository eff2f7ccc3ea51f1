"""Remarks on labels and picks that a user should know before trusting the scores, one sentence each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import plural
from ..files.picks import Picks
from .measures import SetScore
from .misplaced import best_fit, explain


def on_labels(labels: Mapping[str, Picks]) -> list[str]:
    """Remarks on the labels, which are given by micrograph."""
    return [s for s in (outside(labels, "label"), repeated(labels, "label")) if s]


def on_picks(picks: Mapping[str, Picks], labels: Mapping[str, Picks], reach: float) -> list[str]:
    """Remarks on the picks that count; ``reach`` is the largest distance of a right pick from its label, pixels."""
    found = [s for s in (outside(picks, "pick"), repeated(picks, "pick")) if s]
    now, better = best_fit(picks, labels, reach)
    return found if better is None else [*found, explain(better, now)]


def on_scores(result: SetScore) -> list[str]:
    """Why no picks of a set count, or why its threshold has no effect."""
    scores = np.concatenate([np.zeros(0), *(m.score for m in result.ranked)])
    if not len(scores):
        return ["its files contain no picks."]
    if result.threshold is None:
        return []
    if not result.has_scores:
        return [f"all its picks have the score {scores[0]:g}, so the threshold keeps all of them or none."]
    if not result.picks:
        span = f"{scores.min():.3g} to {scores.max():.3g}"
        return [f"the threshold {result.threshold:g} is above all its scores ({span}), so no picks count: lower it."]
    return []


def outside(tables: Mapping[str, Picks], what: str) -> str | None:
    """Say if picks or labels lie outside their micrographs (below zero if the shape is not known), else None."""
    counts = {}
    for stem, p in tables.items():
        ny, nx = p.shape or (np.inf, np.inf)
        out = int(((p.x < -0.5) | (p.y < -0.5) | (p.x > nx - 0.5) | (p.y > ny - 0.5)).sum())
        if out:
            counts[stem] = out
    if not counts:
        return None
    number, stem = sum(counts.values()), next(iter(counts))
    shape = tables[stem].shape
    size = f" ({shape[1]} x {shape[0]} pixels)" if shape else ""
    more = f" and {plural(len(counts) - 1, 'more micrograph')}" if len(counts) > 1 else ""
    few = number < 0.05 * sum(len(p) for p in tables.values())
    remedy = "they are counted" if few else "check the binning and whether the files belong to these micrographs"
    lie = "lies outside its micrograph" if number == 1 else "lie outside their micrographs"
    return f"{plural(number, what)} {lie}, as on {stem}{size}{more}: {remedy}."


def repeated(tables: Mapping[str, Picks], what: str) -> str | None:
    """Say if at least 1 % of the places are repeated, as in tables that were pasted together, else None."""
    again = {s: len(p) - len(np.unique(np.c_[p.x, p.y], axis=0)) for s, p in tables.items() if len(p)}
    number = sum(again.values())
    if number == 0 or number < 0.01 * sum(len(p) for p in tables.values()):
        return None
    stem = next(s for s, n in again.items() if n)
    repeat = "repeats" if number == 1 else "repeat"
    return f"{plural(number, what)} {repeat} the place of another, as on {stem}, and each counts: remove the copies."
