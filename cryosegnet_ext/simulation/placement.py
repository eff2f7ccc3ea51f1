"""Where particles lie in the ice: apart, touching or overlapping, in any orientation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from .scene import ProjectionStack, Scene
from .textures import Image


@dataclass
class PlacedParticles:
    """Particles in the order of their placement: centre and diameter (pixels), species, view, quarter turns, mirror."""

    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    diameter: list[float] = field(default_factory=list)
    stack: list[int] = field(default_factory=list)
    view: list[int] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    mirrored: list[bool] = field(default_factory=list)

    def add(self, d: float, stack: int, pose: tuple[float, float, int, int, bool]) -> None:
        """Append one particle."""
        self.x.append(pose[0])
        self.y.append(pose[1])
        self.diameter.append(d)
        self.stack.append(stack)
        self.view.append(pose[2])
        self.turns.append(pose[3])
        self.mirrored.append(pose[4])

    def keep(self, indices: NDArray[np.intp]) -> PlacedParticles:
        """The particles of these indices."""
        lists = (self.x, self.y, self.diameter, self.stack, self.view, self.turns, self.mirrored)
        return PlacedParticles(*([values[i] for i in indices] for values in lists))


def place(
    stacks: Sequence[ProjectionStack],
    scene: Scene,
    shape: tuple[int, int],
    pixel_size: float,
    rng: np.random.Generator,
) -> PlacedParticles:
    """Draw positions and orientations of the particles; some reach into the frame, (ny, nx), from outside."""
    ny, nx = shape
    placed = PlacedParticles()
    if not stacks or scene.coverage <= 0:
        return placed
    mean_area = float(np.mean([np.pi / 4 * (s.diameter / pixel_size) ** 2 for s in stacks]))
    wanted = round(scene.coverage * ny * nx / mean_area)
    xs, ys, ds = placed.x, placed.y, placed.diameter
    cell = max(s.diameter for s in stacks) / pixel_size * max(1.0, scene.crowding)
    grid: dict[tuple[int, int], list[int]] = {}
    for _ in range(wanted * 6):
        if len(xs) >= wanted:
            break
        number = draw_stack(stacks, rng)
        d = stacks[number].diameter / pixel_size
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
        grid.setdefault((cx, cy), []).append(len(xs))
        placed.add(d, number, draw_pose(stacks[number], px, py, pixel_size, rng))
    return placed


def draw_stack(stacks: Sequence[ProjectionStack], rng: np.random.Generator) -> int:
    """Draw a species, by the shares; its index."""
    if all(s.share == stacks[0].share for s in stacks):
        return int(rng.integers(len(stacks)))
    shares = np.array([s.share for s in stacks])
    return int(rng.choice(len(stacks), p=shares / shares.sum()))


def draw_pose(
    stack: ProjectionStack, px: float, py: float, pixel_size: float, rng: np.random.Generator
) -> tuple[float, float, int, int, bool]:
    """Centre x, y on the pixel grid near (px, py), then view, quarter turns and mirror, drawn at random."""
    view, turns = int(rng.integers(len(stack.images))), int(rng.integers(4))
    mirrored = bool(rng.random() < 0.5)
    n = side_of(stack, pixel_size)
    x0, y0 = round(px - (n - 1) / 2), round(py - (n - 1) / 2)
    return x0 + (n - 1) / 2, y0 + (n - 1) / 2, view, turns, mirrored


def paste(
    stack: ProjectionStack, pose: tuple[float, float, int, int, bool], pixel_size: float, potential: Image
) -> None:
    """Add one projection in the pose of `draw_pose` to ``potential`` (ny, nx)."""
    x, y, view, turns, mirrored = pose
    image = np.rot90(stack.images[view], turns)
    if mirrored:
        image = image[:, ::-1]
    n = side_of(stack, pixel_size)
    if n != image.shape[0]:
        way = cv2.INTER_AREA if n < image.shape[0] else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, (n, n), interpolation=way), np.float32)
    x0, y0 = round(x - (n - 1) / 2), round(y - (n - 1) / 2)
    ny, nx = potential.shape
    ax, ay, bx, by = max(x0, 0), max(y0, 0), min(x0 + n, nx), min(y0 + n, ny)
    if ax < bx and ay < by:
        potential[ay:by, ax:bx] += image[ay - y0 : by - y0, ax - x0 : bx - x0]


def add_aggregate(
    stacks: Sequence[ProjectionStack],
    pixel_size: float,
    rng: np.random.Generator,
    potential: Image,
    junk: NDArray[np.bool_],
) -> None:
    """Add a clump of overlapping particles, which is junk, to ``potential`` and ``junk``, both (ny, nx)."""
    if not stacks:
        return
    stack = stacks[int(rng.integers(len(stacks)))]
    d = stack.diameter / pixel_size
    cx, cy = rng.uniform(0, potential.shape[1]), rng.uniform(0, potential.shape[0])
    clump = np.zeros(potential.shape, np.float32)
    for _ in range(int(rng.integers(6, 25))):
        px, py = cx + rng.normal(0, 0.7 * d), cy + rng.normal(0, 0.7 * d)
        paste(stack, draw_pose(stack, px, py, pixel_size, rng), pixel_size, clump)
    potential += clump
    junk |= cv2.GaussianBlur(clump, (0, 0), max(0.2 * d, 0.8)) > 0.25 * clump.max()


def side_of(stack: ProjectionStack, pixel_size: float) -> int:
    """Side of the projections, pixels of the micrograph."""
    return max(4, round(stack.images.shape[1] * stack.voxel_size / pixel_size))
