"""Random imaging conditions of simulated training crops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..simulation.optics import Optics
from ..simulation.scene import Scene

# Squared ratio of a particle's peak to the noise of a pixel: for most crops; for large particles, high doses and
# denoised micrographs; for small particles and thick ice, where eyes hardly see them.
NOISY, CLEAR, BURIED = (0.35, 16.0), (16.0, 400.0), (0.08, 1.5)
CLEAR_SHARE, BURIED_SHARE = 0.15, 0.6


class FrameKind(NamedTuple):
    """A kind of simulated frame: its share, the bounds of what is drawn for `Scene`, and whether it has particles.

    Whole numbers are drawn from the first bound to below the second.
    """

    percent: int
    bounds: Mapping[str, tuple[Any, Any]]
    particles: bool = True


#: Kinds of simulated frames: with dirt of some sort, without particles, or with particles only.
FRAME_KINDS = (
    FrameKind(5, {"ice_blobs": (1, 12)}, particles=False),
    FrameKind(5, {}, particles=False),
    FrameKind(12, {"ice_blobs": (1, 12)}),
    FrameKind(8, {"carbon": (0.1, 0.8)}),
    FrameKind(6, {"crystalline": (0.2, 1.5)}),
    FrameKind(6, {"aggregates": (1, 4)}),
    FrameKind(3, {"rings": (1, 3)}),
    FrameKind(3, {"gold": (1, 20)}),
    FrameKind(7, {}, particles=False),
    FrameKind(3, {"contamination": (2, 30)}, particles=False),
    FrameKind(3, {"contamination": (2, 30)}),
    FrameKind(3, {"crystals": (3, 40), "leopard": (0.0, 0.3)}),
    FrameKind(2, {"film_texture": (0.1, 0.6)}),
    FrameKind(1, {"foil": (0.1, 0.6)}),
    FrameKind(33, {}),
)
_FRAME_LIMITS = np.cumsum([frame.percent for frame in FRAME_KINDS]) / 100


def between(bounds: tuple[float, float], rng: np.random.Generator) -> float:
    """A random number whose logarithm is uniform between those of the bounds."""
    return float(np.exp(rng.uniform(*np.log(bounds))))


def random_scene(diameter: float, pixel_size: float, rng: np.random.Generator) -> Scene:
    """Random imaging conditions: one of three voltages, 0.4 to 3.5 um of defocus, one of `FRAME_KINDS`.

    The signal-to-noise ratio of a particle's peak is drawn, and the dose follows from it and from ``diameter``
    (angstrom), so that small and large particles are equally often easy and difficult.
    """
    defocus = float(np.exp(rng.uniform(np.log(4000), np.log(35000))))
    voltage = float(rng.choice([120, 200, 300, 300]))
    optics = Optics(
        voltage=voltage,
        cs=float(rng.choice([0.01, 2.0, 2.7])),
        amplitude_contrast=float(rng.uniform(0.05, 0.14)),
        defocus_u=defocus,
        defocus_v=defocus * float(rng.uniform(0.93, 1.07)),
        defocus_angle=float(rng.uniform(0, 180)),
        b_factor=float(rng.uniform(20, 400)),
    )
    contrast = float(rng.uniform(0.6, 1.2))
    efficiency = float(rng.uniform(0.3, 0.8))
    peak = 2 * optics.interaction * 1.3 * diameter * contrast * 0.4
    chance = rng.random()
    clear, buried = chance < CLEAR_SHARE, chance > 1 - BURIED_SHARE
    dose = between(CLEAR if clear else BURIED if buried else NOISY, rng) / (peak**2 * pixel_size**2 * efficiency)
    kind = rng.random()
    scene = Scene(
        coverage=float(rng.uniform(0.02, 0.5)),
        crowding=float(rng.uniform(0.65, 1.0)),
        clusters=float(rng.uniform(0, 0.6)),
        dose=dose,
        detector_efficiency=efficiency,
        structural_noise=float(rng.choice([0.0, 0.0, 0.5, 1.0] if clear or buried else [0.0, 0.5, 1.0, 2.0]))
        * pixel_size
        * peak
        / 0.07
        * float(rng.uniform(0.1, 1)),
        gradient=float(rng.uniform(0, 0.3)) * peak * 8,
        contrast=contrast,
        optics=optics,
    )
    frame = FRAME_KINDS[int(np.searchsorted(_FRAME_LIMITS, kind, side="right"))]
    drawn: dict[str, Any] = {} if frame.particles else {"coverage": 0.0}
    for name, bounds in frame.bounds.items():
        drawn[name] = rng.integers(*bounds).item() if isinstance(bounds[0], int) else rng.uniform(*bounds)
    return replace(scene, **drawn)
