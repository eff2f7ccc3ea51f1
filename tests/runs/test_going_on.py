"""Runs that go on with an earlier one: stopped, killed, changed or moved."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.runs import batch
from cryosegnet_ext.runs.journal import Journal, read_records
from tests.runs.helpers import STUB, journal_lines, outputs, pick
from tests.stub_picker import StubPicker, write_micrograph
from tests.waiting import LIMIT, start, wait_until


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
    with pytest.raises(CryoSegNetError, match=r"threshold \(not set then, 0.5 now\);.* give overwrite=True"):
        pick(mics, out, StubPicker(threshold=0.5))
    with pytest.raises(CryoSegNetError, match="pixel_size"):
        pick(mics, out, pixel_size=1.5)
    assert outputs(out) == before
    (mics / "m7.mrc").unlink()
    result = pick(mics, out, StubPicker(threshold=0.5), overwrite=True)
    assert (result.done, result.skipped) == (11, 0)
    assert not (out / "picks/m7.star").exists() and not (out / "overlays/m7.jpg").exists()
    assert pick(mics, out, StubPicker(threshold=0.5)).skipped == 11


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
    # Micrographs of the estimate, if it was killed twice, wait behind m11, which is held: up to eight.
    for lines in (1, 3, 5):
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


@pytest.mark.parametrize("layout", ["default", "facility"])
def test_a_wrong_pixel_size_in_a_star_file_does_not_cost_finished_picks(tmp_path: Path, layout: str) -> None:
    def star(size: object) -> Path:
        optics = f"data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnMicrographPixelSize #2\n1 {size}\n\n"
        names = "".join(f"{tmp_path}/mics/m{i}.mrc 1\n" for i in range(2))
        text = f"{optics}data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n{names}\n"
        (tmp_path / "mics.star").write_text(text)
        return tmp_path / "mics.star"

    def files() -> dict[str, bytes]:
        folders = ("picks", "overlays", "STAR", "CBOX", "JPEG", "JSON")
        every = (path for folder in folders for path in (out / folder).glob("*"))
        return {str(path): path.read_bytes() for path in every}

    out = tmp_path / "out"
    mics = [write_micrograph(tmp_path / f"mics/m{i}.mrc", seed=i) for i in range(2)]
    words = ["pick", str(star(2.0)), "-o", str(out), "--layout", layout]
    assert pick_stub(words)[0] == 0
    before, first = files(), json.loads((out / "summary.json").read_text())
    for wrong in (-1, 1e6):
        star(wrong)
        code, said = pick_stub(words)
        assert code == 2 and said.count("its earlier picks are kept") == 2, said
        assert files() == before
        assert (
            "pixel size" in (out / "failed.csv").read_text() and len((out / "failed.csv").read_text().split("\n")) == 4
        )
        assert json.loads((out / "summary.json").read_text())["totals"] == first["totals"]
    star(2.0)
    code, said = pick_stub(words)
    assert code == 0 and "2 finished by an earlier run, 0 to pick" in said and files() == before
    # A file that has changed is another micrograph.
    mics[0].write_bytes(b"damaged")
    assert pick_stub(words)[0] == 2 and not (out / "picks/m0.star").exists()


def pick_stub(words: list[str]) -> tuple[int, str]:
    stub = Path(__file__).parents[1] / "stub_picker.py"
    environment = {**os.environ, "PYTHONPATH": str(stub.parent.parent)}
    done = subprocess.run(
        [sys.executable, str(stub), *words], capture_output=True, text=True, env=environment, timeout=LIMIT
    )
    return done.returncode, done.stderr
