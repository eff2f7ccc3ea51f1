"""The picker's options: allowed values, their combinations, and help. All programs derive theirs from this table.

Imports nothing heavy, so that errors appear before torch loads.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import UsageError, option
from ..files.diameter import Diameter
from ..files.limits import PIXEL_SIZES

__all__ = [
    "BUILT_IN_SAM",
    "DIAMETERS",
    "PIXEL_SIZES",
    "PickerOptions",
    "RunOptions",
    "about",
    "check_diameter",
    "flag",
    "is_device",
    "not_between",
    "split_devices",
]

#: For the segmenter ``peaks`` if no other SAM is given.
BUILT_IN_SAM = "sam_small"
#: Least and largest particle diameter, angstrom.
DIAMETERS = (1.0, 10_000.0)
#: Titles of the groups of options.
MICROGRAPHS, SIZE, SCORE, METHOD = "micrographs", "particle size", "what counts as a particle", "method"

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def about(
    help: str,
    *,
    limits: tuple[float, float] | None = None,
    unit: str = "",
    choices: tuple[str, ...] = (),
    metavar: str = "V",
    group: str = METHOD,
    relion: str = "",
    label: str = "",
    step: float = 0.0,
) -> dict[str, Any]:
    """Metadata of a field of a table of options. A field whose default is False is a switch.

    Parameters
    ----------
    help
        One line.
    limits, unit
        Smallest and largest number, both allowed; integers if only whole numbers are.
    choices
        All allowed values.
    metavar
        Stands for the value in the help.
    group
        Title in the help.
    relion
        The parameter's label in RELION, if it is not the field's name.
    label, step
        In the form of the CCP-EM pipeliner; without a label the form does not have the option.
    """
    shown = {"help": help, "metavar": metavar, "group": group, "relion": relion, "label": label, "step": step}
    return shown | {"limits": limits, "unit": unit, "choices": choices}


_size = partial(about, limits=DIAMETERS, unit="angstrom", group=SIZE, step=10.0)


@dataclass(frozen=True, kw_only=True)
class PickerOptions:
    """What `cryosegnet_ext.Picker` takes, under the same names; None: not given.

    Raises
    ------
    UsageError
        A value is not allowed, or does not go with another one.
    """

    diameter: float | str | None = field(
        default=None,
        metadata=_size(
            help="particle diameter, angstrom, or pixels as 151px (default: estimated from the data)",
            metavar="A|Npx",
            relion="particle_diameter",
            label="Particle diameter (A):",
        ),
    )
    min_diameter: float | None = field(
        default=None,
        metadata=_size(help="smallest diameter to keep, angstrom", metavar="A", label="Smallest diameter (A):"),
    )
    max_diameter: float | None = field(
        default=None,
        metadata=_size(help="largest diameter to keep, angstrom", metavar="A", label="Largest diameter (A):"),
    )
    threshold: float | None = field(
        default=None,
        metadata=about(
            "lowest score (figure of merit) to keep, 0 to 1 (default: the weights' own)",
            limits=(0.0, 1.0),
            metavar="S",
            group=SCORE,
            label="Figure of merit threshold:",
            step=0.05,
        ),
    )
    weights: str | Path = field(
        default="default",
        metadata=about(
            "network: a name that `cryosegnet weights list` shows, or a file (default: the built-in one)",
            metavar="NAME|FILE",
            label="Network:",
        ),
    )
    sam: str | Path | None = field(
        default=None,
        metadata=about(
            "Segment Anything model (name or file): grid needs one, peaks has a small one built in, watershed has none",
            metavar="NAME|FILE",
            label="Segment Anything model:",
        ),
    )
    segmenter: str | None = field(
        default=None,
        metadata=about(
            "how touching particles are separated: peaks (SAM at the network's peaks), watershed (no SAM) or grid "
            "(SAM's grid, as published); default: peaks, or watershed if the weights were not calibrated for it",
            choices=("peaks", "grid", "watershed"),
            label="Segmenter:",
        ),
    )
    recipe: str | None = field(
        default=None,
        metadata=about(
            "filters and rules: default (our own) or published; without it, those for which the weights were trained",
            choices=("default", "published"),
        ),
    )
    denoised: bool = field(
        default=False, metadata=about("the micrographs already went through the published denoising")
    )
    invert: bool = field(
        default=False,
        metadata=about(
            "the particles are brighter than the ice (negative stain, inverted contrast)",
            group=MICROGRAPHS,
            label="Particles are bright:",
        ),
    )
    device: str = field(
        default="auto",
        metadata=about(
            "auto, cpu, cuda, cuda:N, or a list like cuda:0,1, with one process for each (default: auto)",
            metavar="D",
            relion="gpu",
            label="GPU:",
        ),
    )

    def __post_init__(self) -> None:
        for one in fields(self):
            value, limits, choices = getattr(self, one.name), one.metadata.get("limits"), one.metadata.get("choices")
            if value is None:
                continue
            if one.name == "diameter":
                try:
                    check_diameter(value)
                except ValueError as error:
                    raise UsageError(f"{option(one.name)} {error}.") from None
            elif limits and not limits[0] <= value <= limits[1]:
                wrong = not_between(limits[0], limits[1], one.metadata["unit"], f"{value:g}")
                raise UsageError(f"{option(one.name)} {wrong}.")
            if choices and value not in choices:
                raise UsageError(f"{option(one.name)} must be one of {', '.join(choices)} (got {value}).")
        split_devices(self.device)
        if self.segmenter == "grid" and self.sam is None:
            raise UsageError(
                f"{option('segmenter', 'grid')} needs a SAM of the published sizes and none is built in: "
                f"add {option('sam', 'sam_vit_b')} (or a file), or use peaks or watershed."
            )
        if self.segmenter == "watershed" and self.sam is not None:
            raise UsageError(
                f"{option('segmenter', 'watershed')} does not use SAM: leave out {option('sam')}, or choose peaks or "
                "grid."
            )
        low, high = self.min_diameter, self.max_diameter
        if low is not None and high is not None and low >= high:
            lower, upper = option("min_diameter", float(low)), option("max_diameter", float(high))
            raise UsageError(f"{lower} is not below {upper}: exchange them.")
        if self.diameter is not None and (low is not None or high is not None):
            given, limit = option("diameter"), f"{option('min_diameter')} and {option('max_diameter')}"
            raise UsageError(f"{given} sets the range by itself: give one or the other, {given} or {limit}.")


@dataclass(frozen=True, kw_only=True)
class RunOptions(PickerOptions):
    """The options of a run over many micrographs: the picker's, and those that it does not know."""

    pixel_size: float | None = field(
        default=None,
        metadata=about(
            "angstrom per pixel (default: from STAR or file header)",
            limits=PIXEL_SIZES,
            unit="angstrom",
            metavar="A",
            group=MICROGRAPHS,
            relion="angpix",
            label="Pixel size (A), over the STAR file's:",
            step=0.01,
        ),
    )
    force: bool = field(
        default=False,
        metadata=about("pick with the given diameter even if the particles look much larger or smaller", group=SIZE),
    )


def flag(name: str) -> str:
    """An option as it is typed.

    >>> flag("min_diameter")
    '--min-diameter'
    """
    return f"--{name.replace('_', '-')}"


def check_diameter(given: float | str) -> Diameter:
    """The particle diameter that a user gives, angstrom, or pixels as ``"151px"``.

    Raises
    ------
    ValueError
        It is not a diameter; the text is an error message without the option's name in front.
    """
    try:
        found = Diameter.given(given)
    except ValueError:
        found = Diameter(math.nan, "angstrom")
    low, high = DIAMETERS
    if not low <= found.value <= high:
        shown = given if isinstance(given, str) else f"{given:g}"
        raise ValueError(not_between(low, high, found.unit or "", shown))
    return found


def not_between(low: float, high: float, unit: str, got: str) -> str:
    """An error message for a number outside its limits, without the option's name in front.

    >>> not_between(1, 10_000, "angstrom", "1e9")
    'must be between 1 and 10000 angstrom (got 1e9)'
    """
    return f"must be between {low:.10g} and {' '.join((f'{high:.10g}', unit)).strip()} (got {got})"


def is_device(name: str) -> bool:
    """Whether this is the name of a device; it need not exist here."""
    return _DEVICE.fullmatch(name) is not None


def split_devices(names: str) -> list[str]:
    """The devices of a list; a number alone stands for a GPU.

    >>> split_devices("cuda:0,1,2"), split_devices("cpu,cpu"), split_devices("auto")
    (['cuda:0', 'cuda:1', 'cuda:2'], ['cpu', 'cpu'], ['auto'])

    Raises
    ------
    UsageError
        One of them is not the name of a device.
    """
    found: list[str] = []
    for name in names.split(","):
        follows = name.strip().isdigit() and bool(found) and found[-1].startswith("cuda:")
        found.append(f"cuda:{name.strip()}" if follows else name.strip())
        if not is_device(found[-1]):
            name = option("device")
            raise UsageError(f"{name} must be auto, cpu, cuda, cuda:0, or a list like cuda:0,1 (got {names}).")
    return found
