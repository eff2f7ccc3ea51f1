"""Compare picks with labels: pairing, measures, remarks on odd picks and labels, and the report."""

from .counts import Counts
from .matching import Agreement, agreement, match
from .measures import Curve, MicrographScore, SetScore, score_micrograph, score_set

__all__ = [
    "Agreement",
    "Counts",
    "Curve",
    "MicrographScore",
    "SetScore",
    "agreement",
    "match",
    "score_micrograph",
    "score_set",
]
