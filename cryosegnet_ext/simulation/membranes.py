"""Lipid bilayers: empty nanodiscs and micelles from any side, and vesicles."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from .contamination import Background, add_patch
from .specimens import CONTRAST_VOLT
from .textures import Image

# A bilayer: two sheets of heads, Gaussians of this width (exp(-(w / width)^2)), whose middles lie this far apart, and
# the tails between them; angstrom. Volt above ice by composition (a phosphatidylcholine of 64 square angstrom, scaled
# as protein is scaled to CONTRAST_VOLT): heads with the water between them, and tails.
HEAD_WIDTH, HEADS_APART, HEAD_VOLT, TAIL_VOLT = 6.0, 34.0, 2.0, 0.9
# A membrane hides a particle where its contrast is more than this share of a particle's.
HIDING_SHARE = 0.25


def bilayer(w: NDArray[np.floating]) -> NDArray[np.floating]:
    """Potential above ice, volt, at the distance ``w`` (angstrom) from the middle of a bilayer."""
    heads = np.exp(-(((np.abs(w) - HEADS_APART / 2) / HEAD_WIDTH) ** 2))
    return HEAD_VOLT * heads + TAIL_VOLT * (np.abs(w) < HEADS_APART / 2)


def add_disc(
    planes: Background, pixel_size: float, typical: float, interaction: float, rng: np.random.Generator
) -> None:
    """Add one flat piece of bilayer, 70 to 140 angstrom across, in a random orientation.

    ``typical`` is a particle's diameter in angstrom, ``interaction`` in radian / (volt x angstrom), as in
    `optics.Optics`. The disc is junk where it hides a particle: from its side, not from above.
    """
    across = rng.uniform(70, 140)
    side = int(np.ceil(across * 1.15 / pixel_size)) // 2 * 2 + 1
    step = max(pixel_size, across / 48)  # a smooth disc needs no finer sampling
    n = int(np.ceil(across * 1.15 / step)) // 2 * 2 + 1
    axis = (np.arange(n) - n // 2).astype(np.float32) * np.float32(step)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    turn = Rotation.random(None, rng).as_matrix().astype(np.float32)
    u, v, w = (turn[i, 0] * x + turn[i, 1] * y + turn[i, 2] * z for i in range(3))
    inside = np.clip((across / 2 - np.hypot(u, v / rng.uniform(0.8, 1))) / 6, 0, 1)
    image = (bilayer(w) * inside).sum(0) * (step * interaction)
    if n != side:
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)
    x0 = int(rng.uniform(0, planes.phase.shape[1])) - side // 2
    y0 = int(rng.uniform(0, planes.phase.shape[0])) - side // 2
    _add(planes, x0, y0, np.asarray(image, np.float32), typical / pixel_size, typical * interaction)


def add_vesicle(
    planes: Background, pixel_size: float, typical: float, interaction: float, rng: np.random.Generator
) -> None:
    """Add a vesicle, 1.2 to 6 particle diameters across: a closed bilayer, whose edge looks like two dark lines.

    Parameters as for `add_disc`. The edge is junk, the middle is not.
    """
    ny, nx = planes.phase.shape
    radius = typical * float(np.exp(rng.uniform(np.log(1.2), np.log(6)))) / 2
    x, y, stretch = rng.uniform(0, nx), rng.uniform(0, ny), rng.uniform(0.75, 1)
    thickness = rng.uniform(0.9, 1.1)
    step = max(1.0, radius / 1000)  # angstrom
    r = np.arange(0, radius + HEADS_APART + 4 * pixel_size, step)
    beside = np.hypot(r[:, None], r[None, :]) - radius
    profile = 2 * bilayer(beside / thickness).sum(1) * step * interaction
    profile = ndimage.gaussian_filter1d(profile, 0.4 * pixel_size / step, mode="nearest")  # the average over a pixel
    half = int(r[-1] / pixel_size) + 1
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    x0, y0 = int(x), int(y)
    apart = np.hypot(xx - np.float32(x - x0), (yy - np.float32(y - y0)) / np.float32(stretch)) * pixel_size
    image = np.interp(apart, r, profile, right=0).astype(np.float32)
    _add(planes, x0 - half, y0 - half, image, typical / pixel_size, typical * interaction)


def _add(planes: Background, x0: int, y0: int, image: Image, d: float, phase: float) -> None:
    """Add the phase ``image``; it is junk where its contrast, at the scale of a particle, is enough to hide one.

    ``d`` is the diameter of a particle in pixels, ``phase`` the shift of a volt over it, radian. An even shift over
    more than the width of a particle hides nothing: a particle in front of it is as visible as one beside it.
    """
    margin = int(np.ceil(0.5 * d))
    image = np.pad(image, margin)
    fine, coarse = (cv2.GaussianBlur(image, (0, 0), max(share * d, 0.5)) for share in (0.15, 0.5))
    hides = fine - coarse > HIDING_SHARE * CONTRAST_VOLT * phase * 2 / 3  # a sphere's mean depth is 2/3 of its width
    add_patch(planes, x0 - margin, y0 - margin, image, np.ones_like(image), hides)
