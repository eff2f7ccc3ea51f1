"""Preparation of micrographs, and their split."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cryosegnet_ext import CryoSegNetError, read_micrograph
from cryosegnet_ext.files.diameter import Diameter
from cryosegnet_ext.files.inputs import Input, expand_inputs
from cryosegnet_ext.picking import denoise
from cryosegnet_ext.training.batches import Crops, FrameBatches, Frames, Loader, frame_sample, validation_crops
from cryosegnet_ext.training.data import split
from cryosegnet_ext.training.examples import LabelledInput, Preparation, prepare
from cryosegnet_ext.training.fit import UNKNOWN
from cryosegnet_ext.training.labels import find_labels
from cryosegnet_ext.training.parallel import Group

from .helpers import DIAMETER, PIXEL_SIZE, write_mrc
from .helpers import dataset as make


@pytest.fixture
def tasks(tmp_path):
    make(tmp_path, 3)
    inputs = expand_inputs([tmp_path / "mics"])
    labels, _ = find_labels(inputs, [tmp_path / "labels"])
    return [LabelledInput(inputs[i], labels[i], Diameter(DIAMETER * PIXEL_SIZE, "angstrom")) for i in range(3)]


def test_prepared_examples_carry_labels_and_frames(tasks, tmp_path):
    examples, problems = prepare(tasks, Preparation(), tmp_path / "frames")
    assert not problems and len(examples) == 3
    for example, task in zip(examples, tasks):
        assert example.x == pytest.approx(task.labels.x) and example.y == pytest.approx(task.labels.y)
        assert example.diameter_px == pytest.approx(DIAMETER)
        assert np.array_equal(example.pixels(), read_micrograph(example.path).data)


def test_large_particles_are_reduced_and_labels_follow(tasks, tmp_path):
    big = [LabelledInput(t.one, t.labels, Diameter(150.0, "pixels")) for t in tasks]
    for example in prepare(big, Preparation(), tmp_path / "frames")[0]:
        assert example.pixels().shape == (192, 218)
        labelled = example.labelled()
        assert labelled.diameter_px == pytest.approx(96, rel=0.01)
        back = (labelled.x + 0.5) / example.scale_x - 0.5
        assert back == pytest.approx(example.x)


def test_what_is_prepared_is_not_read_again(tasks, tmp_path, monkeypatch):
    first, _ = prepare(tasks, Preparation(), tmp_path / "frames")
    monkeypatch.setattr(Input, "read", lambda *_: pytest.fail("read again"))
    again, _ = prepare(tasks, Preparation(), tmp_path / "frames")
    assert [e.frame for e in again] == [e.frame for e in first]
    monkeypatch.undo()
    # other labels are prepared anew
    moved = [
        LabelledInput(t.one, type(t.labels)(t.labels.source, t.labels.x + 1, t.labels.y), t.diameter) for t in tasks
    ]
    assert prepare(moved, Preparation(), tmp_path / "frames")[0][0].x == pytest.approx(first[0].x + 1)


def test_published_frames_are_what_the_picker_shows_the_network(tasks, tmp_path):
    example = prepare(tasks[:1], Preparation("published"), tmp_path / "frames")[0][0]
    import cv2

    whole = cv2.resize(denoise.published(read_micrograph(example.path).data), (1024, 1024))
    assert example.pixels() == pytest.approx(whole[::-1] / 255, abs=1 / 255)
    image, label = frame_sample(example)
    assert image.shape == label.shape == (1024, 1024)
    # upside down as the image is: particles, dark, lie under their labels
    inside = [
        label[1023 - round((y + 0.5) * 1024 / 300), round((x + 0.5) * 1024 / 340)] for x, y in zip(example.x, example.y)
    ]
    assert all(inside)
    area = np.pi / 4 * DIAMETER**2 * (1024 / 300) * (1024 / 340)
    assert label.sum() < len(example.x) * area * 1.02


@pytest.mark.parametrize("recipe", ["default", "published"])
def test_bright_particles_are_learnt_as_dark_ones(tasks, tmp_path, recipe):
    dark = prepare(tasks[:1], Preparation(recipe), tmp_path / "frames")[0][0]
    data = read_micrograph(tasks[0].one.path).data
    write_mrc(tasks[0].one.path, -data)
    bright = prepare(tasks[:1], Preparation(recipe, invert=True), tmp_path / "frames")[0][0]
    assert np.array_equal(bright.pixels(), dark.pixels())
    assert np.array_equal(bright.micrograph().data, data)
    assert np.array_equal(bright.as_in_file().data, -data)


def test_a_broken_micrograph_is_a_problem_not_a_crash(tasks, tmp_path):
    tasks[1].one.path.write_bytes(b"no micrograph")
    examples, problems = prepare(tasks, Preparation(), tmp_path / "frames")
    assert len(examples) == 2 and len(problems) == 1
    assert "mic_1.mrc" in str(problems[0])


def test_split_is_made_by_folder_and_by_seed(tmp_path):
    names = [f"a/{i}" for i in range(10)] + [f"b/{i}" for i in range(5)]
    training, validation = split(names, None, 1)
    assert sum(n.startswith("a") for n in validation) == 2 and sum(n.startswith("b") for n in validation) == 1
    assert sorted(training + validation) == sorted(names)
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"train": training, "validation": validation}))
    assert split(names, file, 2) == (training, validation)  # the file wins
    assert split([*names, "a/new"], file, 1)[0] == sorted([*training, "a/new"])
    assert split(names, None, 2) != (training, validation)
    assert split(names[:2], None, 0)[1]


def test_splits_that_cannot_be(tmp_path):
    for content, words in (
        ("{", "not a split file"),
        ('{"train": ["a"]}', "not a split file"),
        ('{"train": ["a", "b"], "validation": ["b"]}', "both parts"),
        (json.dumps({"train": ["a", "b"], "validation": []}), "0 to validate"),
    ):
        (tmp_path / "split.json").write_text(content)
        with pytest.raises(CryoSegNetError, match=words):
            split(["a", "b"], tmp_path / "split.json", 0)


def test_batches_are_told_by_their_step(tasks, tmp_path):
    examples, _ = prepare(tasks, Preparation(), tmp_path / "frames")
    source = Crops(examples, side=64, batch=4, seed=3)
    straight = Loader(source, 6, Group())
    wanted = [straight(step) for step in range(6)]
    resumed = Loader(source, 6, Group())
    for step in (3, 4, 5):
        for a, b in zip(resumed(step), wanted[step]):
            assert np.array_equal(a, b)
    with_workers = Loader(source, 3, Group(), workers=1)
    assert np.array_equal(with_workers(2)[0], wanted[2][0])
    halves = [Loader(source, 6, Group(rank, 2))(2)[0] for rank in (0, 1)]
    assert np.array_equal(np.concatenate(halves), wanted[2][0])
    assert any(label.any() for _, label in wanted)
    assert len({image.tobytes() for images, _ in wanted for image in images}) == 24


def test_doubtful_places_are_neither(tasks, tmp_path):
    example = prepare(tasks[:1], Preparation(), tmp_path / "frames")[0][0]
    every = np.c_[example.x, example.y]
    doubtful = type(example)(**{**vars(example), "x": every[::2, 0], "y": every[::2, 1], "doubtful": every[1::2]})
    (_, with_doubt), (_, plain) = (validation_crops([e], 128, 32, 0)[0] for e in (doubtful, example))
    assert set(np.unique(with_doubt)) == {0, 1, UNKNOWN}
    # labelled background is background, and doubtful places are not labelled as particles
    assert not plain[with_doubt == 0].any()
    assert plain[with_doubt == 1].all()


def test_an_epoch_shows_each_frame_once():
    frames = Frames(list(range(14)), batch=4, seed=1)
    assert frames.steps_an_epoch == 4
    first, second = ([i for step in range(4 * e, 4 * e + 4) for i in frames.numbers(step)] for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(14)) and first != second
    assert len(Frames(list(range(5)), batch=4, least=3).numbers(1)) == 3


def test_validation_frames_come_in_batches(tasks, tmp_path):
    examples, _ = prepare(tasks, Preparation("published", denoised=True), tmp_path / "frames")
    batches = FrameBatches(examples, 2)
    assert [len(images) for images, _ in batches] == [2, 1]
