"""``cryosegnet simulate`` as a user meets it: files, repeatability, going on, and sentences for what is wrong."""

from __future__ import annotations

import json
import warnings

import mrcfile
import numpy as np
import pytest
import starfile

from cryosegnet_ext.cli import main
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.picks import read_picks
from cryosegnet_ext.simulation.plan import JUNK

SMALL = ["--shape", "128", "160", "--pixel-size", "4", "--device", "cpu", "--quiet"]


def write_map(path, size=10.0, voxel=4.0):
    z, y, x = np.mgrid[:32, :32, :32] - 16.0
    volume = np.exp(-(x**2 + (y / 1.3) ** 2 + z**2) / (2 * (size / 3) ** 2)) * (1 + 0.5 * np.sin(x))
    with mrcfile.new(path) as mrc:
        mrc.set_data(volume.astype(np.float32))
        mrc.voxel_size = voxel
    return str(path)


@pytest.fixture
def specimen(tmp_path):
    return write_map(tmp_path / "ball.mrc")


def simulate(specimen, folder, *options, count=2):
    return main(["simulate", specimen, "-o", str(folder), "--count", str(count), *SMALL, *options])


def bytes_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_what_is_written(specimen, tmp_path):
    out = tmp_path / "sim"
    assert simulate(specimen, out, "--coverage", "0.2", "--defocus", "1.2:1.8") == 0
    with mrcfile.open(out / "micrographs" / "sim_00001.mrc") as mrc:
        assert mrc.data.shape == (128, 160) and mrc.data.dtype == np.float32
        assert float(mrc.voxel_size.x) == pytest.approx(4.0)
    tables = starfile.read(out / "micrographs.star")
    assert float(tables["optics"]["rlnMicrographPixelSize"].iloc[0]) == 4.0
    rows = tables["micrographs"]
    assert list(rows["rlnMicrographName"]) == ["micrographs/sim_00001.mrc", "micrographs/sim_00002.mrc"]
    mean = (rows["rlnDefocusU"] + rows["rlnDefocusV"]) / 2
    assert mean.between(12000, 18000).all()
    truth = starfile.read(out / "truth" / "micrographs" / "sim_00001.star")
    assert len(truth) > 3
    assert (truth["rlnCoordinateX"] % 1 == 0).all() and truth["rlnAngleTilt"].between(0, 180).all()
    picks = read_picks(out / "truth" / "micrographs" / "sim_00001.star", pixel_size=4.0)
    assert np.array_equal(picks.x, truth["rlnCoordinateX"])
    record = json.loads((out / "simulation.json").read_text())
    assert record["micrographs"][0]["particles"] == len(truth)
    assert record["micrographs"][1]["scene"]["optics"]["defocus_u"] == pytest.approx(rows["rlnDefocusU"][1], abs=0.01)
    assert [one.pixel_size for one in expand_inputs([str(out / "micrographs.star")])] == [4.0, 4.0]


def test_same_seed_same_bytes_and_another_seed_others(specimen, tmp_path):
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        assert simulate(specimen, tmp_path / name, "--seed", seed, "--contamination", "0:4") == 0
    a, b, c = (bytes_of(tmp_path / name) for name in "abc")
    assert a == b
    assert a["micrographs/sim_00001.mrc"] != c["micrographs/sim_00001.mrc"]


def test_the_same_command_goes_on(specimen, tmp_path, capsys):
    out = tmp_path / "sim"
    simulate(specimen, out, count=3)
    whole = bytes_of(out)
    (out / "micrographs" / "sim_00002.mrc").unlink()
    kept = (out / "micrographs" / "sim_00001.mrc").stat().st_mtime_ns
    assert simulate(specimen, out, count=3) == 0
    assert bytes_of(out) == whole
    (out / "truth" / "micrographs" / "sim_00003.star").unlink()
    assert simulate(specimen, out, count=3) == 0
    assert bytes_of(out) == whole
    assert (out / "micrographs" / "sim_00001.mrc").stat().st_mtime_ns == kept
    assert simulate(specimen, out, "--dose", "20", count=3) == 3
    assert "other settings: dose ([40.0, 40.0] then, [20.0, 20.0] now)" in capsys.readouterr().err
    assert simulate(specimen, out, "--dose", "20", "--overwrite") == 0
    assert len(list((out / "micrographs").glob("*.mrc"))) == 2


def test_distractors_are_kept_apart(specimen, tmp_path):
    other = write_map(tmp_path / "other.mrc", 7.0)
    out = tmp_path / "sim"
    assert simulate(specimen, out, "--distractor", other, "--coverage", "0.3", count=1) == 0
    truth, aside = (
        starfile.read(out / folder / "micrographs" / "sim_00001.star") for folder in ("truth", "distractors")
    )
    assert set(truth["rlnClassNumber"]) == {1} and set(aside["rlnClassNumber"]) == {2}
    assert (out / "specimens" / "other.mrc").exists()


@pytest.mark.parametrize("name", JUNK)
def test_every_ingredient_has_its_switch(specimen, tmp_path, name):
    option = "--" + name.replace("_", "-")
    clean = simulate(specimen, tmp_path / "clean", "--coverage", "0", count=1)
    dirty = simulate(
        specimen, tmp_path / "dirty", "--coverage", "0", option, "0.5" if name in JUNK[8:] else "6", count=1
    )
    assert clean == dirty == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, second = (mrcfile.read(tmp_path / n / "micrographs" / "sim_00001.mrc") for n in ("clean", "dirty"))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--mtf", "0"], "--mtf"),
        (["--defocus", "2:1"], "--defocus 2:1: give the lower number first"),
        (["--carbon", "2"], "--carbon"),
        (["--pixel-size", "0"], "--pixel-size"),
        (["--shape", "20", "20"], "--shape"),
        (["--coverage", "0.3:0.1"], "--coverage 0.3:0.1: give the lower number first"),
        (["--astigmatism", "50000"], "--astigmatism must be less than twice the --defocus, 20000 angstrom (got 50000)"),
        (["--defocus", "10000"], "micrometres"),
        (["--cs", "-3"], "--cs"),
        (["--gold", "1000000"], "--gold must be between 0 and 10000 (got 1000000)"),
        (["--tilt", "-80:0"], "--tilt must be between -70 and 70 (got -80:0)"),
    ],
)
def test_nonsense_is_named(specimen, tmp_path, capsys, options, word):
    assert simulate(specimen, tmp_path / "sim", *options) == 3
    err = capsys.readouterr().err
    assert word in err and "Traceback" not in err
    assert not (tmp_path / "sim").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--count", "0"], "--count: must be a whole number from 1"),
        (["--dose", "much"], "--dose: must be a number (got much)"),
        (["--share", "1,2"], "--share"),
        (["--device", "tpu"], "--device"),
        (["--contaminaton", "3"], "--contamination"),
    ],
)
def test_wrong_usage(specimen, tmp_path, capsys, options, word):
    assert simulate(specimen, tmp_path / "sim", *options) == 1
    assert word in capsys.readouterr().err


def test_a_missing_specimen_and_a_huge_one(specimen, tmp_path, capsys):
    assert simulate(str(tmp_path / "none.pdb"), tmp_path / "sim") == 3
    assert "none.pdb" in capsys.readouterr().err
    huge = write_map(tmp_path / "huge.mrc", voxel=40.0)
    assert simulate(huge, tmp_path / "sim2") == 3
    assert "--shape" in capsys.readouterr().err
    assert not (tmp_path / "sim").exists() and not (tmp_path / "sim2").exists()


def test_a_range_of_responses_has_a_table_and_an_optics_group_for_each(specimen, tmp_path):
    out = tmp_path / "sim"
    assert simulate(specimen, out, "--mtf", "0.3:1.0") == 0
    tables = starfile.read(out / "micrographs.star")
    optics = tables["optics"].set_index("rlnOpticsGroup")
    record = json.loads((out / "simulation.json").read_text())
    values = [one["scene"]["mtf"] for one in record["micrographs"]]
    assert values[0] != values[1] and all(0.3 <= value <= 1 for value in values)
    for group, value in zip(tables["micrographs"]["rlnOpticsGroup"], values):
        table = starfile.read(out / optics["rlnMtfFileName"][group])
        assert table["rlnMtfValue"].iloc[-1] == pytest.approx(value, abs=1e-5)
    assert [one.pixel_size for one in expand_inputs([str(out / "micrographs.star")])] == [4.0, 4.0]


def test_one_response_has_one_table(specimen, tmp_path):
    assert simulate(specimen, tmp_path / "sim", "--mtf", "0.4") == 0
    tables = starfile.read(tmp_path / "sim" / "micrographs.star")
    assert list(tables["optics"]["rlnMtfFileName"]) == ["mtf.star"]
    table = starfile.read(tmp_path / "sim" / "mtf.star")
    assert table["rlnMtfValue"].iloc[-1] == pytest.approx(0.4)


def test_overwriting_leaves_the_files_of_others(specimen, tmp_path):
    out = tmp_path / "sim"
    assert simulate(specimen, out, "--mtf", "0.3:0.9", count=3) == 0
    others = [out / "extract/micrographs/sim_00001_extract.star", out / "picks/micrographs/sim_00001.star"]
    others += [out / "micrographs/sim_00001_denoised.mrc", out / "particles.star"]
    for other in others:
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_text("of RELION")
    assert simulate(specimen, out, "--overwrite", count=1) == 0
    assert all(other.read_text() == "of RELION" for other in others)
    ours = [p.name for p in out.rglob("*") if p.is_file() and p not in others and p.parent.name != "specimens"]
    assert sorted(ours) == ["micrographs.star", "sim_00001.mrc", "sim_00001.star", "simulation.json"]


def test_species_of_the_same_name_are_told_apart(tmp_path):
    files = []
    for name, size in (("a/x.mrc", 10.0), ("b/x.mrc", 8.0), ("x_2.mrc", 7.0), ("c/X.mrc", 6.0)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        files.append(write_map(tmp_path / name, size))
    out = tmp_path / "sim"
    assert main(["simulate", *files, "-o", str(out), "--count", "1", *SMALL]) == 0
    assert sorted(p.stem for p in (out / "specimens").iterdir()) == ["X_3", "x", "x_2", "x_2_2"]


def test_going_on_from_another_folder_and_device(specimen, tmp_path, monkeypatch, capsys):
    out = tmp_path / "sim"
    monkeypatch.chdir(tmp_path)
    assert simulate("ball.mrc", out) == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert simulate("../ball.mrc", out, count=3) == 0
    record = json.loads((out / "simulation.json").read_text())
    assert len(record["micrographs"]) == 3 and record["files"] == ["../ball.mrc"]
    assert record["version"] and "device" not in record["plan"]
    write_map(tmp_path / "ball2.mrc", 9.0)
    (tmp_path / "ball2.mrc").replace(tmp_path / "ball.mrc")
    assert simulate("../ball.mrc", out, count=3) == 3
    assert "the specimens' files" in (err := capsys.readouterr().err) and err.count(" then, ") == 1
    (out / "simulation.json").write_text("{}")
    assert simulate("../ball.mrc", out, count=3) == 3
    assert "3 simulated micrographs, but its simulation.json is missing or of an older" in capsys.readouterr().err


def test_what_is_there_from_before_is_told(specimen, tmp_path, capsys):
    out = tmp_path / "sim"
    loud = [word for word in SMALL if word != "--quiet"]
    assert simulate(specimen, out, count=3) == 0
    assert main(["simulate", specimen, "-o", str(out), "--count", "1", *loud]) == 0
    assert "2 more micrographs" in capsys.readouterr().err
    record = json.loads((out / "simulation.json").read_text())
    (out / "simulation.json").write_text(json.dumps(record | {"version": "0.0.1"}))
    assert main(["simulate", specimen, "-o", str(out), "--count", "3", *loud]) == 0
    assert "3 micrographs in" in (err := capsys.readouterr().err) and "0.0.1" in err


def test_a_range_may_begin_below_zero(specimen, tmp_path):
    assert simulate(specimen, tmp_path / "sim", "--tilt", "-30:-20", "--tilt-axis", "-5") == 0
    record = json.loads((tmp_path / "sim" / "simulation.json").read_text())
    assert all(-30 <= one["scene"]["tilt"] <= -20 for one in record["micrographs"])


def test_coverage_that_was_not_reached_is_told(specimen, tmp_path, capsys):
    loud = [word for word in SMALL if word != "--quiet"]
    options = ["--coverage", "0.8", "--crowding", "1.1", "--count", "1", *loud]
    assert main(["simulate", specimen, "-o", str(tmp_path / "full"), *options]) == 0
    err = capsys.readouterr().err
    record = json.loads((tmp_path / "full" / "simulation.json").read_text())
    covered = record["micrographs"][0]["covered"]
    assert 0.1 < covered < 0.7
    assert f"particles cover {covered:.2f}" in err and "0.80" in err
    assert main(["simulate", specimen, "-o", str(tmp_path / "loose"), *options, "--coverage", "0", *loud]) == 0
    assert "particles cover" not in capsys.readouterr().err


def test_what_was_built_of_a_model_is_told(tmp_path, capsys):
    pytest.importorskip("gemmi")
    from tests.simulation.test_specimen_files import BIOMT, pdb_text

    model, loud = tmp_path / "two.pdb", [word for word in SMALL if word != "--quiet"]
    model.write_text(pdb_text(BIOMT))
    plain = tmp_path / "one.pdb"
    plain.write_text(pdb_text())
    said = {}
    for name, file, options in (
        ("first", model, []),
        ("atoms", model, ["--assembly", "none"]),
        ("unnamed", plain, ["--pixel-size", "1", "--shape", "128", "128"]),
    ):
        assert main(["simulate", str(file), "-o", str(tmp_path / name), "--count", "1", *loud, *options]) == 0
        said[name] = capsys.readouterr().err
        (specimen,) = json.loads((tmp_path / name / "simulation.json").read_text())["specimens"]
        said[name + " wide"] = specimen["diameter"]
        assert specimen["remark"] in said[name]
    assert "biological assembly 1 of 1 in the file, 2 copies" in said["first"] and "left out" not in said["first"]
    assert said["first wide"] > 2 * said["atoms wide"]
    assert "names no biological assembly" in said["unnamed"]
    assert "detail finer than 3.0 A is left out" in said["unnamed"]
    assert main(["simulate", str(model), "-o", str(tmp_path / "x"), "--assembly", "7", *loud]) == 3
    assert "no assembly 7 (it has 1)" in capsys.readouterr().err


def test_detail_that_does_not_fit_is_told(specimen, tmp_path, capsys, monkeypatch):
    from cryosegnet_ext.simulation import dataset

    options = ["--count", "1", *(word for word in SMALL if word != "--quiet")]
    found = []
    for most in (224, 20):
        monkeypatch.setattr(dataset, "MOST_VOXELS", most)
        assert main(["simulate", specimen, "-o", str(tmp_path / str(most)), *options]) == 0
        found += json.loads((tmp_path / str(most) / "simulation.json").read_text())["specimens"]
        assert ("ball: detail finer than" in capsys.readouterr().err) == (most == 20)
    assert found[0]["voxel_size"] == 4.0 and found[1]["voxel_size"] > 4.5
    assert found[1]["diameter"] == pytest.approx(found[0]["diameter"], rel=0.1)
