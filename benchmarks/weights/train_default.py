"""Train the built-in U-Net: simulation first, then simulation and labelled micrographs together.

    python -m benchmarks.weights.train_default --stage simulated --output runs/simulated --steps 1300 --stop-after 600
    python -m benchmarks.weights.train_default --stage mixed --output runs/mixed --steps 1900 --stop-after 1800 \\
        --from runs/simulated/checkpoint.pt

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m benchmarks.weights.train_default ...  # two processes, 2 x 8 crops

Only the training splits of ``benchmarks/splits.json`` are read. The same arguments give the same crops in the same
order; the weights agree up to the rounding of the machine's arithmetic, bf16 where it has units for it. A run that was
stopped (Ctrl-C, SIGTERM) or killed goes on from its last checkpoint when it is called again, also on another machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks import real_data
from benchmarks.weights.state import weights_in
from benchmarks.weights.stoppable import add_option, check_alone, stoppable
from cryosegnet_ext.simulation.micrograph import ProjectionStack
from cryosegnet_ext.simulation.projection import project, random_rotations
from cryosegnet_ext.simulation.specimens import Specimen, make_specimen, read_specimen
from cryosegnet_ext.training.augmentation import augment
from cryosegnet_ext.training.crops import Labelled, labelled_particles, planted_particles, simulated_particles
from cryosegnet_ext.training.fit import Batch, Recipe, fit
from cryosegnet_ext.training.parallel import joined
from cryosegnet_ext.training.train import precision_for

SIDE, BATCH = 256, 8
# Steps between checkpoints: minutes on two CPU cores.
CHECKPOINT_EVERY = 50
# Scale at which a view without particles is shown, against its own pixels: the picker tries many sizes on it.
EMPTY_SCALE = (0.6, 4.0)


def specimen_files(split: str) -> list[Path]:
    names = set(real_data.SPLITS["specimens"][split])
    files = sorted((real_data.SHARED / "specimens").glob("*/*"))
    return [path for path in files if path.name.split(".")[0] in names]


def specimen_stacks(split: str, views: int = 60) -> list[ProjectionStack]:
    stacks = []
    for path in specimen_files(split):
        specimen = read_specimen(path)
        images = project(specimen, random_rotations(views, np.random.default_rng(len(stacks))))
        stacks.append(ProjectionStack(path.name, images, specimen.voxel_size, specimen.diameter))
    return stacks


def fragments(specimens: list[Specimen], count: int, seed: int) -> list[Specimen]:
    """Pieces of large particles, as wide as proteins of 60 to 150 kDa: real densities of many more shapes.

    A piece is what an ellipsoid around a random point of the density holds.
    """
    result = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        whole = specimens[int(rng.integers(len(specimens)))]
        inside = np.argwhere(whole.density > 0)
        centre = inside[int(rng.integers(len(inside)))]
        axes = rng.uniform(26, 46, 3) / whole.voxel_size
        grid = np.indices(whole.density.shape).reshape(3, -1).T - centre
        radius = np.sqrt(((grid @ np.linalg.qr(rng.normal(size=(3, 3)))[0] / axes) ** 2).sum(1))
        soft = np.clip((1.08 - radius) / 0.16, 0, 1).reshape(whole.density.shape)
        piece = make_specimen(f"{whole.name} {number}", (whole.density * soft).astype(np.float32), whole.voxel_size)
        if 40 < piece.diameter < 110:
            result.append(piece)
    return result


def stack_of(specimen: Specimen, views: int, seed: int) -> ProjectionStack:
    images = project(specimen, random_rotations(views, np.random.default_rng(seed)))
    return ProjectionStack(specimen.name, images, specimen.voxel_size, specimen.diameter)


def small_stacks(count: int = 60, views: int = 30) -> list[ProjectionStack]:
    """Fragments of the training specimens, and those specimens that are small themselves."""
    specimens = [read_specimen(path) for path in specimen_files("train")]
    large = [s for s in specimens if s.diameter > 150 and s.voxel_size < 6 and len(s.density) < 80]
    small = [s for s in specimens if s.diameter < 110] * 2
    chosen = small + fragments(large, count, 7)
    return [stack_of(s, views, 1000 + k) for k, s in enumerate(chosen)]


def grounds() -> list[Labelled]:
    """Real micrographs whose spectra and grain are shown with simulated particles, or without any particles."""
    sets = real_data.load_training(("apoferritin", "apoferritin-one-frame", "empiar-10059", "views"), ())
    return [m for pool in sets.values() for m in pool]


def empty_view(pool: list[Labelled], rng: np.random.Generator) -> Labelled:
    """A micrograph without particles as if its particles had some size, so that its crops come at any scale."""
    m = pool[int(rng.integers(len(pool)))]
    return replace(m, diameter_px=32 / float(np.exp(rng.uniform(*np.log(EMPTY_SCALE)))))


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """The weights that a run or a weights file gives."""
    if path.suffix == ".safetensors":
        return load_file(path)
    return weights_in(torch.load(path, weights_only=True, map_location="cpu"))


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--stage", choices=("simulated", "mixed"), required=True)
    ap.add_argument("--output", type=Path, required=True)
    ap.add_argument("--steps", type=int, required=True)
    ap.add_argument("--stop-after", type=int, help="stop at this step of the schedule")
    ap.add_argument("--from", dest="start", type=Path, help="weights to begin with: checkpoint.pt or a .safetensors")
    ap.add_argument("--leave-out", default=[], nargs="*", help="real data sets, or micrographs, not to train on")
    ap.add_argument("--real", type=int, default=3, help="crops of labelled micrographs in a batch of 8")
    ap.add_argument("--turns", nargs="*", default=list(real_data.SETS), help="sets in turn, a name may stand twice")
    ap.add_argument("--empty", type=float, default=0.0, help="crops without particles in a batch of 8, on average")
    ap.add_argument("--planted", type=float, default=0.0, help="share of the simulated crops on a real ground")
    ap.add_argument("--small", type=float, default=0.0, help="share of the simulated crops with small specimens")
    ap.add_argument("--mean-of", type=int, default=0, help="running mean of the weights over so many steps")
    ap.add_argument("--schedule", choices=("cosine", "constant"), default="cosine")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--rate", type=float, help="learning rate (default: by stage)")
    ap.add_argument("--device", default="cpu", help="cpu, cuda, or auto")
    ap.add_argument("--batches", type=int, default=1, help="batches of 8 in a step of one process: as of so many")
    add_option(ap)
    a = ap.parse_args()
    with stoppable(a.stdin_stops) as asked:
        train(a, asked)


def train(a: argparse.Namespace, asked: Callable[[], bool]) -> None:
    """Load the data and train; raises `Stopped` once everything is saved, if one has ``asked`` for it."""
    stacks = specimen_stacks("train")
    sets = {}
    if a.stage == "mixed":
        sets = real_data.load_training(a.turns, a.leave_out)
        print({k: [len(m.x) for m in v] for k, v in sets.items()}, flush=True)
    real = [name for name in a.turns if name in sets]
    check_alone(asked)
    empty = real_data.load_empty("train") if a.empty or a.planted else []
    small = small_stacks() if a.small else []
    check_alone(asked)
    spectra = grounds() if a.planted else []

    def one_batch(step: int, rank: int) -> Batch:
        rng = np.random.default_rng([a.seed, step, rank] if rank else [a.seed, step])
        images, labels = [], []
        for k in range(BATCH):
            if empty and a.empty > (later := BATCH - 1 - k) and rng.random() < a.empty - later:
                crop = labelled_particles(empty_view(empty, rng), SIDE, rng, degraded=True)
            elif real and k < a.real:
                pool = sets[real[(step * a.real + k) % len(real)]]
                crop = labelled_particles(pool[int(rng.integers(len(pool)))], SIDE, rng, degraded=True)
            else:
                of = small if small and rng.random() < a.small else stacks
                seed, kind = int(rng.integers(2**62)), rng.random()
                if kind < a.planted / 2:
                    crop = planted_particles(of, empty, SIDE, seed)
                elif kind < a.planted:
                    crop = planted_particles(of, spectra, SIDE, seed, random_phases=True)
                else:
                    crop = simulated_particles(of, SIDE, seed)
            image, label = augment(crop.image, crop.label(), rng)
            images.append(image)
            labels.append(label)
        return np.stack(images), np.stack(labels)

    def next_batch(step: int, rank: int) -> Batch:
        parts = [one_batch(step, rank * a.batches + k) for k in range(a.batches)]
        images, labels = (np.concatenate(part) for part in zip(*parts))
        return images, labels

    # a run that goes on needs no weights to begin with, and on another machine they are not there
    begun = (a.output / "checkpoint.pt").exists()
    start = weights_of(a.start) if a.start and not begun else None
    rate = a.rate or (2e-3 if a.stage == "simulated" else 1e-3)
    with joined(a.device) as group:
        precision = precision_for("auto", str(group.device))
        recipe = Recipe(
            steps=a.steps,
            learning_rate=rate,
            seed=a.seed,
            precision=precision,
            schedule=a.schedule,
            mean_of=a.mean_of,
        )
        batch = partial(next_batch, rank=group.rank)
        fit(
            recipe,
            batch,
            a.output,
            start,
            stop_after=a.stop_after,
            group=group,
            stop=asked,
            checkpoint_every=CHECKPOINT_EVERY,
            any_precision=True,
        )


if __name__ == "__main__":
    main()
