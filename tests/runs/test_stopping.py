"""Signals: which are heard, what the first and the second do, and what is left as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cryosegnet_ext.runs.stopping import SIGNALS, Stop, Stopped, listening, stops_at_once
from tests.stub_picker import write_micrograph
from tests.waiting import FOREVER, LIMIT, start, wait_until

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = f"""
import signal, time
from cryosegnet_ext.runs.stopping import Stop, Stopped
with Stop() as stop:
    print("ready", flush=True)
    try:
        while not stop.requested:
            time.sleep(0.01)
        print("requested", flush=True)
        time.sleep({FOREVER})
    except Stopped:
        print("raised", flush=True)
"""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Every test leaves the handlers as it found them."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.fixture
def no_hanging_up() -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_waits_for_a_check(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    with Stop() as stop:
        stop.check()
        os.kill(os.getpid(), number)
        assert stop.requested and stop.signal == number.name
        with pytest.raises(Stopped, match=number.name):
            stop.pause(FOREVER)
        with pytest.raises(Stopped), stop.interrupts():
            pytest.fail("the block began though the run is to stop")
    assert f"{number.name}: stopping; once more to end at once" in capfd.readouterr().err


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_cuts_a_block_without_side_effects_short(number: signal.Signals) -> None:
    with Stop() as stop:
        with pytest.raises(Stopped, match=number.name), stop.interrupts(), stop.interrupts():
            os.kill(os.getpid(), number)
            time.sleep(FOREVER)
        assert not stop.at_once


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGTERM), (signal.SIGHUP, signal.SIGHUP)])
def test_second_signal_ends_the_process(numbers: tuple[signal.Signals, signal.Signals]) -> None:
    command = [sys.executable, "-c", PROGRAM]
    process = start(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for number, line in zip(numbers, ("ready\n", "requested\n")):
        assert process.stdout.readline() == line
        process.send_signal(number)
    out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, out) == (4, "")
    assert "ended at once; the same command goes on from here" in err


def test_a_signal_after_a_wish_is_the_first_one() -> None:
    with Stop(lambda: True) as stop:
        with pytest.raises(Stopped):
            stop.check()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == "SIGTERM"


def test_ignored_signals_stay_ignored(no_hanging_up: None) -> None:
    with Stop() as stop, stop.interrupts(), stops_at_once(), listening(lambda *_: pytest.fail("heard")):
        os.kill(os.getpid(), signal.SIGHUP)
    assert not stop.requested


def test_every_signal_stops_at_once() -> None:
    for number in (*SIGNALS, *SIGNALS):
        with pytest.raises(KeyboardInterrupt, match=number.name), stops_at_once():
            os.kill(os.getpid(), number)
            time.sleep(FOREVER)


def test_handlers_are_restored_whatever_ends_the_block() -> None:
    with pytest.raises(ZeroDivisionError), stops_at_once(), Stop() as stop, stop.interrupts():
        _ = 1 / 0


def test_elsewhere_than_in_the_main_thread_only_the_wish_stops() -> None:
    found: list[object] = []

    def work() -> None:
        with stops_at_once(), Stop(lambda: bool(found)) as stop:
            stop.check()
            found.append(signal.getsignal(signal.SIGTERM))
            try:
                stop.check()
            except Stopped as error:
                found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0] is signal.getsignal(signal.SIGTERM) and isinstance(found[1], Stopped)


@pytest.mark.parametrize("command", [("cryosegnet_ext.cli", "doctor"), ("cryosparc_job.cli", "pick")])
def test_a_program_that_is_told_to_stop_while_it_loads(command: tuple[str, str], tmp_path: Path) -> None:
    """Before any run has begun: exit code 4 and a sentence, as from a run."""
    module, name = command
    code = f"""
import os, signal, sys, time
from cryosegnet_ext.cli import parsing
def load(args):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep({FOREVER})
command = parsing.Command("stop", lambda parser: None, load)
import {module} as program
program._load = lambda name: command
sys.exit(program.main([{name!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 4 and "stopped" in done.stderr and "Traceback" not in done.stderr


def test_run_under_nohup_goes_on(tmp_path: Path) -> None:
    for i in range(3):
        write_micrograph(tmp_path / f"m{i}.mrc", i)
    out = tmp_path / "out"
    command = [
        "nohup",
        sys.executable,
        str(ROOT / "tests/stub_picker.py"),
        "pick",
        str(tmp_path / "*.mrc"),
        "-o",
        str(out),
    ]
    environment = {**os.environ, "STUB_SECONDS": "1", "PYTHONPATH": str(ROOT)}
    process = start(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until((out / "picks").exists, "the first pick", process)
    process.send_signal(signal.SIGHUP)
    _, stderr = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, stderr
    assert len(list((out / "picks").iterdir())) == 3
