"""Everything in the frame that is not a particle."""

from __future__ import annotations

import cv2
import numpy as np

from .contamination import (
    Background,
    add_crystalline,
    add_crystals,
    add_droplets,
    add_film,
    add_foil,
    add_leopard,
    add_patch,
)
from .membranes import add_disc, add_vesicle
from .scene import Scene
from .textures import Image, outside_hole


def make_junk(
    scene: Scene,
    shape: tuple[int, int],
    pixel_size: float,
    typical: float,
    rng: np.random.Generator,
    more: np.random.Generator,
) -> Background:
    """Phase, absorption and mask (each ny, nx) of everything in the frame that is not a particle.

    ``typical`` is the diameter of a particle, angstrom. The older ingredients draw from ``rng`` and the newer ones from
    ``more``: without newer ingredients a seed still gives the same micrograph as before they existed.
    """
    phase = np.zeros(shape, np.float32)
    absorption = np.ones(shape, np.float32)
    junk = np.zeros(shape, bool)
    planes = Background(phase, absorption, junk)
    d, volts = typical / pixel_size, scene.optics.interaction * scene.contrast
    for _ in range(scene.ice_blobs):
        size = d * float(np.exp(rng.uniform(np.log(0.8), np.log(5))))
        window, blob = _blob(shape, size, rng)
        if window is None:
            continue
        strength = float(np.exp(rng.uniform(np.log(0.3), np.log(2.5))))
        phase[window] += strength * blob
        absorption[window] *= np.exp(-rng.uniform(0.05, 0.6) * strength * blob)
        junk[window] |= blob > 0.15
    for _ in range(scene.rings):
        add_vesicle(planes, pixel_size, typical, volts, rng)
    for _ in range(scene.gold):
        x, y, r = rng.uniform(0, shape[1]), rng.uniform(0, shape[0]), max(1.5, rng.uniform(25, 60) / pixel_size)
        reach = int(np.ceil(r))
        disc = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
        cv2.circle(disc, (reach, reach), reach, 1, -1)
        bead = disc * np.float32(1.5), 1 - np.float32(0.7) * disc, disc > 0
        add_patch(planes, int(x) - reach, int(y) - reach, *bead)
    if scene.carbon > 0:
        side = outside_hole(shape, scene.carbon, rng)
        grain = rng.standard_normal(shape, np.float32) * np.float32(0.12 / np.sqrt(pixel_size) * rng.uniform(0.6, 1.6))
        edge = cv2.GaussianBlur(side, (0, 0), max(0.6, 10 / pixel_size))
        rim = np.clip(edge * (1 - edge) * 4, 0, 1)
        phase += edge * (0.8 + grain) + rim * np.float32(rng.uniform(0, 1.2))
        absorption *= 1 - edge * np.float32(rng.uniform(0.02, 0.35))
        junk |= cv2.GaussianBlur(side, (0, 0), max(0.25 * d, 1)) > 0.15
    if scene.crystalline > 0:
        add_crystalline(planes, scene.crystalline, d, pixel_size, more)
    if scene.film_texture > 0:
        add_film(planes, scene.film_texture, pixel_size, more)
    if scene.leopard > 0:
        add_leopard(planes, scene.leopard, d, more)
    for _ in range(scene.discs):
        add_disc(planes, pixel_size, typical, volts, more)
    add_crystals(planes, scene.crystals, d, pixel_size, more)
    add_droplets(planes, scene.contamination, d, more)
    if scene.foil > 0:
        add_foil(planes, scene.foil, d, pixel_size, more)
    return planes


def _blob(shape: tuple[int, int], size: float, rng: np.random.Generator) -> tuple[tuple[slice, slice] | None, Image]:
    """An irregular lump with a sharp edge, about ``size`` pixels across; its window, and its thickness from 0 to 1."""
    n = int(size * 1.8) | 1
    x0, y0 = int(rng.uniform(-n / 2, shape[1] - n / 2)), int(rng.uniform(-n / 2, shape[0] - n / 2))
    ax, ay, bx, by = max(x0, 0), max(y0, 0), min(x0 + n, shape[1]), min(y0 + n, shape[0])
    if ax >= bx or ay >= by:
        return None, np.zeros((0, 0), np.float32)
    yy, xx = np.mgrid[0:n, 0:n].astype(np.float32) - n // 2
    angle = np.arctan2(yy, xx)
    rough = rng.choice([0.0, 0.06, 0.18])
    edge = 1 + sum(rough / k * rng.standard_normal() * np.cos(k * angle + rng.uniform(0, 6.3)) for k in range(1, 6))
    stretch = rng.uniform(0.65, 1)
    r = np.hypot(xx, yy / stretch) / (size / 2 * edge)
    round_top = np.sqrt(np.clip(1 - r**2, 0, 1))
    flat = np.clip((1 - r) * size / 4, 0, 1)
    top = rng.uniform(0, 1)
    blob = (top * round_top + (1 - top) * flat).astype(np.float32)
    return (slice(ay, by), slice(ax, bx)), blob[ay - y0 : by - y0, ax - x0 : bx - x0]
