"""The particle diameter of a data set: estimated from a few micrographs or checked against them, and remembered.

`cryosegnet_ext.picking.diameter` measures it on images. This module decides for a data set: which micrographs to
use, what to do if only some have a pixel size, when to estimate again, and when to doubt a given diameter. It stands
beside the journal that remembers the diameter, because runs, training and hosts all use it.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..files.diameter import Diameter
from ..files.inputs import Input
from ..files.micrograph import Micrograph
from .folder import log_error
from .journal import Journal
from .pick_task import MicrographPicker

log = logging.getLogger(__name__)

#: Called with the number of micrographs that an estimate has looked at so far, and of those to look at.
Looked = Callable[[int, int], None]

#: The diameter is estimated from at most this many micrographs; no more are read beyond this many pixels.
MICROGRAPHS = 8
_PIXELS = 400_000_000
#: At most this many files are tried to find as many that can be read.
TRIES = 100
#: A given diameter is compared with an estimate from this many micrographs.
CHECKED = 2
#: A given diameter that differs from the estimate by this factor is doubted. On labelled data the estimate is right
#: within a factor of 1.2; mistakes are mostly a factor of two.
DOUBTED_FACTOR = 1.4


def unheard(looked: int, of: int) -> None:
    """Nobody wants to know how far an estimate is."""


@dataclass(frozen=True)
class Estimate:
    """Result of an estimate.

    Attributes
    ----------
    diameter
        None if it could not be determined.
    read
        How many micrographs were read.
    problem
        Traceback of an unexpected error.
    inverted
        No particles are seen, but they are once the contrast is inverted.
    other
        A second size of which particles are seen.
    """

    diameter: Diameter | None = None
    read: int = 0
    problem: str | None = None
    inverted: bool = False
    other: Diameter | None = None


def estimate(
    picker: MicrographPicker,
    inputs: Sequence[Input],
    pixel_size: float | None = None,
    check: Callable[[], None] = lambda: None,
    looked: Looked = unheard,
) -> Estimate:
    """Estimate the diameter from the first readable ones of ``inputs``; the same ones give the same estimate.

    Parameters
    ----------
    picker
        Estimates.
    inputs
        Micrographs in the order in which they are tried.
    pixel_size
        Angstrom per pixel; wins over that of the inputs.
    check
        Called between micrographs; it may raise to stop.
    looked
        Called with the number of micrographs that were looked at so far, and of those to look at.
    """
    chosen: list[Micrograph] = []
    pixels = 0
    for one in inputs[:TRIES]:
        check()
        try:
            chosen.append(one.read(pixel_size))
        except Exception:
            continue
        pixels += chosen[-1].data.size
        if len(chosen) == MICROGRAPHS or pixels > _PIXELS:
            break
    if not chosen:
        return Estimate()
    try:
        sizes: list[Diameter | None] = [*seen_diameters(picker, chosen, looked), None, None]
        found, other = sizes[:2]
        look = getattr(picker, "looks_inverted", None)
        bright = found is None and look is not None and look(chosen[:CHECKED])
        return Estimate(found, len(chosen), inverted=bool(bright), other=other)
    except Exception:
        return Estimate(None, len(chosen), traceback.format_exc())


def seen_diameter(picker: MicrographPicker, micrographs: Sequence[Micrograph]) -> Diameter | None:
    """The diameter that micrographs show; None if it cannot be determined.

    If some have a pixel size, the others are left out: angstrom and pixels cannot be averaged.
    """
    return next(iter(seen_diameters(picker, micrographs)), None)


def seen_diameters(
    picker: MicrographPicker, micrographs: Sequence[Micrograph], looked: Looked = unheard
) -> list[Diameter]:
    """`seen_diameter` and, if the picker sees particles of a second size, that size."""
    comparable = [one for one in micrographs if one.pixel_size is not None] or micrographs
    both = getattr(picker, "estimate_sizes", None)
    if both is None:
        found = picker.estimate_diameter(comparable)
        sizes = () if found is None else (found,)
    else:
        sizes = both(comparable, lambda number: looked(number, len(comparable)))
    return [Diameter.of(size, comparable[0].pixel_size) for size in sizes]


def find_diameter(journal: Journal, needed: bool, look: Callable[[int], Iterable[Estimate]]) -> None:
    """Put the diameter of a data set into its journal: once for all runs, before anything is picked.

    If the picker needs a diameter, it is estimated. If the estimate fails, the next run tries again, unless micrographs
    were picked without a diameter. A given diameter is checked; a doubt is logged as a warning, and picking goes on.

    Parameters
    ----------
    journal
        Its settings hold the given diameter; it remembers the estimate.
    needed
        Whether the picker needs a diameter.
    look
        Called with the largest number of micrographs to try. Yields estimates, each from other micrographs; the next
        one is asked for if an estimate has no diameter.
    """
    given = given_diameter(journal.settings)
    if needed and journal.diameter is None:
        if not (journal.has_diameter and any(record.done for record in journal.records.values())):
            journal.forget_warnings()
            _estimate(journal, look)
        if journal.diameter is None and journal.has_diameter:
            bright = "" if journal.settings.get("invert") else "; --invert is for particles brighter than the ice"
            journal.warn(f"no particle diameter could be estimated from the dataset; --diameter A gives one{bright}")
    elif given is not None and not journal.has_diameter:
        journal.forget_warnings()
        found = _first(journal, look(CHECKED))
        _warn_if_inverted(journal, found)
        # An estimate in pixels cannot be compared with the given angstrom.
        if found.read and (found.diameter is None or found.diameter.unit == "angstrom"):
            journal.set_diameter(found.diameter)
            doubt = doubted(given, found.diameter)
            if doubt:
                log.warning(doubt)


def _warn_if_inverted(journal: Journal, found: Estimate) -> None:
    if found.inverted:
        how = "leave out --invert" if journal.settings.get("invert") else "add --invert"
        side = "darker" if journal.settings.get("invert") else "brighter"
        journal.warn(f"the particles look {side} than the ice: {how}")


def _estimate(journal: Journal, look: Callable[[int], Iterable[Estimate]]) -> None:
    found = _first(journal, look(TRIES))
    _warn_if_inverted(journal, found)
    if found.read:
        # If nothing could be read, nothing is known: the next run estimates again.
        journal.set_diameter(found.diameter)
    if found.diameter is not None:
        log.info(f"the particles are about {found.diameter} large; all micrographs are picked with this size")
        if found.other is not None:
            journal.warn(
                f"particles of about {found.other} are seen, too: a run with --diameter into another folder picks them"
            )


def _first(journal: Journal, estimates: Iterable[Estimate]) -> Estimate:
    """The first estimate with a diameter, or the last one."""
    found = Estimate()
    for found in estimates:
        if found.problem:
            log_error(journal.folder, "estimate of the particle diameter", found.problem)
            journal.warn(f"the estimate of the particle diameter failed: {found.problem.strip().splitlines()[-1]}")
        if found.diameter is not None:
            break
    return found


def given_diameter(settings: Mapping[str, object]) -> Diameter | None:
    """The given diameter, if the picker of these settings can check it; else None."""
    given = settings.get("diameter")
    ours = settings.get("recipe") == "default"
    return Diameter(float(given), "angstrom") if ours and isinstance(given, int | float) else None


def doubted(given: Diameter | None, seen: Diameter | None) -> str | None:
    """A sentence if the given and the estimated diameter differ much; None if not, or if they cannot be compared.

    >>> doubted(Diameter(85, "angstrom"), Diameter(170, "angstrom"))
    'the particles look about 170 A; --diameter 85 was given'
    """
    if given is None or seen is None or seen.unit != "angstrom":
        return None
    if 1 / DOUBTED_FACTOR < given.value / seen.value < DOUBTED_FACTOR:
        return None
    return f"the particles look about {seen}; --diameter {given.value:g} was given"


def spread(count: int) -> list[int]:
    """The numbers below ``count`` in an order of which any first few are evenly spaced."""
    bits = max(count - 1, 1).bit_length()
    fractions = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits))
    return list(dict.fromkeys(fraction * count >> bits for fraction in fractions))
