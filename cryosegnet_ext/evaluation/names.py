"""Names of micrographs as programs write them: what belongs to the micrograph and what a program added."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from ..files.micrograph import micrograph_stem

_UID = re.compile(r"^\d{15,21}_(?=.)")  # CryoSPARC puts an exposure's uid before the name of the file that it imports
_ADDED = re.compile(
    r"_(auto|manual|topaz|log|cryolo)?(pick|picks|picked|coords|coordinates|particles|boxes|box|labels|label|mask|masks"
    r"|gt|truth|extract)$",
    re.IGNORECASE,
)
_CORRECTED = re.compile(r"_(patch_aligned_doseweighted|patch_aligned|rigid_aligned|aligned_doseweighted|doseweighted)$")


def stem_of(name: str) -> str:
    """The micrograph's stem in a name of a file or a row of a table.

    Folders, a micrograph's or a pick file's suffix, CryoSPARC's uid in front, and what RELION, CryoSPARC and others put
    behind (``_autopick``, ``_patch_aligned_doseweighted``, ``_mask``) are taken off.

    Examples
    --------
    >>> stem_of("AutoPick/job010/Movies/mic_001_autopick.star")
    'mic_001'
    >>> stem_of("001234567890123456789_mic_001_patch_aligned_doseweighted.mrc")
    'mic_001'
    """
    stem = _UID.sub("", _without_suffix(name))
    for pattern in (_ADDED, _CORRECTED):
        shorter = pattern.sub("", stem)
        stem = shorter or stem
    return stem


def assign(names: Iterable[str], stems: Collection[str]) -> dict[str, str]:
    """Which of the labelled micrographs each name of a pick file or a table's row means.

    A name means the micrograph of its own stem, else the one with the longest stem that it begins with, where the rest
    starts with ``_``, ``-`` or ``.`` and is no mere number: ``mic_1_weird.star`` is of ``mic_1``, ``mic_1_2`` is not.

    Parameters
    ----------
    names
        As files or tables have them.
    stems
        Of the labelled micrographs.

    Returns
    -------
    dict
        From a name to a stem; names that mean no labelled micrograph are not in it.
    """
    known = set(stems)
    found = {}
    for name in names:
        stem = stem_of(name)
        choice = stem if stem in known else _beginning(stem, known)
        if choice is None:
            whole = _without_suffix(name)
            choice = whole if whole in known else _beginning(whole, known)
        if choice is not None:
            found[name] = choice
    return found


def _without_suffix(name: str) -> str:
    stem = micrograph_stem(name)
    for suffix in (".star", ".box", ".cbox", ".csv", ".txt", ".tsv", ".cs"):
        if stem.lower().endswith(suffix):
            return stem[: -len(suffix)]
    return stem


def _beginning(stem: str, known: set[str]) -> str | None:
    """The longest known stem that this one goes on from."""
    for cut in range(len(stem) - 1, 0, -1):
        if stem[cut] in "_-." and re.search("[a-zA-Z]", stem[cut:]) and stem[:cut] in known:
            return stem[:cut]
    return None
