"""The score of a pick: the probability that it is a particle, from features of its mask and its micrograph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Masks with at least this mean probability are likely particles; others are compared with them.
LIKELY = 0.5
# So many likely masks are needed to tell what this micrograph's particles look like.
LEAST_REFERENCES = 10
# Larger differences of the noise (natural logarithm of the variance) are clipped to this.
_FARTHEST = 3.0


@dataclass(frozen=True)
class MaskFeatures:
    """Features of each candidate of a micrograph, from which its score is made.

    Attributes
    ----------
    probability : (n,)
        Mean of the U-Net's map in the mask, 0..1.
    log_size : (n,)
        Natural logarithm of the mask's size over the expected one.
    iou : (n,) or None
        The segmenter's own score, SAM's predicted IoU.
    texture : (n,) or None
        Difference of the noise around the mask from that around this micrograph's likely masks (`texture`); None counts
        as 0.
    likely : (n,) or None
        Share of the likely ones among the candidates of this micrograph (`likely_share`); None counts as 0.
    height : (n,) or None
        Height of the map's peak under the mask, natural logarithm of the odds (`evidence.heights_of`); None counts
        as 0.
    true : (n,) or None
        Share of particles among peaks of that height, by the micrograph's own noise (`evidence.true_share`); None
        counts as 1.
    """

    probability: Floats
    log_size: Floats
    iou: Floats | None = None
    texture: Floats | None = None
    likely: Floats | None = None
    height: Floats | None = None
    true: Floats | None = None

    def __len__(self) -> int:
        return len(self.probability)

    def take(self, which: ArrayLike) -> MaskFeatures:
        """The candidates chosen by a boolean mask or by indices, in that order."""
        i = np.asarray(which)
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v[i] for k, v in values.items() if v is not None})

    def columns(self) -> Floats:
        """(n, 7) in the order of `Calibration.slopes`: 1, logit p, s^2, logit of the IoU, texture, likely, height."""
        none = np.zeros(len(self))
        return np.stack(
            [
                np.ones(len(self)),
                logit(self.probability),
                np.asarray(self.log_size, np.float64) ** 2,
                none if self.iou is None else logit(self.iou, 1e-2),
                none if self.texture is None else self.texture,
                none if self.likely is None else self.likely,
                none if self.height is None else self.height,
            ],
            axis=1,
        )


@dataclass(frozen=True)
class Calibration:
    """Score of a pick: a logistic function of its `MaskFeatures`, times the evidence against the micrograph's noise.

    e / (1 + exp(-(offset + probability_slope * logit(p) + size_slope * s^2 + iou_slope * logit(q) + texture_slope * t
    + likely_slope * c + height_slope * h))) with ``p`` the map's mean inside the mask, ``s`` the natural logarithm of
    (mask's size / expected size), ``q`` SAM's predicted IoU, ``t`` the difference of the noise around it, ``c`` the
    share of likely masks among its micrograph's candidates, ``h`` the height of its peak, and ``e`` the share of
    particles among such peaks by the micrograph's own noise. It is fitted on validation micrographs so that of the
    picks with a score near v, a share v are particles.
    """

    offset: float = 0.0
    probability_slope: float = 1.0
    size_slope: float = 0.0
    iou_slope: float = 0.0
    texture_slope: float = 0.0
    likely_slope: float = 0.0
    height_slope: float = 0.0

    @property
    def slopes(self) -> Floats:
        """(7,) in the order of `MaskFeatures.columns`."""
        return np.array([getattr(self, f.name) for f in fields(self)], np.float64)

    @classmethod
    def of_slopes(cls, slopes: ArrayLike) -> Calibration:
        """From (7,) values in the order of `MaskFeatures.columns`, rounded to the four digits that files keep."""
        return cls(*(round(float(v), 4) for v in np.asarray(slopes)))

    def score(self, features: MaskFeatures) -> Floats:
        """(n,) scores in 0..1."""
        score = 1 / (1 + np.exp(-(features.columns() @ self.slopes)))
        return np.asarray(score if features.true is None else score * features.true, np.float64)


def surprise(
    slopes: ArrayLike, features: MaskFeatures, right: NDArray[np.bool_] | Floats
) -> tuple[Floats, NDArray[np.float64]]:
    """How badly the score with these slopes foretells which candidates are right; for fits.

    Parameters
    ----------
    slopes : (7,)
        As `Calibration.slopes`.
    features
        Of n candidates.
    right : (n,)
        1 for particles, 0 for others.

    Returns
    -------
    loss : (n,)
        Negative logarithm of the probability that the score gives to what is so.
    slope : (n, 7)
        Its derivatives.
    """
    columns, t = features.columns(), np.asarray(right, np.float64)
    true = np.ones(len(t)) if features.true is None else np.clip(features.true, 1e-3, 1)
    inner = 1 / (1 + np.exp(-np.clip(columns @ np.asarray(slopes), -40, 40)))
    score = np.clip(true * inner, 1e-9, 1 - 1e-9)
    loss = -(t * np.log(score) + (1 - t) * np.log1p(-score))
    by_value = (score - t) / (score * (1 - score)) * true * inner * (1 - inner)
    return loss, by_value[:, None] * columns


def joined(parts: Sequence[MaskFeatures]) -> MaskFeatures:
    """The candidates of several micrographs in one table; a feature that one of them lacks is None for all."""
    columns = []
    for f in fields(MaskFeatures):
        values = [getattr(part, f.name) for part in parts]
        columns.append(None if any(v is None for v in values) else np.concatenate([np.zeros(0), *values]))
    return MaskFeatures(*columns)  # type: ignore[arg-type]


def logit(share: Floats, least: float = 1e-4) -> Floats:
    """Natural logarithm of share / (1 - share), the share kept within ``least`` and 1 - ``least``."""
    p = np.clip(share, least, 1 - least)
    return np.asarray(np.log(p / (1 - p)), np.float64)


def texture(noise: Floats, likely: NDArray[np.bool_]) -> Floats:
    """Difference between the noise around each mask and that around the likely masks of the same micrograph.

    Particles lie in ice. On carbon, in its shadow, on thick ice and on contamination the noise differs in strength and
    in grain.

    Parameters
    ----------
    noise : (n, k)
        Natural logarithms of the variance of the micrograph around each mask, in k bands (`surroundings.local_noise`).
    likely : (n,) bool
        Which masks are likely particles.

    Returns
    -------
    (n,)
        Sum over the bands of the squared difference from the likely masks' median; 0 if there are too few of them.
    """
    if np.count_nonzero(likely) < LEAST_REFERENCES:
        return np.zeros(len(noise))
    difference = np.clip(noise - np.median(noise[likely], axis=0), -_FARTHEST, _FARTHEST)
    return np.asarray((difference**2).sum(1), np.float64)


def likely_share(likely: NDArray[np.bool_]) -> float:
    """Share of likely masks among a micrograph's candidates (n,); close to one half where there are few candidates.

    On a micrograph with particles most candidates are likely. On an empty micrograph many are possible and hardly any
    is likely.
    """
    return float((np.count_nonzero(likely) + 1) / (len(likely) + 2))
