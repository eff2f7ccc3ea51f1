"""Turn a training checkpoint into the built-in weights: calibrate the score on validation data, write safetensors.

    python -m benchmarks.weights.calibrate runs/mixed/checkpoint.pt \\
        --output cryosegnet_ext/data/unet_default.safetensors

Reads the validation splits of ``benchmarks/splits.json``, simulated micrographs of validation and training specimens
with seeds that training never used (those of the training's simulation, and plain ones of `accuracy.contrast` at every
signal-to-noise ratio), the views without particles that training saw, and noise. The candidates are those of the
program. A logistic regression gives the score from what is known of each (`MaskFeatures`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from scipy.optimize import minimize

from benchmarks import real_data
from benchmarks.accuracy import contrast
from benchmarks.weights.blend import blended, part
from benchmarks.weights.train_default import specimen_stacks
from cryosegnet_ext import Picker
from cryosegnet_ext.evaluation import match
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.picking.scoring import Calibration, MaskFeatures, joined, surprise
from cryosegnet_ext.simulation.micrograph import simulate_micrograph
from cryosegnet_ext.training.crops import LABEL_SHARE, Labelled
from cryosegnet_ext.training.scenes import random_scene

WORKING_DIAMETER = 32.0
SIZE_ERRORS = (0.85, 1.0, 1.18)
# More probable, better cut and in better company is better; odd sizes and odd noise are worse, whatever the data say.
SIGNS = [(None, None), (0.0, None), (None, 0), (0, None), (None, 0), (0, None), (0, None)]
# Views without particles are picked as if these were the sizes, pixels.
EMPTY, EMPTY_SIZES = "no particles", (12.0, 24.0, 48.0)
NOISE = "noise"
# Weights of the groups; the others have 1. A pick on empty ice costs the user more than a particle that is not found.
GROUP_WEIGHTS = {EMPTY: 3.0, NOISE: 2.0}
# A micrograph with fewer candidates than this weighs less.
FEW = 30
# Signal-to-noise ratios of plain simulated micrographs, their pixel sizes and defocus (angstrom).
PLAIN_RATIOS = (0.03, 0.1, 0.4, 2.0)
PLAIN_IMAGING = ((1.2, 12000.0), (0.8, 8000.0), (1.9, 18000.0))
# Of the training specimens, small ones are shown plainly, too: validation has few.
PLAIN_TRAINED = ("1igy.cif.gz", "2cas.pdb.gz", "3h84.pdb.gz", "3wip.cif.gz", "4hhb.pdb.gz")


def simulated(count: int) -> list[Labelled]:
    stacks = specimen_stacks("train", views=20) + specimen_stacks("validation", views=20)
    result = []
    for i in range(count):
        rng = np.random.default_rng([77, i])
        stack = stacks[int(rng.integers(len(stacks)))]
        pixel_size = stack.diameter / 40
        scene = random_scene(stack.diameter, pixel_size, rng)
        image, truth = simulate_micrograph([stack], scene, (640, 640), pixel_size, i)
        result.append(Labelled(image, truth.x, truth.y, 40.0))
    return result


def noise() -> list[Labelled]:
    """White and pink noise without anything in it; the diameter is the one to look for, pixels."""
    result = []
    for k in range(6):
        rng = np.random.default_rng([79, k])
        image = rng.standard_normal((900, 900)).astype(np.float32)
        if k % 2:
            image += 4 * cv2.GaussianBlur(rng.standard_normal(image.shape).astype(np.float32), (0, 0), 3 + 3 * k)
        result.append(replace(real_data.unlabelled(image), diameter_px=EMPTY_SIZES[k % 3] + 12))
    return result


@dataclass(frozen=True)
class Shown:
    """A micrograph to calibrate on; ``counted`` (n,): particles that count, the others lie at the border."""

    micrograph: Labelled
    counted: np.ndarray


def plain() -> dict[float, list[Shown]]:
    """Plain simulated micrographs at each signal-to-noise ratio."""
    stacks = specimen_stacks("validation", views=30)
    stacks += [s for s in specimen_stacks("train", views=30) if s.name in PLAIN_TRAINED]
    result: dict[float, list[Shown]] = {ratio: [] for ratio in PLAIN_RATIOS}
    for number, stack in enumerate(stacks):
        pixel_size, defocus = PLAIN_IMAGING[number % len(PLAIN_IMAGING)]
        made = contrast.micrographs(stack, pixel_size, defocus, seed=1000 + number, ratios=PLAIN_RATIOS)
        for ratio, data in made.items():
            xy = data.labels["m"]
            one = Labelled(data.task.micrographs[0].data, xy[:, 0], xy[:, 1], stack.diameter / pixel_size)
            result[ratio].append(Shown(one, data.inside["m"]))
    return result


def candidates(picker: Picker, shown: Shown, error: float, reach: float) -> tuple[MaskFeatures, np.ndarray]:
    """What is known of each candidate of the program, and whether it is a particle (n,)."""
    m = shown.micrograph
    picks, features = picker.candidates_and_features(Micrograph(m.data, None, "m"), m.diameter_px * error)
    hit, counts = np.zeros(len(picks), bool), np.ones(len(picks), bool)
    i, j = match(np.c_[picks.x, picks.y], np.c_[m.x, m.y], reach * m.diameter_px)
    hit[i] = True
    counts[i] = shown.counted[j]
    return features.take(counts), hit[counts]


@dataclass(frozen=True)
class Gathered:
    """Candidates (n,) of several data sets: what is known of them, whether right, weights, the data set's name."""

    features: MaskFeatures
    right: np.ndarray
    weights: np.ndarray
    names: np.ndarray

    def of(self, name: str) -> np.ndarray:
        """(n,) bool: the candidates of this data set."""
        return self.names == name


def gather(picker: Picker, groups: dict[str, list[Shown]]) -> Gathered:
    """Candidates of every group, which weighs `GROUP_WEIGHTS`; within it each micrograph weighs the same."""
    found, right, weights, names = [], [], [], []
    for name, micrographs in groups.items():
        sizes = EMPTY_SIZES if name == EMPTY else SIZE_ERRORS if name in real_data.SETS else (1.0,)
        rows = [candidates(picker, m, e, 0.33) for m in micrographs for e in sizes]
        for features, hit in rows:
            found.append(features)
            right.append(hit.astype(float))
            weights.append(np.full(len(hit), GROUP_WEIGHTS.get(name, 1.0) / max(len(hit), FEW) / len(rows)))
            names += [name] * len(hit)
    return Gathered(joined(found), np.concatenate(right), np.concatenate(weights), np.array(names))


def fit(seen: Gathered, without: Sequence[int] = ()) -> Calibration:
    """The score by logistic regression; ``without``: columns of the features that it must do without."""

    def cost(beta: np.ndarray) -> tuple[float, np.ndarray]:
        loss, slope = surprise(beta, seen.features, seen.right)
        ridge = np.r_[0, 2e-4 * beta[1:]]
        return float((seen.weights * loss).sum() + 1e-4 * (beta[1:] ** 2).sum()), seen.weights @ slope + ridge

    bounds = [(0, 0) if i in without else sign for i, sign in enumerate(SIGNS)]
    return Calibration.of_slopes(minimize(cost, Calibration().slopes, jac=True, method="L-BFGS-B", bounds=bounds).x)


def f1_curve(score: np.ndarray, right: np.ndarray, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n,), best first, and F1 of all candidates down to each."""
    order = np.argsort(-score)
    return score[order], 2 * np.cumsum(right[order]) / (np.arange(1, len(order) + 1) + labels)


def f1_by_threshold(seen: Gathered, score: np.ndarray, labels: dict[str, int]) -> dict[float, list[float]]:
    """F1 of each data set in ``labels`` (how many particles there are to find) at thresholds from 0.05 to 0.8."""
    table = {}
    for q in np.arange(0.05, 0.81, 0.05).round(2).tolist():
        picked = {name: (score >= q) & seen.of(name) for name in labels}
        table[q] = [2 * seen.right[k].sum() / max(k.sum() + labels[name], 1) for name, k in picked.items()]
    return table


def choose_threshold(seen: Gathered, score: np.ndarray, labels: dict[str, int]) -> float:
    """The highest threshold whose mean F1 is within 0.003 of the best: as few picks on empty ice as costs nothing."""
    mean = {q: float(np.mean(line)) for q, line in f1_by_threshold(seen, score, labels).items()}
    return max(q for q in mean if mean[q] >= max(mean.values()) - 0.003)


def calibrate(picker: Picker, groups: dict[str, list[Shown]]) -> tuple[Calibration, float]:
    """Fit the score, print F1 by threshold, and choose the threshold."""
    seen = gather(picker, groups)
    calibration = fit(seen)
    score = calibration.score(seen.features)
    labels = particles(groups)
    print(calibration)
    print("| threshold | " + " | ".join(labels) + f" | mean | {EMPTY} | {NOISE} |")
    print("|---" * (len(labels) + 4) + "|")
    for q, line in f1_by_threshold(seen, score, labels).items():
        none = (int(((score >= q) & seen.of(name)).sum()) for name in (EMPTY, NOISE))
        cells = [f"{q:.2f}", *(f"{v:.3f}" for v in (*line, np.mean(line))), *(str(n) for n in none)]
        print("| " + " | ".join(cells) + " |", flush=True)
    return calibration, choose_threshold(seen, score, labels)


def particles(groups: dict[str, list[Shown]]) -> dict[str, int]:
    """How many particles there are to find in each group that has any, at all sizes together."""
    sizes = {name: len(SIZE_ERRORS) if name in real_data.SETS else 1 for name in groups}
    counts = {name: sum(int(m.counted.sum()) for m in group) * sizes[name] for name, group in groups.items()}
    return {name: count for name, count in counts.items() if count}


def validation_groups(sets: Sequence[str]) -> dict[str, list[Shown]]:
    """The micrographs that the score is fitted on."""
    groups = {name: every(real_data.load(name, "validation")) for name in sets}
    groups["simulated"] = every(simulated(36))
    groups |= {f"plain, ratio {ratio}": shown for ratio, shown in plain().items()}
    groups[EMPTY] = every([replace(m, diameter_px=1.0) for m in real_data.load_empty("train")])
    groups[NOISE] = every(noise())
    return groups


def every(micrographs: Sequence[Labelled]) -> list[Shown]:
    """All their particles count."""
    return [Shown(m, np.ones(len(m.x), bool)) for m in micrographs]


def note_of(**more: object) -> dict[str, str]:
    """Metadata of a weights file."""
    note = {"recipe": "default", "diameter": WORKING_DIAMETER, "label_share": LABEL_SHARE, **more}
    return {"cryosegnet": json.dumps(note)}


def uncalibrated(network: dict[str, torch.Tensor], folder: Path, sam: Path | None = None) -> Picker:
    """A picker with this network, whose score is not calibrated; its file goes into ``folder``."""
    path = folder / "network.safetensors"
    save_file({k: v.contiguous() for k, v in network.items()}, path, metadata=note_of())
    if sam is None:
        return Picker(path, segmenter="watershed", threshold=0.0)
    return Picker(path, segmenter="peaks", sam=sam, threshold=0.0)


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("checkpoint", nargs="+", type=part, help="checkpoint.pt, or several as checkpoint.pt=share")
    ap.add_argument("--sam", type=Path, help="the small SAM trained on this U-Net's maps")
    ap.add_argument("--sets", nargs="*", default=list(real_data.SETS), help="labelled sets to calibrate on")
    ap.add_argument("--output", type=Path, required=True)
    a = ap.parse_args()
    network = blended(a.checkpoint)
    groups = validation_groups(a.sets)
    fits = {}
    with tempfile.TemporaryDirectory() as folder:
        for sam in (None, a.sam) if a.sam else (None,):
            calibration, threshold = calibrate(uncalibrated(network, Path(folder), sam), groups)
            fits[sam is not None] = {"calibration": asdict(calibration), "threshold": threshold}
    note = {"name": "cryosegnet-ext default", "licence": "MIT", **fits[False]}
    if a.sam:
        note["segmenters"] = {"peaks": fits[True]}
    save_file({k: v.contiguous() for k, v in network.items()}, a.output, metadata=note_of(**note))
    print(f"{a.output}: {a.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
