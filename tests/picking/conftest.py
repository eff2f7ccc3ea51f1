"""Weights of the smallest networks."""

from __future__ import annotations

import pytest
import torch

from cryosegnet_ext.networks.unet import AttentionUNet
from cryosegnet_ext.picking import picker
from tests.picking.maps import tiny_sam
from tests.picking.micrographs import Network, write_unet


@pytest.fixture
def default_weights(tmp_path):
    return write_unet(tmp_path / "ours.safetensors")


@pytest.fixture
def published_weights(tmp_path):
    torch.manual_seed(1)
    torch.save(AttentionUNet(2, 5).state_dict(), tmp_path / "published.pth")
    return tmp_path / "published.pth"


@pytest.fixture
def sam_file(tmp_path):
    torch.save(tiny_sam().state_dict(), tmp_path / "sam.pth")
    return tmp_path / "sam.pth"


@pytest.fixture
def network(monkeypatch):
    stand_in = Network()
    monkeypatch.setattr(picker, "probability_map", stand_in)
    return stand_in
