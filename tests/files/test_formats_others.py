"""Coordinates of EMAN2 (JSON), cisTEM, napari and Topaz, and of tomograms, which are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cryosegnet_ext.cli import main
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.labels import coordinate_files, stem_of
from cryosegnet_ext.files.picks import read_many, read_picks
from tests.files.helpers import written

EMAN = {"boxes": [[102.5, 40, "manual"], [7, 300, "auto_gauss"]], "ctf": [1.0, {"defocus": 2}], "quality": 5}


def test_eman2_boxes_are_centres(tmp_path: Path) -> None:
    path = written(tmp_path / "mic_1_info.json", json.dumps(EMAN))
    (name, picks), *_ = read_many(path, pixel_size=2.0).items()
    assert (name, picks.x.tolist(), picks.y.tolist()) == ("mic_1", [102.5, 7], [40, 300])
    assert np.isnan(picks.diameter).all() and picks.score.tolist() == [1, 1]
    assert len(read_picks(written(tmp_path / "b.json", '{"boxes": []}'))) == 0
    assert read_picks(written(tmp_path / "c.json", '[[1, 2, "manual"], [3, 4, "manual"]]')).y.tolist() == [2, 4]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"boxes": [[1, 2, "manual", 30]]}', "tomogram"),
        ('{"boxes_3d": [[1, 2, 3, "tomo", 0.1, 0]]}', "tomogram"),
        ('{"boxes": [], "boxes_3d": [[1, 2, 3, "tomo", 0.1, 0]]}', "tomogram"),
        ('{"boxes": [[1, 2, 64, 64]]}', "box 1 has a number after x and y"),
        ('{"boxes": [[1, 2, "manual"], ["x", 2, "manual"]]}', "box 2 does not begin with x and y"),
        ('{"boxes": [[1]]}', "box 1"),
        ('{"boxes": {"a": 1}}', "no boxes"),
        ('{"picks": 12}', "no boxes"),
        ("7", "no boxes"),
        ('{"boxes": [[1, 2, "man', "damaged"),
        ('{"boxes": [[NaN, 2, "manual"]]}', "box 1"),
        ('{"boxes": [[1' + "0" * 400 + ', 2, "manual"]]}', "box 1"),
        ("[" * 100000, "damaged"),
        ("", "damaged"),
    ],
)
def test_json_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(CryoSegNetError, match=words):
        read_many(written(tmp_path / "a_info.json", text))


def test_an_eman2_project_is_exported(tmp_path: Path) -> None:
    (tmp_path / "info").mkdir()
    written(tmp_path / "info/mic_1_info.json", json.dumps(EMAN))
    written(tmp_path / "info/mic_2_info.json", json.dumps({"ctf": [1]}))  # a micrograph without boxes
    written(tmp_path / "info/project.json", json.dumps({"global.apix": 1.1}))
    assert [file.path.name for file in coordinate_files(tmp_path / "info")[0]] == ["mic_1_info.json"]
    assert main(["export", str(tmp_path / "info"), "--to", "csv", "-o", str(tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mic_1.csv"]
    assert read_picks(tmp_path / "out/mic_1.csv").x.tolist() == [102.5, 7]


def plt(x: float, y: float, ny: int) -> str:
    """A row as cisTEM's export writes it (MyParticlePositionExportDialog.cpp)."""
    return f"{ny - y + 1:13.2f}{x + 1:13.2f}{1:13.2f}\n"


def test_cistem_plt_needs_the_height(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path / "mic_1.plt", "C comment\n" + plt(10, 20, 300) + plt(399, 0, 300))
    picks = read_picks(path, shape=(300, 400))
    assert picks.x.tolist() == [10, 399] and picks.y.tolist() == [20, 0] and picks.shape == (300, 400)
    with pytest.raises(CryoSegNetError, match=r"last row.*shape="):
        read_picks(path)
    words = ["export", str(tmp_path), "--to", "star", "-o", str(tmp_path / "out")]
    assert main(words) == 3 and "--shape" in caplog.text
    assert main([*words, "--shape", "300", "400"]) == 0
    assert read_picks(tmp_path / "out/mic_1.star").y.tolist() == [20, 0]
    with pytest.raises(CryoSegNetError, match="line 1 has 4 values"):
        read_picks(written(tmp_path / "bad.plt", "1 2 3 4\n"), shape=(300, 400))


CISTEM = (
    "# Written by cisTEM\ndata_\n\nloop_\n_cisTEMPositionInStack #1\n_cisTEMPixelSize #2\n"
    "_cisTEMOriginalImageFilename #3\n_cisTEMOriginalXPosition #4\n_cisTEMOriginalYPosition #5\n"
)


def test_cistem_star_is_in_angstrom(tmp_path: Path) -> None:
    path = written(tmp_path / "p.star", CISTEM + "1 1.5 'M/a.mrc' 150.0 30.0\n2 1.5 'M/b.mrc' 3.0 6.0\n")
    table = read_many(path)
    assert list(table) == ["M/a.mrc", "M/b.mrc"]
    assert (table["M/a.mrc"].x[0], table["M/a.mrc"].y[0], table["M/a.mrc"].pixel_size) == (100, 20, 1.5)
    binned = read_many(path, pixel_size=0.75)["M/a.mrc"]  # the stack's pixels may be binned
    assert (binned.x[0], binned.pixel_size) == (200, 0.75)
    without = CISTEM.replace("_cisTEMPixelSize", "_cisTEMLogP")
    with pytest.raises(CryoSegNetError, match="angstrom"):
        read_many(written(tmp_path / "q.star", without + "1 1.5 'M/a.mrc' 150.0 30.0\n"))


@pytest.mark.parametrize("more", ["_rlnTomoName\n", "_rlnMicrographName\n"])
def test_relion_5s_centred_coordinates_are_of_a_tomogram(tmp_path: Path, more: str) -> None:
    axes = "".join(f"_rlnCenteredCoordinate{axis}Angst\n" for axis in "XYZ")
    with pytest.raises(CryoSegNetError, match=r"tomogram, in angstrom from its centre"):
        read_many(written(tmp_path / "a.star", f"data_particles\n\nloop_\n{more}{axes}TS_01 1754.8 -879.5 1138.0\n"))
    both = f"data_particles\n\nloop_\n{more}_rlnCoordinateX\n_rlnCoordinateY\n{axes}TS_01 10 20 1754.8 -879.5 1138.0\n"
    with pytest.raises(CryoSegNetError, match="tomogram"):
        read_many(written(tmp_path / "b.star", both))


def test_points_that_napari_saved(tmp_path: Path) -> None:
    picks = read_picks(written(tmp_path / "a.csv", "index,axis-0,axis-1\n0.0,20.5,100.0\n1.0,30.0,200.25\n"))
    assert picks.x.tolist() == [100, 200.25] and picks.y.tolist() == [20.5, 30]
    stack = "index,axis-0,axis-1,axis-2\n0.0,3.0,20.5,100.0\n1.0,3.0,30.0,200.25\n"
    assert read_picks(written(tmp_path / "b.csv", stack)).x.tolist() == [100, 200.25]
    with pytest.raises(CryoSegNetError, match="several images of a stack"):
        read_picks(written(tmp_path / "c.csv", stack + "2.0,4.0,1.0,2.0\n"))
    shapes = "index,shape-type,vertex-index,axis-0,axis-1\n0.0,rectangle,0.0,10.0,20.0\n"
    with pytest.raises(CryoSegNetError, match="corners of shapes"):
        read_picks(written(tmp_path / "d.csv", shapes))
    with pytest.raises(CryoSegNetError, match="4 axes"):
        read_picks(written(tmp_path / "e.csv", "index,axis-0,axis-1,axis-2,axis-3\n0,1,2,3,4\n"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.csv").rename(tmp_path / "folder/mic_1.csv")
    assert [file.path.name for file in coordinate_files(tmp_path / "folder")[0]] == ["mic_1.csv"]


def test_boxes_of_size_0_are_centres(tmp_path: Path) -> None:
    picks = read_picks(written(tmp_path / "a.box", "100.0 200.5 0 0\n10 20 0 0\n"))
    assert picks.x.tolist() == [100, 10] and picks.y.tolist() == [200.5, 20]
    assert np.isnan(picks.diameter).all()
    for row in ("100 200 64 0", "100 200 -64 -64", "100 200 nan nan"):
        with pytest.raises(CryoSegNetError, match="impossible size"):
            read_picks(written(tmp_path / "b.box", "1 2 64 64\n" + row + "\n"))


@pytest.mark.parametrize("between", ["\t", ",", " ", "   "])
def test_topaz_tables_with_and_without_scores(tmp_path: Path, between: str) -> None:
    rows = [("image_name", "x_coord", "y_coord", "score"), ("mic_1", "10", "20", "-1.5"), ("mic_2", "30", "40", "2")]
    text = "".join(between.join(row) + "\n" for row in rows)
    table = read_many(written(tmp_path / "topaz.txt", text))
    assert {name: (p.x[0], p.y[0], p.score[0]) for name, p in table.items()} == {
        "mic_1": (10, 20, -1.5),
        "mic_2": (30, 40, 2),
    }
    text = "".join(between.join(row[:3]) + "\n" for row in rows)
    assert read_many(written(tmp_path / "training.txt", text))["mic_2"].score.tolist() == [1]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("001234567890123456789_a_rigid_aligned.mrc", "a"),
        ("001234567890123456789_a_rigid_aligned_doseweighted.mrc", "a"),
        ("a_doseweighted.mrc", "a"),
        ("grid_aligned.mrc", "grid_aligned"),
        ("info/mic_1_info.json", "mic_1"),
    ],
)
def test_what_programs_add_to_names(name: str, stem: str) -> None:
    assert stem_of(name) == stem
