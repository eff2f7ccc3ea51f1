"""Weights: names, cache, downloads from a server of the test's own, files of every kind."""

from __future__ import annotations

import json
import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from cryosegnet_ext import weights
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.unet import AttentionUNet


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("CRYOSEGNET_CACHE", str(folder))
    return folder


@pytest.fixture
def unet():
    torch.manual_seed(0)
    return AttentionUNet(base_channels=2, levels=3).eval()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Evil:
    def __reduce__(self):
        return os.system, ("echo run > evil",)


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "model", "model_state_dict", "module", "legacy"])
def test_state_dicts_of_every_shape(tmp_path, unet, wrap):
    state = unet.state_dict()
    stored = {
        "plain": state,
        "legacy": state,
        "module": {f"module.{k}": v for k, v in state.items()},
    }.get(wrap, {wrap: state, "epoch": 7})
    torch.save(stored, tmp_path / "a.pth", _use_new_zipfile_serialization=wrap != "legacy")
    assert same(weights.load_state_dict(tmp_path / "a.pth"), dict(state))


def test_safetensors(tmp_path, unet):
    save_file(unet.state_dict(), tmp_path / "a.safetensors")
    assert same(weights.load_state_dict(tmp_path / "a.safetensors"), dict(unet.state_dict()))


@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_refused_and_not_run(tmp_path, monkeypatch, legacy):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.zeros(1), "b": Evil()}, "a.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CryoSegNetError, match="holds Python code"):
        weights.load_state_dict("a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CryoSegNetError):
        weights.load_state_dict("b.pth")
    assert not (tmp_path / "evil").exists()


def test_a_whole_pickled_model_is_refused(tmp_path, unet):
    torch.save(unet, tmp_path / "a.pth")
    with pytest.raises(CryoSegNetError, match="holds Python code"):
        weights.load_state_dict(tmp_path / "a.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", ["empty", "text", "truncated", "flipped", "other zip", "list"])
def test_files_that_are_no_weights(tmp_path, unet, suffix, content):
    path = tmp_path / f"a{suffix}"
    if suffix == ".pth":
        torch.save(unet.state_dict() if content != "list" else [1, 2], path)
    else:
        save_file(unet.state_dict(), path)
    good = path.read_bytes()
    if content == "empty":
        path.write_bytes(b"")
    elif content == "text":
        path.write_text("<html>404 not found</html>\n" * 20)
    elif content == "truncated":
        path.write_bytes(good[: len(good) // 2])
    elif content == "flipped":
        path.write_bytes(bytes(255 - b for b in good[:200]) + good[200:])
    elif content == "other zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a", "b")
    elif suffix == ".safetensors":
        path.write_bytes((2).to_bytes(8, "little") + b"[]")
    with pytest.raises(CryoSegNetError) as error:
        weights.load_state_dict(path)
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(CryoSegNetError, match="no such weights file"):
        weights.load_state_dict(tmp_path / "none.pth")
    with pytest.raises(CryoSegNetError, match="names are default, cryosegnet"):
        weights.resolve(tmp_path / "none.pth")


@pytest.mark.parametrize(("base", "levels"), [(2, 3), (1, 5), (4, 2)])
def test_a_unet_is_built_as_its_weights_say(tmp_path, base, levels):
    unet = AttentionUNet(base_channels=base, levels=levels).eval()
    torch.save(unet.state_dict(), tmp_path / "a.pth")
    loaded, note = weights.load_unet(tmp_path / "a.pth")
    assert (loaded.base_channels, loaded.levels, loaded.training, note) == (base, levels, False, {})
    x = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(x), unet(x))


def test_a_unet_brings_its_note(tmp_path, unet):
    note = {"diameter_px": 32, "recipe": "default"}
    save_file(unet.state_dict(), tmp_path / "a.safetensors", metadata={"cryosegnet": json.dumps(note)})
    assert weights.load_unet(tmp_path / "a.safetensors")[1] == note
    save_file(unet.state_dict(), tmp_path / "b.safetensors", metadata={"other": "x"})
    assert weights.load_unet(tmp_path / "b.safetensors")[1] == {}
    save_file(unet.state_dict(), tmp_path / "c.safetensors", metadata={"cryosegnet": "{"})
    with pytest.raises(CryoSegNetError, match="header"):
        weights.load_unet(tmp_path / "c.safetensors")


def test_half_precision_weights_become_single(tmp_path, unet):
    save_file(
        {k: v.half() if v.is_floating_point() else v for k, v in unet.state_dict().items()}, tmp_path / "a.safetensors"
    )
    assert {p.dtype for p in weights.load_unet(tmp_path / "a.safetensors")[0].parameters()} == {torch.float32}


def test_weights_of_another_network(tmp_path, unet):
    state = unet.state_dict()
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.pth")
    with pytest.raises(CryoSegNetError, match="does not hold CryoSegNet's U-Net"):
        weights.load_unet(tmp_path / "a.pth")
    torch.save({k: v for k, v in state.items() if k != "b1.conv.0.bias"}, tmp_path / "b.pth")
    with pytest.raises(CryoSegNetError, match=r"b\.pth does not fit CryoSegNet's U-Net: .*b1\.conv\.0\.bias"):
        weights.load_unet(tmp_path / "b.pth")
    torch.save({**state, "output.weight": torch.zeros(3, 2, 1, 1)}, tmp_path / "c.pth")
    with pytest.raises(CryoSegNetError, match="does not fit"):
        weights.load_unet(tmp_path / "c.pth")
