"""Verdicts on picks that no label vouches for: the data sets, the lists in `benchmarks/audit`, and what they add up to.

A list holds picks of one run that lie at no label, each judged twice. It says particle or junk where both passes do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import real_data
from benchmarks.accuracy.real_micrographs import LABEL_DIAMETER, PIXEL_SIZE
from cryosegnet_ext import read_picks
from cryosegnet_ext.cli import main as cryosegnet
from cryosegnet_ext.evaluation.matching import MAX_DISTANCE, match
from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.viewer.audit import AuditedPick, audited

FOLDER = real_data.HERE / "audit"
SETS = (*real_data.SETS, *real_data.TEST_SETS)


@dataclass(frozen=True)
class AuditSet:
    """Labelled micrographs that are audited.

    Attributes
    ----------
    name
        Of the data set.
    stems
        Its test micrographs.
    suffix
        Of their files.
    label_diameter
        Pixels.
    diameter
        Of the particle, as the program is told it, angstrom.
    pixel_size
        Angstrom per pixel.
    """

    name: str
    stems: tuple[str, ...]
    suffix: str
    label_diameter: float
    diameter: float
    pixel_size: float

    @property
    def reach(self) -> float:
        """Farthest that a pick lies from its label, pixels."""
        return MAX_DISTANCE * self.label_diameter

    @property
    def diameter_px(self) -> float:
        """Of the particle, pixels."""
        return self.diameter / self.pixel_size

    def file(self, stem: str) -> Path:
        """The micrograph."""
        return real_data.SHARED / "micrographs" / self.name / (stem + self.suffix)

    def labels(self, stem: str) -> np.ndarray:
        """x, y of its labels, (n, 2)."""
        labelled = real_data.load_named(self.name, [stem])[0]
        return np.c_[labelled.x, labelled.y]

    def pick(self, folder: Path, weights: str = "default", threshold: float | None = None) -> dict[str, Picks]:
        """Pick the micrographs as a user does who gives the size; the run is kept in ``folder``."""
        files = [str(self.file(stem)) for stem in self.stems]
        options = ["--diameter", f"{self.diameter:.0f}", "--weights", weights, "--no-overlays", "--quiet"]
        options += ["--pixel-size", str(self.pixel_size)]
        options += ["--denoised"] if self.name.endswith("denoised") else []
        options += ["--threshold", str(threshold)] if threshold is not None else []
        if cryosegnet(["pick", *files, "-o", str(folder), *options]) != 0:
            raise SystemExit(f"picking {self.name} failed")
        return {stem: read_picks(folder / "picks" / f"{stem}.star") for stem in self.stems}


def audit_set(name: str) -> AuditSet:
    """The data set of a name in `SETS`."""
    stems = real_data.SPLITS[name]["test"]
    pixel = PIXEL_SIZE[name] or 1.0  # where it is not known, angstrom are pixels here
    diameter = round(real_data.diameter_of(name) * pixel)
    return AuditSet(name, tuple(stems), real_data.suffix_of(name), LABEL_DIAMETER[name], diameter, pixel)


def split_picks(picks: np.ndarray, labels: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the picks that are paired with a label, one to one, and of the others."""
    right = np.zeros(len(picks), bool)
    right[match(picks, labels, reach)[0]] = True
    return np.flatnonzero(right), np.flatnonzero(~right)


def wilson(count: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """Confidence interval of a share, Wilson 1927; (0, 1) where nothing was seen.

    >>> [round(v, 3) for v in wilson(8, 10)]
    [0.49, 0.943]
    """
    if n <= 0:
        return 0.0, 1.0
    p = count / n
    middle, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (middle - spread) / (1 + z * z / n)), min(1.0, (middle + spread) / (1 + z * z / n))


def scale_up(count: int, judged: int, total: int) -> tuple[float, float, float]:
    """How many of ``total`` are of a kind of which ``count`` among ``judged`` are: likely, least and most (95 %).

    Only the share among those not judged is uncertain. The sample size is reduced so that the interval is that of a
    sample without replacement: its variance is that of the usual one times (1 - judged / total).
    """
    rest = total - judged
    if rest == 0:
        return count, count, count
    if judged == 0:
        return math.nan, 0.0, total
    share, effective = count / judged, judged * rest / total
    low, high = wilson(share * effective, effective)
    return count + rest * share, count + rest * low, count + rest * high


@dataclass(frozen=True)
class Tally:
    """Counts of one set of picks.

    Attributes
    ----------
    labels, picks, right
        Labels, picks, and picks that are paired with a label.
    verdicts
        Unlabelled picks with an entry in the list, by verdict.
    """

    labels: int
    picks: int
    right: int
    verdicts: Counter[str]

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.labels + other.labels,
            self.picks + other.picks,
            self.right + other.right,
            self.verdicts + other.verdicts,
        )

    @property
    def unlabelled(self) -> int:
        """Picks without a label."""
        return self.picks - self.right

    @property
    def judged(self) -> int:
        """Unlabelled picks with a verdict."""
        return sum(self.verdicts.values())

    def precision(self, as_particle: tuple[str, ...]) -> tuple[float, float, float]:
        """Share of right picks if these verdicts count as particles: likely, and its 95 % interval."""
        count = sum(self.verdicts[verdict] for verdict in as_particle)
        found = scale_up(count, self.judged, self.unlabelled)
        likely, low, high = ((self.right + n) / max(self.picks, 1) for n in found)
        return likely, low, high


def tally(picks: np.ndarray, labels: np.ndarray, entries: Sequence[AuditedPick], reach: float) -> Tally:
    """Count the picks of one micrograph, (n, 2) of x, y in pixels as are the labels."""
    right, others = split_picks(picks, labels, reach)
    found = audited(picks[others], entries, reach)
    return Tally(len(labels), len(picks), len(right), Counter(e.verdict for e in found if e is not None))


def _xy(picks: Picks) -> np.ndarray:
    return np.c_[picks.x, picks.y]
