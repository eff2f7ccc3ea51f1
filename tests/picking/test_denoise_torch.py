"""The published denoising in PyTorch against OpenCV, step by step and whole."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cryosegnet_ext.picking import denoise, denoise_torch
from cryosegnet_ext.picking.nlm import non_local_means
from tests.picking.images import noise, particles, stretched

SHAPES = pytest.mark.parametrize("shape", [(96, 96), (70, 131), (133, 64)], ids=str)


@SHAPES
@pytest.mark.parametrize("blur", [0, 1.7, 4])
def test_non_local_means_is_opencvs_bit_for_bit(shape, blur):
    image = noise(shape, seed=1)
    image = stretched(cv2.GaussianBlur(image, (0, 0), blur) if blur else image)
    expected = cv2.fastNlMeansDenoising(image, None, 10, 7, 21)
    found = non_local_means(torch.from_numpy(image)).numpy()
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)
    assert (found != image).mean() > (0.5 if blur else -1)


@pytest.mark.parametrize(("h", "template", "search"), [(3, 7, 21), (30, 5, 11), (10, 3, 15), (80, 9, 9)])
def test_non_local_means_of_other_windows(h, template, search):
    image = stretched(cv2.GaussianBlur(noise((60, 66), seed=2), (0, 0), 1))
    expected = cv2.fastNlMeansDenoising(image, None, h, template, search)
    assert np.array_equal(non_local_means(torch.from_numpy(image), h, template, search).numpy(), expected)


def test_non_local_means_of_extreme_bytes():
    for image in (np.zeros((40, 40), np.uint8), np.full((40, 40), 255, np.uint8)):
        assert np.array_equal(non_local_means(torch.from_numpy(image)).numpy(), image)
    image = np.where(np.random.default_rng(0).random((64, 64)) < 0.5, 255, 0).astype(np.uint8)
    image[:32] = 255
    expected = cv2.fastNlMeansDenoising(image, None, 10, 7, 21)
    assert np.array_equal(non_local_means(torch.from_numpy(image)).numpy(), expected)
    with pytest.raises(ValueError, match="larger than 13"):
        non_local_means(torch.zeros(13, 40, dtype=torch.uint8))


@pytest.mark.parametrize("shape", [(160, 320), (100, 131), (64, 65), (128, 250)], ids=str)
def test_clahe_is_opencvs(shape):
    image = stretched(particles(shape, seed=3))
    expected = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(16, 16)).apply(image)
    found = denoise_torch.clahe(torch.from_numpy(image)).numpy()
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("shape", [(256, 256), (200, 311), (128, 131)], ids=str)
def test_the_whole_recipe(shape):
    """Values at the edge of truncation differ by one; very few pixels differ, and by a few levels at most."""
    data = particles(shape, seed=5)
    expected = denoise.published(data).astype(int)
    found = denoise_torch.published(torch.from_numpy(data)).numpy()
    difference = np.abs(found - expected)
    assert expected.std() > 20
    assert difference.max() <= 3
    assert (difference > 0).mean() < 0.02


def test_a_constant_image():
    assert denoise_torch.published(torch.full((64, 64), 7.0)).max() == 0


def test_squeezing_is_opencvs():
    image = stretched(particles((300, 260), seed=6))
    expected = cv2.resize(image, (128, 128), interpolation=cv2.INTER_LINEAR)
    found = denoise_torch.squeezed(torch.from_numpy(image), 128).numpy()
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() < 0.2


@pytest.mark.parametrize("shape", [(256, 256), (200, 311), (128, 131)], ids=str)
def test_the_gaussian_is_opencvs(shape):
    """By sums in its order: a GPU may shorten what goes through a convolution."""
    data = particles(shape, seed=5)
    expected = cv2.GaussianBlur(data, (9, 9), 0)
    with Operations() as used:
        found = denoise_torch._gaussian(torch.from_numpy(data)).numpy()
    assert not [name for name in used.names if "conv" in name]
    # at the end of a row OpenCV's sums have another order
    assert (found != expected).mean() < 0.02
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-4)


class Operations(TorchDispatchMode):
    """Names of the operations that are used."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))
