"""The published pipeline, written plainly: what `speed.py` measures ours against.

The steps and their parameters are those of Gyawali et al. 2024 (bbae282) and of the published repository, on the
libraries it uses: OpenCV, NumPy, PyTorch in fp32, segment-anything with its generator's defaults. Nothing is tuned.
Published weights are not needed: the time does not depend on them (see ``sam`` for where it does a little).
"""

from __future__ import annotations

from pathlib import Path
from statistics import mode
from typing import Any

import cv2
import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator, sam_model_registry

from cryosegnet_ext.networks.unet import AttentionUNet
from cryosegnet_ext.weights import load_sam

SIDE = 1024


def stretched(image: np.ndarray) -> np.ndarray:
    """Min-max to bytes."""
    return ((image - image.min()) / (image.max() - image.min()) * 255).astype(np.uint8)


def denoise(data: np.ndarray) -> np.ndarray:
    """(ny, nx) float32 -> (ny, nx) uint8, upside down as published."""
    image = cv2.GaussianBlur(np.flipud(data).astype(np.float32), (9, 9), 0)
    image = stretched((image - np.mean(image)) / np.std(image))
    image = cv2.fastNlMeansDenoising(image, None, h=10, templateWindowSize=7, searchWindowSize=21)
    taps = cv2.getGaussianKernel(9, 9 / 3)
    kernel = np.zeros(image.shape)
    kernel[:9, :9] = taps @ taps.T
    transfer = np.fft.fft2(kernel)
    wiener = np.abs(np.fft.ifft2(np.fft.fft2(image) * np.conj(transfer) / (np.abs(transfer) ** 2 + 30)))
    contrast = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(16, 16)).apply(stretched(wiener))
    guide, source = wiener / 255, contrast / 255
    mean_guide, mean_source = cv2.blur(guide, (20, 20)), cv2.blur(source, (20, 20))
    covariance = cv2.blur(guide * source, (20, 20)) - mean_guide * mean_source
    slope = covariance / (cv2.blur(guide * guide, (20, 20)) - mean_guide**2 + 0.1)
    return stretched(cv2.blur(slope, (20, 20)) * guide + cv2.blur(mean_source - slope * mean_guide, (20, 20)))


def squeeze(image: np.ndarray) -> np.ndarray:
    """(ny, nx) uint8 -> the network's input (1024, 1024) float32 in 0..1."""
    return np.asarray(cv2.resize(image, (SIDE, SIDE)), np.float32) / np.float32(255)


def network(device: str, seed: int = 0) -> AttentionUNet:
    """The published network's shape (131 M parameters, fp32) with random weights."""
    torch.manual_seed(seed)
    return AttentionUNet(64, 5).eval().to(device)


def probability(model: AttentionUNet, image: np.ndarray) -> np.ndarray:
    """(1024, 1024) float32 -> probability (1024, 1024)."""
    device = next(model.parameters()).device
    with torch.no_grad():
        return torch.sigmoid(model(torch.from_numpy(image)[None, None].to(device)))[0, 0].cpu().numpy()


def sam(device: str, file: Path | None = None, kind: str = "vit_b", seed: int = 0) -> Any:
    """A SAM from a file, or of the same size with random weights.

    With random weights hardly any mask passes the generator's limits, so it is spared the encoding and the
    suppression of masks: the plain pipeline then looks a little faster than it is.
    """
    if file is not None:
        return load_sam(file).to(device)
    torch.manual_seed(seed)
    return sam_model_registry[kind]().eval().requires_grad_(False).to(device)


def generate(model: Any, plane: np.ndarray) -> list[dict[str, Any]]:
    """Probability (1024, 1024) -> masks of SAM's generator with its defaults: a grid of 32 x 32 points."""
    picture = np.repeat(stretched(plane)[:, :, None], 3, axis=2)
    return SamAutomaticMaskGenerator(model).generate(picture)


def picks(masks: list[dict[str, Any]], shape: tuple[int, int]) -> np.ndarray:
    """Masks -> (n, 2) of x, y in pixels of the micrograph (ny, nx): the published size rule."""
    boxes = [one["bbox"] for one in masks if one["predicted_iou"] > 0.94]
    if not boxes:
        return np.zeros((0, 2))
    w0, h0 = mode(box[2] for box in boxes), mode(box[3] for box in boxes)
    down, across = shape[0] / SIDE, shape[1] / SIDE
    t = 0.2 * int(np.hypot(w0 * across, h0 * down) // 2)
    good = [b for b in boxes if w0 - t / 3 < b[2] < w0 + t and h0 - t / 3 < b[3] < h0 + t]
    return np.array([((x + w / 2) * across, (y + h / 2) * down) for x, y, w, h in good]).reshape(-1, 2)
