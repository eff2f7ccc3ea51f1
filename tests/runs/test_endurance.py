"""The endurance and the scale scripts in short; in full they take minutes to hours: ``benchmarks/speed``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import LIMIT

ROOT = Path(__file__).resolve().parents[2]
DASK = pytest.param(["--dask"], marks=pytest.mark.cluster)


def run(script: str, *options: str) -> str:
    command = [sys.executable, "-m", f"benchmarks.speed.{script}", *options]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    said = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=LIMIT, check=False, cwd=ROOT
    )
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--no-mount"], ["--devices", "2"], DASK], ids=" ".join)
def test_killed_full_and_vanishing(options: list[str]) -> None:
    if "--dask" in options:
        pytest.importorskip("distributed", reason="Dask is not installed")
    said = run("endurance", "--count", "240", *options)
    assert "killed with SIGKILL 4 times" in said
    assert "workers 0 times" in said or options[0] in ("--devices", "--dask")
    assert f"the scheduler {int('--dask' in options)} times" in said
    assert "each picked exactly once, the same result" in said


@pytest.mark.slow
def test_random_seeds_for_some_time() -> None:
    said = run("endurance", "--minutes", "0.001", "--count", "120")
    assert "--count 120 --seed " in said and ": the same result; killed with SIGKILL 4 times" in said
    assert said.endswith("1 runs of 120 micrographs, 120 in all, all the same result\n")


@pytest.mark.slow
@pytest.mark.cluster
def test_dask_with_a_restarted_scheduler_at_a_small_scale() -> None:
    pytest.importorskip("distributed", reason="Dask is not installed")
    said = run("at_scale", "--count", "120", "--layout", "facility")
    assert "each picked exactly once" in said and "workers lost" in said
    assert "240 *.jpg" in said and "report.html" in said
