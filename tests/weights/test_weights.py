"""Weights: names, cache, downloads from a server in the test, files of every kind."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import logging
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pooch
import pytest
import requests
import torch
from safetensors.torch import save_file
from segment_anything import sam_model_registry

from cryosegnet_ext import weights
from cryosegnet_ext.cli import main as command
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.networks.unet import AttentionUNet


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


SIZES = {
    "img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 2, "mlp_ratio": 2.0, "qkv_bias": True,
    "use_rel_pos": True, "window_size": 3, "global_attn_indexes": [1], "prompt_embed_dim": 16, "mask_in_chans": 4,
    "decoder_depth": 2, "decoder_mlp_dim": 24, "decoder_num_heads": 4, "num_multimask_outputs": 3, "iou_head_depth": 3,
    "iou_head_hidden_dim": 20,
}  # fmt: skip


def tiny_sam(**changes):
    torch.manual_seed(0)
    return weights.build_sam({**SIZES, **changes}).eval()


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


class Files(BaseHTTPRequestHandler):
    """Serves the bytes it is given by path; a path with "short" promises more than it sends."""

    def __init__(self, content, *args):
        self.content = content
        super().__init__(*args)

    def do_GET(self):
        body = self.content.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + 1000 * ("short" in self.path)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def site(monkeypatch):
    """(content by path, address) of a server that lives as long as the test."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    content = {}
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, content)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield content, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def serve(monkeypatch, name, **changes):
    monkeypatch.setitem(weights.SOURCES, name, dataclasses.replace(weights.SOURCES[name], **changes))


def saved(state):
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def archive(*members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            if content is None:
                entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/hostname"
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def test_a_download_is_checked_kept_and_checked_again(monkeypatch, cache, site):
    content, address = site
    content["/sam.pth"] = saved(tiny_sam().state_dict())
    serve(monkeypatch, "sam_vit_b", url=f"{address}/sam.pth", sha256=hashlib.sha256(content["/sam.pth"]).hexdigest())
    path = weights.resolve("sam_vit_b")
    assert path == cache / "sam_vit_b_01ec64.pth" == weights.location("sam_vit_b")
    assert sorted(os.listdir(cache)) == ["sam_vit_b_01ec64.pth", "sam_vit_b_01ec64.pth.sha256"]
    del content["/sam.pth"]
    assert weights.resolve("sam_vit_b") == path
    assert weights.load_sam("sam_vit_b").image_encoder.img_size == 64
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(CryoSegNetError, match="is damaged"):
        weights.resolve("sam_vit_b")


def test_a_download_that_is_not_the_published_file(monkeypatch, cache, site):
    content, address = site
    content["/sam.pth"] = b"<html>moved</html>"
    serve(monkeypatch, "sam_vit_b", url=f"{address}/sam.pth")
    with pytest.raises(CryoSegNetError, match=r"not the published file .*weights import sam_vit_b FILE"):
        weights.fetch("sam_vit_b")
    assert os.listdir(cache) == []


@pytest.mark.parametrize("path", ["/none.pth", "/short.pth"])
def test_a_download_that_fails(monkeypatch, cache, site, path):
    content, address = site
    content["/short.pth"] = b"half"
    serve(monkeypatch, "sam_vit_b", url=address + path)
    with pytest.raises(CryoSegNetError, match=rf"cannot download .*fetch {address}{path} by hand") as error:
        weights.fetch("sam_vit_b")
    assert "\n" not in str(error.value)
    assert os.listdir(cache) == []


def test_no_network(monkeypatch, cache):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    serve(monkeypatch, "sam_vit_b", url="http://127.0.0.1:9/sam.pth")
    with pytest.raises(CryoSegNetError) as error:
        weights.fetch("sam_vit_b")
    assert str(error.value) == (
        "cannot download weights 'sam_vit_b', because 127.0.0.1:9 cannot be reached from here: fetch "
        "http://127.0.0.1:9/sam.pth by hand and run 'cryosegnet weights import sam_vit_b FILE'"
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (requests.exceptions.SSLError("x" * 500), "the certificate of a.org is not trusted here"),
        (requests.exceptions.ProxyError("x" * 500), "the proxy refuses the connection to a.org"),
        (requests.exceptions.ReadTimeout("x" * 500), "a.org did not answer within 60 s"),
        (requests.exceptions.ChunkedEncodingError("x" * 500), "the connection to a.org broke off"),
    ],
)
def test_why_a_download_failed(error, said):
    assert weights.store._why_not(error, "https://a.org/b/sam.pth") == said


def test_what_is_downloaded_is_said_before(monkeypatch, cache, site, caplog):
    caplog.set_level(logging.INFO)
    content, address = site
    content["/sam.pth"] = saved(tiny_sam().state_dict())
    digest = hashlib.sha256(content["/sam.pth"]).hexdigest()
    serve(monkeypatch, "sam_vit_h", url=f"{address}/sam.pth", sha256=digest)
    for word in ("1", "yes"):
        monkeypatch.setenv("CRYOSEGNET_OFFLINE", word)
        with pytest.raises(CryoSegNetError, match=r"sam_vit_h.* CRYOSEGNET_OFFLINE forbids.*weights import sam_vit_h"):
            weights.resolve("sam_vit_h")
    assert not cache.exists()
    for word in ("", "0", "no"):
        monkeypatch.setenv("CRYOSEGNET_OFFLINE", word)
        path = weights.resolve("sam_vit_h")
        size = f"{len(content['/sam.pth']) / 1e6:.3g} MB"
        assert f"downloading weights 'sam_vit_h': {size} from {address}/sam.pth to {path}" in caplog.messages
        path.unlink()


def test_no_space_and_no_permission(monkeypatch, tmp_path, site):
    content, address = site
    content["/sam.pth"] = b"abc"
    serve(monkeypatch, "sam_vit_b", url=f"{address}/sam.pth", sha256=hashlib.sha256(b"abc").hexdigest())

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pooch.HTTPDownloader, "__call__", full)
        with pytest.raises(CryoSegNetError, match=r"No space left on device.*CRYOSEGNET_CACHE"):
            weights.fetch("sam_vit_b")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CRYOSEGNET_CACHE", str(tmp_path / "file"))
    with pytest.raises(CryoSegNetError, match="CRYOSEGNET_CACHE"):
        weights.fetch("sam_vit_b")


def test_the_published_archive_gives_only_the_unet(monkeypatch, tmp_path, cache, site, unet):
    content, address = site
    good = saved(unet.state_dict())
    content["/models.tar.gz"] = archive(
        ("../outside.txt", b"no"),
        ("pretrained_models/sam_vit_h_4b8939.pth", b"x"),
        ("pretrained_models/cryosegnet.pth", good),
    )
    serve(monkeypatch, "cryosegnet", url=f"{address}/models.tar.gz")
    assert weights.expected_sha256("cryosegnet") is None
    loaded, note = weights.load_unet("cryosegnet")
    assert note == {}
    assert same(loaded.state_dict(), unet.state_dict())
    assert sorted(os.listdir(cache)) == ["cryosegnet.pth", "cryosegnet.pth.sha256"]
    assert not (tmp_path / "outside.txt").exists()
    assert weights.expected_sha256("cryosegnet") == hashlib.sha256(good).hexdigest()
    (cache / "cryosegnet.pth").write_bytes(saved({k: v + 1 for k, v in unet.state_dict().items()}))
    with pytest.raises(CryoSegNetError, match="is damaged"):
        weights.load_unet("cryosegnet")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("other", b"x")], "does not hold pretrained_models/cryosegnet.pth"),
        ([("pretrained_models/cryosegnet.pth", None)], "does not hold"),
        ([("pretrained_models/cryosegnet.pth", b"text")], "not a weights file"),
        ([("pretrained_models/cryosegnet.pth", saved({"a": torch.zeros(1)}))], "does not hold CryoSegNet's U-Net"),
        ([("filler", os.urandom(50_000)), ("pretrained_models/cryosegnet.pth", b"")], "damaged or incomplete"),
    ],
)
def test_archives_without_the_unet(monkeypatch, cache, site, members, message):
    content, address = site
    content["/models.tar.gz"] = archive(*members)[: 30_000 if members[0][0] == "filler" else None]
    serve(monkeypatch, "cryosegnet", url=f"{address}/models.tar.gz")
    with pytest.raises(CryoSegNetError, match=message) as error:
        weights.fetch("cryosegnet")
    assert f"{address}/models.tar.gz" in str(error.value)
    assert str(cache) not in str(error.value)
    assert os.listdir(cache) == []


def test_import_takes_the_archive_or_the_file(tmp_path, cache, unet):
    (tmp_path / "a.pth").write_bytes(saved(unet.state_dict()))
    assert weights.adopt("cryosegnet", tmp_path / "a.pth") == cache / "cryosegnet.pth"
    assert (tmp_path / "a.pth").exists()
    weights.location("cryosegnet").unlink()
    (tmp_path / "b.tgz").write_bytes(archive(("./pretrained_models/cryosegnet.pth", saved(unet.state_dict()))))
    weights.adopt("cryosegnet", tmp_path / "b.tgz")
    assert weights.load_unet("cryosegnet")[0].levels == 3
    with pytest.raises(CryoSegNetError, match="is not the published file of 'sam_vit_h'"):
        weights.adopt("sam_vit_h", tmp_path / "a.pth")
    with pytest.raises(CryoSegNetError, match="no such file"):
        weights.adopt("sam_vit_h", tmp_path / "none.pth")
    with pytest.raises(CryoSegNetError, match="built in"):
        weights.adopt("default", tmp_path / "a.pth")


def test_the_published_hashes_are_whole():
    for name, source in weights.SOURCES.items():
        assert (source.sha256 is not None) == name.startswith("sam_vit")
        assert source.sha256 is None or len(bytes.fromhex(source.sha256)) == 32


def test_command_list_and_path(tmp_path, cache, capsys, unet):
    assert command(["weights", "list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in weights.SOURCES)
    assert str(cache) in out
    assert command(["weights", "path", "cryosegnet"]) == 3
    assert "cryosegnet weights download cryosegnet" in capsys.readouterr().err
    (tmp_path / "a.pth").write_bytes(saved(unet.state_dict()))
    assert command(["weights", "import", "cryosegnet", str(tmp_path / "a.pth")]) == 0
    assert "its publisher gives none" in capsys.readouterr().out
    assert command(["weights", "path", "cryosegnet"]) == 0
    assert capsys.readouterr().out.strip() == str(cache / "cryosegnet.pth")
    assert command(["weights", "list"]) == 0
    assert "as recorded" in capsys.readouterr().out
    (cache / "cryosegnet.pth").write_bytes(b"")
    command(["weights", "list"])
    assert "DIFFERS" in capsys.readouterr().out
    assert command(["weights", "download", "nothing"]) == 1
    assert "names are default" in capsys.readouterr().err


def test_command_download(monkeypatch, capsys, site):
    content, address = site
    content["/sam.pth"] = b"abc"
    serve(monkeypatch, "sam_vit_b", url=f"{address}/sam.pth", sha256=hashlib.sha256(b"abc").hexdigest())
    assert command(["weights", "download", "sam_vit_b"]) == 0
    assert "as published" in capsys.readouterr().out
    command(["weights", "list"])
    assert "verified" in capsys.readouterr().out


def test_help_does_not_wait_for_torch():
    code = "import sys, cryosegnet_ext.cli.weights, cryosegnet_ext.weights; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
