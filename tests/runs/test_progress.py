"""What a run shows while it picks."""

from __future__ import annotations

import argparse
import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cryosegnet_ext.cli.logs import configure, shown
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.runs import batch, progress
from cryosegnet_ext.runs.monitor import Monitor
from tests.runs.helpers import STUB, journal_lines, pick
from tests.stub_picker import StubPicker, write_micrograph
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


class Clock:
    """A clock that goes on only when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress, "time", self)

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def paced(clock: Clock, total: int, outcomes: str, seconds: float = 19.0, first: int = 0) -> progress.PickingPace:
    """A pace after outcomes: ``p`` picked in some seconds, ``f`` failed at once."""
    pace = progress.PickingPace(total, first)
    for outcome in outcomes:
        clock.now += seconds if outcome == "p" else 0.0
        pace.add(outcome == "p")
    return pace


def test_the_rate_is_that_of_picked_micrographs(clock: Clock) -> None:
    assert paced(clock, 100, "").speed == "" and paced(clock, 100, "").seconds_left is None
    slow = paced(clock, 100, "ppp")
    assert slow.speed == "19 s a micrograph" and slow.seconds_left == pytest.approx(97 * 19)
    clock.now += 19
    assert slow.seconds_left == pytest.approx(97 * 19)
    clock.now += 57  # the next one hangs
    assert slow.seconds_left == pytest.approx(97 * 133 / 4)
    # What earlier runs picked tells nothing.
    assert paced(clock, 1000, "pp", first=900).seconds_left == pytest.approx(98 * 19)
    # Failures at once are no speed.
    failing = paced(clock, 1000, "f" * 500)
    assert failing.speed == "" and failing.seconds_left is None
    assert paced(clock, 1000, "f" * 500 + "p" * 40).seconds_left == pytest.approx(460 * 19, rel=0.1)
    assert paced(clock, 1000, "p" * 40 + "f" * 100).speed == "19 s a micrograph"
    assert paced(clock, 1000, "pf" * 100).seconds_left == pytest.approx(400 * 19, rel=0.1)
    assert paced(clock, 1000, "p" * 300 + "f" * 8 + "p" * 30).seconds_left == pytest.approx(662 * 19, rel=0.1)
    for seconds, words in ((0.1, "10/s"), (0.4, "2.5/s"), (2.5, "2.5 s a micrograph"), (600, "10.0 min a micrograph")):
        assert paced(clock, 9, "ppp", seconds).speed == words


def test_micrographs_that_end_together_tell_a_rate_together(clock: Clock) -> None:
    pace = progress.PickingPace(80, 0)
    pace.workers = 8
    clock.now += 152
    for _ in range(7):
        pace.add(True)
    assert pace.seconds_left is None
    pace.add(True)
    assert pace.speed == "19 s a micrograph" and pace.seconds_left == pytest.approx(72 * 19)


class Slow(StubPicker):
    """Looks at a micrograph for 100 s, and picks it in 19 s, on a clock of the test."""

    def __init__(self, clock: Clock, beat: Path) -> None:
        super().__init__()
        self._clock, self._beat = clock, beat
        self.beats: list[dict[str, object]] = []

    def estimate_sizes(
        self, micrographs: list[Micrograph], looked: Callable[[int], None] = lambda number: None
    ) -> tuple[float, ...]:
        for number in range(len(micrographs)):
            self._clock.now += 100
            looked(number + 1)
        return (20.0,)

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        self._clock.now += 19
        if len(self.picked) == 6:
            self.beats.append(json.loads(self._beat.read_text()))
        return super().pick(micrograph, diameter)


def test_the_clock_starts_after_the_estimate_which_is_a_step_of_its_own(
    mics: Path, tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = Monitor(tmp_path / "beat.json", tmp_path / "c.prom", seconds=0.0)

    class Writing(Slow):
        def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
            monitor.write()
            return super().pick(micrograph, diameter)

    picker = Writing(clock, tmp_path / "out/.cryosegnet/heartbeat.json")
    with shown("cryosegnet"):
        batch.run(picker, expand_inputs([mics]), tmp_path / "out", progress=True, monitor=monitor)
    said = [line.removeprefix("cryosegnet: ") for line in capsys.readouterr().err.splitlines()]
    assert said[:3] == ["estimating the particle size from 8 micrographs",
                        "particle size: 1 of 8 micrographs looked at",
                        "particle size: 2 of 8 micrographs looked at"]  # fmt: skip
    first = next(line for line in said if " (" in line)
    assert first == "1/12 micrographs (8 %), 19 s a micrograph, 3 min left, 24 picks"
    (beat,) = picker.beats
    assert beat["size_estimate"] == {"looked_at": 8, "of": 8} and beat["state"] == "picking"
    assert beat["micrographs_per_minute"] == 3.16 and beat["seconds_left"] == 114
    assert (tmp_path / "beat.json").read_text() == (tmp_path / "out/.cryosegnet/heartbeat.json").read_text()
    assert "cryosegnet_size_estimate_micrographs 8\n" in (tmp_path / "c.prom").read_text()
    # A later run that estimates nothing says what is left.
    for path in (tmp_path / "out/picks").iterdir():
        if path.name > "m5":
            path.unlink()
    with shown("cryosegnet"):
        batch.run(picker, expand_inputs([mics]), tmp_path / "out", progress=True)
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == ["cryosegnet: 7 finished by an earlier run, 5 to pick",
                        "cryosegnet: 8/12 micrographs (66 %), 19 s a micrograph, 1 min left, 24 picks"]  # fmt: skip


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
            *reasons, count, last = done.stderr.splitlines()
            assert len(reasons) == 12 and all(".mrc: the file " in reason for reason in reasons)
            assert count.startswith("cryosegnet: 13/13 micrographs (100 %), ") and last == warning
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
