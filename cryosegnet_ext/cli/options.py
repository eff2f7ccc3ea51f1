"""The picker's options on a command line: argparse arguments derived from the table in `picking.options`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any

from ..errors import as_typed
from ..picking.options import PickerOptions, flag
from . import readers

if TYPE_CHECKING:
    from ..picking.picker import Picker


def add_options(parser: argparse.ArgumentParser, table: type[PickerOptions], title: str | None = None) -> None:
    """Add the options of a table to a parser, in their groups or all under one title."""
    groups: dict[str, Any] = {}
    for option in fields(table):
        name = title or option.metadata["group"]
        group = groups[name] = groups.get(name) or parser.add_argument_group(name)
        text, choices = option.metadata["help"], option.metadata["choices"]
        if option.default is False:
            group.add_argument(flag(option.name), action="store_true", help=text)
        else:
            group.add_argument(
                flag(option.name),
                metavar=None if choices else option.metadata["metavar"],
                choices=choices or None,
                type=reader_of(option),
                default=option.default,
                help=text,
            )


def reader_of(option: Field[Any]) -> Callable[[str], Any]:
    """The reader of an option: text in, value out."""
    limits, choices = option.metadata["limits"], option.metadata["choices"]
    if option.name == "diameter":
        return readers.diameter
    if limits:
        low, high = limits
        return readers.whole(low, high) if isinstance(low, int) else readers.number(low, high, option.metadata["unit"])
    if choices:
        return readers.one_of(*choices)
    if option.default is False:
        return readers.yes_no
    return readers.devices if option.name == "device" else str


def picker_options(args: argparse.Namespace) -> PickerOptions:
    """The picker's options of a command line.

    Raises
    ------
    UsageError
        They cannot be combined.
    """
    return PickerOptions(**{option.name: getattr(args, option.name) for option in fields(PickerOptions)})


def make_picker(options: PickerOptions, device: str) -> Picker:
    """The picker with these options on a device, in the process that calls this.

    Raises
    ------
    CryoSegNetError
        As `Picker` raises it.
    """
    from ..picking.picker import Picker

    values = {option.name: getattr(options, option.name) for option in fields(PickerOptions)}
    with as_typed():  # a process of its own does not know that a command started it
        return Picker(**values | {"device": device})
