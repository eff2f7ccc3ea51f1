"""The training loop."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..unet import AttentionUNet

Batch = tuple[NDArray[np.float32], NDArray[np.uint8]]


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes
    ----------
    base_channels, levels : the network
    steps, batch, learning_rate : one-cycle schedule with AdamW
    seed : of the weights
    """

    base_channels: int = 16
    levels: int = 4
    steps: int = 2000
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    seed: int = 0


def loss(logits: Tensor, label: Tensor) -> Tensor:
    """(BCE with logits + Dice of the sigmoid) / 2, as published; (B, 1, H, W) each, label of 0 and 1."""
    bce = functional.binary_cross_entropy_with_logits(logits, label)
    probability = torch.sigmoid(logits)
    overlap = (probability * label).sum()
    dice = 1 - (2 * overlap + 1) / (probability.sum() + label.sum() + 1)
    return (bce + dice) / 2


def fit(
    recipe: Recipe,
    next_batch: Callable[[int], Batch],
    folder: Path,
    start: dict[str, Tensor] | None = None,
    device: str = "cpu",
    stop_after: int | None = None,
) -> AttentionUNet:
    """Train a network; writes ``loss.csv`` and every 200 steps ``checkpoint.pt`` into ``folder``, and resumes from it.

    Parameters
    ----------
    recipe
        The network and the schedule.
    next_batch
        Step number -> images (B, H, W) float32, labels (B, H, W) of 0 and 1; must depend on the step alone.
    folder
        Where the run lives.
    start
        Weights to start from; random ones from the recipe's seed otherwise.
    device
        Where to train.
    stop_after
        Stop at this step of the schedule; the whole schedule otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    model = AttentionUNet(recipe.base_channels, recipe.levels).to(device).to(memory_format=torch.channels_last)
    if start is not None:
        model.load_state_dict(start)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)

    def rate(step: int) -> float:
        warm = min(1.0, (step + 1) / 50)
        return warm * (0.5 * (1 + math.cos(math.pi * step / recipe.steps)) * 0.98 + 0.02)

    last = min(stop_after or recipe.steps, recipe.steps)
    checkpoint = folder / "checkpoint.pt"
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        if state["recipe"] != asdict(recipe):
            raise ValueError(f"{checkpoint} belongs to another recipe: {state['recipe']}")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    model.train()
    began = time.monotonic()
    rows = _rows_until(first, folder / "loss.csv")
    with open(folder / "loss.csv", "w", newline="") as stream:
        table = csv.writer(stream)
        table.writerows([["step", "loss", "learning_rate", "seconds"], *rows])
        for step in range(first, last):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * rate(step)
            images, labels = next_batch(step)
            x = torch.from_numpy(images)[:, None].to(device).contiguous(memory_format=torch.channels_last)
            y = torch.from_numpy(labels)[:, None].to(device).float()
            with torch.autocast(device_type=torch.device(device).type, dtype=torch.bfloat16):
                logits = model(x)
            value = loss(logits.float(), y)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if step % 10 == 9:
                seconds = round(time.monotonic() - began, 1)
                table.writerow([step + 1, round(value.item(), 5), f"{recipe.learning_rate * rate(step):.2e}", seconds])
                stream.flush()
            if step % 200 == 199 or step == last - 1:
                state = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step + 1,
                    "recipe": asdict(recipe),
                }
                temporary = folder / ".checkpoint.pt"
                torch.save(state, temporary)
                temporary.replace(checkpoint)
    return model.eval()


def _rows_until(step: int, path: Path) -> list[list[str]]:
    """Rows of a loss table up to ``step``: a run that was killed wrote more than its checkpoint holds."""
    if not step or not path.exists():
        return []
    with open(path, newline="") as stream:
        return [row for row in csv.reader(stream) if row and row[0].isdigit() and int(row[0]) <= step]
