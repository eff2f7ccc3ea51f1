"""Every way in which a job can end, started by a shell as RELION starts it: one marker, no traceback."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from relion_external.markers import Markers
from relion_external.supervisor import supervise
from tests.waiting import LIMIT, start, wait_until

from .project import Project

pytestmark = pytest.mark.slow

JOB = "External/job004/"
SUCCESS, FAILURE, ABORTED = (f"RELION_JOB_EXIT_{how}" for how in ("SUCCESS", "FAILURE", "ABORTED"))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Two micrographs of noise, which are quick to make and to pick."""
    project = Project(tmp_path, micrographs=0)
    project.names = [f"{project.micrographs}/mic_{number}.mrc" for number in range(2)]
    for number, name in enumerate(project.names):
        project.write(name, np.random.default_rng(number).normal(size=(128, 128)))
    project.write_star()
    return project


def run(project: Project, *words: str, **env: str) -> str:
    """Run the job; what run.err says."""
    project.call("--in_mics", project.mics_star, *words, env=env)
    said = project.text(JOB + "run.err")
    assert "Traceback" not in said
    return said


def test_success_then_nothing_new(project: Project, tmp_path: Path) -> None:
    assert run(project) == ""
    assert project.markers() == [SUCCESS]
    before = {path: path.stat().st_mtime_ns for path in (project.folder / JOB / "Micrographs").iterdir()}
    assert run(project, STUB_LOG=str(tmp_path / "log")) == ""
    assert project.markers() == [SUCCESS]
    assert not (tmp_path / "log").exists()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "2 picked before" in project.text(JOB + "run.out")


def test_changed_parameter_is_said_and_everything_picked_again(project: Project, tmp_path: Path) -> None:
    run(project, "--threshold", "0.3")
    many = len(project.coordinates(JOB, project.names[0]))
    said = run(project, "--threshold", "0.9", STUB_LOG=str(tmp_path / "log"))
    assert project.markers() == [SUCCESS]
    assert "threshold (0.3 then, 0.9 now)" in said and "Start a new Extract job" in said
    assert f"Another threshold alone needs no picking: a new External job with from_run {JOB} and threshold" in said
    assert (tmp_path / "log").read_text().split() == project.names
    assert len(project.coordinates(JOB, project.names[0])) < many
    box = "_rlnOriginalImageSize"
    before = project.text(JOB + "output_for_relion.star").split(box)[1].split()[0]
    assert "alone" not in run(project, "--threshold", "0.9", "--particle_diameter", "80").splitlines()[-1]
    assert project.text(JOB + "output_for_relion.star").split(box)[1].split()[0] < before


def test_bright_particles_are_picked_and_a_changed_parameter_is_noticed(project: Project) -> None:
    run(project)
    dark = [project.coordinates(JOB, name) for name in project.names]
    for name in project.names:
        project.write(name, -project.image(name))
    said = run(project, "--invert", "Yes")
    assert project.markers() == [SUCCESS]
    assert "invert (not set then, true now)" in said
    assert all(np.array_equal(project.coordinates(JOB, name), one) for name, one in zip(project.names, dark))
    assert all(len(one) > 0 for one in dark)
    # a bare flag is what RELION makes of a label without a value
    assert run(project, "--invert").count("parameters were changed") == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--treshold", "0.3"], "did you mean threshold?"),
        (["--threshold", "7"], "threshold must be between 0 and 1 (got 7)"),
        (["--gpu", "0/1"], "must be GPU numbers"),
        (["--weights", "my", "model.pt"], "splits values at spaces"),
        (["--angpix", "1", "--angpix", "2"], "given twice"),
        (["--help"], "'help' is none of them"),
        (["--version"], "'version' is none of them"),
        (["-h"], "'-h' follows a value"),
    ],
)
def test_bad_arguments(project: Project, words: list[str], expected: str) -> None:
    assert expected in run(project, *words)
    assert project.markers() == [FAILURE]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("import", "a part of the installation does not load"),
        ("weights", "check the name given with weights"),
        ("kill", "killed by SIGKILL"),
        ("crash", "unexpected error (ZeroDivisionError: a bug)"),
    ],
)
def test_failed_start(project: Project, how: str, expected: str) -> None:
    assert expected in run(project, STUB_LOAD=how)
    assert project.markers() == [FAILURE]
    assert run(project).count("\n") == 1
    assert project.markers() == [SUCCESS]


def test_missing_or_broken_list(project: Project) -> None:
    (project.folder / project.mics_star).write_text("data_\nloop_\n_rlnMicrographMovieName #1\na.tif\n")
    assert "lists movies" in run(project)
    assert project.markers() == [FAILURE]
    (project.folder / project.mics_star).unlink()
    assert "does not exist" in run(project)
    assert project.markers() == [FAILURE]


def test_all_micrographs_failed(project: Project) -> None:
    for name in project.names:
        (project.folder / name).write_bytes(b"")
    assert "none of 2 micrographs could be picked" in run(project)
    assert project.markers() == [FAILURE]


def hold(project: Project, **env: str) -> subprocess.Popen[bytes]:
    """A job that is at its first micrograph, and stays there."""
    command = project.shell("--in_mics", project.mics_star, job=JOB)
    log = project.folder / "log"
    process = start(command, **project.options({"STUB_HOLD": "mic_0.mrc", "STUB_LOG": str(log), **env}))
    wait_until(log.exists, "the first micrograph", process)
    return process


@pytest.mark.parametrize("deaf", ["", "1"])
def test_sigterm(project: Project, deaf: str) -> None:
    process = hold(project, STUB_DEAF=deaf)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=LIMIT) == 4
    assert project.markers() == [ABORTED]
    assert run(project).count("Traceback") == 0
    assert project.markers() == [SUCCESS]


QUEUES = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU, signal.SIGALRM, signal.SIGABRT, signal.SIGQUIT]


@pytest.mark.parametrize("number", QUEUES)
def test_signals_of_queues(project: Project, number: signal.Signals) -> None:
    process = hold(project)
    process.send_signal(number)
    assert process.wait(timeout=LIMIT) == 4
    assert project.markers() == [ABORTED]
    assert f"stopped because {number.name} was received" in project.text(JOB + "run.out")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGXCPU])
@pytest.mark.parametrize("both", [True, False])
def test_signals_of_queues_to_every_process(tmp_path: Path, number: signal.Signals, both: bool) -> None:
    """Also before the work listens for them; the supervisor may see the end of the work first."""

    def work() -> int:
        if both:
            os.kill(os.getppid(), number)
        os.kill(os.getpid(), number)
        return 1

    assert supervise(tmp_path, work) == 4
    assert [path.name for path in tmp_path.iterdir()] == [ABORTED]


def test_signals_until_the_marker_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queues send more than one, and the last may come when the work has ended."""
    end = Markers.end

    def late(markers: Markers, marker: str) -> None:
        signal.raise_signal(signal.SIGTERM)
        end(markers, marker)

    monkeypatch.setattr(Markers, "end", late)
    assert supervise(tmp_path, lambda: 0) == 0
    assert [path.name for path in tmp_path.iterdir()] == [SUCCESS]


def test_caller_that_ignores_the_ends_of_its_children(project: Project) -> None:
    words = project.shell("--in_mics", project.mics_star, job=JOB)
    ignore = lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # noqa: E731
    assert subprocess.run(words, preexec_fn=ignore, **project.options(), timeout=LIMIT).returncode == 0  # type: ignore[call-overload]
    assert project.markers() == [SUCCESS]
    assert project.text(JOB + "run.err") == ""


def test_no_process_to_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    assert supervise(tmp_path, lambda: 0) == 1
    assert "no process could be started" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [FAILURE]


def test_signals_that_are_ignored_stay_so(project: Project) -> None:
    """As for RELION under nohup, or in a terminal where Ctrl-C ends its window."""
    command = "trap '' HUP INT; " + project.shell("--in_mics", project.mics_star, job=JOB)
    process = start(command, **project.options({"STUB_SECONDS": "1"}))
    project.wait_for(JOB + ".cryosegnet/journal.jsonl", process)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=LIMIT) == 0
    assert project.markers() == [SUCCESS]


def test_job_that_is_deleted_while_it_runs(project: Project) -> None:
    """RELION moves its directory into its Trash; nothing goes on in the old place."""
    process = hold(project, STUB_DEAF="1")
    (project.folder / "Trash").mkdir()
    (project.folder / JOB).rename(project.folder / "Trash/job004")
    assert process.wait(timeout=LIMIT) == 4
    assert not (project.folder / JOB).exists()
    assert "its directory was deleted or moved" in project.text("Trash/job004/run.out")
    assert "Traceback" not in project.text("Trash/job004/run.err")


def test_abort_that_came_while_the_job_queued(project: Project) -> None:
    (project.folder / JOB).mkdir(parents=True)
    (project.folder / JOB / "RELION_JOB_ABORT_NOW").touch()
    run(project, STUB_HOLD="mic_0.mrc")
    assert project.markers() == [ABORTED]


@pytest.fixture
def small_disk(project: Project) -> Iterator[Path]:
    folder = project.folder / "External"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode != 0:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("free", [0, 12_000])
def test_full_disk(project: Project, small_disk: Path, free: int) -> None:
    project.shell(job=JOB)
    ballast = small_disk / "ballast"
    with ballast.open("wb") as file, pytest.raises(OSError, match="No space"):
        while True:
            os.write(file.fileno(), bytes(65536))
    os.truncate(ballast, ballast.stat().st_size - free)
    run(project)
    assert project.markers() == [FAILURE]
    ballast.unlink()
    run(project)
    assert project.markers() == [SUCCESS]


def test_leavings_of_a_kill_are_removed(project: Project) -> None:
    left = project.folder / JOB / "Micrographs/.tmp-12-ab.star"
    left.parent.mkdir(parents=True)
    left.touch()
    run(project)
    assert project.markers() == [SUCCESS] and not left.exists()


def test_given_diameter_wins_over_the_measured_sizes(project: Project) -> None:
    assert run(project, "--particle_diameter 200", STUB_SIZE="150") == ""
    suggested = project.text(JOB + "output_for_relion.star")
    assert "_rlnParticleDiameter 200.0\n_rlnOriginalImageSize 76\n" in suggested
    assert "\ndiameter 200\n" in project.text(".gui_manualpickjob.star")
    assert "given diameter 200 A; for Extract: box 76 pixels" in project.text(JOB + "run.out")


def test_boxes_and_masks_hold_the_long_axis(project: Project) -> None:
    assert run(project, STUB_SIZE="150 150 150 200") == ""
    assert "_rlnParticleDiameter 200.0\n_rlnOriginalImageSize 76\n" in project.text(JOB + "output_for_relion.star")
    assert "\ndiameter 150\n" in project.text(".gui_manualpickjob.star")
    assert "median diameter 150 A, long axis 200 A; for Extract: box 76 pixels" in project.text(JOB + "run.out")


def test_more_micrographs_will_come(project: Project) -> None:
    whole = (project.folder / project.names[0]).read_bytes()
    for name in project.names:
        (project.folder / name).write_bytes(whole[:5000])
    assert "none of 2 micrographs could be picked" in run(project, "--particle_diameter 160")
    assert project.markers() == [FAILURE]
    assert "2 failed" in run(project, "--particle_diameter 160 --growing Yes")
    assert project.markers() == [SUCCESS]
    # Without picks there are no boxes, for which a Scheme waits.
    assert not (project.folder / JOB / "output_for_relion.star").exists()
    (project.folder / project.names[0]).write_bytes(whole)
    run(project, "--particle_diameter 160 --growing Yes")
    assert project.markers() == [SUCCESS] and (project.folder / JOB / "output_for_relion.star").exists()


def test_many_without_picks_is_said(project: Project) -> None:
    name = f"{project.micrographs}/mic_empty.mrc"
    project.write(name, np.random.default_rng(9).normal(size=(128, 128)))
    project.names.append(name)
    project.write_star()
    assert "1 of 3 micrographs has no picks and 0 failed" in run(project)
    assert project.markers() == [SUCCESS]
    assert project.text(f"{JOB}Micrographs/mic_empty_autopick.star").splitlines()[2:] == [
        "loop_",
        "_rlnCoordinateX #1",
        "_rlnCoordinateY #2",
        "_rlnAutopickFigureOfMerit #3",
    ]


def test_picks_edited_by_hand_survive_continue(project: Project) -> None:
    run(project)
    path = project.folder / JOB / "Micrographs/mic_0_autopick.star"
    path.write_text(path.read_text() + "60.0 60.0 1.0\n")
    edited = path.read_text()
    run(project)
    assert path.read_text() == edited


def listed(project: Project, job: str = JOB) -> list[list[str]]:
    """Rows of autopick.star, whose second names exist."""
    rows = [shlex.split(line) for line in project.text(job + "autopick.star").splitlines() if ".mrc" in line]
    assert all((project.folder / file).exists() for _, file in rows)
    return rows


def test_micrographs_that_have_got_other_names(project: Project) -> None:
    """The same files by another path, as after a folder was linked: their picks are there under the new names."""
    run(project)
    picks = [len(project.coordinates(JOB, name)) for name in project.names]
    os.symlink("Micrographs", project.folder / project.micrographs.parent / "Linked")
    project.names = [name.replace("Micrographs", "Linked") for name in project.names]
    project.write_star()
    run(project)
    assert project.markers() == [SUCCESS]
    assert [name for name, _ in listed(project)] == project.names
    assert [len(project.coordinates(JOB, name)) for name in project.names] == picks


def test_names_with_dollars_are_no_mathematics(project: Project) -> None:
    project.write(name := f"{project.micrographs}/mic_$_$.mrc", np.random.default_rng(7).normal(size=(128, 128)))
    project.names.append(name)
    project.write_star()
    assert run(project) == ""
    assert (project.folder / JOB / "logfile.pdf").stat().st_size > 1000


def test_nothing_is_left_where_the_home_cannot_be_written(project: Project, tmp_path: Path) -> None:
    """As on the nodes of a cluster: matplotlib has no folder of its own, and its fonts lack some letters."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "home").write_text("")
    name = str(project.micrographs / "微_1.mrc")
    project.write(name, project.image(project.names[0]))
    project.write_star([name])
    places = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "MPLCONFIGDIR": "", "XDG_CACHE_HOME": ""}
    assert run(project, XDG_CONFIG_HOME="", **places) == ""
    assert list((tmp_path / "tmp").iterdir()) == []


def test_names_with_spaces(project: Project) -> None:
    name = f"{project.micrographs}/grid 1 mic.mrc"
    project.write(name, np.random.default_rng(7).normal(size=(128, 128)))
    star = project.folder / project.mics_star
    star.write_text(star.read_text().rstrip() + f'\n"{name}" 1 18000 17500 0\n')
    run(project)
    assert [name for name, _ in listed(project)] == [*project.names, name]


def test_table_of_particles_names_each_micrograph_once(project: Project) -> None:
    rows = "".join(f"{name} {place} {place}\n" for name in project.names for place in (30, 60, 90))
    columns = "_rlnMicrographName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n"
    (project.folder / "particles.star").write_text(f"data_particles\n\nloop_\n{columns}{rows}")
    project.call("--in_coords", "particles.star")
    assert [name for name, _ in listed(project)] == project.names
    assert "2 micrographs in particles.star" in project.text(JOB + "run.out")
    assert len(project.coordinates(JOB, project.names[0])) == 3


def test_coordinates_that_change_are_scored_again(project: Project, tmp_path: Path) -> None:
    run(project)
    other, log = "External/job005/", tmp_path / "log"
    words = ["--in_mics", project.mics_star, "--in_coords", JOB + "autopick.star"]
    project.call(*words, job=other)
    edited = project.folder / JOB / "Micrographs/mic_0_autopick.star"
    edited.write_text(edited.read_text() + "60.0 61.0 1.0\n")
    project.call(*words, job=other, env={"STUB_LOG": str(log)})
    assert log.read_text().split() == project.names[:1]
    assert project.coordinates(other, project.names[0])[:, :2].tolist().count([60.0, 61.0]) == 1
    log.unlink()
    project.call(*words, job=other, env={"STUB_LOG": str(log)})
    assert not log.exists()
    assert project.text(other + "run.err") == ""


def test_aborted_with_other_settings(project: Project) -> None:
    """Coordinates of the settings before do not stay among those of the new ones."""
    run(project, "--threshold", "0.3")
    process = hold(project)
    assert "parameters were changed" in project.text(JOB + "run.err")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=LIMIT) == 4
    assert not list((project.folder / JOB / "Micrographs").iterdir())


def test_micrographs_of_one_name_in_two_jobs(project: Project) -> None:
    twin = "MotionCorr/job007/Micrographs/mic_0.mrc"
    project.write(twin, np.random.default_rng(5).normal(size=(128, 128)))
    project.names.append(twin)
    project.write_star()
    run(project)
    lines = [line.split() for line in project.text(JOB + "autopick.star").splitlines() if ".mrc " in line]
    assert len({file for _, file in lines}) == 3
    assert all((project.folder / file).exists() for _, file in lines)


def test_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    assert supervise(tmp_path / "file" / "job004", lambda: 0) == 1
    assert "cannot be written" in caplog.text


def test_reserve_is_used_up(tmp_path: Path) -> None:
    markers = Markers(tmp_path)
    (tmp_path / FAILURE).touch()
    markers.begin()
    assert not (tmp_path / FAILURE).exists()
    markers.end(SUCCESS)
    assert [path.name for path in tmp_path.iterdir()] == [SUCCESS]


def test_marker_of_an_earlier_run_makes_room_for_the_next(tmp_path: Path) -> None:
    """On a disk without room for a new file, one that is there must do."""
    (tmp_path / SUCCESS).touch()
    before = (tmp_path / SUCCESS).stat().st_ino
    markers = Markers(tmp_path)
    markers.begin()
    assert markers.abort_requested() is False
    markers.end(FAILURE)
    assert [(path.name, path.stat().st_ino) for path in tmp_path.iterdir()] == [(FAILURE, before)]


def test_several_devices(project: Project) -> None:
    """A process for each, and the same coordinates."""
    run(project)
    alone = [project.coordinates(JOB, name) for name in project.names]
    other = "External/job005/"
    project.call("--in_mics", project.mics_star, "--gpu", "cpu,cpu", job=other)
    assert project.text(other + "run.err") == ""
    assert "2 processes on cpu, cpu" in project.text(other + "run.out")
    assert project.markers(other) == [SUCCESS]
    for name, before in zip(project.names, alone):
        np.testing.assert_array_equal(project.coordinates(other, name), before)
