"""The second plane of a U-Net: noise of any spectrum becomes white, particles stay where they are."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.networks.precision import all_in
from cryosegnet_ext.networks.unet import AttentionUNet, as_planes, map_of_tensor
from cryosegnet_ext.networks.whitening import whitened
from cryosegnet_ext.weights import load_unet
from tests.networks.test_unet import random_unet


def coloured(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(shape, np.float32)
    noise += 15 * cv2.GaussianBlur(rng.standard_normal(shape, np.float32), (0, 0), 4)
    return noise


def neighbours(image: np.ndarray) -> float:
    """Correlation of neighbouring pixels."""
    return float(np.corrcoef(image[:, 1:].ravel(), image[:, :-1].ravel())[0, 1])


@pytest.mark.parametrize("shape", [(256, 256), (300, 411), (64, 200)], ids=str)
def test_noise_becomes_white(shape: tuple[int, int]) -> None:
    images = np.stack([coloured(shape, 1), 3 * coloured(shape, 2) + 7])
    found = whitened(torch.from_numpy(images)).numpy()
    assert found.shape == images.shape and found.dtype == np.float32
    for before, after in zip(images, found):
        assert neighbours(before) > 0.3 and abs(neighbours(after)) < 0.06
        assert after.std() == pytest.approx(1, abs=0.12) and abs(after.mean()) < 0.05


def test_each_image_of_a_batch_for_itself() -> None:
    images = torch.from_numpy(np.stack([coloured((128, 128), 1), 5 * coloured((128, 128), 2)]))
    alone = torch.cat([whitened(image[None]) for image in images])
    torch.testing.assert_close(whitened(images), alone, rtol=1e-4, atol=1e-4)


def test_a_faint_particle_stands_out_more() -> None:
    image = coloured((256, 256), 3)
    y, x = np.mgrid[:256, :256]
    ring = np.exp(-((np.hypot(y - 100, x - 150) - 7) ** 2) / 2)
    found = whitened(torch.from_numpy(image - ring.astype(np.float32))[None])[0].numpy()

    def contrast(plane: np.ndarray) -> float:
        scores = cv2.filter2D(plane, -1, -ring[85:116, 135:166])
        return float(scores[100, 150] / scores.std())

    assert contrast(found) > 1.5 * contrast(image)


@pytest.mark.parametrize("shape", [(1, 1), (3, 90), (40, 40)], ids=str)
def test_any_shape_and_no_noise(shape: tuple[int, int]) -> None:
    assert whitened(torch.zeros(1, *shape)).abs().max() == 0
    assert whitened(torch.randn(1, *shape)).isfinite().all()


def test_a_network_of_two_planes_picks_from_its_file(tmp_path: Path) -> None:
    """Whole or in tiles; without weights on the second plane it gives the map of the network of one plane."""
    one, two = random_unet(2, 2), AttentionUNet(2, 2, planes=2).eval()
    state = one.state_dict()
    state["e1.conv.conv.0.weight"] = torch.cat((state["e1.conv.conv.0.weight"], torch.zeros(2, 1, 3, 3)), 1)
    two.load_state_dict(state)
    image = torch.from_numpy(coloured((150, 171)))
    with all_in("float32"):
        torch.testing.assert_close(map_of_tensor(two, image), map_of_tensor(one, image))
        state["e1.conv.conv.0.weight"][:, 1] = 0.3
        save_file(state, tmp_path / "two.safetensors")
        loaded, _ = load_unet(tmp_path / "two.safetensors")
        assert loaded.planes == 2
        whole = map_of_tensor(loaded, image)
        assert (whole - map_of_tensor(one, image)).abs().max() > 1e-3
        torch.testing.assert_close(map_of_tensor(loaded, image, 96, 32), whole, rtol=0, atol=0.05)
        with torch.inference_mode():
            x = torch.nn.functional.pad(as_planes(image[None], 2), (0, 1, 0, 2), mode="reflect")
            expected = torch.sigmoid(loaded(x))[0, 0, :150, :171]
        torch.testing.assert_close(whole, expected)


def test_weights_of_more_planes_are_refused(tmp_path: Path) -> None:
    state = AttentionUNet(2, 2).state_dict()
    state["e1.conv.conv.0.weight"] = torch.zeros(2, 3, 3, 3)
    save_file(state, tmp_path / "three.safetensors")
    with pytest.raises(CryoSegNetError, match="planes must be 1 or 2, not 3"):
        load_unet(tmp_path / "three.safetensors")
