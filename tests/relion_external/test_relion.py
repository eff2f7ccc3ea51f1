"""The External job under the real RELION 3.1: every job here is added and run by relion_pipeliner."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import tifffile

from cryosegnet_ext.files.picks import Picks, read_picks
from cryosegnet_ext.files.relion_paths import COORDINATE_SUFFIX
from relion_external import nodes
from tests.waiting import LIMIT, wait_until

from .project import BOX, PIXEL, SHAPE, Project

pytestmark = [
    pytest.mark.relion,
    pytest.mark.skipif(
        not all(map(shutil.which, ("relion_pipeliner", "relion_preprocess", "relion_refine"))),
        reason="RELION is not installed (Debian: apt-get install relion)",
    ),
]

EXTRACT = {
    "extract_size": str(BOX),
    "do_invert": "Yes",
    "do_norm": "Yes",
    "bg_diameter": "56",
    "do_rescale": "No",
    "nr_mpi": "1",
}
CLASS2D = {
    "nr_classes": "2",
    "nr_iter": "2",
    "particle_diameter": "220",
    "psi_sampling": "24",
    "nr_mpi": "1",
    "nr_threads": "1",
}


@pytest.fixture(scope="module")
def picked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """A project whose External job has run."""
    project = Project(tmp_path_factory.mktemp("project"))
    job = project.add_external(params={"particle_diameter": "160", "threshold": ""})
    assert project.run(job) == "success", project.text(job + "run.err")
    return project, job


def extract(project: Project, job: str) -> str:
    coordinates = job + "coords_suffix_autopick.star"
    return project.add_job("Extract", 5, EXTRACT | {"star_mics": project.mics_star, "coords_suffix": coordinates})


def count_picks(project: Project, job: str) -> int:
    return sum(len(project.coordinates(job, name)) for name in project.names)


def particles(project: Project, job: str) -> list[tuple[str, int, int, str]]:
    table = starfile.read(project.folder / job / "particles.star", always_dict=True)["particles"]
    columns = ("rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnImageName")
    return [(str(n), int(x), int(y), str(i)) for n, x, y, i in zip(*(table[c] for c in columns))]


def process_status(pid: int) -> list[str]:
    """State and parent of a process, as /proc gives them."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ["gone", "0"]


def is_running(pid: int) -> bool:
    # A container's first process may leave the dead as zombies.
    return process_status(pid)[0] not in ("gone", "Z")


def test_chain_to_class2d(picked: tuple[Project, str]) -> None:
    project, job = picked
    extracted = extract(project, job)
    classes = project.add_job("Class2D", 8, CLASS2D | {"fn_img": extracted + "particles.star"})
    assert project.run(extracted) == "success"
    assert project.run(classes) == "success"
    assert [project.status(one) for one in (job, extracted, classes)] == ["success"] * 3
    assert project.text(job + "run.err") == ""
    assert (project.folder / classes / "run_it002_data.star").exists()

    rows = particles(project, extracted)
    assert len(rows) == count_picks(project, job) > 100
    compared = 0
    stacks: dict[str, np.ndarray] = {}
    for name, x, y, image in rows[::3]:
        if not (BOX / 2 <= x <= SHAPE[1] - BOX / 2 and BOX / 2 <= y <= SHAPE[0] - BOX / 2):
            continue
        number, stack = image.split("@")
        if stack not in stacks:
            stacks[stack] = np.asarray(mrcfile.read(project.folder / stack)).reshape(-1, BOX, BOX)
        there = project.image(name)[y - BOX // 2 : y + BOX // 2, x - BOX // 2 : x + BOX // 2]
        assert np.corrcoef(-there.ravel(), stacks[stack][int(number) - 1].ravel())[0, 1] > 0.95
        compared += 1
    assert compared > 30


def test_picks_of_tiff_micrographs_are_where_extract_finds_them(tmp_path: Path) -> None:
    """RELION reads TIFF files with the last row first; boxes were once mirrored, and existing picks scored 0."""
    project = Project(tmp_path, micrographs=2)
    image = project.image(project.names[0])
    tiff = project.names[0][:-4] + ".tif"
    tifffile.imwrite(tmp_path / tiff, image)
    project.names[0] = tiff
    project.write_star()
    job = project.add_external(params={"particle_diameter": "160", "angpix": str(PIXEL)})
    assert project.run(job) == "success", project.text(job + "run.err")
    extracted = extract(project, job)
    assert project.run(extracted) == "success"
    rows = particles(project, extracted)
    assert {name for name, *_ in rows} == set(project.names) and len(rows) == count_picks(project, job)
    picked = read_picks(tmp_path / job / "picks/mic_000.star")
    compared = 0
    for name, x, y, particle in rows:
        if not (BOX / 2 <= x <= SHAPE[1] - BOX / 2 and BOX / 2 <= y <= SHAPE[0] - BOX / 2):
            continue
        number, stack = particle.split("@")
        box = mrcfile.read(tmp_path / stack).reshape(-1, BOX, BOX)[int(number) - 1]
        there = image[::-1] if name == tiff else project.image(name)
        there = there[y - BOX // 2 : y + BOX // 2, x - BOX // 2 : x + BOX // 2]
        assert np.corrcoef(-there.ravel(), box.ravel())[0, 1] > 0.95
        # The box has the particle that was picked, in the middle.
        if name == tiff:
            assert min(np.hypot(picked.x - x, picked.y - (SHAPE[0] - 1 - y))) == 0
        compared += name == tiff
    assert compared > 10
    middle = np.mean([box_mean(image, x, y) for x, y in zip(picked.x, picked.y)])
    assert middle < np.mean([box_mean(image, x, SHAPE[0] - 1 - y) for x, y in zip(picked.x, picked.y)])

    # RELION's coordinates of TIFF files are read as they are written.
    coordinates = job + "coords_suffix_autopick.star"
    scored = project.add_external(in_mic='""', in_coords=coordinates, params={"angpix": str(PIXEL)})
    assert project.run(scored) == "success", project.text(scored + "run.err")
    before, after = (project.coordinates(one, tiff) for one in (job, scored))
    assert np.array_equal(before[:, :2], after[:, :2]) and np.abs(before[:, 2] - after[:, 2]).max() < 1e-3


def test_extract_takes_the_picks_that_were_edited(tmp_path: Path) -> None:
    """Job, corrections in view, a second job that hands them on, Extract: the boxes are those of the corrections."""
    project = Project(tmp_path, micrographs=3)
    run = project.add_external(params={"particle_diameter": "160"})
    assert project.run(run) == "success"
    kept = project.coordinates(run, project.names[0])[:4]
    edited = tmp_path / run / "picks_edited"
    edited.mkdir()
    shape, size = (512, 640), np.full(5, np.nan)
    x, y, score = np.vstack([kept, [[123, 210, 1]]]).T
    Picks(x, y, size, score, PIXEL, shape).write(edited / "mic_000.star")
    Picks.empty(PIXEL, shape).write(edited / "mic_001.star")
    job = project.add_external(params={"from_run": run})
    extracted = extract(project, job)
    assert project.run(job) == "success", project.text(job + "run.err")
    assert project.run(extracted) == "success"
    rows = particles(project, extracted)
    found = {name: sorted((x, y) for other, x, y, _ in rows if other == name) for name in project.names}
    assert found[project.names[0]] == sorted((int(a), int(b)) for a, b in zip(x, y))
    assert found[project.names[1]] == []
    assert len(found[project.names[2]]) == len(project.coordinates(run, project.names[2])) > 10
    number, stack = next(image for _, x, y, image in rows if (x, y) == (123, 210)).split("@")
    box = mrcfile.read(tmp_path / stack).reshape(-1, BOX, BOX)[int(number) - 1]
    there = project.image(project.names[0])[210 - BOX // 2 : 210 + BOX // 2, 123 - BOX // 2 : 123 + BOX // 2]
    assert np.corrcoef(-there.ravel(), box.ravel())[0, 1] > 0.95


def box_mean(image: np.ndarray, x: float, y: float) -> float:
    """Mean of the pixels around a pick; particles are dark."""
    top, left = max(0, int(y) - 10), max(0, int(x) - 10)
    return float(image[top : top + 21, left : left + 21].mean())


def test_nodes_of_3_1(picked: tuple[Project, str]) -> None:
    project, job = picked
    table = starfile.read(project.folder / "default_pipeline.star", always_dict=True)["pipeline_nodes"]
    types = dict(zip(table["rlnPipeLineNodeName"], table["rlnPipeLineNodeType"].astype(str)))
    assert types[job + "coords_suffix_autopick.star"] == "2"
    assert types[job + "logfile.pdf"] == "13"
    assert project.text(job + "coords_suffix_autopick.star") == project.mics_star + "\n"


def test_display_settings_are_read(picked: tuple[Project, str]) -> None:
    project, _ = picked
    text = project.text(nodes.DISPLAY_SETTINGS).replace('fn_in ""', f"fn_in {project.mics_star}")
    (project.folder / "display_job.star").write_text(text)
    assert "WARNING" not in project.relion("relion_pipeliner", "--addJobFromStar", "display_job.star")
    (star,) = project.folder.glob("ManualPick/job*/job.star")
    table = starfile.read(star, always_dict=True)["joboptions_values"]
    options = dict(zip(table["rlnJobOptionVariable"], table["rlnJobOptionValue"].astype(str)))
    assert (float(options["angpix"]), options["diameter"]) == (4.0, "160")


def test_continue_with_new_micrographs(picked: tuple[Project, str], tmp_path: Path) -> None:
    project, job = picked
    log = tmp_path / "log"
    old = {path: path.stat().st_mtime_ns for path in (project.folder / job / "Micrographs").iterdir()}
    assert project.run(job, env={"STUB_LOG": str(log)}) == "success"
    assert not log.exists(), "nothing is new, and something was picked"

    project.add_micrographs(3)
    assert project.run(job, env={"STUB_LOG": str(log)}) == "success"
    assert log.read_text().split() == project.names[-3:]
    assert {path: path.stat().st_mtime_ns for path in old} == old
    assert all(len(project.coordinates(job, name)) > 10 for name in project.names)
    assert "6 finished by an earlier run, 3 to pick" in project.text(job + "run.out")
    assert project.text(job + "run.err") == ""


def test_failure_names_the_misspelt_parameter(picked: tuple[Project, str]) -> None:
    project, _ = picked
    job = project.add_external(params={"particle_diametre": "160"})
    assert project.run(job) == "failure"
    said = project.text(job + "run.err")
    assert "did you mean particle_diameter?" in said and "threshold" in said
    assert "Traceback" not in said and said.count("\n") == 1


def test_abort_during_a_long_micrograph_and_continue(picked: tuple[Project, str], tmp_path: Path) -> None:
    project, _ = picked
    job = project.add_external()
    process = project.start(job, env={"STUB_HOLD": ".mrc", "STUB_DEAF": "1", "STUB_LOG": str(tmp_path / "log")})
    wait_until((tmp_path / "log").exists, "the first micrograph", process)
    (project.folder / job / "RELION_JOB_ABORT_NOW").touch()
    project.wait_for(f"{job}RELION_JOB_EXIT_ABORTED")
    process.communicate(timeout=LIMIT)
    assert project.status(job) == "aborted"
    assert project.run(job) == "success"
    assert count_picks(project, job) > 100


def test_existing_picks_are_scored(picked: tuple[Project, str]) -> None:
    project, first = picked
    coordinates = first + "coords_suffix_autopick.star"
    job = project.add_external(in_mic='""', in_coords=coordinates, params={"coords": "rescore"})
    assert project.run(job) == "success", project.text(job + "run.err")
    for name in project.names:
        assert np.array_equal(project.coordinates(job, name)[:, :2], project.coordinates(first, name)[:, :2])
    assert project.text(job + "coords_suffix_autopick.star") == project.mics_star + "\n"


def test_killed_and_continued(picked: tuple[Project, str], tmp_path: Path) -> None:
    project, _ = picked
    job = project.add_external()
    log = tmp_path / "log"
    process = project.start(job, env={"STUB_HOLD": "mic_003.mrc", "STUB_LOG": str(log)})
    try:
        project.wait_for(f"{job}Micrographs/mic_001_autopick.star", process)
        child = int(project.text(job + ".cryosegnet/lock").split()[1])
        os.kill(int(process_status(child)[1]), signal.SIGKILL)
        wait_until(lambda: not is_running(child), "the end of the work without its supervisor")
        assert project.markers(job) == []
    finally:
        process.kill()  # RELION waits for ever
        process.communicate()
    shutil.rmtree(project.folder / ".relion_lock", ignore_errors=True)
    finished = {path.name for path in (project.folder / job / "Micrographs").iterdir() if path.name.startswith("mic")}
    assert 2 <= len(finished) < len(project.names)

    assert project.run(job, env={"STUB_LOG": str(log)}) == "success"
    picks = log.read_text().split()
    twice = [name for name in project.names if picks.count(name) > 1]
    assert len(twice) <= 1, "only the micrograph that was at hand is picked again"
    assert all(len(project.coordinates(job, name)) > 10 for name in project.names)
    assert not list((project.folder / job).rglob(".tmp-*"))


def test_empty_corrupt_and_strangely_named_micrographs(tmp_path: Path) -> None:
    project = Project(tmp_path / "projekt_1,5-A+x=%d", micrographs=6, folder_name="Grid.1_[a]+ü,x=~^!")
    corrupt, empty = project.names[1], str(project.micrographs / "mic_empty.mrc")
    path = project.folder / corrupt
    path.write_bytes(path.read_bytes()[:5000])
    project.write(empty, np.random.default_rng(0).normal(size=SHAPE))
    bare = "job007_grid/mic.mrc"  # RELION takes its folder for a job's
    project.write(bare, project.image(project.names[0]))
    project.names += [empty, bare]
    project.write_star()
    job = project.add_external()
    assert project.run(job) == "success", project.text(job + "run.err")
    assert len(project.coordinates(job, corrupt)) == len(project.coordinates(job, empty)) == 0
    said = project.text(job + "run.err")
    assert "1 of 8 micrographs has no picks and 1 failed" in said and "Traceback" not in said
    assert "truncated" in project.text(job + "run.out") and "truncated" in project.text(job + "failed.csv")
    extracted = extract(project, job)
    assert project.run(extracted) == "success"
    assert len(particles(project, extracted)) == count_picks(project, job) > 100
    assert len(project.coordinates(job, bare)) == len(project.coordinates(job, project.names[0])) > 10


def test_thousand_micrographs(tmp_path: Path) -> None:
    project = Project(tmp_path, micrographs=1)
    first = project.names[0]
    project.write(first, project.image(first)[:128, :128])
    project.names = [f"{project.micrographs}/many_{number:04d}.mrc" for number in range(1000)]
    for name in project.names:
        os.link(project.folder / first, project.folder / name)
    project.write_star()
    job = project.add_external()
    assert project.run(job) == "success"
    assert len(list((project.folder / job / "Micrographs").glob(f"*{COORDINATE_SUFFIX}"))) == 1000
    extracted = extract(project, job)
    assert project.run(extracted) == "success"
    assert len(particles(project, extracted)) == count_picks(project, job) > 1000
    lines = [line for line in project.text(job + "run.out").splitlines() if "/1000 micrographs (" in line]
    assert 1 <= len(lines) <= 21
