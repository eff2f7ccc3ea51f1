"""Fit score and threshold to validation micrographs, and measure how well a network picks them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from ..evaluation import Counts, match
from ..files.diameter import from_pixels
from ..files.micrograph import Micrograph
from ..files.picks import Picks
from ..picking.picker import Picker
from ..picking.scoring import Calibration, MaskFeatures, joined, surprise
from .examples import Example

Floats = NDArray[np.float64]

#: A pick is right within this many diameters of a label.
REACH = 0.3
#: Sizes at which candidates are collected, as factors of the true one: the estimate has such errors.
SIZE_ERRORS = (0.85, 1.0, 1.18)
# So many candidates, and so many right and wrong ones, are needed to fit a slope.
_LEAST_CANDIDATES, _LEAST_OF_EACH = 60, 8
# If the score is a probability, the best threshold is half of the F1 reached: low for faint particles.
_THRESHOLDS = np.round(np.arange(0.1, 0.81, 0.05), 2)
# Thresholds with an F1 this close to the best count as equal; the one nearest to 0.5 is taken.
_PLATEAU = 0.005
# At most so many micrographs are picked for scores and calibration.
MOST_MICROGRAPHS = 12


@dataclass(frozen=True)
class Scores(Counts):
    """Picks against labels, summed over micrographs."""

    picks: int
    labels: int
    right: int

    def __str__(self) -> str:
        return f"precision {self.precision:.3f}, recall {self.recall:.3f}, F1 {self.f1:.3f}"


def right_picks(picks: Picks, example: Example) -> NDArray[np.bool_]:
    """(n,) which picks lie on a label; each label counts for one pick."""
    right = np.zeros(len(picks), bool)
    labels = np.c_[example.x, example.y]
    right[match(np.c_[picks.x, picks.y], labels, REACH * example.diameter_px)[0]] = True
    return right


def score_picker(
    picker: Picker, examples: Sequence[Example], micrographs: Iterable[Micrograph] | None = None
) -> Scores:
    """Pick micrographs with the particle size given and the picker's own threshold, and count.

    Without ``micrographs``, those of the examples are read.
    """
    counts = np.zeros(3, int)
    examples = examples[:MOST_MICROGRAPHS]
    for example, micrograph in zip(examples, micrographs or (e.micrograph() for e in examples)):
        picks = picker.pick(micrograph, from_pixels(example.diameter_px, micrograph.pixel_size))
        counts += len(picks), len(example.x), int(right_picks(picks, example).sum())
    return Scores(*counts.tolist())


@dataclass(frozen=True)
class Candidates:
    """All candidates of some micrographs.

    Attributes
    ----------
    features
        Of each candidate (n).
    right : (n,) bool
        The candidate lies on a label.
    labels : int
        Number of labels.
    """

    features: MaskFeatures
    right: NDArray[np.bool_]
    labels: int


def gather(weights: Path, examples: Sequence[Example], device: str, denoised: bool = False) -> Candidates:
    """Candidates of validation micrographs, each picked at three sizes, with weights that are not calibrated yet.

    Parameters
    ----------
    weights
        A file whose note has no calibration (so that the score is the mean probability) and no threshold.
    examples
        Micrographs with labels.
    device
        Device of the picker.
    denoised
        See `Picker`.
    """
    picker = Picker(weights, segmenter="watershed", device=device, threshold=0.0, denoised=denoised)
    published = picker.recipe == "published"
    found, right, labels = [], [], 0
    for example in examples[:MOST_MICROGRAPHS]:
        micrograph = example.micrograph()
        for error in (1.0,) if published else SIZE_ERRORS:
            size = from_pixels(example.diameter_px * error, micrograph.pixel_size)
            picks, features = picker.candidates_and_features(micrograph, size)
            found.append(features)
            right.append(right_picks(picks, example))
            labels += len(example.x)
    return Candidates(joined(found), np.concatenate(right), labels)


def fit_calibration(candidates: Candidates, prior: Calibration | None = None) -> Calibration:
    """Fit the score by logistic regression. Few candidates keep it near ``prior``; with too few it is ``prior``.

    The segmenter's own score is left out, because the candidates come from the watershed.
    """
    prior = prior or Calibration()
    t, n = candidates.right.astype(float), len(candidates.right)
    if n < _LEAST_CANDIDATES or min(t.sum(), n - t.sum()) < _LEAST_OF_EACH:
        return prior
    features, centre = replace(candidates.features, iou=None), prior.slopes

    def cost(beta: Floats) -> tuple[float, Floats]:
        loss, slope = surprise(beta, features, t)
        away = np.r_[0.0, (beta - centre)[1:]]
        return float(loss.mean() + (away**2).sum() / n), slope.mean(0) + 2 * away / n

    fitted = Calibration.of_slopes(minimize(cost, centre, jac=True, method="BFGS").x)
    # a higher probability must give a higher score, even if a few candidates disagree
    if not np.isfinite(fitted.slopes).all() or fitted.probability_slope <= 0.05:
        return prior
    return replace(fitted, iou_slope=prior.iou_slope)


def best_threshold(candidates: Candidates, calibration: Calibration) -> float:
    """The threshold with the best F1, as near to 0.5 as possible; 0.5 if no candidate is right."""
    f1 = [f1_of(candidates, calibration, q) for q in _THRESHOLDS.tolist()]
    best = max(f1)
    if best == 0:
        return 0.5
    good = _THRESHOLDS[np.array(f1) >= best - _PLATEAU]
    return float(good[np.argmin(np.abs(good - 0.5))])


def f1_of(candidates: Candidates, calibration: Calibration, threshold: float) -> float:
    """F1 of the candidates above the threshold."""
    kept = calibration.score(candidates.features) >= threshold
    return float(2 * (candidates.right & kept).sum() / max(kept.sum() + candidates.labels, 1))
