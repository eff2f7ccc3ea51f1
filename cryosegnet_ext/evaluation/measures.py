"""Precision, recall, F1, average precision, Dice and offsets, for a micrograph and over all of them.

A pick is right when it is paired, one to one, with a label within reach. Totals count the particles of all micrographs
together (micro average); the mean is over micrographs (macro average). Dice and the published statistic paint discs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from ..files.picks import Picks
from .counts import Counts
from .matching import match

Floats = NDArray[np.float64]
Shape = tuple[int, int]

PAINTED_SIDE = 1024
"""Longer side, in pixels, of the frame in which discs are painted; as in the published evaluation."""


class _Measured(Counts):
    """Counts whose F1 is computed from precision and recall, as other tools do.

    It equals `Counts.f1` except for rounding.
    """

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return harmonic_mean(self.precision, self.recall)


@dataclass(frozen=True)
class MicrographScore(_Measured):
    """One micrograph.

    Attributes
    ----------
    name
        The micrograph's stem, as the labels have it.
    labels
        Number of labelled particles.
    hit : (n,) bool
        Which of the n picks are right.
    score : (n,) float64
        Their figures of merit.
    offset : (k, 2) float64
        x and y of each right pick minus those of its label, pixels.
    pixel_precision, pixel_recall, dice
        Of painted discs: shares of pixels.
    missing
        There is no pick file for this micrograph; it is scored with no picks.
    """

    name: str
    labels: int
    hit: NDArray[np.bool_]
    score: Floats
    offset: Floats
    pixel_precision: float
    pixel_recall: float
    dice: float
    missing: bool = False

    @property
    def picks(self) -> int:
        """Number of picks."""
        return len(self.hit)

    @property
    def right(self) -> int:
        """Number of right picks."""
        return int(self.hit.sum())


@dataclass(frozen=True)
class Curve:
    """Precision and recall when only picks at or above each threshold count; (k,) each, highest threshold first."""

    threshold: Floats
    precision: Floats
    recall: Floats

    @property
    def f1(self) -> Floats:
        """Harmonic mean of precision and recall, (k,)."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / np.maximum(both, 1e-9)


@dataclass(frozen=True)
class Published:
    """The statistic of the CryoSegNet paper's tables: the best values over the micrographs, so an upper limit."""

    precision: float
    recall: float
    dice: float

    @property
    def f1(self) -> float:
        """F1 of the best precision and the best recall, which may come from different micrographs."""
        return harmonic_mean(self.precision, self.recall)


@dataclass(frozen=True)
class SetScore(_Measured):
    """One set of picks.

    Attributes
    ----------
    name
        What the set is called.
    micrographs
        Of the labels, in their order, with the picks at or above ``threshold``.
    ranked
        The same with all picks, for curves and average precision.
    threshold
        Lowest figure of merit that counts; None for all picks.
    unlabelled
        Micrographs with picks but without labels; they are not scored.
    notes
        Remarks on the set, one sentence each.
    """

    name: str
    micrographs: Sequence[MicrographScore]
    ranked: Sequence[MicrographScore]
    threshold: float | None = None
    unlabelled: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def labels(self) -> int:
        """Labels on all micrographs."""
        return sum(m.labels for m in self.micrographs)

    @property
    def picks(self) -> int:
        """Picks on all micrographs."""
        return sum(m.picks for m in self.micrographs)

    @property
    def right(self) -> int:
        """Right picks on all micrographs."""
        return sum(m.right for m in self.micrographs)

    @property
    def missing(self) -> list[str]:
        """Micrographs without a pick file."""
        return [m.name for m in self.micrographs if m.missing]

    @property
    def dice(self) -> float:
        """Mean Dice coefficient of the painted discs."""
        return float(np.mean([m.dice for m in self.micrographs])) if self.micrographs else 0.0

    @property
    def mean(self) -> dict[str, float]:
        """Means over the micrographs of precision, recall, F1 and Dice."""
        if not self.micrographs:
            return dict.fromkeys(("precision", "recall", "f1", "dice"), 0.0)
        return {
            name: float(np.mean([getattr(m, name) for m in self.micrographs]))
            for name in ("precision", "recall", "f1", "dice")
        }

    @property
    def published(self) -> Published:
        """The paper's statistic."""
        of = self.micrographs
        return Published(
            max((m.pixel_precision for m in of), default=0.0),
            max((m.pixel_recall for m in of), default=0.0),
            max((m.dice for m in of), default=0.0),
        )

    @cached_property
    def offsets(self) -> Floats:
        """Right picks minus their labels, (k, 2) of x and y, pixels."""
        return np.concatenate([np.zeros((0, 2)), *(m.offset for m in self.micrographs)])

    @property
    def median_offset(self) -> float | None:
        """Median distance of a right pick from its label, pixels."""
        return float(np.median(np.hypot(*self.offsets.T))) if len(self.offsets) else None

    @property
    def shift(self) -> tuple[float, float] | None:
        """Mean offset in x and y, pixels; far from 0, 0 if all picks are shifted."""
        if not len(self.offsets):
            return None
        x, y = self.offsets.mean(0)
        return float(x), float(y)

    @cached_property
    def has_scores(self) -> bool:
        """Whether the picks have different figures of merit."""
        score = np.concatenate([np.zeros(0), *(m.score for m in self.ranked)])
        return len(score) > 0 and bool(score.min() < score.max())

    @cached_property
    def curve(self) -> Curve:
        """Precision and recall at each figure of merit that occurs.

        Picks of equal score count together, because no threshold can separate them.
        """
        hit = np.concatenate([np.zeros(0, bool), *(m.hit for m in self.ranked)])
        score = np.concatenate([np.zeros(0), *(m.score for m in self.ranked)])
        order = np.argsort(-score, kind="stable")
        score, right = score[order], np.cumsum(hit[order])
        last = np.flatnonzero(np.r_[score[1:] != score[:-1], True][: len(score)])
        return Curve(score[last], right[last] / (last + 1), right[last] / max(self.labels, 1))

    @property
    def average_precision(self) -> float | None:
        """Area under precision over recall, summed without interpolation; None if picks have no scores."""
        if not self.has_scores:
            return None
        return float(np.sum(np.diff(np.r_[0, self.curve.recall]) * self.curve.precision))

    @property
    def best(self) -> tuple[float, float] | None:
        """Best F1 over thresholds, and that threshold; None if picks have no scores."""
        if not self.has_scores:
            return None
        f1 = self.curve.f1
        i = int(f1.argmax())
        return float(f1[i]), float(self.curve.threshold[i])


def harmonic_mean(precision: float, recall: float) -> float:
    """F1 of a precision and a recall."""
    return 2 * precision * recall / max(precision + recall, 1e-9)


def score_micrograph(
    name: str, picks: Picks | None, labels: Picks, diameter_px: float, reach: float, shape: Shape
) -> MicrographScore:
    """Compare the picks of one micrograph with its labels.

    Parameters
    ----------
    name
        The micrograph's stem.
    picks
        None if there is no pick file.
    labels
        The particles.
    diameter_px
        Particle diameter in pixels, for the painted discs.
    reach
        Largest distance of a right pick from its label, pixels.
    shape
        (ny, nx) of the micrograph.
    """
    found = Picks.empty() if picks is None else picks
    p, g = np.c_[found.x, found.y], np.c_[labels.x, labels.y]
    i, j = match(p, g, reach)
    hit = np.zeros(len(p), bool)
    hit[i] = True
    painted, truth = discs(p, diameter_px, shape), discs(g, diameter_px, shape)
    both, a, b = int((painted & truth).sum()), int(painted.sum()), int(truth.sum())
    return MicrographScore(
        name=name,
        labels=len(g),
        hit=hit,
        score=found.score,
        offset=p[i] - g[j],
        pixel_precision=both / max(a, 1),
        pixel_recall=both / max(b, 1),
        dice=2 * both / max(a + b, 1),
        missing=picks is None,
    )


def score_set(
    name: str,
    picks: Mapping[str, Picks],
    labels: Mapping[str, Picks],
    diameter_px: float,
    reach: float,
    shapes: Mapping[str, Shape],
    threshold: float | None = None,
) -> SetScore:
    """Compare a set of picks with labels.

    Parameters
    ----------
    name
        What the set is called.
    picks, labels
        By the micrograph's stem; every micrograph of ``labels`` counts, and no other.
    diameter_px, reach
        As for `score_micrograph`.
    shapes
        (ny, nx) of every micrograph of ``labels``.
    threshold
        Lowest figure of merit that counts; None for all.
    """
    ranked = [score_micrograph(n, picks.get(n), g, diameter_px, reach, shapes[n]) for n, g in labels.items()]
    kept = ranked
    if threshold is not None:
        above = {n: p.above(threshold) for n, p in picks.items()}
        kept = [score_micrograph(n, above.get(n), g, diameter_px, reach, shapes[n]) for n, g in labels.items()]
    return SetScore(name, kept, ranked, threshold, unlabelled=[n for n in picks if n not in labels])


def discs(xy: Floats, diameter_px: float, shape: Shape) -> NDArray[np.bool_]:
    """Paint discs at (n, 2) of x, y (pixels of a micrograph of shape (ny, nx)) in a frame of 1024 pixels."""
    scale = PAINTED_SIDE / max(shape)
    image = np.zeros((max(round(shape[0] * scale), 1), max(round(shape[1] * scale), 1)), np.uint8)
    for x, y in xy:
        cv2.circle(image, (int(x * scale), int(y * scale)), int(diameter_px * scale / 2), 1, -1)
    return image.astype(bool)
