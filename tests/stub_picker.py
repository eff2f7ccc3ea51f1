"""A picker for tests that needs no network: local maxima on a coarse grid. Run as a program it is ``cryosegnet``.

STUB_SECONDS is the time it takes a micrograph, STUB_LOOK_SECONDS that of the estimate for each; it never ends one whose
file is called STUB_HOLD.
"""

from __future__ import annotations

import os
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path

import mrcfile
import numpy as np

from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.files.picks import Picks
from tests.waiting import FOREVER

CELL = 16


class StubPicker:
    needs_diameter = True

    def __init__(self, *args: object, threshold: float | None = None, **options: object) -> None:
        self.settings: dict[str, object] = {"threshold": threshold, "weights": {"sha256": "abc"}}
        self.estimated: list[list[str]] = []
        self.picked: list[tuple[str, float | None]] = []

    def estimate_diameter(self, micrographs: Sequence[Micrograph]) -> float | None:
        self.estimated.append([Path(m.name).name for m in micrographs])
        return 20.0 + float(np.mean([m.data.mean() for m in micrographs]))

    def estimate_sizes(
        self, micrographs: Sequence[Micrograph], looked: Callable[[int], None] = lambda number: None
    ) -> tuple[float, ...]:
        for number in range(len(micrographs)):
            time.sleep(float(os.environ.get("STUB_LOOK_SECONDS", "0")))
            looked(number + 1)
        found = self.estimate_diameter(micrographs)
        return () if found is None else (found,)

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        self.picked.append((Path(micrograph.name).name, diameter))
        held = Path(micrograph.name).name == os.environ.get("STUB_HOLD")
        time.sleep(FOREVER if held else float(os.environ.get("STUB_SECONDS", "0")))
        ny, nx = (side // CELL for side in micrograph.data.shape)
        cells = micrograph.data[: ny * CELL, : nx * CELL].reshape(ny, CELL, nx, CELL).swapaxes(1, 2).reshape(ny, nx, -1)
        at = cells.argmax(axis=2)
        y, x = np.mgrid[:ny, :nx] * CELL + np.array([at // CELL, at % CELL])
        size = np.full(x.size, diameter or 10.0)
        return Picks(x, y, size, np.clip(cells.max(axis=2) / 5, 0, 1), micrograph.pixel_size, micrograph.data.shape)


def write_micrograph(path: Path, seed: int = 0, shape: tuple[int, int] = (64, 96), pixel_size: float = 2.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(np.random.default_rng(seed).normal(size=shape).astype(np.float32))
        mrc.voxel_size = pixel_size
    return path


if __name__ in ("__main__", "__mp_main__"):
    module = types.ModuleType("cryosegnet_ext.picking.picker")
    module.Picker = StubPicker  # type: ignore[attr-defined]
    sys.modules["cryosegnet_ext.picking.picker"] = module

if __name__ == "__main__":
    from cryosegnet_ext.cli import main

    sys.exit(main())
