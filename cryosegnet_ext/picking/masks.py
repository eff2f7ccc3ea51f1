"""Particle masks on a probability map: the table of their measures, and the removal of overlaps."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Masks:
    """Masks found on a probability map, one row each; lengths and positions in pixels of that map, array order.

    Attributes
    ----------
    x, y : (n,) float64
        Centroid; integers are pixel centres.
    area : (n,) float64
        Number of pixels.
    box : (n, 4) float64
        x0, y0, w, h as SAM gives them: w = last column - first column, so that a single pixel has w = 0.
    score : (n,) float64
        The segmenter's own confidence: SAM's predicted IoU, or the mean probability inside for `watershed`.
    probability : (n,) float64
        Mean of the map inside the mask.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    area: NDArray[np.float64]
    box: NDArray[np.float64]
    score: NDArray[np.float64]
    probability: NDArray[np.float64]

    @classmethod
    def empty(cls) -> Masks:
        """A table without masks."""
        none = np.zeros(0)
        return cls(none, none, none, np.zeros((0, 4)), none, none)

    def __len__(self) -> int:
        return len(self.x)

    def take(self, which: ArrayLike) -> Masks:
        """The masks chosen by a boolean mask or by indices, in that order."""
        i = np.asarray(which)
        return Masks(**{f.name: getattr(self, f.name)[i] for f in fields(self)})


class Instance(NamedTuple):
    """One mask, as its pixels."""

    score: float
    y: NDArray[np.intp]
    x: NDArray[np.intp]


def without_overlaps(found: list[Instance], shape: tuple[int, ...]) -> list[Instance]:
    """Give each pixel to the best of its masks, then drop masks that keep less than half of their pixels."""
    taken = np.zeros(shape, bool)
    kept = []
    for instance in sorted(found, key=lambda one: -one.score):
        free = ~taken[instance.y, instance.x]
        if 2 * np.count_nonzero(free) >= len(free):
            y, x = instance.y[free], instance.x[free]
            taken[y, x] = True
            kept.append(Instance(instance.score, y, x))
    return kept


def measured(found: list[Instance], probability: NDArray[np.float32]) -> Masks:
    """The table of these masks, in the same order."""
    if not found:
        return Masks.empty()
    instance = np.repeat(np.arange(len(found)), [len(one.y) for one in found])
    y, x = np.concatenate([one.y for one in found]), np.concatenate([one.x for one in found])
    score = np.clip([one.score for one in found], 0.0, 1.0)
    return measure(y, x, instance, len(found), probability, score)


def measure(
    y: NDArray[np.intp],
    x: NDArray[np.intp],
    instance: NDArray[np.intp],
    n: int,
    probability: NDArray[np.float32],
    score: NDArray[np.float64] | None = None,
) -> Masks:
    """The table of ``n`` masks given as pixel positions; each mask has at least one pixel."""
    if n == 0:
        return Masks.empty()
    area = np.bincount(instance, minlength=n).astype(np.float64)

    def mean(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(instance, values, minlength=n) / area

    order = np.argsort(instance, kind="stable")
    starts = np.concatenate(([0], np.cumsum(area[:-1]))).astype(np.intp)
    xs, ys = x[order], y[order]
    x0, x1 = np.minimum.reduceat(xs, starts), np.maximum.reduceat(xs, starts)
    y0, y1 = np.minimum.reduceat(ys, starts), np.maximum.reduceat(ys, starts)

    inside = mean(probability[y, x])
    return Masks(
        x=mean(x),
        y=mean(y),
        area=area,
        box=np.column_stack((x0, y0, x1 - x0, y1 - y0)).astype(np.float64),
        score=inside if score is None else np.asarray(score, np.float64),
        probability=inside,
    )
