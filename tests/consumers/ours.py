"""Outputs of our commands for picks that are known: a picker that always gives them, and the folders it fills.

The micrograph is not square, and no flip or swap of axes maps the picks onto each other. Run as a program, it is
``cryosegnet`` or, with ``relion`` as the first word, ``cryosegnet-relion``.
"""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import mrcfile
import numpy as np

from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.files.picks import Picks
from tests.waiting import LIMIT

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (160, 256)
PIXEL_SIZE = 1.5
X = np.array([200.0, 31.0, 9.0, 150.0, 90.0])
Y = np.array([20.0, 40.0, 150.0, 97.0, 61.0])
DIAMETER = np.array([48.0, 45.0, 51.0, 42.0, 48.0])  # angstrom
SCORE = np.array([0.95, 0.9, 0.75, 0.5, 0.25])
#: What BOX and CBOX files take for all boxes of the data set, in pixels.
BOX = 32


class Picker:
    """Gives the picks above to every micrograph, and none to those called ``empty``."""

    needs_diameter = False
    device = "cpu"

    def __init__(self, weights: str = "default", **options: object) -> None:
        self.settings: dict[str, object] = {"weights": weights}

    def estimate_diameter(self, micrographs: Sequence[Micrograph]) -> float | None:
        return None

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        picks = Picks(X, Y, DIAMETER, SCORE, micrograph.pixel_size, micrograph.data.shape, BOX * PIXEL_SIZE)
        return picks.above(2) if "empty" in Path(micrograph.name).name else picks


def write_micrographs(folder: Path, names: Sequence[str] = ("mic_001", "empty_002")) -> list[Path]:
    """Noise with dark discs at the picks."""
    folder.mkdir(parents=True, exist_ok=True)
    yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
    paths: list[Path] = []
    for number, name in enumerate(names):
        data = np.random.default_rng(number).normal(size=SHAPE)
        for x, y, diameter in zip(X, Y, DIAMETER / PIXEL_SIZE):
            data[(xx - x) ** 2 + (yy - y) ** 2 < (diameter / 2) ** 2] -= 5
        paths.append(folder / f"{name}.mrc")
        with mrcfile.new(paths[-1]) as mrc:
            mrc.set_data(data.astype(np.float32))
            mrc.voxel_size = PIXEL_SIZE
    return paths


def run(folder: Path, *words: str | Path) -> None:
    """One of our programs in ``folder``, with the picker above."""
    command = [sys.executable, "-m", "tests.consumers.ours", *map(str, words)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr


if __name__ in ("__main__", "__mp_main__"):
    module = types.ModuleType("cryosegnet_ext.picking.picker")
    module.Picker = Picker  # type: ignore[attr-defined]
    sys.modules["cryosegnet_ext.picking.picker"] = module

if __name__ == "__main__":
    if sys.argv[1] == "relion":
        from relion_external.job import main as relion

        sys.exit(relion(sys.argv[2:]))
    from cryosegnet_ext.cli import main

    sys.exit(main())
