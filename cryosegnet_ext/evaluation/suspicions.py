"""What looks wrong with labels or picks before anybody blames the picker: mirrored, binned, shifted, outside.

Picks that do not fit are turned, mirrored and scaled in all the ways in which programs disagree; where one of them fits
far better, it is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..files.picks import Picks
from .matching import agreement, match

Floats = NDArray[np.float64]
Shape = tuple[int, int]

_TURNS: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "as they are": ((1, 0), (0, 1)),
    "mirrored top to bottom (y)": ((1, 0), (0, -1)),
    "mirrored left to right (x)": ((-1, 0), (0, 1)),
    "turned by 180 degrees": ((-1, 0), (0, -1)),
    "with x and y exchanged": ((0, 1), (1, 0)),
    "turned by 90 degrees": ((0, 1), (-1, 0)),
    "turned by -90 degrees": ((0, -1), (1, 0)),
    "with x and y exchanged and turned by 180 degrees": ((0, -1), (-1, 0)),
}
"""Rows of the matrices that make (x, y) of the picks fit; "mirrored y" is what a change of the first row means."""

_BINNINGS = (1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 16)
_ABOUT = 1.35  # a factor this far from the ratio of the picks' and the labels' extents is not tried
_GOOD = 0.6  # where picks fit so well, nothing is tried
_MICROGRAPHS, _POINTS = 4, 250  # how much is looked at
_LEAST = 8  # right picks that a better fit needs


@dataclass(frozen=True)
class Fit:
    """A change of the picks and how well they fit with it.

    Attributes
    ----------
    turn
        A key of the known ones.
    scale : (2,)
        What x and y of the picks are multiplied by.
    shift : (2,)
        What is added then, pixels.
    f1, right
        Of the micrographs that were looked at.
    """

    turn: str
    scale: tuple[float, float]
    shift: tuple[float, float]
    f1: float
    right: int

    def apply(self, x: Floats, y: Floats) -> Floats:
        """The changed picks, (n, 2)."""
        return np.c_[x, y] @ _matrix(self.turn, self.scale) + np.array(self.shift)


def suspicions(name: str, picks: Mapping[str, Picks], labels: Mapping[str, Picks], reach: float) -> list[str]:
    """What is odd about a set of picks, one sentence each.

    Parameters
    ----------
    name
        Of the set.
    picks, labels
        By the micrograph's stem.
    reach
        Largest distance of a right pick, pixels.
    """
    found = [s for s in (outside(picks, "picks"), repeated(picks, "picks")) if s]
    now, better = best_fit(picks, labels, reach)
    if better is not None:
        found.append(_explain(better, now, reach))
    return found


def outside(tables: Mapping[str, Picks], what: str) -> str | None:
    """A sentence if coordinates lie outside their micrographs (below zero where no shape is known), else None."""
    counts = {}
    for stem, p in tables.items():
        ny, nx = p.shape or (np.inf, np.inf)
        out = int(((p.x < -0.5) | (p.y < -0.5) | (p.x > nx - 0.5) | (p.y > ny - 0.5)).sum())
        if out:
            counts[stem] = out
    if not counts:
        return None
    stem, shape = next(iter(counts)), tables[next(iter(counts))].shape
    size = f" ({shape[1]} x {shape[0]} pixels)" if shape else ""
    more = f" and {len(counts) - 1} more micrographs" if len(counts) > 1 else ""
    few = sum(counts.values()) < 0.05 * sum(len(p) for p in tables.values())
    remedy = "they count all the same" if few else "check the binning and whether the files belong to these micrographs"
    return f"{sum(counts.values())} {what} lie outside their micrographs, as on {stem}{size}{more}: {remedy}."


def repeated(tables: Mapping[str, Picks], what: str) -> str | None:
    """A sentence if one place in a hundred is given more than once, as where tables were pasted together, else None."""
    again = {s: len(p) - len(np.unique(np.c_[p.x, p.y], axis=0)) for s, p in tables.items() if len(p)}
    number = sum(again.values())
    if number == 0 or number < 0.01 * sum(len(p) for p in tables.values()):
        return None
    stem = next(s for s, n in again.items() if n)
    return f"{number} {what} are at exactly the place of another, as on {stem}, and count as often: remove the copies."


def best_fit(picks: Mapping[str, Picks], labels: Mapping[str, Picks], reach: float) -> tuple[Fit, Fit | None]:
    """How the picks fit as they are, and a change with which they fit far better, if there is one."""
    stems = [s for s in labels if s in picks and len(picks[s]) and len(labels[s])]
    stems = sorted(stems, key=lambda s: -min(len(picks[s]), len(labels[s])))[:_MICROGRAPHS]
    whole = [(np.c_[picks[s].x, picks[s].y], np.c_[labels[s].x, labels[s].y]) for s in stems]
    as_they_are = _measure("as they are", (1.0, 1.0), (0.0, 0.0), whole, reach)
    if as_they_are.f1 >= _GOOD or not stems:
        return as_they_are, None
    pairs = []
    for stem in stems:
        few = picks[stem].by_score() if len(picks[stem]) > _POINTS else picks[stem]
        pairs.append((np.c_[few.x, few.y][:_POINTS], np.c_[labels[stem].x, labels[stem].y]))
    now = _measure("as they are", (1.0, 1.0), (0.0, 0.0), pairs, reach)

    def best_of(changes: Sequence[tuple[str, tuple[float, float]]]) -> Fit:
        fits = [now]
        for turn, scale in changes:
            fits.append(_measure(turn, scale, _vote(_changed(pairs, turn, scale), reach), pairs, reach))
        return max(fits, key=lambda f: f.f1)  # of equals the first, which changes least

    def far_better(fit: Fit) -> bool:
        return fit.f1 > 1.5 * now.f1 + 0.1 and fit.right >= _LEAST and fit.f1 > 0.25

    best = best_of([(turn, (1.0, 1.0)) for turn in _TURNS])
    if not far_better(best):
        best = _refined(best_of(_scales(pairs, [(picks[s].shape, labels[s].shape) for s in stems])), pairs, reach)
    if not far_better(best):
        return as_they_are, None
    return as_they_are, _measure(best.turn, best.scale, best.shift, whole, reach)


def mirrored(fit: Fit | None) -> bool:
    """Whether the picks fit when top and bottom are exchanged, and nothing else."""
    return fit is not None and fit.turn == "mirrored top to bottom (y)" and fit.scale == (1.0, 1.0)


def _matrix(turn: str, scale: tuple[float, float]) -> Floats:
    """(2, 2), to be multiplied from the right."""
    return np.diag(scale) @ np.array(_TURNS[turn], float).T


def _scales(
    pairs: Sequence[tuple[Floats, Floats]], shapes: Sequence[tuple[Shape | None, Shape | None]]
) -> list[tuple[str, tuple[float, float]]]:
    """Scales to try, upright and mirrored."""
    p, g = (np.concatenate(part) for part in zip(*pairs))
    extent = np.percentile(g, 99, axis=0) / np.maximum(np.percentile(p, 99, axis=0), 1e-6)
    about = float(np.sqrt(np.abs(extent.prod()))) or 1.0
    usual = [b for b in (*_BINNINGS, *(1 / b for b in _BINNINGS)) if 1 / _ABOUT < b / about < _ABOUT]
    scales: list[tuple[float, float]] = [(b, b) for b in usual]
    for mine, theirs in shapes[:1]:
        if mine and theirs and mine != theirs:
            scales.append((theirs[1] / mine[1], theirs[0] / mine[0]))
    for tweak in np.arange(0.94, 1.065, 0.02):
        scales += [(float(extent[0] * tweak), float(extent[1] * tweak)), (about * float(tweak),) * 2]
    return [(turn, s) for s in scales for turn in list(_TURNS)[:2]]


def _refined(fit: Fit, pairs: Sequence[tuple[Floats, Floats]], reach: float) -> Fit:
    """The fit with scale and shift of each axis adjusted to the picks that are near a label."""
    if fit.scale == (1.0, 1.0):
        return fit
    best = fit
    for _ in range(3):
        matrix = _matrix(best.turn, best.scale)
        near = [(p, g, *match(p @ matrix + np.array(best.shift), g, 2 * reach)) for p, g in pairs]
        a = np.concatenate([p[i] for p, _, i, _ in near])
        b = np.concatenate([g[j] for _, g, _, j in near])
        if len(a) < _LEAST:
            return best
        slope, shift = zip(*(np.polyfit(a[:, k], b[:, k], 1) for k in (0, 1)))
        scale = (abs(float(slope[0])), abs(float(slope[1])))
        if min(scale) < 1e-3:
            return best
        fit = _measure(best.turn, scale, (float(shift[0]), float(shift[1])), pairs, reach)
        if fit.f1 <= best.f1:
            return best
        best = fit
    return best


def _changed(
    pairs: Sequence[tuple[Floats, Floats]], turn: str, scale: tuple[float, float]
) -> list[tuple[Floats, Floats]]:
    matrix = _matrix(turn, scale)
    return [(p @ matrix, g) for p, g in pairs]


def _vote(pairs: Sequence[tuple[Floats, Floats]], reach: float) -> tuple[float, float]:
    """The shift that brings most picks near a label: the commonest difference of a label and a pick, pixels."""
    x = np.concatenate([np.subtract.outer(g[:, 0], p[:, 0]).ravel() for p, g in pairs])
    y = np.concatenate([np.subtract.outer(g[:, 1], p[:, 1]).ravel() for p, g in pairs])
    low = np.array([x.min(), y.min()]) - 2 * reach
    column = ((x - low[0]) / reach).astype(np.int64)
    row = ((y - low[1]) / reach).astype(np.int64)
    size = np.array([column.max(), row.max()]) + 2
    if size.prod() > 4_000_000:  # the scale is absurd
        return 0.0, 0.0
    votes = np.bincount(column * size[1] + row, minlength=int(size.prod())).reshape(size)
    votes = votes[:-1, :-1] + votes[1:, :-1] + votes[:-1, 1:] + votes[1:, 1:]
    i, j = np.unravel_index(votes.argmax(), votes.shape)
    peak = low + (np.array([i, j]) + 1) * reach
    near = (np.abs(x - peak[0]) <= reach) & (np.abs(y - peak[1]) <= reach)
    return (float(np.median(x[near])), float(np.median(y[near]))) if near.any() else (float(peak[0]), float(peak[1]))


def _measure(
    turn: str,
    scale: tuple[float, float],
    shift: tuple[float, float],
    pairs: Sequence[tuple[Floats, Floats]],
    reach: float,
) -> Fit:
    counts = np.zeros(3)
    for p, g in _changed(pairs, turn, scale):
        a = agreement(p + np.array(shift), g, reach)
        counts += a.right, a.picks, a.labels
    right, picked, labelled = counts
    return Fit(turn, scale, shift, float(2 * right / max(picked + labelled, 1)), int(right))


def _explain(fit: Fit, now: Fit, reach: float) -> str:
    scaled = fit.scale != (1.0, 1.0)
    sx, sy = fit.scale
    dx, dy = fit.shift
    gain = f"F1 {fit.f1:.2f} instead of {now.f1:.2f} on the micrographs looked at"
    factor = f"{sx:.3g}" if abs(sx / sy - 1) < 0.005 else f"{sx:.3g} in x and {sy:.3g} in y"
    if scaled:
        turned = "" if fit.turn == "as they are" else f" and {fit.turn}"
        return (
            f"the picks fit far better multiplied by {factor}{turned} ({gain}): they look like picks of "
            "micrographs at another binning; give picks in pixels of the labelled micrographs."
        )
    if fit.turn == "as they are":
        return (
            f"the picks fit far better moved by {dx:.0f} pixels in x and {dy:.0f} in y ({gain}): a corner may have "
            "been taken for a centre, or the micrographs were cropped."
        )
    remedy = "find out which of the two is upside down"
    if mirrored(fit):
        remedy = (
            f"y becomes about {dy:.0f} - y; --flip-labels mirrors the labels, 'cryosegnet export --flip-y' the picks"
        )
    return f"the picks fit far better {fit.turn} ({gain}): {remedy}."
