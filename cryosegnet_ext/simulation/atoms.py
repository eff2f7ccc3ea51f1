"""Atomic models: the electrostatic potential of their atoms on a grid."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import CryoSegNetError

# Angstrom; the largest viruses with a known structure are about 2000 wide, and a wider grid would not fit in memory.
WIDEST = 3000.0


def model_density(
    path: Path, voxel_size: float, resolution: float | None, assembly: str | None
) -> tuple[NDArray[np.float32], str]:
    """Density (nz, ny, nx) of an atomic model, as in `specimens.read_specimen`, and which atoms it has.

    Raises
    ------
    CryoSegNetError
        gemmi is not installed.
    ValueError, RuntimeError, OSError, EOFError, zlib.error
        The file cannot be read, or holds no atoms but water.
    """
    try:
        import gemmi
    except ImportError as error:
        raise CryoSegNetError("Atomic models need gemmi: pip install 'cryosegnet-ext[simulate]'.") from error
    name = path.name.lower()
    opener = gzip.open if name.endswith(".gz") else bz2.open if name.endswith(".bz2") else open
    with opener(path, "rt", errors="replace") as stream:
        text = stream.read()
    if not text.strip():
        raise ValueError("it is empty: copy or download it again")
    if name.removesuffix(".gz").removesuffix(".bz2").endswith("cif"):
        # Programs write blocks of ligands before or after the model's.
        blocks = [block for block in gemmi.cif.read_string(text) if block.find_values("_atom_site.id")]
        if len(blocks) > 1:
            raise ValueError(f"it holds {len(blocks)} models with atoms: give each as a file of its own")
        structure = gemmi.make_structure_from_block(blocks[0]) if blocks else gemmi.Structure()
    else:
        structure = gemmi.read_pdb_string(text)
    if sum(model.count_atom_sites() for model in structure) == 0:
        raise ValueError("it holds no atoms: give the whole file, with its ATOM records")
    structure.setup_entities()
    built = _build(structure, assembly)
    structure.remove_waters()
    atoms = [site.atom for site in structure[0].all()]
    if not atoms:
        raise ValueError("it holds no atoms but water")
    positions = np.array([(atom.pos.x, atom.pos.y, atom.pos.z) for atom in atoms], np.float32)
    if not np.isfinite(positions).all():
        raise ValueError("it has atoms whose coordinates are not finite")
    extent = float(np.ptp(positions, axis=0).max())
    if extent > WIDEST:
        raise ValueError(f"its atoms lie {extent:.0f} angstrom apart, too far for a particle")
    if resolution is not None:
        return _scattering_density(structure, voxel_size, resolution), built
    weights = np.array([_forward_scattering(atom.element.name) * atom.occ for atom in atoms], np.float32)
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
    return ndimage.gaussian_filter(grid, max(2.5 / voxel_size, 0.6)).astype(np.float32), built


def _build(structure: Any, assembly: str | None) -> str:
    """Turn a gemmi structure into its first assembly, or the one of that name ("none": not at all); what was done."""
    import gemmi

    names = [one.name for one in structure.assemblies]
    if assembly == "none":
        return "the atoms of the file as they are"
    if assembly is None and not names:
        return "the file names no biological assembly, so its atoms are taken as they are"
    name = names[0] if assembly is None else assembly
    if name not in names:
        raise ValueError(f"it has no assembly {name} (it has {', '.join(names) or 'none'})")
    copies = max((len(one.operators) for one in structure.assemblies[names.index(name)].generators), default=1)
    structure.transform_to_assembly(name, gemmi.HowToNameCopiedChain.Dup)
    return f"biological assembly {name} of {len(names)} in the file, {copies} {'copies' if copies > 1 else 'copy'}"


# f(0) of the electron scattering factors, angstrom (Peng et al., Acta Cryst. A52, 1996); carbon for the rest.
_F0 = {"H": 0.53, "C": 2.51, "N": 2.21, "O": 1.98, "P": 5.49, "S": 5.16, "MG": 5.21, "ZN": 6.06, "FE": 7.17, "SE": 7.24}


def _forward_scattering(element: str) -> float:
    return _F0.get(element.upper(), 2.51)


def _scattering_density(structure: Any, voxel_size: float, resolution: float) -> NDArray[np.float32]:
    """Potential (nz, ny, nx) of a gemmi structure from the scattering factors of its atoms, at an arbitrary scale."""
    import gemmi

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
