"""Pair picks with labels, one to one, by optimal assignment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from .counts import Counts

#: Largest distance of a right pick from its label, in particle diameters, unless another one is given.
MAX_DISTANCE = 0.3
#: Up to this many pairs of a pick and a label, all go into one assignment; beyond it only those within reach.
_WHOLE = 4_000_000
_FAR = 1e6


@dataclass(frozen=True)
class Agreement(Counts):
    """How picks and labels agree: counts, and the distance of each right pick from its label, pixels."""

    picks: int
    labels: int
    right: int
    offsets: NDArray[np.float64]


def match(
    picks: NDArray[np.float64], labels: NDArray[np.float64], reach: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pair picks with labels one to one: as many pairs as possible, with the smallest total distance.

    Parameters
    ----------
    picks, labels : (n, 2), (m, 2)
        x, y in the same unit.
    reach
        Largest distance of a pair.

    Returns
    -------
    (k,), (k,)
        Indices of the paired picks and of their labels.
    """
    if len(picks) == 0 or len(labels) == 0:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    if len(picks) * len(labels) <= _WHOLE and reach < _FAR / 1e3:
        # In one piece: among equally good pairings this gives the same one as a plain assignment.
        distance = cdist(picks, labels)
        cost = np.where(distance <= reach, distance, _FAR)
        rows, columns = linear_sum_assignment(cost)
        good = cost[rows, columns] <= reach
        return rows[good], columns[good]
    near = cKDTree(picks).sparse_distance_matrix(cKDTree(labels), reach, output_type="coo_matrix")
    i, j = near.row, near.col
    n, m = len(picks), len(labels)
    # Picks and labels that no chain of possible pairs connects can be assigned separately.
    links = csr_matrix((np.ones(len(i)), (i, j + n)), shape=(n + m, n + m))
    _, group = connected_components(links, directed=False)
    order = np.argsort(group[i], kind="stable")
    left: list[int] = []
    right: list[int] = []
    for part in np.split(order, np.flatnonzero(np.diff(group[i][order])) + 1):
        if len(part) == 0:
            continue
        a, ai = np.unique(i[part], return_inverse=True)
        b, bi = np.unique(j[part], return_inverse=True)
        cost = np.full((len(a), len(b)), 1e6 * max(reach, 1e-9))
        cost[ai, bi] = near.data[part]
        rows, columns = linear_sum_assignment(cost)
        good = cost[rows, columns] <= reach
        left += a[rows[good]].tolist()
        right += b[columns[good]].tolist()
    return np.array(left, np.intp), np.array(right, np.intp)


def agreement(picks: NDArray[np.float64], labels: NDArray[np.float64], reach: float) -> Agreement:
    """Count right picks. Coordinates are (n, 2) and (m, 2) of x, y; ``reach`` is in the same unit."""
    a, b = match(picks, labels, reach)
    offsets = np.hypot(*(picks[a] - labels[b]).T) if len(a) else np.zeros(0)
    return Agreement(len(picks), len(labels), len(a), offsets)
