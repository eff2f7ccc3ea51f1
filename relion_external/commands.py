"""The commands of ``cryosegnet-relion`` beside its job."""

from __future__ import annotations

from cryosegnet_ext.cli.parsing import CommandParser, Program
from cryosegnet_ext.cli.shell_completion import completion_command

from . import schemes
from .arguments import HELP, OPTIONS

PROGRAM = "cryosegnet-relion"
_FILES = ("in_mics", "in_coords")
_FOLDERS = ("from_run", "edits")


def program() -> Program:
    """``cryosegnet-relion`` with the commands that are no jobs."""
    completion = completion_command(PROGRAM, _whole_parser)
    commands = {"scheme": schemes.command, "completion": lambda: completion}
    return Program(PROGRAM, "Particle picking in RELION.", commands, epilog="")


def _whole_parser() -> CommandParser:
    """The commands, and the parameters of the job as options."""
    parser = program().parser()
    parser.add_argument("--o", metavar="DIR", help="the job's directory")
    for label, option in OPTIONS.items():
        metavar = "STAR" if label in _FILES else "DIR" if label in _FOLDERS else "V"
        choices = option.metadata["choices"] or (("Yes", "No") if option.default is False else None)
        parser.add_argument(f"--{label}", metavar=metavar, choices=choices, help=HELP[label].replace("%", "%%"))
    return parser
