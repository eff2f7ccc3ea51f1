"""Small networks of the published shapes, in the place of the published weights, and a site that serves them."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cryosegnet_ext import weights
from cryosegnet_ext.networks.unet import AttentionUNet
from cryosegnet_ext.picking import segment
from cryosegnet_ext.weights import build_sam

_SIZES: dict[str, Any] = {
    "img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0,
    "qkv_bias": True, "use_rel_pos": True, "window_size": 3, "global_attn_indexes": [1], "prompt_embed_dim": 16,
    "mask_in_chans": 4, "decoder_depth": 2, "decoder_mlp_dim": 24, "decoder_num_heads": 8,
    "num_multimask_outputs": 3, "iou_head_depth": 3, "iou_head_hidden_dim": 16,
}  # fmt: skip


@cache
def sam() -> bytes:
    """A file of Segment Anything's, but for its size."""
    return _saved(build_sam(_SIZES))


@cache
def _archive() -> bytes:
    """The archive that the published U-Net comes in."""
    content, stream = _saved(AttentionUNet(2, 5)), io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        entry = tarfile.TarInfo("pretrained_models/cryosegnet.pth")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def _saved(network: Any) -> bytes:
    import torch

    stream = io.BytesIO()
    torch.save(network.state_dict(), stream)
    return stream.getvalue()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def stand_ins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the published names stand for the small networks, downloaded from this machine; few points are asked."""
    monkeypatch.setattr(segment, "grid", partial(segment.grid, points_per_side=4))
    folder.mkdir()
    (folder / "models.tar.gz").write_bytes(_archive())
    (folder / "sam.pth").write_bytes(sam())
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        here = {
            "cryosegnet": {"url": f"{address}/models.tar.gz"},
            "sam_vit_h": {"url": f"{address}/sam.pth", "sha256": hashlib.sha256(sam()).hexdigest()},
        }
        for name, changes in here.items():
            changed = dataclasses.replace(weights.SOURCES[name], **changes)
            monkeypatch.setitem(weights.SOURCES, name, changed)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
