"""What a run writes, and what it does with micrographs that fail."""

from __future__ import annotations

import csv
import errno
import json
import os
from itertools import pairwise
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryosegnet_ext.cli.logs import shown
from cryosegnet_ext.errors import CryoSegNetError, memory_sentence
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.files.picks import Picks, read_picks
from cryosegnet_ext.picking.sampling import spread
from cryosegnet_ext.runs import batch, pick_task
from tests.damage import damaged_files
from tests.runs.helpers import FORMATS, journal_lines, outputs, pick
from tests.stub_picker import StubPicker, write_micrograph


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
    totals = {"micrographs": 12, "picks": 288, "failed": 0, "without_picks": 0}
    assert summary["totals"] == {**totals, "expected_false": result.expected_false}
    assert summary["dataset_diameter"] == pytest.approx(20, abs=0.2)
    assert summary["settings"] == {"threshold": None, "weights": {"sha256": "abc"}, "pixel_size": None}
    assert len(summary["micrographs"]) == 12
    assert summary["micrographs"][3]["stem"] == "m3" and summary["micrographs"][3]["picks"] == 24
    assert (out / "failed.csv").read_text() == "name,reason\n"
    assert [line["record"] for line in journal_lines(out)] == ["settings", "diameter"] + ["micrograph"] * 12


def test_what_was_assumed_in_reading_is_said_once(tmp_path: Path) -> None:
    for i in range(3):
        values = np.random.default_rng(i).normal(128, 20, (64, 96)).astype(np.uint8)
        with mrcfile.new(tmp_path / f"m{i}.mrc") as mrc:
            mrc.set_data(values.view(np.int8))
    said: list[str] = []
    batch.run(StubPicker(), expand_inputs([tmp_path]), tmp_path / "out", progress=False, say=said.append)
    lines = [line for line in said if "MRC mode 0" in line]
    assert len(lines) == 1 and lines[0].startswith(f"{tmp_path}/m0.mrc: MRC mode 0 is read as unsigned bytes")


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
    assert "diameter= gives one" in capsys.readouterr().err
    assert {diameter for _, diameter in picker.picked} == {None}
    # What was picked without an estimate stays comparable with what comes later.
    write_micrograph(mics / "m99.mrc", 99)
    later = StubPicker()
    pick(mics, tmp_path / "out", later)
    assert later.picked == [("m99.mrc", None)] and not later.estimated


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
    summary = json.loads((out / "summary.json").read_text())
    assert summary["totals"]["failed"] == 59
    assert summary["warnings"] == ["59 of 72 micrographs failed; failed.csv says why"]


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
        "m3": memory_sentence(MemoryError()),
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


@pytest.mark.parametrize(("length", "said"), [(234, ""), (241, ""), (242, "over 241 bytes"), (251, "over 241 bytes")])
def test_long_names(tmp_path: Path, length: int, said: str) -> None:
    """A stem of 234 bytes was once refused, though all of its files can be named."""
    stem = "a" * length
    write_micrograph(tmp_path / f"mics/{stem}.mrc")
    out = tmp_path / "out"
    result = batch.run(StubPicker(), expand_inputs([tmp_path / "mics"]), out, formats=FORMATS, progress=False)
    if said:
        assert "too long for its pick file" in result.failures[0][1] and said in result.failures[0][1]
    else:
        assert result.done == 1 and (out / f"picks/{stem}.cbox").is_file() and (out / f"overlays/{stem}.jpg").is_file()
