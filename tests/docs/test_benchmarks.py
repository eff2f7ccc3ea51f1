"""Every command of the documentation that makes figures is understood by its script's own parser.

Most of them need the labelled micrographs, or hours, so none is run here.
"""

from __future__ import annotations

import argparse
import runpy
import shlex
from collections.abc import Callable

import pytest

from tests.docs_commands import PAGES, ROOT, shell_commands

COMMANDS = [
    (f"{page.name}:{number}", words[1:])
    for page in PAGES
    for number, words in shell_commands(page)
    if words[0].startswith("python") and len(words) > 1 and words[1].startswith("benchmarks/")
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
        monkeypatch.setattr("sys.argv", [str(ROOT / words[0]), *words[1:]])
        with pytest.raises(Parsed) as caught:
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        (args,) = caught.value.args
        return args

    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
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
    import real_data

    for name in (*getattr(args, "sets", ()), *getattr(args, "turns", ()), *getattr(args, "leave_out", ())):
        assert name in real_data.SETS, f"{where}: there is no data set {name}"


def test_a_wrong_option_is_found(parse: Parse, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([*COMMANDS[0][1], "--no-such-option"])
    assert "--no-such-option" in capsys.readouterr().err
