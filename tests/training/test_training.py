"""Training crops whose labels lie on the particles, and a training loop that learns and resumes exactly."""

from __future__ import annotations

import csv
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from cryosegnet_ext import CryoSegNetError
from cryosegnet_ext.simulation.micrograph import ProjectionStack, Scene
from cryosegnet_ext.simulation.optics import Optics
from cryosegnet_ext.training import augmentation, crops, fit
from cryosegnet_ext.training.augmentation import augment, bend_spectrum
from cryosegnet_ext.training.crops import (
    LABEL_SHARE,
    LARGEST,
    SMALLEST,
    Labelled,
    labelled_particles,
    paint_labels,
    simulated_particles,
)
from cryosegnet_ext.training.degradation import Degradation, degrade
from cryosegnet_ext.training.scenes import random_scene


def simulated_crop(stacks, side, seed):
    crop = simulated_particles(stacks, side, seed)
    return crop.image, crop.label()


def labelled_crop(micrograph, side, rng, degraded=False):
    crop = labelled_particles(micrograph, side, rng, degraded=degraded)
    return crop.image, crop.label()


def test_labels_are_discs_at_subpixel_centres():
    rng = np.random.default_rng(0)
    shape = (60, 90)
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    for _ in range(40):
        n = int(rng.integers(0, 9))
        x, y, d = rng.uniform(-25, 115, n), rng.uniform(-25, 85, n), rng.uniform(0, 40, n)
        expected = np.zeros(shape, bool)
        for cx, cy, r in zip(x, y, LABEL_SHARE * d / 2):
            expected |= (xx - cx) ** 2 + (yy - cy) ** 2 <= r * r
        label = paint_labels(x, y, d, shape)
        assert label.dtype == np.uint8
        assert np.array_equal(label, expected)


def test_labels_of_touching_particles_part():
    label = paint_labels(np.array([20.0, 50]), np.array([30.0, 30]), np.array([30.0, 30]), (60, 80))
    assert cv2.connectedComponents(label)[0] == 3
    assert not paint_labels(np.array([20.0]), np.array([20.0]), np.zeros(1), (40, 40)).any()


def stack(name="ball", diameter=120.0, n=30, voxel=5.0):
    yy, xx = np.mgrid[:n, :n] - (n - 1) / 2
    r = np.hypot(xx, yy) * voxel / (diameter / 2)
    return ProjectionStack(
        name, (2.1 * diameter * np.sqrt(np.clip(1 - r**2, 0, 1)))[None].astype(np.float32), voxel, diameter
    )


DARK = Optics(amplitude_contrast=0.3)
STACKS = [stack(), stack("larger", 150.0, 36)]


def test_a_simulated_crop_is_told_by_its_seed():
    crops_seen = [simulated_crop(STACKS, 96, seed) for seed in range(12)]
    for seed, (image, label) in enumerate(crops_seen):
        again = simulated_crop(STACKS, 96, seed)
        assert np.array_equal(image, again[0]) and np.array_equal(label, again[1])
        assert image.shape == label.shape == (96, 96)
        assert image.dtype == np.float32 and label.dtype == np.uint8
        assert np.isfinite(image).all() and np.abs(image).max() <= 5
        assert set(np.unique(label)) <= {0, 1}
    assert len({image.tobytes() for image, _ in crops_seen}) == 12
    assert any(label.any() for _, label in crops_seen)


def test_labels_of_simulated_crops_lie_on_particles(monkeypatch):
    """With a clear picture and a size in range, pixels inside the labels are darker than those outside."""
    clear = Scene(coverage=0.15, dose=4000, structural_noise=0, crowding=1.0, clusters=0, gradient=0, optics=DARK)
    monkeypatch.setattr(crops, "random_scene", lambda *args: clear)
    monkeypatch.setattr(crops, "draw_degradation", lambda d, rng: Degradation())
    seen = 0
    for seed in range(12):
        image, label = simulated_crop(STACKS, 128, seed)
        if label.any():
            seen += 1
            assert image[label == 1].mean() < image[label == 0].mean() - 1
    assert seen > 5


def test_sizes_out_of_range_carry_no_labels(monkeypatch):
    """Particles far from the network's scale are background."""
    clear = Scene(coverage=0.4, dose=2000, clusters=0)
    monkeypatch.setattr(crops, "random_scene", lambda *args: clear)
    for size in (crops.TOO_LARGE[0], crops.TOO_SMALL[1]):
        monkeypatch.setattr(crops, "_random_size", lambda rng, share, size=size: (size, False))
        assert not simulated_crop(STACKS, 200, 0)[1].any()
        monkeypatch.setattr(crops, "_random_size", lambda rng, share, size=size: (size, True))
        assert simulated_crop(STACKS, 200, 0)[1].any()


def test_random_sizes():
    rng = np.random.default_rng(0)
    drawn = [crops._random_size(rng, 0.06) for _ in range(3000)]
    inside = np.array([d for d, in_scale in drawn if in_scale])
    outside = np.array([d for d, in_scale in drawn if not in_scale])
    assert inside.min() >= SMALLEST and inside.max() <= LARGEST
    assert np.median(inside) == pytest.approx(32, rel=0.1)
    assert len(outside) / 3000 == pytest.approx(0.18, abs=0.03)
    assert ((outside > LARGEST) | (outside < SMALLEST)).all()


def test_random_scenes_can_be_simulated():
    rng = np.random.default_rng(1)
    doses: list[float] = []
    for _ in range(30):
        scene = random_scene(120.0, 4.0, rng)
        doses.append(scene.dose)
        assert 0 <= scene.coverage <= 0.5
        assert 0 < scene.detector_efficiency <= 1
        image = degrade(np.random.default_rng(2).normal(100, 10, (64, 64)).astype(np.float32), 16.0, rng)
        assert image.shape == (64, 64) and image.dtype == np.float32 and np.isfinite(image).all()
    assert 0 < min(doses) < max(doses) / 100  # from hardly seen to hardly any noise


def labelled(shape=(500, 620), diameter=44, seed=0):
    """Dark discs in noise, with labels."""
    rng = np.random.default_rng(seed)
    data = rng.normal(200, 10, shape).astype(np.float32)
    x, y = (v.ravel().astype(float) for v in np.meshgrid(np.arange(40, shape[1], 90), np.arange(40, shape[0], 80)))
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    for cx, cy in zip(x, y):
        data[(xx - cx) ** 2 + (yy - cy) ** 2 <= (diameter / 2) ** 2] -= 25
    return Labelled(data, x, y, float(diameter))


@pytest.mark.parametrize("degraded", (False, True))
def test_labelled_crops_keep_labels_on_particles(degraded):
    micrograph = labelled()
    rng = np.random.default_rng(5)
    with_labels = centred = 0
    for _ in range(25):
        image, label = labelled_crop(micrograph, 128, rng, degraded)
        assert image.shape == label.shape == (128, 128)
        assert np.isfinite(image).all()
        if label.any():
            with_labels += 1
            assert image[label == 1].mean() < image[label == 0].mean() - (0.7 if degraded else 1.5)  # filters flatten
            # a label and its dark disc have one centre
            _, _, stats, middles = cv2.connectedComponentsWithStats(label)
            smooth = np.clip(-cv2.GaussianBlur(image, (0, 0), 1), 0, None)
            for x, y, d in zip(middles[1:, 0], middles[1:, 1], stats[1:, cv2.CC_STAT_WIDTH] / LABEL_SHARE):
                if min(x, y, 127 - x, 127 - y) > 0.75 * d:
                    yy, xx = np.mgrid[:128, :128]
                    weight = np.where(np.hypot(xx - x, yy - y) < 0.75 * d, smooth, 0)
                    assert (weight * (xx - x)).sum() / weight.sum() == pytest.approx(0, abs=0.06 * d)
                    assert (weight * (yy - y)).sum() / weight.sum() == pytest.approx(0, abs=0.06 * d)
                    centred += 1
    assert 15 < with_labels < 25
    assert centred > 20


def test_degraded_crops_have_other_looks_and_the_same_labels():
    micrograph = labelled()
    pairs = [
        [labelled_crop(micrograph, 128, np.random.default_rng(seed), degraded) for degraded in (False, True)]
        for seed in range(12)
    ]
    assert all((plain[1] == degraded[1]).all() for plain, degraded in pairs)
    grain = [[float(np.abs(np.diff(image, axis=1)).mean()) for image, _ in pair] for pair in pairs]
    assert sum(after < 0.8 * before for before, after in grain) > 2  # blurred ones among them


def test_a_labelled_crop_larger_than_its_micrograph_is_padded():
    image, label = labelled_crop(labelled((70, 90)), 256, np.random.default_rng(0))
    assert image.shape == label.shape == (256, 256)
    assert not image[-1].any() and not label[-1].any()


def test_augmentation_moves_image_and_label_together(monkeypatch):
    monkeypatch.setattr(augmentation, "BENT_SHARE", 0)  # it has its own test
    image = np.zeros((40, 40), np.float32)
    label = np.zeros((40, 40), np.uint8)
    image[5:12, 20:31], label[5:12, 20:31] = 10, 1
    seen, strengths = set(), []
    for seed in range(40):
        turned, mask = augment(image, label, np.random.default_rng(seed))
        assert np.array_equal(turned > turned.max() / 2, mask == 1)
        strengths.append(turned.max())
        assert turned.flags.c_contiguous and mask.flags.c_contiguous
        seen.add(mask.tobytes())
    assert len(seen) == 8
    assert min(strengths) < 5 and np.median(strengths) == pytest.approx(10, abs=2)


def test_a_bent_spectrum_is_another_weight_of_each_frequency_and_leaves_places_and_noise_alone():
    noise = np.random.default_rng(1).standard_normal((256, 256)).astype(np.float32)
    yy, xx = np.mgrid[:256, :256]
    spot = 8 * np.exp(-((xx - 90) ** 2 + (yy - 160) ** 2) / 128)
    bands = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None, :])
    octaves = [(bands >= low) & (bands < 2 * low) for low in 2.0 ** -np.arange(2, 6)]
    ratios = []
    for seed in range(20):
        bent = bend_spectrum(noise, np.random.default_rng(seed))
        assert bent.dtype == np.float32 and bent.shape == noise.shape
        assert np.median(np.abs(bent)) == pytest.approx(np.median(np.abs(noise)), rel=0.02)
        before, after = (np.abs(np.fft.rfft2(image)) for image in (noise, bent))
        by_band = [float(after[band].mean() / before[band].mean()) for band in octaves]
        ratios.append([ratio / by_band[0] for ratio in by_band[1:]])
        seen = cv2.GaussianBlur(bend_spectrum(noise - spot.astype(np.float32), np.random.default_rng(seed)), (0, 0), 6)
        y, x = np.unravel_index(seen.argmin(), seen.shape)
        assert np.hypot(x - 90, y - 160) < 4
    spread = np.std(np.log(ratios), axis=0)
    assert spread.min() > 0.2 and spread.max() < 0.8
    flat = bend_spectrum(np.zeros((20, 30), np.float32), np.random.default_rng(0))
    assert flat.shape == (20, 30) and not flat.any()


def test_the_loss_is_the_published_one():
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=(2, 1, 6, 6)), (rng.random((2, 1, 6, 6)) < 0.4).astype(float)
    p = 1 / (1 + np.exp(-logits))
    bce = -(label * np.log(p) + (1 - label) * np.log(1 - p)).mean()
    dice = 1 - (2 * (p * label).sum() + 1) / (p.sum() + label.sum() + 1)
    assert fit.loss(torch.tensor(logits), torch.tensor(label)).item() == pytest.approx((bce + dice) / 2)
    perfect = torch.tensor(np.where(label > 0, 50.0, -50.0))
    assert fit.loss(perfect, torch.tensor(label)).item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(fit.loss(perfect, torch.zeros_like(perfect)))


RECIPE = fit.Recipe(base_channels=2, levels=2, steps=20, learning_rate=0.05)


def batch(step):
    """One dark disc in each plane, at a place that depends on the step only."""
    rng = np.random.default_rng(step)
    images, labels = rng.normal(0, 0.2, (4, 32, 32)).astype(np.float32), np.zeros((4, 32, 32), np.uint8)
    for image, label, (x, y) in zip(images, labels, rng.integers(6, 26, (4, 2)).tolist()):
        cv2.circle(label, (x, y), 5, 1, -1)
        image[label == 1] -= 3
    return images, labels


def test_training_learns(tmp_path):
    model = fit.fit(replace(RECIPE, steps=60), batch, tmp_path)
    with open(tmp_path / "loss.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in rows] == [10, 20, 30, 40, 50, 60]
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    assert float(rows[-1]["loss"]) < 0.5 * float(rows[0]["loss"])
    assert not model.training
    images, labels = batch(1000)
    with torch.inference_mode():
        found = torch.sigmoid(model(torch.from_numpy(images)[:, None]))[:, 0].numpy() > 0.5
    assert (found == labels).mean() > 0.95


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))


def test_a_run_that_was_stopped_ends_as_an_undisturbed_one(tmp_path):
    whole = fit.fit(RECIPE, batch, tmp_path / "whole")
    for stop in (7, 13, None):
        resumed = fit.fit(RECIPE, batch, tmp_path / "parts", stop_after=stop)
        assert same(whole, resumed) == (stop is None)
    assert same(whole, fit.fit(RECIPE, batch, tmp_path / "again"))
    assert same(whole, fit.fit(RECIPE, batch, tmp_path / "parts"))  # finished: nothing more is done
    tables = [(tmp_path / run / "loss.csv").read_text().splitlines() for run in ("whole", "parts")]
    without_time = [[line.rsplit(",", 1)[0] for line in table] for table in tables]
    assert without_time[0] == without_time[1]
    assert sorted(p.name for p in (tmp_path / "whole").iterdir()) == ["checkpoint.pt", "loss.csv"]


def test_a_run_that_was_killed_repeats_no_row(tmp_path):
    """The table runs ahead of the checkpoint."""
    fit.fit(RECIPE, batch, tmp_path, stop_after=10)
    with open(tmp_path / "loss.csv", "a") as stream:
        stream.write("20,9.9,1e-3,9.9\n")
    fit.fit(RECIPE, batch, tmp_path)
    steps = [line.split(",")[0] for line in (tmp_path / "loss.csv").read_text().splitlines()]
    assert steps == ["step", "10", "20"]
    assert "9.9" not in (tmp_path / "loss.csv").read_text()


def test_a_run_starts_from_given_weights(tmp_path):
    first = fit.fit(RECIPE, batch, tmp_path / "first")
    second = fit.fit(replace(RECIPE, learning_rate=0.0), batch, tmp_path / "second", start=first.state_dict())
    for (name, a), b in zip(first.named_parameters(), second.parameters()):
        assert torch.equal(a, b), name


def test_a_folder_of_another_recipe_is_refused(tmp_path):
    fit.fit(RECIPE, batch, tmp_path, stop_after=2)
    with pytest.raises(CryoSegNetError, match=r"another recipe \(base channels was 2, is 3\)"):
        fit.fit(replace(RECIPE, base_channels=3), batch, tmp_path)
