"""Picks against labels: the pairing is the best one, and the figures follow from it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from cryosegnet_ext.evaluation import agreement, match


def best_pairing(picks, labels, reach):
    """Most pairs, then least total distance, by one assignment over everything."""
    distance = np.hypot(*(picks[:, None] - labels[None]).T).T
    cost = np.where(distance <= reach, distance, 1e7)
    rows, columns = linear_sum_assignment(cost)
    paired = cost[rows, columns] <= reach
    return int(paired.sum()), float(cost[rows, columns][paired].sum())


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("reach", [0.5, 4.0, 15.0, 200.0])
def test_the_pairing_is_the_best_one(seed, reach):
    rng = np.random.default_rng(seed)
    picks, labels = (rng.uniform(0, 100, (int(rng.integers(1, 70)), 2)) for _ in range(2))
    if seed % 3 == 0:  # on a lattice many distances are equal, and some are 0
        picks, labels = picks.round(-1), labels.round(-1)
    a, b = match(picks, labels, reach)
    assert len(set(a)) == len(a) == len(b) == len(set(b))
    distance = np.hypot(*(picks[a] - labels[b]).T)
    assert (distance <= reach).all()
    pairs, total = best_pairing(picks, labels, reach)
    assert len(a) == pairs
    assert distance.sum() == pytest.approx(total, abs=1e-6)


def test_a_chain_gives_way_so_that_all_are_paired():
    """The nearest pick of the first label is the only one within reach of the second."""
    picks, labels = np.array([[0.0, 0], [9, 0]]), np.array([[4.0, 0], [-9, 0]])
    a, b = match(picks, labels, 9.0)
    assert sorted(zip(a.tolist(), b.tolist())) == [(0, 1), (1, 0)]


def test_exact_hits_and_the_limit_itself_count():
    points = np.array([[3.0, 4.0], [50, 60]])
    a, b = match(points, points, 0.0)
    assert sorted(zip(a.tolist(), b.tolist())) == [(0, 0), (1, 1)]
    assert agreement(points, points + np.array([3.0, 4.0]), 5.0).right == 2
    assert agreement(points, points + np.array([3.0, 4.0]), 4.999).right == 0


def test_figures():
    labels = np.array([[10.0, 10], [20, 10], [30, 10], [40, 10]])
    picks = np.array([[10.0, 11], [21, 10], [90, 90]])
    found = agreement(picks, labels, 3.0)
    assert (found.picks, found.labels, found.right) == (3, 4, 2)
    assert found.precision == pytest.approx(2 / 3)
    assert found.recall == pytest.approx(1 / 2)
    assert found.f1 == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))
    assert sorted(found.offsets) == pytest.approx([1, 1])


def test_a_label_counts_once():
    found = agreement(np.array([[1.0, 0], [0, 1], [0, 0]]), np.array([[0.0, 0]]), 5.0)
    assert (found.right, found.precision, found.recall) == (1, pytest.approx(1 / 3), 1)
    assert found.offsets.tolist() == [0]


@pytest.mark.parametrize(("picks", "labels"), [(0, 0), (0, 3), (3, 0)])
def test_nothing_to_pair(picks, labels):
    found = agreement(np.zeros((picks, 2)), np.zeros((labels, 2)), 5.0)
    assert (found.right, found.precision, found.recall, found.f1) == (0, 0, 0, 0)
    assert len(found.offsets) == 0
    apart = agreement(np.zeros((2, 2)), np.full((3, 2), 100.0), 5.0)
    assert apart.right == 0


def test_thousands_of_picks_are_paired_at_once():
    rng = np.random.default_rng(0)
    labels = rng.uniform(0, 4000, (3000, 2))
    picks = rng.permutation(labels + rng.normal(0, 3, labels.shape))
    assert agreement(picks, labels, 12.0).recall > 0.97
