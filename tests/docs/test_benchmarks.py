"""Every command of the documentation that makes figures is understood by its script's own parser, and pages agree.

Most of them need the labelled micrographs, or hours, so none is run here.
"""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import sys
from collections.abc import Callable

import numpy as np
import pytest

from tests.docs.docs_commands import NOTES, PAGES, ROOT, shell_commands

COMMANDS = [
    (f"{page.name}:{number}", words[2:])
    for page in PAGES
    for number, words in shell_commands(page)
    if words[0].startswith("python") and len(words) > 2 and words[2].startswith("benchmarks.")
]

Parse = Callable[[list[str]], argparse.Namespace]


class Parsed(Exception):
    """Raised in the place of what the script would do next."""


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Parse:
    """Runs a script up to the arguments that it makes of its words."""
    whole = argparse.ArgumentParser.parse_args

    def only_parse(self, args=None, namespace=None):
        raise Parsed(whole(self, args, namespace))

    def run(words: list[str]) -> argparse.Namespace:
        monkeypatch.setattr("sys.argv", words)
        for name in (words[0], f"{words[0]}.__main__"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        with pytest.raises(Parsed) as caught, np.errstate():
            runpy.run_module(words[0], run_name="__main__")
        (args,) = caught.value.args
        return args

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    return run


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 10


@pytest.mark.parametrize(("where", "words"), COMMANDS, ids=[where for where, _ in COMMANDS])
def test_the_script_understands_its_command(
    where: str, words: list[str], parse: Parse, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        args = parse(words)
    except SystemExit:
        pytest.fail(f"{where}: {shlex.join(words)}\n{capsys.readouterr().err}")
    from benchmarks import real_data

    stems = {stem for splits in real_data.SPLITS.values() for stems in splits.values() for stem in stems}
    for name in (*getattr(args, "sets", ()), *getattr(args, "turns", ()), *getattr(args, "leave_out", ())):
        known = {*real_data.SETS, *real_data.TEST_SETS, *real_data.FURTHER, real_data.VIEWS, *stems}
        assert name in known, f"{where}: there is no data set {name}"


def test_a_wrong_option_is_found(parse: Parse, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([*COMMANDS[0][1], "--no-such-option"])
    assert "--no-such-option" in capsys.readouterr().err


def figures(text: str) -> set[str]:
    """Numbers with a decimal point; versions have two points."""
    return set(re.findall(r"(?<![\d.])\d+\.\d+(?![.\d])", text))


@pytest.mark.parametrize("page", ["benchmarks.md", "will_it_work.md"])
def test_figures_of_the_page_are_those_of_the_notes(page: str) -> None:
    found = figures(re.sub(r"`.*?`", "", (ROOT / "docs" / page).read_text()))
    assert len(found) > 15
    assert not found - figures(NOTES.read_text())
