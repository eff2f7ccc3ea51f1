"""The comparison of two versions' picks counts what differs, and only that."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.speed.same_picks import Counts

Found = dict[str, np.ndarray]


def found(*rows: tuple[float, float, float], windows: int = 3) -> Found:
    x, y, score = np.array(rows).reshape(-1, 3).T
    return {"x": x, "y": y, "score": score, "windows": np.array(windows)}


def test_what_differs_is_counted() -> None:
    ours = found((10, 10, 0.9), (50, 50, 0.6), (80, 80, 0.02), windows=5)
    other = found((10, 10.1, 0.8), (50, 52, 0.6), windows=4)
    counts = Counts()
    counts.add(ours, ours, 100.0, 0.5)
    assert (counts.picks, counts.picks_changed, counts.visible_changed, counts.score) == (2, 0, 0, 0.0)
    counts.add(ours, other, 100.0, 0.5)
    # one moved by two hundredths of a diameter: it has no partner in either
    assert (counts.picks, counts.picks_changed, counts.visible, counts.visible_changed) == (4, 2, 4, 2)
    assert counts.windows == (10, 9) and counts.candidates == 6
    assert counts.score == pytest.approx(0.1)
