"""Weight files of every kind, and the networks that are built from them."""

from __future__ import annotations

import json
import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from segment_anything import sam_model_registry

from cryosegnet_ext import weights
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.networks.unet import AttentionUNet
from tests.weights.helpers import SIZES, same, tiny_sam


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
    assert "code" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(CryoSegNetError, match="no such weights file"):
        weights.load_state_dict(tmp_path / "none.pth")
    with pytest.raises(CryoSegNetError, match="names are default, sam_small, cryosegnet"):
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


def answer(sam):
    """What a SAM makes of one image and one point."""
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)) * 255
    record = {"image": image, "original_size": (64, 64), "point_coords": torch.tensor([[[20.0, 30.0]]])}
    with torch.no_grad():
        return sam([{**record, "point_labels": torch.ones(1, 1)}], multimask_output=True)[0]["low_res_logits"]


@pytest.mark.parametrize(
    "changes",
    [{}, {"global_attn_indexes": [0, 1, 2], "window_size": 0}, {"window_size": 2}, {"img_size": 128, "depth": 2}],
)
def test_a_small_sam_comes_back_as_it_was(tmp_path, changes):
    sam = tiny_sam(**changes)
    note = {"cryosegnet": json.dumps({"sam": {"decoder_num_heads": 4}})}
    save_file(sam.state_dict(), tmp_path / "a.safetensors", metadata=note)
    loaded = weights.load_sam(tmp_path / "a.safetensors")
    assert weights.sam_sizes(sam.state_dict(), {"decoder_num_heads": 4}) == {**SIZES, **changes}
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert not any(t.is_meta for t in (*loaded.parameters(), *loaded.buffers()))
    if "img_size" not in changes:
        torch.testing.assert_close(answer(loaded), answer(sam))


def test_a_sam_without_relative_positions_needs_its_note(tmp_path):
    sam = tiny_sam(use_rel_pos=False)
    note = {"num_heads": 2, "decoder_num_heads": 4, "window_size": 3, "global_attn_indexes": [1]}
    save_file(sam.state_dict(), tmp_path / "a.safetensors", metadata={"cryosegnet": json.dumps({"sam": note})})
    torch.testing.assert_close(answer(weights.load_sam(tmp_path / "a.safetensors")), answer(sam))
    torch.save(sam.state_dict(), tmp_path / "a.pth")
    with pytest.raises(CryoSegNetError, match=r"does not hold a SAM .*num_heads"):
        weights.load_sam(tmp_path / "a.pth")


@pytest.mark.parametrize("kind", ["vit_h", "vit_l", "vit_b"])
def test_the_published_sams_are_known_by_their_shapes(kind):
    with torch.device("meta"):
        published = sam_model_registry[kind]()
        state = published.state_dict()
        sizes = weights.sam_sizes(state)
        rebuilt = weights.build_sam(sizes)
    blocks, heads = {"vit_h": (32, 16), "vit_l": (24, 16), "vit_b": (12, 12)}[kind]
    assert (sizes["img_size"], sizes["depth"], sizes["num_heads"]) == (1024, blocks, heads)
    assert str(rebuilt) == str(published)
    windows = [[block.window_size for block in sam.image_encoder.blocks] for sam in (rebuilt, published)]
    assert windows[0] == windows[1]
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == {k: v.shape for k, v in state.items()}


def test_a_published_vit_b_file_loads(tmp_path):
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in sam_model_registry["vit_b"]().state_dict().items()}
    path = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save({k: torch.full(shape, 0.25) for k, shape in shapes.items()}, path)
    try:
        sam = weights.load_sam(path)
    finally:
        path.unlink()
    assert sam.image_encoder.pos_embed.shape == (1, 64, 64, 768)
    assert float(sam.image_encoder.blocks[11].mlp.lin2.weight[5, 7]) == 0.25
    assert sam.pixel_mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert sam.device.type == "cpu"


def test_weights_that_are_no_sam(tmp_path, unet):
    torch.save(unet.state_dict(), tmp_path / "a.pth")
    with pytest.raises(CryoSegNetError, match="does not hold a SAM"):
        weights.load_sam(tmp_path / "a.pth")
    state = tiny_sam().state_dict()
    torch.save({k: v for k, v in state.items() if "no_mask_embed" not in k}, tmp_path / "b.pth")
    with pytest.raises(CryoSegNetError, match=r"does not fit a SAM.*no_mask_embed"):
        weights.load_sam(tmp_path / "b.pth")
