"""``cryosegnet evaluate --cryoppp``, on folders made in CryoPPP's layout."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryosegnet_ext.cli import main
from cryosegnet_ext.evaluation.cryoppp import PICKERS, PUBLISHED
from tests.evaluation.helpers import SHAPE, found_among, particles, table, write


def run(*words: object) -> int:
    return main(["evaluate", *map(str, words)])


def cryoppp(folder: Path, number: str, seed: int, micrographs: bool = True) -> dict[str, np.ndarray]:
    """A data set of CryoPPP as its archives unpack; true centres in array order by stem."""
    rng = np.random.default_rng(seed)
    truth = {}
    coordinates = folder / number / "ground_truth" / "particle_coordinates"
    coordinates.mkdir(parents=True)
    (folder / number / "ground_truth" / "false_positives").mkdir()
    (folder / number / "ground_truth" / "false_positives" / "mic_0_false_positives.csv").write_text(
        "X-Coordinate,Y-Coordinate\n1,2\n"
    )
    (folder / number / "micrographs").mkdir()
    for i in range(3):
        xy = particles(rng)
        truth[f"mic_{i}"] = xy
        header = "X-Coordinate,Y-Coordinate,Diameter,Angle-Psi,Origin X (Ang),Origin Y (Ang),Defocus U\n"
        # y counts from the last row of the MRC file.
        rows = "".join(f"{x:.0f},{SHAPE[0] - 1 - y:.0f},40,12.5,0.1,0.2,15000\n" for x, y in xy)
        (coordinates / f"mic_{i}.csv").write_text(header + rows)
        if micrographs:
            with mrcfile.new(folder / number / "micrographs" / f"mic_{i}.mrc") as mrc:
                mrc.set_data(rng.normal(0, 30, SHAPE).astype(np.int8))
                mrc.voxel_size = 2.0
    return truth


@pytest.mark.parametrize("micrographs", [True, False])
def test_cryoppp_beside_the_papers_table(tmp_path, capsys, micrographs):
    rng = np.random.default_rng(5)
    for number, seed in (("10017", 1), ("10028", 2), ("10005", 3)):
        truth = cryoppp(tmp_path / "data", number, seed, micrographs)
        write(tmp_path / "mine" / number, {s: table(*found_among(xy, rng)) for s, xy in truth.items()})
    assert run("--cryoppp", tmp_path / "data", "--picks", f"mine={tmp_path / 'mine'}", "-o", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert out.count("mine: the labels were mirrored top to bottom") == 3
    with open(tmp_path / "out" / "published.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["EMPIAR", *PICKERS, "mine: F1", "mine: as published"]
    by_name = {row[0]: row[1:] for row in rows[1:]}
    assert list(by_name) == ["10005", "10017", "10028", "mean of 2"]
    assert by_name["10017"][:7] == [f"{v:.3f}" for v in PUBLISHED["10017"]]
    assert by_name["10005"][:7] == ["-"] * 7
    for number in ("10017", "10028", "10005"):
        report = json.loads((tmp_path / "out" / number / "evaluation.json").read_text())
        (mine,) = report["sets"]
        assert report["settings"]["diameter_px"] == 40
        assert mine["total"]["recall"] > 0.6
        assert by_name[number][-2:] == [f"{mine['total']['f1']:.3f}", f"{mine['as_published']['f1']:.3f}"]
    mean = (float(by_name["10017"][7]) + float(by_name["10028"][7])) / 2
    assert float(by_name["mean of 2"][7]) == pytest.approx(mean, abs=0.001)


def test_cryoppp_is_picked_where_no_picks_are_given(tmp_path, capsys, monkeypatch):
    """With a picker that knows the answer but for one micrograph, which fails to be read."""
    truth = cryoppp(tmp_path, "10017", 1)
    (tmp_path / "10017" / "micrographs" / "mic_2.mrc").write_bytes(b"no image" * 200)
    asked = []

    class Knowing:
        settings = {"weights": "none"}  # noqa: RUF012
        needs_diameter = False
        diameter = None

        def __init__(self, weights, *, device):
            asked.append((weights, device))

        def pick(self, micrograph, diameter=None):
            return table(truth[Path(micrograph.name).stem][:45], np.linspace(0.5, 1, 45), 40.0)

    import cryosegnet_ext.picker

    monkeypatch.setattr(cryosegnet_ext.picking.picker, "Picker", Knowing)
    assert run("--cryoppp", tmp_path / "10017") == 1
    assert "name a folder for the picks with --output" in capsys.readouterr().err
    assert asked == []
    (tmp_path / "10017" / "micrographs" / "mic_2.mrc").unlink()
    assert run("--cryoppp", tmp_path / "10017", "-o", tmp_path / "out") == 0
    assert asked == [("default", "auto")]
    report = json.loads((tmp_path / "out" / "10017" / "evaluation.json").read_text())
    total = report["sets"][0]["total"]
    assert (total["micrographs"], total["labels"], total["right"]) == (2, 120, 90)
    assert total["precision"] == 1
    assert (tmp_path / "out" / "10017" / "picked" / "picks" / "mic_0.star").is_file()
    out = capsys.readouterr().out
    assert "0.718" in out  # CryoSegNet's published figure for this set
    assert (
        f"note: 2 of 3 labelled micrographs are in {tmp_path / '10017' / 'micrographs'}; only these are counted." in out
    )
    # A shape that is given makes no micrograph of one that is not there.
    assert run("--cryoppp", tmp_path / "10017", "-o", tmp_path / "out", "--shape", *SHAPE) == 0
    assert "note: 2 of 3 labelled micrographs" in capsys.readouterr().out


def test_two_folders_of_one_data_set_are_not_judged_as_one(tmp_path, capsys):
    cryoppp(tmp_path, "10017", 1, micrographs=False)
    cryoppp(tmp_path, "10017_lite", 2, micrographs=False)
    write(tmp_path / "picks", {"mic_0": table(np.ones((1, 2)))})
    assert run("--cryoppp", tmp_path, tmp_path / "picks") == 3
    assert "are both data set 10017: give one of them on its own" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n"])
def test_an_emptied_file_of_cryoppp_is_no_micrograph_less(tmp_path, capsys, content):
    truth = cryoppp(tmp_path, "10017", 1, micrographs=False)
    write(tmp_path / "picks", {s: table(xy) for s, xy in truth.items()})
    (tmp_path / "10017" / "ground_truth" / "particle_coordinates" / "mic_1.csv").write_text(content)
    assert run("--cryoppp", tmp_path, tmp_path / "picks") == 3
    assert "mic_1.csv: the first line does not name columns x and y" in capsys.readouterr().err


def test_cryoppp_without_micrographs_needs_picks(tmp_path, capsys):
    cryoppp(tmp_path, "10017", 1, micrographs=False)
    assert run("--cryoppp", tmp_path, "-o", tmp_path / "out") == 1
    assert "no micrographs to pick; name PICKS" in capsys.readouterr().err


def test_labels_in_a_cryoppp_folder_point_to_the_option(tmp_path, capsys):
    cryoppp(tmp_path, "10017", 1)
    shutil.rmtree(tmp_path / "10017" / "ground_truth" / "particle_coordinates")
    shutil.rmtree(tmp_path / "10017" / "ground_truth" / "false_positives")
    shutil.rmtree(tmp_path / "10017" / "micrographs")
    write(tmp_path / "picks", {"mic_0": table(np.ones((1, 2)))})
    assert run("--labels", tmp_path / "10017", tmp_path / "picks") == 3
    assert "there are no labels" in capsys.readouterr().err
