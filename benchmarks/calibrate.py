"""Turn a training checkpoint into the built-in weights: calibrate the score on validation data, write safetensors.

    python benchmarks/calibrate.py runs/mixed/checkpoint.pt --output cryosegnet_ext/data/unet_default.safetensors

Reads the validation splits of ``benchmarks/splits.json`` and simulated micrographs of training specimens with seeds
that training never used. A logistic regression gives the score from a mask's mean probability and
size, and from SAM's predicted IoU where ``--sam`` is given.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import real_data
import torch
from safetensors.torch import save_file
from scipy.optimize import minimize
from segment_anything.modeling import Sam
from train_default import specimen_stacks

from cryosegnet_ext import window_sam
from cryosegnet_ext.denoise import bad_areas, working_image
from cryosegnet_ext.evaluation import match
from cryosegnet_ext.postprocess import SIZE_RANGE, Calibration, logit, whole_part
from cryosegnet_ext.segment import Masks, watershed
from cryosegnet_ext.simulation.micrograph import simulate_micrograph
from cryosegnet_ext.training.crops import LABEL_SHARE, Labelled, random_scene
from cryosegnet_ext.unet import AttentionUNet, probability_map
from cryosegnet_ext.weights import load_sam

WORKING_DIAMETER = 32.0
SIZE_ERRORS = (0.85, 1.0, 1.18)


def simulated(count: int) -> list[Labelled]:
    stacks = specimen_stacks("train", views=20)
    result = []
    for i in range(count):
        rng = np.random.default_rng([77, i])
        stack = stacks[int(rng.integers(len(stacks)))]
        pixel_size = stack.diameter / 40
        scene = random_scene(stack.diameter, pixel_size, rng)
        image, truth = simulate_micrograph([stack], scene, (640, 640), pixel_size, i)
        result.append(Labelled(image, truth.x, truth.y, 40.0))
    return result


def candidates(picker: Picking, m: Labelled, error: float, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, k) of each mask away from the border, and whether it is a particle (n,)."""
    assumed = m.diameter_px * error
    bad = bad_areas(m.data)
    work = working_image(m.data, WORKING_DIAMETER / assumed, bad)
    masks = picker(probability_map(picker.model, work.data), work.data)
    x, y = (masks.x + 0.5) / work.scale_x - 0.5, (masks.y + 0.5) / work.scale_y - 0.5
    size = np.log(np.sqrt(4 * masks.area / np.pi) / LABEL_SHARE / WORKING_DIAMETER)
    top, bottom, left, right = whole_part(bad, (m.data.shape[0], m.data.shape[1]))
    rim = 0.5 * assumed
    keep = (x > left + rim) & (y > top + rim) & (x < right - rim) & (y < bottom - rim)
    keep &= (size > np.log(SIZE_RANGE[0])) & (size < np.log(SIZE_RANGE[1]))
    points = np.c_[x, y][keep]
    hit = np.zeros(len(points), bool)
    hit[match(points, np.c_[m.x, m.y], reach * m.diameter_px)[0]] = True
    columns = [np.ones(len(x)), logit(masks.probability), size**2]
    if picker.sam is not None:
        columns.append(logit(masks.score, 1e-2))
    return np.stack(columns, 1)[keep], hit


class Picking:
    """U-Net and segmenter, as the program chains them."""

    def __init__(self, model: AttentionUNet, sam: Sam | None) -> None:
        self.model, self.sam = model, sam

    def __call__(self, probability: np.ndarray, image: np.ndarray) -> Masks:
        if self.sam is None:
            return watershed(probability, diameter_px=WORKING_DIAMETER)
        area = float(np.pi / 4 * (LABEL_SHARE * WORKING_DIAMETER) ** 2)
        return window_sam.cut(probability, image, self.sam, diameter_px=WORKING_DIAMETER, expected_area=area)


def calibrate(picker: Picking, groups: dict[str, list[Labelled]]) -> tuple[Calibration, float]:
    """Fit the score, print F1 by threshold, and choose the threshold.

    Of the thresholds whose mean F1 over the groups is within 0.002 of the best the one a quarter of the way up serves:
    a wrong pick costs its users more than a missed one, but scores on data that training never saw come out lower.
    """
    features, labels, weights, names = [], [], [], []
    for name, micrographs in groups.items():
        rows = [candidates(picker, m, e, 0.33) for m in micrographs for e in SIZE_ERRORS]
        f, hit = (np.concatenate(c) for c in zip(*rows))
        features.append(f)
        labels.append(hit)
        weights.append(np.full(len(f), 1 / len(f)))  # each data set counts the same
        names += [name] * len(f)
    f, t, w = np.concatenate(features), np.concatenate(labels).astype(float), np.concatenate(weights)

    def cost(beta: np.ndarray) -> float:
        value = f @ beta
        return float((w * (np.logaddexp(0, value) - t * value)).sum() + 1e-4 * (beta[1:] ** 2).sum())

    beta = minimize(cost, np.array([0.0, 1.0, *np.zeros(f.shape[1] - 2)]), method="BFGS").x
    calibration = Calibration(*(round(float(b), 4) for b in beta))
    score = 1 / (1 + np.exp(-(f @ beta)))
    total = {n: sum(len(m.x) for m in g) * len(SIZE_ERRORS) for n, g in groups.items()}
    print(calibration)
    print("threshold " + " ".join(f"{n:>22}" for n in groups) + "        mean")
    here = {name: np.array([n == name for n in names]) for name in groups}
    table = {}
    for q in np.arange(0.05, 0.81, 0.05).round(2).tolist():
        line = []
        for name in groups:
            picked = (score >= q) & here[name]
            line.append(2 * (t[picked] > 0).sum() / max(picked.sum() + total[name], 1))
        table[q] = float(np.mean(line))
        print(f"{q:9.2f} " + " ".join(f"{v:>22.3f}" for v in line) + f" {table[q]:11.3f}")
    good = [q for q in table if table[q] > max(table.values()) - 0.002]
    return calibration, good[len(good) // 4]


def load_checkpoint(path: Path) -> AttentionUNet:
    """The network of a training's ``checkpoint.pt``."""
    state = torch.load(path, weights_only=True)
    model = AttentionUNet(state["recipe"]["base_channels"], state["recipe"]["levels"]).eval()
    model.load_state_dict(state["model"])
    return model


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("checkpoint", type=Path)
    ap.add_argument("--sam", type=Path, help="the small SAM trained on this U-Net's maps")
    ap.add_argument("--sets", nargs="*", default=list(real_data.SETS), help="labelled sets to calibrate on")
    ap.add_argument("--output", type=Path, required=True)
    a = ap.parse_args()
    model = load_checkpoint(a.checkpoint)
    groups = {name: real_data.load(name, "validation") for name in a.sets}
    groups["simulated"] = simulated(24)
    calibration, threshold = calibrate(Picking(model, None), groups)
    note = {
        "name": "cryosegnet-ext default",
        "recipe": "default",
        "diameter": WORKING_DIAMETER,
        "label_share": LABEL_SHARE,
        "calibration": asdict(calibration),
        "threshold": threshold,
        "licence": "MIT",
    }
    if a.sam:
        calibration, threshold = calibrate(Picking(model, load_sam(a.sam)), groups)
        note["segmenters"] = {"peaks": {"calibration": asdict(calibration), "threshold": threshold}}
    tensors = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, a.output, metadata={"cryosegnet": json.dumps(note)})
    print(f"{a.output}: {a.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
