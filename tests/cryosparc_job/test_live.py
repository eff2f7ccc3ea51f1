"""Following a session and a growing output: every exposure is picked once, whatever happens."""

from __future__ import annotations

import datetime
import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryosparc.models.exposure import Exposure, ExposureElement, ExposureGroups, MicrographBlob, MScopeParams
from cryosparc.models.session import Session

from cryosegnet_ext.cli import running_options
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.runs.stopping import Stopped
from cryosparc_job import cli, connection, external_job, jobs
from cryosparc_job.connection import Connection, OutputName, connect
from cryosparc_job.errors import JobLost
from cryosparc_job.jobs import create_external_job, create_once
from cryosparc_job.live import LivePlan, follow
from cryosparc_job.picking_job import PickingJob
from tests.cryosparc_job.helpers import CLIENT, BlobPicker, add_exposures, environment, make_blobs
from tests.fake_cryosparc.faults import Fault
from tests.fake_cryosparc.running import RunningServer
from tests.fake_cryosparc.world import World
from tests.waiting import LIMIT, wait_until

QUICK = {"batch": 3, "wait_minutes": 0.01, "poll_seconds": 0.05, "idle_hours": 1.0, "outage_hours": 1.0}
JOB = PickingJob("P1", "W1", OutputName("J1", "exposures"), log_seconds=60)
#: The client of 4.7 cannot list the exposures of a session: there the exposures come from a job's growing output.
SESSION = None if CLIENT == "4.7" else "S1"
only_sessions = pytest.mark.skipif(SESSION is None, reason="the client of CryoSPARC 4.7 has no Live sessions")


@pytest.fixture
def server(fake: RunningServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> RunningServer:
    caplog.set_level(logging.INFO, "cryosparc_job")
    for name, value in environment(fake).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jobs, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(connection, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(external_job, "WATCH_SECONDS", 0.2)
    monkeypatch.setattr(external_job, "_ENDING_PATIENCE", 0.1)
    return fake


@pytest.fixture
def client(server: RunningServer) -> Iterator[Connection]:
    with connect(server.url, patience=LIMIT) as one:
        yield one


def add_session(world: World) -> None:
    world.sessions["S1"] = Session(
        uid="W2",
        project_uid="P1",
        workspace_type="live",
        session_uid="S1",
        session_dir="S1",
        status="running",
        uid_num=2,
        project_uid_num=1,
        session_uid_num=1,
        errors=[],
    )


def add_live(world: World, count: int, stage: str = "ready", **more: Any) -> dict[int, np.ndarray]:
    """Exposures of the session, with micrographs in the project's folder; uid -> truth."""
    if SESSION is None and (more or stage != "ready"):
        return {}
    first = len(world.outputs.get(("J1", "exposures"), ()))
    truth = add_exposures(world, [(256, 256)] * count, particles=8, first=first)
    if SESSION is None:
        if first == 0:
            world.set_status(world.jobs["J1"], "running")
        return truth
    table = world.outputs["J1", "exposures"]
    for number, uid in enumerate(truth, first):
        row = list(table["uid"]).index(uid)
        element = ExposureElement(
            uid=str(uid),
            micrograph_blob=MicrographBlob(
                path=table["micrograph_blob/path"][row],
                shape=[256, 256],
                psize_A=1.06,
                idx=0,
                format="MRC/2",
                is_background_subtracted=True,
            ),
            mscope_params=MScopeParams(accel_kv=300, cs_mm=2.7, exp_group_id=1, phase_plate=0, total_dose_e_per_A2=50),
        )
        world.exposures.append(
            Exposure(
                _id=f"{number:024x}",
                uid=number + 1,
                project_uid="P1",
                session_uid="S1",
                exp_group_id=1,
                abs_file_path="",
                size=1,
                discovered_at=datetime.datetime.now(datetime.timezone.utc),
                stage=stage,
                groups=ExposureGroups(exposure=element),
                **more,
            )
        )
    return truth


def picked(world: World) -> Counter[int]:
    """How often each exposure is in a completed job's output."""
    counts: Counter[int] = Counter()
    with world.lock:
        for (uid, name), table in world.outputs.items():
            if name == "exposures" and uid != "J1" and world.jobs[uid].status == "completed":
                counts.update(int(one) for one in table["uid"])
    return counts


def later(world: World, truth: dict[int, np.ndarray], *steps: Callable[[], Any]) -> threading.Thread:
    """Run each step when all exposures before it are picked."""

    def work() -> None:
        for step in steps:
            wait_until(lambda: set(picked(world)) == set(truth))
            step()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def complete(world: World) -> None:
    if SESSION is None:
        world.set_status(world.jobs["J1"], "completed")
    else:
        world.sessions["S1"].status = "completed"


def test_a_session_from_beginning_to_end(
    client: Connection, server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    world = server.world
    add_session(world)
    truth = add_live(world, 4)
    add_live(world, 1, stage="motion")
    add_live(world, 1, manual_reject=True)
    more = (lambda: truth.update(add_live(world, 5)), lambda: truth.update(add_live(world, 1)))
    thread = later(world, truth, *more, lambda: complete(world))
    results = follow(client, LivePlan(JOB, SESSION, **QUICK), BlobPicker())
    thread.join(LIMIT)
    assert picked(world) == Counter(dict.fromkeys(truth, 1))
    assert len(results) >= 2
    assert sum(one.picks for one in results) == 80
    assert caplog.messages[-1] == "no more exposures will come"
    last = world.load_output(world.jobs[results[-1].job], "exposures", ["all"])
    assert {"micrograph_blob/path", "mscope_params/exp_group_id", "mscope_params/accel_kv"} <= set(last.fields())
    assert np.all(last["mscope_params/exp_group_id"] == (3 if SESSION is None else 1))
    particles = world.outputs[results[0].job, "particles"]
    assert set(particles["location/micrograph_uid"]) <= set(truth)


@only_sessions  # otherwise the test before it is this one
def test_a_growing_output(client: Connection, server: RunningServer) -> None:
    world = server.world
    truth = add_exposures(world, [(256, 256)] * 2, particles=8)
    world.set_status(world.jobs["J1"], "running")

    def more() -> None:
        truth.update(add_exposures(world, [(256, 256)] * 4, particles=8, first=2))

    thread = later(world, truth, more, lambda: world.set_status(world.jobs["J1"], "completed"))
    results = follow(client, LivePlan(JOB, **QUICK), BlobPicker())
    thread.join(LIMIT)
    assert picked(world) == Counter(dict.fromkeys(truth, 1))
    assert all(world.jobs[one.job].parents == ["J1"] for one in results)
    # The diameter is estimated once.
    assert len({one.estimated for one in results}) == 1


def test_a_second_run_picks_nothing_twice(client: Connection, server: RunningServer) -> None:
    world = server.world
    add_session(world)
    truth = add_live(world, 4)
    complete(world)
    follow(client, LivePlan(JOB, SESSION, **QUICK), BlobPicker())
    truth |= add_live(world, 3)
    # One batch was cut off in a way that no program can tell of.
    mark = LivePlan(JOB, SESSION).mark
    job = client.cs.create_external_job("P1", "W1", desc=f"Picked with cryosegnet-ext (run 0, {mark})")
    job.start("running")
    follow(client, LivePlan(JOB, SESSION, **QUICK), BlobPicker())
    assert picked(world) == Counter(dict.fromkeys(truth, 1))
    assert world.jobs[job.uid].status == "failed"


@pytest.mark.parametrize("kind", ["torn_before", "500"])
def test_a_server_that_goes_away_is_waited_for(
    client: Connection, server: RunningServer, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = server.world
    client.patience = 0.05
    add_session(world)
    truth = add_live(world, 4)
    later(world, truth, lambda: truth.update(add_live(world, 4)), lambda: complete(world))
    server.faults.append(Fault("*", kind, 90, after=25))
    follow(client, LivePlan(JOB, SESSION, **QUICK), BlobPicker())
    assert set(picked(world)) == set(truth)
    assert max(picked(world).values()) == 1
    assert any("waiting for CryoSPARC" in line for line in caplog.messages)


def test_a_server_that_stays_away_ends_it(client: Connection, server: RunningServer) -> None:
    add_session(server.world)
    add_live(server.world, 1)
    client.patience = 0.05
    server.faults.append(Fault("jobs.find_one" if SESSION is None else "sessions.find_one", "500", -1))
    with pytest.raises(CryoSegNetError, match="500"):
        follow(client, LivePlan(JOB, SESSION, **{**QUICK, "outage_hours": 0.0001}), BlobPicker())


def test_a_bad_exposure_is_tried_twice_and_does_not_stop_the_others(client: Connection, server: RunningServer) -> None:
    world = server.world
    add_session(world)
    truth = add_live(world, 4)
    bad = next(iter(truth))
    Path(world.directory / world.outputs["J1", "exposures"]["micrograph_blob/path"][0]).write_bytes(b"")
    complete(world)
    follow(client, LivePlan(JOB, SESSION, **QUICK), BlobPicker())
    assert set(picked(world)) == set(truth) - {bad}
    assert [job.status for job in world.jobs.values() if job.spec.type == "snowflake"] == ["completed", "failed"]


# The kill is raised wherever the main thread is, even between opening a micrograph and its `with`.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_killing_a_batch_ends_the_following(client: Connection, server: RunningServer) -> None:
    world = server.world
    add_session(world)
    add_live(world, 4)
    server.faults.append(Fault("jobs.add_checkpoint", "killed"))
    with pytest.raises(JobLost):
        follow(client, LivePlan(JOB, SESSION, **QUICK), BlobPicker())
    assert world.jobs["J2"].status == "killed"


@only_sessions
def test_a_paused_session_and_an_idle_one_come_to_an_end(
    client: Connection, server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    world = server.world
    add_session(world)
    add_live(world, 1)
    world.sessions["S1"].status = "paused"
    assert len(follow(client, LivePlan(JOB, SESSION, **QUICK), BlobPicker())) == 1
    world.sessions["S1"].status = "running"
    assert follow(client, LivePlan(JOB, SESSION, **{**QUICK, "idle_hours": 1e-5}), BlobPicker()) == []
    assert "no new exposures" in caplog.messages[-1]


def test_the_command(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(running_options, "make_picker", make_blobs)
    add_session(server.world)
    add_live(server.world, 3)
    complete(server.world)
    words = ["live", "--url", server.url, "--project", "P1", "--poll", "0.05"]
    session = ["--workspace", "W2", "--session", "S1"]
    if SESSION is None:
        assert cli.main([*words, *session]) == 3
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1 and "follow the output of that job with --exposures" in said
        session = ["--workspace", "W1", "--exposures", "J1:exposures"]
    assert cli.main([*words, *session]) == 0
    assert "24 particles on 3 exposures in 1 job" in capsys.readouterr().out
    assert server.world.jobs["J2"].workspace_uids == [session[1]]


def test_a_signal_while_a_batchs_job_is_made_does_not_wait_for_its_end(
    server: RunningServer, client: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_and_signal(*args: Any) -> Any:
        made = create_once(*args)
        os.kill(os.getpid(), signal.SIGTERM)
        return made

    monkeypatch.setattr("cryosparc_job.jobs.create_once", make_and_signal)
    add_session(server.world)
    add_live(server.world, 3)
    picker = BlobPicker()
    with pytest.raises(Stopped, match="SIGTERM"):
        follow(client, LivePlan(JOB, SESSION, **QUICK), picker)
    assert picker.picked == []
    assert server.world.jobs["J2"].deleted
    monkeypatch.undo()
    # One that a crash left, which nothing could remove.
    create_external_job(client, "P1", "W1", "", LivePlan(JOB, SESSION).mark)
    assert server.world.jobs["J3"].status == "building"
    complete(server.world)
    (result,) = follow(client, LivePlan(JOB, SESSION, **QUICK), picker)
    assert result.exposures == 3
    left = {uid: job.status for uid, job in server.world.jobs.items() if not job.deleted}
    assert left == {"J1": left["J1"], result.job: "completed"}


@pytest.mark.parametrize("operation", ["jobs.add_external_output", "jobs.mark_running"])
def test_batches_that_cannot_be_started_leave_no_jobs(
    server: RunningServer, client: Connection, operation: str
) -> None:
    add_session(server.world)
    add_live(server.world, 3)
    complete(server.world)
    client.patience = 0.05
    server.faults.append(Fault(operation, "500", 40))
    (result,) = follow(client, LivePlan(JOB, SESSION, **QUICK), BlobPicker())
    assert result.exposures == 3
    left = {uid: job.status for uid, job in server.world.jobs.items() if not job.deleted}
    assert left == {"J1": left["J1"], result.job: "completed"}
    assert len(server.world.jobs) > len(left)


def test_a_signal_while_a_batch_is_completed_ends_the_following(
    server: RunningServer, client: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = external_job.ExternalJobRun.complete

    def complete_and_signal(run: external_job.ExternalJobRun) -> None:
        complete(run)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(external_job.ExternalJobRun, "complete", complete_and_signal)
    add_session(server.world)
    add_live(server.world, 3)
    with pytest.raises(Stopped, match="SIGTERM"):
        follow(client, LivePlan(JOB, SESSION, **QUICK), BlobPicker())
    assert server.world.jobs["J2"].status == "completed"
    assert len(server.world.jobs) == 2
