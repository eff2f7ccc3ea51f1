"""Turn a training checkpoint into the built-in weights: calibrate the score on validation data, write safetensors.

    python benchmarks/calibrate.py runs/mixed/checkpoint.pt --output cryosegnet_ext/data/unet_default.safetensors

Reads the validation splits of ``benchmarks/splits.json`` and simulated micrographs of training specimens with seeds
that training never used. A logistic regression gives the score from a mask's mean probability and size.
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
from train_default import specimen_stacks

from cryosegnet_ext.denoise import bad_areas, working_image
from cryosegnet_ext.evaluation import match
from cryosegnet_ext.postprocess import SIZE_RANGE, Calibration
from cryosegnet_ext.segment import watershed
from cryosegnet_ext.simulation.micrograph import simulate_micrograph
from cryosegnet_ext.training.crops import LABEL_SHARE, Labelled, random_scene
from cryosegnet_ext.unet import AttentionUNet, probability_map

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


def candidates(model: AttentionUNet, m: Labelled, error: float, reach: float) -> tuple[np.ndarray, ...]:
    """Logit of the probability, log size, and whether it is a particle, of each mask away from the border."""
    assumed = m.diameter_px * error
    work = working_image(m.data, WORKING_DIAMETER / assumed, bad_areas(m.data))
    masks = watershed(probability_map(model, work.data), diameter_px=WORKING_DIAMETER)
    x, y = (masks.x + 0.5) / work.scale_x - 0.5, (masks.y + 0.5) / work.scale_y - 0.5
    size = np.log(np.sqrt(4 * masks.area / np.pi) / LABEL_SHARE / WORKING_DIAMETER)
    rim = 0.5 * assumed
    ny, nx = m.data.shape
    keep = (x > rim) & (y > rim) & (x < nx - rim) & (y < ny - rim)
    keep &= (size > np.log(SIZE_RANGE[0])) & (size < np.log(SIZE_RANGE[1]))
    points = np.c_[x, y][keep]
    right = np.zeros(len(points), bool)
    right[match(points, np.c_[m.x, m.y], reach * m.diameter_px)[0]] = True
    p = np.clip(masks.probability[keep], 1e-4, 1 - 1e-4)
    return np.log(p / (1 - p)), size[keep], right


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("checkpoint", type=Path)
    ap.add_argument("--output", type=Path, required=True)
    a = ap.parse_args()
    state = torch.load(a.checkpoint, weights_only=True)
    model = AttentionUNet(state["recipe"]["base_channels"], state["recipe"]["levels"]).eval()
    model.load_state_dict(state["model"])
    groups = {name: real_data.load(name, "validation") for name in real_data.SETS}
    groups["simulated"] = simulated(24)
    features, labels, weights, names = [], [], [], []
    for name, micrographs in groups.items():
        rows = [candidates(model, m, e, 0.33) for m in micrographs for e in SIZE_ERRORS]
        z, s, right = (np.concatenate(c) for c in zip(*rows))
        features.append(np.c_[np.ones(len(z)), z, s**2])
        labels.append(right)
        weights.append(np.full(len(z), 1 / len(z)))  # each data set counts the same
        names += [name] * len(z)
    f, t, w = np.concatenate(features), np.concatenate(labels).astype(float), np.concatenate(weights)

    def cost(beta: np.ndarray) -> float:
        value = f @ beta
        return float((w * (np.logaddexp(0, value) - t * value)).sum() + 1e-4 * (beta[1:] ** 2).sum())

    beta = minimize(cost, np.array([0.0, 1.0, 0.0]), method="BFGS").x
    calibration = Calibration(*(round(float(b), 4) for b in beta))
    score = 1 / (1 + np.exp(-(f @ beta)))
    total = {n: sum(len(m.x) for m in g) * len(SIZE_ERRORS) for n, g in groups.items()}
    print(calibration)
    print("threshold " + " ".join(f"{n:>22}" for n in groups))
    for q in np.arange(0.2, 0.81, 0.05):
        line = []
        for name in groups:
            here = np.array([n == name for n in names])
            picked = (score >= q) & here
            right = (t[picked] > 0).sum()
            line.append(f"{2 * right / max(picked.sum() + total[name], 1):>22.3f}")
        print(f"{q:9.2f} " + " ".join(line))
    note = {
        "name": "cryosegnet-ext default",
        "recipe": "default",
        "diameter": WORKING_DIAMETER,
        "label_share": LABEL_SHARE,
        "calibration": asdict(calibration),
        "threshold": 0.5,
        "licence": "MIT",
    }
    tensors = {k: v.contiguous() for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    tensors |= {k: v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")}
    save_file(tensors, a.output, metadata={"cryosegnet": json.dumps(note)})
    print(f"{a.output}: {a.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
