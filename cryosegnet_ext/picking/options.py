"""What the picker's options may be, and what of them goes together; light, so that mistakes are told at once.

The sentences name the options as the command line does.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import UsageError
from ..files.limits import PIXEL_SIZES

__all__ = [
    "BUILT_IN_SAM",
    "DIAMETERS",
    "PIXEL_SIZES",
    "RECIPES",
    "SEGMENTERS",
    "check_choices",
    "is_device",
    "split_devices",
]

SEGMENTERS = ("peaks", "grid", "watershed")
#: For ``peaks`` where no other SAM is named.
BUILT_IN_SAM = "sam_small"
RECIPES = ("default", "published")
#: Least and largest particle diameter, angstrom.
DIAMETERS = (1.0, 10_000.0)

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def is_device(name: str) -> bool:
    """Whether this is a device's name, be it here or not."""
    return _DEVICE.fullmatch(name) is not None


def split_devices(names: str) -> list[str]:
    """The devices of a list; a bare number is of the kind of the one before.

    >>> split_devices("cuda:0,1,2"), split_devices("cpu,cpu"), split_devices("auto")
    (['cuda:0', 'cuda:1', 'cuda:2'], ['cpu', 'cpu'], ['auto'])

    Raises
    ------
    UsageError
        One of them is no device's name.
    """
    found: list[str] = []
    for name in names.split(","):
        follows = name.strip().isdigit() and bool(found) and found[-1].startswith("cuda:")
        found.append(f"cuda:{name.strip()}" if follows else name.strip())
        if not is_device(found[-1]):
            raise UsageError(f"--device {names} is not known: use auto, cpu, cuda, cuda:0, or a list like cuda:0,1.")
    return found


def check_choices(
    segmenter: str | None = None,
    sam: str | Path | None = None,
    recipe: str | None = None,
    diameter: float | None = None,
    min_diameter: float | None = None,
    max_diameter: float | None = None,
    threshold: float | None = None,
) -> None:
    """See that options make sense, each and together; None: not given. They are those of `cryosegnet_ext.Picker`.

    Raises
    ------
    UsageError
        They do not.
    """
    if segmenter is not None and segmenter not in SEGMENTERS:
        raise UsageError(f"--segmenter {segmenter} is not known: use {', '.join(SEGMENTERS)}.")
    if recipe is not None and recipe not in RECIPES:
        raise UsageError(f"--recipe {recipe} is not known: use {' or '.join(RECIPES)}.")
    if segmenter == "grid" and sam is None:
        raise UsageError(
            "--segmenter grid needs a SAM of the published sizes and none is built in: "
            "add --sam sam_vit_b (or a file), or use peaks or watershed."
        )
    if segmenter == "watershed" and sam is not None:
        raise UsageError("--segmenter watershed does not use SAM: leave out --sam, or choose peaks or grid.")
    sizes = (("--diameter", diameter), ("--min-diameter", min_diameter), ("--max-diameter", max_diameter))
    least, largest = DIAMETERS
    for option, value in sizes:
        if value is not None and not least <= value <= largest:
            raise UsageError(f"{option} {value:g} is no diameter in angstrom from {least:g} to {largest:g}.")
    if min_diameter is not None and max_diameter is not None and min_diameter >= max_diameter:
        raise UsageError(
            f"--min-diameter {min_diameter:g} is not below --max-diameter {max_diameter:g}: exchange them."
        )
    if diameter is not None and (min_diameter is not None or max_diameter is not None):
        raise UsageError(
            "--diameter sets the range by itself: give one or the other, --diameter or "
            "--min-diameter and --max-diameter."
        )
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f"--threshold {threshold:g} is no score from 0 to 1.")
