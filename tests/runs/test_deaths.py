"""Micrographs at which the process that owns the run is killed, and processes that are killed without their fault."""

from __future__ import annotations

import itertools
import json
import logging
import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cryosegnet_ext.cli.logs import shown
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.runs import batch
from cryosegnet_ext.runs.engines.processes import ProcessEngine
from tests.runs.helpers import journal_lines, outputs
from tests.stub_picker import StubPicker, write_micrograph

STATE = ".cryosegnet/deaths.json"


class Lethal(StubPicker):
    """Kills its process, or with ``group`` also the one that started it, at ``poison``."""

    group = False

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        if "poison" in micrograph.name:
            if self.group:
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().pick(micrograph, diameter)


class LethalGroup(Lethal):
    group = True


class LethalEstimate(Lethal):
    def estimate_diameter(self, micrographs: Sequence[Micrograph]) -> float | None:
        if any("poison" in one.name for one in micrographs):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().estimate_diameter(micrographs)


class KilledOnce(StubPicker):
    """Is killed at its third micrograph, as by a queue."""

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        if len(self.picked) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().pick(micrograph, diameter)


class Impatient(StubPicker):
    """Ctrl-C, twice."""

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError


def make_group(device: str) -> LethalGroup:
    return LethalGroup()


def work(picker: StubPicker | None, folder: Path, out: Path) -> None:
    with shown("cryosegnet"):
        if picker is None:
            with ProcessEngine(make_group, ["cpu", "cpu"], 1) as engine:
                result = batch.run(engine, expand_inputs([folder]), out, progress=False)
        else:
            result = batch.run(picker, expand_inputs([folder]), out, progress=False)
    os._exit(result.exit_code)


def start(picker: StubPicker | None, folder: Path, out: Path) -> int:
    """One start in a process of its own; its exit code, negative for a signal."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=(picker, folder, out))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def last_records(out: Path) -> dict[str, dict[str, Any]]:
    return {Path(line["key"]).stem: line for line in journal_lines(out) if line["record"] == "micrograph"}


@pytest.mark.parametrize(("picker", "deaths"), [(Lethal(), 2), (None, 2), (LethalEstimate(), 3)])
def test_a_micrograph_that_kills_the_process_fails_by_name(
    mics: Path, tmp_path: Path, picker: StubPicker | None, deaths: int
) -> None:
    write_micrograph(mics / "a_poison.mrc", seed=50)
    out = tmp_path / "out"
    codes = [start(picker, mics, out) for _ in range(deaths + 2)]
    assert codes == [-signal.SIGKILL] * deaths + [2, 2]
    records = last_records(out)
    assert [name for name, record in records.items() if record["status"] == "failed"] == ["a_poison"]
    assert len(records) == 13 and sum(len(line) > 0 for line in outputs(out).values()) == 24
    reason = records["a_poison"]["reason"]
    assert "the program was killed twice while it picked this micrograph" in reason
    assert records["a_poison"]["size"] == (mics / "a_poison.mrc").stat().st_size
    if deaths == 2:
        # It is tried again when its file has changed, or when the file that the reason names is removed.
        assert f"remove {out / STATE}, then the same command" in reason
        write_micrograph(mics / "a_poison.mrc", seed=51)
        assert start(StubPicker(), mics, out) == 0 and not (out / STATE).exists()


def test_a_killed_process_makes_no_micrograph_fail(mics: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert start(KilledOnce(), mics, out) == -signal.SIGKILL
    known = {Path(key).stem for key in json.loads((out / STATE).read_text())}
    assert known == {"m2", "m3", "m4"}
    said: list[str] = []
    result = batch.run(StubPicker(), expand_inputs([mics]), out, progress=False, say=said.append)
    assert (result.done, result.failed) == (10, 0) and not (out / STATE).exists()
    assert [name for name in last_records(out)][-3:] == ["m2", "m3", "m4"]
    assert any("was killed while it worked on 3 micrographs (m2.mrc, m3.mrc, m4.mrc)" in text for text in said)
    alone = tmp_path / "alone"
    batch.run(StubPicker(), expand_inputs([mics]), alone, progress=False)
    assert outputs(alone) == outputs(out)
    assert (alone / "failed.csv").read_bytes() == (out / "failed.csv").read_bytes()


def test_signals_are_no_deaths(mics: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert start(Impatient(), mics, out) == 4 and not (out / STATE).exists()
    calls = itertools.count()
    batch.run(StubPicker(), expand_inputs([mics]), out, progress=False, stop=lambda: next(calls) > 6)
    assert (out / "picks").exists() and not (out / STATE).exists()


@pytest.mark.parametrize("text", ["[", "[" * 100_000, "[1]", '{"a": 1}', '{"a": [1, 2]}', '{"a": [1e999, 2, "x"]}'])
def test_a_damaged_file_tells_nothing(mics: Path, tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "out"
    (out / STATE).parent.mkdir(parents=True)
    (out / STATE).write_text(text)
    caplog.set_level(logging.WARNING)
    assert batch.run(StubPicker(), expand_inputs([mics]), out, progress=False).done == 12
    assert not caplog.messages and not (out / STATE).exists()


def test_a_run_that_begins_anew_knows_of_no_death(mics: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert start(KilledOnce(), mics, out) == -signal.SIGKILL
    said: list[str] = []
    batch.run(StubPicker(), expand_inputs([mics]), out, progress=False, overwrite=True, say=said.append)
    assert [name for name in last_records(out)][-1] == "m11" and not any("was killed" in text for text in said)
