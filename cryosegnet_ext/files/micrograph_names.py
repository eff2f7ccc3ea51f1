"""Which micrographs two lists have in common, where each may call them by another folder, job or suffix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from .labels import stem_of
from .micrograph import micrograph_stem
from .relion_paths import strip_job
from .text import spelt


def match_micrographs(names: Sequence[str], listed: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Find each micrograph in a list of other names.

    It is the one of exactly that name; else that with the same path below RELION's ``JobType/jobNNN/``; else that with
    the same stem, without what programs add to it (see `stem_of`). Where two micrographs of either side have the same
    path or stem, only the exact name tells which is meant.

    Parameters
    ----------
    names
        The micrographs, each once.
    listed
        The names in the list, each once.

    Returns
    -------
    dict of str to str
        Name -> name in the list; those that are not in the list are absent.
    list of str
        Names that are absent because the list has them, and cannot tell them from others.

    Examples
    --------
    >>> match_micrographs(["MotionCorr/job002/M/a.mrc", "b.mrc"], ["MotionCorr/job009/M/a.mrc", "M/b.tif"])
    ({'MotionCorr/job002/M/a.mrc': 'MotionCorr/job009/M/a.mrc', 'b.mrc': 'M/b.tif'}, [])
    """
    there = dict.fromkeys(listed)
    found = {name: name for name in names if name in there}
    unclear: list[str] = []
    taken = set(found)
    for key in (_below_job, micrograph_stem, stem_of):
        ours, theirs = _by_key(key, names), _by_key(key, there)
        unclear = []
        for name in names:
            same = theirs.get(key(spelt(name)), [])
            if name in found or taken.issuperset(same):
                continue
            if len(same) == 1 == len(ours[key(spelt(name))]):
                found[name] = same[0]
            else:
                unclear.append(name)
    return found, unclear


def _by_key(key: Callable[[str], str], names: Iterable[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key(spelt(name)), []).append(name)
    return groups


def _below_job(name: str) -> str:
    return strip_job(name.removeprefix("./"))
