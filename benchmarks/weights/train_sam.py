"""Train the built-in small SAM on windows around the peaks of a U-Net's map.

    python -m benchmarks.weights.train_sam --unet runs/mixed/checkpoint.pt --output runs/sam --steps 2500

Simulated crops and the training splits of the labelled micrographs (``benchmarks/splits.json``); windows are drawn from
a pool of scenes, of which every step renews one. Writes ``loss.csv``, ``checkpoint.pt`` and ``sam.safetensors``.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from collections.abc import Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks import real_data
from benchmarks.weights.train_default import empty_view, grounds, small_stacks, specimen_stacks, weights_of
from benchmarks.weights.window_samples import LabelledPeaks, loss, peaks_of, sample
from cryosegnet_ext.networks import window_sam
from cryosegnet_ext.networks.unet import AttentionUNet, bf16_pays, probability_map
from cryosegnet_ext.training.crops import labelled_particles, planted_particles, simulated_particles
from cryosegnet_ext.weights import build_sam

SIDE, DIAMETER = 320, 32.0
SIZE = (22.0, 46.0)
# Share of the simulated scenes with small specimens, and on real grounds.
SMALL, PLANTED = 0.4, 0.2
BATCH, SCENES_PER_BATCH = 48, 8


def scenes(
    unet: AttentionUNet, real_share: float, leave_out: list[str], seed: int, empty_share: float = 0.0
) -> Iterator[LabelledPeaks]:
    """Scenes without end, the same for the same seed."""
    stacks, small, spectra = specimen_stacks("train"), small_stacks(), grounds()
    sets = list(real_data.load_training((*real_data.SETS, *real_data.FURTHER, real_data.VIEWS), leave_out).values())
    empty = real_data.load_empty("train")
    network = partial(probability_map, unet)
    for number in count():
        rng = np.random.default_rng([seed, number])
        if rng.random() < empty_share:
            crop = labelled_particles(empty_view(empty, rng), SIDE, rng, (DIAMETER, DIAMETER), degraded=True)
        elif sets and rng.random() < real_share:
            pool = sets[int(rng.integers(len(sets)))]
            crop = labelled_particles(pool[int(rng.integers(len(pool)))], SIDE, rng, SIZE, degraded=True)
        else:
            of, kind, drawn = small if rng.random() < SMALL else stacks, rng.random(), int(rng.integers(2**62))
            if kind < PLANTED / 2:
                crop = planted_particles(of, empty, SIDE, drawn, size=SIZE)
            elif kind < PLANTED:
                crop = planted_particles(of, spectra, SIDE, drawn, size=SIZE, random_phases=True)
            else:
                crop = simulated_particles(of, SIDE, drawn, SIZE)
        scene = peaks_of(crop, network, DIAMETER)
        if scene is not None:
            yield scene


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--unet", type=Path, required=True, help="checkpoint.pt of the U-Net, or a .safetensors")
    ap.add_argument("--output", type=Path, required=True)
    ap.add_argument("--steps", type=int, default=2500)
    ap.add_argument("--scenes", type=int, default=300, help="scenes to draw windows from; a step renews one")
    ap.add_argument("--real-share", type=float, default=0.35)
    ap.add_argument("--empty-share", type=float, default=0.0, help="scenes without particles")
    ap.add_argument("--leave-out", default=[], nargs="*", help="real data sets, or micrographs, not to train on")
    ap.add_argument("--from", dest="start", type=Path, help="weights to begin with: checkpoint.pt of an earlier run")
    ap.add_argument("--rate", type=float, default=1e-3)
    ap.add_argument("--seed", type=int, default=0)
    a = ap.parse_args()
    a.output.mkdir(parents=True, exist_ok=True)
    unet = AttentionUNet(16, 4).eval().to(memory_format=torch.channels_last)
    unet.load_state_dict(weights_of(a.unet))
    source = scenes(unet, a.real_share, a.leave_out, a.seed, a.empty_share)
    pool = list(islice(source, a.scenes))
    print(f"{len(pool)} scenes, {sum(len(s.rows) for s in pool)} peaks", flush=True)
    torch.manual_seed(a.seed)
    sam = build_sam(window_sam.SIZES)
    if a.start:
        sam.load_state_dict(weights_of(a.start))
    optimizer = torch.optim.AdamW(sam.parameters(), lr=a.rate, weight_decay=0.02)
    sam.train()
    bf16 = bf16_pays(torch.device("cpu"))
    began = time.monotonic()
    with open(a.output / "loss.csv", "w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["step", "loss", "iou", "iou_error", "seconds"])
        for step in range(a.steps):
            rng = np.random.default_rng([a.seed, 1, step])
            pool[step % len(pool)] = next(source)
            parts = [
                sample(pool[int(rng.integers(len(pool)))], BATCH // SCENES_PER_BATCH, rng)
                for _ in range(SCENES_PER_BATCH)
            ]
            pictures, target, there = (torch.from_numpy(np.concatenate(p)) for p in zip(*parts))
            warm = min(1.0, (step + 1) / 100)
            for group in optimizer.param_groups:
                group["lr"] = a.rate * warm * (0.5 * (1 + math.cos(math.pi * step / a.steps)) * 0.98 + 0.02)
            points = torch.full((len(pictures), 2), window_sam.SIDE / 2)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                logits, iou = window_sam.decode(sam, pictures, points)
            value, measured = loss(logits.float(), iou.float(), target, there)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(sam.parameters(), 1.0)
            optimizer.step()
            if step % 10 == 9:
                row = [round(v, 4) for v in (value.item(), *measured.values())]
                table.writerow([step + 1, *row, round(time.monotonic() - began, 1)])
                stream.flush()
            if step % 250 == 249 or step == a.steps - 1:
                torch.save(sam.state_dict(), a.output / ".checkpoint.pt")
                (a.output / ".checkpoint.pt").replace(a.output / "checkpoint.pt")
    state, note = window_sam.to_weights(sam.eval(), {})
    save_file(state, a.output / "sam.safetensors", metadata={"cryosegnet": json.dumps(note)})


if __name__ == "__main__":
    main()
