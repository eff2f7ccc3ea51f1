"""The command line: ``cryosegnet COMMAND``.

Each command is a module of this folder with ``HELP`` (one line), ``add_args(parser)`` and ``main(args) -> exit code``.
They import nothing heavy at their top, so that help does not wait for torch.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NoReturn

from .._version import __version__
from ..errors import CryoSegNetError

COMMANDS = ("pick", "demo", "doctor", "weights", "export", "simulate", "train", "evaluate")

DONE, USAGE, SOME_FAILED, NOTHING_DONE, STOPPED = range(5)

_EXIT_CODES = """exit codes:
  0 all done, 1 wrong usage, 2 some micrographs failed, 3 nothing could be done,
  4 stopped by a signal (the same command goes on)"""


class UsageError(Exception):
    """Arguments that do not go together; its text is one sentence."""


class CommandParser(argparse.ArgumentParser):
    """A parser that takes no abbreviations, suggests what was meant, and ends with exit code 1 on wrong usage."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; an argument that nobody knows is an error."""
        found, extra = self.parse_known_args(args, namespace)
        if extra:
            wrong = next((word for word in extra if word.startswith("-")), extra[0])
            options = [option for action in self._actions for option in action.option_strings]
            self.error(f"unknown argument {wrong}{did_you_mean(wrong.split('=')[0], options)}")
        return found

    def error(self, message: str) -> NoReturn:
        """Print how the command is used and what is wrong; exit code 1."""
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: error: {message}\n")


def did_you_mean(word: str, words: Sequence[str]) -> str:
    """A suggestion to append to an error, or nothing."""
    close = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except CryoSegNetError as error:
        _complain(str(error))
        return NOTHING_DONE
    except KeyboardInterrupt:
        _complain("stopped")
        return STOPPED
    except BrokenPipeError:
        # The reader of our output has left; keep the interpreter from complaining when it flushes at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _run(words: list[str]) -> int:
    try:
        if not words or words[0] not in COMMANDS:
            return _without_command(words)
        command = import_module(f".{words[0]}", __name__)
        parser = CommandParser(prog=f"cryosegnet {words[0]}", description=_sentence(command.HELP))
        command.add_args(parser)
        args = parser.parse_args(words[1:])
        try:
            return int(command.main(args))
        except UsageError as error:
            parser.error(str(error))
    except SystemExit as end:
        # argparse ends help and errors this way.
        return end.code if isinstance(end.code, int) else DONE if end.code is None else USAGE


def _without_command(words: list[str]) -> int:
    parser = CommandParser(
        prog="cryosegnet",
        usage="cryosegnet [-h] [--version] COMMAND ...",
        description="Particle picking on cryo-EM micrographs with the CryoSegNet method.",
        epilog=f"commands:\n{_list_commands()}\n\ncryosegnet COMMAND --help tells more.\n\n{_EXIT_CODES}",
    )
    parser.add_argument("--version", action="version", version=f"cryosegnet {__version__}")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    if words and not words[0].startswith("-"):
        parser.error(f"unknown command {words[0]}{did_you_mean(words[0], COMMANDS)}")
    parser.parse_args(words)
    parser.print_help(sys.stderr)
    return USAGE


def _list_commands() -> str:
    there = [name for name in COMMANDS if find_spec(f".{name}", __name__) is not None]
    return "\n".join(f"  {name:<10} {import_module(f'.{name}', __name__).HELP}" for name in there)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):
        print(f"cryosegnet: error: {text}", file=sys.stderr)
