from __future__ import annotations

import os
from pathlib import Path

import cv2
import pytest
import torch

from cryosegnet_ext.cli import doctor
from cryosegnet_ext.cores import usable_cores
from cryosegnet_ext.errors import UsageError
from cryosegnet_ext.picking import on_device
from cryosegnet_ext.runs.engines.processes import ProcessEngine
from cryosegnet_ext.training.batches import default_workers


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "250000 100000"}, 3),
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/\n", {"cpu.max": "1600000 100000"}, 8),
        ("0::/\n", {"cpu.max": "1000 100000"}, 1),
        ("0::/\n", {"cpu.max": "nonsense"}, 8),
        # The group of a batch job, and a quota above it.
        ("0::/slurm/job_7/step_0\n", {"slurm/job_7/cpu.max": "400000 100000", "cpu.max": "600000 100000"}, 4),
        # A container that sees its path on the host.
        ("0::/docker/a1b2\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/../a1b2\n", {"cpu.max": "200000 100000"}, 2),
        ("4:memory:/\n3:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ("3:cpu:/docker/c\n", {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("3:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 8),
        # Both versions: v1 has the controller.
        ("2:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "500000", "cpu/cpu.cfs_period_us": "100000"}, 5),
        ("", {}, 8),
    ],
)
def test_quota_and_affinity(tmp_path: Path, groups: str, files: dict[str, str], cores: int) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    assert usable_cores(tmp_path) == cores


def test_without_cgroups(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 8


@pytest.fixture
def quota(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("picking.on_device", "cli.doctor", "training.batches", "runs.engines.processes"):
        monkeypatch.setattr(f"cryosegnet_ext.{module}.usable_cores", lambda: 3)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.usefixtures("quota")
def test_threads_follow_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProcessEngine, "_start", lambda self, worker: None)
    assert ProcessEngine(lambda device: None, ["cpu"])._threads == 3  # type: ignore[arg-type,return-value]
    assert default_workers("cuda") == 2
    before, of_opencv = torch.get_num_threads(), cv2.getNumThreads()
    try:
        torch.set_num_threads(8)
        cv2.setNumThreads(8)
        on_device.choose_device("cpu")
        assert torch.get_num_threads() == cv2.getNumThreads() == 3
        assert doctor._devices()["cpu"].startswith("3 of ")
        monkeypatch.setenv("OMP_NUM_THREADS", "8")
        torch.set_num_threads(8)
        on_device.choose_device("cpu")
        assert torch.get_num_threads() == 8
    finally:
        torch.set_num_threads(before)
        cv2.setNumThreads(of_opencv)


@pytest.mark.parametrize("value", ["", "-1"])
def test_a_hidden_gpu_is_said_once(
    value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    on_device._say_once.cache_clear()
    with caplog.at_level("INFO"):
        for _ in range(2):
            assert on_device.choose_device("auto").type == "cpu"
            on_device.choose_device("cpu")
    assert caplog.messages == [f"no GPU is visible (CUDA_VISIBLE_DEVICES is {value!r}); the CPU is used"]
    with pytest.raises(UsageError, match=f"no GPU here .CUDA_VISIBLE_DEVICES is {value!r}"):
        on_device.choose_device("cuda")
    assert f"CUDA_VISIBLE_DEVICES is {value!r}" in doctor._devices()["cuda"]
