"""``cryosegnet completion``: scripts by which shells complete commands, options and file names."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

HELP = "print a script that completes commands and options in a shell"

SHELLS = ("bash", "zsh", "fish")

_EPILOG = """to use it in every new shell:
  bash   cryosegnet completion bash > ~/.local/share/bash-completion/completions/cryosegnet
  zsh    cryosegnet completion zsh > ~/.zfunc/_cryosegnet
         with fpath+=~/.zfunc before compinit in ~/.zshrc
  fish   cryosegnet completion fish > ~/.config/fish/completions/cryosegnet.fish"""

_FILES, _FOLDERS = re.compile("FILE|INPUT|PATH|STAR|YAML|LABELS|PICKS"), re.compile("DIR|FOLDER|PROJECT")


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cryosegnet completion``."""
    parser.description = "Print a script that completes commands, options and file names of cryosegnet in a shell."
    parser.epilog = _EPILOG
    parser.add_argument("shell", choices=SHELLS, help="the shell: its name is in $SHELL")


def main(args: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    from . import program

    parser = program().parser()
    for one in parser.all_parsers():
        for _, argument in one.arguments:
            metavar = argument.metavar if isinstance(argument.metavar, str) else ""
            marked: Any = argument
            if _FOLDERS.search(metavar):
                marked.complete = shtab.DIRECTORY
            elif _FILES.search(metavar) or argument.type is Path:
                marked.complete = shtab.FILE
    print(shtab.complete(parser, shell=args.shell))
    return 0
