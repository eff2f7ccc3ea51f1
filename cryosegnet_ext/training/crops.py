"""Training crops as the network sees them: simulated, or cut from labelled micrographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ..picking.denoise import CLIP, bad_areas, working_image
from ..simulation.micrograph import ProjectionStack, Scene, simulate_micrograph
from ..simulation.optics import Optics
from .distractors import add_filaments, add_flakes, add_lattice, add_texture, scrambled

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
# Squared ratio of a particle's peak to the noise of a pixel: for most crops; for large particles, high doses and
# denoised micrographs; for small particles and thick ice, where eyes hardly see them.
NOISY, CLEAR, BURIED = (0.35, 16.0), (16.0, 400.0), (0.08, 1.5)
CLEAR_SHARE, BURIED_SHARE = 0.15, 0.6
# Share of crops with a lower contrast, down to this factor: dirt on a micrograph changes its contrast, too.
FAINT_SHARE, FAINTEST = 0.2, 0.2
# Simulated particles on real grounds: the ground's scale, the squared ratio of a particle's peak to the noise of a
# pixel, and the electrons in a pixel of the particles' image, which make its own noise negligible.
GROUND_SCALE, PLANTED, CLEAN_COUNT = (0.5, 3.0), (0.12, 16.0), 1e7
# Shares of crops with added texture, of this strength relative to the image, and with added flakes.
TEXTURE_SHARE, TEXTURE, FLAKES_SHARE = 0.1, (0.1, 0.7), 0.1
# Shares of crops with added filaments and with patches of a lattice; of this strength relative to the image.
FILAMENTS_SHARE, LATTICE_SHARE, FOREIGN = 0.06, 0.06, (0.5, 8.0)
# Share of crops whose power spectrum is changed, by factors of this spread (of the amplitude's logarithm) at each
# octave: for detectors, envelopes, ice and filters that are not in the training data.
BENT_SHARE, BENT = 0.5, 0.35


# Ingredients of a scene that a real ground has by itself.
_NOT_PARTICLES = (
    *("structural_noise", "gradient", "ice_blobs", "carbon", "crystalline", "aggregates", "rings", "gold"),
    *("contamination", "crystals", "leopard", "film_texture", "foil"),
)


class FrameKind(NamedTuple):
    """A kind of simulated frame: its share, the bounds of what is drawn for `Scene`, and whether it has particles.

    Whole numbers are drawn from the first bound to below the second.
    """

    percent: int
    bounds: Mapping[str, tuple[Any, Any]]
    particles: bool = True


#: Kinds of simulated frames: with dirt of some sort, without particles, or with particles only.
FRAME_KINDS = (
    FrameKind(5, {"ice_blobs": (1, 12)}, particles=False),
    FrameKind(5, {}, particles=False),
    FrameKind(12, {"ice_blobs": (1, 12)}),
    FrameKind(8, {"carbon": (0.1, 0.8)}),
    FrameKind(6, {"crystalline": (0.2, 1.5)}),
    FrameKind(6, {"aggregates": (1, 4)}),
    FrameKind(3, {"rings": (1, 3)}),
    FrameKind(3, {"gold": (1, 20)}),
    FrameKind(7, {}, particles=False),
    FrameKind(3, {"contamination": (2, 30)}, particles=False),
    FrameKind(3, {"contamination": (2, 30)}),
    FrameKind(3, {"crystals": (3, 40), "leopard": (0.0, 0.3)}),
    FrameKind(2, {"film_texture": (0.1, 0.6)}),
    FrameKind(1, {"foil": (0.1, 0.6)}),
    FrameKind(33, {}),
)
_FRAME_LIMITS = np.cumsum([frame.percent for frame in FRAME_KINDS]) / 100


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
    rng = np.random.default_rng(seed)
    d, in_scale = _random_size(rng, TOO_SMALL_SHARE) if size is None else (_between(size, rng), True)
    first = stacks[int(rng.integers(len(stacks)))]
    chosen = [first]
    if rng.random() < 0.15:
        others = [s for s in stacks if 0.6 < s.diameter / first.diameter < 1.7 and s is not first]
        if others:
            chosen.append(others[int(rng.integers(len(others)))])
    # Coarse micrographs are enlarged to the working scale with their noise, and so are small sizes of the ladder.
    zoom = float(np.exp(rng.uniform(np.log(COARSEST), 0))) if rng.random() < COARSE_SHARE else 1.0
    n = max(round(side * zoom), 16)
    fine = d * n / side
    pixel_size = first.diameter / fine
    scene = random_scene(first.diameter, pixel_size, rng)
    image, truth = simulate_micrograph(chosen, scene, (n, n), pixel_size, int(rng.integers(2**62)))
    image, covered = distract(image, fine, rng)
    shown = np.full(len(truth.x), in_scale)
    if covered is not None:
        shown &= ~covered[np.round(truth.y).astype(int), np.round(truth.x).astype(int)]
    work = working_image(degrade(image, fine, rng), side / n)
    x, y = ((v[shown] + 0.5) * side / n - 0.5 for v in (truth.x, truth.y))
    return Crop(work.data, x, y, truth.diameter[shown] / first.diameter * d)


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
    d, in_scale = _random_size(rng, TOO_SMALL_SHARE) if size is None else (_between(size, rng), True)
    stack = stacks[int(rng.integers(len(stacks)))]
    ground = grounds[int(rng.integers(len(grounds)))].data
    # the ground's own pixels are shown enlarged or reduced, as far as the frame allows
    scale = max(_between(GROUND_SCALE, rng), (side + 2) / min(ground.shape))
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
    ratio = _between(CLEAR if rng.random() < CLEAR_SHARE else PLANTED, rng)
    image += signal[: work.shape[0], : work.shape[1]] * np.float32(np.sqrt(ratio) / strength)
    image = working_image(image, 1.0).data
    full = np.zeros((side, side), np.float32)
    full[: image.shape[0], : image.shape[1]] = image
    shown = in_scale & (truth.x < image.shape[1]) & (truth.y < image.shape[0])
    return Crop(full, truth.x[shown], truth.y[shown], np.full(int(shown.sum()), d))


def _between(bounds: tuple[float, float], rng: np.random.Generator) -> float:
    """A random number whose logarithm is uniform between those of the bounds."""
    return float(np.exp(rng.uniform(*np.log(bounds))))


def _random_size(rng: np.random.Generator, too_small: float, spread: float = 0.35) -> tuple[float, bool]:
    """Particle diameter in working pixels, and whether it is in scale (labelled as a particle)."""
    kind = rng.random()
    if kind < TOO_LARGE_SHARE:
        return _between(TOO_LARGE, rng), False
    if kind < TOO_LARGE_SHARE + too_small:
        return _between(TOO_SMALL, rng), False
    usual = kind < 0.75
    d = np.exp(rng.normal(np.log(32), spread) if usual else rng.uniform(*np.log((18, 55))))
    return float(np.clip(d, SMALLEST, LARGEST)), True


def random_scene(diameter: float, pixel_size: float, rng: np.random.Generator) -> Scene:
    """Random imaging conditions: one of three voltages, 0.4 to 3.5 um of defocus, one of `FRAME_KINDS`.

    The signal-to-noise ratio of a particle's peak is drawn, and the dose follows from it and from ``diameter``
    (angstrom), so that small and large particles are equally often easy and difficult.
    """
    defocus = float(np.exp(rng.uniform(np.log(4000), np.log(35000))))
    voltage = float(rng.choice([120, 200, 300, 300]))
    optics = Optics(
        voltage=voltage,
        cs=float(rng.choice([0.01, 2.0, 2.7])),
        amplitude_contrast=float(rng.uniform(0.05, 0.14)),
        defocus_u=defocus,
        defocus_v=defocus * float(rng.uniform(0.93, 1.07)),
        defocus_angle=float(rng.uniform(0, 180)),
        b_factor=float(rng.uniform(20, 400)),
    )
    contrast = float(rng.uniform(0.6, 1.2))
    efficiency = float(rng.uniform(0.3, 0.8))
    peak = 2 * optics.interaction * 1.3 * diameter * contrast * 0.4
    chance = rng.random()
    clear, buried = chance < CLEAR_SHARE, chance > 1 - BURIED_SHARE
    dose = _between(CLEAR if clear else BURIED if buried else NOISY, rng) / (peak**2 * pixel_size**2 * efficiency)
    kind = rng.random()
    scene = Scene(
        coverage=float(rng.uniform(0.02, 0.5)),
        crowding=float(rng.uniform(0.65, 1.0)),
        clusters=float(rng.uniform(0, 0.6)),
        dose=dose,
        detector_efficiency=efficiency,
        structural_noise=float(rng.choice([0.0, 0.0, 0.5, 1.0] if clear or buried else [0.0, 0.5, 1.0, 2.0]))
        * pixel_size
        * peak
        / 0.07
        * float(rng.uniform(0.1, 1)),
        gradient=float(rng.uniform(0, 0.3)) * peak * 8,
        contrast=contrast,
        optics=optics,
    )
    frame = FRAME_KINDS[int(np.searchsorted(_FRAME_LIMITS, kind, side="right"))]
    drawn: dict[str, Any] = {} if frame.particles else {"coverage": 0.0}
    for name, bounds in frame.bounds.items():
        drawn[name] = rng.integers(*bounds).item() if isinstance(bounds[0], int) else rng.uniform(*bounds)
    return replace(scene, **drawn)


def distract(image: Image, d: float, rng: np.random.Generator) -> tuple[Image, NDArray[np.bool_] | None]:
    """Add texture and flakes to some crops; returns the crop and the area that flakes cover.

    Crops with and without particles get the same. If texture were stronger or more frequent without particles, the
    network would take the grain of a new micrograph for a sign that there are none.
    """
    covered = None
    if rng.random() < TEXTURE_SHARE:
        image = add_texture(image, d, _between(TEXTURE, rng), rng)
    if rng.random() < FLAKES_SHARE:
        image, covered = add_flakes(image, d, rng)
    if rng.random() < FILAMENTS_SHARE:
        image = add_filaments(image, d, _between(FOREIGN, rng), rng)
    if rng.random() < LATTICE_SHARE:
        image = add_lattice(image, d, _between(FOREIGN, rng), rng)
    return image, covered


def degrade(image: Image, d: float, rng: np.random.Generator) -> Image:
    """What happens to files before they are picked: filters, local contrast, 8 bits, JPEG."""
    kind = rng.random()
    if kind < 0.25:  # like the published denoising: local contrast, then two box filters
        image = _local_contrast(_gaussian(image, 0.04 * d), rng)
        box = max(2, round(d * float(rng.uniform(0.12, 0.26))))
        image = np.asarray(cv2.blur(cv2.blur(image, (box, box)), (box, box)), np.float32)
    elif kind < 0.40:
        image = _gaussian(image, d * float(rng.uniform(0.01, 0.06)))
    elif kind < 0.48:
        image = _local_contrast(image, rng)
    if rng.random() < 0.3:
        low, high = np.percentile(image, [0.3, 99.7])
        eight = (np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
        if rng.random() < 0.4:
            eight = cv2.imdecode(cv2.imencode(".jpg", eight, [cv2.IMWRITE_JPEG_QUALITY, 85])[1], cv2.IMREAD_GRAYSCALE)
        image = eight.astype(np.float32)
    return image


def _gaussian(image: Image, sigma: float) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), max(sigma, 0.3)), np.float32)


def _local_contrast(image: Image, rng: np.random.Generator) -> Image:
    low, high = np.percentile(image, [0.1, 99.9])
    eight = (np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    tiles = int(rng.integers(2, 7))
    return cv2.createCLAHE(clipLimit=2.0, tileGridSize=(tiles, tiles)).apply(eight).astype(np.float32)


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
    d, in_scale = _random_size(rng, 0.0, spread=0.25) if size is None else (_between(size, rng), True)
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


def augment(image: Image, label: NDArray[np.uint8], rng: np.random.Generator) -> tuple[Image, NDArray[np.uint8]]:
    """Rotate, mirror, change spectrum and contrast, add noise: changes after which particles are still particles."""
    k = int(rng.integers(4))
    image, label = np.rot90(image, k), np.rot90(label, k)
    if rng.random() < 0.5:
        image, label = image[:, ::-1], label[:, ::-1]
    if rng.random() < BENT_SHARE:
        image = bend_spectrum(image, rng)
    contrast = np.exp(rng.uniform(np.log(FAINTEST), 0) if rng.random() < FAINT_SHARE else rng.normal(0, 0.15))
    image = image * np.float32(contrast) + np.float32(rng.normal(0, 0.1) * min(contrast, 1))
    if rng.random() < 0.2:
        noise = contrast * rng.uniform(0.1, 0.6)
        image = image + rng.standard_normal(image.shape, np.float32) * np.float32(noise)
    return np.ascontiguousarray(image, dtype=np.float32), np.ascontiguousarray(label)


def bend_spectrum(image: Image, rng: np.random.Generator) -> Image:
    """A working image (side, side) with its frequencies weighted by a smooth random function of their radius.

    The noise level (median absolute deviation) stays the same.
    """
    margin = min(48, *(n - 1 for n in image.shape))  # so that one side does not leak into the other
    padded = np.pad(image, margin, mode="reflect")
    ny, nx = padded.shape
    radius = np.hypot(np.fft.fftfreq(ny)[:, None], np.fft.rfftfreq(nx)[None, :])
    octaves = np.arange(-6, 0)  # periods of 64 to 2 px
    gain = np.exp(np.interp(np.log2(np.maximum(radius, 2.0**-9)), octaves, rng.normal(0, BENT, len(octaves))))
    bent = np.fft.irfft2(np.fft.rfft2(padded) * gain, s=(ny, nx)).astype(np.float32)
    bent = bent[margin : ny - margin, margin : nx - margin]
    before, after = (float(np.median(np.abs(v - np.median(v)))) for v in (image, bent))
    if after > 0 and before > 0:
        bent = bent * np.float32(before / after)
    return np.clip(bent, -CLIP, CLIP)
