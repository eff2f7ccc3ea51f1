"""The options that say how to pick: one table for ``cryosegnet``, ``cryosegnet-cryosparc`` and ``cryosegnet-relion``.

Option values that cannot be are told while the command line is read, before anything heavy loads.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..picking import options as choices

if TYPE_CHECKING:
    from ..picking.picker import Picker


@dataclass(frozen=True)
class Option:
    """One option: how its text is read, and what the help says.

    Attributes
    ----------
    name
        With underscores, as Python has it; ``--min-diameter`` on a command line.
    read
        Makes the value of the text; raises `argparse.ArgumentTypeError` with the rest of a sentence that the option's
        name begins.
    help
        One line.
    metavar
        What stands for the value in the help; empty for a switch, which takes none.
    group
        Title in the help.
    default
        The value where it is not given.
    """

    name: str
    read: Callable[[str], Any]
    help: str
    metavar: str
    group: str = "method"
    default: Any = None

    @property
    def flag(self) -> str:
        """The option as it is typed."""
        return f"--{self.name.replace('_', '-')}"


def add_options(parser: argparse.ArgumentParser, options: Iterable[Option], title: str | None = None) -> None:
    """Add options to a parser under the titles of their groups, or all under one title."""
    groups: dict[str, Any] = {}
    for option in options:
        name = title or option.group
        group = groups.setdefault(name, None) or parser.add_argument_group(name)
        groups[name] = group
        if not option.metavar:
            group.add_argument(option.flag, action="store_true", help=option.help)
            continue
        group.add_argument(
            option.flag, metavar=option.metavar, type=option.read, default=option.default, help=option.help
        )


def check_picker(args: Any) -> None:
    """See that the values of `PICKER_OPTIONS` go together.

    Raises
    ------
    UsageError
        They do not.
    """
    names = ("segmenter", "sam", "recipe", "diameter", "min_diameter", "max_diameter", "threshold")
    choices.check_choices(**{name: getattr(args, name) for name in names})


def picker_from(args: Any, **changes: Any) -> Picker:
    """The picker that options ask for.

    Parameters
    ----------
    args
        Anything with the values of `PICKER_OPTIONS` as attributes.
    changes
        Values that win over them.

    Raises
    ------
    CryoSegNetError
        As `Picker` raises it.
    """
    from ..picking.picker import Picker

    values = {option.name: getattr(args, option.name) for option in PICKER_OPTIONS} | changes
    return Picker(values.pop("weights"), **values)


# Readers


def text(given: str) -> str:
    """Any text."""
    return given


def number(low: float, high: float, what: str) -> Callable[[str], float]:
    """A reader of numbers from ``low`` to ``high``, both allowed."""

    def read(given: str) -> float:
        try:
            value = float(given)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{given} is no {what} from {low:g} to {high:g}")
        return value

    return read


def one_of(*names: str) -> Callable[[str], str]:
    """A reader of these names."""

    def read(given: str) -> str:
        if given not in names:
            raise argparse.ArgumentTypeError(f"{given} is not known: use {', '.join(names)}")
        return given

    return read


def yes_no(given: str) -> bool:
    """RELION's Yes and No, and what else people write for them."""
    answers = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
    if given.lower() not in answers:
        raise argparse.ArgumentTypeError(f"{given} is neither Yes nor No")
    return answers[given.lower()]


def even_pixels(given: str) -> int:
    """The side of a box, which is even so that it has a middle pixel."""
    if not given.isdigit() or int(given) < 2 or int(given) % 2:
        raise argparse.ArgumentTypeError(f"{given} is no box in pixels: give an even number of at least 2")
    return int(given)


def device(given: str) -> str:
    """A device's name, be it here or not."""
    if not choices.is_device(given):
        raise argparse.ArgumentTypeError(f"{given} is not known: use auto, cpu, cuda or cuda:0")
    return given


_SIZE, _CHOICE = "particle size (angstrom)", "what counts as a particle"
_diameter = number(*choices.DIAMETERS, "diameter in angstrom")

#: Belongs to the micrographs, not to the picker; hosts that know the pixel size do not ask for it.
PIXEL_SIZE = Option(
    "pixel_size",
    number(*choices.PIXEL_SIZES, "pixel size in angstrom"),
    "angstrom per pixel (default: from STAR or file header)",
    "A",
    _SIZE,
)

DEVICE = Option("device", device, "auto, cpu, cuda or cuda:N (default: auto)", "D", default="auto")

PICKER_OPTIONS = (
    Option("diameter", _diameter, "particle diameter (default: estimated from the data)", "A", _SIZE),
    Option("min_diameter", _diameter, "smallest diameter to keep", "A", _SIZE),
    Option("max_diameter", _diameter, "largest diameter to keep", "A", _SIZE),
    Option(
        "threshold", number(0, 1, "score"), "lowest score to keep, 0 to 1 (default: the weights' own)", "S", _CHOICE
    ),
    Option("weights", text, "network (default: the built-in one)", "NAME|FILE", default="default"),
    Option("sam", text, "SAM checkpoint, for the segmenters peaks and grid", "NAME|FILE"),
    Option(
        "segmenter",
        one_of(*choices.SEGMENTERS),
        "how particles are parted: SAM asked at the network's peaks, SAM's grid as published, or no SAM "
        "(default: see cryosegnet doctor)",
        f"{{{','.join(choices.SEGMENTERS)}}}",
    ),
    Option(
        "recipe",
        one_of(*choices.RECIPES),
        "filters and rules: our own, or the published ones (default: what the weights were trained for)",
        f"{{{','.join(choices.RECIPES)}}}",
    ),
    Option("denoised", yes_no, "the input went through the published denoising already", "", default=False),
    DEVICE,
)
"""What `cryosegnet_ext.Picker` takes, under the same names."""
