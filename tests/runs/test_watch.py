from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cryosegnet_ext.cli import main
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.picks import read_picks
from cryosegnet_ext.runs import batch, result, watch
from cryosegnet_ext.runs.journal import Record
from cryosegnet_ext.runs.monitor import Monitor
from cryosegnet_ext.runs.watch import Watch
from tests.stub_picker import StubPicker, write_micrograph
from tests.waiting import LIMIT, start, wait_until

QUICK = {"interval": 0.02, "settle": 0.15}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_WAIT_SECONDS", 0.02)
    monkeypatch.setattr(watch, "_LOOK_SHARE", 1.0)


class Running:
    """A watch that runs in a thread, as a user would have it in another terminal."""

    def __init__(self, arguments: list[str | Path], out: Path, picker: StubPicker | None = None, **options: object):
        self.out = out
        self.picker = picker or StubPicker()
        self.said: list[str] = []
        self.records: list[str] = []
        self.result: batch.BatchResult | None = None
        self.watch = Watch(arguments, stop_file=out / "STOP", **{**QUICK, **options})  # type: ignore[arg-type]
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        def note(record: Record, finished: int, total: int) -> None:
            self.records.append(Path(record.name).name + ("" if record.done else " failed"))

        self.result = batch.run(self.picker, self.watch, self.out, progress=False, watch=note, say=self.said.append)

    def until(self, what: Callable[[], object]) -> None:
        wait_until(lambda: what() or not self.thread.is_alive())
        assert what()

    def stop(self) -> batch.BatchResult:
        (self.out / "STOP").touch()
        self.thread.join(LIMIT)
        assert self.result is not None
        return self.result


def test_a_folder_that_grows(tmp_path: Path) -> None:
    mics, out = tmp_path / "mics", tmp_path / "out"
    run = Running([mics], out)
    run.until(lambda: run.said)
    assert run.said[0] == f"waiting for {mics}, which does not exist yet"
    for i in range(8):
        write_micrograph(mics / f"m{i}.mrc", seed=i)
    run.until(lambda: len(run.records) == 8)
    # The size comes from the first eight, is said, and is kept for those that come later.
    assert len(run.picker.estimated) == 1 and len(run.picker.estimated[0]) == 8
    assert any("estimating the particle size from 8 micrographs" in text for text in run.said)
    assert any("the particles are about 20 A large" in text for text in run.said)
    write_micrograph(mics / "later/m0.mrc", seed=9)
    write_micrograph(mics / "m10.mrc", seed=10)
    run.until(lambda: len(run.records) == 10)
    assert len({diameter for _, diameter in run.picker.picked}) == 1
    result = run.stop()
    assert (result.done, result.failed, result.stopped, result.exit_code) == (10, 0, False, 0)
    assert not (out / "STOP").exists() and "finishing the micrographs in progress" in run.said[-1]
    assert (out / "picks/later/m0.star").exists() and (out / "picks/m10.star").exists()
    assert json.loads((out / "summary.json").read_text())["totals"]["micrographs"] == 10

    # A second run finds all that done, and only what is new is picked; without a watch too.
    write_micrograph(mics / "m11.mrc", seed=11)
    again = Running([mics], out)
    again.until(lambda: again.records)
    result = again.stop()
    assert again.records == ["m11.mrc"] and (result.done, result.skipped) == (1, 10)
    assert not again.picker.estimated
    assert batch.run(StubPicker(), expand_inputs([mics]), out, progress=False).skipped == 11


def test_power_spectra_and_previews_are_left_out_once_said(tmp_path: Path) -> None:
    mics, out = tmp_path / "mics", tmp_path / "out"
    for i in range(8):  # of fewer, more would be waited for to estimate the size
        write_micrograph(mics / f"m{i}.mrc", seed=i)
        write_micrograph(mics / f"m{i}_PS.mrc", seed=i)
        (mics / f"m{i}.jpg").write_bytes(b"preview")
    run = Running([mics], out)
    run.until(lambda: len(run.records) == 8)
    assert run.stop().failed == 0 and sorted(run.records) == [f"m{i}.mrc" for i in range(8)]
    assert [text for text in run.said if "left out" in text] == [
        f"{mics}: left out: other files of a micrograph that is taken: 8 (m0.jpg, ...)",
        f"{mics}: left out: power spectra: 8 (m0_PS.mrc, ...)",
    ]


def test_only_complete_files_are_taken(tmp_path: Path) -> None:
    mics, out = tmp_path / "mics", tmp_path / "out"
    whole = write_micrograph(tmp_path / "whole.mrc", seed=1).read_bytes()
    mics.mkdir()
    picker = StubPicker()
    picker.needs_diameter = False
    run = Running([f"{mics}/*.mrc"], out, picker, settle=0.3)
    with open(mics / "slow.mrc", "wb") as file:
        for start in range(0, len(whole), len(whole) // 6):
            file.write(whole[start : start + len(whole) // 6])
            file.flush()
            time.sleep(0.15)
            assert not run.records
    # A pause in the middle that is longer than the settling time: the header tells that more will come.
    (mics / "paused.mrc").write_bytes(whole[:9000])
    (mics / "empty.mrc").touch()
    run.until(lambda: run.records == ["slow.mrc"])
    time.sleep(0.6)
    assert run.records == ["slow.mrc"]
    with open(mics / "paused.mrc", "ab") as file:
        file.write(whole[9000:])
    run.until(lambda: run.records == ["slow.mrc", "paused.mrc"])
    assert run.stop().failed == 0


def test_a_failed_file_is_taken_again_when_it_changes(tmp_path: Path) -> None:
    mics, out = tmp_path / "mics", tmp_path / "out"
    bad = mics / "bad.mrc"
    mics.mkdir()
    bad.write_bytes(b"no image" * 300)
    picker = StubPicker()
    picker.needs_diameter = False
    run = Running([mics], out, picker)
    run.until(lambda: run.records == ["bad.mrc failed"])
    time.sleep(0.3)
    assert run.records == ["bad.mrc failed"]
    write_micrograph(bad)
    run.until(lambda: len(run.records) == 2)
    result = run.stop()
    assert run.records[1] == "bad.mrc" and (result.done, result.failed) == (1, 0)


@pytest.mark.parametrize("growing", [False, True])
def test_failures_are_warnings_with_their_reasons_up_to_a_number(
    tmp_path: Path, growing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "MOST_TOLD", 2)
    monkeypatch.setattr(result, "_WARN_SHARE", 1.0 if growing else 0.1)
    write_micrograph(tmp_path / "mics/good.mrc")
    for i in range(4):
        (tmp_path / f"mics/bad{i}.mrc").write_bytes(b"no image" * 300)
    out = tmp_path / "out"
    if growing:
        picker = StubPicker()
        picker.needs_diameter = False
        run = Running([tmp_path / "mics"], out, picker)
        run.until(lambda: len(run.records) == 5)
        run.stop()
        said = run.said
    else:
        said = []
        batch.run(StubPicker(), expand_inputs([tmp_path / "mics"]), out, progress=False, say=said.append)
    warnings = [text for text in said if text.startswith("warning: ")]
    for i in range(2):
        assert warnings[i].count(f"bad{i}.mrc") == 1 and "is not an MRC" in warnings[i], warnings
    assert warnings[2] == f"warning: further micrographs that fail are not named here: {out}/failed.csv has all"
    count = f"4 micrographs failed; {out}/failed.csv" if growing else "4 of 5 micrographs failed; failed.csv"
    assert warnings[3:] == [f"warning: {count} says why"]
    assert not any("bad2" in text or "bad3" in text for text in said)


def test_a_failed_micrograph_is_said_on_stderr_and_in_the_log_file(tmp_path: Path) -> None:
    (tmp_path / "mics").mkdir()
    (tmp_path / "mics/bad.mrc").write_bytes(b"no image" * 300)
    write_micrograph(tmp_path / "mics/good.mrc")
    for path in (tmp_path / "mics").iterdir():
        os.utime(path, (1e9, 1e9))  # old, so taken at the first look
    for words in ("", "--watch --idle-stop 0.02 --settle 0.1"):
        run = start_pick(f"mics -o {len(words)} --log-file {len(words)}.log {words}", tmp_path)
        _, said = run.communicate(timeout=LIMIT)
        (line,) = [line for line in said.splitlines() if "bad.mrc" in line]
        assert run.returncode == 2 and line.startswith("cryosegnet: warning: ") and line.count("bad.mrc") == 1, said
        (kept,) = [
            line
            for line in (tmp_path / f"{len(words)}.log").read_text().splitlines()
            if "WARNING" in line and "bad" in line
        ]
        assert line.removeprefix("cryosegnet: warning: ") in kept


def test_a_file_that_stays_cut_off_fails_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_OLD", 2)
    mics = tmp_path / "mics"
    whole = write_micrograph(mics / "m.mrc")
    whole.write_bytes(whole.read_bytes()[:9000])
    picker = StubPicker()
    picker.needs_diameter = False
    run = Running([mics], tmp_path / "out", picker)
    run.until(lambda: run.records == ["m.mrc failed"])
    assert "truncated" in run.stop().failures[0][1]


def test_micrographs_that_are_moved_once_they_are_picked(tmp_path: Path) -> None:
    mics, out = tmp_path / "mics", tmp_path / "out"
    for i in range(8):
        write_micrograph(mics / f"incoming/m{i}.mrc", seed=i)
    run = Running([mics], out)
    run.until(lambda: len(run.records) == 8)
    (mics / "incoming").rename(mics / "picked")
    run.until(lambda: run.watch.skipped == 8)
    write_micrograph(mics / "incoming/m8.mrc", seed=8)
    run.until(lambda: len(run.records) == 9)
    result = run.stop()
    assert (result.done + result.skipped, result.failed) == (9, 0)
    assert sorted(p.name for p in (out / "picks").iterdir()) == [f"m{i}.star" for i in range(9)]


def test_a_star_file_and_a_list_that_grow(tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = [str(write_micrograph(tmp_path / f"mics/m{i}.mrc", seed=i, pixel_size=0)) for i in range(4)]
    star, listed = tmp_path / "mics.star", tmp_path / "list.txt"

    def write(count: int) -> None:
        optics = "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnMicrographPixelSize #2\n1 1.5\n\n"
        rows = "".join(f"{name} 1\n" for name in names[:count])
        star.write_text(f"{optics}data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n{rows}\n")

    picker = StubPicker()
    picker.needs_diameter = False
    star.write_text("data_opt")
    run = Running([star, f"@{listed}"], out, picker)
    run.until(lambda: any("waiting for it to change" in text for text in run.said))
    write(1)
    run.until(lambda: len(run.records) == 1)
    write(3)
    run.until(lambda: len(run.records) == 3)
    listed.write_text(f"{names[2]}\n{names[3]}\n")
    run.until(lambda: len(run.records) == 4)
    result = run.stop()
    assert result.done == 4 and result.in_angstrom
    entries = json.loads((out / "summary.json").read_text())["micrographs"]
    assert [entry["pixel_size"] for entry in entries] == [1.5, 1.5, 1.5, None]


def test_ends(tmp_path: Path) -> None:
    out = tmp_path / "out"
    idle = Running([write_micrograph(tmp_path / "m.mrc")], out, idle=3.0)
    idle.thread.join(LIMIT)
    # One micrograph is enough for the estimate where no more come.
    assert idle.result is not None and (idle.result.done, idle.result.exit_code) == (1, 0)
    assert any(text.startswith("nothing new for 0.05") for text in idle.said)
    (out / "STOP").touch()
    with pytest.raises(CryoSegNetError, match="STOP exists, which ends a run; remove it"):
        Watch([tmp_path], stop_file=out / "STOP")
    with pytest.raises(CryoSegNetError, match="no input"):
        Watch([])


def test_the_size_is_sought_again_in_newer_micrographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unsure(StubPicker):
        def estimate_diameter(self, micrographs: object) -> float | None:
            super().estimate_diameter(micrographs)  # type: ignore[arg-type]
            return 33.0 if len(self.estimated) == 2 else None

    mics = tmp_path / "mics"
    for i in range(8):
        write_micrograph(mics / f"m{i}.mrc", seed=i)
    picker = Unsure()
    run = Running([mics], tmp_path / "out", picker)
    run.until(lambda: len(picker.estimated) == 1)
    assert not run.records
    for i in range(8, 16):
        write_micrograph(mics / f"m{i}.mrc", seed=i)
    run.until(lambda: len(run.records) == 16)
    assert not set(picker.estimated[0]) & set(picker.estimated[1])
    assert {diameter for _, diameter in picker.picked} == {33.0}
    run.stop()


def test_monitor(tmp_path: Path) -> None:
    for i in range(3):
        write_micrograph(tmp_path / f"mics/m{i}.mrc", seed=i)
    (tmp_path / "mics/bad.mrc").write_bytes(b"no image" * 300)
    out, beat, prom = tmp_path / 'out "1"', tmp_path / "beat.json", tmp_path / "c.prom"
    seen: list[dict] = []

    class Looking(StubPicker):
        def pick(self, micrograph: object, diameter: float | None = None) -> object:  # type: ignore[override]
            wait_until(lambda: json.loads(beat.read_text())["current"] is not None)
            seen.append(json.loads(beat.read_text()))
            return super().pick(micrograph, diameter)  # type: ignore[arg-type]

    monitor = Monitor(beat, prom, seconds=0.02)
    batch.run(Looking(), expand_inputs([tmp_path / "mics"]), out, progress=False, monitor=monitor)
    assert seen[0]["state"] == "picking" and seen[0]["current"]["name"].endswith(".mrc")
    last = json.loads(beat.read_text())
    assert last["state"] == "ended" and last["process"] == os.getpid() and last["current"] is None
    assert last["micrographs"] == {
        "done": 3, "failed": 1, "skipped": 0, "without_picks": 0, "waiting": 0, "in_flight": 0
    }  # fmt: skip
    scores = np.concatenate([read_picks(out / f"picks/m{i}.star").score for i in range(3)])
    assert last["expected_false"] == pytest.approx(1 - scores.mean(), abs=2e-4)
    assert seen[0]["expected_false"] is None
    assert last["picks"] == 72 and last["dataset_diameter"] == pytest.approx(20, abs=0.5)
    metrics = {family.name: family for family in text_string_to_metric_families(prom.read_text())}
    (info,) = metrics["cryosegnet_info"].samples
    assert info.labels["output"] == str(out)
    values = {name: family.samples[0].value for name, family in metrics.items()}
    assert values["cryosegnet_micrographs_picked"] == 3 and values["cryosegnet_micrographs_failed"] == 1
    assert values["cryosegnet_expected_false_ratio"] == last["expected_false"]
    assert values["cryosegnet_picks"] == 72 and values["cryosegnet_up"] == 0
    assert values["cryosegnet_resident_memory_bytes"] > 1e7
    assert abs(values["cryosegnet_heartbeat_time_seconds"] - time.time()) < LIMIT
    assert metrics["cryosegnet_micrographs_picked"].type == "counter"
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("given", [None, 20.0])
def test_the_heartbeat_tells_an_estimate_from_a_check_of_a_given_size(tmp_path: Path, given: float | None) -> None:
    write_micrograph(tmp_path / "mics/m.mrc")
    beat = tmp_path / "beat.json"
    seen: list[str] = []

    class Looking(StubPicker):
        needs_diameter = given is None

        def estimate_diameter(self, micrographs: object) -> float | None:
            wait_until(lambda: json.loads(beat.read_text())["state"] != "starting")
            seen.append(json.loads(beat.read_text())["state"])
            return super().estimate_diameter(micrographs)  # type: ignore[arg-type]

    picker = Looking()
    picker.settings |= {"recipe": "default", "diameter": given}
    inputs = expand_inputs([tmp_path / "mics"])
    batch.run(picker, inputs, tmp_path / "out", progress=False, monitor=Monitor(beat, seconds=0.02))
    assert set(seen) == {"estimating" if given is None else "checking"}
    # What the micrographs show, in both cases.
    assert json.loads((tmp_path / "out/summary.json").read_text())["dataset_diameter"] != given


def test_monitor_files_that_cannot_be_written(tmp_path: Path) -> None:
    write_micrograph(tmp_path / "mics/m.mrc")
    for options in ({"heartbeat": tmp_path / "no/beat.json"}, {"metrics": tmp_path / "no/c.prom"}):
        with pytest.raises(CryoSegNetError, match=r"cannot write .*create its folder first"):
            batch.run(
                StubPicker(),
                expand_inputs([tmp_path / "mics"]),
                tmp_path / "out",
                progress=False,
                monitor=Monitor(**options),
            )


def start_pick(words: str, tmp_path: Path) -> subprocess.Popen[str]:
    stub = Path(__file__).parents[1] / "stub_picker.py"
    environment = {**os.environ, "PYTHONPATH": str(stub.parent.parent)}
    command = [sys.executable, str(stub), "pick", *words.split()]
    return start(command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_command_with_two_processes_and_a_stop_file(tmp_path: Path) -> None:
    for i in range(8):
        write_micrograph(tmp_path / f"mics/m{i}.mrc", seed=i)
    words = "mics -o out --watch --settle 0.2 --diameter 20 --device cpu,cpu --metrics run.prom"
    process = start_pick(words, tmp_path)
    wait_until((tmp_path / "out/picks/m7.star").exists, "the last micrograph", process)
    (tmp_path / "out/STOP").touch()
    stdout, stderr = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, stderr
    assert "192 picks on 8 micrographs" in stdout and "Traceback" not in stderr
    assert json.loads((tmp_path / "out/heartbeat.json").read_text())["workers"] == 2
    assert "cryosegnet_up 0.0" in (tmp_path / "run.prom").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--idle-stop 3", "--idle-stop needs --watch"),
        ("--watch --idle-stop 0", "must be a number above zero (got 0)"),
        ("--stop-file .", ". exists, which ends a run; remove it"),
        ("--metrics run.txt", "must end with .prom"),
        ("--metrics no/x.prom", "error: create the folder no first: --metrics no/x.prom"),
        ("--heartbeat no/x.json", "error: create the folder no first: --heartbeat no/x.json"),
        ("--watch --heartbeat o/no/x.json", "create the folder o/no first"),
        ("--heartbeat .", "--heartbeat . is a folder; name a file"),
        ("--device cuda:0,tpu", "(got cuda:0,tpu)"),
        ("--cluster none.yaml", "none.yaml: no such file"),
        ("--scheduler tcp://a:1 --device cpu,cpu", "each worker of a cluster has one device"),
        ("--cluster c.yaml --scheduler tcp://a:1", "leave out --scheduler"),
    ],
)
def test_options_that_do_not_go_together(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pick", "m", "-o", "o", *words.split()]) == 1
    assert message in capsys.readouterr().err


def test_monitors_in_the_output_folder_that_the_run_makes(tmp_path: Path) -> None:
    write_micrograph(tmp_path / "mics/m.mrc")
    words = "mics/m.mrc -o a/out --heartbeat a/x.json --metrics a/out/x.prom --quiet"
    _, said = (process := start_pick(words, tmp_path)).communicate(timeout=LIMIT)
    assert process.returncode == 0, said
    assert (tmp_path / "a/x.json").exists() and (tmp_path / "a/out/x.prom").exists()


def test_a_mistyped_folder_is_named_when_an_idle_run_ends(tmp_path: Path) -> None:
    _, said = (process := start_pick("mcis -o out --watch --idle-stop 0.01", tmp_path)).communicate(timeout=LIMIT)
    assert process.returncode == 3
    assert said.splitlines()[-1] == "cryosegnet: warning: mcis never appeared; check the name", said
