"""Train the built-in U-Net: simulation first, then simulation and labelled micrographs together.

    python -m benchmarks.weights.train_default --stage simulated --output runs/simulated --steps 1300 --stop-after 600
    python -m benchmarks.weights.train_default --stage mixed --output runs/mixed --steps 1900 --stop-after 1800 \\
        --start runs/simulated/checkpoint.pt

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m benchmarks.weights.train_default ...  # two processes, 2 x 8 crops

Only the training splits of ``benchmarks/splits.json`` are read. The same arguments give the same crops in the same
order; the weights agree up to the rounding of the machine's arithmetic, bf16 where it has units for it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import real_data
from cryosegnet_ext.simulation.micrograph import ProjectionStack
from cryosegnet_ext.simulation.projection import project, random_rotations
from cryosegnet_ext.simulation.specimens import read_specimen
from cryosegnet_ext.training.crops import Labelled, augment, labelled_particles, simulated_particles
from cryosegnet_ext.training.fit import Batch, Recipe, fit
from cryosegnet_ext.training.parallel import joined
from cryosegnet_ext.training.train import precision_for

SIDE, BATCH = 256, 8
# Scale at which a view without particles is shown, against its own pixels: the picker tries many sizes on it.
EMPTY_SCALE = (0.6, 4.0)


def specimen_stacks(split: str, views: int = 60) -> list[ProjectionStack]:
    names = set(real_data.SPLITS["specimens"][split])
    stacks = []
    for path in sorted((real_data.SHARED / "specimens").glob("*/*")):
        if path.name.split(".")[0] in names:
            specimen = read_specimen(path)
            images = project(specimen, random_rotations(views, np.random.default_rng(len(stacks))))
            stacks.append(ProjectionStack(path.name, images, specimen.voxel_size, specimen.diameter))
    return stacks


def empty_view(pool: list[Labelled], rng: np.random.Generator) -> Labelled:
    """A micrograph without particles as if its particles had some size, so that its crops come at any scale."""
    m = pool[int(rng.integers(len(pool)))]
    return replace(m, diameter_px=32 / float(np.exp(rng.uniform(*np.log(EMPTY_SCALE)))))


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--stage", choices=("simulated", "mixed"), required=True)
    ap.add_argument("--output", type=Path, required=True)
    ap.add_argument("--steps", type=int, required=True)
    ap.add_argument("--stop-after", type=int, help="stop at this step of the schedule")
    ap.add_argument("--start", type=Path, help="checkpoint.pt of an earlier run")
    ap.add_argument("--leave-out", default=[], nargs="*", help="real data sets, or micrographs, not to train on")
    ap.add_argument("--real", type=int, default=3, help="crops of labelled micrographs in a batch of 8")
    ap.add_argument("--turns", nargs="*", default=list(real_data.SETS), help="sets in turn, a name may stand twice")
    ap.add_argument("--empty", type=float, default=0.0, help="crops without particles in a batch of 8, on average")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--rate", type=float, help="learning rate (default: by stage)")
    ap.add_argument("--device", default="cpu")
    a = ap.parse_args()
    stacks = specimen_stacks("train")
    sets = {}
    if a.stage == "mixed":
        sets = real_data.load_training(a.turns, a.leave_out)
        print({k: [len(m.x) for m in v] for k, v in sets.items()}, flush=True)
    real = [name for name in a.turns if name in sets]
    empty = real_data.load_empty("train") if a.empty else []

    def next_batch(step: int, rank: int) -> Batch:
        rng = np.random.default_rng([a.seed, step, rank] if rank else [a.seed, step])
        images, labels = [], []
        for k in range(BATCH):
            if empty and a.empty > (later := BATCH - 1 - k) and rng.random() < a.empty - later:
                crop = labelled_particles(empty_view(empty, rng), SIDE, rng, degraded=True)
            elif real and k < a.real:
                pool = sets[real[(step * a.real + k) % len(real)]]
                crop = labelled_particles(pool[int(rng.integers(len(pool)))], SIDE, rng, degraded=True)
            else:
                crop = simulated_particles(stacks, SIDE, int(rng.integers(2**62)))
            image, label = augment(crop.image, crop.label(), rng)
            images.append(image)
            labels.append(label)
        return np.stack(images), np.stack(labels)

    start = torch.load(a.start, weights_only=True)["model"] if a.start else None
    rate = a.rate or (2e-3 if a.stage == "simulated" else 1e-3)
    with joined(a.device) as group:
        precision = precision_for("auto", str(group.device))
        recipe = Recipe(steps=a.steps, learning_rate=rate, seed=a.seed, precision=precision)
        batch = partial(next_batch, rank=group.rank)
        fit(recipe, batch, a.output, start, stop_after=a.stop_after, group=group)


if __name__ == "__main__":
    main()
