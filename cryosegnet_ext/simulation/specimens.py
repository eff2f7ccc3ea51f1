"""Specimens: electrostatic potential of a particle in ice, from a density map or an atomic model."""

from __future__ import annotations

import gzip
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import CryoSegNetError

# Mean inner potential of protein less that of vitreous ice, volt:
# about 7 less about 4.9 (Vulovic et al., J. Struct. Biol. 183, 2013).
CONTRAST_VOLT = 2.1
MAP_SUFFIXES = (".mrc", ".map", ".mrc.gz", ".map.gz")
MODEL_SUFFIXES = (".pdb", ".cif", ".ent", ".pdb.gz", ".cif.gz", ".ent.gz")


@dataclass(frozen=True)
class Specimen:
    """A particle.

    Attributes
    ----------
    name
        What the truth tables call it.
    density : (n, n, n) float32
        Potential above that of ice, volt; axes (z, y, x); the centre of mass lies at index n // 2.
    voxel_size
        Angstrom.
    diameter
        Angstrom; twice the radius around the centre of mass that holds 97 % of the density.
    """

    name: str
    density: NDArray[np.float32]
    voxel_size: float
    diameter: float


def read_specimen(path: str | Path, voxel_size: float = 4.0, resolution: float | None = None) -> Specimen:
    """Read a density map (MRC) or an atomic model (PDB, mmCIF; its first biological assembly).

    Parameters
    ----------
    path
        The file, gzipped or not.
    voxel_size
        Angstrom; sampling of the density made from an atomic model. Maps keep their own.
    resolution
        Angstrom; the finest detail of the density made from an atomic model, which is then summed from the electron
        scattering factors of every atom (Peng et al., as tabulated by gemmi). Without it the atoms are equally wide
        Gaussians of 2.5 angstrom: enough for pictures, too coarse for a reconstruction.

    Raises
    ------
    CryoSegNetError
        The file cannot be read, holds nothing, or is neither a map nor a model.
    """
    path = Path(path)
    lower = path.name.lower()
    try:
        if lower.endswith(MAP_SUFFIXES):
            density, voxel_size = _read_map(path)
        elif lower.endswith(MODEL_SUFFIXES):
            density = _model_density(path, voxel_size, resolution)
        else:
            raise CryoSegNetError(f"{path}: neither a map (.mrc) nor an atomic model (.pdb, .cif), so no specimen.")
    except (OSError, ValueError, RuntimeError, IndexError, EOFError, zlib.error) as error:
        why = (str(error).splitlines() or [""])[0].rstrip(". ")
        raise CryoSegNetError(f"{path}: cannot be read as a specimen ({why or type(error).__name__}).") from error
    name = path.name.split(".")[0]
    return make_specimen(name, density, voxel_size)


def make_specimen(name: str, density: NDArray[np.float32], voxel_size: float) -> Specimen:
    """Scale a density to volts above ice, cut away its surroundings and centre it; see `Specimen`.

    ``density`` (nz, ny, nx) has any scale; what lies under an eighth of its 99.5th percentile counts as ice.
    """
    d = np.asarray(density, np.float32)
    positive = d[d > 0]
    if positive.size < 8:
        raise CryoSegNetError(f"{name}: the density is empty, so it makes no specimen.")
    level = 0.125 * float(np.percentile(positive[positive > positive.max() * 0.01], 99.5))
    inside = d > level
    labels, count = ndimage.label(ndimage.binary_dilation(inside, iterations=2))
    if count > 1:  # dust around the particle would spoil the diameter
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
    diameter = 2 * float(radius[order][np.searchsorted(share, 0.97)] + 0.5) * voxel_size
    half = int(np.ceil(radius.max())) + 2
    n = 2 * half
    grid = np.mgrid[0:n, 0:n, 0:n].astype(np.float32) - half + centre[:, None, None, None].astype(np.float32)
    centred = ndimage.map_coordinates(d, grid, order=1, mode="constant").astype(np.float32)
    return Specimen(name, centred, voxel_size, diameter)


def _read_map(path: Path) -> tuple[NDArray[np.float32], float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mrcfile's remarks on headers; what matters is checked here
        opened = mrcfile.open(path, permissive=True)
    with opened as mrc:
        if mrc.data is None or mrc.data.ndim != 3:
            raise ValueError("not a volume")
        voxel = float(mrc.voxel_size.x)
        data = np.array(mrc.data, np.float32)
    if not 0.1 < voxel < 50:
        raise ValueError(f"the header gives a voxel size of {voxel} angstrom")
    return data, voxel


def _model_density(path: Path, voxel_size: float, resolution: float | None) -> NDArray[np.float32]:
    """Density (nz, ny, nx) from electron scattering factors, low-passed to the voxel size or the resolution."""
    try:
        import gemmi
    except ImportError as error:
        raise CryoSegNetError("Atomic models need gemmi: pip install 'cryosegnet-ext[simulate]'.") from error
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rt", errors="replace") as stream:
        text = stream.read()
    if ".cif" in path.name.lower():
        structure = gemmi.make_structure_from_block(gemmi.cif.read_string(text).sole_block())
    else:
        structure = gemmi.read_pdb_string(text)
    structure.setup_entities()
    if structure.assemblies:
        structure.transform_to_assembly(structure.assemblies[0].name, gemmi.HowToNameCopiedChain.Dup)
    model = structure[0]
    if resolution is not None and model.count_atom_sites() > 0:
        return _scattering_density(structure, voxel_size, resolution)
    count = model.count_atom_sites()
    if count == 0:
        raise ValueError("no atoms")
    positions = np.empty((count, 3), np.float32)
    weights = np.empty(count, np.float32)
    i = 0
    for chain in model:
        for residue in chain:
            if residue.is_water():
                continue
            for atom in residue:
                positions[i] = atom.pos.x, atom.pos.y, atom.pos.z
                weights[i] = _forward_scattering(atom.element.name) * atom.occ
                i += 1
    positions, weights = positions[:i], weights[:i]
    low = positions.min(0) - 4 * voxel_size
    shape = np.ceil((positions.max(0) + 4 * voxel_size - low) / voxel_size).astype(int)
    index = (positions - low) / voxel_size
    grid = np.zeros(shape[::-1], np.float32)
    base = np.floor(index).astype(int)
    fraction = index - base
    for corner in np.ndindex(2, 2, 2):  # trilinear splat
        share = np.prod(np.where(np.array(corner) == 1, fraction, 1 - fraction), axis=1) * weights
        x, y, z = (base + corner).T
        np.add.at(grid, (z, y, x), share)
    return ndimage.gaussian_filter(grid, max(2.5 / voxel_size, 0.6)).astype(np.float32)


# f(0) of the electron scattering factors, angstrom (Peng et al., Acta Cryst. A52, 1996); carbon for the rest.
_F0 = {"H": 0.53, "C": 2.51, "N": 2.21, "O": 1.98, "P": 5.49, "S": 5.16, "MG": 5.21, "ZN": 6.06, "FE": 7.17, "SE": 7.24}


def _forward_scattering(element: str) -> float:
    return _F0.get(element.upper(), 2.51)


def _scattering_density(structure: Any, voxel_size: float, resolution: float) -> NDArray[np.float32]:
    """Potential (nz, ny, nx), arbitrary scale, of a gemmi structure, each atom by its own scattering factor."""
    import gemmi

    structure.remove_waters()
    model = structure[0]
    b_factor = 8 * np.pi**2 * (0.225 * resolution) ** 2  # falls to 1/e^2 in amplitude about at the resolution
    for site in model.all():
        site.atom.b_iso = b_factor
        site.atom.aniso = gemmi.SMat33f(0, 0, 0, 0, 0, 0)
    box = structure.calculate_box(3 * resolution)
    lengths = box.get_size()
    counts = [int(np.ceil(length / voxel_size / 4)) * 4 for length in (lengths.x, lengths.y, lengths.z)]
    sides = [count * voxel_size for count in counts]
    if max(counts) > 1200:
        raise ValueError(f"the model is {max(lengths.x, lengths.y, lengths.z):.0f} angstrom wide")
    move = gemmi.Vec3(*(-np.array([box.minimum.x, box.minimum.y, box.minimum.z])))
    model.transform_pos_and_adp(gemmi.Transform(gemmi.Mat33(), move))
    calculator = gemmi.DensityCalculatorE()
    calculator.d_min, calculator.rate = 2 * voxel_size, 1.0
    calculator.grid.set_unit_cell(gemmi.UnitCell(sides[0], sides[1], sides[2], 90, 90, 90))
    calculator.grid.spacegroup = gemmi.SpaceGroup("P1")
    calculator.grid.set_size(*counts)  # after the cell, which gives the spacing
    calculator.add_model_density_to_grid(model)
    return np.ascontiguousarray(np.array(calculator.grid, copy=False).T, dtype=np.float32)
