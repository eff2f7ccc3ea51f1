from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import starfile

from relion_external.job import main
from tests.waiting import LIMIT, start

from .project import Project

HERE = "Schemes/cryosegnet/"


def install(folder: Path, *words: str) -> int:
    return main(["scheme", "--install", str(folder), *words])


def options(folder: Path, job: str, home: str = HERE) -> dict[str, str]:
    table = starfile.read(folder / home / job / "job.star", always_dict=True)["joboptions_values"]
    return dict(zip(table["rlnJobOptionVariable"], table["rlnJobOptionValue"].astype(str)))


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    return starfile.read(folder / HERE / "scheme.star", always_dict=True)


def test_scheme_is_closed(tmp_path: Path) -> None:
    """Every node, variable and file that something in the Scheme names is there."""
    assert install(tmp_path, "--relion", "5", "--movies", "Movies/*.eer") == 0
    found = tables(tmp_path)
    jobs = set(found["scheme_jobs"]["rlnSchemeJobName"])
    assert jobs == {"importmovies", "motioncorr", "ctffind", "pick", "extract", "class2d", "select", "inimodel3d"}
    operators = found["scheme_operators"]
    nodes = jobs | set(operators["rlnSchemeOperatorName"])
    variables = {"undefined"}
    for kind in ("Float", "Boolean", "String"):
        table = found[f"scheme_{'bool' if kind == 'Boolean' else kind.lower()}s"]
        variables |= set(table[f"rlnScheme{kind}VariableName"])
    for column in ("Output", "Input1", "Input2"):
        assert set(operators[f"rlnSchemeOperator{column}"]) <= variables
    edges = found["scheme_edges"]
    assert set(edges["rlnSchemeEdgeInputNodeName"]) == nodes
    assert set(edges["rlnSchemeEdgeOutputNodeName"]) <= nodes
    assert set(edges["rlnSchemeEdgeOutputNodeNameIfTrue"]) <= nodes | {"undefined"}
    for job in jobs:
        for value in options(tmp_path, job).values():
            if value.startswith(HERE):
                assert value.split("/")[2] in jobs
            if "$$" in value:
                assert value.split("$$")[1] in variables
    assert options(tmp_path, "importmovies")["fn_in_raw"] == "Movies/*.eer"


@pytest.mark.parametrize("version", ["4", "5"])
def test_jobs_of_the_scheme(tmp_path: Path, version: str) -> None:
    words = [
        "--mics",
        "CtfFind/job003/micrographs_ctf.star",
        "--particle_diameter",
        "160",
        "--gpu",
        "0",
        "--threshold",
        "0.4",
    ]
    assert install(tmp_path, "--relion", version, *words) == 0
    pick = options(tmp_path, "pick")
    assert pick["in_mic"] == "CtfFind/job003/micrographs_ctf.star"
    given = {pick[f"param{number}_label"]: pick[f"param{number}_value"] for number in (1, 2, 3)}
    assert given == {"particle_diameter": "160", "threshold": "0.4", "gpu": "0"}
    assert options(tmp_path, "extract")["coords_suffix"] == f"{HERE}pick/autopick.star"
    text = (tmp_path / HERE / "pick/job.star").read_text()
    assert "_rlnJobTypeLabel relion.external" in text
    assert f"# version {'50001' if version == '5' else '30001'}" in text
    assert "importmovies" not in (tmp_path / HERE / "scheme.star").read_text()


@pytest.mark.parametrize(("given", "extract"), [("Yes", "No"), ("No", "Yes"), ("", "Yes")])
def test_bright_particles_are_not_inverted_by_extract(tmp_path: Path, given: str, extract: str) -> None:
    assert install(tmp_path, "--relion", "5", "--invert", given) == 0
    pick = options(tmp_path, "pick")
    assert (pick.get("param1_label"), pick.get("param1_value")) == (("invert", given) if given else (None, None))
    assert options(tmp_path, "extract")["do_invert"] == extract


@pytest.mark.parametrize(
    ("version", "run", "abort"),
    [
        (
            "3.1",
            "relion_scheduler --schedule a-1 --reset && relion_scheduler --schedule a-1 --run --pipeline_control "
            "Schedules/a-1/",
            "relion_scheduler --schedule a-1 --abort",
        ),
        (
            "5",
            "relion_schemer --scheme a-1 --run --pipeline_control Schemes/a-1/",
            "relion_schemer --scheme a-1 --abort",
        ),
    ],
)
def test_commands_that_start_and_abort(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], version: str, run: str, abort: str
) -> None:
    assert install(tmp_path, "--relion", version, "--name", "a-1") == 0
    said = capsys.readouterr().out
    assert f"start it in {tmp_path} with: {run}\nabort it with: {abort}\n" in said
    assert ("needs the Python environment of RELION" in said) is (version == "5")


def test_rounds_with_damaged_micrographs_only_do_not_end_the_scheme(tmp_path: Path) -> None:
    assert install(tmp_path, "--relion", "5") == 0
    assert options(tmp_path, "pick")["other_args"] == "--growing Yes"


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert install(tmp_path / "none", "--relion", "5") == 1
    assert install(tmp_path) == 1
    assert "add --relion" in capsys.readouterr().err
    assert install(tmp_path, "--relion", "5", "--movies", "my movies/*") == 1
    assert "holds a space" in capsys.readouterr().err
    assert install(tmp_path, "--relion", "5", "--name", "a/b") == 1
    capsys.readouterr()
    for words, said in (
        (["--relion", "7"], "--relion: invalid choice: '7'"),
        (
            ["--relion", "5", "--particle_diameter", "big"],
            "--particle_diameter must be between 1 and 10000 angstrom (got big)",
        ),
        (["--relion", "5", "--gpu", "x"], "--gpu must be GPU numbers, as 0 or 0:1, or auto or cpu (got x)"),
        (["--relion", "5", "--nr_iter", "many"], "--nr_iter must be a whole number above 0 (got many)"),
        (["--relion", "5", "--threads", "0"], "--threads must be a whole number above 0 (got 0)"),
        (["--relion", "5", "--angpix", "0,83"], "--angpix must be a number such as 1.0 (got 0,83)"),
        (["--relion", "5", "--thresold", "0.5"], "unknown argument --thresold; did you mean --threshold?"),
    ):
        assert install(tmp_path, *words) == 1
        error = capsys.readouterr().err.splitlines()
        assert said in error[0] and len(error) == 2, error
    assert not (tmp_path / "Schemes").exists()
    assert main(["scheme"]) == 1
    assert "--install" in capsys.readouterr().err
    assert main(["scheme", "--help"]) == 0
    (tmp_path / "readonly").mkdir()
    (tmp_path / "readonly" / "Schemes").write_text("")
    assert install(tmp_path / "readonly", "--relion", "5") == 3
    assert "cannot be written" in capsys.readouterr().err
    assert install(tmp_path, "--relion", "5") == 0
    assert install(tmp_path, "--relion", "5") == 1
    assert "exists" in capsys.readouterr().err
    assert install(tmp_path, "--relion", "5", "--overwrite") == 0


@pytest.mark.relion
@pytest.mark.skipif(shutil.which("relion_scheduler") is None, reason="RELION is not installed (apt-get install relion)")
def test_schedule_runs_and_waits_for_data(tmp_path: Path) -> None:
    project = Project(tmp_path, micrographs=5)
    good = project.names[2:]
    # The first round has damaged micrographs only, which must not end the Schedule.
    for name in project.names[:2]:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:5000])
    project.write_star(project.names[:2])
    words = ["--relion", "3.1", "--mics", project.mics_star, "--exe", str(project.executable()), "--wait_sec", "1"]
    words += ["--min_nr_parts_2d", "160", "--nr_classes", "2", "--nr_iter", "1", "--threads", "1"]
    assert install(tmp_path, *words) == 0
    project.relion("relion_scheduler", "--schedule", "cryosegnet", "--reset")
    home = "Schedules/cryosegnet/"
    command = ["relion_scheduler", "--schedule", "cryosegnet", "--run", "--pipeline_control", home]
    scheduler = start(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        project.wait_for("External/job004/RELION_JOB_EXIT_SUCCESS", scheduler)
        project.write_star()
        project.wait_for("Extract/job005/RELION_JOB_EXIT_SUCCESS", scheduler)
        project.add_micrographs(2)
        project.wait_for("Class2D/job006/RELION_JOB_EXIT_SUCCESS", scheduler)
        project.relion("relion_scheduler", "--schedule", "cryosegnet", "--abort")
        assert scheduler.wait(timeout=LIMIT) is not None
    finally:
        scheduler.kill()
        scheduler.wait(timeout=LIMIT)
    assert (tmp_path / home / "RELION_JOB_EXIT_ABORTED").exists()
    assert "3 finished by an earlier run, 4 to pick" in project.text("External/job004/run.out")
    particles = starfile.read(tmp_path / "Extract/job005/particles.star", always_dict=True)["particles"]
    assert set(particles["rlnMicrographName"]) == {*good, *project.names[5:]}
    assert [project.status(job) for job in ("External/job004/", "Extract/job005/")] == ["success"] * 2
