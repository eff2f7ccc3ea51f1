"""The particle diameter of a data set: estimated from a few micrographs or checked against them, and remembered.

`cryosegnet_ext.picking.diameter` says what the images of a few micrographs show. Here stands what holds for a data set,
and it needs no image: which micrographs are asked, what a mixture of pixel sizes means, when an estimate is made again,
and when a diameter that was given is doubted. Runs and hosts share it, so it lies with the runs and their journal.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..files.diameter import Diameter
from ..files.inputs import Input
from ..files.micrograph import Micrograph, read_micrograph
from .folder import log_error
from .journal import Journal
from .pick_task import MicrographPicker

log = logging.getLogger(__name__)

#: The diameter is estimated from at most this many micrographs, and from this many pixels.
MICROGRAPHS = 8
_PIXELS = 400_000_000
#: How many are tried to find that many which can be read.
TRIES = 100
#: A diameter that was given is compared with what this many micrographs show.
CHECKED = 2
#: A given diameter this many times the one that is seen, or less than its inverse, is doubted. On labelled data the
#: estimate lies within a factor of 1.2; mistakes are mostly of a factor of two.
DOUBTED_FACTOR = 1.4


@dataclass(frozen=True)
class Estimate:
    """Result of an estimate.

    Attributes
    ----------
    diameter
        None where it could not be determined.
    read
        How many micrographs were read for it.
    problem
        Traceback of an unexpected error.
    """

    diameter: Diameter | None = None
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
    try:
        return Estimate(seen_diameter(picker, chosen), len(chosen))
    except Exception:
        return Estimate(None, len(chosen), traceback.format_exc())


def seen_diameter(picker: MicrographPicker, micrographs: Sequence[Micrograph]) -> Diameter | None:
    """The diameter that micrographs show; None where it cannot be determined.

    Where some have a pixel size, the others are left out: angstrom and pixels cannot be averaged.
    """
    comparable = [one for one in micrographs if one.pixel_size is not None] or micrographs
    found = picker.estimate_diameter(comparable)
    return None if found is None else Diameter.of(found, comparable[0].pixel_size)


def find_diameter(journal: Journal, needed: bool, look: Callable[[int], Iterable[Estimate]]) -> None:
    """Put the diameter of a data set into its journal: once for all runs, before anything is picked.

    Where the picker needs a diameter it is estimated. An estimate without a result is repeated by the next run as long
    as no micrograph was picked without one. A diameter that was given is checked; a doubt is said, and picking goes on.

    Parameters
    ----------
    journal
        Its settings say what was given; it remembers what is found.
    needed
        Whether the picker needs a diameter.
    look
        Called with how many micrographs to try at most. Gives an estimate, and another one from other micrographs as
        long as it is asked for one.
    """
    given = given_diameter(journal.settings)
    if needed and journal.diameter is None:
        if not (journal.has_diameter and any(record.done for record in journal.records.values())):
            _estimate(journal, look)
        if journal.diameter is None and journal.has_diameter:
            log.warning("no particle diameter could be estimated from the dataset; --diameter A gives one")
    elif given is not None and not journal.has_diameter:
        found = _first(journal, look(CHECKED))
        # Without a pixel size nothing can be compared with angstrom.
        if found.read and (found.diameter is None or found.diameter.unit == "angstrom"):
            journal.set_diameter(found.diameter)
            doubt = doubted(given, found.diameter)
            if doubt:
                log.warning(doubt)


def _estimate(journal: Journal, look: Callable[[int], Iterable[Estimate]]) -> None:
    found = _first(journal, look(TRIES))
    if found.read:
        # Where nothing could be read, nothing is known, and the failures say so.
        journal.set_diameter(found.diameter)
    if found.diameter is not None:
        log.info(f"the particles are about {found.diameter} large; all micrographs are picked with it")


def _first(journal: Journal, estimates: Iterable[Estimate]) -> Estimate:
    """The first estimate with a diameter; else the last one."""
    found = Estimate()
    for found in estimates:
        if found.problem:
            log_error(journal.folder, "estimate of the particle diameter", found.problem)
            log.warning(f"the estimate of the particle diameter failed: {found.problem.strip().splitlines()[-1]}")
        if found.diameter is not None:
            break
    return found


def given_diameter(settings: Mapping[str, object]) -> Diameter | None:
    """The diameter that was given, where the picker of these settings can tell whether it fits."""
    given = settings.get("diameter")
    ours = settings.get("recipe") == "default"
    return Diameter(float(given), "angstrom") if ours and isinstance(given, int | float) else None


def doubted(given: Diameter | None, seen: Diameter | None) -> str | None:
    """Doubt of a given diameter where another one is seen, both in angstrom; None where there is none.

    >>> doubted(Diameter(85, "angstrom"), Diameter(170, "angstrom"))
    'the particles look about 170 A; --diameter 85 was given'
    """
    if given is None or seen is None or seen.unit != "angstrom":
        return None
    if 1 / DOUBTED_FACTOR < given.value / seen.value < DOUBTED_FACTOR:
        return None
    return f"the particles look about {seen}; --diameter {given.value:g} was given"


def spread(count: int) -> list[int]:
    """The numbers below ``count``, from coarsely to finely spaced: any first few of them lie evenly."""
    bits = max(count - 1, 1).bit_length()
    fractions = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits))
    return list(dict.fromkeys(fraction * count >> bits for fraction in fractions))
