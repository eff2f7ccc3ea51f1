"""The expected share of false picks, from their scores.

A calibrated score is the probability that a pick is a particle, so of the picks that are kept the share
1 - mean(score) is expected to be false. On data unlike those of the calibration the estimate can be off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict

import numpy as np

from ..files.picks import Picks
from ..picking.scoring import Calibration
from .journal import Record


def has_probabilities(settings: Mapping[str, object]) -> bool:
    """Whether the scores of a picker with these settings are calibrated probabilities.

    Those of the published recipe are SAM's predicted IoU, and those of weights without a calibration are the map's mean
    in the mask. A picker whose settings name neither recipe nor calibration is taken to give probabilities.
    """
    calibration = settings.get("calibration")
    fitted = not isinstance(calibration, Mapping) or dict(calibration) != asdict(Calibration())
    return fitted and settings.get("recipe") != "published"


def expected_false_of(picks: Picks, settings: Mapping[str, object]) -> float | None:
    """The expected share of false picks of one micrograph, 0..1; None without picks or calibrated scores."""
    share = picks.expected_false
    return round(share, 4) if np.isfinite(share) and has_probabilities(settings) else None


def expected_false(records: Iterable[Record]) -> float | None:
    """The expected share of false picks of several micrographs, weighted by their picks; None if none of them has one.

    Records of versions that did not estimate it are left out.
    """
    known = [(r.expected_false, r.picks) for r in records if r.expected_false is not None and r.picks]
    picks = sum(count for _, count in known)
    return round(sum(share * count for share, count in known) / picks, 4) if picks else None


def in_percent(share: float) -> str:
    """An expected share in words.

    >>> in_percent(0.123), in_percent(0.002), in_percent(1.0)
    ('about 12 %', 'less than 1 %', 'about 100 %')
    """
    return "less than 1 %" if share < 0.005 else f"about {100 * share:.0f} %"
