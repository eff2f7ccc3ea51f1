"""The published recipe end to end."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
import pytest

from cryosegnet_ext import Micrograph, Picker
from cryosegnet_ext.files.micrograph import inverted
from cryosegnet_ext.picking import denoise, picker, segment
from cryosegnet_ext.picking.masks import Masks
from cryosegnet_ext.picking.picker import PUBLISHED_SIDE
from tests.picking.micrographs import micrograph, offsets, scattered

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("shape", "diameter"), [((512, 512), 25), ((480, 900), 32), ((1300, 700), 46)], ids=str)
def test_published_picks_lie_on_the_particles(published_weights, network, shape, diameter):
    """Denoised images go to the network squeezed to a square and upside down, as it was trained; picks come back."""
    centres = scattered(shape, diameter)
    image = micrograph(centres, diameter, shape)
    picks = Picker(published_weights, device="cpu", denoised=True).pick(image)
    assert len(picks) == len(centres)
    assert offsets(picks, centres).max() < 0.5
    assert network.seen[0].shape == (PUBLISHED_SIDE, PUBLISHED_SIDE)
    plain = (image.data - image.data.min()) / (image.data.max() - image.data.min())
    squeezed = cv2.resize(plain, (PUBLISHED_SIDE, PUBLISHED_SIDE), interpolation=cv2.INTER_LINEAR)
    assert network.seen[0] == pytest.approx(np.flipud(squeezed), abs=1e-5)


@pytest.mark.parametrize("denoised", [False, True])
def test_published_picks_of_bright_particles_are_those_of_dark_ones(published_weights, network, denoised):
    shape, diameter = (480, 600), 32
    dark = micrograph(scattered(shape, diameter), diameter, shape)
    make = partial(Picker, published_weights, device="cpu", denoised=denoised)
    expected = make().pick(dark)
    found = make(invert=True).pick(inverted(dark))
    assert len(expected) > 10
    assert np.array_equal(network.seen[1], network.seen[0])
    for name in ("x", "y", "diameter", "score"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("diameter", [18, 80])
def test_published_picks_without_a_size_take_it_from_the_map(published_weights, network, diameter):
    """Far from the usual share of the frame: 9 and 41 pixels of the square, where 34 would be assumed."""
    shape = (2000, 2000) if diameter == 18 else (2000, 1900)
    centres = scattered(shape, diameter * 1.2)
    image = micrograph(centres, diameter, shape)
    picks = Picker(published_weights, device="cpu", denoised=True).pick(image)
    assert len(picks) > 0.97 * len(centres)
    assert np.median(offsets(picks, centres)) < 1


def test_published_picks_avoid_bad_areas(published_weights, network, monkeypatch, sam_file):
    def boxes(probability, sam):
        table = segment.watershed(probability, diameter_px=34)
        return Masks(**{**vars(table), "score": np.full(len(table), 0.96)})

    monkeypatch.setattr(segment, "grid", boxes)
    centres = scattered((700, 700), 40)
    image = micrograph(centres, 40, (700, 700))
    hidden = np.ones(image.data.shape, bool)
    hidden[:, 350:] = False
    covered = Micrograph(image.data, None, "mic.mrc", hidden)
    for options in ({}, {"segmenter": "grid", "sam": sam_file}):
        chosen = Picker(published_weights, device="cpu", denoised=True, **options)
        assert (chosen.pick(image).x >= 350).any()
        left = chosen.pick(covered)
        assert len(left) > 10 and (left.x < 350).all()


def test_published_denoising_runs_unless_it_was_done(published_weights, network, monkeypatch):
    calls = []
    plain = denoise.published
    monkeypatch.setattr(denoise, "published", lambda data: calls.append(data.shape) or plain(data))
    image = micrograph(scattered((256, 300), 50), 50, (256, 300), noise=10)
    Picker(published_weights, device="cpu", denoised=True).pick(image)
    assert not calls
    Picker(published_weights, device="cpu").pick(image)
    assert calls == [(256, 300)]
    expected = cv2.resize(plain(image.data), (PUBLISHED_SIDE, PUBLISHED_SIDE), interpolation=cv2.INTER_LINEAR) / 255
    assert network.seen[-1] == pytest.approx(np.flipud(expected), abs=1e-6)  # bytes are squeezed, then scaled
    assert network.seen[-1].min() >= 0 and network.seen[-1].max() <= 1


def test_the_published_flips_cancel(published_weights, monkeypatch):
    """A network that marks one place of its upside-down square, for any image."""

    def corner(model, image):
        plane = np.zeros(image.shape, np.float32)
        cv2.circle(plane, (200, 924), 20, 1.0, -1)
        return plane

    monkeypatch.setattr(picker, "probability_map", corner)
    picks = Picker(published_weights, device="cpu").pick(micrograph([], 50, (512, 768), noise=5))
    # 924 from the top of the turned square is 99 from the top of the micrograph
    assert (picks.x[0], picks.y[0]) == pytest.approx(((200.5) * 0.75 - 0.5, 99.5 * 0.5 - 0.5), abs=0.3)
    assert len(picks) == 1


def test_published_sizes_on_a_frame_that_is_not_square(published_weights, network):
    """The given diameter is a length on the micrograph, whichever side was squeezed."""
    for shape in ((400, 1000), (1000, 400)):
        centres = scattered(shape, 60)
        picks = Picker(published_weights, device="cpu", denoised=True, diameter=120).pick(
            micrograph(centres, 60, shape, 2.0)
        )
        assert len(picks) == len(centres)
        assert offsets(picks, centres).max() < 0.7


def test_published_grid_on_a_tiny_sam(published_weights, sam_file, monkeypatch):
    """The whole published chain, with a coarse grid of points to save time."""
    coarse = partial(segment.grid, points_per_side=2, pred_iou_thresh=-9.0, stability_score_thresh=0.0)
    monkeypatch.setattr(segment, "grid", coarse)
    image = micrograph(scattered((256, 300), 50), 50, (256, 300), 1.5, noise=10)
    runs = [Picker(published_weights, device="cpu", segmenter="grid", sam=sam_file).pick(image) for _ in range(2)]
    assert np.array_equal(runs[0].x, runs[1].x)
    assert runs[0].shape == (256, 300) and runs[0].pixel_size == 1.5


@pytest.mark.parametrize(("shape", "diameter"), [((700, 700), 40), ((512, 900), 34), ((1500, 1200), 64)], ids=str)
def test_published_grid_picks_are_box_centres(published_weights, network, sam_file, monkeypatch, shape, diameter):
    seen = []

    def boxes(probability, sam):
        seen.append(probability)
        table = segment.watershed(probability, diameter_px=34)
        return Masks(**{**vars(table), "score": np.full(len(table), 0.96)})

    monkeypatch.setattr(segment, "grid", boxes)
    centres = scattered(shape, diameter)
    picks = Picker(published_weights, device="cpu", segmenter="grid", sam=sam_file, denoised=True).pick(
        micrograph(centres, diameter, shape)
    )
    assert seen[0].shape == (PUBLISHED_SIDE, PUBLISHED_SIDE)
    # the published rule scales corners, not pixel centres: half a pixel of the square is its rounding
    allowed = 0.5 + 0.5 * max(abs(side / PUBLISHED_SIDE - 1) for side in shape)
    found = offsets(picks, centres)
    assert np.median(found) < allowed + 0.25
    assert len(picks) > 0.5 * len(centres)
    assert picks.score == pytest.approx(0.96)


def test_published_random_network_end_to_end(published_weights):
    image = micrograph(scattered((200, 260), 40), 40, (200, 260), 2.0, noise=10)
    runs = [Picker(published_weights, device="cpu").pick(image) for _ in range(2)]
    assert np.array_equal(runs[0].x, runs[1].x) and np.array_equal(runs[0].y, runs[1].y)
    assert ((runs[0].x >= 0) & (runs[0].x < 260) & (runs[0].y >= 0) & (runs[0].y < 200)).all()
