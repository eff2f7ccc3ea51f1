"""What `cryosegnet report --averages` says of simulated particles: the verdict, and the share that is not noise.

    python -m benchmarks.accuracy.averages

- noise: projections of beta-galactosidase, 32 pixels wide, at known places on four images of white or pink noise.
  The ratio is that of the variance inside the particles to that of the noise, pixel by pixel;
- micrographs: `cryosegnet simulate` with carbon edges and contamination, `cryosegnet pick` and `cryosegnet report
  --averages`, all with default options.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path

import cv2
import numpy as np

from benchmarks import real_data
from benchmarks.accuracy.no_particles import COLOURS, coloured_noise
from cryosegnet_ext import Picks
from cryosegnet_ext.cli import main as cryosegnet
from cryosegnet_ext.report.average_verdict import DIAMETER, judge, working
from cryosegnet_ext.report.averages import TABLE
from cryosegnet_ext.simulation.projection import project, random_rotations
from cryosegnet_ext.simulation.specimens import Specimen, read_specimen

SPECIMEN = real_data.SHARED / "specimens" / "maps" / "betagal.mrc"
RATIOS = (0.2, 0.1, 0.05, 0.02)
IMAGES, ROWS, PITCH = 4, 10, 46
"""Images of noise, rows and columns of particles on each, and their distance, pixels."""

SIMULATED = "--count 4 --seed 1 --carbon 0.1:0.3 --contamination 3:8"


def particles(specimen: Specimen, seed: int) -> tuple[np.ndarray, Picks]:
    """Bright particles near the points of a grid, (side, side), and their places."""
    rng = np.random.default_rng([1, seed])
    zoom = DIAMETER * specimen.voxel_size / specimen.diameter
    side = (ROWS + 1) * PITCH
    image = np.zeros((side, side), np.float32)
    grid = PITCH * (1 + np.stack(np.meshgrid(range(ROWS), range(ROWS))).reshape(2, -1))
    at = grid + rng.integers(-3, 4, grid.shape)
    for view, x, y in zip(project(specimen, random_rotations(ROWS**2, rng)), *at):
        move = np.array([[zoom, 0, x - zoom * (len(view) - 1) / 2], [0, zoom, y - zoom * (len(view) - 1) / 2]])
        image += cv2.warpAffine(view, move, image.shape[::-1], flags=cv2.INTER_LINEAR)
    x, y = at.astype(float)
    return image, Picks(x, y, np.full(len(x), DIAMETER), np.ones(len(x)), None)


def in_noise(specimen: Specimen, ratio: float, power: float) -> tuple[int, str, float]:
    """Number of particles, verdict and share, where the power of the noise falls with the frequency to ``power``."""
    images, places = [], []
    for number in range(IMAGES):
        signal, picks = particles(specimen, number)
        y, x = np.indices(signal.shape)
        inside = np.zeros(signal.shape, bool)
        for px, py in zip(picks.x, picks.y):
            inside |= np.hypot(x - px, y - py) < DIAMETER / 2
        data = coloured_noise(len(signal), power, number) - signal * np.float32(np.sqrt(ratio) / signal[inside].std())
        image, x, y = working(data, picks, DIAMETER)
        images.append(image)
        places.append((x, y))
    return (sum(len(x) for x, _ in places), *judge(images, places))


def on_micrographs(folder: Path) -> tuple[int, str, float]:
    """Number of picks, verdict and share of a run on simulated micrographs."""
    simulated, picked = str(folder / "simulated"), str(folder / "picked")
    for words in (
        ["simulate", str(SPECIMEN), "-o", simulated, *SIMULATED.split()],
        ["pick", f"{simulated}/micrographs.star", "-o", picked],
        ["report", picked, "--averages"],
    ):
        with contextlib.redirect_stdout(io.StringIO()):
            code = cryosegnet(words)
        if code:
            raise SystemExit(code)
    table = json.loads((folder / "picked" / TABLE).read_text())
    return table["picks"], table["verdict"], table["share"]


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--ratios", type=float, nargs="+", default=list(RATIOS), help="signal-to-noise ratios")
    a = ap.parse_args()
    print("| what | picks | verdict | share, % |")
    print("|---|---|---|---|")
    specimen = read_specimen(SPECIMEN)
    for colour, power in COLOURS:
        for ratio in a.ratios:
            _print(f"{colour} noise, SNR {ratio:g}", *in_noise(specimen, ratio, power))
    with tempfile.TemporaryDirectory() as folder:
        _print("micrographs with carbon edges and contamination", *on_micrographs(Path(folder)))


def _print(what: str, count: int, verdict: str, share: float) -> None:
    print(f"| {what} | {count} | {verdict} | {100 * share:.0f} |", flush=True)


if __name__ == "__main__":
    main()
