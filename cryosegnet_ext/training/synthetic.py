"""Synthetic specimens: lumpy particles of random shape, for use without maps or models.

In fine-tuning they remind the network of particles and dirt in general. They do not replace the maps and models on
which the built-in network was trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..networks.unet import AttentionUNet, probability_map
from ..simulation.micrograph import ProjectionStack
from ..simulation.projection import random_rotations
from ..simulation.specimens import CONTRAST_VOLT
from .crops import Labelled, simulated_particles
from .scenes import random_scene

Sample = tuple[NDArray[np.float32], NDArray[np.float32]]
_VOXEL = 5.0


def lumpy_stack(seed: int, views: int = 6) -> ProjectionStack:
    """Projections of one random particle: a ball, a shell, a rod or a disc of Gaussian lumps.

    Parameters
    ----------
    seed
        Random seed; decides everything.
    views
        Number of projections.
    """
    rng = np.random.default_rng([4711, seed])
    radius = float(rng.uniform(40, 90))
    count = int(rng.integers(6, 30))
    lumps = rng.normal(size=(count, 3))
    lumps /= np.linalg.norm(lumps, axis=1, keepdims=True)
    lumps *= radius * (rng.uniform(0.75, 1, (count, 1)) if seed % 4 == 1 else rng.random((count, 1)) ** (1 / 3))
    lumps *= ((1, 1, 1), (1, 1, 1), (1, 0.5, 0.5), (1, 1, 0.5))[seed % 4]
    width = rng.uniform(0.15, 0.32, count) * radius
    mass = rng.uniform(0.5, 1.5, count) * width**3
    chosen = rng.choice(count, 4000, p=mass / mass.sum())
    cloud = lumps[chosen] + rng.normal(size=(4000, 3)) * width[chosen, None]
    centre = cloud.mean(0)
    diameter = 2 * float(np.quantile(np.linalg.norm(cloud - centre, axis=1), 0.97))
    n = 2 * int(np.ceil(0.8 * diameter / _VOXEL)) + 1
    axis = (np.arange(n) - n // 2) * _VOXEL
    images = []
    for rotation in random_rotations(views, rng):
        turned = (lumps - centre) @ rotation.T
        across = np.exp(-0.5 * ((axis[:, None] - turned[:, 0]) / width) ** 2)
        down = np.exp(-0.5 * ((axis[:, None] - turned[:, 1]) / width) ** 2)
        images.append(np.einsum("yk,xk,k->yx", down, across, mass / width**2))
    stack = np.array(images, np.float32)
    # thickness in the middle: protein that fills most of its diameter
    stack *= np.float32(CONTRAST_VOLT * diameter * 0.6 / max(float(np.quantile(stack, 0.98)), 1e-9))
    return ProjectionStack(f"lumps{seed}", stack, _VOXEL, diameter)


def replay_samples(
    model: AttentionUNet, stacks: Sequence[ProjectionStack], count: int, side: int, seed: int
) -> list[Sample]:
    """Simulated crops (side, side) with a network's present map of each as soft labels."""
    samples = []
    for k in range(count):
        crop = simulated_particles(stacks, side, int(np.random.default_rng([seed, 2, k]).integers(2**62)))
        samples.append((crop.image, probability_map(model, crop.image)))
    return samples


def simulated_micrographs(stacks: Sequence[ProjectionStack], count: int, side: int, seed: int) -> list[Labelled]:
    """Simulated micrographs with true centres and particles of 36 pixels, for tests without labels."""
    from ..simulation.micrograph import simulate_micrograph

    result = []
    for k in range(count):
        rng = np.random.default_rng([seed, 3, k])
        stack = stacks[k % len(stacks)]
        pixel_size = stack.diameter / 36
        scene = random_scene(stack.diameter, pixel_size, rng)
        image, truth = simulate_micrograph([stack], scene, (side, side), pixel_size, int(rng.integers(2**62)))
        result.append(Labelled(image, truth.x, truth.y, 36.0))
    return result
