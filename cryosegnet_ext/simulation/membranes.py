"""Pieces of membrane without a protein: nanodiscs and micelles seen from any side."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from .contamination import Planes, add_patch

# Potential above ice, volt: lipid or detergent heads scatter more than ice, tails about as much.
HEAD_VOLT, TAIL_VOLT = 2.0, 0.3


def add_disc(planes: Planes, pixel_size: float, interaction: float, rng: np.random.Generator) -> None:
    """Add one flat piece of membrane, 70 to 140 angstrom across and about 45 thick, in a random orientation.

    ``interaction`` is in radian / (volt x angstrom), as in `optics.Optics`. The disc is junk: nothing is in it.
    """
    across, thick = rng.uniform(70, 140), rng.uniform(38, 50)
    side = int(np.ceil(across * 1.15 / pixel_size)) // 2 * 2 + 1
    step = max(pixel_size, across / 48)  # finer detail than this is no matter to a smooth disc
    n = int(np.ceil(across * 1.15 / step)) // 2 * 2 + 1
    axis = (np.arange(n) - n // 2).astype(np.float32) * np.float32(step)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    turn = Rotation.random(None, rng).as_matrix().astype(np.float32)
    u, v, w = (turn[i, 0] * x + turn[i, 1] * y + turn[i, 2] * z for i in range(3))
    inside = np.clip((across / 2 - np.hypot(u, v / rng.uniform(0.8, 1))) / 6, 0, 1)
    heads = np.exp(-(((np.abs(w) - thick / 2 + 6) / 6) ** 2))
    tails = (np.abs(w) < thick / 2 - 6).astype(np.float32)
    image = ((HEAD_VOLT * heads + TAIL_VOLT * tails) * inside).sum(0) * (step * interaction)
    if n != side:
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)
    image = image.astype(np.float32)
    x0 = int(rng.uniform(0, planes.phase.shape[1])) - side // 2
    y0 = int(rng.uniform(0, planes.phase.shape[0])) - side // 2
    add_patch(planes, x0, y0, image, np.ones_like(image), image > 0.1 * image.max())
