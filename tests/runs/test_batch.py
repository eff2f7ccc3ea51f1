from __future__ import annotations

import argparse
import csv
import errno
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import pytest

from cryosegnet_ext.cli.logs import configure, shown
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.files.picks import Picks, read_picks
from cryosegnet_ext.runs import batch, pick_task, progress
from cryosegnet_ext.runs.diameter import spread
from cryosegnet_ext.runs.journal import Journal, read_records
from tests.damage import damaged_files
from tests.stub_picker import StubPicker, write_micrograph
from tests.waiting import LIMIT, start, wait_until

FORMATS = ("star", "box", "cbox", "csv")
STUB = Path(__file__).parents[1] / "stub_picker.py"


@pytest.fixture
def mics(tmp_path: Path) -> Path:
    folder = tmp_path / "mics"
    for i in range(12):
        write_micrograph(folder / f"m{i}.mrc", seed=i)
    return folder


def pick(folder: Path, output: Path, picker: object = None, **options: object) -> batch.BatchResult:
    options.setdefault("progress", False)
    return batch.run(picker or StubPicker(), expand_inputs([folder]), output, **options)  # type: ignore[arg-type]


def outputs(output: Path) -> dict[str, bytes]:
    """The files that must not differ between a run and its repetition."""
    folders = [output / "picks", output / "overlays"]
    return {str(p.relative_to(output)): p.read_bytes() for f in folders for p in sorted(f.rglob("*")) if p.is_file()}


def journal_lines(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / ".cryosegnet/journal.jsonl").read_text().splitlines()]


def test_what_a_run_writes(mics: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    picker = StubPicker()
    result = pick(mics, out, picker, formats=FORMATS)
    assert (result.done, result.failed, result.skipped, result.stopped, result.exit_code) == (12, 0, 0, False, 0)
    assert result.picks == 12 * 24 and result.in_angstrom and result.diameter == pytest.approx(20, abs=0.2)
    assert sorted(outputs(out)) == sorted(
        [f"picks/m{i}.{f}" for i in range(12) for f in FORMATS] + [f"overlays/m{i}.jpg" for i in range(12)]
    )
    assert [name for name, _ in picker.picked] == [f"m{i}.mrc" for i in range(12)]
    assert len(read_picks(out / "picks/m3.star")) == 24
    summary = json.loads((out / "summary.json").read_text())
    assert summary["totals"] == {"micrographs": 12, "picks": 288, "failed": 0, "without_picks": 0}
    assert summary["dataset_diameter"] == pytest.approx(20, abs=0.2)
    assert summary["settings"] == {"threshold": None, "weights": {"sha256": "abc"}, "pixel_size": None}
    assert len(summary["micrographs"]) == 12
    assert summary["micrographs"][3]["stem"] == "m3" and summary["micrographs"][3]["picks"] == 24
    assert (out / "failed.csv").read_text() == "name,reason\n"
    assert [line["record"] for line in journal_lines(out)] == ["settings", "diameter"] + ["micrograph"] * 12


def test_one_estimate_from_eight_for_all(mics: Path, tmp_path: Path) -> None:
    picker = StubPicker()
    pick(mics, tmp_path / "out", picker)
    (estimated,) = picker.estimated
    assert len(set(estimated)) == 8
    assert len({diameter for _, diameter in picker.picked}) == 1
    again = StubPicker()
    pick(mics, tmp_path / "out2", again)
    assert again.estimated == [estimated]


def test_no_estimate_where_none_is_needed(mics: Path, tmp_path: Path) -> None:
    picker = StubPicker()
    picker.needs_diameter = False
    pick(mics, tmp_path / "out", picker)
    assert not picker.estimated and {diameter for _, diameter in picker.picked} == {None}


@pytest.mark.parametrize("outcome", [None, RuntimeError("no")])
def test_estimate_that_fails(
    mics: Path, tmp_path: Path, outcome: Exception | None, capsys: pytest.CaptureFixture[str]
) -> None:
    class Unsure(StubPicker):
        def estimate_diameter(self, micrographs: object) -> float | None:
            if outcome:
                raise outcome
            return None

    picker = Unsure()
    with shown("cryosegnet"):
        assert pick(mics, tmp_path / "out", picker, progress=True).exit_code == 0
    assert "--diameter A gives one" in capsys.readouterr().err
    assert {diameter for _, diameter in picker.picked} == {None}
    # What was picked without an estimate stays comparable with what comes later.
    write_micrograph(mics / "m99.mrc", 99)
    later = StubPicker()
    pick(mics, tmp_path / "out", later)
    assert later.picked == [("m99.mrc", None)] and not later.estimated


def test_nothing_is_done_twice(mics: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pick(mics, out)
    before = outputs(out), (out / ".cryosegnet/journal.jsonl").read_bytes()
    picker = StubPicker()
    result = pick(mics, out, picker)
    assert (result.done, result.skipped, result.picks, result.exit_code) == (0, 12, 288, 0)
    assert not picker.picked and not picker.estimated
    assert before == (outputs(out), (out / ".cryosegnet/journal.jsonl").read_bytes())


def test_growing_input(mics: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pick(mics, out)
    before = outputs(out)
    write_micrograph(mics / "later/m0.mrc", 77)
    write_micrograph(mics / "later/n0.mrc", 78)
    picker = StubPicker()
    result = pick(mics, out, picker)
    assert (result.done, result.skipped) == (2, 12) and not picker.estimated
    after = outputs(out)
    assert {name: after[name] for name in before} == before
    assert {Path(name).with_suffix("").as_posix() for name in set(after) - set(before)} == {
        "picks/later/m0",
        "picks/n0",
        "overlays/later/m0",
        "overlays/n0",
    }
    assert picker.picked[0][1] == journal_lines(out)[1]["diameter"]


def test_what_is_gone_or_changed_is_done_again(mics: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pick(mics, out)
    before = outputs(out)
    (out / "picks/m1.star").unlink()
    (out / "picks/m2.star").write_text("cut")
    (out / "overlays/m3.jpg").unlink()
    write_micrograph(mics / "m4.mrc", 4, shape=(80, 80))
    (mics / "m5.mrc").unlink()
    picker = StubPicker()
    inputs = [*expand_inputs([mics]), batch.Input(mics / "m5.mrc", "m5.mrc")]
    result = batch.run(picker, inputs, out, progress=False)
    assert [name for name, _ in picker.picked] == [f"m{i}.mrc" for i in (1, 2, 3, 4)]
    assert (result.done, result.skipped) == (4, 8)
    after = outputs(out)
    assert {n: b for n, b in after.items() if "m4" not in n} == {n: b for n, b in before.items() if "m4" not in n}
    assert after["picks/m4.star"] != before["picks/m4.star"]


def test_another_format_later(mics: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pick(mics, out, overlays=False)
    assert pick(mics, out, overlays=False, formats=("star", "cbox")).done == 12
    assert pick(mics, out, overlays=False).skipped == 12
    assert (out / "picks/m0.cbox").exists() and not (out / "overlays").exists()


def test_changed_settings_are_noticed(mics: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pick(mics, out)
    before = outputs(out)
    with pytest.raises(CryoSegNetError, match=r"threshold \(not set then, 0.5 now\); give --overwrite"):
        pick(mics, out, StubPicker(threshold=0.5))
    with pytest.raises(CryoSegNetError, match="pixel_size"):
        pick(mics, out, pixel_size=1.5)
    assert outputs(out) == before
    (mics / "m7.mrc").unlink()
    result = pick(mics, out, StubPicker(threshold=0.5), overwrite=True)
    assert (result.done, result.skipped) == (11, 0)
    assert not (out / "picks/m7.star").exists() and not (out / "overlays/m7.jpg").exists()
    assert pick(mics, out, StubPicker(threshold=0.5)).skipped == 11


def test_pixel_size_wins_over_input_wins_over_header(mics: Path, tmp_path: Path) -> None:
    one = batch.Input(mics / "m0.mrc", "m0", 3.0)
    for size, expected in ((None, 3.0), (1.5, 1.5)):
        batch.run(StubPicker(), [one], tmp_path / f"out{size}", pixel_size=size, progress=False)
        assert journal_lines(tmp_path / f"out{size}")[-1]["pixel_size"] == expected
    batch.run(StubPicker(), [batch.Input(one.path, "m0", 2.5)], tmp_path / "outNone", progress=False)
    assert journal_lines(tmp_path / "outNone")[-1]["pixel_size"] == 2.5


def test_bad_files_among_good_ones(mics: Path, tmp_path: Path) -> None:
    damaged_files(mics / "bad", mics / "m0.mrc", count=60)
    out = tmp_path / "out"
    result = pick(mics, out)
    assert (result.done, result.failed, result.exit_code) == (12, 60, 2)
    with open(out / "failed.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60 and all(row["reason"] and "\n" not in row["reason"] for row in rows)
    assert not (out / ".cryosegnet/errors.log").exists()
    assert len(outputs(out)) == 24
    # Failed ones are tried again; one that has been put right is picked, and leaves the list.
    right = next((mics / "bad").glob("*.mrc"))
    write_micrograph(right, 5)
    again = pick(mics, out)
    assert (again.done, again.skipped, again.failed) == (1, 12, 59)
    assert json.loads((out / "summary.json").read_text())["totals"]["failed"] == 59


class Failing(StubPicker):
    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        name = Path(micrograph.name).stem
        if name == "m3":
            raise MemoryError
        if name == "m4":
            raise ZeroDivisionError("a bug\nof two lines")
        if name == "m5":
            raise CryoSegNetError("too dark; give another one")
        return super().pick(micrograph, diameter)


def test_failures_of_picking_are_isolated(mics: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pick(mics, out)
    touch(mics / "m3.mrc")
    result = pick(mics, out, Failing())
    assert result.failed == 1 and not (out / "picks/m3.star").exists() and not (out / "overlays/m3.jpg").exists()

    out = tmp_path / "out2"
    result = pick(mics, out, Failing())
    reasons = {Path(name).stem: reason for name, reason in result.failures}
    assert reasons == {
        "m3": "unexpected error MemoryError:",
        "m4": "unexpected error ZeroDivisionError: a bug of two lines",
        "m5": "too dark; give another one",
    }
    log = (out / ".cryosegnet/errors.log").read_text()
    assert "Traceback" in log and "ZeroDivisionError" in log and "m4.mrc" in log and "too dark" not in log


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def test_all_failed(tmp_path: Path) -> None:
    (tmp_path / "mics").mkdir()
    (tmp_path / "mics/m.mrc").write_bytes(b"")
    assert pick(tmp_path / "mics", tmp_path / "out").exit_code == 3


def test_picks_are_worth_more_than_their_picture(mics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pick_task, "encode_overlay", lambda *_: 1 / 0)
    out = tmp_path / "out"
    assert pick(mics, out).exit_code == 0
    assert len(outputs(out)) == 12 and "ZeroDivisionError" in (out / ".cryosegnet/errors.log").read_text()
    assert pick(mics, out).skipped == 12


def test_no_picks_are_a_result_and_a_warning(mics: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Blind(StubPicker):
        def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
            return Picks.empty(micrograph.pixel_size, micrograph.data.shape)

    out = tmp_path / "out"
    with shown("cryosegnet"):
        result = pick(mics, out, Blind(), progress=True)
    assert (result.exit_code, result.picks, result.without_picks, result.diameter) == (0, 0, 12, None)
    assert "rlnCoordinateX" in (out / "picks/m0.star").read_text()
    error = capsys.readouterr().err
    assert "12 of 12 micrographs have no picks" in error and "12/12 micrographs (100 %)" in error


def test_torn_journal_line(mics: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pick(mics, out)
    before = outputs(out)
    journal = out / ".cryosegnet/journal.jsonl"
    whole = journal.read_bytes()
    for cut in (1, 30, len(whole.splitlines()[-1])):
        journal.write_bytes(whole[:-cut])
        assert pick(mics, out).done == 1
        assert outputs(out) == before
        assert len(journal_lines(out)) == 14
    journal.write_bytes(whole[:20])
    assert pick(mics, out).done == 12
    lines = whole.splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:5], b"\0" * 40 + b"\n", *lines[6:]]))
    assert pick(mics, out).done == 1
    assert outputs(out) == before


def test_write_error_stops_and_keeps(mics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    real = Picks.write

    def write(self: Picks, path: Path, box_size: int | None = None) -> None:
        if Path(path).stem == "m5":
            try:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            except OSError as error:
                raise CryoSegNetError(
                    f"cannot write {path} (No space left on device): free some disk space."
                ) from error
        real(self, path, box_size)

    monkeypatch.setattr(Picks, "write", write)
    with pytest.raises(CryoSegNetError, match=r"No space left.*5 of 12 micrographs are finished and kept"):
        pick(mics, out)
    assert json.loads((out / "summary.json").read_text())["totals"]["micrographs"] == 5
    monkeypatch.undo()
    result = pick(mics, out)
    assert (result.skipped, result.done) == (5, 7)
    undisturbed = tmp_path / "undisturbed"
    pick(mics, undisturbed)
    assert outputs(out) == outputs(undisturbed)


def test_summary_that_cannot_be_written(mics: Path, tmp_path: Path) -> None:
    (tmp_path / "out/summary.json").mkdir(parents=True)
    with pytest.raises(CryoSegNetError, match="12 of 12 micrographs are finished"):
        pick(mics, tmp_path / "out")


def test_output_that_cannot_be_used(mics: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CryoSegNetError, match=r"cannot write .*file .* there is a file where its folder should be"):
        pick(mics, tmp_path / "file")
    (tmp_path / "out/picks").mkdir(parents=True)
    (tmp_path / "out/picks/m0.star").write_text("by hand")
    with pytest.raises(CryoSegNetError, match="no journal"):
        pick(mics, tmp_path / "out")
    assert (tmp_path / "out/picks/m0.star").read_text() == "by hand"
    with pytest.raises(CryoSegNetError, match="no micrographs"):
        batch.run(StubPicker(), [], tmp_path / "out3")
    with pytest.raises(CryoSegNetError, match="unknown pick format txt"):
        pick(mics, tmp_path / "out3", formats=("txt",))


def test_overwrite_touches_only_its_own(mics: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pick(mics, out)
    (out / "picks/mine.star").write_text("by hand")
    line = {"record": "micrograph", "key": "/x", "name": "x", "stem": "x", "status": "done"}
    with open(out / ".cryosegnet/journal.jsonl", "a") as file:
        file.write(json.dumps({**line, "files": {"../mics/m0.mrc": 1, "picks/../../mics/m0.mrc": 1}}) + "\n")
    pick(mics, out, overwrite=True)
    assert (out / "picks/mine.star").exists() and (mics / "m0.mrc").exists()


def test_one_process_at_a_time(mics: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        Journal(out, {}),
        pytest.raises(CryoSegNetError, match=f"process {os.getpid()} on .* works in this folder"),
    ):
        pick(mics, out)
    assert not outputs(out)


def test_same_stems_keep_their_folders(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_micrograph(tmp_path / "mics" / folder / "m.mrc", ord(folder))
    pick(tmp_path / "mics", tmp_path / "out")
    assert sorted(outputs(tmp_path / "out")) == [
        "overlays/a/m.jpg",
        "overlays/b/m.jpg",
        "picks/a/m.star",
        "picks/b/m.star",
    ]


def test_names_of_any_bytes(tmp_path: Path) -> None:
    write_micrograph(tmp_path / "mics/plain.mrc")
    odd = os.fsdecode(b"m \xff,'\n\xc3\xa9.mrc")
    os.rename(tmp_path / "mics/plain.mrc", tmp_path / "mics" / odd)
    write_micrograph(tmp_path / "mics" / ("x" * 251 + ".mrc"))
    assert pick(tmp_path / "mics", tmp_path / "out").done == 1
    result = pick(tmp_path / "mics", tmp_path / "out")
    assert result.skipped == 1 and "too long" in result.failures[0][1]


def test_stop_by_the_caller_and_go_on(mics: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    picker = StubPicker()
    result = pick(mics, out, picker, stop=lambda: len(picker.picked) >= 4)
    assert result.stopped and result.exit_code == 4 and result.done == 4
    assert json.loads((out / "summary.json").read_text())["stopped"] is True
    assert pick(mics, out).done == 8
    pick(mics, tmp_path / "undisturbed")
    assert outputs(out) == outputs(tmp_path / "undisturbed")


def test_outside_the_main_thread(mics: Path, tmp_path: Path) -> None:
    results: list[batch.BatchResult] = []
    thread = threading.Thread(target=lambda: results.append(pick(mics, tmp_path / "out")))
    thread.start()
    thread.join()
    assert results[0].done == 12


def test_signal_handlers_are_given_back(mics: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    pick(mics, tmp_path / "out")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def start_pick(mics: Path, out: Path, hold: str = "") -> subprocess.Popen[str]:
    """Start picking in a process of its own, which never ends the micrograph called ``hold``."""
    command = [sys.executable, str(STUB), "pick", str(mics), "-o", str(out), "--format", "star,cbox"]
    environment = {**os.environ, "STUB_SECONDS": "0.1", "STUB_HOLD": hold, "PYTHONPATH": str(STUB.parent.parent)}
    return start(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def wait_for_lines(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    journal = out / ".cryosegnet/journal.jsonl"
    wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= count, f"line {count}", process)


def test_killed_and_continued(mics: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = 0
    for lines in (1, 3, 8):
        process = start_pick(mics, out, hold="m11.mrc")
        wait_for_lines(out, lines, process)
        process.kill()
        process.communicate()
        now = sum(line["record"] == "micrograph" for line in journal_lines(out))
        assert now >= done
        done = now
    assert 0 < done < 12
    for name in ("picks/.tmp-123-abc.star", ".tmp-123-abc.json", ".tmp-123-abc.html", ".cryosegnet/.tmp-123-abc.json"):
        (out / name).write_text("cut by the kill")
    process = start_pick(mics, out)
    stdout, stderr = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, stderr
    assert not list(out.rglob(".tmp-*"))
    assert f"({done} of them by an earlier run)" in stdout
    pick(mics, tmp_path / "undisturbed", formats=("star", "cbox"))
    assert outputs(out) == outputs(tmp_path / "undisturbed")
    keys = [line["key"] for line in journal_lines(out) if line["record"] == "micrograph"]
    assert len(keys) == len(set(keys)) == 12


def test_micrographs_that_were_moved_keep_their_picks(mics: Path, tmp_path: Path) -> None:
    """Another mount point or a tidied disk: they once were picked again, into m0.mrc.star beside m0.star."""
    out = tmp_path / "out"
    (mics / "m5.mrc").write_bytes(b"bad")
    pick(mics, out)
    before = outputs(out)
    moved = mics.rename(tmp_path / "archive")
    write_micrograph(moved / "m7.mrc", seed=70)  # another one by now, and so it is picked
    for new in (1, 0):
        again = pick(moved, out)
        assert (again.done, again.skipped, again.failed) == (new, 11 - new, 1)
    assert sorted(outputs(out)) == sorted({*before, "picks/m7.mrc.star", "overlays/m7.mrc.jpg"})
    summary = json.loads((out / "summary.json").read_text())
    assert summary["totals"]["micrographs"] == 12  # the first m7 and its picks are kept
    assert {one["name"] for one in summary["micrographs"]} == {
        *(str(moved / f"m{i}.mrc") for i in range(12)),
        str(mics / "m7.mrc"),
    }
    assert len(read_records(out)) == 13


def test_copies_of_a_micrograph_are_micrographs(mics: Path, tmp_path: Path) -> None:
    pick(mics, tmp_path / "out")
    (tmp_path / "copies").mkdir()
    for i in range(3):
        shutil.copy2(mics / f"m{i}.mrc", tmp_path / "copies")
    (mics / "m2.mrc").unlink()
    assert (pick(tmp_path / "copies", tmp_path / "out").done) == 2
    assert sorted(p.name for p in (tmp_path / "out/picks").glob("*.mrc.star")) == ["m0.mrc.star", "m1.mrc.star"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_promptly_and_cleanly(mics: Path, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out"
    process = start_pick(mics, out, hold="m3.mrc")
    wait_for_lines(out, 5, process)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=LIMIT)
    assert process.returncode == 4
    assert "the same command goes on from here" in stdout and number.name in stderr and "Traceback" not in stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["stopped"] and 1 <= summary["totals"]["micrographs"] < 12
    assert pick(mics, out, formats=("star", "cbox")).skipped == summary["totals"]["micrographs"]
    pick(mics, tmp_path / "undisturbed", formats=("star", "cbox"))
    assert outputs(out) == outputs(tmp_path / "undisturbed")


def test_cost_of_a_micrograph_does_not_grow(mics: Path, tmp_path: Path) -> None:
    """The journal only grows, by a line a micrograph."""
    out = tmp_path / "out"
    sizes = []

    class Watching(StubPicker):
        def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
            sizes.append((out / ".cryosegnet/journal.jsonl").stat().st_size)
            return super().pick(micrograph, diameter)

    pick(mics, out, Watching())
    inode = (out / ".cryosegnet/journal.jsonl").stat().st_ino
    steps = [b - a for a, b in pairwise(sizes)]
    assert min(steps) > 0 and max(steps) < 1000
    write_micrograph(mics / "new.mrc", 1)
    pick(mics, out)
    assert (out / ".cryosegnet/journal.jsonl").stat().st_ino == inode


def test_sample_for_the_estimate_is_spread() -> None:
    assert spread(1) == [0]
    for count in (2, 7, 8, 9, 100, 1000):
        order = spread(count)
        assert sorted(order) == list(range(count))
    first = sorted(spread(1000)[:8])
    assert max(b - a for a, b in pairwise(first)) == 125


def test_progress_on_a_terminal_and_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(progress, "_SHORTEST_SECONDS", 0.0)
        counts = progress.Progress(200, finished=100)
        for i in range(100):
            counts.add(3, failed=i == 50)
        counts.close()
        text = stream.getvalue()
        if stream.isatty():
            assert "/200" in text and "picking" in text
        else:
            lines = text.splitlines()
            assert len(lines) == 10
            assert lines[0].startswith("cryosegnet: 110/200 micrographs (55 %), ") and "s left, 30 picks" in lines[0]
            assert lines[-1].endswith("300 picks, 1 failed") and "left" not in lines[-1]
    assert [progress.duration(s) for s in (42, 90, 3570, 8000)] == ["42 s", "2 min", "1 h 0 min", "2 h 13 min"]


def on_screen(text: str) -> list[str]:
    """The lines that a terminal shows in the end of what was written to it."""
    lines = []
    for line in text.split("\n"):
        shown_line = ""
        for part in line.split("\r"):
            shown_line = part + shown_line[len(part) :]
        lines.append(shown_line.rstrip())
    return lines


def test_messages_stand_above_the_bar_and_between_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    log = logging.getLogger("cryosegnet_ext.runs.batch")
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(progress, "_SHORTEST_SECONDS", 0.0)
        file = tmp_path / f"log{stream.isatty()}"
        with shown("cryosegnet"):
            configure(argparse.Namespace(log_file=file))
            counts = progress.Progress(4)
            for i in range(4):
                counts.add(3)
                log.warning(f"number {i}")
            counts.close()
        lines = on_screen(stream.getvalue())
        assert [line for line in lines if "warning" in line] == [f"cryosegnet: warning: number {i}" for i in range(4)]
        counted = [line for line in lines if line.startswith("cryosegnet: ") and "/4 micrographs" in line]
        assert len(counted) == (0 if stream.isatty() else 4)
        bars = [line for line in lines if line.startswith("picking")]
        assert len(bars) == (1 if stream.isatty() else 0)
        assert [("/4 micrographs" in line, "number" in line) for line in file.read_text().splitlines()] == [
            (True, False),
            (False, True),
        ] * 4


def test_who_configures_nothing_sees_progress_and_warnings(mics: Path, tmp_path: Path) -> None:
    (mics / "bad.mrc").write_bytes(b"no image")
    for i in range(11):
        (mics / f"m{i}.mrc").write_bytes(b"no image")
    code = f"""
import sys
sys.path.insert(0, {str(STUB.parents[1])!r})
from cryosegnet_ext import batch
from cryosegnet_ext.inputs import expand_inputs
from tests.stub_picker import StubPicker
said = []
more = {{"say": said.append}} if sys.argv[1] == "False" else {{}}
batch.run(StubPicker(), expand_inputs([{str(mics)!r}]), sys.argv[2], progress=sys.argv[1] == "True", **more)
print(*said, sep="\\n")
"""
    for shown_progress in (True, False):
        words = [sys.executable, "-c", code, str(shown_progress), str(tmp_path / str(shown_progress))]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        warning = "12 of 13 micrographs failed; failed.csv says why"
        if shown_progress:
            first, last = done.stderr.splitlines()
            assert first.startswith("cryosegnet: 13/13 micrographs (100 %), ") and last == warning
        else:
            assert done.stderr == "" and f"warning: {warning}" in done.stdout.splitlines()
            assert "estimating the particle size from 8 micrographs" in done.stdout.splitlines()


def test_overwrite_removes_the_formats_of_every_earlier_run(mics: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pick(mics, out, formats=("box",))
    pick(mics, out, formats=("star",))
    pick(mics, out, StubPicker(threshold=0.5), formats=("star",), overwrite=True)
    assert {p.suffix for p in (out / "picks").iterdir()} == {".star"}


def test_settings_may_change_while_nothing_was_picked(tmp_path: Path) -> None:
    (tmp_path / "bad.mrc").write_bytes(b"no image" * 300)
    inputs, out = expand_inputs([str(tmp_path / "bad.mrc")]), tmp_path / "out"
    assert batch.run(StubPicker(), inputs, out, progress=False).exit_code == 3
    assert batch.run(StubPicker(threshold=0.5), inputs, out, progress=False).exit_code == 3


def test_what_is_said_while_it_runs(mics: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with shown("cryosegnet"):
        pick(mics, tmp_path / "out", progress=True)
    said = capsys.readouterr().err
    assert "estimating the particle size from 8 micrographs" in said and "the particles are about 20 A large" in said
    (tmp_path / "one").mkdir()
    (mics / "m0.mrc").rename(tmp_path / "one/m0.mrc")
    with shown("cryosegnet"):
        pick(tmp_path / "one", tmp_path / "out1", progress=True)
    assert "estimating the particle size from 1 micrograph\n" in capsys.readouterr().err


def test_nothing_is_said_of_sizes_and_overlays_where_no_file_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.mrc").write_bytes(b"no image" * 300)
    with shown("cryosegnet"):
        result = pick(tmp_path, tmp_path / "out", progress=True)
    assert result.exit_code == 3
    said = capsys.readouterr().err
    assert "warning: none of 2 micrographs could be picked; failed.csv says why" in said
    assert "diameter" not in said and "overlays" not in said
    # The reason stands beside the name and does not repeat it.
    assert all(name not in reason and reason.startswith("the file ") for name, reason in result.failures)
    write_micrograph(tmp_path / "a.mrc")
    assert pick(tmp_path, tmp_path / "out").done == 1
    assert journal_lines(tmp_path / "out")[-2]["record"] in ("diameter", "micrograph")
