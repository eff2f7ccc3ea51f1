"""Runs for the tests of the report: a picker whose candidates go below its threshold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.runs import batch
from tests.stub_picker import write_micrograph


class CandidatePicker:
    """Random candidates, the same for the same micrograph; scores include exact hundredths and their neighbours."""

    needs_diameter = False

    def __init__(self, threshold: float = 0.5, count: int = 60) -> None:
        self.threshold = threshold
        self.count = count
        self.settings: dict[str, object] = {"threshold": threshold, "weights": "stub"}

    def estimate_diameter(self, micrographs: Sequence[Micrograph]) -> float | None:
        return None

    def candidates(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        rng = np.random.default_rng(abs(int(1e4 * float(micrograph.data[0, 0]))))
        ny, nx = micrograph.data.shape
        n = self.count if micrograph.data.mean() < 50 else 0
        score = rng.random(n)
        score[: n // 4] = np.round(score[: n // 4], 2)
        score[: n // 8] = np.nextafter(score[: n // 8], rng.choice([0.0, 1.0], n // 8))
        size = rng.normal(40, 6, n).round(rng.integers(0, 3))
        return Picks(
            rng.uniform(0, nx - 1, n), rng.uniform(0, ny - 1, n), size, score, micrograph.pixel_size, (ny, nx)
        ).by_score()

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        return self.candidates(micrograph, diameter).above(self.threshold)


def make_run(folder: Path, names: Sequence[str], threshold: float = 0.5, output: str = "out", count: int = 60) -> Path:
    """Pick micrographs of these names; one that starts with ``bad`` is damaged, with ``empty`` has no particles."""
    for seed, name in enumerate(names):
        path = folder / "mics" / name
        if path.exists():
            continue
        write_micrograph(path, seed)
        if name.startswith("bad"):
            path.write_bytes(path.read_bytes()[:3000])
        elif name.startswith("empty"):
            import mrcfile

            with mrcfile.open(path, "r+") as mrc:
                mrc.set_data(mrc.data + np.float32(100))
    inputs = expand_inputs([folder / "mics"])
    batch.run(CandidatePicker(threshold, count), inputs, folder / output, progress=False, overlays=False)
    return folder / output
