"""What a set of simulated micrographs is made of, and what each of them draws from it."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CryoSegNetError
from .optics import Optics
from .scene import Scene

Range = tuple[float, float]

COUNTS = ("ice_blobs", "rings", "gold", "aggregates", "contamination", "crystals", "discs", "stripes")
# The least and the most of everything that is drawn; what is more is no micrograph, or takes for ever.
LIMITS: dict[str, Range] = {
    "coverage": (0, 0.8),
    "crowding": (0, 10),
    "clusters": (0, 1),
    "contrast": (0, 100),
    "ice_thickness": (0, 20000),
    "ice_wedge": (0, 2),
    "tilt": (-70, 70),
    "tilt_axis": (-360, 360),
    "structural_noise": (0, 1000),
    "gradient": (0, 2),
    "dose": (0.1, 1e5),
    "detector_efficiency": (0.01, 1),
    "mtf": (1e-3, 1),
    "drift": (0, 1000),
    "carbon": (0, 0.95),
    "foil": (0, 0.95),
    "film_texture": (0, 20),
    "crystalline": (0, 20),
    "leopard": (0, 20),
    "ice_blobs": (0, 1000),
    "contamination": (0, 1000),
    "crystals": (0, 1000),
    "gold": (0, 10000),
    "aggregates": (0, 1000),
    "rings": (0, 1000),
    "discs": (0, 10000),
    "stripes": (0, 1000),
}
JUNK = (*COUNTS, "carbon", "crystalline", "leopard", "film_texture", "foil")


@dataclass(frozen=True)
class SpeciesFile:
    """A specimen's file, how often it occurs relative to the others, and whether it is not to be picked."""

    path: str
    name: str
    share: float = 1.0
    distractor: bool = False


@dataclass(frozen=True)
class Plan:
    """Everything that decides how the micrographs look; the same plan makes the same files.

    Attributes
    ----------
    species
        Specimens in the ice.
    shape
        (ny, nx), pixels.
    pixel_size
        Angstrom per pixel.
    seed
        Micrograph i draws from the stream (seed, i).
    ranges
        Each field of `Scene` that is drawn for every micrograph, with its lowest and highest value; counts are whole.
    defocus : angstrom, lowest and highest
    astigmatism : angstrom, the largest difference of the two defocus values
    voltage, cs, amplitude_contrast, b_factor
        As in `Optics`.
    junk_share, empty_share
        Shares of the micrographs that have the junk, and that have no particles.
    assembly
        Of the atomic models, as `specimens.read_specimen` takes it.
    device
        "cpu" or a torch device; it decides the last digits.
    """

    species: tuple[SpeciesFile, ...]
    shape: tuple[int, int] = (2048, 2048)
    pixel_size: float = 1.5
    seed: int = 0
    ranges: dict[str, Range] = field(default_factory=dict)
    defocus: Range = (10000.0, 25000.0)
    astigmatism: float = 400.0
    voltage: float = 300.0
    cs: float = 2.7
    amplitude_contrast: float = 0.1
    b_factor: float = 60.0
    junk_share: float = 1.0
    empty_share: float = 0.0
    assembly: str | None = None
    device: str = "cpu"

    def scene(self, index: int) -> Scene:
        """The scene of micrograph ``index``; every value is drawn whether it is used or not, so none moves another."""
        rng = np.random.default_rng([self.seed, index])
        drawn: dict[str, Any] = {}
        for name in sorted(f.name for f in fields(Scene) if f.name != "optics"):
            part = rng.random()
            if name in self.ranges:
                low, high = self.ranges[name]
                drawn[name] = int(low + part * (high - low + 1)) if name in COUNTS else low + part * (high - low)
                drawn[name] = min(drawn[name], high if name not in COUNTS else int(high))
        if "mtf" in drawn:  # in steps, as every value makes an optics group
            low, high = self.ranges["mtf"]
            drawn["mtf"] = low if low == high else min(max(round(drawn["mtf"], 2), low), high)
        if rng.random() >= self.junk_share:
            drawn.update({name: 0 for name in JUNK if name in drawn})
        if rng.random() < self.empty_share:
            drawn["coverage"] = 0.0
        mean = float(rng.uniform(*self.defocus))
        half = float(rng.uniform(0, self.astigmatism)) / 2
        optics = Optics(
            self.voltage,
            self.cs,
            self.amplitude_contrast,
            round(mean + half, 2),
            round(mean - half, 2),
            round(float(rng.uniform(0, 180)), 3),
            self.b_factor,
        )
        return Scene(**drawn, optics=optics)

    def micrograph_seed(self, index: int) -> int:
        """Seed of the micrograph's own noise and places."""
        return int(np.random.default_rng([self.seed, index, 1]).integers(2**62))

    def record(self) -> dict[str, Any]:
        """What decides how the micrographs look as plain values, for JSON.

        The specimens' folders do not, as their contents are recorded, nor does the device.
        """
        plain = asdict(self)
        del plain["device"]
        for species in plain["species"]:
            del species["path"]
        ranges = {name: list(values) for name, values in sorted(self.ranges.items())}
        return plain | {"shape": list(self.shape), "defocus": list(self.defocus), "ranges": ranges}


def check_plan(plan: Plan) -> None:
    """Refuse what cannot be simulated, in one sentence.

    Raises
    ------
    CryoSegNetError
        A value is outside what makes sense.
    """
    problems = [
        (plan.defocus[0] > plan.defocus[1], "--defocus is upside down: give the lower number first"),
        (not plan.species, "no specimen is given: name a density map or an atomic model"),
        (min(plan.shape) < 64, f"--shape {plan.shape[0]} {plan.shape[1]} is too small: give at least 64 pixels a side"),
        (max(plan.shape) > 16384, f"--shape {plan.shape[0]} {plan.shape[1]} is too large: 16384 pixels are the most"),
        (not 0.2 <= plan.pixel_size <= 20, f"--pixel-size {plan.pixel_size:g} is no micrograph's: give 0.2 to 20 A"),
        (not 0 < plan.defocus[0] <= plan.defocus[1] <= 5e5, "--defocus counts underfocus in micrometres, up to 50"),
        (plan.astigmatism < 0, "--astigmatism wants angstrom, 0 or more"),
        (
            plan.astigmatism >= 2 * plan.defocus[0],
            f"--astigmatism {plan.astigmatism:g} leaves no underfocus across it: give less than twice the --defocus, "
            f"{2 * plan.defocus[0]:g} angstrom",
        ),
        (not 0 <= plan.cs <= 20, "--cs lies from 0 to 20 mm"),
        (plan.b_factor < 0, "--b-factor wants square angstrom, 0 or more"),
        (not 30 <= plan.voltage <= 1000, f"--voltage {plan.voltage:g} is no microscope's: give kilovolts, such as 300"),
        (not 0 <= plan.amplitude_contrast < 1, "--amplitude-contrast lies from 0 to below 1"),
        (all(s.distractor for s in plan.species), "every specimen is a distractor: leave one that is to be picked"),
        (not all(math.isfinite(s.share) and s.share > 0 for s in plan.species), "--share wants numbers above zero"),
    ]
    for name, (low, high) in plan.ranges.items():
        lowest, highest = LIMITS[name]
        option = "--dqe" if name == "detector_efficiency" else f"--{name.replace('_', '-')}"
        problems.append((low > high, f"{option} {low:g}:{high:g} is upside down: give the lower number first"))
        problems.append((not lowest <= low <= high <= highest, f"{option} lies from {lowest:g} to {highest:g}"))
    for wrong, sentence in problems:
        if wrong:
            raise CryoSegNetError(f"{sentence}.")


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, so that a changed specimen is noticed."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise CryoSegNetError(f"{path}: cannot be read ({error.strerror}); check the name.") from error
