"""What `cryosegnet_ext.Picker` takes: a micrograph as a path, an array or read already, or several of them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from ..errors import CryoSegNetError
from ..files.diameter import Diameter
from ..files.inputs import Input
from ..files.micrograph import Micrograph, micrograph_of, read_micrograph
from ..files.picks import Picks
from .sampling import TRIES, readable, spread

log = logging.getLogger(__name__)

#: An array is (ny, nx); anything that NumPy makes such an array of will do.
OneMicrograph: TypeAlias = Micrograph | Input | str | os.PathLike[str] | np.ndarray[Any, Any]


def as_list(given: OneMicrograph | Iterable[OneMicrograph]) -> list[OneMicrograph] | None:
    """The micrographs of a list or another iterable; None if this is one micrograph, as an array is."""
    if isinstance(given, Micrograph | Input | str | os.PathLike) or hasattr(given, "__array__"):
        return None
    return list(given)


def as_micrograph(given: OneMicrograph | Iterable[OneMicrograph], pixel_size: float | None = None) -> Micrograph:
    """The micrograph that is given, with this pixel size if there is one.

    Raises
    ------
    CryoSegNetError
        As `read_micrograph`; an array is checked as a file is.
    """
    if isinstance(given, Micrograph):
        return given if pixel_size is None else replace(given, pixel_size=pixel_size)
    if isinstance(given, Input):
        return given.read(pixel_size)
    if isinstance(given, str | os.PathLike):
        return read_micrograph(given, pixel_size)
    return micrograph_of(given, pixel_size)


def read_each(every: list[OneMicrograph], pixel_size: float | None) -> list[Micrograph]:
    """Read several micrographs; one that cannot be read is left out and gives a warning.

    Raises
    ------
    CryoSegNetError
        None of them can be read.
    """
    found: list[Micrograph] = []
    failures: list[CryoSegNetError] = []
    for number, one in enumerate(every, start=1):
        try:
            found.append(as_micrograph(one, pixel_size))
        except CryoSegNetError as error:
            failures.append(error)
            log.warning(f"micrograph {number} of {len(every)} was left out: {error}")
    if failures and not found:
        raise CryoSegNetError(f"none of the {len(every)} micrographs could be read; the first: {failures[0]}")
    return found


def pick_each(
    pick: Callable[[Micrograph, float | None], Picks],
    every: list[OneMicrograph],
    pixel_size: float | None,
    diameter: float | None,
    estimate: Callable[[list[Micrograph]], float | None] | None,
) -> list[Picks | None]:
    """Pick several micrographs, with one size for all. One that cannot be picked is None and gives a warning.

    Parameters
    ----------
    pick
        Picks one, with a diameter as `Picker.pick` takes it.
    every
        The micrographs; files are read one after the other.
    pixel_size
        Of all, angstrom per pixel; None: their own.
    diameter
        Of the particles, as picks hold it; None: estimated.
    estimate
        Estimates it from a few; None if the picker needs none.

    Raises
    ------
    CryoSegNetError
        None of them can be picked.
    """
    size = None
    if every and diameter is None and estimate is not None:
        in_turn = (every[i] for i in spread(len(every))[:TRIES])
        sample = readable(in_turn, lambda one: as_micrograph(one, pixel_size))
        # angstrom and pixels cannot be averaged
        sample = [one for one in sample if one.pixel_size is not None] or sample
        seen = estimate(sample) if sample else None
        size = None if seen is None else Diameter.of(seen, sample[0].pixel_size)
    found: list[Picks | None] = []
    failures: list[CryoSegNetError] = []
    for number, one in enumerate(every, start=1):
        try:
            micrograph = as_micrograph(one, pixel_size)
            found.append(pick(micrograph, diameter if size is None else size.for_picks(micrograph.pixel_size)))
        except CryoSegNetError as error:
            failures.append(error)
            found.append(None)
            log.warning(f"micrograph {number} of {len(every)} was not picked: {error}")
    if failures and len(failures) == len(every):
        raise CryoSegNetError(f"none of the {len(every)} micrographs could be picked; the first: {failures[0]}")
    return found
