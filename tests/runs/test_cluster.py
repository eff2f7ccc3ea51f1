from __future__ import annotations

import functools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'cryosegnet-ext[cluster]'")

from cryosegnet_ext.errors import CryoSegNetError, UsageError
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.runs import batch
from cryosegnet_ext.runs.engines import cluster, cluster_file
from cryosegnet_ext.runs.engines.base import EngineError
from cryosegnet_ext.runs.engines.cluster import ClusterEngine
from cryosegnet_ext.runs.journal import Record
from cryosegnet_ext.runs.stopping import Stop
from tests.runs.test_processes import (
    files,
    journal,
    make_at_last,
    make_dead,
    make_deadly,
    make_dying_estimate,
    make_nothing,
    make_stub,
    summary,
)
from tests.stub_picker import StubPicker, write_micrograph
from tests.waiting import LIMIT, wait_until

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


class Slow(StubPicker):
    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        time.sleep(0.1)
        return super().pick(micrograph, diameter)


def make_slow(device: str) -> Slow:
    return Slow()


@pytest.fixture
def mics(tmp_path: Path) -> Path:
    for i in range(12):
        write_micrograph(tmp_path / f"mics/m{i}.mrc", seed=i)
    (tmp_path / "mics/bad.mrc").write_bytes(b"no image" * 300)
    return tmp_path / "mics"


@pytest.fixture
def two_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # What the workers are given to run must be importable there.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    path = tmp_path / "cluster.yaml"
    path.write_text("scheduler: local\nworkers: 2\n")
    return path


def same(one: Path, other: Path) -> None:
    assert files(one) == files(other)
    assert summary(one) == summary(other) and journal(one) == journal(other)
    assert (one / "failed.csv").read_bytes() == (other / "failed.csv").read_bytes()


def test_same_files_as_in_one_process_also_when_workers_are_killed(
    mics: Path, tmp_path: Path, two_workers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inputs = expand_inputs(["mics"])
    alone = tmp_path / "alone"
    batch.run(StubPicker(), inputs, alone, progress=False)
    killed: list[int] = []
    with ClusterEngine(make_slow, file=two_workers) as engine:

        def kill_one(record: Record, finished: int, total: int) -> None:
            if len(killed) < 2 and finished >= 2 * (len(killed) + 1):
                pids = {pid for pid in engine._client.run(os.getpid).values() if pid not in killed}
                killed.append(pids.pop())
                os.kill(killed[-1], signal.SIGKILL)

        undisturbed = batch.run(engine, inputs, tmp_path / "both", progress=False)
        result = batch.run(engine, inputs, tmp_path / "killed", progress=False, watch=kill_one)
    assert len(killed) == 2
    assert undisturbed.failures == result.failures == (("mics/bad.mrc", result.failures[0][1]),)
    assert result.done == 12
    same(alone, tmp_path / "both")
    same(alone, tmp_path / "killed")


def test_how_far_the_estimate_is(mics: Path, two_workers: Path) -> None:
    heard: list[tuple[int, int]] = []
    with ClusterEngine(make_slow, file=two_workers) as engine:
        for _ in range(2):
            found = engine.estimate(expand_inputs([mics]), None, Stop(), lambda number, of: heard.append((number, of)))
            wait_until(lambda: (8, 8) in heard, "the last event")
            assert found.read == 8 and heard == [(number, 8) for number in range(1, 9)]
            heard.clear()


def test_what_kills_workers_fails_by_name(tmp_path: Path, two_workers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dask

    write_micrograph(tmp_path / "mics/good.mrc")
    write_micrograph(tmp_path / "mics/poison.mrc")
    (tmp_path / "log").mkdir()
    make = functools.partial(make_deadly, str(tmp_path / "log"))
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        ClusterEngine(make, file=two_workers) as engine,
    ):
        result = batch.run(engine, expand_inputs([tmp_path / "mics"]), tmp_path / "out", progress=False)
    assert result.done == 1 and Path(result.failures[0][0]).name == "poison.mrc"
    assert "died" in result.failures[0][1] and "twice" in result.failures[0][1]


def test_workers_that_die_while_they_load(tmp_path: Path, two_workers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dask

    monkeypatch.setattr(cluster, "PAUSES", (0.0, 0.0))
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        ClusterEngine(functools.partial(make_at_last, str(tmp_path), 2), file=two_workers) as engine,
    ):
        assert engine.settings == StubPicker().settings
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        ClusterEngine(make_dead, file=two_workers) as engine,
        pytest.raises(EngineError, match=r"workers die while they load the models.*, in 3 tries; look at their memory"),
    ):
        assert engine.settings


def test_workers_that_die_of_the_estimate(mics: Path, two_workers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dask

    monkeypatch.setattr(cluster, "PAUSES", (0.0,))
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        ClusterEngine(make_dying_estimate, file=two_workers) as engine,
    ):
        found = engine.estimate(expand_inputs([mics]), None, Stop())
    assert found.diameter is None and "die while they estimate the size" in str(found.problem)


def test_workers_are_not_taken_for_lost(two_workers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ClusterEngine(make_stub, file=two_workers) as engine:

        def counted() -> bool:
            engine.wait(Stop(), 0.1)
            return engine.workers == 2

        wait_until(counted, "the workers")
        # As when Dask's own look at the scheduler, without workers, comes in between.
        monkeypatch.setattr(engine._client, "scheduler_info", lambda **_: {"workers": {}})
        engine._looked = 0.0
        engine._look(True)
        assert (engine.workers, engine.restarts) == (2, 0)


def test_errors_of_the_workers_are_told(mics: Path, tmp_path: Path, two_workers: Path) -> None:
    with pytest.raises(UsageError, match="no such device"), ClusterEngine(make_nothing, file=two_workers) as engine:
        batch.run(engine, expand_inputs([mics]), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


class Outside:
    """A scheduler with one worker, as an administrator would run them."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.protocol = "tcp"
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        address = f"{self.protocol}://127.0.0.1:{self.port}"
        for words in (
            ["scheduler", "--port", str(self.port), "--host", address.rpartition(":")[0], "--no-dashboard"],
            ["worker", address, "--no-nanny", "--nthreads", "2", "--no-dashboard", "--death-timeout", str(LIMIT)],
        ):
            command = [sys.executable, "-m", "dask", *words]
            self.processes.append(
                subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes.clear()


@pytest.fixture
def outside() -> Iterator[Outside]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = Outside(port)
    yield running
    running.kill()


def test_scheduler_that_is_restarted(
    mics: Path, tmp_path: Path, outside: Outside, capfd: pytest.CaptureFixture[str]
) -> None:
    outside.start()
    wait_for_port(outside.port)
    said: list[str] = []
    restarted: list[threading.Thread] = []

    def restart(record: Record, finished: int, total: int) -> None:
        if finished == 4 and not restarted:
            outside.kill()
            restarted.append(threading.Thread(target=outside.start))
            restarted[0].start()

    with ClusterEngine(make_slow, address=f"tcp://127.0.0.1:{outside.port}") as engine:
        result = batch.run(
            engine, expand_inputs([mics]), tmp_path / "out", progress=False, watch=restart, say=said.append
        )
    restarted[0].join()
    assert result.done == 12 and result.failed == 1
    assert "Traceback" not in capfd.readouterr().err and not logging.getLogger("distributed.client").isEnabledFor(40)
    assert any("was lost" in text and "will be given to it again" in text for text in said)
    batch.run(StubPicker(), expand_inputs([mics]), tmp_path / "alone", progress=False)
    same(tmp_path / "alone", tmp_path / "out")
    keys = [json.loads(line).get("key") for line in (tmp_path / "out/.cryosegnet/journal.jsonl").open()]
    assert len(keys) == len(set(keys)) + 1  # the settings and the diameter have none


def wait_for_port(port: int) -> None:
    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(answers, "the scheduler")


def test_scheduler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 0.5)
    with pytest.raises(CryoSegNetError, match=r"--scheduler tcp://127.0.0.1:9 cannot be reached"):
        ClusterEngine(make_stub, address="tcp://127.0.0.1:9")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scheduler: slurmm", "give `scheduler:` with one of slurm, pbs, sge, lsf, local"),
        ("[", "not YAML"),
        ("- 1", "give `scheduler:`"),
        ("{scheduler: slurm, queu: gpu}", "unknown key queu; the keys are"),
        ("{scheduler: slurm, workers: many}", "workers is 'many'"),
        ("{scheduler: slurm, workers: {minimum: 4, maximum: 2}}", "give a number, or minimum and maximum"),
        ("{scheduler: slurm, workers: 0}", "workers is 0"),
        ("{scheduler: slurm, cores: 0}", "cores is 0"),
        ("{scheduler: pbs, gpus: 1}", "in its own way"),
        ("{scheduler: slurm, options: [1]}", "options must be a mapping"),
        ("{scheduler: slurm, walltime: tomorrow}", "walltime is tomorrow"),
        ("{scheduler: slurm, walltime: '00:30'}", "walltime is 00:30"),
        ("{scheduler: slurm, wait: long}", "wait is long"),
        ("{scheduler: slurm, dashboard: ':8787'}", "dashboard is ':8787'"),
    ],
)
def test_cluster_files_that_make_no_sense(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(CryoSegNetError, match=message):
        cluster_file.read(path)
    with pytest.raises(CryoSegNetError, match="cannot be read"):
        cluster_file.read(tmp_path / "none.yaml")


@pytest.mark.parametrize("scheduler", ["slurm", "pbs", "sge", "lsf"])
def test_job_scripts(tmp_path: Path, scheduler: str) -> None:
    import dask_jobqueue

    path = tmp_path / "cluster.yaml"
    gpus = "gpus: 2\n" if scheduler == "slurm" else ""
    path.write_text(
        f"scheduler: {scheduler}\n{gpus}cores: 6\nmemory: 20GB\nqueue: long\nwalltime: '04:00:00'\n"
        "workers: {minimum: 1, maximum: 8}\noptions: {job_extra_directives: ['--site'], log_directory: logs}\n"
    )
    given = cluster_file.read(path)
    assert (given["minimum"], given["maximum"]) == (1, 8)
    made = cluster_file.arguments(path, given)
    made["log_directory"] = str(tmp_path / "logs")
    job = getattr(dask_jobqueue, cluster_file.CLASSES[scheduler])
    with job(**made, scheduler_options={"port": 0, "dashboard_address": None}) as started:
        script = started.job_script()
    assert "long" in script and "--site" in script and "OMP_NUM_THREADS=6" in script
    assert script.rindex("--nthreads 2") > script.index("--nthreads")
    assert "--lifetime 13950s --lifetime-stagger 150s" in script
    assert ("#BSUB -W 04:00\n" if scheduler == "lsf" else "04:00:00") in script
    if scheduler == "slurm":
        assert (
            "#SBATCH --gpus=2" in script and "#SBATCH --cpus-per-task=6" in script and "#SBATCH -t 04:00:00" in script
        )


@pytest.mark.parametrize(
    ("text", "walltime", "life"),
    [
        ("{scheduler: slurm}", "00:30:00", 1350),  # dask-jobqueue's own
        ("{scheduler: lsf}", "00:30", 1350),
        ("{scheduler: slurm, options: {walltime: '1-00:00:00'}}", "24:00:00", 85950),
        ("{scheduler: slurm, walltime: '30:00'}", "00:30:00", 1350),  # minutes and seconds
        ("{scheduler: lsf, walltime: '30:00'}", "30:00", 107550),  # hours and minutes
        ("{scheduler: pbs, walltime: 04:00:00}", "04:00:00", 13950),
        ("{scheduler: slurm, walltime: '00:02:00'}", "00:02:00", 75),
    ],
)
def test_workers_end_before_their_jobs(tmp_path: Path, text: str, walltime: str, life: int) -> None:
    import dask_jobqueue  # noqa: F401  its configuration

    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    made = cluster_file.arguments(path, cluster_file.read(path))
    words = made["worker_extra_args"]
    assert made["walltime"] == walltime
    assert words[words.index("--lifetime") + 1] == f"{life}s"
    hours, minutes, *seconds = (int(part) for part in walltime.split(":"))
    stagger = int(words[words.index("--lifetime-stagger") + 1][:-1])
    assert life + stagger < 3600 * hours + 60 * minutes + sum(seconds)


def test_a_site_that_sets_no_walltime(tmp_path: Path) -> None:
    import dask

    path = tmp_path / "cluster.yaml"
    path.write_text("scheduler: slurm")
    with dask.config.set({"jobqueue.slurm.walltime": None}):
        made = cluster_file.arguments(path, cluster_file.read(path))
    assert "walltime" not in made and "--lifetime" not in made["worker_extra_args"]
