"""What a simulation writes: micrographs as MRC, truth and micrographs as RELION 3.1 STAR files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mrcfile
import numpy as np
from numpy.typing import NDArray

from ..files.atomic import atomic_path, write_atomic
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
    """Write an image (ny, nx) or a volume (nz, ny, nx); the same data give the same bytes, whenever written."""
    with atomic_path(path) as temporary:
        with mrcfile.new(temporary) as mrc:
            mrc.set_data(np.asarray(data, np.float32))
            mrc.voxel_size = pixel_size
            mrc.header.label[0] = b"cryosegnet simulate".ljust(80)  # mrcfile's own label holds the time
            mrc.header.nlabl = 1
        temporary.chmod(0o644)


def truth_star(truth: Truth | None, micrograph: str, species: Sequence[str]) -> str:
    """The particles of one micrograph: centres, orientations and species (class number, from 1).

    Centres are whole pixels of the array, as `relion_preprocess` wants them, so the origins are zero. The last column
    is what a particle's defocus has more than the micrograph's, angstrom: RELION 3.1 carries unknown columns along,
    but crashes on coordinates that come with a defocus of their own. A comment holds what `read_truth_summary` reads.
    """
    coverage = truth.coverage if truth is not None else 0.0
    lines = ["# version 30001", f"# particles cover {coverage:.4f} of the frame", "", "data_", "", "loop_"]
    lines += [f"_{name} #{i}" for i, name in enumerate(TRUTH_COLUMNS, 1)]
    if truth is not None:
        angles = truth.angles if truth.angles is not None else np.full((len(truth.x), 3), np.nan)
        depth = truth.depth if truth.depth is not None else np.zeros(len(truth.x))
        for x, y, (rot, tilt, psi), z, name in zip(truth.x, truth.y, angles, depth, truth.name):
            lines.append(
                f"{x:.2f} {y:.2f} {rot:.4f} {tilt:.4f} {psi:.4f} 0.0 0.0 {species.index(name) + 1} {micrograph} {z:.2f}"
            )
    return "\n".join([*lines, ""])


def read_truth_summary(path: Path) -> tuple[int, float]:
    """How many particles one of our truth tables lists, and the share of the frame that all of them cover."""
    lines = path.read_text().split("\n")
    covered = next((line.split()[3] for line in lines if line.startswith("# particles cover ")), "nan")
    return sum(1 for line in lines if line and line[0] not in "#_dl"), float(covered)


def micrographs_star(rows: Sequence[tuple[str, Optics, str | None]], pixel_size: float) -> str:
    """RELION 3.1's table of micrographs, given as name, optics and the detector's table or None.

    Each detector's table makes an optics group of its own; all of them have one or none has.
    """
    optics = rows[0][1]
    groups = {mtf: number for number, mtf in enumerate(dict.fromkeys(mtf for _, _, mtf in rows), 1)}
    columns = ["rlnOpticsGroupName", "rlnOpticsGroup", *([] if None in groups else ["rlnMtfFileName"])]
    columns += ["rlnMicrographOriginalPixelSize", "rlnMicrographPixelSize", "rlnVoltage", "rlnSphericalAberration"]
    columns += ["rlnAmplitudeContrast"]
    values = [f"{pixel_size:.6f}", f"{pixel_size:.6f}"]
    values += [f"{optics.voltage:.3f}", f"{optics.cs:.4f}", f"{optics.amplitude_contrast:.4f}"]
    lines = ["# version 30001", "", "data_optics", "", "loop_"]
    lines += [f"_{name} #{i}" for i, name in enumerate(columns, 1)]
    for mtf, number in groups.items():
        lines.append(" ".join([f"opticsGroup{number}", str(number), *([mtf] if mtf else []), *values]))
    lines += ["", "# version 30001", "", "data_micrographs", "", "loop_"]
    columns = ["rlnMicrographName", "rlnOpticsGroup", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"]
    columns += ["rlnCtfMaxResolution"]
    lines += [f"_{name} #{i}" for i, name in enumerate(columns, 1)]
    for name, o, mtf in rows:
        lines.append(
            f"{name} {groups[mtf]} {o.defocus_u:.2f} {o.defocus_v:.2f} {o.defocus_angle:.3f} "
            f"{max(2 * pixel_size, 3.0):.2f}"
        )
    return "\n".join([*lines, ""])


def write_mtfs(output: Path, values: Sequence[float], drawn: tuple[float, float]) -> dict[float, str | None]:
    """Write a table for each value of the detector's response at half the sampling rate; their names in ``output``.

    ``drawn`` is the range that the values come from: a single value below 1 is ``mtf.star``, 1 alone has no table.
    """
    names: dict[float, str | None] = {}
    for value in values:
        names[value] = f"mtf_{value:g}.star" if drawn[0] < drawn[1] else "mtf.star" if value < 1 else None
    for value, name in names.items():
        if name is not None:
            write_atomic(output / name, mtf_star(value))
    return names


def mtf_star(at_nyquist: float) -> str:
    """The detector's response as RELION's PostProcess reads it: frequency in 1 / pixel, and value."""
    frequency: NDArray[np.float64] = np.linspace(0, 0.5, 51)
    lines = ["# version 30001", "", "data_", "", "loop_", "_rlnResolutionInversePixel #1", "_rlnMtfValue #2"]
    lines += [f"{s:.4f} {m:.6f}" for s, m in zip(frequency, modulation_transfer(frequency, at_nyquist))]
    return "\n".join([*lines, ""])
