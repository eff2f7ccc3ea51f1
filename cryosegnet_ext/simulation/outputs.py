"""The files of a simulation: micrographs as MRC, the truth and the list of micrographs as RELION 3.1 STAR files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mrcfile
import numpy as np
from numpy.typing import NDArray

from ..files.atomic import atomic_path, write_atomic
from ..files.star import read_star_blocks, star_text
from .detector import modulation_transfer
from .optics import Optics
from .scene import Truth
from .textures import Image

TRUTH_COLUMNS = (
    "rlnCoordinateX",
    "rlnCoordinateY",
    "rlnAngleRot",
    "rlnAngleTilt",
    "rlnAnglePsi",
    "rlnOriginXAngst",
    "rlnOriginYAngst",
    "rlnClassNumber",
    "rlnMicrographName",
    "cryosegnetDefocusOffset",
)


def write_mrc(path: Path, data: Image, pixel_size: float) -> None:
    """Write an image (ny, nx) or a volume (nz, ny, nx); the same data always give the same bytes."""
    with atomic_path(path) as temporary:
        with mrcfile.new(temporary) as mrc:
            mrc.set_data(np.asarray(data, np.float32))
            mrc.voxel_size = pixel_size
            mrc.header.label[0] = b"cryosegnet simulate".ljust(80)  # mrcfile's own label holds the time
            mrc.header.nlabl = 1
        temporary.chmod(0o644)


def truth_star(truth: Truth | None, micrograph: str, species: Sequence[str]) -> str:
    """The particles of one micrograph: centres, orientations and species (class number, from 1).

    Centres are whole pixels of the array, as `relion_preprocess` needs them, so the origins are zero. The last column
    is the defocus of the particle minus that of the micrograph, angstrom: RELION 3.1 keeps unknown columns, but crashes
    on coordinates with a defocus of their own. `read_truth_summary` reads the comment.
    """
    coverage = truth.coverage if truth is not None else 0.0
    rows: list[tuple[object, ...]] = []
    if truth is not None:
        angles = truth.angles if truth.angles is not None else np.full((len(truth.x), 3), np.nan)
        depth = truth.depth if truth.depth is not None else np.zeros(len(truth.x))
        for x, y, turned, z, name in zip(truth.x, truth.y, angles, depth, truth.name):
            rot, tilt, psi = (f"{angle:.4f}" for angle in turned)
            number = species.index(name) + 1
            rows.append((f"{x:.2f}", f"{y:.2f}", rot, tilt, psi, "0.0", "0.0", number, micrograph, f"{z:.2f}"))
    return star_text({"": _columns(TRUTH_COLUMNS, rows)}, f"particles cover {coverage:.4f} of the frame")


def _columns(labels: Sequence[str], rows: Sequence[Sequence[object]]) -> dict[str, Sequence[object]]:
    return {label: [row[i] for row in rows] for i, label in enumerate(labels)}


def read_truth_summary(path: Path) -> tuple[int, float]:
    """Number of particles in a truth table of ours, and the share of the frame that they cover."""
    (block,) = read_star_blocks(path)
    lines = path.read_text().split("\n")
    covered = next((line.split()[3] for line in lines if line.startswith("# particles cover ")), "nan")
    return len(block), float(covered)


def micrographs_star(rows: Sequence[tuple[str, Optics, str | None]], pixel_size: float) -> str:
    """RELION 3.1's table of micrographs, given as name, optics and MTF file or None.

    Each MTF file makes an optics group; either all micrographs have one, or none has.
    """
    optics = rows[0][1]
    groups = {mtf: number for number, mtf in enumerate(dict.fromkeys(mtf for _, _, mtf in rows), 1)}
    columns: dict[str, Sequence[object]] = {
        "rlnOpticsGroupName": [f"opticsGroup{number}" for number in groups.values()],
        "rlnOpticsGroup": list(groups.values()),
        **({} if None in groups else {"rlnMtfFileName": list(groups)}),
        "rlnMicrographOriginalPixelSize": [pixel_size] * len(groups),
        "rlnMicrographPixelSize": [pixel_size] * len(groups),
        "rlnVoltage": [f"{optics.voltage:.3f}"] * len(groups),
        "rlnSphericalAberration": [f"{optics.cs:.4f}"] * len(groups),
        "rlnAmplitudeContrast": [f"{optics.amplitude_contrast:.4f}"] * len(groups),
    }
    micrographs: dict[str, Sequence[object]] = {
        "rlnMicrographName": [name for name, _, _ in rows],
        "rlnOpticsGroup": [groups[mtf] for _, _, mtf in rows],
        "rlnDefocusU": [f"{o.defocus_u:.2f}" for _, o, _ in rows],
        "rlnDefocusV": [f"{o.defocus_v:.2f}" for _, o, _ in rows],
        "rlnDefocusAngle": [f"{o.defocus_angle:.3f}" for _, o, _ in rows],
        "rlnCtfMaxResolution": [f"{max(2 * pixel_size, 3.0):.2f}"] * len(rows),
    }
    return star_text({"optics": columns, "micrographs": micrographs})


def write_mtfs(output: Path, values: Sequence[float], drawn: tuple[float, float]) -> dict[float, str | None]:
    """Write an MTF file for each value of the detector's response at Nyquist; their names in ``output``.

    ``drawn`` is the range of the values. A range that is one value below 1 has the file ``mtf.star``; 1 has none.
    """
    names: dict[float, str | None] = {}
    for value in values:
        names[value] = f"mtf_{value:g}.star" if drawn[0] < drawn[1] else "mtf.star" if value < 1 else None
    for value, name in names.items():
        if name is not None:
            write_atomic(output / name, mtf_star(value))
    return names


def mtf_star(at_nyquist: float) -> str:
    """The response of the detector in the format of RELION's PostProcess: frequency in 1 / pixel, and value."""
    frequency: NDArray[np.float64] = np.linspace(0, 0.5, 51)
    values = modulation_transfer(frequency, at_nyquist)
    return star_text({"": {"rlnResolutionInversePixel": [f"{s:.4f}" for s in frequency], "rlnMtfValue": list(values)}})
