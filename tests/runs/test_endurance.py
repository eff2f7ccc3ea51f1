"""The endurance script in short; 5,000 micrographs take minutes: ``python -m benchmarks.speed.endurance``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import LIMIT

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("options", [[], ["--no-mount"]])
def test_killed_full_and_vanishing(options: list[str]) -> None:
    command = [sys.executable, "-m", "benchmarks.speed.endurance", "--count", "240", *options]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    said = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=LIMIT, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "killed with SIGKILL 4 times" in said.stdout
    assert "each picked exactly once, the same result" in said.stdout
