"""Readers of option values: text in, value out.

Errors are sentences without their beginning, which is the option's name.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from ..errors import UsageError
from ..picking.options import check_diameter, is_device, not_between, split_devices

#: Formats of pick files with one micrograph in each.
PICK_FORMATS = ("star", "box", "cbox", "csv")


def to_float(given: str) -> float:
    """A number; NaN if the text is none."""
    try:
        return float(given)
    except ValueError:
        return math.nan


def number(low: float, high: float, unit: str = "") -> Callable[[str], float]:
    """A reader of numbers from ``low`` to ``high``, both allowed."""

    def read(given: str) -> float:
        value = to_float(given)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(not_between(low, high, unit, given))
        return value

    return read


def diameter(given: str) -> float | str:
    """A particle diameter: angstrom (180), or pixels (151px)."""
    try:
        return check_diameter(given).as_given
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def whole(low: int, high: int) -> Callable[[str], int]:
    """A reader of whole numbers from ``low`` to ``high``, both allowed."""

    def read(given: str) -> int:
        if not given.lstrip("-").isdecimal() or not low <= int(given) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high} (got {given})")
        return int(given)

    return read


def above_zero(given: str) -> float:
    """A number above zero."""
    value = to_float(given)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above zero (got {given})")
    return value


def one_of(*names: str) -> Callable[[str], str]:
    """A reader of these names."""

    def read(given: str) -> str:
        if given not in names:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(names)} (got {given})")
        return given

    return read


def yes_no(given: str) -> bool:
    """RELION's Yes and No, and other ways to write them."""
    answers = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
    if given.lower() not in answers:
        raise argparse.ArgumentTypeError(f"must be Yes or No (got {given})")
    return answers[given.lower()]


def even_pixels(given: str) -> int:
    """The side of a box: an even number, as programs expect."""
    if not given.isdecimal() or int(given) < 2 or int(given) % 2:
        raise argparse.ArgumentTypeError(f"must be an even number of pixels, at least 2 (got {given})")
    return int(given)


def device(given: str) -> str:
    """The name of a device; it need not exist here."""
    if not is_device(given):
        raise argparse.ArgumentTypeError(f"must be auto, cpu, cuda or cuda:0 (got {given})")
    return given


def devices(given: str) -> str:
    """The name of a device, or a list of them; they need not exist here."""
    try:
        split_devices(given)
    except UsageError:
        raise argparse.ArgumentTypeError(
            f"must be auto, cpu, cuda, cuda:0, or a list like cuda:0,1 (got {given})"
        ) from None
    return given


def pick_formats(given: str) -> tuple[str, ...]:
    """Formats of pick files, separated by commas."""
    names = tuple(dict.fromkeys(name.strip().lower() for name in given.split(",") if name.strip()))
    if not names or not set(names) <= set(PICK_FORMATS):
        raise argparse.ArgumentTypeError(f"must be some of {','.join(PICK_FORMATS)} (got {given})")
    return names
