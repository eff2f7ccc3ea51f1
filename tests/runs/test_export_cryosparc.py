from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import starfile

from cryosegnet_ext.cli import main
from cryosegnet_ext.errors import CryoSegNetError, plural
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.micrograph import read_micrograph, read_shape
from cryosegnet_ext.files.picks import Picks, read_many, read_picks
from cryosegnet_ext.runs import batch
from cryosegnet_ext.runs.cryosparc_export import export_cryosparc
from tests.stub_picker import StubPicker, write_micrograph

SHAPES = {"a.mrc": (64, 160), "b.mrc": (96, 64), "c d.mrc": (128, 80)}
SIZES = {"a.mrc": 2.0, "b.mrc": 1.25, "c d.mrc": 2.0}


@pytest.fixture
def picked(tmp_path: Path) -> Path:
    """The output folder of a run over three micrographs, none of them square, of two pixel sizes."""
    for seed, (name, shape) in enumerate(SHAPES.items()):
        write_micrograph(tmp_path / "mics" / name, seed, shape, SIZES[name])
    return pick(tmp_path / "mics", tmp_path / "out")


def pick(folder: Path, output: Path) -> Path:
    batch.run(StubPicker(), expand_inputs([folder]), output, progress=False, overlays=False)
    return output


def export(*arguments: object) -> int:
    return main(["export", *map(str, arguments)])


def by_name(table: dict, folder: Path) -> None:
    """Every micrograph's picks in a table are those of its own pick file."""
    assert sorted(table) == sorted(SHAPES)
    for name, picks in table.items():
        truth = read_picks(folder / "picks" / f"{Path(name).stem}.star")
        assert np.abs(picks.x - truth.x).max() < 1e-4 and np.abs(picks.y - truth.y).max() < 1e-4
        assert picks.score == pytest.approx(truth.score, abs=1e-6)
        assert picks.pixel_size == SIZES[name]


def test_the_star_is_read_back(picked: Path, tmp_path: Path) -> None:
    assert export(picked, "--cryosparc", "-o", tmp_path / "cs") == 0
    by_name(read_many(tmp_path / "cs" / "particles.star"), picked)
    blocks = starfile.read(tmp_path / "cs" / "particles.star")
    optics, particles = blocks["optics"], blocks["particles"]
    assert optics["rlnMicrographPixelSize"].tolist() == [2.0, 1.25]
    assert list(particles) == [
        "rlnMicrographName",
        "rlnCoordinateX",
        "rlnCoordinateY",
        "rlnAutopickFigureOfMerit",
        "rlnOpticsGroup",
    ]
    assert set(particles["rlnMicrographName"]) == set(SHAPES)
    groups = dict(zip(particles["rlnMicrographName"], particles["rlnOpticsGroup"]))
    assert groups == {"a.mrc": 1, "b.mrc": 2, "c d.mrc": 1}


def test_micrographs_that_were_moved_and_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_micrograph(Path("mics/a.mrc"), 0, SHAPES["a.mrc"], SIZES["a.mrc"])
    pick(Path("mics"), Path("out"))
    Path("mics").rename("archive")
    pick(Path("archive"), Path("out"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert export("../out", "--cryosparc", "-o", "cs") == 0
    assert list(read_many("cs/particles.star")) == ["a.mrc"]


@pytest.mark.parametrize("flip", [False, True])
def test_the_fractions_of_the_cs_file(picked: Path, tmp_path: Path, flip: bool) -> None:
    assert export(picked, "--cryosparc", "-o", tmp_path / "cs", *["--flip-y"] * flip) == 0
    rows = np.load(tmp_path / "cs" / "particles.cs")
    entries = {e["name"]: e for e in json.loads((picked / "summary.json").read_text())["micrographs"]}
    assert {p.decode() for p in rows["location/micrograph_path"]} == set(entries)
    table = read_many(tmp_path / "cs" / "particles.star")
    for path, entry in entries.items():
        mine = rows[rows["location/micrograph_path"] == path.encode()]
        name, (ny, nx) = Path(path).name, SHAPES[Path(path).name]
        truth = read_picks(picked / "picks" / f"{entry['stem']}.star")
        y = ny - 1 - truth.y if flip else truth.y
        assert mine["location/micrograph_shape"].tolist() == [[ny, nx]] * len(truth)
        assert np.abs(mine["location/center_x_frac"] - truth.x / nx).max() < 1e-6
        assert np.abs(mine["location/center_y_frac"] - y / ny).max() < 1e-6
        assert mine["location/micrograph_psize_A"] == pytest.approx(SIZES[name])
        assert mine["location/min_dist_A"] == pytest.approx(entry["diameter"])
        assert table[name].y == pytest.approx(y)
    assert len(set(rows["uid"])) == len(rows) == sum(e["picks"] for e in entries.values())


def test_cryosparc_tools_load_the_cs_file(picked: Path, tmp_path: Path) -> None:
    dataset = pytest.importorskip("cryosparc.dataset")
    assert export(picked, "--cryosparc", "-o", tmp_path) == 0
    loaded = dataset.Dataset.load(tmp_path / "particles.cs")
    rows = np.load(tmp_path / "particles.cs")
    for field in ("uid", "location/center_x_frac", "location/center_y_frac", "location/micrograph_shape"):
        assert np.array_equal(loaded[field], rows[field])
    assert str(loaded["location/micrograph_path"][0]).endswith(".mrc")


def test_what_to_choose_is_said_and_kept(picked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cs"
    assert export(picked, "--cryosparc", "-o", out) == 0
    said = capsys.readouterr().out
    assert said == (out / "IMPORT.txt").read_text()
    for words in (
        "Source Exposures",
        f"Particle meta path: {out / 'particles.star'}",
        "Ignore raw data: on",
        "Ignore pose data: on",
        "Remove leading UID in input micrograph path",
        "not tried on a live CryoSPARC",
        "again with --flip-y",
        "2.000000, 1.250000",
    ):
        assert words in said
    assert sorted(p.name for p in out.iterdir()) == ["IMPORT.txt", "particles.cs", "particles.star"]
    assert export(picked, "--cryosparc", "-o", out, "--flip-y") == 0
    assert "again without --flip-y" in capsys.readouterr().out


def test_one_pick_and_one_micrograph_are_said_as_such(tmp_path: Path) -> None:
    class OnePick(StubPicker):
        def pick(self, micrograph: object, diameter: float | None = None) -> Picks:  # type: ignore[override]
            return super().pick(micrograph, diameter).take([5])  # type: ignore[arg-type]

    write_micrograph(tmp_path / "mics" / "a.mrc")
    batch.run(OnePick(), expand_inputs([tmp_path / "mics"]), tmp_path / "out", progress=False, overlays=False)
    text = export_cryosparc(tmp_path / "out", tmp_path / "cs").text
    assert text.startswith("Picks for CryoSPARC: 1 pick of 1 micrograph.\n")


@pytest.mark.parametrize("flip", [False, True])
def test_the_pick_to_compare_says_where_it_was_picked(picked: Path, tmp_path: Path, flip: bool) -> None:
    text = export_cryosparc(picked, tmp_path / "cs", flip_y=flip).text
    name = text.split("that were picked: micrograph ")[1].split("\n")[0]
    row = int(text.split(" has its pick ")[1].split()[0])
    x, y = (float(text.split(f"center_{axis}_frac ")[1].split()[0].rstrip(",.")) for axis in "xy")
    truth = read_picks(picked / "picks" / f"{Path(name).stem}.star")
    ny, nx = SHAPES[name]
    assert (truth.x[row] / nx, truth.y[row] / ny) == pytest.approx((x, y), abs=1e-6)
    assert abs(y - 0.5) > 0.3


def test_a_missing_micrograph_leaves_the_rest(picked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mics" / "b.mrc").unlink()
    assert export(picked, "--cryosparc", "-o", tmp_path / "cs") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "b.mrc does not exist" in said and "--shape NY NX" in said
    assert sorted(read_many(tmp_path / "cs" / "particles.star")) == ["a.mrc", "c d.mrc"]
    assert export(picked, "--cryosparc", "-o", tmp_path / "cs", "--shape", 96, 64) == 0
    by_name(read_many(tmp_path / "cs" / "particles.star"), picked)
    # The sizes in the headers win; a shape that the picks do not fit into is refused.
    assert export(picked, "--cryosparc", "-o", tmp_path / "cs", "--shape", 64, 64) == 2
    assert "do not lie within 64 rows" in capsys.readouterr().err


def test_nothing_left_writes_nothing(picked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in SHAPES:
        (tmp_path / "mics" / name).unlink()
    assert export(picked, "--cryosparc", "-o", tmp_path / "cs") == 3
    assert "no picks to export" in capsys.readouterr().err and not (tmp_path / "cs").exists()


def test_names_relative_to_another_folder_are_found(
    picked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pick(Path("mics"), Path("relative"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert export("../relative", "--cryosparc") == 0
    paths = set(np.load("particles.cs")["location/micrograph_path"].tolist())
    assert paths == {f"mics/{name}".encode() for name in SHAPES}


def test_micrographs_of_one_file_name_get_a_table_for_each_folder(tmp_path: Path) -> None:
    for seed, name in enumerate(["x/m.mrc", "y/z/m.mrc", "y/z/n.mrc", "m.mrc"]):
        write_micrograph(tmp_path / "mics" / name, seed)
    out = pick(tmp_path / "mics", tmp_path / "out")
    assert export(out, "--cryosparc", "-o", tmp_path / "cs") == 0
    tables = {"x": ["m.mrc"], "y_z": ["m.mrc", "n.mrc"], "top": ["m.mrc"]}
    assert {path.name for path in (tmp_path / "cs").glob("*.star")} == {f"particles-{word}.star" for word in tables}
    text = (tmp_path / "cs" / "IMPORT.txt").read_text()
    for word, names in tables.items():
        table = read_many(tmp_path / "cs" / f"particles-{word}.star")
        assert list(table) == names
        below = Path() if word == "top" else Path(word.replace("_", "/"))
        truth = read_picks(out / "picks" / below / "m.star")
        assert table["m.mrc"].x.tolist() == truth.x.tolist()
        assert f"particles-{word}.star: {plural(len(names), 'micrograph')} of {tmp_path / 'mics' / below}\n" in text
    rows = np.load(tmp_path / "cs" / "particles.cs")
    assert len(set(rows["location/micrograph_path"].tolist())) == 4


def test_a_pixel_size_that_the_run_did_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_micrograph(tmp_path / "mics" / "m.mrc", pixel_size=0)
    out = pick(tmp_path / "mics", tmp_path / "out")
    assert export(out, "--cryosparc", "-o", tmp_path) == 3
    assert "--pixel-size A" in capsys.readouterr().err
    assert export(out, "--cryosparc", "-o", tmp_path, "--pixel-size", 1.5) == 0
    rows = np.load(tmp_path / "particles.cs")
    diameter = json.loads((out / "summary.json").read_text())["micrographs"][0]["diameter"]
    assert rows["location/min_dist_A"] == pytest.approx(1.5 * diameter)


def test_what_is_no_output_of_pick(picked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CryoSegNetError, match="give the output folder of 'cryosegnet pick'"):
        export_cryosparc(tmp_path, tmp_path)
    for text, words in (("{", "damaged"), ('{"schema": 99, "micrographs": []}', "another version")):
        (picked / "summary.json").write_text(text)
        assert export(picked, "--cryosparc", "-o", tmp_path) == 3
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--cryosparc", "--to", "star"], [], ["other", "--cryosparc"], ["--cryosparc", "--box-size", "64"]]
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert export("out", *arguments) == 1
    assert "error: " in capsys.readouterr().err


def test_shapes_come_from_headers(tmp_path: Path) -> None:
    path = write_micrograph(tmp_path / "m.mrc", shape=(70, 90))
    whole = path.read_bytes()
    (tmp_path / "m.mrc.gz").write_bytes(gzip.compress(whole))
    (tmp_path / "head.mrc").write_bytes(whole[:1024])
    for name in ("m.mrc", "m.mrc.gz", "head.mrc"):
        assert read_shape(tmp_path / name) == (70, 90)
    import cv2

    cv2.imwrite(str(tmp_path / "m.png"), np.arange(70 * 90).reshape(70, 90).astype(np.uint8))
    assert read_shape(tmp_path / "m.png") == read_micrograph(tmp_path / "m.png").data.shape == (70, 90)
    (tmp_path / "empty.mrc").touch()
    (tmp_path / "torn.mrc").write_bytes(whole[:500])
    for name in ("none.mrc", "empty.mrc", "torn.mrc", "."):
        with pytest.raises(CryoSegNetError):
            read_shape(tmp_path / name)
