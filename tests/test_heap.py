"""Freed memory is kept while micrographs are picked, and given back before the process waits."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from cryosegnet_ext import heap
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.runs.engines import serial
from cryosegnet_ext.runs.pick_task import PickTask
from cryosegnet_ext.runs.stopping import Stop
from tests.stub_picker import StubPicker, write_micrograph
from tests.waiting import LIMIT

ROOT = Path(__file__).resolve().parents[1]

# Arrays of 100 MB that are freed; pages that the system had to fill for the second, and megabytes in use afterwards.
PROGRAM = """
import resource
import numpy as np
from cryosegnet_ext import heap

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(100_000_000, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def used():
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize() // 1_000_000

kept = heap.keep_freed()
faults()
again, between = faults(), used()
heap.give_back()
print(kept, again, between - used())
"""


def run(**environment: str) -> tuple[bool, int, int]:
    # NumPy's large pages would be too few to count
    given = {**os.environ, "PYTHONPATH": str(ROOT), "NUMPY_MADVISE_HUGEPAGE": "0", **environment}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=given, text=True, capture_output=True, timeout=LIMIT, check=True)
    kept, again, returned = done.stdout.split()
    return kept == "True", int(again), int(returned)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="without the GNU C library")
def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    kept, again, returned = run()
    assert kept and again < 1000 and returned > 90


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_settings_of_the_environment_stay(name: str) -> None:
    kept, again, _ = run(**{name: "65536" if name.startswith("MALLOC") else "glibc.malloc.trim_threshold=65536"})
    assert not kept and again > 10_000


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def library(name: None) -> None:
        raise error

    monkeypatch.setattr(heap.ctypes, "CDLL", library)
    heap._library.cache_clear()
    try:
        assert not heap.keep_freed()
        heap.give_back()
    finally:
        heap._library.cache_clear()


def test_an_engine_gives_memory_back_when_nothing_is_left_to_pick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(serial, "keep_freed", lambda: said.append("keep"))
    monkeypatch.setattr(serial, "give_back", lambda: said.append("give back"))
    with serial.SerialEngine(StubPicker()) as engine:
        assert said == ["keep"]
        for stem in ("one", "two"):
            write_micrograph(tmp_path / f"{stem}.mrc", shape=(64, 64))
            engine.submit(PickTask(expand_inputs([str(tmp_path / f"{stem}.mrc")])[0], stem))
        assert len(engine.wait(Stop())) == 1 and said == ["keep"]
        assert len(engine.wait(Stop())) == 1 and said == ["keep", "give back"]
