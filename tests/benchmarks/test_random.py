"""F1 of picks at random places, and the data sets that are for tests only."""

from __future__ import annotations

import numpy as np
import pytest


def test_random_picks_are_right_as_often_as_labels_cover_the_field() -> None:
    from benchmarks.accuracy.real_micrographs import random_f1

    labels = np.array([[x, y] for x in (50.0, 150.0) for y in (50.0, 150.0)])
    covered = 4 * np.pi * 20**2 / 200**2
    one = random_f1([1] * 40, [labels] * 40, [(200, 200)] * 40, 20.0)
    assert one == pytest.approx(2 * covered / 5, rel=0.15)
    assert random_f1([0], [labels], [(200, 200)], 20.0) == 0
    assert random_f1([3000], [labels], [(200, 200)], 20.0) == pytest.approx(8 / 3004)


def test_sets_for_tests_have_no_other_split() -> None:
    from benchmarks import real_data
    from benchmarks.accuracy.held_out import real
    from benchmarks.accuracy.real_micrographs import LABEL_DIAMETER, PIXEL_SIZE, stems_of

    for name in real_data.TEST_SETS:
        assert list(real_data.SPLITS[name]) == ["test"]
        assert name not in real_data.SETS  # what training and calibration read
        assert stems_of(name, "validation") == []
        assert {name} <= set(LABEL_DIAMETER) & set(PIXEL_SIZE)
    assert list(real([*real_data.TEST_SETS], "validation")) == []
