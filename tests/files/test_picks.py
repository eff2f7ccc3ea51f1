from __future__ import annotations

import numpy as np
import pytest

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.picks import Picks, read_picks


def table(**changes: object) -> Picks:
    columns = {"x": [1, 2, 3], "y": [4, 5, 6], "diameter": [100, 110, 120], "score": [0.2, 0.9, 0.5]}
    return Picks(**{**columns, "pixel_size": 2.0, "shape": (64, 32), **changes})  # type: ignore[arg-type]


def test_columns_become_float_arrays_that_are_copies() -> None:
    x = np.array([1.0, 2.0, 3.0])
    picks = table(x=x)
    x[0] = 99
    assert picks.x.tolist() == [1, 2, 3]
    assert all(c.dtype == np.float64 for c in (picks.x, picks.y, picks.diameter, picks.score))
    assert len(picks) == 3


def test_a_column_vector_is_flattened() -> None:
    assert table(x=np.array([[1], [2], [3]])).x.shape == (3,)


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"differ in length: \[2, 3, 3, 3\]"):
        table(x=[1, 2])


def test_empty() -> None:
    picks = Picks.empty(pixel_size=1.5, shape=(10, 20))
    assert len(picks) == 0
    assert (picks.pixel_size, picks.shape) == (1.5, (10, 20))
    assert len(picks.above(0.5)) == len(picks.by_score()) == len(picks.diameter_px) == 0


def test_a_table_shows_itself_in_one_line() -> None:
    assert repr(table()) == (
        "<Picks: 3 picks, median diameter 110 A, scores 0.20 to 0.90, 2 A/px, micrograph 64 x 32 (ny x nx)>"
    )
    assert repr(table(pixel_size=None, shape=None, diameter=[np.nan] * 3)) == (
        "<Picks: 3 picks, scores 0.20 to 0.90, pixel size not known>"
    )
    assert str(Picks.empty()) == "<Picks: 0 picks, pixel size not known>"


def test_diameter_in_pixels() -> None:
    assert table().diameter_px.tolist() == [50, 55, 60]
    assert table(pixel_size=None).diameter_px.tolist() == [100, 110, 120]


def test_above_keeps_the_threshold_itself_the_order_and_the_rest() -> None:
    picks = table().above(0.5)
    assert picks.x.tolist() == [2, 3]
    assert (picks.pixel_size, picks.shape) == (2.0, (64, 32))
    assert len(table().above(0.91)) == 0


def test_expected_false_is_one_minus_the_mean_score() -> None:
    assert table().expected_false == pytest.approx(1 - (0.2 + 0.9 + 0.5) / 3)
    assert table().above(0.5).expected_false == pytest.approx(0.3)
    assert table(score=[0, 0, 0]).expected_false == 1 and table(score=[1, 1, 1]).expected_false == 0
    assert np.isnan(Picks.empty().expected_false)
    assert np.isnan(table(score=[-2.5, 1.0, 3.0]).expected_false), "log-odds are no probabilities"


def test_take_by_mask_and_by_index() -> None:
    assert table().take([True, False, True]).y.tolist() == [4, 6]
    assert table().take([2, 0]).y.tolist() == [6, 4]


def test_by_score_is_best_first_and_ties_go_by_y_then_x() -> None:
    picks = Picks(x=[5, 1, 9, 0], y=[2, 2, 1, 7], diameter=np.ones(4), score=[0.5, 0.5, 0.5, 0.8])
    expected = [(0, 7), (9, 1), (1, 2), (5, 2)]
    assert list(zip(picks.by_score().x, picks.by_score().y)) == expected
    backwards = picks.take([3, 2, 1, 0]).by_score()
    assert list(zip(backwards.x, backwards.y)) == expected


def test_write_and_read_back(tmp_path) -> None:
    table().write(tmp_path / "mic.csv")
    picks = read_picks(tmp_path / "mic.csv")
    assert picks.x.tolist() == [1, 2, 3]
    assert picks.pixel_size == 2.0
    with pytest.raises(CryoSegNetError, match="pdf"):
        table().write(tmp_path / "mic.pdf")
