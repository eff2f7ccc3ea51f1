"""What a micrograph shows, how it was taken, and where its particles are."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .optics import Optics
from .textures import Image


@dataclass(frozen=True)
class ProjectionStack:
    """Projections of one specimen, ready to be placed.

    Attributes
    ----------
    name
        The species, as the truth names it.
    images : (b, n, n) float32, volt x angstrom
    voxel_size : angstrom per pixel of ``images``
    diameter : angstrom
    rotations : (b, 3, 3) float, or None
        Orientation of each projection as `projection.project` takes it; without them the truth knows no orientations.
    share
        How often the species occurs, relative to the others.
    distractor
        A species that is in the ice but is not to be picked.
    """

    name: str
    images: Image
    voxel_size: float
    diameter: float
    rotations: NDArray[np.floating] | None = None
    share: float = 1.0
    distractor: bool = False


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
        How many of each; rings are vesicles, their membrane seen edge-on.
    carbon
        Probability-free switch: the share of the frame covered by carbon from one side, 0 for none.
    crystalline
        Contrast of ice that has crystallised over the whole frame: grains and their lattices, 0 for none.
    contrast
        Factor on the specimen's potential (thick ice, radiation damage and denaturation lower it).
    contamination
        How many groups of ethane or ice droplets, 0.3 to 10 particle diameters across.
    crystals
        How many ice crystals: sharp dark polygons or mottled lumps, with lattice fringes and bright ghosts.
    leopard
        Contrast of leopard-skin ice: cells with dark seams and spots, 0 for none.
    film_texture
        Contrast of a support film under the whole ice (grain, folds), 0 for none; particles on it count.
    foil
        Share of the frame covered by an opaque foil from one side, 0 for none.
    discs
        How many empty nanodiscs or micelles: flat pieces of membrane in any orientation.
    stripes
        How many black stripes (dead rows or columns of the detector).
    ice_thickness
        Angstrom; spreads the particles over the depth, so that each has its own defocus, and with it the ice's own
        noise. 0 leaves all particles in one plane of ice of usual thickness.
    ice_wedge
        Relative change of the ice's thickness across the micrograph: thick ice is darker and noisier.
    tilt, tilt_axis
        Degrees: tilt of the ice around an axis in the plane of the micrograph, counted from x to y; the defocus
        changes across the axis.
    drift
        Angstrom the specimen moved during the exposure, as left after motion correction.
    mtf
        Modulation transfer of the detector at half the sampling rate, above 0; 1 is a perfect detector.
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
    contamination: int = 0
    crystals: int = 0
    leopard: float = 0.0
    film_texture: float = 0.0
    foil: float = 0.0
    discs: int = 0
    stripes: int = 0
    ice_thickness: float = 0.0
    ice_wedge: float = 0.0
    tilt: float = 0.0
    tilt_axis: float = 0.0
    drift: float = 0.0
    mtf: float = 1.0


@dataclass(frozen=True)
class Truth:
    """Where the particles are: x, y (n,) pixels, array order; diameter (n,) angstrom; specimen names (n,).

    Attributes
    ----------
    junk : (ny, nx) bool
        Where no particle counts.
    angles : (n, 3) float64
        Rotation, tilt and psi of each particle as in RELION, degrees; NaN where the stack has no rotations.
    depth : (n,) float64
        What each particle's defocus has more than the micrograph's, angstrom: tilt and height in the ice.
    distractors
        The particles of species that are not to be picked, or None.
    coverage
        Share of the frame that all particles cover whose centres lie in it, on junk or not, overlaps counted twice.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    diameter: NDArray[np.float64]
    name: list[str]
    junk: NDArray[np.bool_]
    angles: NDArray[np.float64] | None = None
    depth: NDArray[np.float64] | None = None
    distractors: Truth | None = None
    coverage: float = 0.0
