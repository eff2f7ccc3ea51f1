"""Command lines: a parser with one way to complain, and programs of several commands."""

from __future__ import annotations

import argparse
import difflib
import logging
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from .._version import __version__
from ..errors import UsageError
from ..runs.stopping import stops_at_once
from . import logs
from .logs import say

log = logging.getLogger(__name__)

DONE, USAGE, SOME_FAILED, NOTHING_DONE, STOPPED = range(5)


class CommandParser(argparse.ArgumentParser):
    """A parser that takes no abbreviations, suggests what was meant, and ends with exit code 1 on wrong usage."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; an argument that nobody knows is an error."""
        found, extra = self.parse_known_args(args, namespace)
        if extra and not any(word.startswith("-") for word in extra) and self._takes_many():
            # argparse gives all files to the first place where some stand; here they may be on both sides of options.
            found, extra = self.parse_known_intermixed_args(args, namespace)
        if extra:
            wrong = next((word for word in extra if word.startswith("-")), extra[0])
            options = [option for action in self._actions for option in action.option_strings]
            self.error(f"unknown argument {wrong}{did_you_mean(wrong.split('=')[0], options)}")
        return found

    def _takes_many(self) -> bool:
        """Whether there are files that may be named in any number, and no commands of their own."""
        numbers = [action.nargs for action in self._actions if not action.option_strings]
        return any(n in ("*", "+") for n in numbers) and argparse.PARSER not in numbers

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and where to read on; exit code 1."""
        say(f"{self.prog}: error: {message}\n{self.prog} --help tells more", sys.stderr)
        self.exit(USAGE)


def did_you_mean(word: str, words: Sequence[str]) -> str:
    """A suggestion to append to an error, or nothing."""
    close = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {close[0]}?" if close else ""


@dataclass(frozen=True)
class Command:
    """One command of a program.

    Attributes
    ----------
    help
        What it does; the first line stands in the list of commands.
    add_args
        Adds its arguments to a parser.
    main
        Does it, and returns the exit code.
    epilog
        Printed below its help.
    """

    help: str
    add_args: Callable[[argparse.ArgumentParser], None]
    main: Callable[[argparse.Namespace], int]
    epilog: str | None = None


@dataclass(frozen=True)
class Program:
    """A program of several commands.

    Attributes
    ----------
    name
        As it is typed.
    about
        One sentence.
    commands
        What loads each command, by its name; what is not asked for is not loaded.
    epilog
        Printed below the list of commands.
    """

    name: str
    about: str
    commands: Mapping[str, Callable[[], Command]]
    epilog: str

    def run(self, words: Sequence[str]) -> int:
        """Run the command that the words name; returns the exit code."""
        try:
            if not words or words[0] not in self.commands:
                return self._without_command(words)
            command = self.commands[words[0]]()
            description = command.help[:1].upper() + command.help[1:].rstrip(".") + "."
            parser = CommandParser(prog=f"{self.name} {words[0]}", description=description, epilog=command.epilog)
            command.add_args(parser)
            logs.add_args(parser)
            args = parser.parse_args(words[1:])
            logs.configure(args)
            log.debug("%s %s: %s", self.name, __version__, shlex.join(words))
            try:
                with stops_at_once():
                    return int(command.main(args))
            except Exception as error:
                log.debug("the error comes from here:", exc_info=True)
                if isinstance(error, UsageError):
                    parser.error(str(error))
                raise
        except SystemExit as end:
            # argparse ends help and errors this way.
            return end.code if isinstance(end.code, int) else DONE if end.code is None else USAGE

    def _without_command(self, words: Sequence[str]) -> int:
        lines = [f"  {name:<18} {load().help.splitlines()[0]}" for name, load in self.commands.items()]
        parser = CommandParser(
            prog=self.name,
            usage=f"{self.name} [-h] [--version] COMMAND ...",
            description=self.about,
            epilog="\n".join(["commands:", *lines, "", f"{self.name} COMMAND --help tells more.", "", self.epilog]),
        )
        parser.add_argument("--version", action="version", version=f"{self.name} {__version__}")
        parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
        if words and not words[0].startswith("-"):
            parser.error(f"unknown command {words[0]}{did_you_mean(words[0], list(self.commands))}")
        parser.parse_args(words)
        parser.print_help(sys.stderr)
        return USAGE
