"""``cryosegnet completion``: what makes the shell complete commands, options and file names."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import logs
from .parsing import Command, CommandParser

HELP = "print the script that completes cryosegnet's commands and options in a shell"

SHELLS = ("bash", "zsh", "fish")

_DESCRIPTION = """Print a script that completes commands, options and file names of cryosegnet in a shell."""

_EPILOG = """to have it in every new shell:
  bash   cryosegnet completion bash > ~/.local/share/bash-completion/completions/cryosegnet
  zsh    cryosegnet completion zsh > ~/.zfunc/_cryosegnet
         with fpath+=~/.zfunc before compinit in ~/.zshrc
  fish   cryosegnet completion fish > ~/.config/fish/completions/cryosegnet.fish"""

_FILES, _FOLDERS = re.compile("FILE|INPUT|PATH|STAR|YAML|LABELS|PICKS"), re.compile("DIR|FOLDER|PROJECT")


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cryosegnet completion``."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.add_argument("shell", choices=SHELLS, help="the shell: its name is in $SHELL")


def main(args: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    from . import commands

    parser = whole_parser("cryosegnet", commands())
    for one in every_parser(parser):
        _say_what_completes(one)
    print(shtab.complete(parser, shell=args.shell))
    return 0


def whole_parser(name: str, commands: Mapping[str, Callable[[], Command]]) -> argparse.ArgumentParser:
    """One parser of a program with all its commands, for what needs to see every option.

    Parameters
    ----------
    name
        The program as it is typed.
    commands
        What loads each command, by its name, as `Program` takes them.
    """
    parser = CommandParser(prog=name)
    parser.add_argument("--version", action="version", version=name, help="print the version")
    actions = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for word, load in commands.items():
        command = load()
        summary = command.help.splitlines()[0]
        below = actions.add_parser(word, help=summary.replace("%", "%%"), description=command.help)
        command.add_args(below)
        logs.add_args(below)
    return parser


def every_parser(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """A parser and those of its commands, theirs too."""
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                found += every_parser(below)
    return found


def _say_what_completes(parser: argparse.ArgumentParser) -> None:
    import shtab

    for action in parser._actions:
        metavar = action.metavar if isinstance(action.metavar, str) else ""
        marked: Any = action
        if metavar.startswith("{") and action.choices is None:
            action.choices = metavar.strip("{}").split(",")
        elif _FOLDERS.search(metavar):
            marked.complete = shtab.DIRECTORY
        elif _FILES.search(metavar) or action.type is Path:
            marked.complete = shtab.FILE
