"""A specimen of three balls without symmetry."""

from __future__ import annotations

import numpy as np


def balls(n, positions, sigma=2.0, weights=None):
    """Gaussian balls at positions (x, y, z) from index n // 2; (z, y, x)."""
    z, y, x = np.mgrid[:n, :n, :n] - n // 2
    weights = weights or [1.0] * len(positions)
    volume = sum(
        w * np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * sigma**2))
        for w, (a, b, c) in zip(weights, positions)
    )
    return np.asarray(volume, np.float32)


POSITIONS, WEIGHTS = [(6, 0, -3), (-4, 5, 2), (0, -7, 4)], [1.0, 0.6, 0.3]
