"""Triton's kernel for non-local means in Triton's interpreter, against OpenCV and PyTorch; prints a line an image.

A process of its own (`test_nlm_triton.py`): the interpreter is chosen when Triton is imported.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

from cryosegnet_ext.picking import nlm, nlm_triton
from tests.picking.images import noise, stretched


def smooth(shape: tuple[int, int]) -> np.ndarray:
    return stretched(cv2.GaussianBlur(noise(shape, seed=3), (0, 0), 1.5))


def two_levels(shape: tuple[int, int]) -> np.ndarray:
    image = np.where(np.random.default_rng(0).random(shape) < 0.5, 255, 0).astype(np.uint8)
    image[: shape[0] // 2] = 255
    return image


# The interpreter takes a second for some ten shifts of a block (8 x 128 pixels), so most searches are narrow. Images
# end within a block, at its edge, and in the second one, in both directions.
CASES = (
    (smooth((9, 139)), 10, 7, 5),
    (smooth((16, 128)), 30, 7, 3),
    (two_levels((8, 11)), 10, 7, 5),
    (two_levels((9, 7)), 200, 5, 7),
    (np.full((7, 6), 255, np.uint8), 10, 7, 3),
    (np.zeros((7, 6), np.uint8), 10, 7, 3),
    (smooth((10, 14)), 20, 9, 3),
    (smooth((8, 9)), 10, 1, 15),
)


def main() -> None:
    for image, h, template, search in CASES:
        table = nlm._weights(h, template, search, torch.device("cpu"))
        here = torch.from_numpy(image)
        found = nlm_triton.one_kernel(here, table, template, search)
        assert found.dtype == torch.uint8 and found.shape == image.shape
        by_shifts = nlm.by_shifts(here, table, template, search)
        opencv = cv2.fastNlMeansDenoising(image, None, h, template, search)
        changed = (opencv != image).mean()
        print(*image.shape, f"{changed:.2f}", int((found != by_shifts).sum()), int((found.numpy() != opencv).sum()))


if __name__ == "__main__":
    main()
