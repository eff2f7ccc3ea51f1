"""The particle diameter of a data set: estimated from a few micrographs or checked against them, and remembered.

`cryosegnet_ext.picking.diameter` measures it on images. This module decides for a data set: which micrographs to
use, what to do if only some have a pixel size, when to estimate again, and when to doubt a given diameter. It stands
beside the journal that remembers the diameter, because runs, training and hosts all use it.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import CryoSegNetError, UsageError, option
from ..files.diameter import Diameter
from ..files.inputs import Input
from ..files.micrograph import Micrograph
from ..picking.sampling import TRIES, readable
from .folder import log_error
from .journal import Journal
from .pick_task import MicrographPicker

log = logging.getLogger(__name__)

#: Called with the number of micrographs that an estimate has looked at so far, and of those to look at.
Looked = Callable[[int, int], None]

#: A given diameter is compared with an estimate from this many micrographs.
CHECKED = 2
#: A given diameter that differs from the estimate by this factor is doubted. On labelled data the estimate is right
#: within a factor of 1.2; mistakes are mostly a factor of two.
DOUBTED_FACTOR = 1.4
#: One that differs by this factor is refused, if the estimate is sure. Where it is, it is right within a factor of 2.1.
REFUSED_FACTOR = 2.5


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
    pixel_size
        Angstrom per pixel of the first micrograph, if ``diameter`` is in angstrom.
    sure
        Each micrograph alone shows about this diameter, and there are at least two; or the halves of the only one do.
        It is found out only where the given diameter is far from it.
    """

    diameter: Diameter | None = None
    read: int = 0
    problem: str | None = None
    inverted: bool = False
    other: Diameter | None = None
    pixel_size: float | None = None
    sure: bool = False

    def beside(self, given: Diameter) -> Diameter | None:
        """The diameter in the unit of a given one; None if there is none, or no pixel size to convert it."""
        if self.diameter is None or self.diameter.unit == given.unit:
            return self.diameter
        known = given.unit == "pixels" and self.pixel_size is not None
        return Diameter(self.diameter.in_pixels(self.pixel_size), "pixels") if known else None


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

    def checked() -> Iterator[Input]:
        for one in inputs[:TRIES]:
            check()
            yield one

    chosen = readable(checked(), lambda one: one.read(pixel_size))
    if not chosen:
        return Estimate()
    try:
        sizes: list[Diameter | None] = [*seen_diameters(picker, chosen, looked), None, None]
        found, other = sizes[:2]
        look = getattr(picker, "looks_inverted", None)
        bright = found is None and look is not None and look(chosen[:CHECKED])
        size = next((one.pixel_size for one in chosen if one.pixel_size is not None), None)
        result = Estimate(found, len(chosen), inverted=bool(bright), other=other, pixel_size=size)
        given = given_diameter(picker.settings)
        if given is not None and _differ(given, result.beside(given), REFUSED_FACTOR):
            result = replace(result, sure=_is_sure(picker, chosen, result, given))
        return result
    except Exception:
        return Estimate(None, len(chosen), traceback.format_exc())


def _is_sure(picker: MicrographPicker, chosen: Sequence[Micrograph], found: Estimate, given: Diameter) -> bool:
    """Whether the given diameter is that of no particle here: see `Estimate.sure`."""
    other = replace(found, diameter=found.other).beside(given)
    if other is not None and not _differ(given, other, DOUBTED_FACTOR):
        return False
    parts = list(chosen)
    if len(parts) == 1:
        one, middle = parts[0], parts[0].data.shape[1] // 2
        parts = [
            replace(one, data=np.ascontiguousarray(one.data[:, half]), valid=None)
            for half in (slice(middle), slice(middle, None))
        ]
    assert found.diameter is not None
    alone = [seen_diameter(picker, [part]) for part in parts]
    return all(one is not None and not _differ(found.diameter, one, DOUBTED_FACTOR) for one in alone)


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


def find_diameter(
    journal: Journal, needed: bool, look: Callable[[int], Iterable[Estimate]], force: bool = False
) -> None:
    """Put the diameter of a data set into its journal: once for all runs, before anything is picked.

    If the picker needs a diameter, it is estimated. If the estimate fails, the next run tries again, unless micrographs
    were picked without a diameter. A given diameter is checked; a doubt is logged as a warning, and picking goes on.
    One that is far from what is surely seen ends the run.

    Parameters
    ----------
    journal
        Its settings hold the given diameter; it remembers the estimate.
    needed
        Whether the picker needs a diameter.
    look
        Called with the largest number of micrographs to try. Yields estimates, each from other micrographs; the next
        one is asked for if an estimate has no diameter.
    force
        Go on with a given diameter that is far from what is seen; there is a warning.

    Raises
    ------
    UsageError
        The given diameter is far from what is surely seen. The journal does not remember it.
    """
    given = given_diameter(journal.settings)
    if needed and journal.diameter is None:
        if not (journal.has_diameter and any(record.done for record in journal.records.values())):
            journal.forget_warnings()
            _estimate(journal, look)
        if journal.diameter is None and journal.has_diameter:
            how = option("invert", True)
            bright = "" if journal.settings.get("invert") else f"; {how} is for particles brighter than the ice"
            one = option("diameter")
            journal.warn(f"no particle diameter could be estimated from the dataset; {one} gives one{bright}")
    elif given is not None and not journal.has_diameter:
        journal.forget_warnings()
        found = _first(journal, look(CHECKED))
        _warn_if_inverted(journal, found)
        seen = found.beside(given)
        # An estimate in pixels cannot be compared with a given one in angstrom.
        if not found.read or (found.diameter is not None and seen is None):
            return
        doubt = doubted(given, seen)
        if doubt and found.sure and not force:
            raise UsageError(
                f"{doubt}: correct it, leave it out to have the size estimated, or add {option('force', True)} to pick "
                "with it"
            )
        journal.set_diameter(found.diameter)
        if doubt:
            journal.warn(doubt)


def _warn_if_inverted(journal: Journal, found: Estimate) -> None:
    if found.inverted:
        how = f"{'leave out' if journal.settings.get('invert') else 'add'} {option('invert', True)}"
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
                f"particles of about {found.other} are seen, too: a run with {option('diameter')} into another folder "
                "picks them"
            )


def _first(journal: Journal, estimates: Iterable[Estimate]) -> Estimate:
    """The first estimate with a diameter, or the last one."""
    found = Estimate()
    for found in estimates:
        if found.problem:
            log_error(journal.folder, "estimate of the particle diameter", found.problem)
            why = found.problem.strip().splitlines()[-1].removeprefix(f"{CryoSegNetError.__module__}.CryoSegNetError: ")
            journal.warn(f"the estimate of the particle diameter failed: {why.rstrip('.')}")
        if found.diameter is not None:
            break
    return found


def given_diameter(settings: Mapping[str, object]) -> Diameter | None:
    """The given diameter, if the picker of these settings can check it; else None."""
    given = settings.get("diameter")
    ours = settings.get("recipe") == "default"
    return Diameter.given(given) if ours and isinstance(given, int | float | str) else None


def doubted(given: Diameter | None, seen: Diameter | None) -> str | None:
    """A sentence if the given and the estimated diameter differ much; None if not, or if they cannot be compared.

    >>> doubted(Diameter(85, "angstrom"), Diameter(170, "angstrom"))
    'the particles look about 170 A; diameter=85 was given'
    """
    if given is None or seen is None or not _differ(given, seen, DOUBTED_FACTOR):
        return None
    return f"the particles look about {seen}; {option('diameter', given.as_given)} was given"


def _differ(one: Diameter, other: Diameter | None, factor: float) -> bool:
    """Whether two diameters in one unit differ by this factor at least; not if they cannot be compared."""
    if other is None or other.unit != one.unit:
        return False
    return not 1 / factor < one.value / other.value < factor
