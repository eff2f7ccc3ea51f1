"""Compiled networks: the same results; one sentence and the plain network where compiling fails."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from cryosegnet_ext.networks import compiling
from cryosegnet_ext.networks.precision import all_in
from cryosegnet_ext.networks.sam_encoder import encode
from cryosegnet_ext.networks.unet import AttentionUNet, _probability
from tests.picking.maps import tiny_sam


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    monkeypatch.setenv("CRYOSEGNET_COMPILE", "1")
    compiling._Compiled.of.cache_clear()
    yield
    compiling._Compiled.of.cache_clear()


def unet_and_image():
    torch.manual_seed(0)
    return AttentionUNet(2, 2).eval().requires_grad_(False), torch.randn(1, 1, 32, 48)


def fails_at_once(work):
    raise RuntimeError("no compiler here\nand more")


def fails_when_called(work):
    def run(*given):
        raise RuntimeError("no compiler here\nand more")

    return run


@pytest.mark.parametrize("compile", [fails_at_once, fails_when_called])
def test_a_failure_is_one_sentence_and_the_plain_network(monkeypatch, caplog, compile):
    monkeypatch.setattr(torch, "compile", compile)
    model, x = unet_and_image()
    with torch.inference_mode():
        results = [compiling.if_asked(_probability)(model, x, None) for _ in range(3)]
        assert all(torch.equal(one, _probability(model, x, None)) for one in results)
    assert [one.getMessage() for one in caplog.records] == [
        "torch.compile does not work here (RuntimeError: no compiler here): the network runs without it"
    ]
    sam, picture = tiny_sam(), np.random.default_rng(0).integers(0, 256, (60, 64, 3)).astype(np.uint8)
    found, _ = encode(sam, picture)
    monkeypatch.delenv("CRYOSEGNET_COMPILE")
    assert torch.equal(found, encode(sam, picture)[0])
    assert len(caplog.records) == 2


def test_memory_that_runs_out_is_no_failure_of_the_compiler(monkeypatch, caplog):
    def short(*given):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch, "compile", lambda work: short)
    with pytest.raises(torch.OutOfMemoryError):
        compiling.if_asked(_probability)(*unet_and_image(), None)
    assert not caplog.records


def test_nothing_is_compiled_unless_it_is_asked_for(monkeypatch):
    monkeypatch.delenv("CRYOSEGNET_COMPILE")
    assert compiling.if_asked(_probability) is _probability


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no compiler")
@pytest.mark.filterwarnings("default")
def test_compiled_networks_give_the_same(monkeypatch, caplog):
    """Within 1e-5 for the U-Net, 1e-4 for SAM's features."""
    model, x = unet_and_image()
    sam, picture = tiny_sam(), np.random.default_rng(0).integers(0, 256, (60, 64, 3)).astype(np.uint8)
    with torch.inference_mode(), all_in("float32"):
        found, features = compiling.if_asked(_probability)(model, x, None), encode(sam, picture)[0]
        assert (found - _probability(model, x, None)).abs().max() <= 1e-5
        monkeypatch.delenv("CRYOSEGNET_COMPILE")
        assert (features - encode(sam, picture)[0]).abs().max() <= 1e-4
    assert not [one for one in caplog.records if "does not work" in one.getMessage()]
