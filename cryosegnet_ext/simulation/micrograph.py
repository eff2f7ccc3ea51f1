"""One simulated micrograph: particles in ice, junk, contrast transfer, dose noise, detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from .optics import Optics, image_contrast

Image = NDArray[np.float32]


@dataclass(frozen=True)
class ProjectionStack:
    """Projections of one specimen, ready to be placed.

    Attributes
    ----------
    images : (b, n, n) float32, volt x angstrom
    voxel_size : angstrom per pixel of ``images``
    diameter : angstrom
    """

    name: str
    images: Image
    voxel_size: float
    diameter: float


@dataclass(frozen=True)
class Scene:
    """What is in the ice; every ingredient can be switched off by its zero.

    Attributes
    ----------
    coverage
        Share of the area covered by particles, 0 to about 0.6.
    crowding
        Least distance between particles, in diameters.
    clusters
        Share of the particles that sit next to another one.
    dose
        Electrons per square angstrom.
    detector_efficiency
        Share of the electrons that count (DQE at low frequency).
    structural_noise
        Phase noise of the ice itself, radian at 1 A^-1 bandwidth per pixel, relative to a usual 1.
    gradient
        Relative change of intensity across the micrograph.
    ice_blobs, rings, gold, aggregates
        How many of each.
    carbon
        Probability-free switch: the share of the frame covered by carbon from one side, 0 for none.
    crystalline
        Contrast of crystalline ice texture, 0 for none.
    contrast
        Factor on the specimen's potential (thick ice, radiation damage and denaturation lower it).
    """

    coverage: float = 0.25
    crowding: float = 0.9
    clusters: float = 0.2
    dose: float = 40.0
    detector_efficiency: float = 0.5
    structural_noise: float = 1.0
    gradient: float = 0.1
    ice_blobs: int = 0
    rings: int = 0
    gold: int = 0
    aggregates: int = 0
    carbon: float = 0.0
    crystalline: float = 0.0
    contrast: float = 1.0
    optics: Optics = field(default_factory=Optics)


@dataclass(frozen=True)
class Truth:
    """Where the particles are: x, y (n,) pixels, array order; diameter (n,) angstrom; specimen names (n,)."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    diameter: NDArray[np.float64]
    name: list[str]
    junk: NDArray[np.bool_]


def simulate_micrograph(
    stacks: Sequence[ProjectionStack],
    scene: Scene,
    shape: tuple[int, int],
    pixel_size: float,
    seed: int,
) -> tuple[Image, Truth]:
    """Simulate one micrograph.

    Parameters
    ----------
    stacks
        Specimens in the ice; each particle is one of them, drawn uniformly.
    scene
        Ingredients and imaging conditions.
    shape
        (ny, nx), pixels.
    pixel_size
        Angstrom per pixel.
    seed
        The same seed and arguments give the same micrograph.

    Returns
    -------
    image : (ny, nx) float32
        Electrons counted per pixel.
    truth : Truth
        Centres, and the (ny, nx) mask of junk. Particles that lie on junk are not in the truth.
    """
    pad = int(np.clip(max(shape) // 8, 16, 128))  # the Fourier transform wraps around: work on a wider frame
    wide = (shape[0] + 2 * pad, shape[1] + 2 * pad)
    image, truth = _simulate(stacks, scene, wide, pixel_size, np.random.default_rng(seed))
    x, y = truth.x - pad, truth.y - pad
    inside = np.flatnonzero((x >= 0) & (y >= 0) & (x <= shape[1] - 1) & (y <= shape[0] - 1))
    cut = np.s_[pad : pad + shape[0], pad : pad + shape[1]]
    names = [truth.name[i] for i in inside]
    return image[cut].copy(), Truth(x[inside], y[inside], truth.diameter[inside], names, truth.junk[cut].copy())


def _simulate(
    stacks: Sequence[ProjectionStack],
    scene: Scene,
    shape: tuple[int, int],
    pixel_size: float,
    rng: np.random.Generator,
) -> tuple[Image, Truth]:
    """`simulate_micrograph` without the margin."""
    ny, nx = shape
    potential = np.zeros(shape, np.float32)
    typical = float(np.median([s.diameter for s in stacks])) if stacks else 150.0
    junk_phase, absorption, junk = _junk(scene, shape, pixel_size, typical, rng)
    x, y, d, names = _place(stacks, scene, shape, pixel_size, rng, potential)
    for _ in range(scene.aggregates):
        _aggregate(stacks, shape, pixel_size, rng, potential, junk)
    sigma = scene.optics.interaction
    phase = potential * (sigma * scene.contrast) + junk_phase
    if scene.structural_noise > 0:
        # ~0.02 rad per 2 A pixel: the phase grain of ~300 A of ice; its sum over a pixel falls with the pixel's side
        phase += rng.standard_normal(shape, np.float32) * np.float32(0.035 * scene.structural_noise / pixel_size)
    intensity = image_contrast(phase, scene.optics, pixel_size, absorption)
    if scene.gradient > 0:
        angle = rng.uniform(0, 2 * np.pi)
        ramp = np.cos(angle) * np.linspace(-0.5, 0.5, nx)[None, :] + np.sin(angle) * np.linspace(-0.5, 0.5, ny)[:, None]
        bend = _smooth_noise(shape, max(shape) / 3, rng)
        intensity *= np.float32(1) + np.float32(scene.gradient) * (ramp + 0.3 * bend).astype(np.float32)
    electrons = np.maximum(intensity, 0.01) * np.float32(scene.dose * pixel_size**2)
    noise = rng.standard_normal(shape, np.float32) * np.sqrt(electrons / np.float32(scene.detector_efficiency))
    inside = ~junk[np.clip(np.round(y).astype(int), 0, ny - 1), np.clip(np.round(x).astype(int), 0, nx - 1)]
    keep = np.flatnonzero(inside)
    truth = Truth(x[keep], y[keep], d[keep], [names[i] for i in keep], junk)
    return electrons + noise, truth


def _place(
    stacks: Sequence[ProjectionStack],
    scene: Scene,
    shape: tuple[int, int],
    pixel_size: float,
    rng: np.random.Generator,
    potential: Image,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Add particles to ``potential``; their centres may lie up to half a diameter outside the frame."""
    ny, nx = shape
    none = np.zeros(0)
    if not stacks or scene.coverage <= 0:
        return none, none, none, []
    mean_area = float(np.mean([np.pi / 4 * (s.diameter / pixel_size) ** 2 for s in stacks]))
    wanted = round(scene.coverage * ny * nx / mean_area)
    xs: list[float] = []
    ys: list[float] = []
    ds: list[float] = []
    names: list[str] = []
    cell = max(s.diameter for s in stacks) / pixel_size * max(1.0, scene.crowding)
    grid: dict[tuple[int, int], list[int]] = {}
    for _ in range(wanted * 6):
        if len(xs) >= wanted:
            break
        stack = stacks[int(rng.integers(len(stacks)))]
        d = stack.diameter / pixel_size
        if xs and rng.random() < scene.clusters:
            i = int(rng.integers(len(xs)))
            angle, reach = (
                rng.uniform(0, 2 * np.pi),
                (d + ds[i]) / 2 * rng.uniform(scene.crowding, max(scene.crowding, 1.15)),
            )
            px, py = xs[i] + reach * np.cos(angle), ys[i] + reach * np.sin(angle)
        else:
            px, py = rng.uniform(-d / 2, nx + d / 2), rng.uniform(-d / 2, ny + d / 2)
        cx, cy = int(px // cell), int(py // cell)
        near = [i for gx in (-1, 0, 1) for gy in (-1, 0, 1) for i in grid.get((cx + gx, cy + gy), ())]
        if any((px - xs[i]) ** 2 + (py - ys[i]) ** 2 < (scene.crowding * (d + ds[i]) / 2) ** 2 for i in near):
            continue
        px, py = _paste(stack, px, py, pixel_size, rng, potential)
        grid.setdefault((cx, cy), []).append(len(xs))
        xs.append(px)
        ys.append(py)
        ds.append(d)
        names.append(stack.name)
    x, y = np.array(xs), np.array(ys)
    inside = np.flatnonzero((x >= 0) & (y >= 0) & (x <= nx - 1) & (y <= ny - 1))
    return x[inside], y[inside], np.array(ds)[inside] * pixel_size, [names[i] for i in inside]


def _paste(
    stack: ProjectionStack, px: float, py: float, pixel_size: float, rng: np.random.Generator, potential: Image
) -> tuple[float, float]:
    """Add one projection near (px, py); returns its exact centre."""
    image = stack.images[int(rng.integers(len(stack.images)))]
    image = np.rot90(image, int(rng.integers(4)))
    if rng.random() < 0.5:
        image = image[:, ::-1]
    n = max(4, round(image.shape[0] * stack.voxel_size / pixel_size))
    shrink = n < image.shape[0]
    scaled = cv2.resize(image, (n, n), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)
    x0, y0 = round(px - (n - 1) / 2), round(py - (n - 1) / 2)
    ny, nx = potential.shape
    ax, ay, bx, by = max(x0, 0), max(y0, 0), min(x0 + n, nx), min(y0 + n, ny)
    if ax < bx and ay < by:
        potential[ay:by, ax:bx] += scaled[ay - y0 : by - y0, ax - x0 : bx - x0]
    return x0 + (n - 1) / 2, y0 + (n - 1) / 2


def _aggregate(
    stacks: Sequence[ProjectionStack],
    shape: tuple[int, int],
    pixel_size: float,
    rng: np.random.Generator,
    potential: Image,
    junk: NDArray[np.bool_],
) -> None:
    """A clump of overlapping particles, which is junk."""
    if not stacks:
        return
    stack = stacks[int(rng.integers(len(stacks)))]
    d = stack.diameter / pixel_size
    cx, cy = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
    clump = np.zeros(shape, np.float32)
    for _ in range(int(rng.integers(6, 25))):
        _paste(stack, cx + rng.normal(0, 0.7 * d), cy + rng.normal(0, 0.7 * d), pixel_size, rng, clump)
    potential += clump
    junk |= cv2.GaussianBlur(clump, (0, 0), max(0.2 * d, 0.8)) > 0.25 * clump.max()


def _junk(
    scene: Scene, shape: tuple[int, int], pixel_size: float, typical: float, rng: np.random.Generator
) -> tuple[Image, Image, NDArray[np.bool_]]:
    """Phase (radian), absorption factor and mask of everything in the frame that is no particle."""
    phase = np.zeros(shape, np.float32)
    absorption = np.ones(shape, np.float32)
    junk = np.zeros(shape, bool)
    d = typical / pixel_size
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
        _ring(phase, junk, d * float(np.exp(rng.uniform(np.log(1.2), np.log(6)))), d, rng)
    for _ in range(scene.gold):
        x, y, r = rng.uniform(0, shape[1]), rng.uniform(0, shape[0]), max(1.5, rng.uniform(25, 60) / pixel_size)
        disc = np.zeros(shape, np.uint8)
        cv2.circle(disc, (int(x), int(y)), int(np.ceil(r)), 1, -1)
        phase += disc * np.float32(1.5)
        absorption *= 1 - 0.7 * disc.astype(np.float32)
        junk |= disc.astype(bool)
    if scene.carbon > 0:
        side = _carbon_side(shape, scene.carbon, rng)
        grain = rng.standard_normal(shape, np.float32) * np.float32(0.12 / np.sqrt(pixel_size) * rng.uniform(0.6, 1.6))
        edge = ndimage.gaussian_filter(side, max(0.6, 10 / pixel_size))
        rim = np.clip(edge * (1 - edge) * 4, 0, 1)
        phase += edge * (0.8 + grain) + rim * np.float32(rng.uniform(0, 1.2))
        absorption *= 1 - edge * np.float32(rng.uniform(0.02, 0.35))
        junk |= ndimage.gaussian_filter(side, max(0.25 * d, 1)) > 0.15
    if scene.crystalline > 0:
        coarse = _smooth_noise(shape, d * rng.uniform(0.25, 0.8), rng)
        fine = np.abs(_smooth_noise(shape, d * rng.uniform(0.12, 0.3), rng))
        phase += np.float32(scene.crystalline) * (0.35 * np.exp(1.2 * coarse) - 0.25 * np.exp(-4 * fine)).astype(
            np.float32
        )
        absorption *= np.exp(-0.08 * scene.crystalline * np.clip(coarse, 0, None)).astype(np.float32)
        junk[:] = True
    return phase, absorption, junk


def _blob(shape: tuple[int, int], size: float, rng: np.random.Generator) -> tuple[tuple[slice, slice] | None, Image]:
    """An irregular, sharp-edged lump about ``size`` pixels across; window and thickness 0..1."""
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


def _ring(phase: Image, junk: NDArray[np.bool_], size: float, d: float, rng: np.random.Generator) -> None:
    """A vesicle: a membrane seen edge-on as a ring about ``size`` pixels across."""
    ny, nx = phase.shape
    x, y = rng.uniform(0, nx), rng.uniform(0, ny)
    yy, xx = np.mgrid[0:ny, 0:nx].astype(np.float32)
    r = np.hypot(xx - x, (yy - y) / rng.uniform(0.75, 1))
    wall = np.exp(-(((r - size / 2) / max(0.12 * d, 0.8)) ** 2)).astype(np.float32)
    phase += np.float32(rng.uniform(0.1, 0.5)) * wall
    junk |= r < size / 2 + 0.15 * d


def _carbon_side(shape: tuple[int, int], share: float, rng: np.random.Generator) -> Image:
    """1 on the carbon: outside a large circle (the hole) that leaves ``share`` of the frame covered."""
    ny, nx = shape
    radius = max(shape) * rng.uniform(0.7, 2.5)
    angle = rng.uniform(0, 2 * np.pi)
    reach = (
        np.cos(angle) * np.linspace(-1, 1, nx)[None, :] * nx / 2
        + np.sin(angle) * np.linspace(-1, 1, ny)[:, None] * ny / 2
    )
    across = (
        -np.sin(angle) * np.linspace(-1, 1, nx)[None, :] * nx / 2
        + np.cos(angle) * np.linspace(-1, 1, ny)[:, None] * ny / 2
    )
    distance = reach - (np.sqrt(np.clip(radius**2 - across**2, 0, None)) - radius)
    return (distance > np.quantile(distance, 1 - share)).astype(np.float32)


def _smooth_noise(shape: tuple[int, int], scale: float, rng: np.random.Generator) -> Image:
    """Gaussian noise smoothed to ``scale`` pixels, standard deviation 1."""
    spectrum = fft.rfft2(rng.standard_normal(shape, np.float32), workers=2)
    fy, fx = fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None, :]
    spectrum *= np.exp(-2 * (np.pi * scale) ** 2 * (fx**2 + fy**2)).astype(np.float32)
    noise = fft.irfft2(spectrum, s=shape, workers=2)
    return (noise / max(float(noise.std()), 1e-12)).astype(np.float32)
