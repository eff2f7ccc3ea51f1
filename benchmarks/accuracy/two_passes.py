"""Does a second pass with averages of the first picks help on faint micrographs?

    python -m benchmarks.accuracy.two_passes --cache runs/faint

What people do by hand: pick, average, pick again with the averages as templates. The first pass gives the peaks of the
smoothed logit of the U-Net's map, without a floor. Its best picks are aligned and averaged, and every place gets a
likelihood ratio by averages that were made without its half of the data: half of the micrographs, or half of the area
of a single one. The second pass gives the peaks of the logit plus a weight times the ratio. Averages of fewer than
`LEAST` particles are not used. The weight is chosen on training specimens, then fixed. Printed is the best F1 over
thresholds. Phases are flipped where the defocus is known, in the simulation. Working images and maps are made once for
each network and kept in the cache folder.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial import cKDTree

from benchmarks.accuracy.faint_sets import WORKING, FaintSet, View, labelled, simulated
from cryosegnet_ext.evaluation import match
from cryosegnet_ext.picking.averages import boxes, classify, ratio_map, whitened
from cryosegnet_ext.simulation.optics import Optics, contrast_transfer

WEIGHTS = (0.0, 0.5, 0.75, 1.0, 1.5)
SMOOTHING = 0.12
SIDE, MOST, LEAST, ITERATIONS = 48, 600, 50, 8


@dataclass(frozen=True)
class Candidates:
    """Peaks of one view: positions in working pixels, scores, which are right, which do not count, and all labels."""

    x: np.ndarray
    y: np.ndarray
    score: np.ndarray
    right: np.ndarray
    aside: np.ndarray
    labels: int


def candidates(scores: np.ndarray, view: View, label_diameter: float) -> Candidates:
    """Peaks of a map of scores (h, w), at least 0.4 diameters apart, judged by the view's labels."""
    half = int(0.4 * WORKING / np.sqrt(2))
    tops = scores >= cv2.dilate(scores, np.ones((2 * half + 1, 2 * half + 1), np.uint8))
    rows, columns = np.nonzero(tops)
    order = np.argsort(-scores[rows, columns], kind="stable")
    xy = np.c_[columns, rows][order].astype(float)
    kept = np.ones(len(xy), bool)
    for better, worse in sorted(cKDTree(xy).query_pairs(0.4 * WORKING)):
        kept[worse] &= not kept[better]
    xy = xy[kept]
    i, j = match(xy, view.centres, 0.3 * label_diameter)
    right, aside = np.zeros(len(xy), bool), np.zeros(len(xy), bool)
    right[i], aside[i] = view.inside[j], ~view.inside[j]
    return Candidates(*xy.T, scores[rows, columns][order][kept], right, aside, int(view.inside.sum()))


def logit(view: View) -> np.ndarray:
    """The smoothed logit of the map, (h, w)."""
    p = np.clip(view.probability.astype(np.float64), 1e-12, 1 - 1e-7)
    return cv2.GaussianBlur(np.log(p / (1 - p)), (0, 0), SMOOTHING * WORKING, borderType=cv2.BORDER_REFLECT)


def best_f1(found: list[Candidates]) -> float:
    """Best F1 over one threshold for all views."""
    score = np.concatenate([c.score[~c.aside] for c in found])
    right = np.concatenate([c.right[~c.aside] for c in found])[np.argsort(-score, kind="stable")]
    f1 = 2 * np.cumsum(right) / (np.arange(len(right)) + 1 + sum(c.labels for c in found))
    return float(f1.max(initial=0.0))


def ratios(data: FaintSet, first: list[Candidates], classes: int) -> tuple[list[np.ndarray], float]:
    """Likelihood ratios (h, w) of every view by averages of the other half, and the fewer particles of the two."""
    pictures = [whitened(v.image, _transfer(v)) for v in data.views]
    alone = len(data.views) == 1
    averages = []
    for half in (-1, 1):
        parts, odds = [], []
        for k, (image, v, c) in enumerate(zip(pictures, data.views, first)):
            used = _half(k, v, c.x, alone, SIDE / 2) == half
            parts.append(boxes(image, c.x[used], c.y[used], SIDE))
            odds.append(c.score[used])
        prior = np.concatenate(odds)
        best = np.argsort(-prior, kind="stable")[:MOST]
        pile = np.concatenate(parts)[best]
        averages.append(classify(pile, diameter=WORKING, classes=classes, odds=prior[best], iterations=ITERATIONS))
    result = []
    for k, (image, v) in enumerate(zip(pictures, data.views)):
        side = _half(k, v, np.arange(image.shape[1]), alone)
        maps = [ratio_map(image, a) if (side == -half).any() else image for half, a in zip((-1, 1), averages)]
        result.append(np.where(side == 1, *maps))
    return result, min(float(a.counts.sum()) for a in averages)


def _half(number: int, view: View, x: np.ndarray, alone: bool, margin: float = 0.0) -> np.ndarray:
    """To which half of the data each place belongs, -1 or 1; 0 nearer than ``margin`` to the other half."""
    if not alone:
        return np.full(len(x), 1 if number % 2 else -1)
    far = x - (view.image.shape[1] - 1) / 2
    return np.where(np.abs(far) < margin, 0, np.where(far >= 0, 1, -1))


def _transfer(view: View) -> np.ndarray | None:
    if view.defocus is None:
        return None
    optics = Optics(defocus_u=view.defocus, defocus_v=view.defocus)
    return contrast_transfer(optics, view.image.shape, view.pixel_size)


@dataclass(frozen=True)
class Row:
    """Best F1 of one set at each of `WEIGHTS`, particles averaged in a half, seconds a micrograph."""

    name: str
    labels: int
    averaged: float
    f1: np.ndarray
    seconds: float


def measure(data: FaintSet, classes: int = 1) -> Row:
    """Both passes over one set."""
    first = [logit(v) for v in data.views]
    found = [candidates(s, v, data.label_diameter) for s, v in zip(first, data.views)]
    start = time.process_time()
    second, averaged = ratios(data, found, classes)
    seconds = (time.process_time() - start) / len(data.views)
    f1 = [best_f1(found)]
    for a in WEIGHTS[1:] if averaged >= LEAST else ():
        scores = [s + a * r for s, r in zip(first, second)]
        f1.append(best_f1([candidates(s, v, data.label_diameter) for s, v in zip(scores, data.views)]))
    f1 += f1[:1] * (len(WEIGHTS) - len(f1))
    return Row(data.name, sum(c.labels for c in found), averaged, np.array(f1), seconds)


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--weights", default="default")
    ap.add_argument("--cache", type=Path, required=True, help="folder for working images and maps")
    ap.add_argument("--ratios", type=float, nargs="+", default=[0.03])
    ap.add_argument("--micrographs", type=int, nargs="+", default=[6, 1], help="of each specimen, up to 6")
    ap.add_argument("--classes", type=int, default=1)
    a = ap.parse_args()
    tuning = [
        measure(d, a.classes) for _, d in simulated("tuning", (a.ratios[0],), a.micrographs[0], a.weights, a.cache)
    ]
    at = chosen(tuning)
    print_table(f"Tuning, ratio {a.ratios[0]}, {a.micrographs[0]} micrographs a specimen", tuning, at)
    for count in a.micrographs:
        for ratio in a.ratios:
            rows = [measure(d, a.classes) for _, d in simulated("test", (ratio,), count, a.weights, a.cache)]
            print_table(f"Test, ratio {ratio}, micrographs a specimen: {count}", rows, at)
    print_table("Labelled micrographs", [measure(d, a.classes) for d in labelled(a.weights, a.cache)], at)


def chosen(rows: list[Row]) -> int:
    """Index of the weight with the best mean."""
    mean = np.mean([row.f1 for row in rows], 0)
    print(", ".join(f"{f1:.3f} at {w}" for w, f1 in zip(WEIGHTS, mean)))
    return int(mean.argmax())


def print_table(title: str, rows: list[Row], at: int) -> None:
    print(f"\n{title}:\n\n| set | particles | averaged | one pass | two, weight {WEIGHTS[at]} | seconds |")
    print("|---|---|---|---|---|---|")
    for r in rows:
        print(f"| {r.name} | {r.labels} | {r.averaged:.0f} | {r.f1[0]:.3f} | {r.f1[at]:.3f} | {r.seconds:.2f} |")
    one, two, seconds = np.mean([(r.f1[0], r.f1[at], r.seconds) for r in rows], 0)
    print(f"| mean | | | {one:.3f} | {two:.3f} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
