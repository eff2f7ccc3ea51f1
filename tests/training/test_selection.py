"""Blends of weights, and the files of a fine-tuning after one of them is chosen."""

from __future__ import annotations

import json

import pytest
import torch

from cryosegnet_ext.networks.unet import AttentionUNet
from cryosegnet_ext.picking.scoring import Calibration
from cryosegnet_ext.training.calibration import Scores
from cryosegnet_ext.training.selection import Choice, blended, finish_choice, keep
from cryosegnet_ext.weights import load_unet, metadata_of, sha256_of

from .conftest import STARTED

SCORES = {"start weights": Scores(10, 10, 5)}


def test_blends_lie_between():
    torch.manual_seed(0)
    a, b = AttentionUNet(2, 2).state_dict(), AttentionUNet(2, 2).state_dict()
    half = blended(a, b, 0.5)
    assert torch.allclose(half["output.weight"], (a["output.weight"] + b["output.weight"]) / 2)
    assert all(torch.equal(v, a[k]) for k, v in blended(a, b, 0.0).items())
    assert all(torch.allclose(v.float(), b[k].float(), atol=1e-6) for k, v in blended(a, b, 1.0).items())


def test_the_start_weights_tell_their_score(trained):
    assert (trained.calibration, trained.threshold, trained.segmenters) == (STARTED, 0.4, {"peaks": {}})


@pytest.mark.parametrize("segmenters", [None, {"peaks": {}}])
def test_what_is_kept_is_the_blend_with_its_score(trained, segmenters):
    choice = Choice(0.6, Calibration(0.2, 0.8, -2.0), 0.55, 0.7)
    keep(trained, choice, segmenters)
    file = trained.folder.path / "unet.safetensors"
    network, note = load_unet(file)
    expected = blended(trained.before, trained.network.state_dict(), 0.6)
    assert all(torch.equal(v, expected[k]) for k, v in network.state_dict().items())
    assert (note["name"], note["threshold"], Calibration(**note["calibration"])) == ("run", 0.55, choice.calibration)
    assert note.get("segmenters") == segmenters


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.0, "only score and threshold were fitted"), (0.6, "Kept: 60% of the way"), (1.0, None)],
)
def test_the_report_says_what_was_kept(trained, share, words):
    untouched, best = Choice(0.0, STARTED, 0.4, 0.5), Choice(share, STARTED, 0.55, 0.7)
    keep(trained, best)
    written = (trained.folder.path / "unet.safetensors").read_bytes()
    finish_choice(trained, best, untouched, SCORES, ["Seen by eye."], "two micrographs")
    report = json.loads((trained.folder.path / "training.json").read_text())
    assert (trained.folder.path / "unet.safetensors").read_bytes() == written
    assert report["status"] == "finished" and report["kept"]["share"] == share
    assert report["start_sha256"] == sha256_of(trained.start)
    results = report["results"]
    assert (results["steps"], results["threshold"], results["scored_on"]) == (7, 0.55, "two micrographs")
    assert results["remarks"][0] == "Seen by eye."
    assert [words in remark for remark in results["remarks"][1:]] == ([True] if words else [])


def test_where_nothing_is_better_the_start_weights_come_back(trained):
    untouched = Choice(0.0, STARTED, 0.4, 0.5)
    keep(trained, Choice(1.0, STARTED, 0.55, 0.7))
    finish_choice(trained, untouched, untouched, SCORES)
    kept = trained.folder.path / "unet.safetensors"
    assert sha256_of(kept) == sha256_of(trained.start) and metadata_of(kept)["name"] == "start"
    results = trained.folder.report["results"]
    assert "kept unchanged" in results["remarks"][0] and results["scored_on"] == "1 validation micrograph"
