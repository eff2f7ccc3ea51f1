"""What a command tells its user, on standard error and in ``--log-file``."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cryosegnet_ext.cli import main
from cryosegnet_ext.cli.logs import shown
from cryosegnet_ext.cli.parsing import Command, Program
from cryosegnet_ext.errors import CryoSegNetError, UsageError

OURS, OTHERS = logging.getLogger("cryosegnet_ext.runs.batch"), logging.getLogger("httpx")
STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ")


def speak(_: argparse.Namespace) -> int:
    OURS.debug("a detail")
    OURS.info("estimating the size of %s", "m.mrc")
    OURS.warning("no pixel size")
    OTHERS.info("GET https://user:secret@there/")
    OTHERS.warning("no answer from https://user:secret@there/")
    return 0


def run(*words: object, command: Callable[[argparse.Namespace], int] = speak) -> int:
    def add_args(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--quiet", action="store_true", help="errors only")

    program = Program("picks", "It picks.", {"now": lambda: Command("pick now", add_args, command)}, "")
    with shown("picks"):
        try:
            return program.run(["now", *map(str, words)])
        except CryoSegNetError as error:
            OURS.error("%s", error)
            return 3


SAID = [
    "picks: estimating the size of m.mrc",
    "picks: warning: no pixel size",
    "picks: warning: no answer from https://user:secret@there/",
]


def test_the_user_is_told_what_is_for_users(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert capsys.readouterr().err.splitlines() == SAID


def test_quiet_and_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--quiet") == 0
    assert capsys.readouterr().err == ""
    assert run("-v") == 0
    first, detail, *rest = capsys.readouterr().err.splitlines()
    assert first.endswith(": now -v") and detail == "picks: a detail" and rest == SAID


def test_nothing_is_left_of_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    before = logging.getLogger().handlers[:]
    assert run("-v", "--log-file", tmp_path / "log") == 0
    assert logging.getLogger().handlers == before and OURS.getEffectiveLevel() == logging.WARNING
    capsys.readouterr()
    assert run() == 0
    assert capsys.readouterr().err.splitlines() == SAID


def test_the_log_file_holds_everything_with_its_time_and_is_appended_to(tmp_path: Path) -> None:
    file = tmp_path / "not there yet" / "log"
    assert run("--quiet", "--log-file", file) == 0
    lines = file.read_text().splitlines()
    assert [STAMP.sub("", line) for line in lines][1:] == [
        "DEBUG   cryosegnet_ext.runs.batch: a detail",
        "INFO    cryosegnet_ext.runs.batch: estimating the size of m.mrc",
        "WARNING cryosegnet_ext.runs.batch: no pixel size",
        "WARNING httpx: no answer from https://***@there/",
    ]
    assert all(STAMP.match(line) for line in lines) and lines[0].endswith(f": now --quiet --log-file '{file}'")
    assert run("--log-file", file) == 0
    assert file.read_text().splitlines()[: len(lines)] == lines and len(file.read_text().splitlines()) == 2 * len(lines)


def test_errors_are_in_the_log_file_with_the_place_they_come_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: argparse.Namespace) -> int:
        raise CryoSegNetError("m.mrc is truncated")

    def misuse(_: argparse.Namespace) -> int:
        raise UsageError("--a does not go with --b")

    assert run("--log-file", tmp_path / "log", command=refuse) == 3
    assert capsys.readouterr().err == "picks: error: m.mrc is truncated\n"
    text = (tmp_path / "log").read_text()
    assert "in refuse" in text and "ERROR   cryosegnet_ext.runs.batch: m.mrc is truncated" in text
    assert run("--log-file", tmp_path / "log", command=misuse) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert "UsageError: --a does not go with --b" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("where", ["/dev/full", ".", "/proc/log", "file/log"])
def test_a_log_that_cannot_be_written_is_one_sentence(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert run("--log-file", where) == 0
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.startswith(f"picks: warning: --log-file {where} cannot be written (") and rest == SAID


def test_names_that_are_no_text_and_a_closed_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def name(_: argparse.Namespace) -> int:
        OURS.info("reading m\udcff.mrc")
        return 0

    assert run("--log-file", tmp_path / "log", command=name) == 0
    assert capsys.readouterr().err == "picks: reading m\\udcff.mrc\n"
    assert "reading m\\udcff.mrc" in (tmp_path / "log").read_text()
    monkeypatch.setattr(sys, "stderr", None)
    assert run("--log-file", tmp_path / "log") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("words", [["weights", "list", "-v"], ["weights", "-v", "list"]])
def test_every_command_has_the_options(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words.insert(words.index("-v"), f"--log-file={tmp_path / 'log'}")
    assert main(words) == 0
    assert "cryosegnet: cryosegnet " in capsys.readouterr().err
    assert STAMP.match((tmp_path / "log").read_text())
