"""From picks to a map: a stopped run goes on with RELION's last whole iteration, and says what it has reached."""

from __future__ import annotations

import argparse
import json

import mrcfile
import numpy as np
import pytest

STAR = "data_general\n\n_rlnCurrentIteration {n}\n"


def iteration(folder, n: int, parts: tuple[str, ...]) -> None:
    """The files of an iteration."""
    folder.mkdir(exist_ok=True)
    for part in ("optimiser.star", *parts):
        path = folder / f"run_it{n:03d}_{part}"
        if path.suffix == ".star":
            path.write_text(STAR.format(n=n))
        else:
            with mrcfile.new(path) as mrc:
                mrc.set_data(np.ones((4, 4, 4), np.float32))


@pytest.fixture
def settings() -> argparse.Namespace:
    return argparse.Namespace(
        class_iterations=5, classes=3, threads=2, iterations=999, symmetry="C1", initial_lowpass=40.0
    )


@pytest.fixture
def commands(monkeypatch) -> list[list[str]]:
    from benchmarks.accuracy import refinement

    found: list[list[str]] = []
    monkeypatch.setattr(refinement, "run", lambda folder, name, command: found.append(command))
    return found


def test_a_stopped_refinement_goes_on_with_its_last_whole_iteration(tmp_path, settings, commands):
    from benchmarks.accuracy import refinement

    out = tmp_path / "refine_ours"
    for n in range(3):
        iteration(out, n, refinement.REFINED)
    whole = out / "run_it003_half1_class001.mrc"
    iteration(out, 3, refinement.REFINED)
    whole.write_bytes(whole.read_bytes()[:1100])  # it was stopped while it wrote this
    refinement.refine(tmp_path, "ours", 170.0, settings)
    words = commands[0]
    assert words[words.index("--continue") + 1] == "refine_ours/run_it002_optimiser.star"
    assert "--i" not in words
    refinement.refine(tmp_path, "ours", 170.0, settings)  # done
    assert len(commands) == 1


def test_a_refinement_begins_from_the_kept_particles(tmp_path, settings, commands):
    from benchmarks.accuracy import refinement

    refinement.refine(tmp_path, "ours", 170.0, settings)
    words = commands[0]
    assert words[words.index("--i") + 1] == "kept_ours.star"
    assert "--continue" not in words


def test_stopped_classes_go_on_and_finished_ones_are_left(tmp_path, settings, commands):
    from benchmarks.accuracy import refinement

    parts = ("model.star", "data.star", "sampling.star")
    iteration(tmp_path / "class2d_log", 4, parts)
    refinement.classify(tmp_path, "log", 170.0, settings)
    assert "class2d_log/run_it004_optimiser.star" in commands[0]
    iteration(tmp_path / "class2d_log", 5, parts)
    refinement.classify(tmp_path, "log", 170.0, settings)
    assert len(commands) == 1


def test_only_a_refinement_that_ended_by_itself_is_called_converged(tmp_path):
    from benchmarks.accuracy import refinement

    out = tmp_path / "refine_ours"
    assert refinement.refined(tmp_path, "ours") is None
    iteration(out, 7, refinement.REFINED)
    maps, model, number, converged = refinement.refined(tmp_path, "ours")
    assert (number, converged, model.name) == (7, False, "run_it007_half1_model.star")
    (out / "DONE").touch()  # the most iterations were reached
    assert refinement.refined(tmp_path, "ours")[3] is False
    for path in ("run_half1_class001_unfil.mrc", "run_half2_class001_unfil.mrc"):
        (out / path).write_bytes((out / "run_it007_half1_class001.mrc").read_bytes())
    maps, model, number, converged = refinement.refined(tmp_path, "ours")
    assert (converged, model.name, maps[0].name) == (True, "run_model.star", "run_half1_class001_unfil.mrc")


def test_a_folder_with_other_settings_is_not_gone_on_with(tmp_path):
    from benchmarks.accuracy import fsc

    given = argparse.Namespace(folder=tmp_path, specimen="a.pdb", dose=20.0, threads=2, pickers=["log"])
    fsc.remember(tmp_path, given)
    fsc.remember(tmp_path, argparse.Namespace(**{**vars(given), "threads": 1, "pickers": ["ours"]}))
    with pytest.raises(SystemExit, match="dose"):
        fsc.remember(tmp_path, argparse.Namespace(**{**vars(given), "dose": 40.0}))


def test_the_report_shows_what_there_is(tmp_path):
    from benchmarks.accuracy import fsc
    from cryosegnet_ext.simulation.dataset import truth_name

    (tmp_path / "simulation.json").write_text(json.dumps({"specimens": [{"name": "p", "diameter": 100.0}]}))
    given = {"micrographs": 1, "side": 64, "pixel_size": 2.0, "dose": 20.0, "box": None}
    (tmp_path / fsc.SETTINGS).write_text(json.dumps(given))
    name = truth_name(0).split("/")[-1]
    for folder, xy in (("truth", [[30, 30], [50, 50]]), ("picks_ours", [[31, 30], [10, 60], [50, 12]])):
        target = tmp_path / folder / "micrographs"
        target.mkdir(parents=True)
        fsc.write_coordinates(target / name, np.array(xy, float))
    assert "ours" not in fsc.table(tmp_path)
    (tmp_path / "picks_ours" / "micrographs" / "DONE").touch()
    (row,) = fsc.rows(tmp_path)[1]
    assert (row["picks"], row["precision"], row["recall"]) == (3, pytest.approx(1 / 3), 0.5)
    assert row["kept"] is row["iteration"] is row["half_maps"] is None
    assert "| ours | 3 | 0.333 | 0.500 | - | - | - | - |" in fsc.table(tmp_path)
