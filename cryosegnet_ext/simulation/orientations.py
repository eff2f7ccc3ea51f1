"""Orientations: rotations of projections, and RELION's angles of them.

A rotation R turns the sampling grid: the projection at (x, y) is the sum over z of the density at R (x, y, z), about
its centre. RELION's matrix A of (rot, tilt, psi) turns the density instead (src/euler.cpp, Euler_angles2matrix), so
A is the transpose of R, and R = Rz(rot) Ry(tilt) Rz(psi).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .placement import PlacedParticles
from .scene import ProjectionStack


def relion_angles(rotations: NDArray[np.floating]) -> NDArray[np.float64]:
    """(n, 3, 3) rotations of the sampling grid -> (n, 3) rot, tilt, psi in degrees, tilt within 0 to 180."""
    r = np.asarray(rotations, np.float64).reshape(-1, 3, 3)
    tilt = np.arccos(r[:, 2, 2].clip(-1, 1))
    flat = np.hypot(r[:, 0, 2], r[:, 1, 2]) < 1e-6  # seen along z, only rot + psi or rot - psi is known
    rot = np.where(flat, 0.0, np.arctan2(r[:, 1, 2], r[:, 0, 2]))
    psi = np.where(
        flat,
        np.arctan2(r[:, 1, 0], r[:, 1, 1]),
        np.arctan2(r[:, 2, 1], -r[:, 2, 0]),
    )
    return np.rad2deg(np.stack([rot, tilt, psi], -1))


def placed_angles(stacks: Sequence[ProjectionStack], placed: PlacedParticles) -> NDArray[np.float64]:
    """(n, 3) angles of placed particles; NaN if their stack has no rotations.

    A quarter turn of a projection is a turn of the particle about the beam; a mirrored projection is the particle from
    behind. Neither changes its hand.
    """
    out = np.full((len(placed.x), 3), np.nan)
    for i, (number, view) in enumerate(zip(placed.stack, placed.view)):
        rotations = stacks[number].rotations
        if rotations is not None:
            turned = rotations[view] @ _in_plane(placed.turns[i], placed.mirrored[i])
            out[i] = relion_angles(turned[None])[0]
    return out


def _in_plane(turns: int, mirrored: bool) -> NDArray[np.float64]:
    """The (3, 3) rotation that np.rot90 of a view, and then a mirror in x, adds to its own."""
    plane = np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), turns % 4)
    if mirrored:
        plane = plane @ np.diag([-1, 1])
    full = np.eye(3)
    full[:2, :2] = plane
    full[2, 2] = round(float(np.linalg.det(plane)))
    return full
