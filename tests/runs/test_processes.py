from __future__ import annotations

import argparse
import csv
import functools
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from cryosegnet_ext.cli.logs import configure, shown
from cryosegnet_ext.errors import CryoSegNetError, UsageError
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.picking.options import split_devices
from cryosegnet_ext.runs import batch
from cryosegnet_ext.runs.engines import processes as devices
from cryosegnet_ext.runs.engines.processes import ProcessEngine
from cryosegnet_ext.runs.pick_task import PickTask
from cryosegnet_ext.runs.stopping import Stop, Stopped
from tests.stub_picker import StubPicker, write_micrograph
from tests.waiting import FOREVER

# Each test starts processes, which costs a second or two; a test shows several things where it can.


class Deadly(StubPicker):
    """Dies of some micrographs: always of ``poison``, and the first time of ``unlucky``."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = Path(folder)

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        name = Path(micrograph.name).stem
        with open(self.folder / f"{name}.pids", "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.02)
        tries = (self.folder / f"{name}.pids").read_text().count("\n")
        if "poison" in name or ("unlucky" in name and tries == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().pick(micrograph, diameter)


class DyingEstimate(StubPicker):
    def estimate_diameter(self, micrographs: Sequence[Micrograph]) -> float | None:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def make_dying_estimate(device: str) -> StubPicker:
    return DyingEstimate()


def make_stub(device: str) -> StubPicker:
    assert device == "cpu"
    return StubPicker()


def make_deadly(folder: str, device: str) -> Deadly:
    return Deadly(folder)


def make_once(folder: str, device: str) -> StubPicker:
    """A picker that dies of the first micrograph on ``cuda:0``, which then is no longer there."""
    with open(Path(folder) / f"{device}.made", "a") as file:
        file.write("x")
    if device == "cpu":
        return Slow()
    if len((Path(folder) / f"{device}.made").read_text()) > 1:
        raise UsageError(f"{device} is not there.")
    return Dying()


class Slow(StubPicker):
    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        time.sleep(0.1)
        return super().pick(micrograph, diameter)


class Dying(StubPicker):
    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class Talking(StubPicker):
    """Logs from several threads while the process sends what it has picked."""

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        log = logging.getLogger("cryosegnet_ext.picking.picker")
        threads = [threading.Thread(target=log.warning, args=(f"%s thread {i}", micrograph.name)) for i in range(8)]
        for thread in threads:
            thread.start()
        log.info(f"{micrograph.name} is picked")
        log.debug(f"{micrograph.name} in detail")
        logging.getLogger("others").info("not for the user")
        return super().pick(micrograph, diameter)


def make_talking(device: str) -> StubPicker:
    return Talking()


def make_nothing(device: str) -> StubPicker:
    raise UsageError(f"--device {device}: there is no such device.")


def make_at_last(folder: str, lives: int, device: str) -> StubPicker:
    """A picker that cannot be made before ``lives`` processes have died, as while another program has the memory."""
    with open(Path(folder) / "made", "a") as file:
        file.write("x")
    if len((Path(folder) / "made").read_text()) <= lives:
        os.kill(os.getpid(), signal.SIGKILL)
    return StubPicker()


def make_dead(device: str) -> StubPicker:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.fixture
def mics(tmp_path: Path) -> Path:
    for i in range(8):
        write_micrograph(tmp_path / f"mics/m{i}.mrc", seed=i)
    return tmp_path / "mics"


def files(output: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(output)): p.read_bytes()
        for folder in ("picks", "overlays")
        for p in sorted((output / folder).rglob("*"))
    }


def summary(output: Path) -> dict:
    """What `summary.json` says, without the times."""
    found = json.loads((output / "summary.json").read_text())
    for entry in found["micrographs"]:
        del entry["seconds"]
    return found


def journal(output: Path) -> list[str]:
    """The journal's lines, without the times, in an order of their own."""
    lines = [json.loads(line) for line in (output / ".cryosegnet/journal.jsonl").read_text().splitlines()]
    return sorted(json.dumps({k: v for k, v in line.items() if k not in ("seconds", "crc32")}) for line in lines)


def pick(make: Callable[[str], StubPicker], mics: Path, out: Path, count: int = 2) -> batch.BatchResult:
    with ProcessEngine(make, ["cpu"] * count) as engine:
        return batch.run(engine, expand_inputs([mics]), out, progress=False, formats=("star", "cbox"))


def test_same_files_as_in_one_process(mics: Path, tmp_path: Path) -> None:
    (mics / "bad.mrc").write_bytes(b"no image" * 300)
    alone, both = tmp_path / "alone", tmp_path / "both"
    batch.run(StubPicker(), expand_inputs([mics]), alone, progress=False, formats=("star", "cbox"))
    result = pick(make_stub, mics, both)
    assert (result.done, result.failed, result.exit_code) == (8, 1, 2)
    assert files(alone) == files(both) and len(files(both)) == 24
    assert summary(alone) == summary(both) and journal(alone) == journal(both)
    assert (alone / "failed.csv").read_bytes() == (both / "failed.csv").read_bytes()


def test_dead_processes(mics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an innocent process had at hand is picked; what kills two processes fails, by name."""
    for i, name in enumerate(("a_poison", "m3_unlucky", "m5_poison")):
        write_micrograph(mics / f"{name}.mrc", seed=50 + i)
    (tmp_path / "log").mkdir()
    said: list[str] = []
    out = tmp_path / "out"
    with ProcessEngine(functools.partial(make_deadly, str(tmp_path / "log")), ["cpu", "cpu"]) as engine:
        result = batch.run(engine, expand_inputs([mics]), out, progress=False, say=said.append)
        assert engine.restarts >= 4
    assert (result.done, result.failed) == (9, 2)
    assert {Path(name).stem for name, _ in result.failures} == {"a_poison", "m5_poison"}
    with open(out / "failed.csv", newline="") as file:
        reasons = [row["reason"] for row in csv.DictReader(file)]
    assert all("died, twice (SIGKILL" in reason for reason in reasons)
    assert any("died (SIGKILL" in text and "tried again" in text for text in said)
    tries = {p.stem: p.read_text().count("\n") for p in (tmp_path / "log").iterdir()}
    assert tries["a_poison"] == tries["m5_poison"] == tries["m3_unlucky"] == 2
    done = [json.loads(line) for line in (out / ".cryosegnet/journal.jsonl").read_text().splitlines()]
    keys = [line["key"] for line in done if line["record"] == "micrograph"]
    assert len(keys) == len(set(keys)) == 11
    # With --watch a failed micrograph is tried again when its file changes, so its size is known.
    assert all(line["size"] > 0 for line in done if line["record"] == "micrograph")
    undisturbed = tmp_path / "undisturbed"
    good = [one for one in expand_inputs([mics]) if "poison" not in one.name]
    batch.run(StubPicker(), good, undisturbed, progress=False)
    # The estimate saw other micrographs, which changes the stub's diameters; the coordinates must be there.
    assert set(files(undisturbed)) == set(files(out))


def test_nothing_can_be_made_there(mics: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such device"):
        pick(make_nothing, mics, tmp_path / "out", count=1)
    assert not (tmp_path / "out").exists()


def test_processes_that_always_die_are_given_up(mics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_MOST_DEATHS", 1)
    monkeypatch.setattr(devices, "PAUSES", (0.0, 0.0))
    with pytest.raises(CryoSegNetError, match=r"every worker process has died \(SIGKILL.*, 4 times in a row.*memory"):
        pick(make_dead, mics, tmp_path / "out", count=1)


def test_when_every_process_has_died_all_are_started_again(
    mics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "_MOST_DEATHS", 0)
    monkeypatch.setattr(devices, "PAUSES", (0.0, 0.0, 0.0))
    result = pick(functools.partial(make_at_last, str(tmp_path), 3), mics, tmp_path / "out", count=1)
    assert (result.done, result.failed) == (8, 0)
    assert sum("all are started again in 0 s" in text for text in caplog.messages) == 3


def test_a_signal_ends_the_wait_for_processes(
    mics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "_MOST_DEATHS", 0)
    monkeypatch.setattr(devices, "PAUSES", (FOREVER,))
    caplog.set_level(logging.WARNING)
    stop = Stop(lambda: any("all are started again" in text for text in caplog.messages))
    with ProcessEngine(make_dead, ["cpu"]) as engine, pytest.raises(Stopped):
        engine.submit(PickTask(expand_inputs([mics])[0], "m0"))
        while True:
            engine.wait(stop, 0.1)


def test_a_device_that_drops_off_is_given_up_and_the_others_go_on(mics: Path, tmp_path: Path) -> None:
    for i in range(8, 24):
        write_micrograph(mics / f"m{i}.mrc", seed=i)
    said: list[str] = []
    with ProcessEngine(functools.partial(make_once, str(tmp_path)), ["cuda:0", "cpu"]) as engine:
        result = batch.run(engine, expand_inputs([mics]), tmp_path / "out", progress=False, say=said.append)
    assert (result.done, result.failed) == (24, 0)
    assert sum("cuda:0 died again (cuda:0 is not there.) and is given up" in text for text in said) == 1


def test_what_processes_log_is_heard_once(mics: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    with ProcessEngine(make_talking, ["cpu", "cpu"]) as engine:
        looked: list[tuple[int, int]] = []
        engine.estimate(expand_inputs([mics]), None, Stop(), lambda number, of: looked.append((number, of)))
        assert looked == [(number, 8) for number in range(1, 9)]
        batch.run(engine, expand_inputs([mics]), tmp_path / "out", progress=False, say=said.append)
        with shown("cryosegnet"):
            configure(argparse.Namespace(log_file=tmp_path / "log"))
            batch.run(engine, expand_inputs([mics]), tmp_path / "out2", progress=False)
    names = [f"{mics}/m{i}.mrc" for i in range(8)]
    warned, told = {f"{n} thread {i}" for n in names for i in range(8)}, {f"{n} is picked" for n in names}
    heard = [text for text in said if str(mics) in text]
    assert set(heard) == {f"warning: {text}" for text in warned} | told and len(heard) == 72
    lines = [line for line in capfd.readouterr().err.splitlines() if str(mics) in line]
    assert set(lines) == {f"cryosegnet: warning: {t}" for t in warned} | {f"cryosegnet: {t}" for t in told}
    assert len(lines) == 72
    kept = [line for line in (tmp_path / "log").read_text().splitlines() if str(mics) in line]
    # of the processes, and of the run: how many picks each micrograph has
    assert len(kept) == 88 and sum("DEBUG" in line for line in kept) == 16


def test_work_goes_to_the_process_with_least_at_hand(mics: Path) -> None:
    engine = ProcessEngine(make_stub, ["cpu"] * 3)
    sent: dict[int, int] = {}

    class Pipe:
        def send(self, message: object) -> None:
            sent[id(self)] = sent.get(id(self), 0) + 1

    for worker in engine._workers:
        worker.pipe, worker.ready = Pipe(), True
    for i, one in enumerate(expand_inputs([mics])[:4]):
        engine.submit(PickTask(one, f"m{i}"))
    assert sorted(sent.values()) == [1, 1, 2]


def test_lists_of_devices() -> None:
    assert split_devices("cuda:0, 1,2") == ["cuda:0", "cuda:1", "cuda:2"]
    assert split_devices("cuda:3,cuda:5") == ["cuda:3", "cuda:5"]
    assert split_devices("cpu,cpu") == ["cpu", "cpu"]
    for wrong in ("", "gpu", "0,1", "cpu,1", "cuda:0,", "cuda:0;1"):
        with pytest.raises(UsageError, match="device="):
            split_devices(wrong)
    assert np.all([split_devices(name) == [name] for name in ("auto", "cpu", "cuda", "cuda:7")])
