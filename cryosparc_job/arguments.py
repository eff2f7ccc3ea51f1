"""Arguments that several commands of ``cryosegnet-cryosparc`` share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from cryosegnet_ext.cli.options import add_options
from cryosegnet_ext.cli.readers import above_zero
from cryosegnet_ext.picking.options import PickerOptions


def add_server(parser: argparse.ArgumentParser) -> None:
    """Which CryoSPARC, and how to reach it."""
    group = parser.add_argument_group("where")
    add = group.add_argument
    add("--url", metavar="URL", help="CryoSPARC's web address (default: CRYOSPARC_BASE_URL)")
    add("--project", metavar="P1", required=True, type=identifier("P"), help="the project")
    add(
        "--patience",
        metavar="S",
        type=above_zero,
        default=300.0,
        help="seconds to wait for a server that is away (300)",
    )
    add("--no-prompt", action="store_true", help="never ask for a login")


def add_picker(parser: argparse.ArgumentParser) -> None:
    """How to pick; CryoSPARC knows the pixel size."""
    add_options(parser, PickerOptions, "how to pick, as for cryosegnet pick (sizes in angstrom)")


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Where micrographs are read from."""
    group = parser.add_argument_group("reading")
    add = group.add_argument
    choice = group.add_mutually_exclusive_group()
    choice.add_argument(
        "--download", action="store_true", help="download micrographs even where the project is mounted"
    )
    choice.add_argument(
        "--no-download", action="store_true", help="fail where the project's folder is not mounted here"
    )
    add("--cache", metavar="DIR", type=Path, help="folder for downloaded micrographs")
    add("--cache-size", metavar="GB", type=above_zero, default=20.0, help="most it may hold (default: 20)")


def add_writing(parser: argparse.ArgumentParser) -> None:
    """What the job is called, and which way up its picks are."""
    add = parser.add_argument_group("writing").add_argument
    add("--title", metavar="TEXT", default="CryoSegNet particle picking", help="title of the new job")
    add("--flip-y", action="store_true", help="mirror the picks top to bottom; see check-orientation")


def identifier(letter: str) -> Callable[[str], str]:
    """The type of an identifier of CryoSPARC's, such as P1 of the letter P."""

    def check(text: str) -> str:
        if not (text.startswith(letter) and text[1:].isdigit()):
            raise argparse.ArgumentTypeError(f"must be of the form {letter}12 (got {text})")
        return text

    return check
