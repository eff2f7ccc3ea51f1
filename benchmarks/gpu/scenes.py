"""The micrographs that devices are compared on, and timed with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np

from benchmarks.accuracy import contrast
from benchmarks.gpu.pack import Packed, made_up
from benchmarks.gpu.parts import Context
from benchmarks.speed.speed_stages import SAMPLE
from cryosegnet_ext import Micrograph, read_micrograph
from cryosegnet_ext.simulation.micrograph import ProjectionStack
from cryosegnet_ext.simulation.projection import project, random_rotations
from cryosegnet_ext.simulation.specimens import Specimen

#: Diameter of the particles of the sample, angstrom.
SAMPLE_DIAMETER = 171.0
#: Signal-to-noise ratios of the simulated micrographs, in turn.
RATIOS = (0.1, 0.4)
#: Side to which everything is cut with ``--small``, pixels.
SMALL_SIDE = 420


@dataclass(frozen=True)
class Scene:
    """A micrograph, and the diameter of its particles in pixels."""

    name: str
    micrograph: Micrograph
    diameter_px: float

    @property
    def diameter(self) -> float:
        """As `Picker.pick` takes it."""
        return self.diameter_px * (self.micrograph.pixel_size or 1.0)


def specimens(context: Context, split: str) -> list[Specimen]:
    """The packed ones of a list, or made-up ones."""
    found = Packed(context.data).specimens(split) if context.data else made_up(4)
    return found[:3] if context.small else found


def stack_of(specimen: Specimen, views: int, seed: int, device: str) -> ProjectionStack:
    """Projections in random orientations, the same for a seed."""
    images = project(specimen, random_rotations(views, np.random.default_rng(seed)), device)
    return ProjectionStack(specimen.name, images, specimen.voxel_size, specimen.diameter)


def scenes(context: Context) -> Iterator[Scene]:
    """The sample, a real micrograph of each of three data sets, five simulated ones."""
    sample = read_micrograph(SAMPLE)
    yield _cut(context, Scene("sample", sample, SAMPLE_DIAMETER / (sample.pixel_size or 1.0)))
    if context.data:
        for group, (one, *_) in Packed(context.data).micrographs("compared").items():
            yield _cut(context, Scene(group, Micrograph(one.data, None, group), one.diameter_px))
    chosen = specimens(context, "test")
    for number in range(1 if context.small else 5):
        stack = stack_of(chosen[2 * number % len(chosen)], 40, number, context.device)
        pixel_size, defocus = contrast.IMAGING[number % len(contrast.IMAGING)]
        ratio = RATIOS[number % len(RATIOS)]
        made = contrast.micrographs(stack, pixel_size, defocus, number, [ratio])[ratio]
        (one,) = made.task.micrographs
        yield _cut(context, Scene(f"simulated, {stack.name}", one, stack.diameter / pixel_size))


def _cut(context: Context, scene: Scene) -> Scene:
    if not context.small:
        return scene
    one = scene.micrograph
    part = np.ascontiguousarray(one.data[:SMALL_SIDE, :SMALL_SIDE])
    return Scene(scene.name, Micrograph(part, one.pixel_size, one.name), scene.diameter_px)


def tiled(shape: tuple[int, int], seed: int) -> np.ndarray:
    """A micrograph of any size: the sample, reflected, with other noise for each seed."""
    sample = read_micrograph(SAMPLE).data
    more = [(0, max(want - have, 0)) for want, have in zip(shape, sample.shape)]
    noise = np.random.default_rng(seed).standard_normal(shape, np.float32)
    whole = np.pad(sample, more, mode="symmetric")[: shape[0], : shape[1]]
    return np.asarray(whole + np.float32(0.2 * sample.std()) * noise, np.float32)


def write_tiled(folder: Path, shape: tuple[int, int], count: int) -> list[Path]:
    """MRC files of such micrographs; those that are there already are taken as they are."""
    paths = []
    pixel_size = read_micrograph(SAMPLE).pixel_size or 1.0
    for number in range(count):
        paths.append(folder / f"{shape[0]}x{shape[1]}-{number}.mrc")
        if not paths[-1].exists():
            with mrcfile.new(paths[-1]) as mrc:
                mrc.set_data(tiled(shape, number))
                mrc.voxel_size = pixel_size
    return paths
