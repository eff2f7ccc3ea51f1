"""Every figure against a slow and plain reckoning of its own, and against the yardstick beside the data."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryosegnet_ext import Picks
from cryosegnet_ext.evaluation import SetScore, score_set
from cryosegnet_ext.evaluation.measures import discs
from tests.conftest import REPOSITORY
from tests.evaluation.helpers import SHAPE, table, write_project

DIAMETER, REACH = 40.0, 12.0


def judge(labels: dict[str, Picks], picks: dict[str, Picks], threshold: float | None = None) -> SetScore:
    return score_set("set", picks, labels, DIAMETER, REACH, dict.fromkeys(labels, SHAPE), threshold)


def largest_pairing(picks: np.ndarray, labels: np.ndarray) -> int:
    """How many pairs within reach there can be at most, by augmenting paths."""
    near = [[j for j, g in enumerate(labels) if np.hypot(*(p - g)) <= REACH] for p in picks]
    owner: dict[int, int] = {}

    def place(i: int, seen: set[int]) -> bool:
        for j in near[i]:
            if j not in seen:
                seen.add(j)
                if j not in owner or place(owner[j], seen):
                    owner[j] = i
                    return True
        return False

    return sum(place(i, set()) for i in range(len(picks)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_totals_are_those_of_a_plain_reckoning(tmp_path, seed, threshold):
    labels, picks = write_project(tmp_path, seed)
    found = judge(labels, picks, threshold)
    right = n_picks = n_labels = 0
    for stem, truth in labels.items():
        of = picks[stem] if threshold is None else picks[stem].above(threshold)
        right += largest_pairing(np.c_[of.x, of.y], np.c_[truth.x, truth.y])
        n_picks += len(of)
        n_labels += len(truth)
    assert (found.right, found.picks, found.labels) == (right, n_picks, n_labels)
    assert found.precision == pytest.approx(right / n_picks)
    assert found.recall == pytest.approx(right / n_labels)
    assert found.f1 == pytest.approx(2 * right / (n_picks + n_labels))
    means = [(m.right / m.picks + m.right / m.labels) / 2 for m in found.micrographs]
    assert (found.mean["precision"] + found.mean["recall"]) / 2 == pytest.approx(np.mean(means))


def test_curve_average_precision_and_best_threshold(tmp_path):
    labels, picks = write_project(tmp_path, 5)
    found = judge(labels, picks)
    curve = found.curve
    assert (np.diff(curve.threshold) < 0).all()
    hit = np.concatenate([m.hit for m in found.ranked])
    score = np.concatenate([m.score for m in found.ranked])
    for threshold, precision, recall in zip(curve.threshold, curve.precision, curve.recall):
        above = score >= threshold
        assert precision == pytest.approx(hit[above].sum() / above.sum())
        assert recall == pytest.approx(hit[above].sum() / found.labels)
    area = sum(p * (r - before) for p, r, before in zip(curve.precision, curve.recall, [0, *curve.recall[:-1]]))
    assert found.average_precision == pytest.approx(area)
    best, at = found.best
    assert best == pytest.approx(max(2 * p * r / (p + r) for p, r in zip(curve.precision, curve.recall)))
    assert best >= found.f1
    assert judge(labels, picks, at).f1 == pytest.approx(best, abs=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_tied_scores_count_all_or_none_whatever_their_order(tmp_path, seed):
    labels, picks = write_project(tmp_path, seed)
    tied = {s: replace(p, score=p.score.round(1)) for s, p in picks.items()}
    right_first = {s: p.take(np.argsort(~m.hit)) for (s, p), m in zip(tied.items(), judge(labels, tied).ranked)}
    best, at = judge(labels, right_first).best
    assert (best, at) == pytest.approx(judge(labels, tied).best)
    assert judge(labels, right_first).average_precision == pytest.approx(judge(labels, tied).average_precision)
    count = np.concatenate([m.score >= at for m in judge(labels, tied).ranked])
    hit = np.concatenate([m.hit for m in judge(labels, tied).ranked])
    assert best == pytest.approx(2 * hit[count].sum() / (count.sum() + 180))  # some threshold reaches it


def test_a_threshold_leaves_the_curve_alone(tmp_path):
    labels, picks = write_project(tmp_path, 6)
    every, some = judge(labels, picks), judge(labels, picks, 0.7)
    assert some.picks < every.picks
    assert some.average_precision == every.average_precision


def test_picks_without_scores_have_no_curve(tmp_path):
    labels, picks = write_project(tmp_path, 7)
    found = judge(labels, {s: table(np.c_[p.x, p.y]) for s, p in picks.items()})
    assert found.average_precision is None
    assert found.best is None
    assert found.f1 == pytest.approx(judge(labels, picks).f1)


def test_a_shift_is_seen_in_x_and_y():
    labels = {"a": table(np.array([[100.0, 100], [300, 200], [500, 500]]))}
    picks = {"a": table(np.array([[104.0, 97], [304, 197], [504, 497]]))}
    found = judge(labels, picks)
    assert found.shift == pytest.approx((4, -3))
    assert found.median_offset == pytest.approx(5)


def test_a_micrograph_without_picks_counts_as_missed():
    labels = {"a": table(np.array([[100.0, 100]])), "b": table(np.array([[100.0, 100], [300, 300]]))}
    found = judge(labels, {"a": labels["a"], "c": labels["a"]})
    assert found.missing == ["b"]
    assert list(found.unlabelled) == ["c"]
    assert (found.precision, found.recall) == (1, pytest.approx(1 / 3))
    assert found.mean["recall"] == pytest.approx(0.5)


def test_the_published_statistic_takes_the_best_of_each():
    many, few = np.array([[100.0, 100], [300, 300], [500, 500], [700, 700]]), np.array([[100.0, 100]])
    labels = {"few": table(few), "many": table(many)}
    # All of the first micrograph's picks are right and find a quarter; the other's find all among as many wrong ones.
    picks = {"many": table(few), "few": table(np.array([[100.0, 100], [900, 700]]))}
    found = judge(labels, picks)
    assert found.published.precision == pytest.approx(1.0)
    assert found.published.recall == pytest.approx(1.0)
    assert found.published.f1 == pytest.approx(1.0)
    assert found.f1 == pytest.approx(2 * 2 / (3 + 5))


def test_dice_of_discs_that_overlap_by_half():
    labels = {"a": table(np.array([[600.0, 450]]))}
    full, none = judge(labels, labels), judge(labels, {"a": table(np.array([[100.0, 100]]))})
    assert (full.dice, none.dice) == (1, 0)
    part = judge(labels, {"a": table(np.array([[610.0, 450]]))}).dice
    # Two circles of radius r, d apart, share 2 r^2 acos(d / 2r) - d / 2 sqrt(4 r^2 - d^2).
    r, d = 20.0, 10.0
    shared = 2 * r**2 * np.arccos(d / 2 / r) - d / 2 * np.sqrt(4 * r**2 - d**2)
    assert part == pytest.approx(shared / (np.pi * r**2), abs=0.04)


def test_discs_are_painted_in_the_published_frame():
    assert discs(np.zeros((0, 2)), 100, (4096, 3072)).shape == (1024, 768)
    assert discs(np.array([[2048.0, 1024]]), 400, (4096, 4096)).sum() == pytest.approx(np.pi * 50**2, rel=0.03)


@pytest.fixture(scope="session")
def yardstick() -> Path:
    file = REPOSITORY.parent / "shared" / "tools" / "score_picks.py"
    if not file.is_file():
        pytest.skip(f"no {file}")
    return file


def by_yardstick(file: Path, labels: Path, picks: Path, diameter: float, shape: tuple[int, int], *more: str) -> dict:
    words = ["--labels", labels, "--picks", picks, "--diameter", diameter, "--shape", *shape, *more]
    done = subprocess.run([sys.executable, file, *map(str, words)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def figures(total: dict, published: dict) -> dict:
    """Ours, named and rounded as the yardstick's."""
    offset = total["median_offset_px"]
    return {
        "micrographs": total["micrographs"],
        "labels": total["labels"],
        "picks": total["picks"],
        "precision": round(total["precision"], 4),
        "recall": round(total["recall"], 4),
        "f1": round(total["f1"], 4),
        "average_precision": total["average_precision"] and round(total["average_precision"], 4),
        "best_f1_over_thresholds": total["best_f1"] and round(total["best_f1"], 4),
        "median_offset_px": None if offset is None else round(offset, 2),
        "pixel_dice_mean": round(total["dice"], 4),
        "as_published": {k: round(published[k], 3) for k in ("precision", "recall", "f1", "dice")},
    }


def evaluate(tmp_path: Path, *words: object) -> dict:
    from cryosegnet_ext.cli import main

    assert main(["evaluate", *map(str, words), "-o", str(tmp_path / "out")]) == 0
    return json.loads((tmp_path / "out" / "evaluation.json").read_text())["sets"][0]


@pytest.mark.parametrize("seed", range(3))
def test_the_yardstick_agrees_on_made_up_picks(tmp_path, yardstick, seed):
    write_project(tmp_path, seed)
    ours = evaluate(
        tmp_path, "--labels", tmp_path / "labels", "--diameter", "40px", "--shape", *SHAPE, tmp_path / "picks"
    )
    theirs = by_yardstick(yardstick, tmp_path / "labels", tmp_path / "picks", 40, SHAPE)
    assert figures(ours["total"], ours["as_published"]) == theirs


def test_the_yardstick_agrees_at_a_threshold(tmp_path, yardstick):
    write_project(tmp_path, 8)
    words = ["--labels", tmp_path / "labels", "--diameter", "40px", "--shape", *SHAPE, "--threshold", "0.6"]
    ours = evaluate(tmp_path, *words, tmp_path / "picks")
    theirs = by_yardstick(yardstick, tmp_path / "labels", tmp_path / "picks", 40, SHAPE, "--fom", "0.6")
    of_the_curve = ("average_precision", "best_f1_over_thresholds")
    mine = figures(ours["total"], ours["as_published"])
    assert {k: v for k, v in mine.items() if k not in of_the_curve} == {
        k: v for k, v in theirs.items() if k not in of_the_curve
    }


@pytest.mark.parametrize("peer", ["cassper", "gautomatch"])
def test_the_yardstick_agrees_on_real_picks(tmp_path, yardstick, shared_data, peer):
    labels = shared_data / "labels" / "empiar-10017-denoised"
    picks = shared_data / "peers" / "empiar-10017" / peer
    ours = evaluate(tmp_path, "--labels", labels, "--diameter", "108px", "--shape", 4096, 4096, picks)
    theirs = by_yardstick(yardstick, labels, picks, 108, (4096, 4096))
    for of_scores in (
        "average_precision",
        "best_f1_over_thresholds",
    ):  # these picks have none, so neither means a thing
        theirs[of_scores] = None
    assert figures(ours["total"], ours["as_published"]) == theirs
