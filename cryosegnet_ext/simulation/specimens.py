"""Specimens: electrostatic potential of a particle in ice, from a density map or an atomic model."""

from __future__ import annotations

import warnings
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import CryoSegNetError
from .atoms import model_density

# Mean inner potential of protein less that of vitreous ice, volt:
# about 7 less about 4.9 (Vulovic et al., J. Struct. Biol. 183, 2013).
CONTRAST_VOLT = 2.1
# A fibre through two faces of its box covers less of all six.
_MOST_ON_FACES = 0.2
_PACKED = ("", ".gz", ".bz2")
MAP_SUFFIXES = tuple(suffix + packed for suffix in (".mrc", ".map", ".ccp4") for packed in _PACKED)
MODEL_SUFFIXES = tuple(suffix + packed for suffix in (".pdb", ".ent", ".cif", ".mmcif") for packed in _PACKED)


@dataclass(frozen=True)
class Specimen:
    """A particle.

    Attributes
    ----------
    name
        Its name in the truth tables.
    density : (n, n, n) float32
        Potential above that of ice, volt; axes (z, y, x); the centre of mass lies at index n // 2.
    voxel_size
        Angstrom.
    diameter
        Angstrom; twice the radius around the centre of mass that holds 97 % of the density.
    remark
        How the file was read, if there was a choice.
    """

    name: str
    density: NDArray[np.float32]
    voxel_size: float
    diameter: float
    remark: str = ""


def read_specimen(
    path: str | Path, voxel_size: float = 4.0, resolution: float | None = None, assembly: str | None = None
) -> Specimen:
    """Read a density map (MRC, CCP4) or an atomic model (PDB, mmCIF).

    Parameters
    ----------
    path
        The file, which may be compressed with gzip or bzip2.
    voxel_size
        Angstrom; sampling of the density of an atomic model. Maps keep their own.
    resolution
        Angstrom; finest detail of the density of an atomic model. The density is then the sum of the electron
        scattering factors of all atoms (Peng et al., as tabulated by gemmi). Without a resolution the atoms are
        Gaussians of 2.5 angstrom: enough for pictures, too coarse for a reconstruction.
    assembly
        Name of the biological assembly of an atomic model, or "none" for the atoms of the file; by default the first,
        if the file names any.

    Raises
    ------
    CryoSegNetError
        The file cannot be read, holds nothing, or is neither a map nor a model.
    """
    path = Path(path)
    lower, remark = path.name.lower(), ""
    try:
        if lower.endswith(MAP_SUFFIXES):
            density, voxel_size = _read_map(path)
        elif lower.endswith(MODEL_SUFFIXES):
            density, remark = model_density(path, voxel_size, resolution, assembly)
        else:
            raise CryoSegNetError(
                f"{path}: neither a density map nor an atomic model: give one of "
                f"{', '.join(MAP_SUFFIXES[::3] + MODEL_SUFFIXES[::3])}, which may end with .gz or .bz2."
            )
    except (OSError, ValueError, RuntimeError, IndexError, EOFError, zlib.error) as error:
        why = (str(error).splitlines() or [""])[0].rstrip(". ")
        raise CryoSegNetError(f"{path}: cannot be read as a specimen ({why or type(error).__name__}).") from error
    name = path.name.split(".")[0]
    return replace(make_specimen(name, density, voxel_size), remark=remark)


def make_specimen(name: str, density: NDArray[np.float32], voxel_size: float) -> Specimen:
    """Scale a density to volts above ice, remove what surrounds the particle, and centre it; see `Specimen`.

    ``density`` (nz, ny, nx) may have any scale. Below an eighth of its 99.5th percentile it is ice.

    Raises
    ------
    CryoSegNetError
        The density is empty, or fills its box.
    """
    d = np.asarray(density, np.float32)
    positive = d[d > 0]
    if positive.size < 8:
        raise CryoSegNetError(f"{name}: the density is empty.")
    level = 0.125 * float(np.percentile(positive[positive > positive.max() * 0.01], 99.5))
    inside = d > level
    if _faces(inside).mean() > _MOST_ON_FACES:
        raise CryoSegNetError(
            f"{name}: the density fills its box, so its particle cannot be told from what is around it: give a map "
            "that is masked, with zeros around the particle."
        )
    labels, count = ndimage.label(ndimage.binary_dilation(inside, iterations=2))
    if count > 1:  # small pieces around the particle would spoil the diameter
        sizes = np.bincount(labels[inside], minlength=count + 1)
        inside &= np.isin(labels, np.flatnonzero(sizes >= 0.05 * sizes[1:].max()))
    d = np.where(inside, d, 0)
    d = d * (CONTRAST_VOLT / d[inside].mean())
    points = np.argwhere(inside)
    weight = d[inside]
    centre = (points * weight[:, None]).sum(0) / weight.sum()
    radius = np.sqrt(((points - centre) ** 2).sum(1))
    order = np.argsort(radius)
    share = np.cumsum(weight[order]) / weight.sum()
    most = min(int(np.searchsorted(share, 0.97)), len(share) - 1)  # over millions of voxels the sums differ by rounding
    diameter = 2 * float(radius[order][most] + 0.5) * voxel_size
    half = int(np.ceil(radius.max())) + 2
    n = 2 * half
    grid = np.mgrid[0:n, 0:n, 0:n].astype(np.float32) - half + centre[:, None, None, None].astype(np.float32)
    centred = ndimage.map_coordinates(d, grid, order=1, mode="constant").astype(np.float32)
    return Specimen(name, centred, voxel_size, diameter)


def _read_map(path: Path) -> tuple[NDArray[np.float32], float]:
    """Density (nz, ny, nx), for any order of axes in the file, and the side of a voxel, angstrom."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mrcfile warns about headers; what matters is checked here
        opened = mrcfile.open(path, permissive=True)
    with opened as mrc:
        if mrc.data is None or mrc.data.ndim != 3:
            raise ValueError("not a volume")
        header = mrc.header
        stored = [int(axis) for axis in (header.maps, header.mapr, header.mapc)]
        sides = [float(side) for side in (mrc.voxel_size.z, mrc.voxel_size.y, mrc.voxel_size.x)]
        angles = [float(angle) for angle in (header.cellb.alpha, header.cellb.beta, header.cellb.gamma)]
        data = np.array(mrc.data, np.float32)
    if stored == [0, 0, 0]:  # as old programs leave it
        stored = [3, 2, 1]
    if sorted(stored) != [1, 2, 3]:
        raise ValueError(f"the header's axes, {stored[::-1]}, are not 1, 2 and 3 in some order")
    if any(angle != 0 and abs(angle - 90) > 0.1 for angle in angles):
        raise ValueError("its axes are not at right angles: resample it to a cubic grid")
    for side in sides:
        if not 0.1 < side < 50:
            raise ValueError(
                f"the header gives a voxel size of {side:g} angstrom: write the right one into it, as with "
                "relion_image_handler --force_header_angpix"
            )
    if not np.isfinite(data).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(data))} of its voxels are not finite")
    data = np.ascontiguousarray(data.transpose([stored.index(axis) for axis in (3, 2, 1)]))
    if _is_dark(data):
        raise ValueError("its particle is darker than its surroundings: multiply the map by -1")
    voxel = min(sides)
    if max(sides) > 1.001 * voxel:
        steps = [voxel / side for side in sides]
        shape = [int((n - 1) / step) + 1 for n, step in zip(data.shape, steps)]
        return np.asarray(ndimage.affine_transform(data, steps, output_shape=shape), np.float32), voxel
    return data, sides[2]


def _is_dark(data: NDArray[np.float32]) -> bool:
    """Whether a density (nz, ny, nx) is negative relative to its surroundings, the faces of the box."""
    above = data.astype(np.float64) - float(np.median(_faces(data)))
    cubes = (above / max(np.abs(above).max(), 1e-30)) ** 3
    return bool(cubes.sum() < -0.2 * np.abs(cubes).sum())


def _faces(volume: NDArray[Any]) -> NDArray[Any]:
    """The values on the six faces of a volume (nz, ny, nx)."""
    return np.concatenate([np.take(volume, (0, -1), axis).ravel() for axis in range(3)])
