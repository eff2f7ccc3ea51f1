"""The command, as a user runs it."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from PIL import Image

from cryosegnet_ext import Picks
from cryosegnet_ext.cli import main
from cryosegnet_ext.cli.evaluate import named_sets
from tests.evaluation.helpers import SHAPE, particles, table, write, write_project


def run(*words: object) -> int:
    return main(["evaluate", *map(str, words)])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_project(tmp_path)
    return tmp_path


def test_table_csv_json_and_curves(project, capsys):
    shutil.copytree(project / "picks", project / "other")
    sets = [f"first={project / 'picks'}", project / "other"]
    assert run("--labels", project / "labels", "--diameter", "40px", *sets, "-o", project / "out") == 0
    text = capsys.readouterr().out
    assert "within 0.3 diameters = 12.0 px" in text
    assert "as published (best of each over the micrographs; an upper end)" in text
    assert {"first", "other"} <= {line.split()[0] for line in text.splitlines() if line}
    report = json.loads((project / "out" / "evaluation.json").read_text())
    first, other = report["sets"]
    assert first["total"] == other["total"]
    assert first["total"]["labels"] == 180
    assert f"{first['total']['f1']:.3f}" in text
    with open(project / "out" / "evaluation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["micrograph"] for r in rows[:5]] == ["mic_000", "mic_001", "mic_002", "(total)", "(mean)"]
    assert float(rows[3]["f1"]) == pytest.approx(first["total"]["f1"], rel=1e-5)
    assert sum(int(r["right"]) for r in rows[:3]) == first["total"]["right"]
    assert float(rows[4]["recall"]) == pytest.approx(np.mean([float(r["recall"]) for r in rows[:3]]), rel=1e-5)
    for name in ("precision_recall.png", "f1_threshold.png"):
        with Image.open(project / "out" / name) as picture:
            assert min(picture.size) > 400
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 50
    curve = first["curve"]
    assert max(curve["f1"]) == pytest.approx(first["total"]["best_f1"])


def test_sets_may_stand_on_both_sides_of_options(project, capsys):
    for name in ("a", "b", "c"):
        shutil.copytree(project / "picks", project / name)
    words = [project / "a", "--labels", project / "labels", project / "b", "--diameter", "40px", project / "c"]
    assert run(*words, "-o", project / "out") == 0
    assert [s["name"] for s in json.loads((project / "out" / "evaluation.json").read_text())["sets"]] == ["a", "b", "c"]
    capsys.readouterr()
    assert run(*words, "--diametre", "40px") == 1
    assert "unknown argument --diametre; did you mean --diameter?" in capsys.readouterr().err


def test_thresholds_by_set(project, capsys):
    shutil.copytree(project / "picks", project / "other")
    words = ["--labels", project / "labels", "--diameter", "40px", project / "picks", project / "other"]
    words += ["--threshold", "0.3", "--threshold", "other=0.8"]
    assert run(*words, "-o", project / "out") == 0
    first, other = json.loads((project / "out" / "evaluation.json").read_text())["sets"]
    assert (first["threshold"], other["threshold"]) == (0.3, 0.8)
    assert other["total"]["picks"] < first["total"]["picks"]
    assert other["total"]["average_precision"] == first["total"]["average_precision"]
    assert "other (>= 0.8)" in capsys.readouterr().out


def test_angstroms_need_a_pixel_size_and_give_the_same_figures(project, capsys):
    labels, picks = project / "labels", project / "picks"
    assert run("--labels", labels, "--diameter", "80", picks) == 1
    assert "is in angstrom and no pixel size is known; add --pixel-size" in capsys.readouterr().err
    out = []
    for size in (["40px"], ["80", "--pixel-size", "2"], ["80A", "--pixel-size", "2"]):
        assert run("--labels", labels, "--diameter", *size, picks) == 0
        out.append([line for line in capsys.readouterr().out.splitlines() if line.startswith("picks")])
    assert out[0] == out[1] == out[2]


def test_the_diameter_of_the_labels_is_taken(tmp_path, capsys):
    rng = np.random.default_rng(0)
    xy = particles(rng)
    write(tmp_path / "labels", {"mic": table(xy, diameter=40.0)}, ".csv")
    write(tmp_path / "picks", {"mic": table(xy)})
    assert run("--labels", tmp_path / "labels", tmp_path / "picks") == 0
    assert "diameter 40 px, the labels' median" in capsys.readouterr().out
    write(tmp_path / "bare", {"mic": table(xy)})
    assert run("--labels", tmp_path / "bare", tmp_path / "picks") == 1
    assert "have no particle diameter; add --diameter" in capsys.readouterr().err


@pytest.mark.parametrize("labels", ["sim", "sim/truth", "sim/truth/micrographs/mic.star"])
def test_the_diameter_of_a_simulation_is_the_true_one(tmp_path, capsys, labels):
    """Its labels hold none; that of the judged run, an estimate, moved the tolerance."""
    xy = particles(np.random.default_rng(0))
    write(tmp_path / "sim" / "truth" / "micrographs", {"mic": table(xy)})
    species = [{"name": "a", "distractor": False}, {"name": "b", "distractor": True}]
    specimens = [{"name": "a", "diameter": 200.0}, {"name": "b", "diameter": 40.0}]
    record = {"plan": {"pixel_size": 4.0, "species": species}, "specimens": specimens}
    (tmp_path / "sim" / "simulation.json").write_text(json.dumps(record))
    write(tmp_path / "picks", {"mic": table(xy, diameter=30.0)}, ".csv")
    assert run("--labels", tmp_path / labels, tmp_path / "picks") == 0
    out = capsys.readouterr().out
    assert "diameter 50 px (200 A), the true one in" in out and "simulation.json" in out
    assert run("--labels", tmp_path / labels, "--diameter", "40px", tmp_path / "picks") == 0
    assert "as given" in capsys.readouterr().out
    # Labels that hold a diameter win, and a record that is damaged says nothing.
    write(tmp_path / "sim" / "truth" / "micrographs", {"mic": table(xy, diameter=40.0)}, ".csv")
    (tmp_path / "sim" / "truth" / "micrographs" / "mic.star").unlink()
    if not labels.endswith(".star"):
        assert run("--labels", tmp_path / labels, tmp_path / "picks") == 0
        assert "the labels' median" in capsys.readouterr().out
    write(tmp_path / "sim" / "truth" / "micrographs", {"mic": table(xy)})
    (tmp_path / "sim" / "truth" / "micrographs" / "mic.csv").unlink()
    for damaged in ("", "[]", "{}", '{"plan": {"pixel_size": 0, "species": []}, "specimens": []}'):
        (tmp_path / "sim" / "simulation.json").write_text(damaged)
        assert run("--labels", tmp_path / labels, tmp_path / "picks") == 1
        assert "have no particle diameter; add --diameter" in capsys.readouterr().err


def test_the_size_of_a_box_is_no_diameter(tmp_path, capsys):
    """Boxes are half as large again as the particle, or twice; a pick beside the particle must not count for that."""
    xy = particles(np.random.default_rng(0))
    write(tmp_path / "labels", {"mic": table(xy, diameter=90.0)}, ".box")
    write(tmp_path / "picks", {"mic": table(xy)})
    assert run("--labels", tmp_path / "labels", tmp_path / "picks") == 1
    assert "have no particle diameter; add --diameter" in capsys.readouterr().err


def test_missing_picks_and_unlabelled_micrographs_are_named(project, capsys):
    (project / "picks" / "mic_001.star").unlink()
    assert run("--labels", project / "labels", "--diameter", "40px", f"picks={project / 'picks'}") == 0
    assert "note: picks: no picks for mic_001; their labels count as missed." in capsys.readouterr().out
    (project / "labels" / "mic_000.star").unlink()
    assert run("--labels", project / "labels", "--diameter", "40px", f"mine={project / 'picks'}", "--common") == 0
    out = capsys.readouterr().out
    assert "1 of 2 labelled micrographs have picks of every set" in out
    assert "note: mine: picks of mic_000 are left out, because there are no labels." in out


def test_sets_of_which_nothing_counts_are_noted(project, capsys):
    labels, picks = write_project(project)
    write(project / "none", dict.fromkeys(labels, Picks.empty()))
    write(project / "scoreless", {s: table(np.c_[p.x, p.y]) for s, p in picks.items()})
    words = ["--labels", project / "labels", "--diameter", "40px", "--shape", *SHAPE]
    assert run(*words, *(project / name for name in ("picks", "none", "scoreless"))) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
    assert said == ["note: none: its files contain no picks."]
    assert run(*words, f"a={project / 'picks'}", f"b={project / 'scoreless'}", "--threshold", "1.5") == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
    assert re.match(r"note: a: the threshold 1\.5 is above all its scores \(0.* to 0\.9\d+\), so", said[0])
    assert said[1:] == ["note: b: all its picks have the score 1, so the threshold keeps all of them or none."]


def test_an_emptied_pick_file_is_named(project, capsys):
    (project / "picks" / "mic_001.star").write_text("")
    words = ["--labels", project / "labels", "--diameter", "40px", f"mine={project / 'picks'}"]
    assert run(*words) == 0
    said = "note: mine: mic_001.star is empty or has lost its header: there are no picks for mic_001."
    assert said in capsys.readouterr().out
    for name in ("mic_000", "mic_002"):
        (project / "picks" / f"{name}.star").write_text("")
    assert run(*words) == 3
    assert "its pick files (3) are all empty" in capsys.readouterr().err


@pytest.mark.parametrize("known", ["shape", "micrographs", "nothing"])
def test_mirrored_picks_are_noted_and_labels_can_be_mirrored(project, capsys, known):
    _, picks = write_project(project)
    upside_down = {s: Picks(p.x, SHAPE[0] - 1 - p.y, p.diameter, p.score) for s, p in picks.items()}
    write(project / "picks", upside_down)
    words = ["--labels", project / "labels", "--diameter", "40px", project / "picks"]
    if known == "shape":
        words += ["--shape", *SHAPE]
    if known == "micrographs":
        (project / "mics").mkdir()
        for stem in picks:
            with mrcfile.new(project / "mics" / f"{stem}.mrc") as mrc:
                mrc.set_data(np.random.default_rng(0).normal(0, 20, SHAPE).astype(np.int8))
                mrc.voxel_size = 2.0
        words += ["--micrographs", project / "mics"]
    assert run(*words) == 0
    assert "fit far better mirrored top to bottom" in capsys.readouterr().out
    if known == "nothing":
        assert run(*words, "--flip-labels") == 3
        assert "give --shape NY NX" in capsys.readouterr().err
        return
    assert run(*words, "--flip-labels", "-o", project / "out") == 0
    assert "note:" not in capsys.readouterr().out
    flipped = json.loads((project / "out" / "evaluation.json").read_text())["sets"][0]["total"]
    write(project / "picks", picks)
    assert run(*words, "-o", project / "out") == 0
    upright = json.loads((project / "out" / "evaluation.json").read_text())["sets"][0]["total"]
    assert flipped["right"] == upright["right"]
    assert flipped["shift_y_px"] == pytest.approx(-upright["shift_y_px"])


def test_a_guessed_frame_is_the_same_whatever_else_is_compared(project, capsys):
    write(project / "far", {"mic_000": table(np.array([[9000.0, 5.0]]))})
    dice = []
    for sets in (["picks"], ["picks", "far"]):
        words = ["--labels", project / "labels", "--diameter", "40px", *(f"{s}={project / s}" for s in sets)]
        assert run(*words, "-o", project / "out") == 0
        assert capsys.readouterr().out.count("guessed from the labels: give --shape (rows and columns)") == 1
        one = json.loads((project / "out" / "evaluation.json").read_text())["sets"][0]
        dice.append((one["total"]["dice"], one["as_published"]))
    assert dice[0] == dice[1]
    assert run(*words, "--shape", *SHAPE) == 0
    assert "guessed" not in capsys.readouterr().out


def test_odd_labels_are_noted(project, capsys):
    header = "x,y,diameter_A,diameter_px,score\n"
    for stem, size in (("mic_000", 1.0), ("mic_001", 2.0)):
        (project / "labels" / f"{stem}.star").unlink()
        row = f"100,100,{40 * size},40,1\n"
        (project / "labels" / f"{stem}.csv").write_text(header + row + row)
    assert run("--labels", project / "labels", "--diameter", "40", "--shape", *SHAPE, project / "picks") == 0
    out = capsys.readouterr().out
    assert "note: the labels have pixel sizes from 1 to 2 A; 1 A is used for all of them" in out
    assert "note: 2 labels repeat the place of another, as on mic_000, and each counts" in out


def test_labels_outside_are_noted(project, capsys):
    assert run("--labels", project / "labels", "--diameter", "40px", "--shape", 500, 500, project / "picks") == 0
    out = capsys.readouterr().out
    assert "labels lie outside their micrographs, as on mic_000 (500 x 500 pixels) and 2 more" in out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 1, "--labels --cryoppp"),
        (["--labels", "labels"], 1, "name the picks to judge"),
        (["--labels", "nowhere", "picks"], 1, "--labels nowhere: no such file"),
        (["--labels", "labels", "--diameter", "40px", "nowhere"], 3, "nowhere: no such file or folder"),
        (["--labels", "labels", "--diameter", "0px", "picks"], 1, "must be between 1 and 10000 pixels (got 0px)"),
        (["--labels", "labels", "--threshold", "x=1", "picks"], 1, "no set has this name; the sets are picks"),
        (["--labels", "labels", "--threshold", "high", "picks"], 1, "must be a score, as S or NAME=S (got high)"),
        (["--cryoppp", "labels", "-o", "out"], 3, "no CryoPPP data set"),
        (["--cryoppp", "labels", "picks", "--common"], 1, "--common cannot be used with --cryoppp"),
        (["--cryoppp", "nowhere", "picks"], 3, "nowhere: no such folder"),
        (["--labels", "labels", "--diameter", "40px", "picks", "-o", "labels/mic_000.star"], 1, "is a file"),
    ],
)
def test_wrong_usage_is_one_sentence(project, capsys, monkeypatch, words, code, said):
    monkeypatch.chdir(project)
    assert run(*words) == code
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


@pytest.mark.parametrize("folder", ["labels/mic_000.star/out", "/dev/null/out", "locked/out"])
def test_a_folder_that_cannot_be_written_is_noticed_before_the_work(project, capsys, monkeypatch, folder):
    import cryosegnet_ext.evaluation.compare as module

    monkeypatch.chdir(project)
    (project / "locked").mkdir()
    # Root may write anywhere.
    monkeypatch.setattr("os.access", lambda path, _: Path(path).name != "locked")
    monkeypatch.setattr(module, "compare", lambda _: pytest.fail("the work was begun"))
    assert run("--labels", "labels", "--diameter", "40px", "picks", "-o", folder) == 1
    assert f"--output {folder}: cannot be written to" in capsys.readouterr().err


def test_a_picture_that_is_not_drawn_is_said(project, capsys):
    _, picks = write_project(project)
    words = ["--labels", project / "labels", "--diameter", "40px", project / "picks", "-o", project / "out"]
    assert run(*words) == 0
    assert "is not drawn" not in capsys.readouterr().out
    write(project / "picks", {s: table(np.c_[p.x, p.y]) for s, p in picks.items()})
    assert run(*words) == 0
    assert "f1_threshold.png is not drawn: no set has picks of different scores" in capsys.readouterr().out
    assert not (project / "out" / "f1_threshold.png").exists()  # nor is the earlier one left


def test_damaged_picks_are_named(project, capsys):
    (project / "picks" / "mic_001.star").write_text("data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n1 x\n")
    assert run("--labels", project / "labels", "--diameter", "40px", project / "picks") == 3
    assert "mic_001.star: line 6" in capsys.readouterr().err


def test_names_of_sets(tmp_path):
    found = named_sets(["a=x/picks", "run/AutoPick/job010", "y/topaz/picks", "z/topaz", "b.star"])
    assert list(found) == ["a", "AutoPick/job010", "topaz", "topaz 2", "b.star"]
    assert found["a"] == Path("x/picks")
