"""Jobs that score existing picks (*Input coordinates*), started by a shell as RELION starts them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from .project import PIXEL, SHAPE, Project
from .stub import DIAMETER
from .test_coordinates import FOLDER, HEAD, LIST, NAME, listed

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("coords", ["rescore", "refine"])
def test_job_on_existing_picks(tmp_path: Path, coords: str) -> None:
    project = Project(tmp_path, micrographs=1)
    project.call("--in_mics", project.mics_star, "--threshold", "0.5", job="External/job004/")
    truth = project.coordinates("External/job004/", NAME)
    rng = np.random.default_rng(0)
    moved = truth.copy()
    moved[:, :2] += rng.integers(-3, 4, size=(len(truth), 2))
    moved[:, :2] = np.clip(moved[:, :2], 0, [SHAPE[1] - 1, SHAPE[0] - 1])
    bad = np.array([[5.0, 5.0, 1.0], [9999.0, 5.0, 1.0]])  # on no particle; outside the micrograph
    file = project.folder / "External/job004/Micrographs/mic_000_autopick.star"
    head = "".join(file.read_text().splitlines(keepends=True)[:6])
    file.write_text(head + "".join(f"{x} {y} {s}\n" for x, y, s in np.vstack([moved, bad])))

    project.call("--in_coords", "External/job004/autopick.star", "--coords", coords, job="External/job005/")
    assert project.text("External/job005/run.err").count("Traceback") == 0
    assert project.markers("External/job005/") == ["RELION_JOB_EXIT_SUCCESS"]
    found = project.coordinates("External/job005/", NAME)
    if coords == "refine":
        distance = np.hypot(*(found[:, None, :2] - truth[None, :, :2]).transpose(2, 0, 1)).min(axis=1)
        assert len(found) == len(truth) and (distance == 0).mean() > 0.9
    else:
        assert len(found) == len(truth) + 1
        assert np.isin(found[:-1, 0], moved[:, 0]).all()
        assert found[-1].tolist()[:2] == [5.0, 5.0]
        assert np.median(np.abs(np.sort(found[:-1, 2]) - np.sort(truth[:, 2]))) < 1e-3
    assert DIAMETER / PIXEL == 40


def listing(project: Project, rows: dict[str, str], file: str = "AutoPick/job008/autopick.star") -> str:
    """Write a list of coordinate files; each has two picks. Returns its name."""
    for coordinates in rows.values():
        write_picks(project.folder / coordinates)
    path = project.folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(LIST + "".join(f"{name} {coordinates}\n" for name, coordinates in rows.items()))
    return file


def write_picks(path: Path, rows: str = "100 200\n300 250\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + rows)


def said(project: Project) -> str:
    return project.text("External/job004/run.out") + project.text("External/job004/run.err")


def warnings(project: Project) -> list[str]:
    found: list[str] = json.loads(project.text("External/job004/summary.json"))["warnings"]
    return found


@pytest.mark.parametrize("kind", ["list", "particles", "csv"])
def test_picks_under_another_name_are_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    project = Project(tmp_path, micrographs=1)
    coordinates = listed(kind, "J12/motioncorrected/001234567890123456789_mic_000_patch_aligned_doseweighted.mrc")
    project.call("--in_mics", project.mics_star, "--in_coords", coordinates)
    assert project.markers() == ["RELION_JOB_EXIT_SUCCESS"], said(project)
    assert project.coordinates("External/job004/", NAME)[:, :2].tolist() == [[100, 200], [300, 250]]
    assert warnings(project) == [] and project.text("External/job004/run.err") == ""


def test_a_list_of_other_micrographs_is_refused_with_a_name_of_each_side(tmp_path: Path) -> None:
    project = Project(tmp_path, micrographs=1)
    coordinates = listing(project, {"MotionCorr/job002/Micrographs/other.mrc": "AutoPick/job008/other_autopick.star"})
    project.call("--in_mics", project.mics_star, "--in_coords", coordinates)
    assert project.markers() == ["RELION_JOB_EXIT_FAILURE"]
    error = project.text("External/job004/run.err")
    assert NAME in error and "MotionCorr/job002/Micrographs/other.mrc" in error and error.count("\n") == 1


def test_micrographs_without_coordinates_are_counted_and_named(tmp_path: Path) -> None:
    project = Project(tmp_path, micrographs=4)
    rows = {name: f"AutoPick/job008/Micrographs/{Path(name).stem}_autopick.star" for name in project.names[:3]}
    coordinates = listing(project, rows)
    (tmp_path / rows[project.names[1]]).unlink()
    write_picks(tmp_path / rows[project.names[2]], "")
    project.call("--in_mics", project.mics_star, "--in_coords", coordinates)
    assert project.markers() == ["RELION_JOB_EXIT_SUCCESS"]
    error = project.text("External/job004/run.err")
    gone = f"1 of 4 micrographs gets no picks, because the coordinate file that {coordinates} lists does not exist"
    assert f"{gone}: {project.names[1]}" in error
    assert f"because {coordinates} does not list it: {project.names[3]}" in error
    assert "3 of 4 micrographs have no picks" in error
    assert "particle_diameter" not in said(project) and "threshold" not in said(project)
    assert len(warnings(project)) == 3 and all(text in error for text in warnings(project))


def test_when_all_listed_files_are_gone_the_job_fails(tmp_path: Path) -> None:
    project = Project(tmp_path, micrographs=2)
    rows = {name: f"AutoPick/job008/{Path(name).stem}_autopick.star" for name in [*project.names, "M/more.mrc"]}
    coordinates = listing(project, rows)
    for name in project.names:
        (tmp_path / rows[name]).unlink()
    project.call("--in_mics", project.mics_star, "--in_coords", coordinates)
    assert project.markers() == ["RELION_JOB_EXIT_FAILURE"]
    assert f"do not exist; the first is {rows[project.names[0]]}" in project.text("External/job004/run.err")


def test_a_cut_row_is_an_error_or_a_micrograph_without_picks(tmp_path: Path) -> None:
    project = Project(tmp_path, micrographs=2)
    rows = {name: f"AutoPick/job008/{Path(name).stem}_autopick.star" for name in project.names}
    coordinates = listing(project, rows)
    text = (tmp_path / coordinates).read_text()
    (tmp_path / coordinates).write_text(text[:-5])  # within the last file's name
    project.call("--in_mics", project.mics_star, "--in_coords", coordinates)
    assert f"does not exist: {project.names[1]}" in project.text("External/job004/run.err")
    (tmp_path / coordinates).write_text(text[: text.rindex(" ")])
    project.call("--in_mics", project.mics_star, "--in_coords", coordinates, job="External/job005/")
    assert project.markers("External/job005/") == ["RELION_JOB_EXIT_FAILURE"]
    assert "cut off" in project.text("External/job005/run.err")
    # A cut coordinate file fails its micrograph and no other.
    (tmp_path / coordinates).write_text(text)
    write_picks(tmp_path / rows[project.names[1]], "100 200\n300")
    project.call("--in_mics", project.mics_star, "--in_coords", coordinates, job="External/job006/")
    assert "mic_001_autopick.star: line 7" in project.text("External/job006/failed.csv")
    assert len(project.coordinates("External/job006/", project.names[0])) == 2


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_names_with_signs(tmp_path: Path, encoding: str) -> None:
    project = Project(tmp_path, micrographs=1)
    stems = ["o'brien_1", "'quoted'", "'begins", "a#1", "it's_#2", 'five"', "Zürich", "ä'#", '"', "#/b", "'c/d'"]
    names = [f"{FOLDER}{stem}.mrc" for stem in stems]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.link(tmp_path / NAME, tmp_path / name)
    # A name may begin with a quote.
    (tmp_path / "'q").mkdir()
    names.append("'q/e.mrc")
    os.link(tmp_path / NAME, tmp_path / names[-1])
    project.write_star(names)
    coordinates = listing(project, {name: f"AutoPick/job008/{name[:-4]}_autopick.star" for name in names})
    path = tmp_path / coordinates
    path.write_bytes(path.read_text().encode(encoding))
    project.call("--in_mics", project.mics_star, "--in_coords", coordinates)
    assert project.markers() == ["RELION_JOB_EXIT_SUCCESS"], said(project)
    assert [len(project.coordinates("External/job004/", name)) for name in names] == [2] * len(names)
    # What the job lists is read back by the next job on these picks.
    again = ["--in_mics", project.mics_star, "--in_coords", "External/job004/autopick.star"]
    project.call(*again, job="External/job005/")
    assert [len(project.coordinates("External/job005/", name)) for name in names] == [2] * len(names)


def test_a_project_whose_names_are_not_utf_8(tmp_path: Path) -> None:
    project = Project(tmp_path, micrographs=1)
    called = os.fsdecode(FOLDER.encode() + b"Z\xfcrich.mrc")
    (tmp_path / NAME).rename(tmp_path / called)
    star = tmp_path / project.mics_star
    star.write_bytes(star.read_bytes().replace(b"mic_000", b"Z\xfcrich"))
    project.call("--in_mics", project.mics_star)
    assert project.markers() == ["RELION_JOB_EXIT_SUCCESS"], said(project)
    listed = (tmp_path / "External/job004/autopick.star").read_bytes()
    assert f"{FOLDER}".encode() + b"Z\xfcrich.mrc External/job004/Micrographs/Z\xfcrich_autopick.star" in listed
    picked = project.coordinates("External/job004/", called)
    assert len(picked) > 10
    project.call("--in_coords", "External/job004/autopick.star", job="External/job005/")
    assert np.array_equal(project.coordinates("External/job005/", called)[:, :2], picked[:, :2])


def test_picks_outside_the_micrograph_are_counted(tmp_path: Path) -> None:
    project = Project(tmp_path, micrographs=2)
    rows = {name: f"AutoPick/job008/{Path(name).stem}_autopick.star" for name in project.names}
    coordinates = listing(project, rows)
    write_picks(tmp_path / rows[NAME], "100 200\n-1 20\n9999 20\n20 512\n")
    project.call("--in_mics", project.mics_star, "--in_coords", coordinates)
    text = f"3 of 6 existing picks lie outside the micrograph ({NAME} 3)"
    assert text in project.text("External/job004/run.err") and text in warnings(project)[0]
    for file in rows.values():
        write_picks(tmp_path / file, "9999 20\n")
    project.call("--in_mics", project.mics_star, "--in_coords", coordinates, job="External/job005/")
    assert project.markers("External/job005/") == ["RELION_JOB_EXIT_FAILURE"]
    assert "2 of 2 existing picks lie outside" in project.text("External/job005/run.err")


def test_coordinates_that_are_restored_are_scored_by_continue(tmp_path: Path) -> None:
    project = Project(tmp_path, micrographs=2)
    rows = {name: f"AutoPick/job008/{Path(name).stem}_autopick.star" for name in project.names}
    coordinates = listing(project, rows)
    stored = tmp_path / "stored.star"
    (tmp_path / rows[NAME]).rename(stored)
    project.call("--in_mics", project.mics_star, "--in_coords", coordinates)
    assert len(project.coordinates("External/job004/", NAME)) == 0
    stored.rename(tmp_path / rows[NAME])
    project.call("--in_mics", project.mics_star, "--in_coords", coordinates)
    assert len(project.coordinates("External/job004/", NAME)) == 2
    assert warnings(project) == []


@pytest.mark.parametrize("version", ["3.1", "4"])
@pytest.mark.parametrize("with_mics", [True, False])
def test_the_folder_of_a_job_is_its_list(tmp_path: Path, version: str, with_mics: bool) -> None:
    project = Project(tmp_path, micrographs=1)
    listing(project, {NAME: "AutoPick/job008/Micrographs/mic_000_autopick.star"})
    if version == "3.1":
        (tmp_path / "AutoPick/job008/autopick.star").unlink()
        (tmp_path / "AutoPick/job008/coords_suffix_autopick.star").write_text(project.mics_star + "\n")
    words = ["--in_mics", project.mics_star] if with_mics else []
    project.call(*words, "--in_coords", "AutoPick/job008/")
    assert len(project.coordinates("External/job004/", NAME)) == 2, said(project)


@pytest.mark.parametrize("other", ["MotionCorr/job007/Micrographs/mic_000.mrc", FOLDER + "mic_000.mrcs"])
def test_micrographs_of_which_extract_loses_one_are_said(tmp_path: Path, other: str) -> None:
    project = Project(tmp_path, micrographs=1)
    (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
    os.link(tmp_path / NAME, tmp_path / other)
    project.write_star([NAME, other])
    project.call("--in_mics", project.mics_star)
    assert project.markers() == ["RELION_JOB_EXIT_SUCCESS"]
    (warning,) = warnings(project)
    assert f"{NAME} and {other}" in warning and "RELION's Extract" in warning
    assert warning in project.text("External/job004/run.err")
    # Picks of either are told apart by the whole name only.
    project.call("--in_coords", "External/job004/autopick.star", job="External/job005/")
    assert "2 micrographs" in project.text("External/job005/run.out")
    assert project.text("External/job005/run.err").count("\n") == 1
