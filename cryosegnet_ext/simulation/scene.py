"""The content of a micrograph, its imaging conditions, and where its particles are."""

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
        Name of the species in the truth.
    images : (b, n, n) float32, volt x angstrom
    voxel_size : angstrom per pixel of ``images``
    diameter : angstrom
    rotations : (b, 3, 3) float, or None
        Orientation of each projection, as for `projection.project`; None if the truth is to have no orientations.
    share
        How often the species occurs, relative to the others.
    distractor
        The species is in the ice but is not to be picked.
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
    """What is in the ice, and how it is imaged; zero switches an ingredient off.

    Attributes
    ----------
    coverage
        Share of the area covered by particles, 0 to about 0.6.
    crowding
        Least distance between particles, in diameters.
    clusters
        Share of the particles that lie next to another one.
    dose
        Electrons per square angstrom.
    detector_efficiency
        Share of the electrons that count (DQE at low frequency).
    structural_noise
        Phase noise of the ice itself, radian at 1 A^-1 bandwidth per pixel, relative to a usual 1.
    gradient
        Relative change of intensity across the micrograph.
    ice_blobs, rings, gold, aggregates
        Number of each. Rings are vesicles: their membranes look like rings.
    carbon
        Share of the frame that carbon covers from one side.
    crystalline
        Contrast of ice that has crystallised over the whole frame: grains and their lattices.
    contrast
        Factor on the specimen's potential (thick ice, radiation damage and denaturation lower it).
    contamination
        Number of groups of ethane or ice droplets, 0.3 to 10 particle diameters across.
    crystals
        Number of ice crystals: sharp dark polygons or mottled lumps, with lattice fringes and bright ghosts.
    leopard
        Contrast of leopard-skin ice: cells with dark seams and spots.
    film_texture
        Contrast of a support film under all the ice (grain, folds). Particles on it count.
    foil
        Share of the frame that an opaque foil covers from one side.
    discs
        Number of empty nanodiscs or micelles: flat pieces of membrane in any orientation.
    stripes
        Number of black stripes: dead rows or columns of the detector.
    ice_thickness
        Angstrom. The particles lie at all depths, so that each has its own defocus; the noise of the ice grows with it.
        0 is one plane of particles in ice of the usual thickness.
    ice_wedge
        Relative change of the thickness across the micrograph. Thick ice is darker and noisier.
    tilt, tilt_axis
        Degrees. The ice is tilted around an axis in the plane of the micrograph, counted from x to y; the defocus
        changes across the axis.
    drift
        Motion during the exposure that motion correction has left, angstrom.
    mtf
        Modulation transfer of the detector at Nyquist, above 0; 1 is a perfect detector.
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
        Defocus of each particle minus that of the micrograph, angstrom, from the tilt and the depth in the ice.
    distractors
        Particles of species that are not to be picked; None without such species.
    coverage
        Share of the frame that the particles with centres in it cover. Overlaps count twice, particles on junk as well.
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
