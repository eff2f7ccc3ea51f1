"""The particle's size from a few micrographs of a dataset, before any is picked."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..files.inputs import Input
from ..files.micrograph import Micrograph, read_micrograph
from .task import MicrographPicker

#: The diameter is estimated from this many micrographs at most, and from this many pixels.
MICROGRAPHS = 8
_PIXELS = 400_000_000
#: How many are tried to find that many which can be read.
TRIES = 100


@dataclass(frozen=True)
class Estimate:
    """What came of an estimate.

    Attributes
    ----------
    diameter
        Angstrom, or pixels where ``in_angstrom`` is False; None where it could not be determined.
    in_angstrom
        Whether the micrographs have a pixel size. Where only some have, those without are left out.
    read
        How many micrographs were read for it.
    problem
        Traceback of an unexpected error.
    """

    diameter: float | None = None
    in_angstrom: bool = True
    read: int = 0
    problem: str | None = None


def estimate(
    picker: MicrographPicker,
    inputs: Sequence[Input],
    pixel_size: float | None = None,
    check: Callable[[], None] = lambda: None,
) -> Estimate:
    """Estimate the diameter from the first readable ones of ``inputs``; the same ones give the same answer.

    Parameters
    ----------
    picker
        Estimates.
    inputs
        Micrographs in the order in which they are tried.
    pixel_size
        Angstrom per pixel; wins over the inputs' own.
    check
        Called between micrographs; may raise to give up.
    """
    chosen: list[Micrograph] = []
    pixels = 0
    for one in inputs[:TRIES]:
        check()
        try:
            chosen.append(read_micrograph(one.path, pixel_size=pixel_size or one.pixel_size))
        except Exception:
            continue
        pixels += chosen[-1].data.size
        if len(chosen) == MICROGRAPHS or pixels > _PIXELS:
            break
    if not chosen:
        return Estimate()
    # A length in pixels and one in angstrom cannot be weighed against each other.
    with_size = [micrograph for micrograph in chosen if micrograph.pixel_size is not None]
    known = bool(with_size)
    try:
        diameter = picker.estimate_diameter(with_size or chosen)
    except Exception:
        return Estimate(None, known, len(chosen), traceback.format_exc())
    return Estimate(None if diameter is None else float(diameter), known, len(chosen))


def spread(count: int) -> list[int]:
    """The numbers below ``count``, from coarsely to finely spaced: any first few of them lie evenly."""
    bits = max(count - 1, 1).bit_length()
    fractions = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits))
    return list(dict.fromkeys(fraction * count >> bits for fraction in fractions))
