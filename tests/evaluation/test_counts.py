"""Precision, recall and F1 of everything that counts: what nothing is worth, and which formula F1 follows."""

from __future__ import annotations

import numpy as np
import pytest

from cryosegnet_ext.evaluation import Agreement, Counts, MicrographScore, SetScore
from cryosegnet_ext.training.calibration import Scores


def agreement(picks: int, labels: int, right: int) -> Agreement:
    return Agreement(picks, labels, right, np.zeros(right))


def micrograph(picks: int, labels: int, right: int) -> MicrographScore:
    hit = np.arange(picks) < right
    return MicrographScore("m", labels, hit, np.ones(picks), np.zeros((right, 2)), 0.0, 0.0, 0.0)


def set_of_two(picks: int, labels: int, right: int) -> SetScore:
    """The counts, on two micrographs of which the first has all but one label."""
    parts = [micrograph(0, labels - 1, 0), micrograph(picks, 1, right)] if labels else [micrograph(picks, 0, right)]
    return SetScore("set", parts, parts)


ALL = [agreement, Scores, micrograph, set_of_two]
# Its F1 is exactly 0.15625, halfway between two figures of four digits; from the shares it comes out 3e-17 larger.
HALFWAY = (6, 58, 5)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize(
    ("counts", "precision", "recall", "f1"),
    [
        ((0, 0, 0), 0, 0, 0),
        ((0, 3, 0), 0, 0, 0),
        ((3, 0, 0), 0, 0, 0),
        ((3, 4, 0), 0, 0, 0),
        ((3, 4, 2), 2 / 3, 1 / 2, 4 / 7),
        ((5, 5, 5), 1, 1, 1),
    ],
)
def test_shares(make, counts, precision, recall, f1):
    found = make(*counts)
    assert isinstance(found, Counts)
    assert (found.picks, found.labels, found.right) == counts
    assert (found.precision, found.recall) == (precision, recall)
    assert found.f1 == pytest.approx(f1)


@pytest.mark.parametrize("make", [agreement, Scores])
def test_f1_from_the_counts(make):
    assert make(*HALFWAY).f1 == 0.15625


@pytest.mark.parametrize("make", [micrograph, set_of_two])
def test_f1_from_the_shares(make):
    """As the yardstick reckons it: the two agree where a figure is rounded, too."""
    picks, labels, right = HALFWAY
    precision, recall = right / picks, right / labels
    assert make(*HALFWAY).f1 == 2 * precision * recall / max(precision + recall, 1e-9) != 0.15625


def test_the_mean_of_micrographs_counts_empty_ones_as_nothing():
    parts = [micrograph(0, 0, 0), micrograph(2, 2, 2)]
    assert SetScore("set", parts, parts).mean == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "dice": 0.0}
    assert SetScore("none", [], []).f1 == 0
