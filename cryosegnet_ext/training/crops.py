"""Training crops as the network sees them: simulated, or cut from labelled micrographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..picking.denoise import bad_areas, working_image
from ..simulation.micrograph import (
    Drawn,
    ProjectionStack,
    draw,
    electrons_of,
    random_streams,
    simulate_micrograph,
    truth_of,
)
from .degradation import Degradation, degrade, draw_degradation
from .distractors import Distractor, filaments, flakes, lattice, scrambled, texture
from .scenes import CLEAR, CLEAR_SHARE, between, random_scene

Image = NDArray[np.float32]

# Diameter of a label disc, of the particle's: smaller, so that the labels of touching particles are separate.
LABEL_SHARE = 0.7
# Particle diameters seen in training, working pixels.
SMALLEST, LARGEST = 16.0, 64.0
# Particles of these sizes (enlarged or reduced too much) are labelled as background, so that the network finds nothing
# at a wrong scale. The right scale is then the one at which it finds most.
TOO_LARGE, TOO_SMALL = (80.0, 160.0), (4.0, 10.0)
TOO_LARGE_SHARE, TOO_SMALL_SHARE = 0.12, 0.06
# Share of crops that are simulated on fewer pixels and enlarged, down to this scale.
COARSE_SHARE, COARSEST = 0.25, 0.3
# Simulated particles on real grounds: the ground's scale, the squared ratio of a particle's peak to the noise of a
# pixel, and the electrons in a pixel of the particles' image, which make its own noise negligible.
GROUND_SCALE, PLANTED, CLEAN_COUNT = (0.5, 3.0), (0.12, 16.0), 1e7
# Shares of crops with added texture, of this strength relative to the image, and with added flakes.
TEXTURE_SHARE, TEXTURE, FLAKES_SHARE = 0.1, (0.1, 0.7), 0.1
# Shares of crops with added filaments and with patches of a lattice; of this strength relative to the image.
FILAMENTS_SHARE, LATTICE_SHARE, FOREIGN = 0.06, 0.06, (0.5, 8.0)


# Ingredients of a scene that a real ground has by itself.
_NOT_PARTICLES = (
    *("structural_noise", "gradient", "ice_blobs", "carbon", "crystalline", "aggregates", "rings", "gold"),
    *("contamination", "crystals", "leopard", "film_texture", "foil"),
)


@dataclass(frozen=True)
class Labelled:
    """A micrograph with labelled particles.

    Attributes
    ----------
    data : (ny, nx) float32, array order
    x, y : (n,) pixels
    diameter_px : float
        Particle diameter in pixels, as defined in `simulation.specimens.Specimen`.
    """

    data: Image
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    diameter_px: float


def paint_labels(
    x: NDArray[np.float64], y: NDArray[np.float64], diameter: NDArray[np.float64], shape: tuple[int, int]
) -> NDArray[np.uint8]:
    """Discs of `LABEL_SHARE` times each diameter (n,), pixels, at sub-pixel centres; (ny, nx) of 0 and 1."""
    label = np.zeros(shape, np.uint8)
    for cx, cy, d in zip(x, y, diameter):
        r = LABEL_SHARE * d / 2
        if r <= 0:
            continue
        x0, y0 = max(int(cx - r), 0), max(int(cy - r), 0)
        x1, y1 = min(int(cx + r) + 2, shape[1]), min(int(cy + r) + 2, shape[0])
        if x0 >= x1 or y0 >= y1:
            continue
        yy, xx = np.ogrid[y0:y1, x0:x1]
        label[y0:y1, x0:x1] |= ((xx - cx) ** 2 + (yy - cy) ** 2 <= r * r).astype(np.uint8)
    return label


@dataclass(frozen=True)
class Crop:
    """A working image and its particles.

    Attributes
    ----------
    image : (side, side) float32
    x, y : (n,) pixels of the image
    diameter : (n,) pixels of the image
    """

    image: Image
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    diameter: NDArray[np.float64]

    def label(self) -> NDArray[np.uint8]:
        """The label plane (side, side) of 0 and 1 for the U-Net."""
        return paint_labels(self.x, self.y, self.diameter, (self.image.shape[0], self.image.shape[1]))


@dataclass(frozen=True)
class CropPlan:
    """A simulated crop before its noise: everything that is drawn for it, and where its labels are.

    Attributes
    ----------
    drawn
        Content and imaging conditions.
    stacks
        Indices of the specimens that the particles of ``drawn`` count.
    side
        Of the working image, pixels.
    fine
        Particle diameter, pixels of the micrograph.
    distractors, degradation
        What is added to the micrograph, and what happens to its file.
    x, y, diameter : (n,)
        Of the labelled particles, pixels of the working image.
    """

    drawn: Drawn
    stacks: tuple[int, ...]
    side: int
    fine: float
    distractors: Sequence[Distractor]
    degradation: Degradation
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    diameter: NDArray[np.float64]

    @property
    def scale(self) -> float:
        """Working pixels per pixel of the micrograph."""
        rows = self.drawn.cut[0]
        return self.side / (rows.stop - rows.start)


def draw_crop(
    stacks: Sequence[ProjectionStack], side: int, seed: int, size: tuple[float, float] | None = None
) -> tuple[CropPlan, tuple[np.random.Generator, np.random.Generator]]:
    """Draw a crop; arguments as for `simulated_particles`. The second value is what `intensity_of` draws noise from."""
    rng = np.random.default_rng(seed)
    d, in_scale = _random_size(rng, TOO_SMALL_SHARE) if size is None else (between(size, rng), True)
    numbers = [int(rng.integers(len(stacks)))]
    first = stacks[numbers[0]]
    if rng.random() < 0.15:
        others = [i for i, s in enumerate(stacks) if 0.6 < s.diameter / first.diameter < 1.7 and s is not first]
        if others:
            numbers.append(others[int(rng.integers(len(others)))])
    # Coarse micrographs are enlarged to the working scale with their noise, and so are small sizes of the ladder.
    zoom = float(np.exp(rng.uniform(np.log(COARSEST), 0))) if rng.random() < COARSE_SHARE else 1.0
    n = max(round(side * zoom), 16)
    fine = d * n / side
    pixel_size = first.diameter / fine
    scene = random_scene(first.diameter, pixel_size, rng)
    noise = random_streams(int(rng.integers(2**62)))
    chosen = [stacks[i] for i in numbers]
    drawn = draw(chosen, scene, (n, n), pixel_size, *noise)
    truth = truth_of(drawn, chosen, np.zeros(len(drawn.placed.x)))
    distractors, covered = draw_distractors((n, n), fine, rng)
    shown = np.full(len(truth.x), in_scale)
    if covered is not None:
        shown &= ~covered[np.round(truth.y).astype(int), np.round(truth.x).astype(int)]
    x, y = ((v[shown] + 0.5) * side / n - 0.5 for v in (truth.x, truth.y))
    diameter = truth.diameter[shown] / first.diameter * d
    degradation = draw_degradation(fine, rng)
    return CropPlan(drawn, tuple(numbers), side, fine, distractors, degradation, x, y, diameter), noise


def simulated_particles(
    stacks: Sequence[ProjectionStack], side: int, seed: int, size: tuple[float, float] | None = None
) -> Crop:
    """One simulated working image; the same seed gives the same crop.

    Parameters
    ----------
    stacks
        Specimens to choose from.
    side, seed
        Of the image.
    size
        Bounds of the particle's diameter, working pixels; default: the sizes for the U-Net, out-of-scale ones too.
    """
    plan, noise = draw_crop(stacks, side, seed, size)
    image = electrons_of(plan.drawn, [stacks[i] for i in plan.stacks], *noise)[0]
    for distractor in plan.distractors:
        image = distractor.added_to(image, plan.fine)
    work = working_image(plan.degradation.applied(image), plan.scale)
    return Crop(work.data, plan.x, plan.y, plan.diameter)


def planted_particles(
    stacks: Sequence[ProjectionStack],
    grounds: Sequence[Labelled],
    side: int,
    seed: int,
    *,
    size: tuple[float, float] | None = None,
    random_phases: bool = False,
) -> Crop:
    """Simulated particles on a real ground: the grain of real ice, of real detectors and of what was done to the files.

    Parameters
    ----------
    stacks
        Specimens to choose from.
    grounds
        Micrographs without particles or, with ``random_phases``, of any kind; ``diameter_px`` is of no account.
    side, seed
        Of the image.
    size
        As for `simulated_particles`.
    random_phases
        The ground's phases are randomised, so that only its spectrum is left (`distractors.scrambled`).
    """
    rng = np.random.default_rng(seed)
    d, in_scale = _random_size(rng, TOO_SMALL_SHARE) if size is None else (between(size, rng), True)
    stack = stacks[int(rng.integers(len(stacks)))]
    ground = grounds[int(rng.integers(len(grounds)))].data
    # the ground's own pixels are shown enlarged or reduced, as far as the frame allows
    scale = max(between(GROUND_SCALE, rng), (side + 2) / min(ground.shape))
    need = int(np.ceil((side + 2) / scale))
    y0, x0 = (int(rng.integers(0, max(n - need, 0) + 1)) for n in ground.shape)
    part = ground[y0 : y0 + need, x0 : x0 + need]
    work = working_image(part, scale, bad_areas(part)).data[:side, :side]
    if random_phases:
        work = scrambled(work, rng)
    pixel_size = stack.diameter / d
    scene = random_scene(stack.diameter, pixel_size, rng)
    without: dict[str, Any] = {name: type(value)() for name, value in asdict(scene).items() if name in _NOT_PARTICLES}
    clean = replace(scene, **without, dose=CLEAN_COUNT / pixel_size**2, detector_efficiency=1.0)
    electrons, truth = simulate_micrograph([stack], clean, (side, side), pixel_size, int(rng.integers(2**62)))
    signal = electrons / np.float32(CLEAN_COUNT) - 1
    strength = 2 * scene.optics.interaction * 1.3 * stack.diameter * scene.contrast * 0.4
    image = work.copy()
    ratio = between(CLEAR if rng.random() < CLEAR_SHARE else PLANTED, rng)
    image += signal[: work.shape[0], : work.shape[1]] * np.float32(np.sqrt(ratio) / strength)
    image = working_image(image, 1.0).data
    full = np.zeros((side, side), np.float32)
    full[: image.shape[0], : image.shape[1]] = image
    shown = in_scale & (truth.x < image.shape[1]) & (truth.y < image.shape[0])
    return Crop(full, truth.x[shown], truth.y[shown], np.full(int(shown.sum()), d))


def _random_size(rng: np.random.Generator, too_small: float, spread: float = 0.35) -> tuple[float, bool]:
    """Particle diameter in working pixels, and whether it is in scale (labelled as a particle)."""
    kind = rng.random()
    if kind < TOO_LARGE_SHARE:
        return between(TOO_LARGE, rng), False
    if kind < TOO_LARGE_SHARE + too_small:
        return between(TOO_SMALL, rng), False
    usual = kind < 0.75
    d = np.exp(rng.normal(np.log(32), spread) if usual else rng.uniform(*np.log((18, 55))))
    return float(np.clip(d, SMALLEST, LARGEST)), True


def draw_distractors(
    shape: tuple[int, int], d: float, rng: np.random.Generator
) -> tuple[list[Distractor], NDArray[np.bool_] | None]:
    """Texture, flakes and other things that some crops of a ``shape`` get, and the area (h, w) that flakes cover.

    Crops with and without particles get the same. If texture were stronger or more frequent without particles, the
    network would take the grain of a new micrograph for a sign that there are none.
    """
    drawn: list[Distractor] = []
    covered = None
    if rng.random() < TEXTURE_SHARE:
        strength = between(TEXTURE, rng)
        drawn.append(Distractor(texture(shape, d, rng), strength))
    if rng.random() < FLAKES_SHARE:
        plane, covered = flakes(shape, d, rng)
        drawn.append(Distractor(plane))
    if rng.random() < FILAMENTS_SHARE:
        strength = between(FOREIGN, rng)
        drawn.append(Distractor(filaments(shape, d, rng), -strength))
    if rng.random() < LATTICE_SHARE:
        strength = between(FOREIGN, rng)
        drawn.append(Distractor(lattice(shape, d, rng), -strength))
    return drawn, covered


def labelled_particles(
    micrograph: Labelled,
    side: int,
    rng: np.random.Generator,
    size: tuple[float, float] | None = None,
    degraded: bool = False,
) -> Crop:
    """A crop of a labelled micrograph; ``size`` as in `simulated_particles`.

    ``degraded`` applies `degrade`, as for simulated crops: with few data sets, a network cannot tell the effect of a
    filter from the look of a specimen.
    """
    d, in_scale = _random_size(rng, 0.0, spread=0.25) if size is None else (between(size, rng), True)
    scale = d / micrograph.diameter_px
    ny, nx = micrograph.data.shape
    need = int(np.ceil((side + 2) / scale))
    y0, x0 = (int(rng.integers(0, max(n - need, 0) + 1)) for n in (ny, nx))
    part = micrograph.data[y0 : y0 + need, x0 : x0 + need]
    bad = bad_areas(part)
    if degraded:
        part = degrade(part, micrograph.diameter_px, rng)
    work = working_image(part, scale, bad)
    x = (micrograph.x - x0 + 0.5) * work.scale_x - 0.5
    y = (micrograph.y - y0 + 0.5) * work.scale_y - 0.5
    image = np.zeros((side, side), np.float32)
    h, w = min(side, work.data.shape[0]), min(side, work.data.shape[1])
    image[:h, :w] = work.data[:h, :w]
    near = (x > -d) & (y > -d) & (x < w + d) & (y < h + d) & in_scale
    return Crop(image, x[near], y[near], np.full(int(near.sum()), d))
