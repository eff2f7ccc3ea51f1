"""Turn a training checkpoint into the built-in weights: calibrate the score on validation data, write safetensors.

    python -m benchmarks.weights.calibrate runs/mixed/checkpoint.pt \\
        --output cryosegnet_ext/data/unet_default.safetensors

Reads the validation splits of ``benchmarks/splits.json`` and simulated micrographs of training specimens with seeds
that training never used, and the views without particles that training saw. A logistic regression gives the score from
a mask's mean probability and size, the noise around it, the share of likely masks on its micrograph, and from SAM's
predicted IoU where ``--sam`` is given.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.optimize import minimize
from segment_anything.modeling import Sam

from benchmarks import real_data
from benchmarks.weights.train_default import specimen_stacks
from cryosegnet_ext.evaluation import match
from cryosegnet_ext.networks.unet import AttentionUNet, probability_map
from cryosegnet_ext.picking import windows
from cryosegnet_ext.picking.denoise import bad_areas, working_image
from cryosegnet_ext.picking.masks import Masks
from cryosegnet_ext.picking.postprocess import MapGeometry, default_rule
from cryosegnet_ext.picking.scoring import Calibration, MaskFeatures, joined
from cryosegnet_ext.picking.segment import watershed
from cryosegnet_ext.picking.surroundings import darkness, local_noise
from cryosegnet_ext.simulation.micrograph import simulate_micrograph
from cryosegnet_ext.training.crops import LABEL_SHARE, Labelled, random_scene
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


def candidates(picker: Picking, m: Labelled, error: float, reach: float) -> tuple[MaskFeatures, np.ndarray]:
    """What is known of each candidate that the program would choose from, and whether it is a particle (n,)."""
    assumed = m.diameter_px * error
    bad = bad_areas(m.data)
    work = working_image(m.data, WORKING_DIAMETER / assumed, bad)
    masks = picker(probability_map(picker.model, work.data), work.data)
    picks, features = default_rule(
        masks,
        MapGeometry((m.data.shape[0], m.data.shape[1]), work.scale_y, work.scale_x, bad=bad),
        assumed,
        Calibration(),
        darkness=darkness(work.data, masks, WORKING_DIAMETER),
        noise=local_noise(work.data, masks, WORKING_DIAMETER),
        label_share=LABEL_SHARE,
    )
    hit = np.zeros(len(picks), bool)
    hit[match(np.c_[picks.x, picks.y], np.c_[m.x, m.y], reach * m.diameter_px)[0]] = True
    return features if picker.sam is not None else replace(features, iou=None), hit


class Picking:
    """U-Net and segmenter, as the program chains them."""

    def __init__(self, model: AttentionUNet, sam: Sam | None) -> None:
        self.model, self.sam = model, sam

    def __call__(self, probability: np.ndarray, image: np.ndarray) -> Masks:
        if self.sam is None:
            return watershed(probability, diameter_px=WORKING_DIAMETER)
        area = float(np.pi / 4 * (LABEL_SHARE * WORKING_DIAMETER) ** 2)
        return windows.cut(probability, image, self.sam, diameter_px=WORKING_DIAMETER, expected_area=area)


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


def gather(picker: Picking, groups: dict[str, list[Labelled]]) -> Gathered:
    """Candidates of every data set, each micrograph picked at three sizes; each data set weighs the same."""
    found, right, weights, names = [], [], [], []
    for name, micrographs in groups.items():
        sizes = EMPTY_SIZES if name == EMPTY else SIZE_ERRORS
        rows = [candidates(picker, m, e, 0.33) for m in micrographs for e in sizes]
        found += [features for features, _ in rows]
        right.append(np.concatenate([hit for _, hit in rows]).astype(float))
        count = len(right[-1])
        weights.append(np.full(count, (EMPTY_SHARE if name == EMPTY else 1.0) / max(count, 1)))
        names += [name] * count
    return Gathered(joined(found), np.concatenate(right), np.concatenate(weights), np.array(names))


def fit(seen: Gathered, without: Sequence[int] = ()) -> Calibration:
    """The score by logistic regression; ``without``: columns of the features that it must do without."""
    columns = seen.features.columns()

    def cost(beta: np.ndarray) -> float:
        value = columns @ beta
        loss = np.logaddexp(0, value) - seen.right * value
        return float((seen.weights * loss).sum() + 1e-4 * (beta[1:] ** 2).sum())

    bounds = [(0, 0) if i in without else sign for i, sign in enumerate(SIGNS)]
    return Calibration.of_slopes(minimize(cost, Calibration().slopes, method="L-BFGS-B", bounds=bounds).x)


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
    """The lowest threshold whose mean F1 is within 0.002 of the best.

    Between the two hardly anything changes on data like that of the training, but scores on other data come out lower.
    """
    mean = {q: float(np.mean(line)) for q, line in f1_by_threshold(seen, score, labels).items()}
    return min(q for q in mean if mean[q] >= max(mean.values()) - 0.002)


def calibrate(picker: Picking, groups: dict[str, list[Labelled]]) -> tuple[Calibration, float]:
    """Fit the score, print F1 by threshold, and choose the threshold."""
    seen = gather(picker, groups)
    calibration = fit(seen)
    score = calibration.score(seen.features)
    labels = {n: sum(len(m.x) for m in g) * len(SIZE_ERRORS) for n, g in groups.items() if n != EMPTY}
    print(calibration)
    print("threshold " + " ".join(f"{n:>22}" for n in labels) + f"        mean {EMPTY:>14}")
    for q, line in f1_by_threshold(seen, score, labels).items():
        empty = int(((score >= q) & seen.of(EMPTY)).sum())
        print(f"{q:9.2f} " + " ".join(f"{v:>22.3f}" for v in line) + f" {np.mean(line):11.3f} {empty:>14}")
    return calibration, choose_threshold(seen, score, labels)


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
