"""What a run shows while it picks."""

from __future__ import annotations

import argparse
import io
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from cryosegnet_ext.cli.logs import configure, shown
from cryosegnet_ext.runs import progress
from tests.runs.helpers import STUB, journal_lines, pick
from tests.stub_picker import write_micrograph
from tests.waiting import LIMIT


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
    monkeypatch.setattr(sys, "stderr", one := io.StringIO())
    counts = progress.Progress(1)
    counts.add(1)
    counts.close()
    assert one.getvalue().startswith("cryosegnet: 1/1 micrograph (100 %), ") and one.getvalue().endswith(", 1 pick\n")
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
        done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT)
        warning = "12 of 13 micrographs failed; failed.csv says why"
        if shown_progress:
            first, last = done.stderr.splitlines()
            assert first.startswith("cryosegnet: 13/13 micrographs (100 %), ") and last == warning
        else:
            assert done.stderr == "" and f"warning: {warning}" in done.stdout.splitlines()
            assert "estimating the particle size from 8 micrographs" in done.stdout.splitlines()


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
