"""Read weight files of any kind as tensors by name. No code in a file is ever run."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from ..errors import CryoSegNetError
from ..files.json_text import from_json, parse_json

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class _Fitted:
    """The part of a note that belongs to one segmenter."""

    diameter: float = 32.0
    threshold: float = 0.0
    calibration: Mapping[str, float] = field(default_factory=dict)


@dataclass
class _Note(_Fitted):
    """The types of what is read from a note."""

    label_share: float = 1.0
    segmenters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fitted: Mapping[str, Any] = field(default_factory=dict)


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict. No code in the file is ever run.

    Parameters
    ----------
    path
        A ``.safetensors`` file or a file from ``torch.save``: tensors by name, or such a dict under ``state_dict``,
        ``model_state_dict`` or ``model``. Prefixes that wrappers add (``module.``, ``_orig_mod.``) are removed.

    Returns
    -------
    dict
        Tensors by name, on the CPU.

    Raises
    ------
    CryoSegNetError
        The file is missing or truncated, holds no tensors, tensors without values or with values that are not finite,
        or holds code.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise CryoSegNetError(f"no such weights file: {path}")
    found = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    import torch

    if not isinstance(found, Mapping) or not found:
        raise CryoSegNetError(f"{path} holds no weights: expected tensors by name, as in a state dict")
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise CryoSegNetError(f"{path} is not a state dict: its entry {key!r} is not a tensor")
        if problem := _problem(value):
            raise CryoSegNetError(f"{path} cannot be used: its tensor {key!r} {problem}; fetch or save it again")
    state: dict[str, Tensor] = dict(found)
    for prefix in ("module.", "_orig_mod."):
        if all(key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: value for key, value in state.items()}
    return state


def _problem(tensor: Tensor) -> str | None:
    """Why a network cannot have this tensor; None if it can."""
    import torch

    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.device.type != "cpu":
        return "is sparse, quantized, complex or without values"
    if tensor.numel() == 0:
        return "is empty"
    # A few bytes can stand for a tensor of any size, which the network would then have in memory.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return "has more elements than are stored"
    # The sum needs no memory, and is not finite if one value is not.
    if tensor.is_floating_point() and not torch.isfinite(tensor.sum(dtype=torch.float64)):
        return "has values that are not finite"
    return None


def metadata_of(path: str | Path) -> dict[str, Any]:
    """The JSON under the key ``cryosegnet`` in a safetensors header; empty where there is none.

    Raises
    ------
    CryoSegNetError
        The file is not a safetensors file, its note is not JSON, or has values of the wrong type.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            note = parse_json((file.metadata() or {}).get("cryosegnet", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CryoSegNetError(f"cannot read the header of {path}: {first_line(error)}") from error
    if not isinstance(note, dict):
        return {}
    try:
        known = from_json(_Note, note)
        for fitted in (
            known,
            from_json(_Fitted, known.fitted),
            *(from_json(_Fitted, s) for s in known.segmenters.values()),
        ):
            if not fitted.diameter > 0:
                raise ValueError("diameter must be above zero")
    except ValueError as error:
        raise CryoSegNetError(f"{path} has damaged metadata ({error}); fetch or save it again") from error
    return note


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CryoSegNetError(f"{path} is not a complete safetensors file: {first_line(error)}") from error


def _read_pickle(path: Path) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on arbitrary bytes PyTorch's readers raise almost anything
        if re.search("unsupported (global|class)", str(error), re.IGNORECASE):
            raise CryoSegNetError(
                f"{path} holds Python code beside tensors, which is never run: "
                "ask its author for a plain state dict or a .safetensors file"
            ) from error
        raise CryoSegNetError(f"{path} is not a weights file, or is incomplete: fetch or save it again") from error


def first_line(error: Exception) -> str:
    """The first line of an error's text, shortened between words where it is long."""
    return shorten((str(error).splitlines() or [type(error).__name__])[0], 200, placeholder=" ...")
