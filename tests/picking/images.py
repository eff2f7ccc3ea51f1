"""Images of noise and dark discs."""

from __future__ import annotations

import cv2
import numpy as np


def stretched(image):
    return ((image - image.min()) / (image.max() - image.min()) * 255).astype(np.uint8)


def box(image):
    return cv2.blur(image, (20, 20))


def noise(shape, seed=0, mean=0.0, std=1.0):
    return (mean + std * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def particles(shape, diameter=24, seed=0):
    """Dark discs in noise."""
    rng = np.random.default_rng(seed)
    image = noise(shape, seed, 500, 40)
    for _ in range(shape[0] * shape[1] // (4 * diameter**2)):
        x, y = rng.integers(0, shape[1]), rng.integers(0, shape[0])
        cv2.circle(image, (int(x), int(y)), diameter // 2, float(rng.uniform(380, 460)), -1)
    return cv2.GaussianBlur(image, (0, 0), 1.5)


def discs(depth, radius=12, step=80):
    """Discs in weak noise, evenly darker towards their middle, and their centres."""
    data = noise((640, 640), mean=100, std=1)
    yy, xx = np.mgrid[:640, :640] % step - step // 2
    inside = np.hypot(yy, xx) < radius
    return data - np.where(
        inside, np.float32(depth) * (1 - np.hypot(yy, xx).astype(np.float32) / (2 * radius)), 0
    ), inside
