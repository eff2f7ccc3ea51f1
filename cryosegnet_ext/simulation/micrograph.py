"""One simulated micrograph: particles in ice, junk, contrast transfer, dose noise, detector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .contamination import Background
from .detector import add_stripes, detect
from .junk import make_junk
from .optics import layered_contrast
from .orientations import placed_angles
from .placement import PlacedParticles, add_aggregate, paste, place
from .scene import ProjectionStack, Scene, Truth
from .textures import Image, smooth_noise

__all__ = ["ProjectionStack", "Scene", "Truth", "simulate_micrograph"]

# Particles of a tilted or thick specimen are imaged in layers this far apart (angstrom), each with its own defocus: at
# 300 kV, 50 angstrom of defocus turn the phase of 4 angstrom detail by 0.2 radian.
LAYER_STEP, MOST_LAYERS = 100.0, 24
# Mean free path for scattering out of the image by vitreous ice, and the thickness that counts as usual; angstrom.
MEAN_FREE_PATH, USUAL_THICKNESS = 3000.0, 300.0
# Phase noise of ice of the usual thickness in a pixel of an angstrom, radian.
GRAIN = 0.035


def simulate_micrograph(
    stacks: Sequence[ProjectionStack],
    scene: Scene,
    shape: tuple[int, int],
    pixel_size: float,
    seed: int,
    device: str = "cpu",
) -> tuple[Image, Truth]:
    """Simulate one micrograph.

    Parameters
    ----------
    stacks
        Specimens in the ice; each particle is one of them, drawn by their shares.
    scene
        Ingredients and imaging conditions.
    shape
        (ny, nx), pixels.
    pixel_size
        Angstrom per pixel.
    seed
        The same seed and arguments give the same micrograph.
    device
        Where the Fourier transforms run: "cpu", or "cuda", whose rounding differs.

    Returns
    -------
    image : (ny, nx) float32
        Electrons counted per pixel.
    truth : Truth
        Centres, and the (ny, nx) mask of junk. Particles on junk are left out.
    """
    rng, more = random_streams(seed)
    drawn = draw(stacks, scene, shape, pixel_size, rng, more)
    image, depth = electrons_of(drawn, stacks, rng, more, device)
    return image, truth_of(drawn, stacks, depth)


def random_streams(seed: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Two random streams: the first for the oldest ingredients, the second for newer ones.

    So a seed gives the same micrograph as before there were newer ones; see `make_junk`.
    """
    return np.random.default_rng(seed), np.random.default_rng([seed, 1])


@dataclass(frozen=True)
class Drawn:
    """What is in a micrograph and where, before its noise.

    Attributes
    ----------
    scene, pixel_size
        As for `simulate_micrograph`.
    shape
        Of the wide frame: the Fourier transform wraps around, so the micrograph is cut out of a wider frame.
    pad
        How much wider it is on each side, pixels.
    placed
        The particles, in pixels of the wide frame.
    planes
        Junk, of the wide frame.
    clumps : (ny, nx) float32
        Potential of aggregates, of the wide frame.
    """

    scene: Scene
    pixel_size: float
    shape: tuple[int, int]
    pad: int
    placed: PlacedParticles
    planes: Background
    clumps: Image

    @property
    def cut(self) -> tuple[slice, slice]:
        """Where the micrograph is in the wide frame."""
        ny, nx = self.shape
        return slice(self.pad, ny - self.pad), slice(self.pad, nx - self.pad)


def draw(
    stacks: Sequence[ProjectionStack],
    scene: Scene,
    shape: tuple[int, int],
    pixel_size: float,
    rng: np.random.Generator,
    more: np.random.Generator,
) -> Drawn:
    """Draw the content of a micrograph; arguments as for `simulate_micrograph`, and `random_streams`."""
    pad = int(np.clip(max(shape) // 8, 16, 128))
    wide = (shape[0] + 2 * pad, shape[1] + 2 * pad)
    typical = float(np.median([s.diameter for s in stacks])) if stacks else 150.0
    planes = make_junk(scene, wide, pixel_size, typical, rng, more)
    placed = place(stacks, scene, wide, pixel_size, rng)
    clumps = np.zeros(wide, np.float32)
    for _ in range(scene.aggregates):
        add_aggregate(stacks, pixel_size, rng, clumps, planes.junk)
    return Drawn(scene, pixel_size, wide, pad, placed, planes, clumps)


def truth_of(drawn: Drawn, stacks: Sequence[ProjectionStack], depth: NDArray[np.float64]) -> Truth:
    """The particles inside the frame that are not on junk; distractors apart. ``depth`` (n,) in angstrom."""
    placed, pad, pixel_size, junk = drawn.placed, drawn.pad, drawn.pixel_size, drawn.planes.junk[drawn.cut].copy()
    x, y = np.array(placed.x) - pad, np.array(placed.y) - pad
    ny, nx = junk.shape
    ix, iy = np.round(x).astype(int).clip(0, nx - 1), np.round(y).astype(int).clip(0, ny - 1)
    inside = (x >= 0) & (y >= 0) & (x <= nx - 1) & (y <= ny - 1)
    coverage = float((np.pi / 4 * np.array(placed.diameter)[inside] ** 2).sum() / junk.size)
    seen = inside & ~junk[iy, ix]
    aside = np.array([stacks[i].distractor for i in placed.stack], bool)

    def table(which: NDArray[np.bool_]) -> Truth:
        kept = placed.keep(indices := np.flatnonzero(which))
        return Truth(
            x[indices],
            y[indices],
            np.array(kept.diameter) * pixel_size,
            [stacks[i].name for i in kept.stack],
            junk,
            placed_angles(stacks, kept),
            depth[indices],
            coverage=coverage,
        )

    truth = table(seen & ~aside)
    return replace(truth, distractors=table(seen & aside)) if any(s.distractor for s in stacks) else truth


def electrons_of(
    drawn: Drawn,
    stacks: Sequence[ProjectionStack],
    rng: np.random.Generator,
    more: np.random.Generator,
    device: str = "cpu",
) -> tuple[Image, NDArray[np.float64]]:
    """Electrons counted in a drawn micrograph (ny, nx), and the depths of its particles (n,) in angstrom.

    ``rng`` and ``more`` go on from `draw`. Stripes are added to the junk of ``drawn``.
    """
    intensity, depth = intensity_of(drawn, stacks, rng, more, device)
    image = detect(intensity, drawn.scene, drawn.pixel_size, rng)[drawn.cut].copy()
    if drawn.scene.stripes:
        add_stripes(image, drawn.planes.junk[drawn.cut], drawn.scene.stripes, more)
    return image, depth


def intensity_of(
    drawn: Drawn,
    stacks: Sequence[ProjectionStack],
    rng: np.random.Generator,
    more: np.random.Generator,
    device: str = "cpu",
) -> tuple[Image, NDArray[np.float64]]:
    """Relative intensity of the wide frame, for `electrons_of`, and the depths of the particles."""
    scene, pixel_size, shape, placed, planes = drawn.scene, drawn.pixel_size, drawn.shape, drawn.placed, drawn.planes
    ny, nx = shape
    ice = _ice(scene, shape, pixel_size, rng, planes.absorption, more)
    layers, layer, height = _layers(scene, shape, pixel_size, placed, more)
    volts = np.float32(scene.optics.interaction * scene.contrast)

    def phases() -> Iterator[tuple[float, Image]]:
        for k, depth in enumerate(layers):
            potential = np.zeros(shape, np.float32)
            for i in np.flatnonzero(layer == k):
                pose = placed.x[i], placed.y[i], placed.view[i], placed.turns[i], placed.mirrored[i]
                paste(stacks[placed.stack[i]], pose, pixel_size, potential)
            if height is None:
                rest = planes.phase if ice is None else planes.phase + ice
                yield depth, (potential + drawn.clumps) * volts + rest
            else:  # ice and junk belong to the layers next to their own height
                rest = planes.phase + drawn.clumps * volts
                rest = rest if ice is None else rest + ice
                step = layers[1] - layers[0]
                yield depth, potential * volts + np.clip(1 - np.abs(height - depth) / step, 0, 1) * rest

    intensity = layered_contrast(phases(), scene.optics, pixel_size, planes.absorption, scene.drift, more, device)
    if scene.gradient > 0:
        angle = rng.uniform(0, 2 * np.pi)
        ramp = np.cos(angle) * np.linspace(-0.5, 0.5, nx)[None, :] + np.sin(angle) * np.linspace(-0.5, 0.5, ny)[:, None]
        bend = smooth_noise(shape, max(shape) / 3, rng)
        intensity *= np.float32(1) + np.float32(scene.gradient) * (ramp + 0.3 * bend).astype(np.float32)
    return intensity, layers[layer]


def _ice(
    scene: Scene,
    shape: tuple[int, int],
    pixel_size: float,
    rng: np.random.Generator,
    absorption: Image,
    more: np.random.Generator,
) -> Image | None:
    """Phase noise of the ice (ny, nx), radian. The absorption of a wedge of ice goes into ``absorption``."""
    thickness = np.full((1, 1), (scene.ice_thickness or USUAL_THICKNESS) / USUAL_THICKNESS, np.float32)
    if scene.ice_wedge > 0:
        angle = more.uniform(0, 2 * np.pi)
        x, y = (np.linspace(-0.5, 0.5, n, dtype=np.float32) for n in (shape[1], shape[0]))
        ramp = np.cos(angle) * x[None, :] + np.sin(angle) * y[:, None]
        mean = float(thickness[0, 0])
        thickness = (mean * np.clip(1 + scene.ice_wedge * ramp, 0.05, None)).astype(np.float32)
        absorption *= np.exp(-(thickness - mean) * np.float32(USUAL_THICKNESS / MEAN_FREE_PATH))
    if scene.structural_noise <= 0:
        return None
    # ~0.02 rad per 2 A pixel: the phase grain of ~300 A of ice; its sum over a pixel falls with the pixel's side
    grain = rng.standard_normal(shape, np.float32) * np.float32(GRAIN * scene.structural_noise / pixel_size)
    return np.asarray(grain * np.sqrt(thickness), np.float32)


def _layers(
    scene: Scene, shape: tuple[int, int], pixel_size: float, placed: PlacedParticles, more: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.intp], Image | None]:
    """Depths of the layers (k,), angstrom; each particle's layer (n,); depth of the ice's middle (ny, nx) or None.

    Depth has the sign of the defocus: deeper is more underfocus.
    """
    count = len(placed.x)
    if scene.tilt == 0 and scene.ice_thickness <= 0:
        return np.zeros(1), np.zeros(count, np.intp), None
    axis, slope = np.deg2rad(scene.tilt_axis), np.tan(np.deg2rad(scene.tilt)) * pixel_size
    ny, nx = shape
    x, y = np.array(placed.x) - (nx - 1) / 2, np.array(placed.y) - (ny - 1) / 2
    free = max(scene.ice_thickness - 0.8 * float(np.mean(placed.diameter or [0])) * pixel_size, 0)
    z = slope * (y * np.cos(axis) - x * np.sin(axis)) + more.uniform(-0.5, 0.5, count) * free
    height = np.float32(slope) * (
        (np.arange(ny, dtype=np.float32)[:, None] - np.float32((ny - 1) / 2)) * np.float32(np.cos(axis))
        - (np.arange(nx, dtype=np.float32)[None, :] - np.float32((nx - 1) / 2)) * np.float32(np.sin(axis))
    )
    reach = max(float(np.abs(height).max()), float(np.abs(z).max(initial=0)))
    number = int(np.clip(2 * np.ceil(reach / LAYER_STEP) + 1, 1, MOST_LAYERS + 1))
    if number == 1:
        return np.zeros(1), np.zeros(count, np.intp), None
    layers = np.linspace(-reach, reach, number)
    layer = np.rint((z + reach) / (layers[1] - layers[0])).astype(np.intp).clip(0, number - 1)
    return layers, layer, height
