"""The cache of named weights: downloads from a server in the test, imports, the command."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import logging
import os
import subprocess
import sys
import tarfile
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pooch
import pytest
import requests
import torch

from cryosegnet_ext import weights
from cryosegnet_ext.cli import main as command
from cryosegnet_ext.errors import CryoSegNetError
from tests.weights.helpers import same, tiny_sam


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
