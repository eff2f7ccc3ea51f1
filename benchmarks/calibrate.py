"""Turn a training checkpoint into the built-in weights: calibrate the score on validation data, write safetensors.

    python benchmarks/calibrate.py runs/mixed/checkpoint.pt --output cryosegnet_ext/data/unet_default.safetensors

Reads the validation splits of ``benchmarks/splits.json`` and simulated micrographs of training specimens with seeds
that training never used, and the views without particles that training saw. A logistic regression gives the score from
a mask's mean probability and size, the noise around it, the share of likely masks on its micrograph, and from SAM's
predicted IoU where ``--sam`` is given.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
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
from cryosegnet_ext.postprocess import Frame, default_rule
from cryosegnet_ext.scoring import Calibration, Evidence, joined
from cryosegnet_ext.segment import Masks, watershed
from cryosegnet_ext.simulation.micrograph import simulate_micrograph
from cryosegnet_ext.surroundings import darkness, local_noise
from cryosegnet_ext.training.crops import LABEL_SHARE, Labelled, random_scene
from cryosegnet_ext.unet import AttentionUNet, probability_map
from cryosegnet_ext.weights import load_sam

WORKING_DIAMETER = 32.0
SIZE_ERRORS = (0.85, 1.0, 1.18)
# More probable, better cut and in better company is better; odd sizes and odd noise are worse, whatever the data say.
SIGNS = [(None, None), (0.05, None), (None, 0), (0, None), (None, 0), (0, None)]
# Views without particles are picked as if these were the sizes, pixels, and weigh half as much as a data set.
EMPTY, EMPTY_SIZES, EMPTY_SHARE = "no particles", (12.0, 24.0, 48.0), 0.5


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


def candidates(picker: Picking, m: Labelled, error: float, reach: float) -> tuple[Evidence, np.ndarray]:
    """What is known of each candidate that the program would choose from, and whether it is a particle (n,)."""
    assumed = m.diameter_px * error
    bad = bad_areas(m.data)
    work = working_image(m.data, WORKING_DIAMETER / assumed, bad)
    masks = picker(probability_map(picker.model, work.data), work.data)
    picks, evidence = default_rule(
        masks,
        Frame((m.data.shape[0], m.data.shape[1]), work.scale_y, work.scale_x, bad=bad),
        assumed,
        Calibration(),
        darkness=darkness(work.data, masks, WORKING_DIAMETER),
        noise=local_noise(work.data, masks, WORKING_DIAMETER),
        label_share=LABEL_SHARE,
    )
    hit = np.zeros(len(picks), bool)
    hit[match(np.c_[picks.x, picks.y], np.c_[m.x, m.y], reach * m.diameter_px)[0]] = True
    return evidence if picker.sam is not None else replace(evidence, iou=None), hit


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
    f, t, w, names = [], [], [], []
    for name, micrographs in groups.items():
        sizes = EMPTY_SIZES if name == EMPTY else SIZE_ERRORS
        rows = [candidates(picker, m, e, 0.33) for m in micrographs for e in sizes]
        f.append(joined([evidence for evidence, _ in rows]).columns())
        t.append(np.concatenate([hit for _, hit in rows]).astype(float))
        share = EMPTY_SHARE if name == EMPTY else 1.0
        w.append(np.full(len(t[-1]), share / max(len(t[-1]), 1)))  # each data set counts the same
        names += [name] * len(t[-1])
    f, t, w = np.concatenate(f), np.concatenate(t), np.concatenate(w)

    def cost(beta: np.ndarray) -> float:
        value = f @ beta
        return float((w * (np.logaddexp(0, value) - t * value)).sum() + 1e-4 * (beta[1:] ** 2).sum())

    calibration = Calibration.of_slopes(minimize(cost, Calibration().slopes, method="L-BFGS-B", bounds=SIGNS).x)
    score = 1 / (1 + np.exp(-(f @ calibration.slopes)))
    groups = {name: micrographs for name, micrographs in groups.items() if name != EMPTY}
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
    groups[EMPTY] = [replace(m, diameter_px=1.0) for m in real_data.load_empty("train")]
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
