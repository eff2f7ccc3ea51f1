"""What the table of contrasts says of several specimens together."""

from __future__ import annotations

import numpy as np
import pytest

from cryosegnet_ext import Picks
from cryosegnet_ext.evaluation import SetScore, score_set


def scored(scores: list[float], right: list[bool], labels: int) -> SetScore:
    """Picks of these scores, of which some are right, on a micrograph with so many labels."""
    x = 10.0 + 20 * np.arange(max(len(scores), labels))
    truth = Picks(x[:labels], np.full(labels, 10.0), np.full(labels, np.nan), np.ones(labels))
    n = len(scores)
    y = np.where(right, 10.0, 60.0)
    picks = Picks(x[:n], y, np.full(n, np.nan), np.array(scores, float))
    return score_set("set", {"m": picks}, {"m": truth}, 8.0, 3.0, {"m": (100, 400)}, 0.5)


def test_means_over_specimens() -> None:
    from benchmarks.accuracy import contrast

    first = scored([0.9, 0.4], [True, True], 2)
    second = scored([0.8, 0.4], [True, False], 1)
    summary = contrast.summarise(0.1, "ours", [first, second])
    assert summary.pooled == pytest.approx(4 / 5)  # 2 right, 2 picks, 3 labels
    assert summary.mean == pytest.approx((2 / 3 + 1) / 2)
    assert summary.best == pytest.approx(1.0)
    assert (summary.common, summary.common_threshold) == pytest.approx(((2 / 3 + 1) / 2, 0.8))


def test_the_common_threshold_takes_each_curve_where_it_ends() -> None:
    from benchmarks.accuracy import contrast

    all_right = scored([0.9, 0.3], [True, True], 2)
    late_wrong = scored([0.8, 0.2], [True, False], 1)
    none = scored([], [], 2)
    assert contrast.best_common([all_right, late_wrong]) == pytest.approx((1.0, 0.3))
    assert contrast.best_common([all_right, none]) == pytest.approx((0.5, 0.3))
    assert contrast.best_common([none]) == (0.0, 0.0)
