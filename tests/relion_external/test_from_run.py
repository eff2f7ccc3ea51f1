"""An External job that hands on the picks of a run, corrected in ``cryosegnet view``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.report.collect import collect
from cryosegnet_ext.report.pack import pack

from .project import PIXEL, SHAPE, Project

pytestmark = pytest.mark.slow
RUN, JOB = "External/job004/", "External/job005/"


def edit(project: Project, stem: str, rows: list[list[float]], run: str = RUN) -> None:
    x, y, score = np.array(rows, float).reshape(-1, 3).T
    path = project.folder / run / f"picks_edited/{stem}.star"
    path.parent.mkdir(exist_ok=True)
    Picks(x, y, np.full(len(x), np.nan), score, PIXEL, SHAPE).write(path)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with a job of three micrographs: of the second one two picks are left, of the third none."""
    project = Project(tmp_path, micrographs=3)
    project.call("--in_mics", project.mics_star, job=RUN)
    edit(project, "mic_001", [[100, 200, 0.1], [300, 60, 1]])
    edit(project, "mic_002", [])
    return project


def test_a_job_hands_on_edited_picks(project: Project) -> None:
    first, second, third = project.names
    project.call("--in_mics", project.mics_star, "--from_run", RUN, "--threshold", "0.7", job=JOB)
    assert project.markers(JOB) == ["RELION_JOB_EXIT_SUCCESS"]
    out, err = project.text(JOB + "run.out"), project.text(JOB + "run.err")
    assert "2 of 3 micrographs are edited: picks from External/job004/picks_edited" in out and "Traceback" not in err
    assert "1 edited micrograph has no picks left" in err and third in err
    assert sorted(project.coordinates(JOB, second).tolist()) == [[100, 200, 0.1], [300, 60, 1]]
    assert len(project.coordinates(JOB, third)) == 0 < len(project.coordinates(RUN, third))
    before, after = project.coordinates(RUN, first), project.coordinates(JOB, first)
    assert np.array_equal(after, before[before[:, 2] >= 0.7]) and 0 < len(after) < len(before)
    assert "autopick.star" in project.text(JOB + "RELION_OUTPUT_NODES.star")
    assert (project.folder / JOB / "report.html").is_file() and (project.folder / JOB / "logfile.pdf").is_file()


def test_parameters_that_only_picking_uses_are_named(project: Project) -> None:
    """They stay in the GUI from an earlier job; they were ignored in silence."""
    words = "--weights other --particle_diameter 120 --gpu cpu --force Yes --coords refine --threshold 0.7 --angpix 4"
    project.call("--in_mics", project.mics_star, "--from_run", RUN, words, job=JOB)
    assert project.markers(JOB) == ["RELION_JOB_EXIT_SUCCESS"]
    lines = [line for line in project.text(JOB + "run.err").splitlines() if "are not used" in line]
    (line,) = lines
    assert line.endswith("picks nothing: particle_diameter, weights, gpu, force, coords.")
    assert line[line.index("parameters") :] in json.loads(project.text(JOB + "summary.json"))["warnings"]
    project.call("--in_mics", project.mics_star, "--from_run", RUN, "--threshold 0.7 --angpix 4", job=JOB)
    assert "parameters were changed" not in project.text(JOB + "run.err")
    project.call("--in_mics", project.mics_star, "--coords refine", job="External/job006/")
    assert "there are no 'Input coordinates': coords." in project.text("External/job006/run.err")


def suggested(project: Project, job: str) -> str:
    """Diameter, boxes and pixel size that a job suggests, and the line of run.out about them."""
    return project.text(job + "output_for_relion.star").split("data_picker")[1].strip()


@pytest.mark.parametrize("words", [[], ["--threshold 0.8"], ["--particle_diameter 300"], ["--no_edits Yes"]])
def test_boxes_are_those_of_the_run(project: Project, words: list[str]) -> None:
    """Other boxes than the run's: particles of both could not be joined."""
    run = "External/job008/"
    project.call("--in_mics", project.mics_star, job=run, env={"STUB_SIZE": "140 150 160 200"})
    edit(project, "mic_001", [[100, 200, 0.1], [300, 60, 1]], run)
    edit(project, "mic_000", [[100, 200, 0.1]], run)
    project.call("--in_mics", project.mics_star, "--from_run", run, *words, job=JOB)
    assert suggested(project, JOB) == suggested(project, run)
    lines = [project.text(job + "run.out").split("for Extract: ")[1].splitlines()[0] for job in (run, JOB)]
    assert lines[1] == f"{lines[0]}, as for External/job008"
    # So does a job that hands on those.
    project.call("--in_mics", project.mics_star, "--from_run", JOB, "--threshold", "0.9", job="External/job006/")
    assert suggested(project, "External/job006/") == suggested(project, run)


def test_boxes_of_a_run_outside_relion_follow_its_diameter(project: Project) -> None:
    """`cryosegnet pick` suggests no boxes: the diameter that it was given, or the sizes that it found, do."""
    for run, words in (("External/job008/", ["--particle_diameter 200"]), ("External/job009/", [])):
        project.call("--in_mics", project.mics_star, *words, job=run, env={"STUB_SIZE": "140 150 160 200"})
        before = suggested(project, run)
        (project.folder / run / "output_for_relion.star").unlink()
        edit(project, "mic_001", [[100, 200, 0.1], [300, 60, 1]], run)
        job = run.replace("job00", "job01")
        project.call(
            "--in_mics", project.mics_star, "--from_run", run, "--threshold 0.8 --particle_diameter 90", job=job
        )
        assert suggested(project, job) == before


def test_boxes_of_another_pixel_size_are_said(project: Project) -> None:
    project.call("--in_mics", project.mics_star, "--from_run", RUN, "--angpix", str(PIXEL / 2), job=JOB)
    assert "_rlnMicrographPixelSize 2" in suggested(project, JOB)
    assert suggested(project, JOB).split()[1] == suggested(project, RUN).split()[1]
    assert "that of External/job004 is for pixels of 4 A, and these have 2 A" in project.text(JOB + "run.out")


def test_micrographs_that_are_mirrored_are_said(project: Project) -> None:
    """Another motion correction, which stores the same images with the last row first."""
    names = [name.replace("job002", "job009") for name in project.names]
    for old, new in zip(project.names, names):
        project.write(new, project.image(old)[::-1])
    project.write_star(names)
    project.call("--in_mics", project.mics_star, "--from_run", RUN, job=JOB)
    assert project.markers(JOB) == ["RELION_JOB_EXIT_SUCCESS"]
    assert "only when mirrored top to bottom" in project.text(JOB + "run.err")
    for old, new in zip(project.names, names):
        project.write(new, project.image(old))
    project.call("--in_mics", project.mics_star, "--from_run", RUN, job="External/job006/")
    assert "mirrored" not in project.text("External/job006/run.err")


def test_tiff_against_mrc_is_said_and_y_is_that_of_relion(project: Project) -> None:
    """The run picked MRC files; the job has TIFF files of the same arrays, which RELION reads last row first."""
    tiffs = [name.replace(".mrc", ".tif") for name in project.names]
    for old, new in zip(project.names, tiffs):
        tifffile.imwrite(project.folder / new, project.image(old))
    project.write_star([*tiffs[:2], project.names[2]])
    project.call("--in_mics", project.mics_star, "--from_run", RUN, job=JOB)
    assert project.markers(JOB) == ["RELION_JOB_EXIT_SUCCESS"]
    err = project.text(JOB + "run.err")
    assert "2 micrographs were picked in a file of another format" in err and "mic_001.tif" in err
    mine = project.coordinates(JOB, tiffs[1])
    assert sorted(mine[:, :2].tolist()) == [[100, SHAPE[0] - 1 - 200], [300, SHAPE[0] - 1 - 60]]


@pytest.mark.parametrize("version", ["3.1", "5"])
def test_coordinates_changed_in_display_are_said(project: Project, version: str) -> None:
    """Whether the displayed coordinates or the run's are handed on was left open."""
    run = "External/job008/"
    project.call("--in_mics", project.mics_star, job=run, version=version)
    before = project.coordinates(run, project.names[0])
    shown = project.folder / run / "Micrographs/mic_000_autopick.star"
    # As Display writes them: the same places with other columns are no change, a removed one is.
    head = "\ndata_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnClassNumber #3\n"
    rows = [f"{x:12.6f} {y:12.6f} 0\n" for x, y, _ in before]
    shown.write_text(head + "".join(reversed(rows)))
    words = ("--in_mics", project.mics_star, "--from_run", run)
    project.call(*words, job=JOB, version=version)
    assert "Display" not in project.text(JOB + "run.err")
    shown.write_text(head + "".join(rows[1:]))
    for job, more in (("External/job006/", ()), ("External/job007/", ("--no_edits", "Yes"))):
        project.call(*words, *more, job=job, version=version)
        err = project.text(job + "run.err")
        assert "1 micrograph was changed in RELION's Display" in err and project.names[0] in err
        assert run + ("coords_suffix_autopick.star" if version == "3.1" else "autopick.star") + " itself" in err
        assert np.array_equal(project.coordinates(job, project.names[0]), before)


def test_displayed_coordinates_of_tiff_files(project: Project) -> None:
    for name in project.names:
        tifffile.imwrite(project.folder / name.replace(".mrc", ".tif"), project.image(name))
    project.write_star([name.replace(".mrc", ".tif") for name in project.names])
    run = "External/job008/"
    project.call("--in_mics", project.mics_star, job=run)
    shown = project.folder / run / "Micrographs/mic_001_autopick.star"
    words = ("--in_mics", project.mics_star, "--from_run", run)
    project.call(*words, job=JOB)
    assert "Display" not in project.text(JOB + "run.err")
    shown.write_text(shown.read_text() + "5 5 1\n")
    project.call(*words, job="External/job006/")
    err = project.text("External/job006/run.err")
    assert "1 micrograph was changed in RELION's Display" in err and "mic_001.tif" in err


def test_the_expected_share_of_false_picks_leaves_out_what_a_person_judged(project: Project) -> None:
    edit(project, "mic_001", [[100, 200, 0.01], [300, 60, 0.01]])
    project.call("--in_mics", project.mics_star, "--from_run", RUN, job=JOB)
    summary = json.loads(project.text(JOB + "summary.json"))
    first, second, third = summary["micrographs"]
    assert second["picks"] == 2 and second["expected_false"] is third["expected_false"] is None
    merits = project.coordinates(JOB, project.names[0])[:, 2]
    assert first["expected_false"] == pytest.approx(1 - merits.mean(), abs=0.01)
    assert summary["totals"]["expected_false"] == first["expected_false"]
    assert "leaves out the 2 edited micrographs" in project.text(JOB + "run.out")
    assert pack(collect(project.folder / JOB), pictures=False)["micrographs"]["by_hand"] == [False, True, True]


def test_continue_notices_new_edits(project: Project) -> None:
    words = ("--in_mics", project.mics_star, "--from_run", RUN)
    project.call(*words, job=JOB)
    edit(project, "mic_000", [[50, 50, 1]])
    (project.folder / JOB / "RELION_JOB_EXIT_SUCCESS").unlink()
    project.call(*words, job=JOB)
    assert project.coordinates(JOB, project.names[0]).tolist() == [[50, 50, 1]]
    said = project.text(JOB + "run.err")
    assert "parameters were changed" in said and "all its micrographs are handed on again" in said
    # For another threshold its report names the run that was edited.
    assert f'"from_run ", "{RUN}", " threshold "' in project.text(JOB + "report.html").replace('","', '", "')


def test_names_that_do_not_match_are_said(project: Project) -> None:
    """Another motion correction of the same movies, which lacks one and has one more."""
    for name in project.names[:2]:
        other = project.folder / name.replace("job002", "job009")
        other.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(project.folder / name, other)
    shutil.copy(project.folder / project.names[2], other.with_name("new.mrc"))
    names = [name.replace("job002", "job009") for name in project.names[:2]]
    project.write_star([*names, str(Path(names[0]).with_name("new.mrc"))])
    project.call("--in_mics", project.mics_star, "--from_run", RUN, job=JOB)
    assert project.markers(JOB) == ["RELION_JOB_EXIT_SUCCESS"]
    err = project.text(JOB + "run.err")
    assert "1 of 3 micrographs not handed on" in err and "new.mrc" in err
    assert "the edits of 1 micrograph of External/job004 are not handed on" in err and "mic_002.mrc" in err
    assert len(project.coordinates(JOB, names[1])) == 2
    failed = json.loads(project.text(JOB + "summary.json"))["micrographs"]
    assert [one["name"] for one in failed if one["status"] == "failed"] == [str(Path(names[0]).with_name("new.mrc"))]
    assert len(project.coordinates(JOB, str(Path(names[0]).with_name("new.mrc")))) == 0


def test_another_data_set_or_size_is_an_error(project: Project) -> None:
    star = project.folder / "others.star"
    star.write_text("data_\nloop_\n_rlnMicrographName\nM/other.mrc\n")
    project.call("--in_mics", "others.star", "--from_run", RUN, job=JOB)
    assert project.markers(JOB) == ["RELION_JOB_EXIT_FAILURE"]
    assert "the first is called M/other.mrc here" in project.text(JOB + "run.err")
    project.write(project.names[0], np.random.default_rng(0).normal(size=(100, 100)))
    project.call("--in_mics", project.mics_star, "--from_run", RUN, job="External/job006/")
    err = project.text("External/job006/run.err")
    assert len(project.coordinates("External/job006/", project.names[0])) == 0
    assert "100 rows and 100 columns, and the run picked one of 512 and 640" in project.text(
        "External/job006/summary.json"
    ), err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--from_run", RUN, "--in_coords", RUN], "no 'Input coordinates'"),
        (["--from_run", JOB], "folder of this job"),
        (["--from_run", "nowhere/"], "does not exist"),
        (["--no_edits", "Yes"], "go with from_run"),
        (["--from_run", "Micrographs/"], "does not exist"),
        (["--from_run", "CtfFind/"], "nothing was picked into this folder"),
        (["--from_run", RUN + "summary.json"], "is part of a run: give the run's folder"),
    ],
)
def test_wrong_parameters_are_said(project: Project, words: list[str], text: str) -> None:
    project.call("--in_mics", project.mics_star, *words, job=JOB)
    assert project.markers(JOB) == ["RELION_JOB_EXIT_FAILURE"]
    err = project.text(JOB + "run.err")
    assert text in err and "Traceback" not in err


def test_damaged_edits_get_no_picks_and_are_named(project: Project) -> None:
    (project.folder / RUN / "picks_edited/mic_001.star").write_text("data_\n")
    project.call("--in_mics", project.mics_star, "--from_run", RUN, job=JOB)
    assert project.markers(JOB) == ["RELION_JOB_EXIT_SUCCESS"]
    assert "the edited picks of 1 micrograph cannot be used" in project.text(JOB + "run.err")
    assert len(project.coordinates(JOB, project.names[1])) == 0
    project.call("--in_mics", project.mics_star, "--from_run", RUN, "--no_edits", "Yes", job="External/job006/")
    assert np.array_equal(
        project.coordinates(RUN, project.names[1]), project.coordinates("External/job006/", project.names[1])
    )


def test_a_job_that_does_not_use_edits_says_so(project: Project) -> None:
    """Continue of the edited job, and its coordinates as input of another."""
    project.call("--in_mics", project.mics_star, job=RUN)
    project.call("--in_coords", RUN + "autopick.star", job=JOB)
    for job in (RUN, JOB):
        assert "2 micrographs were edited in" in project.text(job + "run.err"), job
        assert "from_run" in project.text(job + "run.err")
