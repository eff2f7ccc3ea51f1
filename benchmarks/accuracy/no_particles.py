"""Picks on micrographs without particles: every pick is wrong.

    python -m benchmarks.accuracy.no_particles

- views: contamination, empty holes, crystalline and empty vitreous ice. Those in the ``train`` list of ``no-particles``
  in ``benchmarks/splits.json`` were shown to the network in training, those in ``test`` and those of other sources
  (the folder ``no-particles``) were not;
- filaments: simulated micrographs of a continuous helix (`benchmarks.accuracy.filaments`), which are to be left alone;
- noise: white, and pink (its power falls as one over the frequency).

Each micrograph by itself, default options: the size estimated by the program, and given as each of SIZES, since nobody
knows the size of particles that are not there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import fft

from benchmarks import real_data
from benchmarks.accuracy import filaments
from benchmarks.weights.calibrate import EMPTY_SIZES
from cryosegnet_ext import Picker, read_micrograph
from cryosegnet_ext.files.micrograph import Micrograph

SIZES = EMPTY_SIZES
"""Particle diameters that are given, pixels."""

RATIOS, FILAMENT_MICROGRAPHS = (0.1, 2.0), 2
NOISE_SIDE, NOISE_MICROGRAPHS = 1024, 2
COLOURS = (("white", 0.0), ("pink", 1.0))
"""Noise, and how its power falls with the frequency."""

KINDS = ("views", "filaments", "noise")


def views() -> Iterator[tuple[str, str, Micrograph]]:
    """Group, name and micrograph of the real views."""
    for split in ("test", "train"):
        for stem in real_data.SPLITS["no-particles"][split]:
            m = read_micrograph(real_data.SHARED / "micrographs" / "quality-examples" / f"{stem}.png")
            kind, _, name = stem.partition("__")
            group = "views in training" if split == "train" else "views not in training"
            yield group, f"{kind[1:].replace('_', ' ')}, {name.split('gr_')[0]}", m
    for path in sorted((real_data.SHARED / "micrographs" / "no-particles").glob("*.*")):
        yield "views of other sources", path.stem, read_micrograph(path)


def helices() -> Iterator[tuple[str, str, Micrograph]]:
    """Group, name and micrograph of the simulated filaments."""
    for ratio in RATIOS:
        for number in range(FILAMENT_MICROGRAPHS):
            yield f"filaments, SNR {ratio:g}", f"filaments {number}, SNR {ratio:g}", filaments.micrograph(ratio, number)


def coloured_noise(side: int, power: float, seed: int) -> np.ndarray:
    """Noise (side, side) of mean 0 and standard deviation 1; its power falls as the frequency to ``power``."""
    image = np.random.default_rng([31, seed]).standard_normal((side, side), np.float32)
    frequency = np.hypot(fft.fftfreq(side)[:, None], fft.rfftfreq(side)[None, :])
    wave = fft.rfft2(image) / np.maximum(frequency, 1 / side) ** (power / 2)
    wave[0, 0] = 0
    data = fft.irfft2(wave, s=image.shape)
    return (data / data.std()).astype(np.float32)


def noise(side: int = NOISE_SIDE) -> Iterator[tuple[str, str, Micrograph]]:
    """Group, name and micrograph of noise."""
    for colour, power in COLOURS:
        for number in range(NOISE_MICROGRAPHS):
            name = f"{colour} noise {number}"
            yield f"{colour} noise", name, Micrograph(coloured_noise(side, power, number), None, name)


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--weights", default="default")
    ap.add_argument("--segmenter", help="peaks or watershed (default: the weights' own)")
    ap.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    ap.add_argument("--json", type=Path, help="file for the figures")
    a = ap.parse_args()
    picker = Picker(a.weights, segmenter=a.segmenter)
    sources = {"views": views, "filaments": helices, "noise": noise}
    given = " | ".join(f"{size:g} px given" for size in SIZES)
    print(f"| micrograph | size estimated, px | picks | {given} | all four |")
    print("|---|---|---|" + "---|" * (len(SIZES) + 1))
    counts: dict[str, list[np.ndarray]] = {}
    every: list[dict[str, object]] = []
    for kind in a.kinds:
        for group, name, m in sources[kind]():
            pixel = m.pixel_size or 1.0
            estimated = picker.estimate_diameter([m])
            found = [len(picker.pick(m, estimated)) if estimated else 0]
            found += [len(picker.pick(m, size * pixel)) for size in SIZES]
            counts.setdefault(group, []).append(np.array(found))
            every.append({"group": group, "micrograph": name, "estimated": (estimated or 0) / pixel, "picks": found})
            print(f"| {name} | {(estimated or 0) / pixel:.0f} | {_cells(np.array(found))} |", flush=True)
    for group, rows in counts.items():
        print(f"| all {len(rows)}: {group} | | {_cells(np.sum(rows, 0))} |")
    print(f"| all {len(every)} | | {_cells(np.sum([row for rows in counts.values() for row in rows], 0))} |")
    if a.json:
        a.json.write_text(json.dumps(every, indent=1))


def _cells(found: np.ndarray) -> str:
    return " | ".join(str(int(n)) for n in (*found, found.sum()))


if __name__ == "__main__":
    main()
