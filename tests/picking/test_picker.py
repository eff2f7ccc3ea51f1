"""One micrograph through the whole chain: options, coordinates, both recipes, every segmenter."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cryosegnet_ext import Picker
from cryosegnet_ext.errors import CryoSegNetError, UsageError
from cryosegnet_ext.files.micrograph import inverted
from cryosegnet_ext.networks.unet import AttentionUNet
from cryosegnet_ext.picking import picker
from cryosegnet_ext.picking.on_device import choose_device
from cryosegnet_ext.picking.scoring import Calibration
from cryosegnet_ext.weights import load_unet
from tests.picking.micrographs import NOTE, micrograph, offsets, scattered, write_unet

# Options ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"segmenter": "otsu"}, "segmenter= must be one of peaks, grid, watershed (got otsu)"),
        ({"segmenter": "grid"}, "sam="),
        ({"recipe": "secret"}, "recipe= must be one of default, published (got secret)"),
        ({"recipe": "published"}, "default recipe"),
        ({"diameter": 0}, "diameter= must be between 1 and 10000 angstrom (got 0)"),
        ({"diameter": -50}, "diameter= must be between 1 and 10000 angstrom (got -50)"),
        ({"diameter": 1e6}, "diameter= must be between 1 and 10000 angstrom (got 1e+06)"),
        ({"diameter": float("nan")}, "diameter= must be between 1 and 10000 angstrom (got nan)"),
        ({"min_diameter": 0.5}, "min_diameter= must be between 1 and 10000 angstrom (got 0.5)"),
        ({"max_diameter": float("inf")}, "max_diameter= must be between 1 and 10000 angstrom (got inf)"),
        ({"min_diameter": 200, "max_diameter": 100}, "max_diameter=100"),
        ({"min_diameter": 200, "max_diameter": 200}, "max_diameter=200"),
        ({"diameter": 100, "min_diameter": 50}, "min_diameter="),
        ({"diameter": 100, "max_diameter": 150}, "max_diameter="),
        ({"threshold": 1.5}, "threshold= must be between 0 and 1 (got 1.5)"),
        ({"threshold": -0.1}, "threshold= must be between 0 and 1 (got -0.1)"),
        ({"threshold": float("nan")}, "threshold= must be between 0 and 1 (got nan)"),
        ({"device": "tpu"}, "(got tpu)"),
        ({"device": "cuda:x"}, "(got cuda:x)"),
        ({"sam": "no-such-sam.pth"}, "no-such-sam.pth"),
        ({"weights": "no-such.pth"}, "no-such.pth"),
    ],
)
def test_options_that_make_no_sense(default_weights, options, words):
    with pytest.raises(CryoSegNetError) as caught:
        Picker(**{"weights": default_weights, "device": "cpu"} | options)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message and len(message) < 400


@pytest.mark.parametrize(
    "error, said",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "ran out of memory on cuda"),
        (RuntimeError("CUDA error: out of memory\nCompile with"), "ran out of memory on cuda"),
        (
            RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nCompile with"),
            r"^cuda cannot be used \(CUDA error: CUDA-capable device\(s\) is/are busy or unavailable\): see",
        ),
    ],
    ids=["the allocator", "CUDA", "busy"],
)
def test_a_gpu_that_others_use_is_one_sentence(default_weights, monkeypatch, error, said):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(AttentionUNet, "to", refuse)
    with pytest.raises(CryoSegNetError, match=said):
        Picker(default_weights, device="cuda")


def test_a_missing_device_is_an_error(default_weights, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:0", "cuda:3"):
        with pytest.raises(CryoSegNetError, match="no GPU"):
            Picker(default_weights, device=name)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(CryoSegNetError, match="2 GPUs"):
        choose_device("cuda:2")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert choose_device("auto").type == "cuda"


def test_settings_tell_every_option_apart(tmp_path, default_weights, published_weights, sam_file):
    make = partial(Picker, default_weights, device="cpu")
    other = write_unet(tmp_path / "other" / "ours.safetensors") if (tmp_path / "other").mkdir() is None else None
    retrained = tmp_path / "retrained" / "ours.safetensors"
    retrained.parent.mkdir()
    write_unet(retrained, seed=5)
    pickers = [
        make(),
        make(threshold=0.3),
        make(diameter=100),
        make(diameter=101),
        make(min_diameter=90),
        make(max_diameter=90),
        make(denoised=True),
        make(invert=True),
        make(sam=sam_file),
        make(sam=sam_file, segmenter="grid"),
        Picker(retrained, device="cpu"),
        Picker(published_weights, device="cpu"),
    ]
    texts = [json.dumps(p.settings, sort_keys=True) for p in pickers]
    assert len(set(texts)) == len(texts)
    assert json.dumps(make().settings, sort_keys=True) == texts[0]
    # a run of a version without the option goes on with an option that is off
    assert "invert" not in pickers[0].settings
    # neither the folder of the weights nor the device is a setting
    assert Picker(other, device="auto").settings == pickers[0].settings
    assert Picker(default_weights, device="cpu", recipe="default").settings == pickers[0].settings
    with pytest.raises(UsageError, match="does not use SAM"):
        make(sam=sam_file, segmenter="watershed")


def test_the_built_in_sam_serves_peaks(default_weights, published_weights, tmp_path):
    assert Picker(default_weights, device="cpu", segmenter="peaks").settings["sam"] == "sam_small"
    with pytest.raises(UsageError, match="works with segmenter='peaks' only"):
        Picker(default_weights, device="cpu", segmenter="grid", sam="sam_small")
    with pytest.raises(UsageError, match="works with the default recipe only"):
        Picker(published_weights, device="cpu", segmenter="peaks")
    # weights that were calibrated for it choose it, with the threshold that was fitted for it
    model, note = load_unet(default_weights)
    note["segmenters"] = {"peaks": {"calibration": {"offset": 1.0, "iou_slope": 0.5}, "threshold": 0.45}}
    path = tmp_path / "calibrated.safetensors"
    save_file(model.state_dict(), path, metadata={"cryosegnet": json.dumps(note)})
    picker = Picker(path, device="cpu")
    assert (picker.segmenter, picker.settings["sam"], picker.threshold) == ("peaks", "sam_small", 0.45)
    assert Picker(path, device="cpu", segmenter="watershed").threshold == note.get("threshold", 0.0)


def test_defaults_come_from_the_weights(default_weights, published_weights, sam_file, tmp_path):
    ours = Picker(default_weights, device="cpu")
    assert (ours.recipe, ours.segmenter, ours.threshold) == ("default", "watershed", 0.5)
    assert ours.needs_diameter
    assert not Picker(default_weights, device="cpu", diameter=100).needs_diameter
    assert Picker(default_weights, device="cpu", sam=sam_file).segmenter == "peaks"
    theirs = Picker(published_weights, device="cpu")
    assert (theirs.recipe, theirs.threshold) == ("published", 0.0)
    assert not theirs.needs_diameter
    assert Picker(default_weights, device="cpu", threshold=0).threshold == 0
    with pytest.raises(CryoSegNetError, match="published recipe"):
        Picker(published_weights, device="cpu", recipe="default")


# The default recipe -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(512, 512), (420, 700), (900, 384)], ids=str)
@pytest.mark.parametrize("diameter", [26, 45, 64])
def test_picks_lie_on_the_particles(default_weights, network, shape, diameter):
    centres = scattered(shape, diameter)
    picks = Picker(default_weights, device="cpu").pick(micrograph(centres, diameter, shape), diameter)
    assert len(picks) == len(centres)
    assert offsets(picks, centres).max() < 0.5
    assert picks.shape == shape and picks.pixel_size is None
    assert np.median(picks.diameter) == pytest.approx(diameter, rel=0.15)
    assert (np.diff(picks.score) <= 0).all() and (picks.score >= 0.5).all()
    assert np.abs(np.mean([picks.x[np.argmin(np.hypot(picks.x - x, picks.y - y))] - x for x, y in centres])) < 0.12
    assert network.seen[0].shape == tuple(round(side * 32 / diameter) for side in shape)


def test_bright_particles_are_picked_as_dark_ones(default_weights, network):
    centres = scattered((420, 700), 45)
    dark = micrograph(centres, 45, (420, 700))
    bright = inverted(dark)
    before = bright.data.copy()
    expected = Picker(default_weights, device="cpu").pick(dark, 45)
    found = Picker(default_weights, device="cpu", invert=True).pick(bright, 45)
    assert len(expected) == len(centres)
    for name in ("x", "y", "diameter", "score"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))
    assert np.array_equal(bright.data, before)
    wrong = Picker(default_weights, device="cpu").pick(bright, 45)
    assert len(wrong) == 0 or np.median(offsets(wrong, centres)) > 10


def test_a_long_micrograph(default_weights, network):
    centres = scattered((300, 9000), 60)
    picks = Picker(default_weights, device="cpu").pick(micrograph(centres, 60, (300, 9000)), 60)
    assert len(picks) == len(centres)
    assert offsets(picks, centres).max() < 0.5
    centres = [(y, x) for x, y in centres]
    picks = Picker(default_weights, device="cpu").pick(micrograph(centres, 60, (9000, 300)), 60)
    assert offsets(picks, centres).max() < 0.5


def test_diameters_are_in_angstrom(default_weights, network):
    centres = scattered((400, 500), 50)
    for pixel_size in (0.8, 2.0):
        picks = Picker(default_weights, device="cpu", diameter=50 * pixel_size).pick(
            micrograph(centres, 50, (400, 500), pixel_size)
        )
        assert network.seen[-1].shape == (256, 320)
        assert len(picks) == len(centres)
        assert np.median(picks.diameter) == pytest.approx(50 * pixel_size, rel=0.1)
        assert np.median(picks.diameter_px) == pytest.approx(50, rel=0.1)
        assert picks.pixel_size == pixel_size


def test_what_the_picker_was_given_wins(default_weights, network):
    image = micrograph([], 50, (400, 500), 2.0)
    Picker(default_weights, device="cpu", diameter=100).pick(image, 640.0)
    assert network.seen[-1].shape == (256, 320)


def test_limits_drop_picks(default_weights, network):
    small, large = [(60.0, 60), (200, 80), (330, 70)], [(70.0, 300), (200, 310), (350, 290)]
    image = micrograph(small, 34, (400, 420), 2.0)
    image.data[:] += micrograph(large, 60, (400, 420)).data - 500

    def picked(**limits):
        return Picker(default_weights, device="cpu", threshold=0.3, **limits).pick(image, 96.0)

    both = picked()
    assert len(both) == 6
    assert offsets(picked(max_diameter=94), small).max() < 1 and len(picked(max_diameter=94)) == 3
    assert offsets(picked(min_diameter=94), large).max() < 1 and len(picked(min_diameter=94)) == 3
    assert len(picked(min_diameter=1, max_diameter=1000)) == 6


@pytest.mark.parametrize("options", [{"diameter": 100}, {"min_diameter": 80}, {"max_diameter": 200}])
@pytest.mark.parametrize("recipe", ["default", "published"])
def test_angstroms_need_a_pixel_size(default_weights, published_weights, network, options, recipe):
    chosen = Picker(default_weights if recipe == "default" else published_weights, device="cpu", **options)
    with pytest.raises(CryoSegNetError, match="pixel_size="):
        chosen.pick(micrograph([(60.0, 60)], 30, (128, 160)), None if recipe == "default" else 30)


@pytest.mark.parametrize("diameter", [3, 2000])
def test_diameters_that_no_micrograph_can_hold(default_weights, network, diameter):
    with pytest.raises(CryoSegNetError, match="diameter="):
        Picker(default_weights, device="cpu", diameter=diameter).pick(micrograph([], 30, (200, 200), 1.0))


def test_the_threshold_is_a_limit_on_the_score(default_weights, network):
    centres = scattered((400, 500), 50)
    image = micrograph(centres, 50, (400, 500), noise=25)
    every = Picker(default_weights, device="cpu", threshold=0).pick(image, 50)
    middle = float(np.median(every.score))
    some = Picker(default_weights, device="cpu", threshold=middle).pick(image, 50)
    assert 0 < len(some) < len(every)
    assert some.score.min() >= middle
    assert np.array_equal(some.x, every.above(middle).x)


def test_nothing_on_dead_areas(default_weights, network):
    centres = scattered((400, 500), 40)
    image = micrograph(centres, 40, (400, 500))
    Picker(default_weights, device="cpu").pick(image, 40)
    image.data[:, 240:300] = 0
    picks = Picker(default_weights, device="cpu").pick(image, 40)
    # the network sees each image and its surrogate; 0.8 working pixels a pixel: the stripe begins at 192
    whole, striped = (seen[:, :170] for seen in network.seen[::2])
    assert np.abs(whole - striped).mean() < 0.3
    assert ((picks.x < 232) | (picks.x > 308)).all()
    away = [c for c in centres if c[0] < 215 or c[0] > 325]
    assert offsets(picks, away).max() < 1


def test_the_size_is_estimated_where_it_is_not_given(default_weights, network):
    centres = scattered((500, 520), 44)
    image = micrograph(centres, 44, (500, 520))
    chosen = Picker(default_weights, device="cpu")
    size = chosen.estimate_diameter([image])
    assert size == chosen.estimate_diameter([image])
    alone, told = chosen.pick(image), chosen.pick(image, size)
    assert np.array_equal(alone.x, told.x) and np.array_equal(alone.score, told.score)


@pytest.mark.parametrize(
    "limits", [{"min_diameter": 150}, {"max_diameter": 70}, {"min_diameter": 95, "max_diameter": 99}]
)
def test_limits_bound_the_estimate(default_weights, network, limits):
    image = micrograph(scattered((500, 520), 44), 44, (500, 520), 2.0)
    size = Picker(default_weights, device="cpu", **limits).estimate_diameter([image])
    assert size is None or limits.get("min_diameter", 0) <= size <= limits.get("max_diameter", np.inf)


def test_nothing_to_see(default_weights, monkeypatch):
    monkeypatch.setattr(picker, "probability_map", lambda model, image: np.zeros_like(image))
    image = micrograph([], 40, (200, 240), 1.5)
    chosen = Picker(default_weights, device="cpu")
    assert chosen.estimate_diameter([image]) is None
    for picks in (chosen.pick(image), chosen.pick(image, 60)):
        assert len(picks) == 0
        assert (picks.shape, picks.pixel_size) == ((200, 240), 1.5)


def test_a_network_of_random_weights_runs_twice_the_same(default_weights):
    image = micrograph(scattered((260, 310), 40), 40, (260, 310), 2.0)
    before = image.data.copy()
    runs = [Picker(default_weights, device="cpu", threshold=0).pick(image, 80) for _ in range(2)]
    for column in ("x", "y", "diameter", "score"):
        assert np.array_equal(getattr(runs[0], column), getattr(runs[1], column))
    assert np.array_equal(image.data, before)


def test_peaks_with_a_sam(default_weights, network, sam_file):
    image = micrograph(scattered((256, 300), 40), 40, (256, 300))
    runs = [Picker(default_weights, device="cpu", sam=sam_file, threshold=0).pick(image, 40) for _ in range(2)]
    assert np.array_equal(runs[0].x, runs[1].x) and np.array_equal(runs[0].score, runs[1].score)
    assert ((runs[0].x >= 0) & (runs[0].x < 300) & (runs[0].y >= 0) & (runs[0].y < 256)).all()


def test_the_map_for_figures(default_weights, network):
    centres = scattered((300, 340), 40)
    work = Picker(default_weights, device="cpu").probability_map(micrograph(centres, 40, (300, 340), 2.0), 80)
    assert work.data.shape == (240, 272)
    for x, y in centres:
        column, row = (x + 0.5) * work.scale_x - 0.5, (y + 0.5) * work.scale_y - 0.5
        assert work.data[round(row), round(column)] > 0.9


def test_picks_know_the_size_that_was_sought(default_weights, network):
    """One for all micrographs: it is the size in box files."""
    image = micrograph(scattered((300, 340), 40), 40, (300, 340), 2.0)
    assert Picker(default_weights, device="cpu").pick(image, 78.0).sought == 78.0
    assert Picker(default_weights, device="cpu", diameter=81).pick(image, 78.0).sought == 81.0


def test_calibration_of_the_weights_is_used(tmp_path, network):
    image = micrograph(scattered((300, 320), 50), 50, (300, 320))
    scores = []
    for offset in (0.0, 2.0):
        name = write_unet(
            tmp_path / f"{offset}.safetensors", calibration={"offset": offset, "probability_slope": 0.5}, threshold=0
        )
        picks, features = Picker(name, device="cpu").candidates_and_features(image, 50)
        # what the micrograph's own noise leaves of it
        scores.append(np.sort(picks.score / features.true))
    odds = [np.log(s / (1 - s)) for s in scores]
    assert odds[1] == pytest.approx(odds[0] + 2)
    assert Calibration(**NOTE["calibration"]).size_slope == -1
