"""A set of simulated micrographs on disk: made by several processes; a later run goes on where one was stopped."""

from __future__ import annotations

import json
import logging
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ..errors import CryoSegNetError
from ..files.atomic import write_atomic
from .folder import RECORD, check_folder, claimed, micrograph_name, micrographs_in, new_record, truth_name
from .micrograph import simulate_micrograph
from .outputs import micrographs_star, read_truth_summary, truth_star, write_mrc, write_mtfs
from .plan import Plan, check_plan
from .projection import random_rotations
from .scene import ProjectionStack, Scene
from .slices import SliceProjector
from .specimens import MODEL_SUFFIXES, Specimen, make_specimen, read_specimen

log = logging.getLogger(__name__)

# Views of a species on a micrograph; each occurs in eight turned and mirrored orientations.
FEWEST_VIEWS, MOST_VIEWS = 16, 256
# Voxels along a side of a density; a padded larger one would not fit in memory.
MOST_VOXELS = 224
# Finest sampling and detail of the densities of atomic models, angstrom.
FINEST_VOXEL, FINEST_DETAIL = 1.0, 3.0
# Particles always cover less than --coverage, by this factor, as some lie partly outside the frame.
FEW = 0.85


def load_specimens(plan: Plan) -> list[Specimen]:
    """The specimens of a plan, each sampled about as finely as the micrographs."""
    found = []
    for species in plan.species:
        voxel = max(plan.pixel_size, FINEST_VOXEL)
        resolution = max(2.2 * voxel, FINEST_DETAIL)
        specimen = read_specimen(species.path, voxel, resolution, plan.assembly)
        finest = resolution if species.path.lower().endswith(MODEL_SUFFIXES) else 0.0  # a map's detail is its own
        n = len(specimen.density)
        coarse = n / MOST_VOXELS * specimen.voxel_size
        if n > MOST_VOXELS and specimen.voxel_size < 0.9 * coarse:
            density = ndimage.gaussian_filter(specimen.density, 0.4 * n / MOST_VOXELS)
            density = ndimage.zoom(density, MOST_VOXELS / n, order=1, mode="grid-constant", grid_mode=True)
            specimen = replace(make_specimen(species.name, density, coarse), remark=specimen.remark)
            finest = max(finest, 2.2 * coarse)
        remarks = [specimen.remark] if specimen.remark else []
        if finest > 2.2 * plan.pixel_size:
            remarks.append(f"detail finer than {finest:.1f} A is left out")
        specimen = replace(specimen, name=species.name, remark="; ".join(remarks))
        frame = min(plan.shape) * plan.pixel_size
        if specimen.diameter > frame / 2:
            raise CryoSegNetError(
                f"{species.path}: the particle is {specimen.diameter:.0f} A wide and the micrograph {frame:.0f} A; "
                "give a larger --shape or --pixel-size."
            )
        found.append(specimen)
    return found


class Simulator:
    """Makes the micrographs of a plan; holds the Fourier transforms of the specimens."""

    def __init__(self, plan: Plan, output: Path) -> None:
        self.plan, self.output = plan, output
        self.specimens = load_specimens(plan)
        self._projectors = [SliceProjector(s, plan.pixel_size, plan.device) for s in self.specimens]

    def stacks(self, scene: Scene, seed: int) -> list[ProjectionStack]:
        """New projections, about as many as the micrograph needs."""
        rng = np.random.default_rng([seed, 2])
        ny, nx = self.plan.shape
        stacks = []
        for species, specimen, projector in zip(self.plan.species, self.specimens, self._projectors):
            area = np.pi / 4 * (specimen.diameter / self.plan.pixel_size) ** 2
            wanted = int(scene.coverage * ny * nx / area / len(self.specimens))
            rotations = random_rotations(int(np.clip(wanted, FEWEST_VIEWS, MOST_VIEWS)), rng)
            images = projector.project(rotations)
            stacks.append(
                ProjectionStack(
                    specimen.name,
                    images,
                    self.plan.pixel_size,
                    specimen.diameter,
                    rotations,
                    species.share,
                    species.distractor,
                )
            )
        return stacks

    def make(self, index: int) -> float:
        """Simulate and write micrograph ``index`` (from 0), the image last; the seconds that it took."""
        start = time.monotonic()
        plan, seed = self.plan, self.plan.micrograph_seed(index)
        scene = plan.scene(index)
        image, truth = simulate_micrograph(
            self.stacks(scene, seed), scene, plan.shape, plan.pixel_size, seed, plan.device
        )
        names, name = [s.name for s in self.specimens], micrograph_name(index)
        tables = {"truth": truth}
        if any(s.distractor for s in plan.species):
            tables["distractors"] = truth.distractors or truth
        for folder, table in tables.items():
            write_atomic(self.output / truth_name(index, folder), truth_star(table, name, names))
        write_mrc(self.output / name, image, plan.pixel_size)
        return time.monotonic() - start


def simulate(
    plan: Plan,
    output: Path,
    count: int,
    workers: int = 1,
    overwrite: bool = False,
) -> int:
    """Write ``count`` micrographs and all tables into ``output``; the number of micrographs that this run made.

    Raises
    ------
    CryoSegNetError
        The plan is wrong, a specimen cannot be read, the folder holds a simulation of another plan, or a file cannot be
        written.
    """
    check_plan(plan)
    record = new_record(plan)
    check_folder(output, record, overwrite)  # before the specimens are read, which takes longer
    simulator = Simulator(plan, output)
    with claimed(output, record, overwrite):
        return _simulate(simulator, count, workers, record)


def _simulate(simulator: Simulator, count: int, workers: int, record: dict[str, Any]) -> int:
    """Write the micrographs that are missing, and all tables; the number of micrographs that were made."""
    plan, output = simulator.plan, simulator.output
    for specimen in simulator.specimens:
        if specimen.remark:
            log.info(f"note: {specimen.name}: {specimen.remark}")
    for specimen, projector in zip(simulator.specimens, simulator._projectors):
        _write_specimen(output, specimen, projector)
    missing = [
        i for i in range(count) if not ((output / micrograph_name(i)).is_file() and (output / truth_name(i)).is_file())
    ]
    for done, (index, seconds) in enumerate(_each(simulator, missing, workers), 1):
        log.info(f"micrograph {index + 1}: {seconds:.1f} s ({done} made)")
    scenes = [plan.scene(i) for i in range(count)]
    mtf = write_mtfs(output, [scene.mtf for scene in scenes], plan.ranges.get("mtf", (1.0, 1.0)))
    rows = [(micrograph_name(i), scene.optics, mtf[scene.mtf]) for i, scene in enumerate(scenes)]
    write_atomic(output / "micrographs.star", micrographs_star(rows, plan.pixel_size))
    record["specimens"] = [
        {"name": s.name, "diameter": round(s.diameter, 2), "voxel_size": round(s.voxel_size, 4), "remark": s.remark}
        for s in simulator.specimens
    ]
    made = [read_truth_summary(output / truth_name(i)) for i in range(count)]
    record["micrographs"] = [
        {"name": micrograph_name(i), "seed": plan.micrograph_seed(i), "particles": particles, "covered": covered}
        | {"scene": asdict(scene)}
        for i, (scene, (particles, covered)) in enumerate(zip(scenes, made))
    ]
    write_atomic(output / RECORD, json.dumps(record, indent=1) + "\n")
    asked, covered = np.mean([scene.coverage for scene in scenes]), np.mean([covered for _, covered in made])
    if covered < FEW * asked:
        log.info(
            f"note: particles cover {covered:.2f} of a micrograph on average, where --coverage asks for {asked:.2f}: "
            "a lower --crowding, or a --shape much larger than a particle, makes room for more"
        )
    if more := [i for i in micrographs_in(output) if i >= count]:
        log.info(f"note: {output} holds {len(more)} more micrographs of a larger --count, not in micrographs.star")
    return len(missing)


def _each(simulator: Simulator, indices: list[int], workers: int) -> Iterator[tuple[int, float]]:
    if workers <= 1 or len(indices) < 2:
        for index in indices:
            yield index, simulator.make(index)
        return
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    arguments = (simulator.plan, simulator.output)
    with ProcessPoolExecutor(min(workers, len(indices)), context, _start_worker, arguments) as pool:
        waiting = {pool.submit(_make, index): index for index in indices}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_worker: list[Simulator] = []


def _start_worker(plan: Plan, output: Path) -> None:
    import torch

    torch.set_num_threads(1)
    _worker[:] = [Simulator(plan, output)]


def _make(index: int) -> float:
    return _worker[0].make(index)


def _write_specimen(output: Path, specimen: Specimen, projector: SliceProjector) -> None:
    """The true density at the pixel size of the micrographs, in an even box with RELION's centre: for comparison."""
    side = projector.side + 1
    step = projector.pixel_size / specimen.voxel_size
    n = len(specimen.density)
    density = specimen.density
    if step > 1.2:
        density = ndimage.gaussian_filter(density, 0.4 * step)
    grid = (np.mgrid[0:side, 0:side, 0:side].astype(np.float32) - side // 2) * np.float32(step) + n // 2
    volume = ndimage.map_coordinates(density, grid, order=1, mode="constant")
    write_mrc(output / "specimens" / f"{specimen.name}.mrc", volume.astype(np.float32), projector.pixel_size)
