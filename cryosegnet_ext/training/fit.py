"""The training loop."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..errors import CryoSegNetError
from ..files.atomic import atomic_path
from ..networks.memory import ran_out
from ..networks.unet import AttentionUNet, as_planes
from ..runs.stopping import Stopped
from .folder import CHECKPOINT
from .parallel import Group
from .progress import LOSS_COLUMNS, VALIDATION_COLUMNS, Moment, Table

Batch = tuple[NDArray[np.float32], NDArray[Any]] | tuple[Tensor, Tensor]

#: Label of a pixel whose true label is not known; it is ignored.
UNKNOWN = 255
# Number of steps that are timed to estimate the time of the run.
_TIMED = 3


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes
    ----------
    base_channels, levels, planes : the network
    steps, learning_rate, weight_decay : the length and the speed
    seed : of the weights
    optimizer : "adamw" or "adam"
    schedule : "cosine", one cycle with a warm-up of 50 steps, or "constant"
    precision : "bf16" or "float16" (mixed precision), or "float32"
    clip : largest norm of the gradient; 0 for any
    frozen_norm : the statistics of the batch norms stay as they start
    validate_every : steps between validations; 0 for none
    patience : validations without a better one before the run ends early; 0 for never
    mean_of : the running mean of the weights over about so many steps is what the run gives; 0 for the last weights.
        With a constant rate such a run may end at any step.
    """

    base_channels: int = 16
    levels: int = 4
    planes: int = 1
    steps: int = 2000
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    seed: int = 0
    optimizer: Literal["adamw", "adam"] = "adamw"
    schedule: Literal["cosine", "constant"] = "cosine"
    precision: Literal["bf16", "float16", "float32"] = "bf16"
    clip: float = 1.0
    frozen_norm: bool = False
    validate_every: int = 0
    patience: int = 0
    mean_of: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if self.schedule == "constant":
            return self.learning_rate
        warm = min(1.0, (step + 1) / 50)
        return self.learning_rate * (warm * (0.5 * (1 + math.cos(math.pi * step / self.steps)) * 0.98 + 0.02))


@dataclass(frozen=True)
class Course:
    """How a run went: the planned steps, the steps done, and the step with the returned weights."""

    planned: int
    steps: int
    best_step: int


def loss(logits: Tensor, label: Tensor) -> Tensor:
    """(BCE with logits + Dice of the sigmoid) / 2, as published; (B, 1, H, W) each.

    Labels are in 0..1; pixels of the value `UNKNOWN` are ignored.
    """
    unknown = label == UNKNOWN
    if unknown.any():
        logits, label = logits[~unknown], label[~unknown]
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
    *,
    stop_after: int | None = None,
    validation: Sequence[Batch] = (),
    group: Group | None = None,
    watch: Callable[[Moment], None] | None = None,
    stop: Callable[[], bool] | None = None,
    checkpoint_every: int = 200,
    any_precision: bool = False,
) -> AttentionUNet:
    """Train a network; writes ``loss.csv``, ``validation.csv`` and ``checkpoint.pt`` into ``folder``; resumes.

    A run that was stopped or killed and is called again with the same arguments ends with the same weights as a run
    without interruption.

    Parameters
    ----------
    recipe
        The network and the schedule.
    next_batch
        Step number -> images (B, H, W) float32, labels (B, H, W) of 0 to 1 or `UNKNOWN`. May depend on the step (and on
        the rank in ``group``) only.
    folder
        Folder of the run.
    start
        Weights to start from; default: random ones from the recipe's seed.
    stop_after
        Stop at this step of the schedule; default: the end of the schedule.
    validation
        Batches whose Dice loss decides which weights are best; without them the last weights are returned.
    group
        The processes that train together. Each calls this function with its part of the batches, the same recipe and
        the whole validation.
    watch
        Called every 10 steps, after each validation, and at the first steps, for an estimate of the time.
    stop
        Called after each step; if it returns True, a checkpoint is saved and `Stopped` is raised.
    checkpoint_every
        Steps between checkpoints.
    any_precision
        Go on from a checkpoint of another precision, as where a run moves between machines with and without bf16; the
        weights are then those of an undisturbed run only about.

    Returns
    -------
    AttentionUNet
        In evaluation mode, with the best weights by validation, or the last weights without validation.

    Raises
    ------
    Stopped
        ``stop`` returned True.
    CryoSegNetError
        The loss is no longer a finite number; the folder cannot be written; or it holds a run of another recipe or a
        damaged checkpoint.
    """
    group = group or Group()
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(recipe, group, folder, start, any_precision)
    last = min(stop_after or recipe.steps, recipe.steps)
    run.learn()
    losses = Table(folder / "loss.csv", LOSS_COLUMNS, run.step, group.first)
    seen = Table(folder / "validation.csv", VALIDATION_COLUMNS, run.step, group.first and bool(validation))
    tell = watch if watch is not None and group.first else lambda _: None
    # the first step is slower than the others
    timed = (run.step + 1, run.step + 1 + _TIMED)
    while run.step < last and not run.tired:
        value = run.advance(next_batch(run.step))
        if run.step in timed:
            tell(Moment(run.step, last))
        if run.step % 10 == 0:
            shown, speed = value.item(), recipe.rate(run.step - 1)
            if not math.isfinite(shown):
                raise CryoSegNetError(
                    f"the loss is no longer a number at step {run.step}: lower the learning rate, or use --precision "
                    "float32"
                )
            losses.add(run.step, round(shown, 5), f"{speed:.2e}", losses.seconds)
            tell(Moment(run.step, last, shown, speed))
        ends = run.step == last
        if validation and recipe.validate_every and (run.step % recipe.validate_every == 0 or ends):
            total, dice = run.validate(validation)
            seen.add(run.step, round(total, 5), round(dice, 5))
            tell(Moment(run.step, last, None, None, total, dice, run.best_step == run.step))
        wished = group.any(stop is not None and stop())
        if run.step % checkpoint_every == 0 or ends or run.tired or wished:
            run.save()
        if wished and not ends and not run.tired:
            raise Stopped
    return run.result()


def course(folder: Path) -> Course:
    """How the run in a folder went, from its last checkpoint."""
    state = torch.load(folder / CHECKPOINT, weights_only=True, map_location="cpu", mmap=True)
    return Course(state["recipe"]["steps"], state["step"], state.get("best_step") or state["step"])


class _Run:
    """The state of a run, as in a checkpoint."""

    def __init__(
        self, recipe: Recipe, group: Group, folder: Path, start: dict[str, Tensor] | None, any_precision: bool
    ) -> None:
        self.recipe, self.group, self.path = recipe, group, folder / CHECKPOINT
        self._any_precision = any_precision
        torch.manual_seed(recipe.seed)
        network = AttentionUNet(recipe.base_channels, recipe.levels, recipe.planes).to(group.device)
        self.network: AttentionUNet = network.to(memory_format=torch.channels_last)
        if start is not None:
            self.network.load_state_dict(start)
        kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = kind(self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self._type = torch.device(group.device).type
        self._scaler = torch.amp.GradScaler(self._type, enabled=recipe.precision == "float16")
        self.step, self.best_step, self.best_loss, self.stale = 0, 0, math.inf, 0
        self.best: dict[str, Tensor] | None = None
        self.mean = self._copy() if recipe.mean_of else None
        if self.path.exists():
            self._load()
        self.model = group.wrap(self.network)

    @property
    def tired(self) -> bool:
        """Whether validation has not become better for too long."""
        return 0 < self.recipe.patience <= self.stale

    def learn(self) -> None:
        """Set the network to training; the statistics of frozen batch norms do not change."""
        self.model.train()
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d) and self.recipe.frozen_norm:
                module.eval()

    def advance(self, batch: Batch) -> Tensor:
        """One step; returns its loss."""
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(self.step)
        x, y = self._tensors(batch)
        with self._mixed():
            logits = self.model(x)
        value = loss(logits.float(), y)
        self.optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(value).backward()
        if recipe.clip:
            self._scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.step += 1
        if self.mean is not None:
            # from the start it is the mean of all steps; later, of about the last `mean_of`
            part = max(1 / self.recipe.mean_of, 1 / (self.step + 1))
            for name, tensor in self.network.state_dict().items():
                if tensor.is_floating_point():
                    self.mean[name].lerp_(tensor, part)
                else:
                    self.mean[name].copy_(tensor)
        return value.detach()

    def _copy(self) -> dict[str, Tensor]:
        return {k: v.detach().clone() for k, v in self.network.state_dict().items()}

    def validate(self, batches: Sequence[Batch]) -> tuple[float, float]:
        """Loss as published and Dice over all validation batches, each process doing its share."""
        self.network.eval()
        # sums of: cross entropy, pixels, overlap, probability + label
        sums = torch.zeros(4, dtype=torch.float64, device=self.group.device)
        with torch.inference_mode():
            for i in self.group.share(len(batches)):
                x, y = self._tensors(batches[i])
                with self._mixed():
                    logits = self.network(x)
                known = y != UNKNOWN
                logits, y = logits.float()[known], y[known]
                p = torch.sigmoid(logits)
                entropy = functional.binary_cross_entropy_with_logits(logits, y, reduction="sum")
                parts = (entropy, torch.tensor(float(y.numel())), (p * y).sum(), p.sum() + y.sum())
                sums += torch.stack([part.double().to(sums.device) for part in parts])
        entropy_sum, pixels, overlap, both = self.group.total(sums).tolist()
        dice = (2 * overlap + 1) / (both + 1)
        if 1 - dice < self.best_loss:
            self.best_loss, self.best_step, self.stale = 1 - dice, self.step, 0
            self.best = self._copy()
        else:
            self.stale += 1
        self.learn()
        return (entropy_sum / max(pixels, 1) + 1 - dice) / 2, dice

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        if self.group.first:
            state = {
                "model": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self._scaler.state_dict(),
                "step": self.step,
                "recipe": asdict(self.recipe),
                "best": self.best,
                "mean": self.mean,
                "best_step": self.best_step,
                "best_loss": self.best_loss,
                "stale": self.stale,
            }
            # torch's own file writer hides the reason of a failure
            stream = io.BytesIO()
            torch.save(state, stream)
            with atomic_path(self.path) as temporary:
                temporary.write_bytes(stream.getbuffer())
        self.group.wait()

    def _load(self) -> None:
        now = asdict(self.recipe)
        try:
            # on the CPU: networks and optimizer bring to their device what belongs there, which Adam's counters do not
            state = torch.load(self.path, weights_only=True, map_location="cpu")
            # checkpoints of earlier versions lack newer settings, and were trained with their defaults
            before = {**asdict(Recipe()), **state["recipe"]}
            free = {"precision"} if self._any_precision else set()
            changed = [name for name in before if name not in free and before[name] != now.get(name)]
            if not changed:
                self._restore(state)
        except Exception as error:  # on damaged bytes the unpickler raises almost anything
            if ran_out(error):
                raise
            raise CryoSegNetError(
                f"{self.path} is damaged or not a checkpoint of this program: add --overwrite to start over, or give "
                "another folder"
            ) from error
        if changed:
            name = changed[0]
            raise CryoSegNetError(
                f"{self.path} belongs to another recipe ({name.replace('_', ' ')} was {before[name]}, is "
                f"{now.get(name)}): continue as it began, or add --overwrite to start over"
            )

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state.get("scaler"):
            self._scaler.load_state_dict(state["scaler"])
        self.step, self.best = state["step"], state.get("best")
        if self.mean is not None:
            self.mean = {name: tensor.to(self.group.device) for name, tensor in state["mean"].items()}
        self.best_step, self.stale = state.get("best_step", 0), state.get("stale", 0)
        self.best_loss = state.get("best_loss", math.inf)

    def result(self) -> AttentionUNet:
        """The network with the best weights so far, or the mean weights."""
        if (chosen := self.best or self.mean) is not None:
            self.network.load_state_dict(chosen)
        return self.network.eval()

    def _tensors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images, labels = (torch.as_tensor(part) for part in batch)
        x = as_planes(images.to(self.group.device), self.recipe.planes)
        return x.contiguous(memory_format=torch.channels_last), labels[:, None].to(self.group.device).float()

    def _mixed(self) -> torch.autocast:
        half = torch.float16 if self.recipe.precision == "float16" else torch.bfloat16
        return torch.autocast(self._type, dtype=half, enabled=self.recipe.precision != "float32")
