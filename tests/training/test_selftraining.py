"""Confident picks as labels, and the tests that need no labels."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from cryosegnet_ext import CryoSegNetError, Micrograph, Picks, read_picks
from cryosegnet_ext.cli import main
from cryosegnet_ext.networks.unet import AttentionUNet
from cryosegnet_ext.training import selftraining
from cryosegnet_ext.training.calibration import Scores
from cryosegnet_ext.training.examples import Example
from cryosegnet_ext.training.folder import TrainingFolder
from cryosegnet_ext.training.options import FineTuning
from cryosegnet_ext.training.parallel import Group
from cryosegnet_ext.training.synthetic import lumpy_stack, replay_samples, simulated_micrographs
from cryosegnet_ext.training.train import begin
from cryosegnet_ext.weights import sha256_of

from .helpers import DIAMETER, centres, picture, write_star

SHAPE = (500, 520)


def run(path):
    folder = TrainingFolder(path, "finetune", {})
    path.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    x, y = centres(SHAPE, 0)
    data = picture(x, y, SHAPE, 0)
    # confident picks: the first half of the particles
    half = len(x) // 2
    example = Example("m", "m", None, SHAPE, DIAMETER, x[:half], y[:half], tmp_path_factory.getbasetemp())
    return example, Micrograph(data, None, "m"), x, y, half


def picks(x, y):
    return Picks(x, y, np.full(len(x), DIAMETER), np.ones(len(x)))


def verdict(scene, old, new):
    example, micrograph, *_ = scene
    return selftraining._verdict([(example, micrograph)], [picks(*old)], [picks(*new)])


def test_more_particles_are_welcome(scene):
    _, _, x, y, half = scene
    assert verdict(scene, (x[:half], y[:half]), (x[: int(1.7 * half)], y[: int(1.7 * half)])) is None


def test_picks_on_nothing_are_refused(scene):
    _, _, x, y, half = scene
    free = np.random.default_rng(0).uniform(30, 470, (600, 2))
    away = free[(np.hypot(free[:, :1] - x, free[:, 1:] - y) > 0.9 * DIAMETER).all(1)][: int(0.7 * half)]
    assert len(away) > 15
    refused = verdict(scene, (x[:half], y[:half]), (np.r_[x[:half], away[:, 0]], np.r_[y[:half], away[:, 1]]))
    assert "do not look like" in refused


def test_lost_picks_and_floods_are_refused(scene):
    _, _, x, y, half = scene
    old = x[:half], y[:half]
    assert "became" in verdict(scene, old, (x[:5], y[:5]))
    many = np.random.default_rng(1).uniform(30, 470, (3 * half, 2)).T
    assert "became" in verdict(scene, old, many)
    assert "found again" in verdict(scene, old, (x[half : 2 * half], y[half : 2 * half]))


@pytest.fixture
def conclude(monkeypatch, trained):
    """Conclude with networks that pick so many particles and have such an F1 (in 1/1000) on simulated micrographs."""

    def conclude(before, after):
        pickers = iter([before, after, after, after])

        class Fake:
            def __init__(self, *_, **__):
                self.count, self.f1 = next(pickers)

            def pick(self, *_):
                return picks(np.zeros(self.count), np.zeros(self.count))

        monkeypatch.setattr(selftraining, "Picker", Fake)
        monkeypatch.setattr(selftraining, "simulated_micrographs", lambda *_: [])
        monkeypatch.setattr(
            selftraining, "score_picker", lambda picker, *_: Scores(1000, 1000, round(1000 * picker.f1))
        )
        monkeypatch.setattr(selftraining, "_verdict", lambda *_: None)
        monkeypatch.setattr(Example, "micrograph", lambda self: Micrograph(np.zeros((64, 64), np.float32), None, "m"))
        selftraining.conclude(trained)
        return trained.folder.report

    return conclude


@pytest.mark.parametrize(
    ("after", "share"),
    [((93, 0.534), 0), ((93, 0.541), 0), ((107, 0.541), 0), ((108, 0.535), 1), ((93, 0.552), 1), ((130, 0.53), 0)],
)
def test_the_trained_network_must_be_better_in_something(conclude, trained, after, share):
    report = conclude((93, 0.541), after)
    assert report["kept"]["share"] == share
    if share == 0:
        assert sha256_of(trained.folder.path / "unet.safetensors") == sha256_of(trained.start)
        assert "kept unchanged" in report["results"]["remarks"][-1]
        assert "refused" in report["results"]["remarks"][1]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--flip-labels", "y"], "--flip-labels has no effect"),
        (["--label-scale", "2"], "--label-scale has no effect"),
        (["--labels", "l", "--split", "s.json"], "--split has no effect"),
        (["--labels", "l", "--validation", "0.2"], "--validation has no effect"),
    ],
)
def test_options_without_effect_are_refused(tmp_path, capsys, more, words):
    assert main(["finetune", "--micrographs", "m", "--self-train", "-o", str(tmp_path / "out"), *more]) == 1
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_split_is_followed_without_labels_and_every_run_writes_one(tmp_path, monkeypatch):
    monkeypatch.setattr(selftraining, "_LEAST_CONFIDENT", 20)
    sample = (files("cryosegnet_ext") / "data" / "sample.mrc").read_bytes()
    names = [str(tmp_path / f"{name}.mrc") for name in "ab"]
    for name in names:
        Path(name).write_bytes(sample)
    write_star(tmp_path / "b.star", *read_xy())
    for validation in names:
        file = tmp_path / "split.json"
        file.write_text(json.dumps({"train": [n for n in names if n != validation], "validation": [validation]}))
        options = FineTuning(names, [], self_train=True, diameter=170.0, split=str(file))
        data = selftraining.load_data(options, run(tmp_path / "run"), "default", "cpu")
        assert [e.name for e in data.validation] == [validation]
    options = FineTuning(names, [str(tmp_path / "b.star")], self_train=True, diameter=170.0)
    folder = run(tmp_path / "run")
    data = selftraining.load_data(options, folder, "default", "cpu")
    begin(folder, data, Group(), 0, "pick")
    assert json.loads((folder.path / "split.json").read_text()) == {
        "seed": 0,
        "train": names[:1],
        "validation": names[1:],
    }


def read_xy():
    truth = read_picks(str(files("cryosegnet_ext") / "data" / "sample_truth.star"))
    return truth.x, truth.y


def test_confident_picks_become_labels_and_weak_ones_doubts(tmp_path, monkeypatch):
    monkeypatch.setattr(selftraining, "_LEAST_CONFIDENT", 20)  # the sample holds 37 particles
    sample = files("cryosegnet_ext") / "data" / "sample.mrc"
    options = FineTuning([str(sample)], [], self_train=True, diameter=170.0, confident=0.75)
    truth = read_picks(str(files("cryosegnet_ext") / "data" / "sample_truth.star"))
    examples = None
    with pytest.raises(CryoSegNetError, match="validate on"):  # one micrograph cannot be split
        examples = selftraining.load_data(options, run(tmp_path / "one"), "default", "cpu")
    assert examples is None
    for name in ("a", "b"):
        (tmp_path / f"{name}.mrc").write_bytes(sample.read_bytes())
    options = FineTuning([str(tmp_path / "a.mrc"), str(tmp_path / "b.mrc")], [], self_train=True, diameter=170.0)
    data = selftraining.load_data(options, run(tmp_path / "two"), "default", "cpu")
    example = data.training[0]
    assert len(data.training) == len(data.validation) == 1 and len(example.x) >= 20
    near = np.hypot(example.x[:, None] - truth.x, example.y[:, None] - truth.y).min(1)
    assert (near < 0.3 * example.diameter_px).mean() > 0.85
    far = FineTuning(options.micrographs, [], self_train=True, diameter=170.0, confident=0.99)
    try:
        stricter = selftraining.load_data(far, run(tmp_path / "two"), "default", "cpu").training[0]
    except CryoSegNetError as error:
        assert "lower --confident" in str(error)
    else:
        assert len(stricter.x) + len(stricter.doubtful) == len(example.x) + len(example.doubtful)
        assert len(stricter.x) < len(example.x)


def test_lumpy_particles_are_told_by_their_seed():
    one, again, other = lumpy_stack(3), lumpy_stack(3), lumpy_stack(4)
    assert np.array_equal(one.images, again.images)
    assert one.images.shape != other.images.shape or not np.array_equal(one.images, other.images)
    for seed in range(8):
        stack = lumpy_stack(seed)
        total = stack.images.sum(0)
        n = total.shape[0]
        yy, xx = (np.mgrid[:n, :n] - n // 2) * stack.voxel_size
        inside = np.hypot(xx, yy) < stack.diameter / 2
        assert total[inside].sum() / total.sum() > 0.93  # the diameter is the particle's
        assert np.abs([(total * xx).sum(), (total * yy).sum()]).max() / total.sum() < 0.15 * stack.diameter


def test_replayed_crops_carry_what_the_network_says():
    model = AttentionUNet(2, 2).eval()
    items = replay_samples(model, [lumpy_stack(0)], 2, 64, 5)
    for image, said in items:
        assert image.shape == said.shape == (64, 64)
        with torch.inference_mode():
            expected = torch.sigmoid(model(torch.from_numpy(image)[None, None]))[0, 0].numpy()
        assert said == pytest.approx(expected, abs=0.02)
    first, again = (simulated_micrographs([lumpy_stack(0)], 1, 128, 0)[0] for _ in range(2))
    assert np.array_equal(first.data, again.data) and first.diameter_px == 36
