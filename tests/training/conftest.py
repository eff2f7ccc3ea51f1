"""A fine-tuning after its last step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryosegnet_ext.networks.unet import AttentionUNet
from cryosegnet_ext.picking.scoring import Calibration
from cryosegnet_ext.training import result
from cryosegnet_ext.training.data import Data, KnownDiameter
from cryosegnet_ext.training.examples import Example
from cryosegnet_ext.training.folder import TrainingFolder
from cryosegnet_ext.training.selection import Trained
from cryosegnet_ext.weights import load_unet

STARTED = Calibration(0.1, 0.9, -1.0)


@pytest.fixture
def trained(tmp_path):
    torch.manual_seed(0)
    start, network = AttentionUNet(2, 2), AttentionUNet(2, 2)
    file = tmp_path / "start.safetensors"
    result.write_weights(start.state_dict(), result.note_of("default", "start", STARTED, 0.4, {"peaks": {}}), file)
    before, note = load_unet(file)
    example = Example("m", "m", None, (64, 64), 32.0, np.zeros(3), np.zeros(3), tmp_path)
    data = Data([example], [example], KnownDiameter(32.0, "pixels", "given"))
    folder = TrainingFolder(tmp_path / "run", "finetune", {"preset": "default", "base_channels": 2, "levels": 2})
    folder.path.mkdir()
    folder.write({"data": data.described("run"), "environment": result.environment("cpu")})
    torch.save({"recipe": {"steps": 7}, "step": 7, "best_step": 5}, folder.path / "checkpoint.pt")
    return Trained(data, str(file), before.state_dict(), note, network, folder, "cpu")
