"""Crops of picks: which ones, from where, and with which contrast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.runs.candidates import candidates_path, encode_candidates, read_crops, write_candidates
from cryosegnet_ext.runs.crops import MOST_KEPT, SIDE, choose, cut_sheet, first_crops, make_crops, pictures_of


def spots(n: int = 30, shape: tuple[int, int] = (600, 800), dark: bool = True) -> tuple[np.ndarray, Picks]:
    """A micrograph with a half-moon, its flat side to the left, at each pick."""
    rng = np.random.default_rng(1)
    data = rng.normal(0, 0.1, shape).astype(np.float32)
    y, x = np.mgrid[: shape[0], : shape[1]]
    cx, cy = (
        v.ravel()[:n] for v in np.meshgrid(np.arange(60, shape[1] - 60, 90.0), np.arange(60, shape[0] - 60, 90.0))
    )
    for a, b in zip(cx, cy):
        data[(np.hypot(x - a, y - b) < 20) & (x > a)] += -1 if dark else 1
    return data, Picks(cx, cy, np.full(len(cx), 40.0), np.linspace(0.99, 0.01, len(cx)), None, shape)


def test_the_choice_has_all_scores_does_not_change_and_fewer_are_the_first_of_more() -> None:
    scores = np.concatenate([np.linspace(0.9, 1, 500), [0.02, 0.31, 0.33, 0.62]])
    chosen = choose(scores)
    assert len(chosen) == MOST_KEPT == len(set(chosen.tolist()))
    assert {500, 501, 502, 503} <= set(chosen.tolist())
    assert np.array_equal(choose(scores, 16), chosen[:16]) and np.array_equal(choose(scores), chosen)
    top = chosen[chosen < 500]
    assert 150 < top.mean() < 350, "within a twentieth it is random"
    assert len(choose(np.zeros(0))) == 0 and len(choose(np.array([np.nan, 0.5, 1.0]))) == 3


def test_crops_show_what_is_at_the_picks_the_right_way_round() -> None:
    data, picks = spots()
    crops = make_crops(data, picks, np.arange(len(picks)))
    pictures = pictures_of(crops).astype(float)
    assert pictures.shape == (len(picks), SIDE, SIDE) and crops.width == 60
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    inside = np.hypot(x, y) < 14
    right, left = pictures[:, inside & (x > 3)].mean(1), pictures[:, inside & (x < -3)].mean(1)
    assert (right < left - 60).all(), "the dark half is on the right"


def test_at_the_rim_and_outside_there_is_grey() -> None:
    data, _ = spots()
    at = np.array([0.0, 799.0, -5.0, 5000.0])
    picks = Picks(at, at, np.full(4, 40.0), np.ones(4), None, data.shape)
    pictures = pictures_of(make_crops(data, picks, np.arange(4)))
    assert abs(float(pictures[3].mean()) - 127) < 3
    assert abs(float(pictures[0][: SIDE // 3].mean()) - 127) < 6


@pytest.mark.parametrize("value", [0.0, 1e14])
def test_a_flat_micrograph_is_grey(value: float) -> None:
    picks = Picks(np.array([50.0]), np.array([50.0]), np.array([np.nan]), np.ones(1), None, (100, 100))
    pictures = pictures_of(make_crops(np.full((100, 100), value, np.float32), picks, np.arange(1)))
    assert np.abs(pictures.astype(int) - 127).max() <= 1


def test_one_contrast_for_all_crops_of_a_micrograph() -> None:
    data, picks = spots()
    data[:, :400] *= 0.25
    pictures = pictures_of(make_crops(data, picks, np.arange(len(picks)))).astype(float)
    corner = pictures[:, :6, :6]
    assert corner[picks.x < 340].std() == pytest.approx(0.25 * corner[picks.x > 460].std(), rel=0.3)


def test_they_are_kept_with_the_candidates(tmp_path: Path) -> None:
    data, picks = spots()
    write_candidates(
        tmp_path, "m", encode_candidates(data, picks.take(np.random.default_rng(0).permutation(len(picks))))
    )
    kept = read_crops(tmp_path, "m")
    assert kept is not None and sorted(kept.index.tolist()) == list(range(len(picks))) and kept.width == 60
    wanted = make_crops(data, picks.by_score(), kept.index)
    assert kept.sheet == wanted.sheet
    assert np.array_equal(first_crops(kept, 10).index, kept.index[:8])
    small = pictures_of(first_crops(kept, 16)).astype(int)
    assert np.abs(small - pictures_of(kept)[:16]).mean() < 6


def test_files_of_earlier_versions_and_damaged_ones_have_none(tmp_path: Path) -> None:
    data, picks = spots()
    content = encode_candidates(data, picks)
    write_candidates(tmp_path, "m", content)
    crops = read_crops(tmp_path, "m")
    assert crops is not None
    path = candidates_path(tmp_path, "m")
    for cut in (len(content) - len(crops.sheet) - 500, len(content) // 2, 100, 0):
        path.write_bytes(content[:cut])
        assert read_crops(tmp_path, "m") is None
    write_candidates(tmp_path, "m", encode_candidates(data, Picks.empty(None)))
    assert read_crops(tmp_path, "m") is None and read_crops(tmp_path, "other") is None


def test_a_sheet_has_whole_rows() -> None:
    data, picks = spots()
    assert cut_sheet(data, picks.x[:0], picks.y[:0], 60) == b""
    assert len(cut_sheet(data, picks.x[:9], picks.y[:9], 60)) > 1000
