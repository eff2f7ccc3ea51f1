"""Every command of the documentation that makes figures is understood by its script's own parser.

Most of them need the labelled micrographs, or hours, so none is run here.
"""

from __future__ import annotations

import argparse
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.docs.docs_commands import PAGES, shell_commands

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
        monkeypatch.delitem(sys.modules, words[0], raising=False)
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

    for name in (*getattr(args, "sets", ()), *getattr(args, "turns", ()), *getattr(args, "leave_out", ())):
        assert name in real_data.SETS | real_data.TEST_SETS, f"{where}: there is no data set {name}"


def test_the_way_to_the_weights_is_understood_by_each_script(parse: Parse, tmp_path: Path) -> None:
    from benchmarks.weights import make_weights

    before: set[str] = set()
    for stage in make_weights.STAGES:
        command = stage.command(tmp_path, 0.01)
        words = command[len(command) - command[::-1].index("-m") :]
        args = parse(words)
        assert args.output == tmp_path / stage.name
        assert args.steps == max(round(stage.steps / 100), 2)
        starts = {Path(w).parent.name for w in words if w.endswith("checkpoint.pt")}
        assert starts <= before, f"{stage.name} starts from what comes later: {starts - before}"
        before.add(stage.name)


def test_a_stage_that_is_done_is_passed_over(tmp_path: Path) -> None:
    from benchmarks.weights import make_weights

    trace, done = tmp_path / "trace", tmp_path / "DONE"
    command = [sys.executable, "-c", f"open({str(trace)!r}, 'a').write('x')"]
    for _ in range(2):
        make_weights.run(command, done)
    assert trace.read_text() == "x"
    make_weights.run([*command, "other"], done)
    assert trace.read_text() == "xx"
    with pytest.raises(SystemExit, match="this stage failed"):
        make_weights.run([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "FAILED")
    assert not (tmp_path / "FAILED").exists()


def test_a_wrong_option_is_found(parse: Parse, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([*COMMANDS[0][1], "--no-such-option"])
    assert "--no-such-option" in capsys.readouterr().err
