"""Picking on a SLURM that is there: slurmctld and slurmd of Debian (slurm-wlm) on one machine are enough."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("dask_jobqueue", reason="Dask is not installed: pip install 'cryosegnet-ext[cluster]'")

from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.runs import batch
from cryosegnet_ext.runs.engines.cluster import ClusterEngine
from cryosegnet_ext.runs.journal import Record
from tests.runs.test_cluster import ROOT, make_slow, same
from tests.stub_picker import StubPicker, write_micrograph
from tests.waiting import LIMIT


def _runs() -> bool:
    if shutil.which("sinfo") is None:
        return False
    said = subprocess.run(
        ["sinfo", "-h", "-o", "%t"], capture_output=True, text=True, timeout=LIMIT, check=False
    ).stdout
    return "idle" in said or "mix" in said


pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.mark.skipif(not _runs(), reason="no SLURM with a free node here")
@pytest.mark.parametrize("workers", ["1", "{minimum: 1, maximum: 2}"])
def test_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    """Workers as jobs; one job is cancelled on the way, another ends by itself, and others take their places."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for i in range(80):
        write_micrograph(tmp_path / f"mics/m{i}.mrc", seed=i)
    path = tmp_path / "cluster.yaml"
    path.write_text(
        f"scheduler: slurm\nworkers: {workers}\ncores: 1\nmemory: 1GB\nwalltime: '00:30:00'\n"
        f"options: {{interface: lo, log_directory: {tmp_path}/logs, "
        "worker_extra_args: [--lifetime, 5s, --lifetime-stagger, 0s]}\n"
    )
    cancelled: list[str] = []

    def cancel(record: Record, finished: int, total: int) -> None:
        if finished == 5:
            jobs = subprocess.run(["squeue", "-h", "-o", "%i", "-n", "dask-worker"], capture_output=True, text=True)
            cancelled.extend(jobs.stdout.split()[:1])
            subprocess.run(["scancel", "--signal=KILL", *cancelled], check=True)

    with ClusterEngine(make_slow, file=path) as engine:
        result = batch.run(engine, expand_inputs([tmp_path / "mics"]), tmp_path / "out", progress=False, watch=cancel)
    assert cancelled and (result.done, result.failed) == (80, 0)
    batch.run(StubPicker(), expand_inputs([tmp_path / "mics"]), tmp_path / "alone", progress=False)
    same(tmp_path / "alone", tmp_path / "out")
