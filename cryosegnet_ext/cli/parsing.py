"""Command lines: a parser with errors in one style, and programs of several commands."""

from __future__ import annotations

import argparse
import difflib
import logging
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from .._version import __version__
from ..errors import UsageError, as_typed
from ..runs.stopping import stops_at_once
from . import logs
from .logs import say

log = logging.getLogger(__name__)

DONE, USAGE, SOME_FAILED, NOTHING_DONE, STOPPED = range(5)


class CommandParser(argparse.ArgumentParser):
    """A parser that takes no abbreviations, suggests what was meant, and ends with exit code 1 on wrong usage.

    Attributes
    ----------
    arguments
        Every argument with the title of its group, in order; the title is empty if it is in no group.
    commands
        Parsers of the commands, by name.
    """

    def __init__(self, **options: Any) -> None:
        self.arguments: list[tuple[str, argparse.Action]] = []
        self.commands: dict[str, CommandParser] = {}
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Add an argument, as argparse does."""
        action = super().add_argument(*names, **options)
        self.arguments.append(("", action))
        return action

    def add_argument_group(self, title: Any = None, *more: Any, **options: Any) -> Any:
        """Add a group of arguments, as argparse does."""
        return _Group(self, title or "", super().add_argument_group(title, *more, **options))

    def add_mutually_exclusive_group(self, **options: Any) -> Any:
        """Add a group of arguments of which only one may be given, as argparse does."""
        return _Group(self, "", super().add_mutually_exclusive_group(**options))

    def add_subparsers(self, **options: Any) -> Any:
        """Add commands, as argparse does."""
        return _Commands(self, super().add_subparsers(**options))

    def all_parsers(self) -> list[CommandParser]:
        """The parser itself, and those of its commands at every level."""
        return [self, *(one for below in self.commands.values() for one in below.all_parsers())]

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; an unknown argument is an error."""
        args = self._with_negative_values(sys.argv[1:] if args is None else args)
        if not self.commands:
            self._refuse_unknown_options(args)
        found, extra = self.parse_known_args(args, namespace)
        if extra and not any(word.startswith("-") for word in extra) and self._takes_many():
            # argparse takes positional arguments from one place only; here they may be on both sides of options.
            found, extra = self.parse_known_intermixed_args(args, namespace)
        if extra:
            self._unknown(next((word for word in extra if word.startswith("-")), extra[0]))
        return found

    def _refuse_unknown_options(self, words: Sequence[str]) -> None:
        """Name a wrong option before argparse names arguments that are missing, perhaps because of it."""
        for word in words[: words.index("--")] if "--" in words else words:
            if word.startswith("--") and " " not in word and word.split("=")[0] not in self._options():
                self._unknown(word)

    def _options(self) -> list[str]:
        return [option for _, action in self.arguments for option in action.option_strings]

    def _unknown(self, word: str) -> NoReturn:
        self.error(f"unknown argument {word}{did_you_mean(word.split('=')[0], self._options())}")

    def _with_negative_values(self, words: Sequence[str]) -> list[str]:
        """The words with ``--tilt -30:30`` as ``--tilt=-30:30``; argparse would take the value for an option."""
        takes_value = {name for _, action in self.arguments if action.nargs is None for name in action.option_strings}
        joined: list[str] = []
        for word in words:
            if joined and joined[-1] in takes_value and re.match(r"-[\d.]", word):
                joined[-1] += f"={word}"
            else:
                joined.append(word)
        return joined

    def _takes_many(self) -> bool:
        """Whether there are positional arguments in any number, and no commands."""
        positional = [action for _, action in self.arguments if not action.option_strings]
        return any(action.nargs in ("*", "+") for action in positional) and not self.commands

    def error(self, message: str) -> NoReturn:
        """Print the error and where to read more; exit code 1."""
        say(f"{self.prog}: error: {message}\n{self.prog} --help tells more", sys.stderr)
        self.exit(USAGE)


class _Group:
    """A group of argparse that also puts its arguments on the parser's list."""

    def __init__(self, parser: CommandParser, title: str, group: Any) -> None:
        self._parser, self._title, self._group = parser, title, group

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group, name)

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        action: argparse.Action = self._group.add_argument(*names, **options)
        self._parser.arguments.append((self._title, action))
        return action

    def add_mutually_exclusive_group(self, **options: Any) -> _Group:
        return _Group(self._parser, self._title, self._group.add_mutually_exclusive_group(**options))


class _Commands:
    """The commands of argparse, also put on the parser's list."""

    def __init__(self, parser: CommandParser, made: Any) -> None:
        self._parser, self._made = parser, made

    def add_parser(self, name: str, **options: Any) -> CommandParser:
        parser: CommandParser = self._made.add_parser(name, **options)
        self._parser.commands[name] = parser
        return parser


def did_you_mean(word: str, words: Sequence[str]) -> str:
    """A suggestion to append to an error; empty if no word is close."""
    close = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {close[0]}?" if close else ""


@dataclass(frozen=True)
class Command:
    """One command of a program.

    Attributes
    ----------
    help
        What it does; the first line is shown in the list of commands.
    add_args
        Adds the arguments to a parser.
    main
        Runs the command, and returns the exit code.
    epilog
        Printed below its help.
    """

    help: str
    add_args: Callable[[argparse.ArgumentParser], None]
    main: Callable[[argparse.Namespace], int]
    epilog: str | None = None

    def fill(self, parser: CommandParser) -> CommandParser:
        """Give a parser the description and the arguments of this command."""
        parser.description = self.help[:1].upper() + self.help[1:].rstrip(".") + "."
        parser.epilog = self.epilog
        self.add_args(parser)
        for one in parser.all_parsers():
            logs.add_args(one)
        return parser


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
        Loaders of the commands, by name; only the command that runs is loaded.
    epilog
        Printed below the list of commands.
    """

    name: str
    about: str
    commands: Mapping[str, Callable[[], Command]]
    epilog: str

    def run(self, words: Sequence[str]) -> int:
        """Run the command that the first word names; returns the exit code."""
        with as_typed():
            return self._run(words)

    def _run(self, words: Sequence[str]) -> int:
        try:
            if not words or words[0] not in self.commands:
                return self._without_command(words)
            command = self.commands[words[0]]()
            parser = command.fill(CommandParser(prog=f"{self.name} {words[0]}"))
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
            # argparse exits this way after help and errors.
            return end.code if isinstance(end.code, int) else DONE if end.code is None else USAGE

    def parser(self) -> CommandParser:
        """One parser with all commands, for completion and documentation."""
        parser = CommandParser(prog=self.name)
        parser.add_argument("--version", action="version", version=self.name, help="print the version")
        made = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
        for name, load in self.commands.items():
            command = load()
            command.fill(made.add_parser(name, help=command.help.splitlines()[0].replace("%", "%%")))
        return parser

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
