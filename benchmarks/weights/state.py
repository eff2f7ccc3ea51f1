"""A small file with which a training goes on, on another machine as well: safetensors, no pickle.

It holds what the unfinished stage and those after it cannot do without:

- of the stage that runs: weights and their running mean in float16, Adam's second moment in bfloat16 (vectors such as
  the norms' statistics stay as they are), and its step;
- of finished stages that a later one begins from, or asks: their weights, in float16 as well;
- of every finished stage: its recipe and the SHA-256 of its weights.

Adam's first moment, a mean over some ten steps, is left out. It begins at zero, so that the steps grow to their full
length again: over the first twenty the weights move about nine steps less far. With the rounding of the weights (one
part in 2,000) and of the second moment (one in 256) that is the whole cost of a move. On its own machine a run goes on
from its full checkpoint and loses nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.atomic import write_atomic

VERSION = 1
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Finished:
    """A finished stage: its recipe with its last step, and the digest of its weights."""

    recipe: str
    sha256: str


@dataclass(frozen=True)
class State:
    """How far a training is.

    Attributes
    ----------
    stage, recipe
        The stage that runs or is next; empty if all are finished.
    step
        Its steps done; 0 if it has not begun.
    finished
        The stages before it.
    checkpoint
        Its checkpoint as its script writes it; None if it has not begun.
    weights
        Weights of finished stages, by stage.
    """

    stage: str
    recipe: str
    step: int
    finished: Mapping[str, Finished]
    checkpoint: Mapping[str, Any] | None = None
    weights: Mapping[str, Weights] = field(default_factory=dict)


def weights_in(checkpoint: Mapping[str, Any]) -> Weights:
    """The weights that a stage gives, from its checkpoint: their running mean, if it has one; matrices in float16."""
    given = checkpoint.get("mean") or checkpoint.get("model") or checkpoint
    return {name: _half(tensor) for name, tensor in given.items()}


def digest(tensors: Mapping[str, Tensor], more: str = "") -> str:
    """SHA-256 of named tensors and a text."""
    total = hashlib.sha256(more.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous().reshape(-1)
        total.update(f"{name} {tensor.dtype} {tuple(tensors[name].shape)}".encode())
        total.update(tensor.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def write(path: Path, state: State) -> None:
    """Write a state, whole or not at all.

    Raises
    ------
    CryoSegNetError
        The file cannot be written.
    """
    tensors: Weights = {}
    note: dict[str, Any] = {
        "version": VERSION,
        "stage": state.stage,
        "recipe": state.recipe,
        "step": state.step,
        "finished": {name: vars(each) for name, each in state.finished.items()},
    }
    if state.checkpoint is not None:
        tensors, note["checkpoint"] = _smaller(state.checkpoint)
    for stage, weights in state.weights.items():
        tensors |= {f"finished/{stage}/{name}": _plain(tensor) for name, tensor in weights.items()}
    text = json.dumps(note)
    # safetensors' own file writer hides the reason of a failure
    write_atomic(path, save(tensors, metadata={"state": text, "sha256": digest(tensors, text)}), sync=True)


def read(path: Path) -> State:
    """Read what `write` wrote.

    Raises
    ------
    CryoSegNetError
        The file is damaged, or is no such file.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = metadata["state"]
        if digest(tensors, text) != metadata["sha256"]:
            raise ValueError("the digest differs")
        note = json.loads(text)
        if note["version"] != VERSION:
            raise ValueError("another version")
        finished = {name: Finished(**each) for name, each in note["finished"].items()}
        weights: dict[str, Weights] = {}
        for key, tensor in tensors.items():
            kind, stage, name = (*key.split("/", 2), "")[:3]
            if kind == "finished":
                weights.setdefault(stage, {})[name] = tensor
        whole = _full(tensors, note["checkpoint"]) if "checkpoint" in note else None
        return State(note["stage"], note["recipe"], note["step"], finished, whole, weights)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CryoSegNetError(
            f"{path} is damaged or not a state file of this program: give another one, or remove it to go on from the "
            "folder of the runs alone"
        ) from error


def _smaller(checkpoint: Mapping[str, Any]) -> tuple[Weights, dict[str, Any]]:
    """Tensors and note of a checkpoint, without Adam's first moment."""
    optimizer = checkpoint["optimizer"]
    tensors = {f"model/{name}": _half(tensor) for name, tensor in checkpoint["model"].items()}
    tensors |= {f"mean/{name}": _half(tensor) for name, tensor in (checkpoint.get("mean") or {}).items()}
    for number, moments in optimizer["state"].items():
        second = moments["exp_avg_sq"]
        tensors[f"second/{number}"] = _plain(second.bfloat16() if second.ndim > 1 else second)
    rest = {key: value for key, value in checkpoint.items() if key not in ("model", "mean", "optimizer")}
    adam_steps = {str(number): float(moments["step"]) for number, moments in optimizer["state"].items()}
    return tensors, {"rest": rest, "groups": optimizer["param_groups"], "adam_steps": adam_steps}


def _full(tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint of which `_smaller` made these, its first moment zero."""
    parts: dict[str, Weights] = {"model": {}, "mean": {}, "second": {}}
    for key, tensor in tensors.items():
        kind, name = key.split("/", 1)
        if kind in parts:
            parts[kind][name] = tensor.float() if tensor.is_floating_point() else tensor
    state = {
        int(number): {
            "step": torch.tensor(note["adam_steps"][number]),
            "exp_avg": torch.zeros_like(second),
            "exp_avg_sq": second,
        }
        for number, second in parts["second"].items()
    }
    groups = [{**group, "betas": tuple(group["betas"])} for group in note["groups"]]
    optimizer = {"state": state, "param_groups": groups}
    return {**note["rest"], "model": parts["model"], "mean": parts["mean"] or None, "optimizer": optimizer}


def _half(tensor: Tensor) -> Tensor:
    """In float16 if it is a matrix that fits, else as it is."""
    half = tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor
    return _plain(half if half.isfinite().all() else tensor)


def _plain(tensor: Tensor) -> Tensor:
    # safetensors takes no two names for the same memory
    return tensor.detach().cpu().contiguous().clone()
