"""The loop's validation, early end, precision, unknown pixels, and checkpoints of earlier versions."""

from __future__ import annotations

import csv
import logging
import resource
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from cryosegnet_ext import CryoSegNetError
from cryosegnet_ext.runs import progress
from cryosegnet_ext.runs.stopping import Stopped
from cryosegnet_ext.training import fit
from cryosegnet_ext.training.fit import UNKNOWN, Recipe
from cryosegnet_ext.training.progress import Table, Watcher, draw_curves

RECIPE = Recipe(base_channels=2, levels=2, steps=20, learning_rate=0.02, precision="float32", validate_every=5)


def batch(step):
    rng = np.random.default_rng(step)
    images, labels = rng.normal(0, 0.2, (4, 32, 32)).astype(np.float32), np.zeros((4, 32, 32), np.uint8)
    for image, label, (x, y) in zip(images, labels, rng.integers(6, 26, (4, 2)).tolist()):
        cv2.circle(label, (x, y), 5, 1, -1)
        image[label == 1] -= 3
    return images, labels


VALIDATION = [batch(1000), batch(1001)]


def rows(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def test_validation_is_written_and_its_best_weights_are_returned(tmp_path):
    seen = []
    model = fit.fit(RECIPE, batch, tmp_path, validation=VALIDATION, watch=seen.append)
    table = rows(tmp_path / "validation.csv")
    assert [int(r["step"]) for r in table] == [5, 10, 15, 20]
    told = [m for m in seen if m.validation_dice is not None]
    assert [round(m.validation_dice, 5) for m in told] == [float(r["dice"]) for r in table]
    best = max(told, key=lambda m: m.validation_dice)
    assert best.best
    overlap = both = 0.0
    with torch.inference_mode():
        for images, labels in VALIDATION:
            p = torch.sigmoid(model(torch.from_numpy(images)[:, None]))[:, 0].double().numpy()
            overlap, both = overlap + (p * labels).sum(), both + p.sum() + labels.sum()
    assert (2 * overlap + 1) / (both + 1) == pytest.approx(best.validation_dice, abs=1e-5)


def test_no_better_validation_ends_the_run(tmp_path):
    stuck = replace(RECIPE, learning_rate=0.0, steps=200, patience=3)
    # the network changes by its batch norms' statistics only; with these frozen, nothing improves
    fit.fit(replace(stuck, frozen_norm=True), batch, tmp_path, validation=VALIDATION)
    assert [int(r["step"]) for r in rows(tmp_path / "validation.csv")] == [5, 10, 15, 20]


def test_a_stopped_run_with_validation_ends_as_an_undisturbed_one(tmp_path):
    whole = fit.fit(RECIPE, batch, tmp_path / "whole", validation=VALIDATION)
    asked = iter([False] * 6 + [True])
    with pytest.raises(Stopped):
        fit.fit(RECIPE, batch, tmp_path / "parts", validation=VALIDATION, stop=lambda: next(asked))
    assert same(whole, fit.fit(RECIPE, batch, tmp_path / "parts", validation=VALIDATION))
    for name in ("loss.csv", "validation.csv"):
        tables = [
            [{k: v for k, v in r.items() if k != "seconds"} for r in rows(tmp_path / d / name)]
            for d in ("whole", "parts")
        ]
        assert tables[0] == tables[1]


def test_checkpoints_of_earlier_versions_go_on(tmp_path):
    old = Recipe(base_channels=2, levels=2, steps=20)
    fit.fit(old, batch, tmp_path, stop_after=10)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    kept = ("base_channels", "levels", "steps", "learning_rate", "weight_decay", "seed")
    state = {k: state[k] for k in ("model", "optimizer", "step")} | {"recipe": {k: state["recipe"][k] for k in kept}}
    torch.save(state, tmp_path / "checkpoint.pt")
    assert same(fit.fit(old, batch, tmp_path), fit.fit(old, batch, tmp_path / "whole"))


def test_frozen_norms_keep_their_statistics(tmp_path):
    start = fit.fit(RECIPE, batch, tmp_path / "start").state_dict()
    tuned = fit.fit(
        replace(RECIPE, frozen_norm=True), batch, tmp_path / "tuned", start, validation=VALIDATION
    ).state_dict()
    for name, value in start.items():
        if "running" in name:
            assert torch.equal(value, tuned[name]), name
    assert not torch.equal(start["output.weight"], tuned["output.weight"])


def test_unknown_pixels_count_for_nothing():
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.normal(size=(1, 1, 8, 8)), requires_grad=True)
    label = torch.tensor((rng.random((1, 1, 8, 8)) < 0.5).astype(float))
    label[..., :4] = UNKNOWN
    value = fit.loss(logits, label)
    value.backward()
    assert not logits.grad[..., :4].any() and logits.grad[..., 4:].all()
    assert value.item() == pytest.approx(fit.loss(logits[..., 4:], label[..., 4:]).item())


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_precisions_learn(tmp_path, precision):
    recipe = replace(RECIPE, precision=precision, steps=120, learning_rate=0.05)
    fit.fit(recipe, batch, tmp_path, validation=VALIDATION)
    assert float(rows(tmp_path / "validation.csv")[-1]["dice"]) > 0.6


def test_the_published_recipe_is_plain_adam():
    recipe = Recipe(optimizer="adam", schedule="constant", learning_rate=1e-4, steps=100)
    assert {recipe.rate(step) for step in (0, 50, 99)} == {1e-4}
    cosine = Recipe(steps=100, learning_rate=1.0)
    assert cosine.rate(0) < 0.05 and max(map(cosine.rate, range(100))) < 1 and cosine.rate(99) < 0.05


def test_a_loss_that_is_no_number_is_said(tmp_path):
    with pytest.raises(CryoSegNetError, match="no longer a number"):
        fit.fit(RECIPE, lambda step: (batch(step)[0] * np.float32(np.nan), batch(step)[1]), tmp_path)


def test_curves_and_lines(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    assert draw_curves(tmp_path) is None
    with Watcher(tmp_path) as watcher:
        fit.fit(RECIPE, batch, tmp_path, validation=VALIDATION, watch=watcher)
    lines = caplog.messages
    assert any("step 10/20" in line and "validation Dice" in line and "left" in line for line in lines)
    picture = cv2.imread(str(draw_curves(tmp_path)))
    assert picture is not None and picture.shape[1] > 600
    assert picture.std() > 5


def test_tensorboard_or_a_sentence(tmp_path):
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        with pytest.raises(CryoSegNetError, match="pip install"):
            Watcher(tmp_path, tensorboard=True)
        return
    with Watcher(tmp_path, tensorboard=True) as watcher:
        fit.fit(RECIPE, batch, tmp_path, validation=VALIDATION, watch=watcher)
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_a_full_disk_is_said_and_the_earlier_checkpoint_stays(tmp_path):
    fit.fit(RECIPE, batch, tmp_path, stop_after=5)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, allowed[1]))
    try:
        with pytest.raises(CryoSegNetError, match=r"cannot write .*checkpoint\.pt"):
            fit.fit(RECIPE, batch, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint.pt", "loss.csv"}


def test_a_table_that_cannot_be_written_is_said(tmp_path):
    table = Table(tmp_path / "loss.csv", ["step", "loss"], 0, True)
    (tmp_path / "loss.csv").unlink()
    (tmp_path / "loss.csv").symlink_to("/dev/full")
    with pytest.raises(CryoSegNetError, match=r"cannot write .*loss\.csv .No space left"):
        table.add(10, 0.5)


@pytest.mark.parametrize("content", [b"junk\n", b"", b"PK\x03\x04 cut short", None])
def test_a_checkpoint_that_is_none_is_said(tmp_path, content):
    if content is None:
        torch.save({"of": "another program"}, tmp_path / "checkpoint.pt")
    else:
        (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(CryoSegNetError, match=r"checkpoint\.pt is damaged.*--overwrite"):
        fit.fit(RECIPE, batch, tmp_path)


def test_what_differs_from_the_checkpoint_is_said(tmp_path):
    fit.fit(RECIPE, batch, tmp_path, stop_after=5)
    with pytest.raises(CryoSegNetError, match="precision was float32, is bf16"):
        fit.fit(replace(RECIPE, precision="bf16"), batch, tmp_path)


def test_how_a_run_went_is_known(tmp_path):
    stuck = replace(RECIPE, learning_rate=0.0, steps=200, patience=3, frozen_norm=True)
    fit.fit(stuck, batch, tmp_path / "early", validation=VALIDATION)
    assert fit.course(tmp_path / "early") == fit.Course(200, 20, 5)
    fit.fit(RECIPE, batch, tmp_path / "whole")
    assert fit.course(tmp_path / "whole") == fit.Course(20, 20, 20)


def test_seconds_go_on_where_the_run_was_stopped(tmp_path):
    fit.fit(RECIPE, batch, tmp_path, stop_after=10)
    table = (tmp_path / "loss.csv").read_text()
    head, row = table.splitlines()
    (tmp_path / "loss.csv").write_text(f"{head}\n{row.rsplit(',', 1)[0]},500.0\n")
    fit.fit(RECIPE, batch, tmp_path)
    assert [float(r["seconds"]) >= 500 for r in rows(tmp_path / "loss.csv")] == [True, True]


def test_how_long_it_takes_is_said_after_the_first_steps(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    clock = iter(range(0, 10_000, 60))
    # The module's own name: in the time module itself it would also be the clock of servers that run in threads.
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    watcher = Watcher(tmp_path)
    with watcher:
        for _ in range(100):  # the micrographs took their time
            next(clock)
        watcher(fit.Moment(1, 100))
        watcher(fit.Moment(4, 100))
    assert caplog.messages == ["100 steps: about 32 min"]
    seen = []
    fit.fit(replace(RECIPE, steps=8), batch, tmp_path / "run", watch=seen.append)
    assert [(m.step, m.loss) for m in seen] == [(1, None), (4, None)]
