"""Other programs as they are run by their users: RELION's Laplacian-of-Gaussian picker and Topaz's general model.

Both get MRC copies of the micrographs, the true pixel size and the true particle diameter. What they find is kept in a
cache folder, one STAR a micrograph, in pixels of the micrograph; a run with the same settings reads it again.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mrcfile
import numpy as np

from cryosegnet_ext import Picks, read_picks
from cryosegnet_ext.files.atomic import write_atomic
from cryosegnet_ext.files.micrograph import Micrograph

LOG_RANGE = (0.8, 1.2)
"""Smallest and largest diameter for LoG, of the true one."""

TOPAZ_DIAMETER = 24.0
"""How many pixels the particle shall span for Topaz; the whole-number downsampling that comes nearest is taken."""

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Task:
    """Micrographs of one particle; ``diameter`` in angstrom, all of one pixel size."""

    name: str
    micrographs: Sequence[Micrograph]
    diameter: float
    pixel_size: float

    @property
    def diameter_px(self) -> float:
        return self.diameter / self.pixel_size


def relion_log(task: Task, folder: Path, adjust: float = 0.0) -> list[str]:
    """RELION's LoG picker; ``adjust`` moves its threshold by so many standard deviations of the figure of merit."""
    low, high = (f"{share * task.diameter:.0f}" for share in LOG_RANGE)
    words = ["relion_autopick", "--i", "*.mrc", "--odir", "out/", "--pickname", "autopick", "--LoG"]
    words += ["--LoG_diam_min", low, "--LoG_diam_max", high, "--angpix", f"{task.pixel_size:g}"]
    if adjust:
        words += ["--LoG_adjust_threshold", f"{adjust:g}"]
    return words


def topaz_scale(task: Task, diameter: float = TOPAZ_DIAMETER) -> int:
    """The whole number to downsample by."""
    return max(1, round(task.diameter_px / diameter))


def run_relion_log(task: Task, cache: Path, adjust: float = 0.0) -> dict[str, Picks]:
    words = relion_log(task, cache, adjust)

    def work(folder: Path) -> dict[str, Picks]:
        _write(task, folder)
        _run(words, folder)
        found = {}
        for m in task.micrographs:
            file = next(folder.glob(f"out/**/{m.name}_autopick.star"), None)
            found[m.name] = read_picks(file) if file else Picks.empty()
        return found

    return _cached(task, cache, "relion-log", words, work)


def run_topaz(
    task: Task, cache: Path, topaz: str, threshold: float = -6.0, diameter: float = TOPAZ_DIAMETER
) -> dict[str, Picks]:
    """Topaz takes each micrograph by itself, so each is cached by itself: a run that is stopped loses one."""
    found: dict[str, Picks] = {}
    for m in task.micrographs:
        found |= _run_topaz(
            replace(task, name=f"{task.name}-{m.name}", micrographs=[m]), cache, topaz, threshold, diameter
        )
    return found


def _run_topaz(task: Task, cache: Path, topaz: str, threshold: float, diameter: float) -> dict[str, Picks]:
    scale = topaz_scale(task, diameter)
    radius = max(1, round(task.diameter_px / scale / 2))
    prepare = [topaz, "preprocess", "-s", str(scale), "-d", "-1", "-j", "1", "-o", "small"]
    extract = [topaz, "extract", "-m", "resnet16", "-r", str(radius), "-t", f"{threshold:g}", "-x", str(scale)]
    extract += ["-d", "-1", "-j", "1", "-o", "picks.txt"]

    def work(folder: Path) -> dict[str, Picks]:
        names = [f"{name}.mrc" for name in _write(task, folder)]
        _run([*prepare, *names], folder)
        _run([*extract, *(f"small/{name}" for name in names)], folder)
        rows: dict[str, list[list[float]]] = {}
        with open(folder / "picks.txt", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                rows.setdefault(row["image_name"], []).append([float(row[k]) for k in ("x_coord", "y_coord", "score")])
        found = {}
        for m in task.micrographs:
            x, y, s = np.array(rows.get(m.name, np.zeros((0, 3)))).reshape(-1, 3).T
            found[m.name] = Picks(x, y, np.full(len(x), np.nan), s)
        return found

    return _cached(task, cache, "topaz", [Path(prepare[0]).name, *prepare[1:], *extract[1:]], work)


def _write(task: Task, folder: Path) -> list[str]:
    for m in task.micrographs:
        with mrcfile.new(folder / f"{m.name}.mrc") as mrc:
            mrc.set_data(np.ascontiguousarray(m.data, np.float32))
            mrc.voxel_size = task.pixel_size
    return [m.name for m in task.micrographs]


def _run(words: list[str], folder: Path) -> None:
    done = subprocess.run(words, cwd=folder, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout[-500:]}{done.stderr[-2000:]}")


def _cached(
    task: Task, cache: Path, program: str, words: list[str], work: Callable[[Path], dict[str, Picks]]
) -> dict[str, Picks]:
    """What ``work`` finds, from the cache if the same command ran on the same micrographs before."""
    pixels = hashlib.sha256()
    for m in task.micrographs:
        pixels.update(m.name.encode() + np.ascontiguousarray(m.data, np.float32).tobytes())
    key = json.dumps({"command": words, "micrographs": pixels.hexdigest(), "pixel_size": task.pixel_size}, indent=1)
    target = cache / program / f"{task.name}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
    if not (target / "command.json").exists():
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target) as folder:  # two runs at once do not meet
            found = work(Path(folder))
        for name, picks in found.items():
            picks.write(target / f"{name}.star")
        write_atomic(target / "command.json", key)
    return {m.name: read_picks(target / f"{m.name}.star") for m in task.micrographs}
