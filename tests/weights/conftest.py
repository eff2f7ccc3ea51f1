"""A cache of weights for each test, and a small network."""

from __future__ import annotations

import pytest
import torch

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
