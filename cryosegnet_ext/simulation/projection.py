"""Projections of a specimen in random orientations."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch.nn import functional

from .specimens import Specimen


def random_rotations(n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(n, 3, 3) rotation matrices, uniform over all orientations."""
    return Rotation.random(n, rng).as_matrix().astype(np.float32)


def project(specimen: Specimen, rotations: NDArray[np.float32], device: str = "cpu") -> NDArray[np.float32]:
    """Project along z after rotation; (b, 3, 3) -> (b, n, n), volt x angstrom, at the specimen's voxel size.

    The centre of mass lies at pixel (n - 1) / 2 of each projection.
    """
    volume = torch.from_numpy(specimen.density).to(device)[None, None]
    n = volume.shape[-1]
    axis = torch.arange(n, dtype=torch.float32, device=device) - (n - 1) / 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    points = torch.stack([x, y, z], -1).reshape(-1, 3)
    offset = n // 2 - (n - 1) / 2  # the density's centre is index n // 2, the sampling grid's is (n - 1) / 2
    out = np.empty((len(rotations), n, n), np.float32)
    for i, rotation in enumerate(torch.from_numpy(rotations).to(device)):
        grid = ((points @ rotation.T + offset) / ((n - 1) / 2)).reshape(1, n, n, n, 3)
        rotated = functional.grid_sample(volume, grid, mode="bilinear", align_corners=True)
        out[i] = rotated[0, 0].sum(0).cpu().numpy()
    return out * specimen.voxel_size
