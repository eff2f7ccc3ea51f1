"""Contamination and bad ice: droplets, crystals, leopard-skin ice, films and edges of foils.

Every function adds to the same three planes, all (ny, nx): ``phase`` (radian), ``absorption`` (factor on the
intensity, above 1 where electrons arrive that were scattered elsewhere) and ``junk`` (where no particle counts). ``d``
is a typical particle diameter in pixels and sets the sizes, since contamination of that size is the most harmful.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .textures import Image, outside_hole, smooth_noise, smoothed, white_noise

# Lattice spacings of hexagonal and cubic ice, angstrom (the strongest reflections of ice I).
ICE_SPACINGS = (3.90, 3.67, 3.44, 2.67, 2.25)


@dataclass(frozen=True)
class Background:
    """Everything but the particles: phase (radian), absorption factor, mask of junk; all (ny, nx)."""

    phase: Image
    absorption: Image
    junk: NDArray[np.bool_]


def add_droplets(planes: Background, count: int, d: float, rng: np.random.Generator) -> None:
    """``count`` groups of ethane or ice droplets of 0.3 to 10 particle diameters, single, touching or fused.

    The droplets of a micrograph have similar sizes, as they came at the same time; many are faint.
    """
    ny, nx = planes.phase.shape
    usual = d * float(np.exp(rng.uniform(np.log(0.5), np.log(4))))
    strongest = float(np.exp(rng.uniform(np.log(0.2), np.log(1.0))))
    for _ in range(count):
        members = 1 if rng.random() < 0.6 else int(rng.integers(2, 6))
        radius = np.clip(usual * np.exp(rng.normal(0, 0.5, members)), 0.3 * d, 10 * d) / 2
        x, y = np.zeros(members), np.zeros(members)
        for i in range(1, members):
            other, angle = int(rng.integers(i)), rng.uniform(0, 2 * np.pi)
            reach = (radius[i] + radius[other]) * rng.uniform(0.55, 1.02)
            x[i], y[i] = x[other] + reach * np.cos(angle), y[other] + reach * np.sin(angle)
        half = int(max((np.hypot(x, y) + radius).max() * 1.6, 4))
        turn, stretch = rng.uniform(0, np.pi), rng.uniform(0.7, 1)
        neck = float(radius.min()) * rng.uniform(0.05, 0.45)  # how much touching droplets have fused
        uneven, field = float(rng.choice([0.0, 0.0, 0.05, 0.15])), white_noise((2 * half + 1, 2 * half + 1), rng)
        edge = max(radius.min() * rng.uniform(0.08, 0.5), 1.0)
        strength = strongest * float(rng.choice([1.0, rng.uniform(0.1, 1), rng.uniform(0.05, 0.3)]))
        cx, cy = int(rng.uniform(0, nx)), int(rng.uniform(0, ny))
        darkness = rng.uniform(0.1, 0.45)
        # only what lies in the frame: many droplets are larger than that
        rows = slice(max(half - cy, 0), min(half - cy + ny, 2 * half + 1))
        columns = slice(max(half - cx, 0), min(half - cx + nx, 2 * half + 1))
        yy, xx = (part[rows, columns] for part in np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32))
        u = xx * np.cos(turn) + yy * np.sin(turn)
        v = (-xx * np.sin(turn) + yy * np.cos(turn)) / stretch
        depth = neck * np.logaddexp.reduce([(r - np.hypot(u - a, v - b)) / neck for r, a, b in zip(radius, x, y)])
        if uneven:
            rough = uneven * radius.min() * smoothed(field, float(radius.min()))[rows, columns]
            depth += rough * (depth > -0.4 * radius.min())  # not far outside, where the noise alone would make droplets
        thickness = np.sqrt(np.clip(depth / edge, 0, 1)).astype(np.float32)
        dark = np.exp(-darkness * strength * thickness).astype(np.float32)
        corner = cx - half + columns.start, cy - half + rows.start
        add_patch(planes, *corner, strength * thickness, dark, thickness > 0.1)


def add_crystals(planes: Background, count: int, d: float, pixel_size: float, rng: np.random.Generator) -> None:
    """``count`` ice crystals: dark polygons with sharp edges, bend contours and lattice fringes, or dark mottled lumps.

    The electrons that a crystal diffracts can arrive beside it, as a bright ghost.
    """
    ny, nx = planes.phase.shape
    for _ in range(count):
        size = d * float(np.exp(rng.uniform(np.log(0.5), np.log(5))))
        half = int(size * 1.1) + 4
        shape = (2 * half + 1, 2 * half + 1)
        sharp = rng.random() < 0.5
        mask = _polygon(shape, size, rng) if sharp else _lump(shape, size, rng)
        yy, xx = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
        contours = np.cos(
            6.3 / (size * rng.uniform(0.2, 0.9)) * (xx * rng.normal() + yy * rng.normal())
            + 3 * smooth_noise(shape, 0.4 * size, rng)
        )
        density = rng.uniform(0.15, 1.2) * (1 + rng.uniform(0, 0.6) * contours) if sharp else rng.uniform(0.05, 0.5)
        dark = np.exp(-(mask * density)).astype(np.float32)
        fringes = _lattice(xx, yy, pixel_size, rng) * max(rng.uniform(-0.15, 0.2), 0)
        phase = (mask * (rng.uniform(0.1, 0.9) * (1 if sharp else 0.4) + fringes)).astype(np.float32)
        x0, y0 = int(rng.uniform(0, nx)) - half, int(rng.uniform(0, ny)) - half
        add_patch(planes, x0, y0, phase, dark, mask > 0.15)
        if rng.random() < 0.6:
            angle, reach = rng.uniform(0, 2 * np.pi), size * rng.uniform(0.6, 1.8)
            ghost = 1 + rng.uniform(0.1, 0.4) * (1 - cv2.GaussianBlur(dark, (0, 0), max(0.08 * size, 0.8)))
            x1, y1 = x0 + int(reach * np.cos(angle)), y0 + int(reach * np.sin(angle))
            add_patch(planes, x1, y1, np.zeros_like(dark), ghost, mask > 0.5)


def add_leopard(planes: Background, contrast: float, d: float, rng: np.random.Generator) -> None:
    """Leopard-skin ice over the whole frame: cells of about a particle's size, with dark seams and darker spots."""
    shape = planes.phase.shape
    cell = d * float(np.exp(rng.uniform(np.log(0.5), np.log(2))))
    gaps, index, count, step = _cells(shape, cell, rng)
    side = cell / step
    edge = np.exp(-(((gaps[..., 1] - gaps[..., 0]) / (0.09 * side + 0.6)) ** 2))
    shade = rng.normal(0, 1, count)[index]
    spotted = (rng.random(count) < rng.uniform(0.05, 0.5))[index]
    dot = spotted * np.exp(-((gaps[..., 0] / (rng.uniform(0.2, 0.45) * side)) ** 2))
    dot *= np.clip((gaps[..., 1] - gaps[..., 0]) / (0.4 * side), 0, 1)  # fades before the next cell begins
    seam, tone, spot = (_enlarge(plane, step, shape) for plane in (edge, shade, dot))
    broken = np.clip(0.6 + 0.6 * smooth_noise(shape, cell, rng), 0, 1.5)
    fine = smooth_noise(shape, max(0.08 * cell, 1), rng)
    planes.phase[:] += np.float32(contrast) * (0.30 * seam * broken + 0.07 * fine + 0.45 * spot)
    tone *= np.float32(rng.choice([0.0, 0.01, 0.04]))
    planes.absorption[:] *= np.exp(-np.float32(contrast) * (tone + 0.25 * spot + 0.03 * seam))
    planes.junk[:] = True


def add_crystalline(planes: Background, contrast: float, d: float, pixel_size: float, rng: np.random.Generator) -> None:
    """Ice that has crystallised over the whole frame: mottled grains with their lattices, dark where they diffract.

    A lattice makes spots in the power spectrum if the pixels are small enough for it.
    """
    shape = planes.phase.shape
    grain = d * float(np.exp(rng.uniform(np.log(0.3), np.log(1.5))))
    gaps, index, count, step = _cells(shape, grain, rng)
    inner = np.clip((gaps[..., 1] - gaps[..., 0]) / (0.25 * grain / step), 0, 1)  # grains are thin at their rims
    tone = _enlarge(rng.normal(0, 1, count)[index] * inner, step, shape)
    strong = (rng.random(count) < rng.uniform(0.1, 0.4)) * rng.uniform(0.3, 1, count)
    diffracting = _enlarge(strong[index] * inner, step, shape)
    fine, coarse = (smooth_noise(shape, max(share * grain, 1), rng) for share in (0.06, 0.25))
    mottled = 0.6 * fine + 0.4 * coarse
    planes.phase[:] += np.float32(contrast) * (0.06 * tone + 0.08 * mottled + 0.15 * diffracting)
    dark = diffracting * np.clip(1 + 0.6 * mottled, 0, 2)
    planes.absorption[:] *= np.exp(-np.float32(0.3 * contrast) * dark).astype(np.float32)
    planes.junk[:] = True
    spacing = rng.choice(ICE_SPACINGS[:3], count) / pixel_size
    angle, start = rng.uniform(0, np.pi, count), rng.uniform(0, 2 * np.pi, count)
    strength = rng.uniform(0, 0.3, count) * (spacing > 2.05)
    grains = cv2.resize(index.astype(np.float32), None, fx=step, fy=step, interpolation=cv2.INTER_NEAREST)
    which = grains[: shape[0], : shape[1]].astype(np.int32)
    x, y = np.arange(shape[1], dtype=np.float32), np.arange(shape[0], dtype=np.float32)[:, None]
    along, across = (np.float32(2 * np.pi) * (part(angle) / spacing).astype(np.float32) for part in (np.cos, np.sin))
    waves = np.cos(along[which] * x + across[which] * y + start.astype(np.float32)[which])
    planes.phase[:] += (contrast * strength).astype(np.float32)[which] * waves


def add_film(planes: Background, contrast: float, pixel_size: float, rng: np.random.Generator) -> None:
    """A support film (amorphous carbon, graphene) under all the ice: grain, patches and a few folds.

    Particles on the film count, those on a fold do not.
    """
    shape = planes.phase.shape
    grain = rng.standard_normal(shape, np.float32) * np.float32(0.12 / np.sqrt(pixel_size))
    patches = smooth_noise(shape, max(shape) * rng.uniform(0.01, 0.06), rng)
    planes.phase[:] += np.float32(contrast) * (grain + 0.04 * patches)
    for _ in range(int(rng.integers(0, 4))):
        points = _line(shape, rng)
        fold = np.zeros(shape, np.uint8)
        width = max(1, round(float(rng.uniform(15, 90)) / pixel_size))
        cv2.polylines(fold, [points], False, 255, width, cv2.LINE_AA)
        soft = cv2.GaussianBlur(fold.astype(np.float32) / 255, (0, 0), max(0.15 * width, 0.6))
        planes.phase[:] += np.float32(contrast * rng.uniform(0.15, 0.8)) * soft
        planes.absorption[:] *= np.exp(-np.float32(contrast * rng.uniform(0.01, 0.12)) * soft)
        planes.junk[:] |= soft > 0.3


def add_foil(planes: Background, share: float, d: float, pixel_size: float, rng: np.random.Generator) -> None:
    """An almost opaque foil (gold, thick carbon) over ``share`` of the frame: rough edge, bright fringe, grains."""
    shape = planes.phase.shape
    bumps = smooth_noise(shape, max(0.8 * d, 2), rng) * rng.uniform(0, 0.35) * d
    side = outside_hole(shape, share, rng, bumps)
    edge = cv2.GaussianBlur(side, (0, 0), max(0.6, 8 / pixel_size))
    step = 4
    small = (-(-shape[0] // step), -(-shape[1] // step))
    size = d * rng.uniform(0.7, 3) / step
    seeds = rng.uniform((0, 0), small, (max(int(small[0] * small[1] / size**2), 4), 2))
    _, index = cKDTree(seeds).query(np.argwhere(np.ones(small, bool)))
    tone = _enlarge(rng.uniform(-1, 1, len(seeds))[index].reshape(small), step, shape)
    opaque = rng.uniform(0.8, 2.8) * (1 + rng.uniform(0.05, 0.4) * tone)
    planes.phase[:] += edge * np.float32(rng.uniform(0.8, 2.0))
    planes.absorption[:] *= np.exp(-edge * opaque)
    planes.junk[:] |= cv2.GaussianBlur(side, (0, 0), max(0.25 * d, 1)) > 0.15


def add_patch(planes: Background, x0: int, y0: int, phase: Image, absorption: Image, junk: NDArray[np.bool_]) -> None:
    """Add the part of a patch that lies inside the frame; its first pixel is at (x0, y0)."""
    ny, nx = planes.phase.shape
    ax, ay, bx, by = max(x0, 0), max(y0, 0), min(x0 + phase.shape[1], nx), min(y0 + phase.shape[0], ny)
    if ax >= bx or ay >= by:
        return
    here, there = np.s_[ay:by, ax:bx], np.s_[ay - y0 : by - y0, ax - x0 : bx - x0]
    planes.phase[here] += phase[there]
    planes.absorption[here] *= absorption[there]
    planes.junk[here] |= junk[there]


def _cells(
    shape: tuple[int, int], cell: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.intp], int, int]:
    """Irregular cells about ``cell`` pixels across over a frame of ``shape``, on a grid of every ``step`` pixels.

    Distances (ny, nx, 2) to the two nearest seeds in steps, index of the cell (ny, nx), number of cells, the step.
    """
    step = max(int(cell / 16), 1)  # cells are smooth at this scale, and the search for neighbours is slow
    ny, nx = -(-shape[0] // step) + 2, -(-shape[1] // step) + 2
    side = cell / step
    seeds = rng.uniform((-side, -side), (ny + side, nx + side), (max(int(ny * nx / side**2), 4), 2))
    at = np.argwhere(np.ones((ny, nx), bool)).astype(np.float64)
    warp = [smooth_noise((ny, nx), side / 2, rng).ravel() * 0.15 * side for _ in range(2)]
    gaps, index = cKDTree(seeds).query(at + np.stack(warp, -1), k=2)
    return gaps.reshape(ny, nx, 2), index[:, 0].reshape(ny, nx), len(seeds), step


def _polygon(shape: tuple[int, int], size: float, rng: np.random.Generator) -> Image:
    """A convex polygon of 4 to 7 corners, about ``size`` pixels across: 1 inside, with an edge a pixel wide."""
    corners = int(rng.integers(4, 8))
    angle = np.sort((np.arange(corners) + rng.uniform(-0.25, 0.25, corners)) * 2 * np.pi / corners)
    long, wide = size / 2, size / 2 * rng.uniform(0.35, 1)
    u, v = long * np.cos(angle), wide * np.sin(angle)
    turn = rng.uniform(0, np.pi)
    x = shape[1] // 2 + u * np.cos(turn) - v * np.sin(turn)
    y = shape[0] // 2 + u * np.sin(turn) + v * np.cos(turn)
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.round(np.stack([x, y], -1) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return np.asarray(cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), 0.7), np.float32)


def _lump(shape: tuple[int, int], size: float, rng: np.random.Generator) -> Image:
    """A mottled spot without an edge, about ``size`` pixels across, from 0 to 1."""
    yy, xx = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(0.5, 1)
    u, v = xx - shape[1] // 2, yy - shape[0] // 2
    r = np.hypot(u * np.cos(turn) + v * np.sin(turn), (v * np.cos(turn) - u * np.sin(turn)) / stretch)
    rough = 1 + 0.3 * smooth_noise(shape, max(0.08 * size, 1), rng) + 0.2 * smooth_noise(shape, max(0.2 * size, 1), rng)
    spot = np.exp(-((r / (0.42 * size)) ** rng.uniform(2, 4))) * np.clip(rough, 0, 2)
    return np.clip(spot, 0, 1).astype(np.float32)


def _lattice(xx: Image, yy: Image, pixel_size: float, rng: np.random.Generator) -> Image:
    """Fringes of one to three lattice planes; spacings below the pixel size appear as wider moire fringes."""
    fringes = np.zeros_like(xx)
    first = rng.uniform(0, np.pi)
    spacing = float(rng.choice(ICE_SPACINGS)) / pixel_size
    if spacing < 2.2:
        spacing = rng.uniform(3, 12)
    for k in range(int(rng.integers(1, 4))):
        angle = first + k * np.pi / 3
        fringes += np.cos(2 * np.pi / spacing * (xx * np.cos(angle) + yy * np.sin(angle)) + rng.uniform(0, 6.3))
    return fringes


def _line(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.int32]:
    """Points (n, 1, 2) of a bent line across the frame, as x and y."""
    ny, nx = shape
    angle = rng.uniform(0, np.pi)
    t = np.linspace(-1, 1, 40) * np.hypot(nx, ny) / 2
    across = np.hypot(nx, ny) * (0.3 * rng.uniform(-1, 1) + 0.04 * rng.normal() * np.sin(np.linspace(0, 4, 40)))
    x = nx / 2 + t * np.cos(angle) - across * np.sin(angle)
    y = ny / 2 + t * np.sin(angle) + across * np.cos(angle)
    return np.round(np.stack([x, y], -1)).astype(np.int32)[:, None]


def _enlarge(plane: NDArray[Any], step: int, shape: tuple[int, int]) -> Image:
    """Enlarge by a whole factor and cut to ``shape`` (ny, nx)."""
    size = (plane.shape[1] * step, plane.shape[0] * step)
    wide = cv2.resize(plane.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(wide[: shape[0], : shape[1]], np.float32)
