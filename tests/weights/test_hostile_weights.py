"""Weights that somebody has made to do harm: one sentence each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cryosegnet_ext import CryoSegNetError
from cryosegnet_ext.weights.files import load_state_dict, metadata_of
from cryosegnet_ext.weights.networks import load_sam, load_unet
from cryosegnet_ext.weights.store import resolve

FIRST = "e1.conv.conv.0.weight"


def damaged(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    state = load_state_dict(resolve("default"))
    change(state)
    torch.save(state, path)
    return path


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "nan": lambda state: state[FIRST].view(-1)[3].fill_(float("nan")),
    "infinite": lambda state: state[FIRST].view(-1)[3].fill_(float("inf")),
    "no channels": lambda state: state.update({FIRST: torch.zeros(0, 1, 3, 3)}),
    "expanded": lambda state: state.update({FIRST: torch.zeros(1).expand(10**6, 1, 3, 3)}),
    "sparse": lambda state: state.update({FIRST: torch.zeros(8, 1, 3, 3).to_sparse()}),
    "meta": lambda state: state.update({FIRST: torch.zeros(8, 1, 3, 3, device="meta")}),
    "huge": lambda state: state.update({FIRST: torch.zeros(10**6, 1, 3, 3)}),
    "other shape": lambda state: state.update({FIRST: torch.zeros(7, 1, 3, 3)}),
    "complex": lambda state: state.update({FIRST: state[FIRST].to(torch.complex64)}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_crafted_unets_are_refused_with_a_sentence(tmp_path: Path, name: str) -> None:
    path = damaged(tmp_path / "unet.pth", CHANGES[name])
    with pytest.raises(CryoSegNetError, match=r"unet\.pth"):
        load_unet(path)


@pytest.mark.parametrize("sam", [5, [], {"num_heads": "x"}, {"decoder_num_heads": 0}, {"decoder_num_heads": []}])
def test_metadata_of_the_wrong_type_is_a_sentence(tmp_path: Path, sam: object) -> None:
    path = tmp_path / "sam.safetensors"
    state = {"image_encoder.patch_embed.proj.weight": torch.ones(8, 1, 4, 4)}
    save_file(state, path, {"cryosegnet": json.dumps({"sam": sam})})
    with pytest.raises(CryoSegNetError, match=r"sam\.safetensors"):
        load_sam(path)


@pytest.mark.parametrize(
    "note",
    [{"diameter": "x"}, {"diameter": 0}, {"threshold": []}, {"calibration": 5}, {"calibration": {"offset": "x"}},
     {"segmenters": 5}, {"segmenters": {"peaks": 5}}, {"segmenters": {"peaks": {"threshold": "x"}}},
     {"segmenters": {"peaks": {"calibration": {"offset": None}}}}, {"fitted": "x"}, {"label_share": "x"}],
    ids=str,
)  # fmt: skip
def test_notes_of_the_wrong_type_are_sentences(tmp_path: Path, note: object) -> None:
    path = tmp_path / "unet.safetensors"
    save_file({FIRST: torch.ones(8, 1, 3, 3)}, path, {"cryosegnet": json.dumps(note)})
    with pytest.raises(CryoSegNetError, match="damaged metadata"):
        metadata_of(path)


def test_deep_metadata_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "unet.safetensors"
    save_file({FIRST: torch.ones(8, 1, 3, 3)}, path, {"cryosegnet": "[" * 100_000})
    with pytest.raises(CryoSegNetError, match="nested too deeply"):
        metadata_of(path)
