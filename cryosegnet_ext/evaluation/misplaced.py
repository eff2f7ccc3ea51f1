"""Detect picks that fit the labels far better when mirrored, turned, scaled or shifted.

Programs disagree about coordinates in a few ways (see `placements`). If one of them makes the picks fit far better, a
remark names it, so that the picker is not blamed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..files.picks import Picks
from ..files.text import Floats
from ..picking.placements import AS_THEY_ARE, FLIPS, TURNS, Placement
from .matching import agreement, match
from .measures import Shape

_UPSIDE_DOWN = FLIPS["y"]
_BINNINGS = (1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 16)
_ABOUT = 1.35  # factors further than this from the ratio of the extents of labels and picks are not tried
_GOOD = 0.6  # F1 from which on nothing is tried
_MICROGRAPHS, _POINTS = 4, 250  # most micrographs, and picks on each, that are used
_LEAST = 8  # number of right picks that a better fit needs


@dataclass(frozen=True)
class Fit:
    """How well picks fit with their coordinates changed.

    Attributes
    ----------
    placement
        The change. Its ends of axes are not used, because the shape of the micrograph is often not known.
    shift : (2,)
        What is then added to x and y, pixels.
    f1, right
        Of the micrographs that were used.
    """

    placement: Placement
    shift: tuple[float, float]
    f1: float
    right: int


def best_fit(picks: Mapping[str, Picks], labels: Mapping[str, Picks], reach: float) -> tuple[Fit, Fit | None]:
    """How well the picks fit, and a change with which they fit far better; None if there is none."""
    stems = [s for s in labels if s in picks and len(picks[s]) and len(labels[s])]
    stems = sorted(stems, key=lambda s: -min(len(picks[s]), len(labels[s])))[:_MICROGRAPHS]
    whole = [(np.c_[picks[s].x, picks[s].y], np.c_[labels[s].x, labels[s].y]) for s in stems]
    as_they_are = _measure(AS_THEY_ARE, (0.0, 0.0), whole, reach)
    if as_they_are.f1 >= _GOOD or not stems:
        return as_they_are, None
    pairs = []
    for stem in stems:
        few = picks[stem].by_score() if len(picks[stem]) > _POINTS else picks[stem]
        pairs.append((np.c_[few.x, few.y][:_POINTS], np.c_[labels[stem].x, labels[stem].y]))
    now = _measure(AS_THEY_ARE, (0.0, 0.0), pairs, reach)

    def best_of(placements: Sequence[Placement]) -> Fit:
        fits = [_measure(one, _vote(_placed(pairs, one), reach), pairs, reach) for one in placements]
        return max([now, *fits], key=lambda f: f.f1)  # the first of equals, which changes least

    def far_better(fit: Fit) -> bool:
        return fit.f1 > 1.5 * now.f1 + 0.1 and fit.right >= _LEAST and fit.f1 > 0.25

    best = best_of(TURNS)
    if not far_better(best):
        best = _refined(best_of(_scales(pairs, [(picks[s].shape, labels[s].shape) for s in stems])), pairs, reach)
    if not far_better(best):
        return as_they_are, None
    return as_they_are, _measure(best.placement, best.shift, whole, reach)


def mirrored(fit: Fit | None) -> bool:
    """Whether the picks fit when mirrored top to bottom without scaling."""
    return fit is not None and fit.placement == _UPSIDE_DOWN


def _scales(
    pairs: Sequence[tuple[Floats, Floats]], shapes: Sequence[tuple[Shape | None, Shape | None]]
) -> list[Placement]:
    """Scales to try, as they are and mirrored."""
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
    return [replace(turn, scale=scale) for scale in scales for turn in (AS_THEY_ARE, _UPSIDE_DOWN)]


def _refined(fit: Fit, pairs: Sequence[tuple[Floats, Floats]], reach: float) -> Fit:
    """Refine scale and shift of each axis on the picks that are near a label."""
    if fit.placement.scale == (1.0, 1.0):
        return fit
    best = fit
    for _ in range(3):
        linear = best.placement.linear
        near = [(p, g, *match(p @ linear + np.array(best.shift), g, 2 * reach)) for p, g in pairs]
        a = np.concatenate([p[i] for p, _, i, _ in near])
        b = np.concatenate([g[j] for _, g, _, j in near])
        if len(a) < _LEAST:
            return best
        slope, shift = zip(*(np.polyfit(a[:, k], b[:, k], 1) for k in (0, 1)))
        scale = (abs(float(slope[0])), abs(float(slope[1])))
        if min(scale) < 1e-3:
            return best
        fit = _measure(replace(best.placement, scale=scale), (float(shift[0]), float(shift[1])), pairs, reach)
        if fit.f1 <= best.f1:
            return best
        best = fit
    return best


def _placed(pairs: Sequence[tuple[Floats, Floats]], placement: Placement) -> list[tuple[Floats, Floats]]:
    return [(p @ placement.linear, g) for p, g in pairs]


def _vote(pairs: Sequence[tuple[Floats, Floats]], reach: float) -> tuple[float, float]:
    """The shift that brings most picks near a label: the most frequent difference of a label and a pick, pixels."""
    x = np.concatenate([np.subtract.outer(g[:, 0], p[:, 0]).ravel() for p, g in pairs])
    y = np.concatenate([np.subtract.outer(g[:, 1], p[:, 1]).ravel() for p, g in pairs])
    low = np.array([x.min(), y.min()]) - 2 * reach
    column = ((x - low[0]) / reach).astype(np.int64)
    row = ((y - low[1]) / reach).astype(np.int64)
    size = np.array([column.max(), row.max()]) + 2
    if size.prod() > 4_000_000:  # the scale is far off
        return 0.0, 0.0
    votes = np.bincount(column * size[1] + row, minlength=int(size.prod())).reshape(size)
    votes = votes[:-1, :-1] + votes[1:, :-1] + votes[:-1, 1:] + votes[1:, 1:]
    i, j = np.unravel_index(votes.argmax(), votes.shape)
    peak = low + (np.array([i, j]) + 1) * reach
    near = (np.abs(x - peak[0]) <= reach) & (np.abs(y - peak[1]) <= reach)
    return (float(np.median(x[near])), float(np.median(y[near]))) if near.any() else (float(peak[0]), float(peak[1]))


def _measure(
    placement: Placement, shift: tuple[float, float], pairs: Sequence[tuple[Floats, Floats]], reach: float
) -> Fit:
    counts = np.zeros(3)
    for p, g in _placed(pairs, placement):
        a = agreement(p + np.array(shift), g, reach)
        counts += a.right, a.picks, a.labels
    right, picked, labelled = counts
    return Fit(placement, shift, float(2 * right / max(picked + labelled, 1)), int(right))


def explain(fit: Fit, now: Fit) -> str:
    """Say in one sentence what a fit that is better than ``now`` means, and what to do."""
    sx, sy = fit.placement.scale
    turned = fit.placement.matrix != AS_THEY_ARE.matrix
    dx, dy = fit.shift
    gain = f"F1 {fit.f1:.2f} instead of {now.f1:.2f} on a few micrographs"
    factor = f"{sx:.3g}" if abs(sx / sy - 1) < 0.005 else f"{sx:.3g} in x and {sy:.3g} in y"
    if (sx, sy) != (1.0, 1.0):
        also = f" and {fit.placement.name}" if turned else ""
        return (
            f"the picks fit far better multiplied by {factor}{also} ({gain}): they seem to come from micrographs at "
            "another binning; give picks in pixels of the labelled micrographs."
        )
    if not turned:
        return (
            f"the picks fit far better moved by {dx:.0f} pixels in x and {dy:.0f} in y ({gain}): corners may have "
            "been taken for centres, or the micrographs were cropped."
        )
    remedy = "find out whether picks or labels are wrong"
    if mirrored(fit):
        remedy = (
            f"y becomes about {dy:.0f} - y; --flip-labels mirrors the labels, 'cryosegnet export --flip-y' the picks"
        )
    return f"the picks fit far better {fit.placement.name} ({gain}): {remedy}."
