"""The features of a score, each by itself."""

from __future__ import annotations

import numpy as np
import pytest

from cryosegnet_ext.picking.scoring import Calibration, MaskFeatures, joined, likely_share, surprise, texture


def test_no_texture_without_enough_likely_masks():
    noise = np.random.default_rng(0).normal(size=(40, 2))
    likely = np.arange(40) < 9
    assert not texture(noise, likely).any()
    assert texture(noise, np.arange(40) < 10).any()
    assert texture(np.zeros((0, 2)), np.zeros(0, bool)).shape == (0,)


def test_texture_is_the_squared_difference_from_the_likely_ones():
    noise = np.zeros((60, 2))
    noise[:50] += [1.0, -2.0]  # the likely ones
    noise[50], noise[51], noise[52] = [1.5, -2.0], [0.5, -2.0], [1.0, -1.0]
    noise[53] = [1e3, 1e3]
    far = texture(noise, np.arange(60) < 50)
    assert far[:50] == pytest.approx(0)
    assert far[50:53] == pytest.approx([0.25, 0.25, 1.0])  # louder and quieter alike
    assert far[53] == pytest.approx(2 * 3.0**2)  # odd is odd, however far


def test_the_share_of_likely_ones():
    assert likely_share(np.zeros(0, bool)) == 0.5
    assert likely_share(np.ones(98, bool)) == pytest.approx(0.99)
    assert likely_share(np.arange(98) < 9) == pytest.approx(0.1)
    assert likely_share(np.ones(1, bool)) < likely_share(np.ones(10, bool))


def test_odd_noise_and_bad_company_lower_the_score():
    calibration = Calibration(-1.0, texture_slope=-1.2, likely_slope=6.0)
    p, none = np.full(5, 0.7), np.zeros(5)
    steps = np.linspace(0, 1, 5)
    assert (np.diff(calibration.score(MaskFeatures(p, none, texture=steps))) < 0).all()
    assert (np.diff(calibration.score(MaskFeatures(p, none, likely=steps))) > 0).all()
    value = -1.0 + np.log(0.7 / 0.3) - 1.2 * 0.5 + 6.0 * 0.25
    alone = MaskFeatures(p[:1], none[:1], texture=np.array([0.5]), likely=np.array([0.25]))
    assert calibration.score(alone) == pytest.approx(1 / (1 + np.exp(-value)))
    heights = MaskFeatures(p[:2], none[:2], height=np.array([-1.0, 2.0]))
    assert np.diff(np.log(1 / Calibration(height_slope=0.5).score(heights) - 1))[0] < -1
    doubtful = MaskFeatures(p[:1], none[:1], texture=np.array([0.5]), likely=np.array([0.25]), true=np.array([0.4]))
    assert calibration.score(doubtful) == pytest.approx(0.4 * calibration.score(alone))
    # features that older weights files do not know change nothing
    assert Calibration().score(MaskFeatures(p, none, None, steps, steps)) == pytest.approx(p)


def test_evidence_is_taken_and_joined():
    rng = np.random.default_rng(0)
    whole = MaskFeatures(*(rng.random(7) for _ in range(7)))
    part = whole.take([4, 2])
    assert np.array_equal(part.columns(), whole.columns()[[4, 2]])
    again = joined([whole.take(np.arange(7) < 3), whole.take(np.arange(7) >= 3)])
    assert np.array_equal(again.columns(), whole.columns())
    without = joined([whole, MaskFeatures(np.array([0.5]), np.zeros(1))])
    assert len(without) == 8 and without.iou is None and without.texture is None
    assert len(joined([])) == 0 and joined([]).columns().shape == (0, 7)


def test_the_loss_of_a_fit_is_that_of_the_score():
    rng = np.random.default_rng(1)
    features = MaskFeatures(*(rng.uniform(0.05, 0.95, 30) for _ in range(7)))
    right, slopes = rng.random(30) < 0.5, rng.normal(size=7)
    loss, slope = surprise(slopes, features, right)
    score = Calibration(*slopes).score(features)
    assert loss == pytest.approx(-np.log(np.where(right, score, 1 - score)))
    for k in range(7):
        step = 1e-5 * np.eye(7)[k]
        change = surprise(slopes + step, features, right)[0] - surprise(slopes - step, features, right)[0]
        assert slope[:, k] == pytest.approx(change / 2e-5, abs=1e-5)


def test_slopes_survive_a_file():
    given = Calibration(-5.12345, 0.8, -2.9, 0.3, -1.2, 6.0)
    assert Calibration.of_slopes(given.slopes) == Calibration(-5.1235, 0.8, -2.9, 0.3, -1.2, 6.0)
