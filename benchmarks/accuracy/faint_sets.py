"""Faint micrographs at the network's working scale with their maps, for experiments with what comes after the map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import real_data
from benchmarks.accuracy import contrast
from benchmarks.accuracy.held_out import HeldOut, real
from benchmarks.accuracy.other_pickers import Task
from cryosegnet_ext import Picker
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.picking import denoise
from cryosegnet_ext.simulation.micrograph import ProjectionStack
from cryosegnet_ext.simulation.projection import project, random_rotations
from cryosegnet_ext.simulation.specimens import read_specimen
from cryosegnet_ext.weights import resolve, sha256_of

WORKING = 32.0
"""Particle diameter at the working scale, pixels."""

TUNING = (
    "1bxn.mrc",
    "1igy.cif.gz",
    "1sa0.pdb.gz",
    "2cg9.mrc",
    "3h84.pdb.gz",
    "3ipm.mrc",
    "3j9g.mrc",
    "3qm1.mrc",
    "4hhb.pdb.gz",
    "4zxb.cif.gz",
    "6utj.mrc",
    "8tux.mrc",
)
"""Specimens of the ``train`` list for tuning, small and large ones."""

DEFOCUS = (1.0, 0.85, 1.15, 0.9, 1.1, 1.0)
"""Defocus of a specimen's micrographs in turn, as a share of its nominal one."""


@dataclass(frozen=True)
class View:
    """One micrograph at the working scale.

    Attributes
    ----------
    image, probability : (h, w) float32
        The working image and the U-Net's map.
    centres : (n, 2)
        Labels, x and y in working pixels.
    inside : (n,) bool
        Labels that count.
    pixel_size : angstrom, of the working image
    defocus : angstrom, or None where it is not known
    """

    image: np.ndarray
    probability: np.ndarray
    centres: np.ndarray
    inside: np.ndarray
    pixel_size: float
    defocus: float | None


@dataclass(frozen=True)
class FaintSet:
    """Micrographs of one specimen; a pick is right within 0.3 ``label_diameter`` (working pixels)."""

    name: str
    views: list[View]
    label_diameter: float

    def held_out(self) -> HeldOut:
        """The same with the measures of the other benchmarks."""
        stems = [f"m{k}" for k in range(len(self.views))]
        task = Task(self.name, [Micrograph(v.image, None, s) for s, v in zip(stems, self.views)], WORKING, 1.0)
        labels = {s: v.centres for s, v in zip(stems, self.views)}
        inside = {s: v.inside for s, v in zip(stems, self.views)}
        return HeldOut(self.name, task, labels, inside, self.label_diameter)


def simulated(
    split: str, ratios: tuple[float, ...], count: int, weights: str, cache: Path
) -> Iterator[tuple[float, FaintSet]]:
    """Sets of ``count`` micrographs for each specimen of ``split`` ("test", or "tuning") and each ratio.

    The first micrograph of a test specimen is that of `benchmarks.accuracy.contrast`.
    """
    maker = _Maker(weights, cache)
    for number, path in enumerate(_specimens(split)):
        pixel_size, defocus = contrast.IMAGING[number % len(contrast.IMAGING)]
        views: dict[float, list[View]] = {ratio: [] for ratio in ratios}
        stack = None
        for k in range(count):
            here = defocus * DEFOCUS[k % len(DEFOCUS)]
            missing = [r for r in ratios if not maker.has(f"{split}-{path.name}-{k}-{r}")]
            made = {}
            if missing:
                stack = stack or _stack(path, number)
                made = contrast.micrographs(stack, pixel_size, here, seed=number + 1000 * k)
            for ratio in ratios:
                name = f"{split}-{path.name}-{k}-{ratio}"
                views[ratio].append(maker.view(name, made.get(ratio), here))
        for ratio in ratios:
            yield ratio, FaintSet(path.name, views[ratio], WORKING)


def labelled(weights: str, cache: Path) -> Iterator[FaintSet]:
    """EMPIAR-10059 (test split) and EMPIAR-10947."""
    maker = _Maker(weights, cache)
    for data in real(["empiar-10059", *real_data.TEST_SETS], "test"):
        views = [
            maker.view(
                f"{data.group}-{m.name}",
                HeldOut(
                    data.group,
                    Task(data.group, [m], data.task.diameter, data.task.pixel_size),
                    {m.name: data.labels[m.name]},
                    {m.name: data.inside[m.name]},
                    data.label_diameter,
                ),
                None,
            )
            for m in data.task.micrographs
        ]
        yield FaintSet(data.group, views, data.label_diameter * WORKING / data.task.diameter_px)


def _specimens(split: str) -> list[Path]:
    paths = sorted((real_data.SHARED / "specimens").glob("*/*"))
    if split == "tuning":
        return [p for p in paths if p.name in TUNING]
    names = set(real_data.SPLITS["specimens"][split])
    return [p for p in paths if p.name.split(".")[0] in names]


def _stack(path: Path, number: int) -> ProjectionStack:
    specimen = read_specimen(path)
    images = project(specimen, random_rotations(40, np.random.default_rng(number)))
    return ProjectionStack(path.name, images, specimen.voxel_size, specimen.diameter)


class _Maker:
    """Working images and maps, made once for each network."""

    def __init__(self, weights: str, cache: Path) -> None:
        self.folder = cache / sha256_of(resolve(weights))[:12]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.weights, self.picker = weights, None

    def has(self, name: str) -> bool:
        return (self.folder / f"{name}.npz").exists()

    def view(self, name: str, data: HeldOut | None, defocus: float | None) -> View:
        path = self.folder / f"{name}.npz"
        if not path.exists():
            assert data is not None
            self.picker = self.picker or Picker(self.weights)
            (one,) = data.task.micrographs
            scale = WORKING / data.task.diameter_px
            work = denoise.working_image(one.data, scale, denoise.bad_areas(one.data))
            found = self.picker.probability_map(one, data.task.diameter)
            steps = np.array([work.scale_x, work.scale_y])
            np.savez(
                path,
                image=work.data,
                probability=found.data,
                centres=(data.labels[one.name] + 0.5) * steps - 0.5,
                inside=data.inside[one.name],
                pixel_size=data.task.pixel_size / scale,
            )
        with np.load(path) as f:
            return View(f["image"], f["probability"], f["centres"], f["inside"], float(f["pixel_size"]), defocus)
