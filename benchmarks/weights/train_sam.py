"""Train the built-in small SAM on windows around the peaks of a U-Net's map.

    python -m benchmarks.weights.train_sam --unet runs/mixed/checkpoint.pt --output runs/sam --steps 2500

Simulated crops and the training splits of the labelled micrographs (``benchmarks/splits.json``); windows are drawn from
a pool of scenes, of which every step renews one. Writes ``loss.csv``, ``checkpoint.pt`` and ``sam.safetensors``. A run
that was stopped (Ctrl-C, SIGTERM) or killed goes on from its last checkpoint when it is called again.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from segment_anything.modeling import Sam

from benchmarks import real_data
from benchmarks.weights.state import Weights, digest
from benchmarks.weights.stoppable import add_option, stoppable
from benchmarks.weights.train_default import empty_view, grounds, small_stacks, specimen_stacks, weights_of
from benchmarks.weights.window_samples import LabelledPeaks, loss, peaks_of, sample
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.atomic import atomic_path, make_folder
from cryosegnet_ext.networks import window_sam
from cryosegnet_ext.networks.precision import bf16_pays
from cryosegnet_ext.networks.unet import AttentionUNet, probability_map
from cryosegnet_ext.runs.stopping import Stopped
from cryosegnet_ext.training.crops import labelled_particles, planted_particles, simulated_particles
from cryosegnet_ext.training.progress import Table
from cryosegnet_ext.weights import build_sam

SIDE, DIAMETER = 320, 32.0
SIZE = (22.0, 46.0)
# Share of the simulated scenes with small specimens, and on real grounds.
SMALL, PLANTED = 0.4, 0.2
BATCH, SCENES_PER_BATCH = 48, 8
# Steps between checkpoints: minutes on two CPU cores.
CHECKPOINT_EVERY = 50

Scenes = Iterator[tuple[int, LabelledPeaks]]


def decode(sam: Sam, pictures: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One mask and its predicted IoU for one point in each window; `WindowSam`, but with gradients.

    Parameters
    ----------
    sam
        As `weights.build_sam` makes it of `window_sam.SIZES`.
    pictures : (n, 3, SIDE, SIDE)
        From `window_sam.Windows`.
    points : (n, 2)
        x, y in pixels of the window.

    Returns
    -------
    logits : (n, SIDE / 2, SIDE / 2)
        Of the mask, at half the window's resolution.
    iou : (n,)
        Predicted; trained to be 0 where no particle is under the point.
    """
    features = sam.image_encoder(pictures)
    labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
    sparse, dense = sam.prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
    decoder = sam.mask_decoder
    # MaskDecoder.predict_masks serves one image with many prompts; here every prompt has an image of its own.
    n = len(points)
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])[None].expand(n, -1, -1)
    tokens = torch.cat((tokens, sparse.to(tokens.dtype)), dim=1)
    positions = sam.prompt_encoder.get_dense_pe().expand(n, -1, -1, -1)
    source = features + dense
    out, flat = decoder.transformer(source, positions, tokens)
    upscaled = decoder.output_upscaling(flat.transpose(1, 2).view_as(source))
    weights = decoder.output_hypernetworks_mlps[0](out[:, 1])
    logits = torch.einsum("nc,nchw->nhw", weights, upscaled)
    return logits, decoder.iou_prediction_head(out[:, 0])[:, 0]


@dataclass(frozen=True)
class SamRecipe:
    """What decides the result of a run, apart from the weights that it begins with.

    Attributes
    ----------
    steps, rate
        Length, and learning rate: a cosine after 100 steps of warm-up.
    scenes
        How many scenes the windows are drawn from.
    real_share, empty_share
        Of the scenes.
    leave_out
        Real data sets, or micrographs, not to train on.
    seed
        Of scenes, windows and first weights.
    unet
        Digest of the U-Net that makes the maps.
    """

    steps: int
    scenes: int
    rate: float = 1e-3
    real_share: float = 0.35
    empty_share: float = 0.0
    leave_out: tuple[str, ...] = ()
    seed: int = 0
    unet: str = ""

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warm = min(1.0, (step + 1) / 100)
        return self.rate * warm * (0.5 * (1 + math.cos(math.pi * step / self.steps)) * 0.98 + 0.02)


def scenes(unet: AttentionUNet, recipe: SamRecipe, first: int) -> Scenes:
    """Scenes without end, each with its number, from the number ``first``; seed and number decide the scene."""
    stacks, small, spectra = specimen_stacks("train"), small_stacks(), grounds()
    sets = list(
        real_data.load_training((*real_data.SETS, *real_data.FURTHER, real_data.VIEWS), recipe.leave_out).values()
    )
    empty = real_data.load_empty("train")
    network = partial(probability_map, unet)
    for number in count(first):
        rng = np.random.default_rng([recipe.seed, number])
        if rng.random() < recipe.empty_share:
            crop = labelled_particles(empty_view(empty, rng), SIDE, rng, (DIAMETER, DIAMETER), degraded=True)
        elif sets and rng.random() < recipe.real_share:
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
            yield number, scene


class _Run:
    """A run as in its checkpoint.

    The pool at a step holds the newest scenes in the order of their numbers, so the number of the oldest one is enough
    to draw the same pool again.
    """

    def __init__(self, recipe: SamRecipe, folder: Path, start: Weights | None) -> None:
        self.recipe, self.path = recipe, folder / "checkpoint.pt"
        torch.manual_seed(recipe.seed)
        self.sam = build_sam(window_sam.SIZES)
        if start is not None:
            self.sam.load_state_dict(start)
        self.optimizer = torch.optim.AdamW(self.sam.parameters(), lr=recipe.rate, weight_decay=0.02)
        self.step = self.oldest = 0
        if self.path.exists():
            self._load()

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "model": self.sam.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "oldest": self.oldest,
            "recipe": {**asdict(self.recipe), "leave_out": list(self.recipe.leave_out)},
        }
        with atomic_path(self.path) as temporary:
            torch.save(state, temporary)

    def _load(self) -> None:
        now = {**asdict(self.recipe), "leave_out": list(self.recipe.leave_out)}
        try:
            state = torch.load(self.path, weights_only=True)
            before = state["recipe"]
            changed = [name for name in now if before[name] != now[name]]
            if not changed:
                self.sam.load_state_dict(state["model"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.step, self.oldest = int(state["step"]), int(state["oldest"])
        except Exception as error:  # on damaged bytes the unpickler raises almost anything
            raise CryoSegNetError(
                f"{self.path} is damaged, or holds weights only: remove it to begin anew, or give another folder"
            ) from error
        if changed:
            name = changed[0]
            raise CryoSegNetError(
                f"{self.path} belongs to another recipe ({name.replace('_', ' ')} was {before[name]}, is {now[name]}): "
                "go on as it began, or give another folder"
            )


def train(
    recipe: SamRecipe,
    draw: Callable[[int], Scenes],
    folder: Path,
    start: Weights | None = None,
    asked: Callable[[], bool] = lambda: False,
) -> Sam:
    """Train; writes ``loss.csv`` and ``checkpoint.pt`` into ``folder``, and goes on from them.

    A run that was stopped and is called again with the same arguments ends with the same weights as one without
    interruption. It draws its pool of scenes again first.

    Parameters
    ----------
    recipe
        How to train.
    draw
        Number of a scene -> the scenes from there on, with their numbers.
    folder
        Folder of the run.
    start
        Weights to start from; default: random ones.
    asked
        Asked after each step and scene; True stops the run.

    Raises
    ------
    Stopped
        It was asked to stop; the checkpoint is saved.
    CryoSegNetError
        The folder holds a run of another recipe, a damaged checkpoint, or cannot be written.
    """
    make_folder(folder)
    run = _Run(recipe, folder, start)
    table = Table(folder / "loss.csv", ["step", "loss", "iou", "iou_error", "seconds"], run.step, True)
    if run.step >= recipe.steps:
        return run.sam.eval()
    source = draw(run.oldest)
    # the scene of index k is in the place k % scenes; a step puts a new one in the place of the oldest
    pool: list[tuple[int, LabelledPeaks]] = []
    while len(pool) < recipe.scenes:
        if asked():
            raise Stopped
        pool.append(next(source))
    shift = run.step % recipe.scenes
    pool = pool[recipe.scenes - shift :] + pool[: recipe.scenes - shift]
    print(f"{len(pool)} scenes, {sum(len(scene.rows) for _, scene in pool)} peaks", flush=True)
    run.sam.train()
    bf16 = bf16_pays(torch.device("cpu"))
    while run.step < recipe.steps:
        rng = np.random.default_rng([recipe.seed, 1, run.step])
        pool[run.step % recipe.scenes] = next(source)
        parts = [
            sample(pool[int(rng.integers(len(pool)))][1], BATCH // SCENES_PER_BATCH, rng)
            for _ in range(SCENES_PER_BATCH)
        ]
        pictures, target, there = (torch.from_numpy(np.concatenate(p)) for p in zip(*parts))
        for group in run.optimizer.param_groups:
            group["lr"] = recipe.rate_at(run.step)
        points = torch.full((len(pictures), 2), window_sam.SIDE / 2)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            logits, iou = decode(run.sam, pictures, points)
        value, measured = loss(logits.float(), iou.float(), target, there)
        run.optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(run.sam.parameters(), 1.0)
        run.optimizer.step()
        run.step += 1
        run.oldest = pool[run.step % recipe.scenes][0]
        if run.step % 10 == 0:
            table.add(run.step, *(round(v, 4) for v in (value.item(), *measured.values())), table.seconds)
        wished = asked()
        if run.step % CHECKPOINT_EVERY == 0 or run.step == recipe.steps or wished:
            run.save()
        if wished and run.step < recipe.steps:
            raise Stopped
    return run.sam.eval()


def write_weights(weights: Weights, path: Path) -> None:
    """Write trained weights as `weights.load_sam` reads them."""
    sam = build_sam(window_sam.SIZES)
    sam.load_state_dict(weights)
    state, note = window_sam.to_weights(sam.eval(), {})
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata={"cryosegnet": json.dumps(note)})


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
    add_option(ap)
    a = ap.parse_args()
    with stoppable(a.stdin_stops) as asked:
        of_unet = weights_of(a.unet)
        unet = AttentionUNet(16, 4).eval().to(memory_format=torch.channels_last)
        unet.load_state_dict(of_unet)
        leave_out, key = tuple(a.leave_out), digest(of_unet)
        recipe = SamRecipe(a.steps, a.scenes, a.rate, a.real_share, a.empty_share, leave_out, a.seed, key)
        # a run that goes on needs no weights to begin with, and on another machine they are not there
        begun = (a.output / "checkpoint.pt").exists()
        start = weights_of(a.start) if a.start and not begun else None
        sam = train(recipe, partial(scenes, unet, recipe), a.output, start, asked)
        write_weights(sam.state_dict(), a.output / "sam.safetensors")


if __name__ == "__main__":
    main()
