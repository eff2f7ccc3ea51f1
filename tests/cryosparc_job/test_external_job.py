"""Signals, kills and crashes of the real program, as a process."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryosparc_job import external_job
from cryosparc_job.connection import connect
from cryosparc_job.errors import ServerError
from cryosparc_job.external_job import ExternalJobRun
from tests.cryosparc_job.helpers import add_exposures, environment, killed_in_cryosparc, start
from tests.damage import flip
from tests.fake_cryosparc.faults import Fault
from tests.fake_cryosparc.running import RunningServer
from tests.waiting import FOREVER, LIMIT, wait_until

pytestmark = pytest.mark.slow

COUNT = 6


def finish(process: subprocess.Popen[str]) -> None:
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err


def picking(fake: RunningServer) -> bool:
    """Whether a micrograph has been picked."""
    log = fake.world.events.get("J2", [])
    return any(event["type"] == "image" for event in log)


@pytest.fixture
def world(fake: RunningServer) -> Any:
    add_exposures(fake.world, [(256, 256)] * COUNT, particles=8)
    return fake.world


def test_a_signal_while_the_job_is_started_fails_it(fake: RunningServer, world: Any, tmp_path: Path) -> None:
    """The request is carried out although its reply is not read: the job must not stay running."""
    fake.faults.append(Fault("jobs.mark_running", "slow", seconds=2.0))
    process = start(fake, tmp_path)
    wait_until(lambda: "jobs.mark_running" in world.calls, "the start of the job", process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 4, err
    assert "--job J2" in err and "Traceback" not in err
    assert world.jobs["J2"].status == "failed"
    assert "SIGINT" in world.events["J2"][-1]["text"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_fails_the_job_and_job_goes_on(
    fake: RunningServer, world: Any, tmp_path: Path, number: signal.Signals
) -> None:
    process = start(fake, tmp_path, stuck_at=2)
    wait_until(lambda: picking(fake), "the first picture", process)
    process.send_signal(number)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 4, err
    assert "Traceback" not in err
    assert "--job J2" in err
    assert world.jobs["J2"].status == "failed"
    last = world.events["J2"][-1]["text"]
    assert number.name in last
    assert "--job J2" in last
    assert ("J2", "particles") not in world.outputs

    again = start(fake, tmp_path, "--job", "J2")
    _, err = again.communicate(timeout=LIMIT)
    assert again.returncode == 0, err
    assert world.jobs["J2"].status == "completed"
    assert len(world.outputs["J2", "particles"]) == COUNT * 8
    assert any("picked by an earlier run, which are kept" in event.get("text", "") for event in world.events["J2"])


def test_a_kill_stops_in_the_middle_of_a_micrograph(fake: RunningServer, world: Any, tmp_path: Path) -> None:
    killed_in_cryosparc(world, start(fake, tmp_path, stuck_at=0), tmp_path / "stuck")


def test_a_second_signal_ends_at_once_though_the_server_hangs(fake: RunningServer, world: Any, tmp_path: Path) -> None:
    process = start(fake, tmp_path, stuck_at=2)
    wait_until(lambda: picking(fake), "the first picture", process)
    fake.faults.append(Fault("jobs.mark_failed", "slow", -1, seconds=FOREVER))
    process.send_signal(signal.SIGINT)
    wait_until(lambda: "jobs.mark_failed" in world.calls, "the end of the job", process)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LIMIT)
    # The client gives up a request by itself after 120 s.
    assert time.monotonic() - begin < 100
    assert process.returncode == 4
    assert "may still be shown as running" in err
    assert "Traceback" not in err
    fake.faults.clear()


def test_a_crash_is_continued_with_the_same_particles(fake: RunningServer, world: Any, tmp_path: Path) -> None:
    process = start(fake, tmp_path, stuck_at=2)
    wait_until(lambda: picking(fake), "the first picture", process)
    process.kill()
    process.communicate(timeout=LIMIT)
    assert world.jobs["J2"].status == "running"
    finish(start(fake, tmp_path, "--job", "J2"))
    finish(start(fake, tmp_path))
    one, two = world.outputs["J2", "particles"], world.outputs["J3", "particles"]
    assert all(np.array_equal(one[name], two[name]) for name in one.fields())


def test_saved_picks_that_are_damaged_are_made_again(fake: RunningServer, world: Any, tmp_path: Path) -> None:
    process = start(fake, tmp_path, stuck_at=2)
    wait_until(lambda: picking(fake), "the first picture", process)
    process.kill()
    process.communicate(timeout=LIMIT)
    # The first exposure: the kill may come before the journal knows of the second.
    saved = min(tmp_path.rglob("picks/*.npy"), key=lambda path: path.stat().st_mtime_ns)
    saved.write_bytes(flip(saved.read_bytes(), 8 * (len(saved.read_bytes()) - 9)))
    finish(start(fake, tmp_path, "--job", "J2"))
    said = " ".join(str(entry) for entry in world.events["J2"])
    assert "the saved picks of 1 exposure were damaged or changed and are made again" in said
    finish(start(fake, tmp_path))
    one, two = world.outputs["J2", "particles"], world.outputs["J3", "particles"]
    assert all(np.array_equal(one[name], two[name]) for name in one.fields())


def test_a_completed_job_is_not_picked_again(fake: RunningServer, world: Any, tmp_path: Path) -> None:
    finish(start(fake, tmp_path))
    process = start(fake, tmp_path, "--job", "J2")
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 3
    assert "J2 is completed already" in err


def test_variables_that_the_client_reads_at_import_do_no_harm(
    fake: RunningServer, world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Address and host together are a TypeError of the client's own defaults.
    monkeypatch.setenv("CRYOSPARC_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("CRYOSPARC_MASTER_HOSTNAME", "nobody.invalid")
    monkeypatch.setenv("CRYOSPARC_BASE_PORT", "9")
    finish(start(fake, tmp_path))
    assert world.jobs["J2"].status == "completed"


def test_an_error_of_any_length_marks_the_job_failed(fake: RunningServer, world: Any, monkeypatch: Any) -> None:
    for name, value in environment(fake).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(external_job, "WATCH_SECONDS", 0.2)
    with connect(fake.url) as connection:
        job = connection.cs.create_external_job("P1", "W1")
        job.add_output("particle", "particles", slots=["location"])
        with pytest.raises(ServerError), ExternalJobRun(connection, job):
            raise ServerError("Å" * 100_000)
    assert world.jobs[job.uid].status == "failed"
    assert 100 < len(world.events[job.uid][-1]["text"]) < 2000


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, MemoryError])
def test_no_way_out_of_the_block_completes_the_job(
    fake: RunningServer, world: Any, monkeypatch: Any, error: type[BaseException]
) -> None:
    for name, value in environment(fake).items():
        monkeypatch.setenv(name, value)
    with connect(fake.url) as connection:
        job = connection.cs.create_external_job("P1", "W1")
        job.add_output("particle", "particles", slots=["location"])
        with pytest.raises(error), ExternalJobRun(connection, job):
            raise error
    assert world.jobs[job.uid].status == "failed"
