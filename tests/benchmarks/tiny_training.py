"""A stage in small: a network of two channels on squares in noise, with the ways to stop of the real scripts."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.weights.state import weights_in
from benchmarks.weights.stoppable import add_option, stoppable
from cryosegnet_ext.training.fit import Batch, Recipe, fit

RECIPE = Recipe(base_channels=2, levels=2, steps=40, learning_rate=0.01, precision="float32", mean_of=20)


def batch(step: int) -> Batch:
    """Four images (32, 32) with a dark square each, and their labels; the step decides them."""
    rng = np.random.default_rng(step)
    images, labels = rng.normal(0, 0.5, (4, 32, 32)).astype(np.float32), np.zeros((4, 32, 32), np.uint8)
    for image, label, (x, y) in zip(images, labels, rng.integers(2, 20, (4, 2)).tolist()):
        label[y : y + 9, x : x + 9] = 1
        image[label == 1] -= 2
    return images, labels


def main() -> None:
    ap = argparse.ArgumentParser()
    ap.add_argument("--output", type=Path, required=True)
    ap.add_argument("--steps", type=int, required=True)
    ap.add_argument("--stop-after", type=int)
    ap.add_argument("--from", dest="start", type=Path)
    ap.add_argument("--endless", action="store_true", help="from the third step on, a step takes long")
    add_option(ap)
    a = ap.parse_args()

    def slow(step: int) -> Batch:
        if a.endless and step >= 2 and not (a.output / "fast").exists():
            (a.output / "slow").touch()
            time.sleep(1.0)
        return batch(step)

    with stoppable(a.stdin_stops) as asked:
        start = weights_in(torch.load(a.start, weights_only=True)) if a.start else None
        fit(RECIPE, slow, a.output, start, stop_after=a.stop_after, stop=asked)


if __name__ == "__main__":
    main()
