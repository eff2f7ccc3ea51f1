"""Score and threshold from validation micrographs, and weights that carry them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryosegnet_ext import Picker, read_micrograph
from cryosegnet_ext.networks.unet import AttentionUNet
from cryosegnet_ext.picking.scoring import Calibration, MaskFeatures
from cryosegnet_ext.training import result
from cryosegnet_ext.training.calibration import (
    Candidates,
    Scores,
    best_threshold,
    fit_calibration,
    gather,
    score_picker,
)
from cryosegnet_ext.training.examples import Example
from cryosegnet_ext.weights import load_unet


def made_up(n, offset, slope, size_slope, seed=0):
    """Candidates with a known probability of being right."""
    rng = np.random.default_rng(seed)
    logit, size = rng.normal(0.5, 2, n), rng.normal(0, 0.3, n)
    chance = 1 / (1 + np.exp(-(offset + slope * logit + size_slope * size**2)))
    right = rng.random(n) < chance
    return Candidates(MaskFeatures(1 / (1 + np.exp(-logit)), size), right, int(right.sum() * 1.2))


def test_the_score_becomes_the_chance():
    found = fit_calibration(made_up(20_000, -0.5, 1.4, -3.0))
    assert (found.offset, found.probability_slope, found.size_slope) == pytest.approx((-0.5, 1.4, -3.0), rel=0.15)
    new = made_up(20_000, -0.5, 1.4, -3.0, seed=1)
    score = found.score(new.features)
    for low in (0.1, 0.4, 0.7):
        there = (score > low) & (score < low + 0.2)
        assert new.right[there].mean() == pytest.approx(score[there].mean(), abs=0.04)


def test_noise_and_company_are_learned_too():
    rng = np.random.default_rng(3)
    n = 20_000
    features = MaskFeatures(
        rng.uniform(0.05, 0.95, n), rng.normal(0, 0.4, n), None, rng.exponential(0.4, n), rng.random(n)
    )
    truth = Calibration(-2.0, 1.0, -2.0, 0.0, -1.3, 4.0)
    found = fit_calibration(Candidates(features, rng.random(n) < truth.score(features), n))
    assert found.slopes == pytest.approx(truth.slopes, rel=0.15, abs=0.02)


def test_the_slope_of_a_segmenters_own_score_stays():
    prior = Calibration(0.1, 0.9, -1.0, 0.7)
    assert fit_calibration(made_up(2000, -0.5, 1.4, -3.0), prior).iou_slope == 0.7


def test_few_candidates_leave_the_score_as_it_was():
    prior = Calibration(-0.3, 1.1, -2.0)
    assert fit_calibration(made_up(40, 0, 1, 0), prior) == prior
    all_right = Candidates(MaskFeatures(np.full(500, 0.7), np.zeros(500)), np.ones(500, bool), 500)
    assert fit_calibration(all_right, prior) == prior
    backwards = made_up(2000, 0, -1.5, 0)
    assert fit_calibration(backwards, prior) == prior


def test_the_threshold_lies_where_f1_is_best():
    # everything above a score of 0.7 is right, and half of what lies between 0.3 and 0.7
    p = np.array([0.9] * 100 + [0.62] * 50 + [0.25] * 200)
    right = np.array([True] * 100 + [False] * 50 + [False] * 200)
    candidates = Candidates(MaskFeatures(p, np.zeros(350)), right, 110)
    threshold = best_threshold(candidates, Calibration())
    assert 0.62 < threshold <= 0.8
    easy = Candidates(MaskFeatures(p[:100], np.zeros(100)), right[:100], 100)
    assert best_threshold(easy, Calibration()) == 0.5
    nothing = Candidates(MaskFeatures(np.zeros(0), np.zeros(0)), np.zeros(0, bool), 10)
    assert best_threshold(nothing, Calibration()) == 0.5


def test_a_faint_particle_has_a_low_threshold():
    p = np.array([0.17] * 100 + [0.02] * 400)
    candidates = Candidates(MaskFeatures(p, np.zeros(500)), np.arange(500) % 5 == 0, 100)
    candidates.right[:40], candidates.right[40:100] = True, False
    assert best_threshold(candidates, Calibration()) == pytest.approx(0.15)


def test_scores():
    assert Scores(10, 20, 8).f1 == pytest.approx(2 * 8 / 30)
    assert "precision 0.800, recall 0.400" in str(Scores(10, 20, 8))
    assert Scores(0, 0, 0).f1 == 0


def test_weights_carry_what_the_picker_needs(tmp_path):
    torch.manual_seed(0)
    model = AttentionUNet(2, 2).eval()
    note = result.note_of("default", "mine", Calibration(0.1, 0.9, -1.0), 0.45)
    result.write_weights(model.state_dict(), note, tmp_path / "unet.safetensors")
    picker = Picker(tmp_path / "unet.safetensors", device="cpu", diameter=180)
    assert picker.threshold == 0.45 and picker.recipe == "default"
    fitted = picker.settings["calibration"]
    assert (fitted["offset"], fitted["probability_slope"], fitted["size_slope"]) == (0.1, 0.9, -1.0)
    again, _ = load_unet(tmp_path / "unet.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values()))
    result.write_weights(model.state_dict(), note, tmp_path / "twin.safetensors")
    assert (tmp_path / "twin.safetensors").read_bytes() == (tmp_path / "unet.safetensors").read_bytes()
    assert result.note_of("published", "x", None, 0.3).get("calibration") is None


def test_candidates_of_the_built_in_network_are_the_picks(tmp_path):
    """On the sample micrograph: candidates without calibration, scored with it, equal the picker's own."""
    from importlib.resources import files

    from cryosegnet_ext import read_picks

    data = files("cryosegnet_ext") / "data"
    sample, truth = read_micrograph(str(data / "sample.mrc")), read_picks(str(data / "sample_truth.star"))
    shape = (sample.data.shape[0], sample.data.shape[1])
    example = Example("s", sample.name, sample.pixel_size, shape, 85.0, truth.x, truth.y, tmp_path)
    model, note = load_unet("default")
    result.write_weights(model.state_dict(), result.note_of("default", "bare"), tmp_path / "bare.safetensors")
    seen = gather(tmp_path / "bare.safetensors", [example], "cpu")
    assert seen.labels == 3 * len(truth) and seen.right.sum() > 0.8 * seen.labels
    picked = score_picker(Picker(device="cpu"), [example])
    kept = Calibration(**note["calibration"]).score(seen.features) >= note["threshold"]
    assert kept.sum() == pytest.approx(3 * picked.picks, rel=0.15)
    assert picked.f1 > 0.8
