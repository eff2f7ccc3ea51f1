"""Several devices, a process each: the outputs in CryoSPARC are those of one device."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryosegnet_ext.cli import running_options
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.runs.engines import processes as devices
from cryosegnet_ext.runs.engines.processes import ProcessEngine
from cryosegnet_ext.runs.engines.threads import ThreadedEngine
from cryosparc_job import cli, external_job
from cryosparc_job.connection import Connection, OutputName
from cryosparc_job.errors import EngineLost, ServerError
from cryosparc_job.live import LivePlan, follow
from cryosparc_job.pick import PickingJob, pick
from tests.cryosparc_job.helpers import BlobPicker, add_exposures, killed_in_cryosparc, make_blobs, start, words
from tests.fake_cryosparc.faults import Fault
from tests.fake_cryosparc.running import RunningServer
from tests.fake_cryosparc.world import World
from tests.waiting import FOREVER, LIMIT, wait_until

pytestmark = pytest.mark.slow


class Logged(BlobPicker):
    """Logs what it picks and where; files make its process die: ``kill_<name>`` once, ``poison_<name>`` always."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def estimate_diameter(self, micrographs: Any) -> float | None:
        self._note(f"estimate {len(micrographs)}")
        if (self.folder / "asleep").exists():
            time.sleep(FOREVER)
        return super().estimate_diameter(micrographs)

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        name = Path(micrograph.name).name[:4]
        self._note(name)
        if (self.folder / "first_last").exists() and name == "0000":
            # The first one comes back after one that was given to another process after it.
            wait_until(lambda: any(pid != os.getpid() and "estimate" not in what for pid, what in log(self.folder)))
        if (self.folder / f"poison_{name}").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        with contextlib.suppress(FileNotFoundError):
            (self.folder / f"kill_{name}").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().pick(micrograph, diameter)

    def _note(self, what: str) -> None:
        with open(self.folder / "log", "a") as file:
            file.write(f"{os.getpid()} {what}\n")


def make_logged(folder: Path, device: str) -> Logged:
    return Logged(folder)


def make_dead(device: str) -> BlobPicker:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def make_one(folder: Path, device: str) -> BlobPicker:
    """A picker for the first process; the one that replaces it dies."""
    if (folder / "made").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "made").touch()
    return Logged(folder)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ProcessEngine, Path]]:
    """Two processes, and the folder whose files control them."""
    folder = tmp_path_factory.mktemp("shared")
    with ProcessEngine(functools.partial(make_logged, folder), ["cpu", "cpu"], 1) as engine:
        yield engine, folder


@pytest.fixture
def engine(shared: tuple[ProcessEngine, Path]) -> ProcessEngine:
    return shared[0]


@pytest.fixture
def folder(shared: tuple[ProcessEngine, Path]) -> Path:
    for file in shared[1].iterdir():
        file.unlink()
    return shared[1]


@pytest.fixture(autouse=True)
def _watched_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_job, "WATCH_SECONDS", 0.2)


def picking_job(**options: Any) -> PickingJob:
    return PickingJob("P1", "W1", OutputName("J1", "exposures"), **options)


def log(folder: Path) -> list[tuple[int, str]]:
    """Process and what it did, in the order in which it was done."""
    file = folder / "log"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(int(line.split()[0]), line.partition(" ")[2]) for line in lines]


def same(world: World, one: str, two: str) -> None:
    """Two jobs have the same outputs, row by row."""
    for name in ("particles", "exposures"):
        a, b = world.outputs[one, name], world.outputs[two, name]
        assert a.fields() == b.fields()
        assert all(np.array_equal(a[field], b[field]) for field in a.fields())


def test_in_flight_on_one_device(connection: Connection, world: World) -> None:
    """As on a GPU, where several exposures are on their way at once, in this process."""
    add_exposures(world, [(256, 256)] * 9, particles=8)
    one = pick(connection, picking_job(), BlobPicker())
    with ThreadedEngine(BlobPicker(), 3) as engine:
        two = pick(connection, picking_job(download=True), engine)
    assert two.picks == 72
    same(world, one.job, two.job)


@pytest.mark.parametrize("download", [None, True])
def test_the_same_particles_in_the_same_order(
    connection: Connection, world: World, engine: ProcessEngine, folder: Path, tmp_path: Path, download: bool | None
) -> None:
    add_exposures(world, [(256, 256)] * 12, particles=8)
    files = sorted((world.directory / "S1" / "motioncorrected").iterdir())
    files[3].write_bytes(b"")
    world.outputs["J1", "exposures"]["micrograph_blob/shape"][0] = [256, 300]
    # So small a cache holds nothing but what is at hand.
    options = {"download": download, "cache": tmp_path / "cache", "cache_bytes": 1}
    one = pick(connection, picking_job(**options), BlobPicker())
    world.calls.clear()
    (folder / "first_last").touch()
    two = pick(connection, picking_job(**options), engine)
    assert (two.exposures, two.picks) == (10, 80)
    assert two.failures == one.failures
    assert two.missed == one.missed
    assert "256 columns and CryoSPARC says 256 and 300" in two.failures[0][1]
    same(world, one.job, two.job)
    done = log(folder)
    assert len({process for process, _ in done}) == 2
    assert sum(what.startswith("estimate") for _, what in done) == 1
    picked = [event["text"] for event in world.events[two.job] if event["type"] == "image"]
    assert sum(text.startswith("Picks on S1/") for text in picked) == 2  # of four; the others are the bad ones
    assert ("projects.download_file" in world.calls) is (download is True)
    assert sum(file.is_file() for file in (tmp_path / "cache").rglob("*")) <= 2


def test_a_process_that_is_killed_stops_no_other(
    connection: Connection, world: World, engine: ProcessEngine, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_exposures(world, [(256, 256)] * 9, particles=8)
    (folder / "kill_0002").touch()
    (folder / "poison_0005").touch()
    result = pick(connection, picking_job(), engine)
    assert (result.exposures, result.picks, result.exit_code) == (8, 64, 2)
    assert "0005" in result.failures[0][0]
    assert "died, twice (SIGKILL" in result.failures[0][1]
    assert world.jobs[result.job].status == "completed"
    # What was at hand when another one killed its process has one chance more, and one only.
    times = Counter(what for _, what in log(folder))
    assert times["0005"] in (1, 2)
    warned = [event["text"] for event in world.events[result.job] if event["type"] == "warning"]
    restarts = [text for text in warned if "is started again" in text]
    assert len(restarts) == 1 + times["0005"]
    assert [text for name, _, text in caplog.record_tuples if name.endswith("engines.processes")] == restarts
    # The processes that came instead serve the next job, and each job hears of its own only.
    (folder / "kill_0000").touch()
    events = len(world.events[result.job])
    two = frozenset(world.outputs["J1", "exposures"]["uid"][:2])
    assert pick(connection, picking_job(only=two), engine).picks == 16
    assert sum("is started again" in text for text in caplog.messages) == len(restarts) + 1
    assert len(world.events[result.job]) == events


def test_without_any_process_the_job_fails_and_goes_on_elsewhere(
    connection: Connection, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_MOST_DEATHS", 0)
    monkeypatch.setattr(devices, "PAUSES", ())
    add_exposures(world, [(256, 256)] * 4, particles=8)
    with ProcessEngine(make_dead, ["cpu"]) as engine, pytest.raises(CryoSegNetError, match=r"has died.*SIGKILL"):
        pick(connection, picking_job(), engine)
    assert set(world.jobs) == {"J1"}

    (tmp_path / "kill_0003").touch()
    plan = LivePlan(picking_job(), batch=3, poll_seconds=0.05, wait_minutes=0.01)
    gone = "J2: Nothing can be picked here any more: every worker process has died"
    with (
        ProcessEngine(functools.partial(make_one, tmp_path), ["cpu"], 1) as engine,
        pytest.raises(EngineLost, match=gone),
    ):
        follow(connection, plan, engine)
    assert world.jobs["J2"].status == "failed"
    assert set(world.jobs) == {"J1", "J2"}  # no second batch was tried
    assert Counter(what for _, what in log(tmp_path)) == {"estimate 4": 1, "0000": 1, "0001": 1, "0002": 1, "0003": 1}
    picker = BlobPicker()
    assert pick(connection, picking_job(job="J2"), picker).picks == 32
    assert len(picker.picked) == 1


def test_a_server_that_fails_loses_nothing_that_was_at_hand(
    connection: Connection, world: World, fake: RunningServer, engine: ProcessEngine, folder: Path, tmp_path: Path
) -> None:
    add_exposures(world, [(256, 256)] * 8, particles=8)
    connection.patience = 0.05
    options = {"download": True, "cache": tmp_path / "cache", "cache_bytes": 1}
    fake.faults.append(Fault("projects.download_file", "500", -1, after=8 + 5))
    with pytest.raises(ServerError, match="J2: CryoSPARC refused downloading"):
        pick(connection, picking_job(**options), engine)
    fake.faults.clear()
    assert world.jobs["J2"].status == "failed"
    before = [what for _, what in log(folder) if not what.startswith("estimate")]
    assert len(before) == 5
    picker = BlobPicker()
    assert pick(connection, picking_job(job="J2", **options), picker).picks == 64
    assert len(picker.picked) == 3
    # Nothing of the first job comes out of the processes in another one.
    same(world, "J2", pick(connection, picking_job(**options), engine).job)


def test_a_damaged_download_is_fetched_again(
    connection: Connection, world: World, engine: ProcessEngine, folder: Path, tmp_path: Path
) -> None:
    add_exposures(world, [(256, 256)] * 3, particles=8)
    options = {"download": True, "cache": tmp_path / "cache"}
    one = pick(connection, picking_job(**options), BlobPicker())
    for number, file in enumerate(sorted(one for one in (tmp_path / "cache").rglob("*") if one.is_file())):
        file.write_bytes(file.read_bytes()[: 5000 * number])
    two = pick(connection, picking_job(**options), engine)
    assert two.failures == []
    same(world, one.job, two.job)


def test_live_keeps_its_processes(connection: Connection, world: World, engine: ProcessEngine, folder: Path) -> None:
    truth = add_exposures(world, [(256, 256)] * 7, particles=8)
    plan = LivePlan(picking_job(), batch=3, largest=3, poll_seconds=0.05, wait_minutes=0.01)
    results = follow(connection, plan, engine)
    assert [one.exposures for one in results] == [3, 3, 1]
    done = [what for _, what in log(folder)]
    assert len(done) == 1 + len(truth)
    assert done[0] == "estimate 3"
    assert len({process for process, _ in log(folder)}) <= 2
    assert len({one.estimated for one in results}) == 1


def test_a_kill_is_noticed_where_no_signal_can_raise(connection: Connection, world: World, tmp_path: Path) -> None:
    """Signals reach the main thread only, but a program that picks in another thread notices the kill."""
    add_exposures(world, [(256, 256)] * 3, particles=8)
    (tmp_path / "asleep").touch()
    ends_with: list[BaseException] = []

    def work() -> None:
        try:
            pick(connection, picking_job(), engine)
        except BaseException as error:
            ends_with.append(error)

    with ProcessEngine(functools.partial(make_logged, tmp_path), ["cpu"], 1) as engine:
        thread = threading.Thread(target=work)
        thread.start()
        wait_until(lambda: log(tmp_path))
        with world.lock:
            world.set_status(world.jobs["J2"], "killed")
        thread.join(LIMIT)
    assert [str(error) for error in ends_with] == ["J2 was killed in CryoSPARC: stopped, and left as it is."]


# The commands


@pytest.mark.parametrize("command", ["pick", "live"])
def test_the_command(
    fake: RunningServer,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    monkeypatch.setattr(running_options, "make_picker", make_blobs)
    add_exposures(fake.world, [(256, 256)] * 3, particles=8)
    assert cli.main([command, *words(fake), "--device", "cpu,cpu"]) == 0
    assert "24 particles on 3 exposures" in capsys.readouterr().out
    assert fake.world.jobs["J2"].status == "completed"


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [("cpu,gpu", 1, "--device: must be auto, cpu, cuda"), ("cpu,cuda:99", 1, "--device cuda:99:"), ("cpu,", 1, "cpu,")],
)
def test_a_device_that_is_not_there_leaves_no_job(
    fake: RunningServer,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: str,
    code: int,
    said: str,
) -> None:
    # A device whose process comes late must not be found missing when the first one picks already.
    monkeypatch.setattr(running_options, "make_picker", make_blobs)
    add_exposures(fake.world, [(256, 256)], particles=8)
    try:
        found = cli.main(["pick", *words(fake), "--device", given])
    except SystemExit as end:
        found = int(end.code or 0)
    assert found == code
    assert said in capsys.readouterr().err
    assert set(fake.world.jobs) == {"J1"}


def alive(tmp_path: Path) -> list[int]:
    """Processes of `start`, and theirs: they have its folder in their environment."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"CRYOSEGNET_CACHE={tmp_path / 'cache'}".encode() in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
    return found


def picking(fake: RunningServer) -> bool:
    return any(event["type"] == "image" for event in fake.world.events.get("J2", []))


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", ["SIGINT", "SIGHUP", "SIGTERM", "SIGKILL"])
def test_an_end_from_outside_leaves_no_process_and_one_device_goes_on(
    fake: RunningServer, tmp_path: Path, number: str
) -> None:
    add_exposures(fake.world, [(256, 256)] * 16, particles=8)
    process = start(fake, tmp_path, "--device", "cpu,cpu", stuck_at=8)
    try:
        wait_until(lambda: picking(fake), "the first picture", process)
        assert len(alive(tmp_path)) >= 3
        if number in ("SIGINT", "SIGHUP"):
            # As a terminal sends it: to the workers as well.
            os.killpg(process.pid, signal.Signals[number])
        else:
            process.send_signal(signal.Signals[number])
        _, err = process.communicate(timeout=LIMIT)
        wait_until(lambda: not alive(tmp_path), "the end of all processes")
    finally:
        for one in alive(tmp_path):
            os.kill(one, signal.SIGKILL)
    assert "Traceback" not in err
    if number != "SIGKILL":
        assert process.returncode == 4, err
        assert "--job J2" in err
        assert fake.world.jobs["J2"].status == "failed"
        assert number in fake.world.events["J2"][-1]["text"]
    again = start(fake, tmp_path, "--job", "J2", "--device", "cpu")
    _, err = again.communicate(timeout=LIMIT)
    assert again.returncode == 0, err
    texts = [event.get("text", "") for event in fake.world.events["J2"]]
    assert any("picked by an earlier run, which are kept" in text for text in texts)
    assert len(fake.world.outputs["J2", "particles"]) == 16 * 8
    fresh = start(fake, tmp_path, "--device", "cpu")
    assert fresh.wait(timeout=LIMIT) == 0
    fresh.communicate()
    same(fake.world, "J2", "J3")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_a_kill_in_cryosparc_leaves_no_process(fake: RunningServer, tmp_path: Path) -> None:
    world = fake.world
    add_exposures(world, [(256, 256)] * 4, particles=8)
    process = start(fake, tmp_path, "--device", "cpu,cpu", stuck_at=0)
    try:
        killed_in_cryosparc(world, process, tmp_path / "stuck")
        wait_until(lambda: not alive(tmp_path), "the end of all processes")
    finally:
        for one in alive(tmp_path):
            os.kill(one, signal.SIGKILL)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_live_that_waits_leaves_no_process(fake: RunningServer, tmp_path: Path) -> None:
    world = fake.world
    add_exposures(world, [(256, 256)] * 2, particles=8)
    world.set_status(world.jobs["J1"], "running")
    more = ["--device", "cpu,cpu", "--batch", "2", "--poll", "0.1"]
    process = start(fake, tmp_path, *more, command="live")
    try:
        wait_until(lambda: "J2" in world.jobs and world.jobs["J2"].status == "completed", "the first batch", process)
        assert len(alive(tmp_path)) >= 3
        process.terminate()
        _, err = process.communicate(timeout=LIMIT)
        wait_until(lambda: not alive(tmp_path), "the end of all processes")
    finally:
        for one in alive(tmp_path):
            os.kill(one, signal.SIGKILL)
    assert process.returncode == 4, err
    assert "Traceback" not in err


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_live_under_nohup_survives_a_hangup_as_a_whole(fake: RunningServer, tmp_path: Path) -> None:
    """Also its worker processes, to which a closing terminal sends the signal as well."""
    world = fake.world
    add_exposures(world, [(256, 256)] * 2, particles=8)
    world.set_status(world.jobs["J1"], "running")
    more = ["--device", "cpu,cpu", "--batch", "2", "--poll", "0.1"]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        process = start(fake, tmp_path, *more, command="live")
    finally:
        signal.signal(signal.SIGHUP, before)
    try:
        wait_until(lambda: "J2" in world.jobs and world.jobs["J2"].status == "running", "the first batch", process)
        os.killpg(process.pid, signal.SIGHUP)  # while it picks
        wait_until(lambda: world.jobs["J2"].status == "completed", "its end", process)
        os.killpg(process.pid, signal.SIGHUP)  # while it waits
        add_exposures(world, [(256, 256)] * 2, particles=8, first=2)
        world.set_status(world.jobs["J1"], "completed")
        _, err = process.communicate(timeout=LIMIT)
    finally:
        for one in alive(tmp_path):
            os.kill(one, signal.SIGKILL)
    assert process.returncode == 0, err
    assert world.jobs["J3"].status == "completed"
