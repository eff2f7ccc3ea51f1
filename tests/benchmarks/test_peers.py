"""The comparison's own rules: what does not count, what is cached, what reliability means."""

from __future__ import annotations

import numpy as np
import pytest

from cryosegnet_ext import Picks
from cryosegnet_ext.files.micrograph import Micrograph


def points(*xy: tuple[float, float]) -> Picks:
    x, y = np.array(xy, float).reshape(-1, 2).T
    return Picks(x, y, np.full(len(x), 40.0), np.linspace(0.9, 0.1, len(x)))


def task(other_pickers, seed: int = 0):
    image = np.random.default_rng(seed).normal(size=(200, 200)).astype(np.float32)
    return other_pickers.Task("made-up", [Micrograph(image, 2.0, "mic")], 80.0, 2.0)


def test_particles_at_the_border_are_neither_right_nor_wrong():
    from benchmarks.accuracy import held_out, other_pickers

    labels = np.array([[100.0, 100], [10, 100]])
    data = held_out.HeldOut("made up", task(other_pickers), {"mic": labels}, {"mic": np.array([True, False])}, 40.0)
    both = data.score("set", {"mic": points((101, 100), (11, 100))})
    assert (both.picks, both.labels, both.right) == (1, 1, 1)
    wrong = data.score("set", {"mic": points((101, 100), (11, 100), (60, 60))})
    assert (wrong.picks, wrong.labels, wrong.right) == (2, 1, 1)
    none = data.score("set", {})
    assert (none.picks, none.labels, none.missing) == (0, 1, ["mic"])


def test_what_a_program_found_is_read_again_and_not_sought_again(tmp_path):
    from benchmarks.accuracy import other_pickers

    calls = []

    def work(folder):
        assert list(folder.iterdir()) == []
        calls.append(folder)
        return {"mic": points((5, 6), (7, 8))}

    def ask(words, seed=0):
        return other_pickers._cached(task(other_pickers, seed), tmp_path, "program", words, work)["mic"]

    first, again = ask(["a"]), ask(["a"])
    assert len(calls) == 1
    assert not calls[0].exists()
    assert first.x.tolist() == again.x.tolist() == [5, 7]
    ask(["b"])  # other settings
    ask(["a"], seed=1)  # other micrographs
    assert len(calls) == 3


def test_a_program_that_fails_leaves_nothing_to_be_read_again(tmp_path):
    from benchmarks.accuracy import other_pickers

    def work(folder):
        raise RuntimeError("no")

    for _ in range(2):
        with pytest.raises(RuntimeError):
            other_pickers._cached(task(other_pickers), tmp_path, "program", ["a"], work)
    assert list(tmp_path.rglob("command.json")) == []


@pytest.mark.parametrize(("diameter", "scale"), [(119, 3), (20, 1), (170, 4)])
def test_topaz_sees_particles_of_its_size(diameter, scale):
    from benchmarks.accuracy import other_pickers

    one = other_pickers.Task("x", [], diameter, 1.77)
    assert other_pickers.topaz_scale(one) == scale


def test_calibration_error():
    from benchmarks.accuracy import reliability

    rng = np.random.default_rng(0)
    score = rng.random(20000)
    honest = rng.random(20000) < score
    assert reliability.calibration_error(score, honest) < 0.02
    assert reliability.calibration_error(score, rng.random(20000) < score**2) == pytest.approx(1 / 6, abs=0.02)
    assert reliability.bins_of(np.array([0, 0.1, 0.95, 1])).tolist() == [0, 1, 9, 9]
    assert reliability.calibration_error(np.zeros(0), np.zeros(0, bool)) == 0


def test_a_worse_pick_takes_no_label_of_a_better_one():
    from benchmarks.accuracy import held_out, other_pickers

    labels = np.array([[100.0, 100]])
    data = held_out.HeldOut("made up", task(other_pickers), {"mic": labels}, {"mic": np.array([True])}, 40.0)
    score = data.score("set", {"mic": points((106, 100), (101, 100), (50, 50))})
    assert score.ranked[0].hit.tolist() == [True, False, False]
    assert score.best == (1.0, 0.9)
    taken = held_out.take_in_order(
        np.array([[0, 0], [1.0, 0], [0, 0]]), np.array([1, 3, 2]), np.array([[0, 0], [3.0, 0]]), 4
    )
    assert taken.tolist() == [-1, 0, 1]
