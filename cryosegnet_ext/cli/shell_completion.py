"""Scripts by which shells complete commands, options and file names: a command of each of the three programs."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .parsing import DONE, Command, CommandParser

HELP = "print a script that completes commands and options in a shell"

SHELLS = ("bash", "zsh", "fish")

_EPILOG = """to use it in every new shell:
  bash   {program} completion bash > ~/.local/share/bash-completion/completions/{program}
  zsh    {program} completion zsh > ~/.zfunc/_{program}
         with fpath+=~/.zfunc before compinit in ~/.zshrc
  fish   {program} completion fish > ~/.config/fish/completions/{program}.fish"""

_FILES, _FOLDERS = re.compile("FILE|INPUT|PATH|STAR|YAML|LABELS|PICKS"), re.compile("DIR|FOLDER|PROJECT")


def completion_command(program: str, make_parser: Callable[[], CommandParser]) -> Command:
    """The command ``completion`` of a program.

    Parameters
    ----------
    program
        As it is typed.
    make_parser
        Makes the parser with all commands and options of the program.
    """

    def main(args: argparse.Namespace) -> int:
        print(completion_script(make_parser(), args.shell))
        return DONE

    return Command(HELP, _add_args, main, _EPILOG.format(program=program))


def completion_script(parser: CommandParser, shell: str) -> str:
    """The script for one of `SHELLS`."""
    import shtab

    for one in parser.all_parsers():
        for _, argument in one.arguments:
            metavar = argument.metavar if isinstance(argument.metavar, str) else ""
            marked: Any = argument
            if _FOLDERS.search(metavar):
                marked.complete = shtab.DIRECTORY
            elif _FILES.search(metavar) or argument.type is Path:
                marked.complete = shtab.FILE
    return str(shtab.complete(parser, shell=shell))


def _add_args(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="the shell: its name is in $SHELL")
