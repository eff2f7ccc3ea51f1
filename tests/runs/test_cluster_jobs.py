"""Workers as jobs of commands that stand in for SLURM's: they are killed, expire, are refused or never start."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import stat
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("dask_jobqueue", reason="Dask is not installed: pip install 'cryosegnet-ext[cluster]'")

import dask
import distributed

from cryosegnet_ext.cli import main
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.runs import batch
from cryosegnet_ext.runs.engines import cluster, cluster_jobs
from cryosegnet_ext.runs.engines.cluster import ClusterEngine
from cryosegnet_ext.runs.journal import Record
from cryosegnet_ext.runs.stopping import Stop
from tests.runs.test_cluster import ROOT, Outside, make_slow, mics, outside, pytestmark, same, wait_for_port
from tests.stub_picker import StubPicker
from tests.waiting import wait_until

__all__ = ["mics", "outside", "pytestmark"]

SBATCH = """#!/bin/bash
test -e {folder}/refusing && {{ echo "sbatch: error: Unable to contact slurm controller" >&2; exit 1; }}
cp "$1" {folder}/job.$$.sh
command=(bash {folder}/job.$$.sh)
test -e {folder}/queueing && command=(sleep infinity)
setsid "${{command[@]}}" >{folder}/job.$$.out 2>&1 </dev/null &
echo $! >>{folder}/jobs
echo "Submitted batch job $!"
"""
SCANCEL = "#!/bin/bash\nkill -KILL -- -$1\n"


class FakeSlurm:
    """Commands ``sbatch`` and ``scancel`` that run jobs here; files in their folder make them refuse or queue jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
            (folder / name).write_text(text.format(folder=folder) if name == "sbatch" else text)
            (folder / name).chmod(0o755)

    def jobs(self) -> list[int]:
        with contextlib.suppress(FileNotFoundError):
            return [int(line) for line in (self.folder / "jobs").read_text().split()]
        return []

    def kill(self) -> None:
        for job in self.jobs():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job, signal.SIGKILL)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    (tmp_path / "slurm").mkdir()
    fake = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{fake.folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster_jobs, "_REPLACE_SECONDS", 0.5)
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "0.1s"}):
        yield fake
    fake.kill()


def described(folder: Path, workers: str = "1", rest: str = "") -> Path:
    path = folder / "cluster.yaml"
    path.write_text(
        f"scheduler: slurm\nworkers: {workers}\ncores: 1\nmemory: 1GB\noptions: {{interface: lo, {rest}}}\n"
    )
    return path


class Gated(StubPicker):
    """Picks a few micrographs in each process, and the others when a file is there."""

    def __init__(self, gate: Path) -> None:
        super().__init__()
        self.gate, self.left = gate, 4

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        self.left -= 1
        wait_until(lambda: self.left > 0 or self.gate.exists(), "the gate")
        return super().pick(micrograph, diameter)


def make_gated(gate: Path, device: str) -> Gated:
    return Gated(gate)


@pytest.mark.parametrize("workers", ["1", "{minimum: 0, maximum: 1}"])
def test_killed_job_is_replaced(slurm: FakeSlurm, mics: Path, tmp_path: Path, workers: str) -> None:
    def kill(record: Record, finished: int, total: int) -> None:
        if finished == 3:
            slurm.kill()
            (tmp_path / "gate").touch()

    make = functools.partial(make_gated, tmp_path / "gate")
    with ClusterEngine(make, file=described(tmp_path, workers)) as engine:
        result = batch.run(engine, expand_inputs([mics]), tmp_path / "out", progress=False, watch=kill)
    assert (result.done, result.failed, len(slurm.jobs())) == (12, 1, 2)
    batch.run(StubPicker(), expand_inputs([mics]), tmp_path / "alone", progress=False)
    same(tmp_path / "alone", tmp_path / "out")


def test_expired_and_refused_jobs_are_replaced(
    slurm: FakeSlurm, mics: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (slurm.folder / "refusing").touch()
    file = described(tmp_path, rest="worker_extra_args: [--lifetime, 5s, --lifetime-stagger, 0s]")
    with ClusterEngine(make_slow, file=file) as engine:

        def told() -> bool:
            engine.wait(Stop(), 0.1)
            return "Unable to contact slurm controller" in caplog.text

        wait_until(told, "the warning")
        (slurm.folder / "refusing").unlink()

        def expired(record: Record, finished: int, total: int) -> None:
            if finished == 3:
                wait_until(lambda: not engine._client.scheduler_info()["workers"], "the end of the first worker")

        result = batch.run(engine, expand_inputs([mics]), tmp_path / "out", progress=False, watch=expired)
    assert (result.done, result.failed) == (12, 1) and len(slurm.jobs()) > 1
    assert caplog.text.count("a worker cannot be started (sbatch: error: Unable to contact slurm controller)") == 1


def test_a_run_without_workers_ends_with_a_sentence(
    slurm: FakeSlurm, mics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def kill(record: Record, finished: int, total: int) -> None:
        if finished == 3:
            monkeypatch.setattr(engine._jobs, "wait", 3.0)
            (slurm.folder / "queueing").touch()
            slurm.kill()

    monkeypatch.setattr(cluster, "_SAY_SECONDS", 1.0)
    error = r"^no worker at tls://127.0.0.1:\d+ for \d s; look at .*; \d of 13 micrographs (are|is) finished and kept"
    with (
        pytest.raises(CryoSegNetError, match=error),
        ClusterEngine(make_slow, file=described(tmp_path)) as engine,
    ):
        batch.run(engine, expand_inputs([mics]), tmp_path / "out", progress=False, watch=kill)
    assert "waiting 2 s more: look at the queue" in caplog.text


def test_no_worker_at_all_is_exit_code_3(
    slurm: FakeSlurm, mics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (slurm.folder / "queueing").touch()
    start = cluster_jobs.ClusterJobs.__init__

    def impatient(self: cluster_jobs.ClusterJobs, path: Path) -> None:
        start(self, path)
        self.wait = 0.5

    monkeypatch.setattr(cluster_jobs.ClusterJobs, "__init__", impatient)
    assert main(["pick", str(mics), "-o", str(tmp_path / "out"), "--cluster", str(described(tmp_path))]) == 3
    assert "no worker at tls://" in capsys.readouterr().err


def test_only_who_has_the_key_gets_in(slurm: FakeSlurm, tmp_path: Path) -> None:
    with ClusterEngine(make_slow, file=described(tmp_path)) as engine:
        wait_until(slurm.jobs, "the job")
        address = engine._client.scheduler_info()["address"]
        assert address.startswith("tls://")
        other = distributed.Security.temporary()
        for foreign, security in ((address, other), (address.replace("tls://", "tcp://"), None)):
            with pytest.raises(OSError):
                distributed.Client(foreign, security=security, timeout=2)
        with pytest.raises(CryoSegNetError, match="the certificate in Dask's configuration"):
            ClusterEngine(make_slow, address=address)
        (keys,) = tmp_path.glob(".cryosegnet-tls-*")
        assert stat.S_IMODE(keys.stat().st_mode) == 0o700
        scheduler = engine._jobs._cluster.scheduler
        assert [one.getsockname()[0] for one in scheduler.http_server._sockets.values()] == ["127.0.0.1"]
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{scheduler.http_server.port}/info/main/workers.html")
        script = next(slurm.folder.glob("job.*.sh")).read_text()
        assert "--no-dashboard --dashboard-address 127.0.0.1:0" in script and "PRIVATE KEY" not in script
    assert not keys.exists()


def test_scheduler_without_tls_gives_a_warning(outside: Outside, caplog: pytest.LogCaptureFixture) -> None:
    outside.start()
    wait_for_port(outside.port)
    with ClusterEngine(make_slow, address=f"tcp://127.0.0.1:{outside.port}"):
        assert "does not use TLS: everybody who can reach it can run programs" in caplog.text


def test_scheduler_with_a_certificate(
    outside: Outside, mics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = distributed.Security.temporary()
    for name, text in (("ca", made.tls_ca_file), ("key", made.tls_client_key)):
        (tmp_path / f"{name}.pem").write_text(text)
    role = {"cert": str(tmp_path / "ca.pem"), "key": str(tmp_path / "key.pem")}
    tls = {"ca-file": role["cert"], **dict.fromkeys(("scheduler", "worker", "client"), role)}
    settings = {"distributed": {"comm": {"require-encryption": True, "tls": tls}}}
    (tmp_path / "dask").mkdir()
    (tmp_path / "dask/tls.yaml").write_text(json.dumps(settings))
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path / "dask"))
    outside.protocol = "tls"
    outside.start()
    wait_for_port(outside.port)
    address = f"tls://127.0.0.1:{outside.port}"
    client = {f"distributed.comm.tls.client.{key}": value for key, value in role.items()}
    known = {**client, "distributed.comm.tls.ca-file": role["cert"], "distributed.comm.require-encryption": True}
    with dask.config.set(known), ClusterEngine(make_slow, address=address) as engine:
        result = batch.run(engine, expand_inputs([mics]), tmp_path / "out", progress=False)
    assert (result.done, result.failed) == (12, 1) and "TLS" not in caplog.text
    with pytest.raises(CryoSegNetError, match="the certificate in Dask's configuration"):
        ClusterEngine(make_slow, address=address)


def test_a_cluster_that_cannot_have_its_key(slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = described(tmp_path)
    (tmp_path / "my data").mkdir()
    monkeypatch.chdir(tmp_path / "my data")
    with pytest.raises(CryoSegNetError, match=r"my data, since .* name a shared one as shared_temp_directory"):
        ClusterEngine(make_slow, file=file)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(CryoSegNetError, match=r"a package for clusters is missing .*cryptography"):
        ClusterEngine(make_slow, file=file)
    monkeypatch.undo()
    file = described(tmp_path, rest=f"shared_temp_directory: {tmp_path}/none")
    with pytest.raises(CryoSegNetError, match=r"the cluster does not start .*No such file or directory"):
        ClusterEngine(make_slow, file=file)
