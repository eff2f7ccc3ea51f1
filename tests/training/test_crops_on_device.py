"""Training crops rendered on a device, here the CPU, against those of the CPU path."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from cryosegnet_ext.picking.denoise import working_image
from cryosegnet_ext.simulation.on_device import Noise
from cryosegnet_ext.simulation.scene import Scene
from cryosegnet_ext.training import crops, crops_on_device
from cryosegnet_ext.training.augmentation import augment, draw_augmentation
from cryosegnet_ext.training.batches import Crops, Loader
from cryosegnet_ext.training.crops import draw_crop, simulated_particles
from cryosegnet_ext.training.crops_on_device import CropRenderer, CropToRender, draw_crop_to_render, finished
from cryosegnet_ext.training.degradation import Degradation
from cryosegnet_ext.training.degradation_on_device import as_jpeg, degraded
from cryosegnet_ext.training.fit import Recipe, fit
from cryosegnet_ext.training.parallel import Group
from tests.training.test_training import stack

HERE = torch.device("cpu")
STACKS = [stack(), stack("larger", 150.0, 36)]
CLEAR = Scene(coverage=0.15, dose=4000, structural_noise=0, crowding=1.0, clusters=0, gradient=0)


def grain(side, seed):
    """Smooth noise, as a micrograph may be."""
    return cv2.GaussianBlur(np.random.default_rng(seed).normal(100, 30, (side, side)).astype(np.float32), (0, 0), 1.2)


@pytest.mark.parametrize(
    "degradation",
    [
        Degradation(),
        Degradation(blur=0.4),
        Degradation(blur=3.1),
        Degradation(tiles=3),
        Degradation(box=2),
        Degradation(box=5),
        Degradation(blur=1.3, tiles=6, box=4),
        Degradation(eight_bits=True),
        Degradation(blur=2.0, tiles=4, box=7, eight_bits=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("side", [97, 128])
def test_degradations_are_those_of_the_cpu_path(degradation, side):
    """Beside others in the batch. A value at the edge of truncation may get the next grey level."""
    image = grain(side, 3)
    others = [Degradation(blur=5.0), Degradation(box=3, eight_bits=True)]
    batch = torch.from_numpy(np.stack([image, image + 1, 2 * image]))
    found = degraded(batch, [degradation, *others])
    for plane, one, source in zip(found.numpy(), [degradation, *others], (image, image + 1, 2 * image)):
        difference = np.abs(plane - one.applied(source))
        assert difference.max() <= (2.01 if one.tiles else 1.01)
        assert (difference > 1e-3 * source.std()).mean() < (0.02 if one.tiles or one.eight_bits else 1e-9)


@pytest.mark.parametrize("side", [64, 93])
def test_jpeg_files_are_libjpegs_within_a_few_grey_levels(side):
    image = grain(side, 4)
    with_jpeg = Degradation(eight_bits=True, jpeg=True).applied(image)
    without = Degradation(eight_bits=True).applied(image)
    found = as_jpeg(torch.from_numpy(without)[None])[0].numpy()
    lost = np.abs(with_jpeg - without)
    difference = np.abs(found - with_jpeg)
    assert lost.mean() > 1
    assert difference.max() <= 6 and difference.mean() < 0.2 * lost.mean()


def test_working_images_are_those_of_the_cpu_path():
    """The same counted electrons on both paths; crops of several shapes, with and without distractors."""
    seen = set()
    for seed in range(14):
        plan, _ = draw_crop(STACKS, 64, seed)
        side = plan.drawn.shape[0] - 2 * plan.drawn.pad
        image = grain(side, seed)
        expected = image
        for distractor in plan.distractors:
            expected = distractor.added_to(expected, plan.fine)
        expected = working_image(plan.degradation.applied(expected), plan.scale).data
        found = finished(torch.from_numpy(image)[None], [plan])[0].numpy()
        difference = np.abs(found - expected)
        levels = plan.degradation.tiles or plan.degradation.eight_bits
        assert np.quantile(difference, 0.97) < 2e-3 and difference.mean() < (0.02 if levels else 1e-4)
        seen.add((side, bool(plan.distractors)))
    assert len(seen) > 4


class Field(Noise):
    def __init__(self, fields):
        self.device, self._fields = HERE, fields

    def normal(self, *shape):
        return torch.from_numpy(np.stack(self._fields))


def test_augmented_crops_are_those_of_the_cpu_path():
    images = [grain(64, seed) / 30 - 3 for seed in range(12)]
    drawn, fields, expected = [], [], []
    for seed, image in enumerate(images):
        rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
        drawn.append(draw_augmentation(rng))
        fields.append(rng.standard_normal(image.shape, np.float32))
        expected.append(augment(image, np.zeros((64, 64), np.uint8), again)[0])
    found = crops_on_device.augmented(torch.from_numpy(np.stack(images)), drawn, Field(fields)).numpy()
    assert {one.bends is None for one in drawn} == {True, False} and any(one.noise for one in drawn)
    assert found == pytest.approx(np.stack(expected), abs=2e-4)


def test_rendered_crops_look_like_those_of_the_cpu_path():
    """The same content with other noise: the pictures agree where particles are clear, and so do the labels."""
    renderer = CropRenderer(STACKS, HERE)
    closeness = []
    for seed in range(8):
        plan, _ = draw_crop(STACKS, 64, seed)
        crop = simulated_particles(STACKS, 64, seed)
        found = renderer.working_images([plan], Noise(seed, HERE))[0].numpy()
        assert np.array_equal(plan.x, crop.x) and found.shape == crop.image.shape
        assert np.isfinite(found).all() and np.abs(found).max() <= 5
        smooth = [cv2.GaussianBlur(image, (0, 0), 3).ravel() for image in (found, crop.image)]
        closeness.append(np.corrcoef(*smooth)[0, 1])
    assert max(closeness) > 0.9 and np.median(closeness) > 0.3


def test_batches_keep_their_order_and_are_told_by_their_step(tmp_path):
    soft = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    drawn = Crops([], STACKS, 0.75, 64, 4, 7, [(soft, soft)], 0.25, rendered_later=True)
    usual = Crops([], STACKS, 0.75, 64, 4, 7, [(soft, soft)], 0.25)
    kinds = [isinstance(drawn[i], CropToRender) for i in range(4)]
    assert kinds == [False, True, True, True]
    renderer = CropRenderer(STACKS, HERE)
    straight = Loader(drawn, 3, Group(), renderer=renderer)
    batches = [straight(step) for step in range(3)]
    for step, (images, labels) in enumerate(batches):
        assert images.shape == labels.shape == (4, 64, 64)
        for i in range(4):
            image, label = usual[4 * step + i]
            assert np.array_equal(labels[i].numpy(), label)
            assert kinds[i] or np.array_equal(images[i].numpy(), image)
    again = Loader(drawn, 3, Group(), renderer=renderer)(2)
    assert torch.equal(again[0], batches[2][0])
    assert not torch.equal(batches[1][0], batches[2][0])
    recipe = Recipe(base_channels=2, levels=2, steps=3, precision="float32")
    fit(recipe, Loader(drawn, 3, Group(), renderer=renderer), tmp_path)


def test_labels_turn_with_their_images(monkeypatch):
    monkeypatch.setattr(crops, "random_scene", lambda *_: CLEAR)
    monkeypatch.setattr(crops, "draw_degradation", lambda *_: Degradation())
    monkeypatch.setattr(crops, "_random_size", lambda *_: (24.0, True))
    renderer = CropRenderer(STACKS, HERE)
    ways = set()
    for seed in range(20):
        crop = draw_crop_to_render(STACKS, 64, seed, np.random.default_rng(seed))
        image = renderer([crop], seed)[0].numpy()
        ways.add((crop.augmentation.turns, crop.augmentation.mirrored))
        if crop.label.any() and not crop.plan.distractors:
            assert image[crop.label == 1].mean() < image[crop.label == 0].mean() - 0.3
    assert len(ways) > 6
