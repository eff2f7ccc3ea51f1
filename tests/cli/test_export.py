"""``cryosegnet export``: files and folders to other formats."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest

from cryosegnet_ext.cli import export
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.picks import Picks, read_picks
from tests.files.helpers import HEADER, SHAPE, some_picks, written


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    export.add_args(parser)
    return export.main(parser.parse_args([str(a) for a in arguments]))


def test_export_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = written(tmp_path / "May08_03.05.02.star", HEADER + "100 200 0.5\n")
    assert run(source, "--to", "box", "--box-size", 64, "-o", tmp_path / "out") == 0
    assert (tmp_path / "out" / "May08_03.05.02.box").read_text() == "68\t168\t64\t64\n"
    assert run(source, "--to", "csv", "-o", tmp_path / "deep" / "x.csv") == 0
    assert (tmp_path / "deep" / "x.csv").is_file()
    assert "1 micrograph, 1 pick ->" in capsys.readouterr().out


def test_export_a_folder_to_one_cs_and_back(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for seed in range(3):
        some_picks(4, whole=True, seed=seed).write(tmp_path / "in" / f"m{seed}.csv")
    table = tmp_path / "all.cs"
    assert run(tmp_path / "in", "--to", "cs", "--shape", *SHAPE, "--output", table) == 0
    assert run(table, "--to", "star", "--output", tmp_path / "out") == 0
    for seed in range(3):
        back = read_picks(tmp_path / "out" / f"m{seed}.star")
        assert back.x.tolist() == some_picks(4, whole=True, seed=seed).x.tolist()


def test_export_splits_a_table(tmp_path: Path) -> None:
    text = "image_name\tx_coord\ty_coord\tscore\nm.2\t10\t20\t-1.5\nm.1\t30\t40\t2.5\n"
    assert run(written(tmp_path / "t.txt", text), "--to", "star", "-o", tmp_path / "out") == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["m.1.star", "m.2.star"]
    names = "x,y,micrograph\n1,2,M/a.mrc\n3,4,M/b.mrc.gz\n"
    assert run(written(tmp_path / "t.csv", names), "--to", "star", "-o", tmp_path / "more") == 0
    assert sorted(p.name for p in (tmp_path / "more").iterdir()) == ["a.star", "b.star"]
    with pytest.raises(CryoSegNetError, match="give a folder"):
        run(tmp_path / "t.csv", "--to", "star", "-o", tmp_path / "one.star")


def test_export_flips_y(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = written(tmp_path / "a.star", HEADER + "5 0 1\n6 99 1\n")
    out = tmp_path / "out"
    assert run(source, "--to", "star", "--flip-y", "--shape", 100, 50, "-o", out) == 0
    assert read_picks(out / "a.star").y.tolist() == [99, 0]
    assert run(source, "--to", "star", "--flip-y", "-o", out) == 3
    assert "--shape NY NX" in caplog.text


def test_export_goes_on_after_a_bad_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = written(tmp_path / "a.star", HEADER + "5 0 1\n")
    bad = written(tmp_path / "b.star", "data_\n")
    assert run(bad, good, "--to", "csv", "-o", tmp_path / "out") == 2
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.csv"]
    assert len(caplog.messages) == 1


def test_export_never_writes_over_an_input_nor_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    a = written(tmp_path / "a.star", HEADER + "5.25 0 1\n")
    (tmp_path / "sub").mkdir()
    b = written(tmp_path / "sub" / "a.star", HEADER + "6 0 1\n")
    assert run(a, "--to", "star", "-o", tmp_path) == 3
    assert "one of the inputs" in caplog.text
    assert "5.25" in a.read_text()
    assert run(a, b, "--to", "csv", "-o", tmp_path / "out") == 2
    assert "two inputs would both be written to" in caplog.text


def test_export_keeps_apart_what_pick_kept_apart(tmp_path: Path) -> None:
    """``pick`` calls the files of m.mrc and m.tif so, and that of x.tif.mrc; an export once lost or renamed them."""
    (tmp_path / "picks").mkdir()
    for number, stem in enumerate(("m", "m.tif", "x.tif")):
        written(tmp_path / f"picks/{stem}.star", HEADER + f"{number} 0 1\n")
    assert run(tmp_path / "picks", "--to", "csv", "-o", tmp_path / "out") == 0
    found = {path.name: read_picks(path).x.tolist() for path in (tmp_path / "out").iterdir()}
    assert found == {"m.csv": [0], "m.tif.csv": [1], "x.tif.csv": [2]}


@pytest.mark.parametrize("kind", ["csv", "star", "list"])
def test_export_keeps_micrographs_of_one_name_in_their_folders(tmp_path: Path, kind: str) -> None:
    """The second was once lost: both went to one file."""
    names = [f"MotionCorr/job002/{name}.mrc" for name in ("dayA/m", "dayB/m", "dayB/other")]
    names.append("MotionCorr/job009/dayA/m.mrc")
    table = tmp_path / f"table.{'csv' if kind == 'csv' else 'star'}"
    if kind == "csv":
        written(table, "x,y,micrograph\n" + "".join(f"{i},0,{name}\n" for i, name in enumerate(names)))
    elif kind == "star":
        head = "data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnMicrographName\n"
        written(table, head + "".join(f"{i} 0 {name}\n" for i, name in enumerate(names)))
    else:
        rows = [f"{name} {written(tmp_path / f'{i}.star', HEADER + f'{i} 0 1')}\n" for i, name in enumerate(names)]
        written(table, "data_\nloop_\n_rlnMicrographName\n_rlnMicrographCoordinates\n" + "".join(rows))
    assert run(table, "--to", "box", "--box-size", 2, "-o", tmp_path / "out") == 0
    found = {str(p.relative_to(tmp_path / "out")): read_picks(p).x.tolist() for p in (tmp_path / "out").rglob("*.box")}
    assert found == {"job002/dayA/m.box": [0], "job002/dayB/m.box": [1], "other.box": [2], "job009/dayA/m.box": [3]}


def test_export_of_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(CryoSegNetError, match="no pick files"):
        run(tmp_path, "--to", "box")
    with pytest.raises(CryoSegNetError, match="above zero"):
        run(tmp_path, "--to", "box", "--shape", 0, 5)
    with pytest.raises(SystemExit):
        run(tmp_path, "--to", "pdf")


def test_export_is_light_to_import() -> None:
    import subprocess

    code = "import sys, cryosegnet_ext.cli.export; assert not {'numpy', 'pandas', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_export_takes_the_output_of_pick_with_its_subfolders(tmp_path: Path) -> None:
    exact = Picks([10.25, 30.5], [20.75, 40.5], [90.0, 95.0], [0.9, 0.6], 1.5, (100, 120))
    for day in ("dayA", "dayB"):
        (tmp_path / "out" / "picks" / day).mkdir(parents=True)
        for suffix in ("star", "box", "csv"):
            exact.write(tmp_path / "out" / "picks" / day / f"m.{suffix}")
    (tmp_path / "out" / "summary.json").write_text("{}")
    parser = argparse.ArgumentParser()
    export.add_args(parser)
    words = [str(tmp_path / "out"), "--to", "cbox", "-o", str(tmp_path / "new")]
    assert export.main(parser.parse_args(words)) == 0
    for day in ("dayA", "dayB"):  # from the CSV, which keeps fractions and scores
        found = read_picks(tmp_path / "new" / day / "m.cbox", pixel_size=1.5)
        assert np.allclose(found.x, exact.x) and np.allclose(found.score, exact.score)


def test_export_of_nothing_says_so(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    export.add_args(parser)
    with pytest.raises(CryoSegNetError, match="no such file"):
        export.main(parser.parse_args([str(tmp_path / "nothere"), "--to", "star"]))
