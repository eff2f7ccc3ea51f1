"""Arguments that several commands of ``cryosegnet-cryosparc`` share."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from cryosegnet_ext.cli.options import add_options, picker_options
from cryosegnet_ext.cli.readers import above_zero
from cryosegnet_ext.cli.running_options import engine_from
from cryosegnet_ext.picking.options import PickerOptions, RunOptions, split_devices

if TYPE_CHECKING:
    from cryosegnet_ext.runs.batch import MicrographPicker
    from cryosegnet_ext.runs.engines.base import Engine


def add_server(parser: argparse.ArgumentParser) -> None:
    """Which CryoSPARC and project, and how to reach it."""
    group = parser.add_argument_group("where")
    add = group.add_argument
    add("--url", metavar="URL", help="CryoSPARC's web address (default: CRYOSPARC_BASE_URL)")
    add("--project", metavar="P1", required=True, type=identifier("P"), help="the project")
    add(
        "--patience",
        metavar="S",
        type=above_zero,
        default=300.0,
        help="seconds to wait for a server that does not answer (default: 300)",
    )
    add("--no-prompt", action="store_true", help="never ask for a login")


def add_picker(parser: argparse.ArgumentParser) -> None:
    """How to pick; CryoSPARC knows the pixel size."""
    group = "how to pick, as for cryosegnet pick"
    add_options(parser, PickerOptions, group)
    force = next(option for option in fields(RunOptions) if option.name == "force")
    parser.add_argument("--force", action="store_true", help=force.metadata["help"])


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Where micrographs are read from."""
    group = parser.add_argument_group("reading")
    add = group.add_argument
    choice = group.add_mutually_exclusive_group()
    choice.add_argument("--download", action="store_true", help="download micrographs even if the project is mounted")
    choice.add_argument("--no-download", action="store_true", help="fail if the project's folder is not mounted")
    add("--cache", metavar="DIR", type=Path, help="folder for downloaded micrographs")
    add("--cache-size", metavar="GB", type=above_zero, default=20.0, help="its size limit (default: 20)")


def add_writing(parser: argparse.ArgumentParser) -> None:
    """The title of the job, and the orientation of its picks."""
    add = parser.add_argument_group("writing").add_argument
    add("--title", metavar="TEXT", default="CryoSegNet particle picking", help="title of the new job")
    add("--flip-y", action="store_true", help="mirror the picks top to bottom; see check-orientation")


def identifier(letter: str) -> Callable[[str], str]:
    """A reader of CryoSPARC's identifiers that begin with a letter, such as P1."""

    def check(text: str) -> str:
        if not (text.startswith(letter) and text[1:].isdigit()):
            raise argparse.ArgumentTypeError(f"must be of the form {letter}12 (got {text})")
        return text

    return check


@contextlib.contextmanager
def open_engine(args: argparse.Namespace) -> Iterator[MicrographPicker | Engine]:
    """The picker that the arguments ask for, or the engine of several devices; their models are loaded.

    Parameters
    ----------
    args
        With the options of `add_picker`.

    Raises
    ------
    UsageError
        Options exclude each other, or name a device that this machine does not have.
    CryoSegNetError
        The weights cannot be loaded.
    """
    options = picker_options(args)
    devices = split_devices(options.device)
    if len(devices) > 1 and any(name.startswith("cuda") for name in devices):
        from cryosegnet_ext.picking.on_device import choose_device

        # The process of a device checks it late, perhaps after the first picks of another process.
        for name in devices:
            choose_device(name)
    with engine_from(options) as picker:
        from cryosegnet_ext.runs.engines.base import Engine

        if isinstance(picker, Engine):
            # Waits until a process has loaded the networks.
            _ = picker.settings
        yield picker
