"""Whether picks average to a particle: how well they agree with averages that they are no part of.

Noise that is aligned and averaged looks like whatever it was aligned to. Therefore classes are made of one half of the
micrographs and judged on the other. The measure is how well a pick agrees with its class, against places in pure noise
that agree best with the same classes, as many on the same area. A picker that finds only noise cannot do better.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import plural
from ..files.picks import Picks

if TYPE_CHECKING:
    from ..picking.averages import Averages

#: Particle diameter and side of the averages, pixels.
DIAMETER, SIDE = 32.0, 48
#: Most picks of each half that are judged.
MOST_JUDGED = 1000
#: Least picks of which it is told whether they may be noise.
FEW = 200
_ITERATIONS, _TURNS = 8, 24
_NOISE_SIDE, _NOISE_IMAGES, _NOISE_PLACES = 512, 3, 100
_QUANTILE, _ABOVE = 0.95, 1.645
"""Share of noise below the limit, and the limit in standard deviations above the mean."""

Image = NDArray[np.float32]
Points = tuple[NDArray[np.float64], NDArray[np.float64]]


def working(data: Image, picks: Picks, diameter_px: float) -> tuple[Image, NDArray[np.float64], NDArray[np.float64]]:
    """A micrograph (ny, nx) resized so that a particle is 32 pixels wide, and whitened; x and y of the picks in it."""
    scale = min(DIAMETER / diameter_px, 2.0)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(np.asarray(data, np.float32), None, fx=scale, fy=scale, interpolation=method)
    # a median follows the edge of carbon, which would ring; particles are smaller than its window
    coarse = cv2.resize(small, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    level = ndimage.median_filter(coarse, 1 + int(2.5 * DIAMETER / 4))
    small = small - cv2.resize(level, small.shape[::-1], interpolation=cv2.INTER_LINEAR)
    # ice, gold and dust, which are a hundred times as strong as particles, must not rule the spectrum
    middle = float(np.median(small))
    spread = 1.4826 * float(np.median(np.abs(small - middle)))
    calm = np.clip(small, middle - 5 * spread, middle + 5 * spread) if spread > 0 else small
    from ..picking.averages import whitened  # PyTorch; to show averages needs none

    white = whitened(np.asarray(calm, np.float32))
    # carbon and edges stay stronger than ice, and would agree with any average
    strength = np.sqrt(cv2.GaussianBlur(white * white, (0, 0), DIAMETER / 2))
    even = np.asarray(white / np.maximum(strength, 1), np.float32)
    return even, (picks.x + 0.5) * scale - 0.5, (picks.y + 0.5) * scale - 0.5


def judge(images: Sequence[Image], places: Sequence[Points]) -> tuple[str, float]:
    """Whether picks agree with averages of other picks better than the best places in noise do.

    Parameters
    ----------
    images
        From `working`.
    places
        x and y of the picks in each.

    Returns
    -------
    verdict : str
        ``particle`` or ``noise``; ``few`` if a half has too few picks to judge.
    share : float
        Least share of the picks that agree better than noise.
    """
    from ..picking.averages import boxes, compare

    random = np.random.default_rng(1)
    halves: list[list[Image]] = [[], []]
    area = [0.0, 0.0]
    for image, half, at in _halved(images, places):
        halves[half].append(boxes(image, *at, SIDE))
        area[half] += image.size / (1 if len(images) > 1 else 2)
    piles = [np.concatenate(half) if half else np.zeros((0, SIDE, SIDE), np.float32) for half in halves]
    if min(map(len, piles)) < FEW // 4:
        return "few", 0.0
    densities = [len(pile) / a for pile, a in zip(piles, area)]
    piles = [pile[np.sort(random.permutation(len(pile))[:MOST_JUDGED])] for pile in piles]
    better, limits = [], []
    for half, other in ((0, 1), (1, 0)):
        averages = averages_of(piles[half])
        if not averages.images.any():
            return "noise", 0.0
        noise = _best_noise(averages, densities[other], random)
        above = compare(piles[other], averages, _TURNS).z > noise.mean() + _ABOVE * noise.std()
        better.append(float(above.mean()))
        limits.append(
            1 - _QUANTILE + 3 * float(np.sqrt(_QUANTILE * (1 - _QUANTILE) * (1 / len(above) + 1 / len(noise))))
        )
    share = max(0.0, (float(np.mean(better)) - (1 - _QUANTILE)) / _QUANTILE)
    return ("particle" if all(b > limit for b, limit in zip(better, limits)) else "noise"), share


def averages_of(pile: Image) -> Averages:
    """One to four averages of the boxes (n, 48, 48) of picks, the more the more boxes there are."""
    from ..picking.averages import classify

    classes = int(np.clip(len(pile) // 100, 1, 4))
    return classify(pile, diameter=DIAMETER, classes=classes, iterations=_ITERATIONS)


def sentence(verdict: str, share: float, count: int) -> str:
    """The verdict in a sentence for the page."""
    if verdict == "few":
        return (
            f"{plural(count, 'pick')}: too few to tell whether they average to a particle, and too few for several "
            f"views; {FEW} are needed."
        )
    if verdict == "noise":
        return (
            "The picks do not average to a particle: they may be noise, or very faint particles. Look at the crops and "
            "check the diameter. Only if the crops show no particles, raise the threshold; else classify in 2D."
        )
    agree = "agree with averages of other picks better than noise does"
    if share >= 0.5:
        start = (
            f"The picks average to something that noise does not give: at least {100 * share:.0f} % of them {agree}."
        )
    else:
        start = f"Part of the picks, at least {100 * share:.0f} %, {agree}. If particles are faint, more may be right."
    return f"{start} Look whether the averages show your particle: ice and edges average, too."


def _halved(images: Sequence[Image], places: Sequence[Points]) -> list[tuple[Image, int, Points]]:
    """The picks of each image with their half: every other image, or the left and the right side of a single one."""
    if len(images) > 1:
        return [(image, k % 2, at) for k, (image, at) in enumerate(zip(images, places))]
    (image,), ((x, y),) = images, places
    middle = image.shape[1] / 2
    left, right = x < middle - SIDE / 2, x > middle + SIDE / 2  # boxes of both sides do not overlap
    return [(image, 0, (x[left], y[left])), (image, 1, (x[right], y[right]))]


def _best_noise(averages: Averages, density: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Agreement (n,) of the best places in white noise with averages, ``density`` places a pixel."""
    from ..picking.averages import boxes, compare, ratio_map

    found: list[NDArray[np.float64]] = []
    reach = 2 * int(0.4 * DIAMETER / np.sqrt(2)) + 1
    for _ in range(_NOISE_IMAGES):
        noise = random.normal(size=(_NOISE_SIDE, _NOISE_SIDE)).astype(np.float32)
        likely = ratio_map(noise, averages, spread=0.02)
        y, x = np.nonzero(likely >= cv2.dilate(likely, np.ones((reach, reach), np.uint8)))
        best = np.argsort(-likely[y, x], kind="stable")[: max(5, round(density * noise.size))]
        found.append(compare(boxes(noise, x[best].astype(float), y[best].astype(float), SIDE), averages, _TURNS).z)
        if sum(map(len, found)) >= _NOISE_PLACES:
            break
    return np.concatenate(found)
