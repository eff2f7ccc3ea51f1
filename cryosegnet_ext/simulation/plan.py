"""The plan of a set of simulated micrographs, and the values that each of them draws."""

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
# Lowest and highest value of everything that is drawn; beyond, it is not a micrograph, or takes for ever.
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
    """The file of a specimen, its share relative to the others, and whether it is a distractor, not to be picked."""

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
        Lowest and highest value of each field of `Scene` that every micrograph draws anew; counts are whole numbers.
    defocus : angstrom, lowest and highest
    astigmatism : angstrom, the largest difference of the two defocus values
    voltage, cs, amplitude_contrast, b_factor
        As in `Optics`.
    junk_share, empty_share
        Share of the micrographs that have junk, and of those that have no particles.
    assembly
        Biological assembly of atomic models, as in `specimens.read_specimen`.
    device
        "cpu" or a torch device; rounding differs between them.
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
        """The scene of micrograph ``index``. Every value is drawn, used or not: no option changes another one."""
        rng = np.random.default_rng([self.seed, index])
        drawn: dict[str, Any] = {}
        for name in sorted(f.name for f in fields(Scene) if f.name != "optics"):
            part = rng.random()
            if name in self.ranges:
                low, high = self.ranges[name]
                drawn[name] = int(low + part * (high - low + 1)) if name in COUNTS else low + part * (high - low)
                drawn[name] = min(drawn[name], high if name not in COUNTS else int(high))
        if "mtf" in drawn:  # in steps, since every value makes an optics group
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
        """Seed of the micrograph: its noise and the places of its particles."""
        return int(np.random.default_rng([self.seed, index, 1]).integers(2**62))

    def record(self) -> dict[str, Any]:
        """Everything that changes the micrographs, as values for JSON.

        Not the folders of the specimens, whose contents are recorded, and not the device.
        """
        plain = asdict(self)
        del plain["device"]
        for species in plain["species"]:
            del species["path"]
        ranges = {name: list(values) for name, values in sorted(self.ranges.items())}
        return plain | {"shape": list(self.shape), "defocus": list(self.defocus), "ranges": ranges}


def check_plan(plan: Plan) -> None:
    """Refuse a plan that cannot be simulated, in one sentence.

    Raises
    ------
    CryoSegNetError
        A value is not allowed.
    """
    ny, nx = plan.shape
    low, high = (value / 1e4 for value in plan.defocus)
    limited = [
        ("--defocus", (low, high), (1e-4, 50.0), " micrometres of underfocus"),
        ("--pixel-size", (plan.pixel_size, plan.pixel_size), (0.2, 20.0), " angstrom"),
        ("--cs", (plan.cs, plan.cs), (0.0, 20.0), " mm"),
        ("--voltage", (plan.voltage, plan.voltage), (30.0, 1000.0), " kilovolts"),
    ]
    for name, drawn in plan.ranges.items():
        option = "--dqe" if name == "detector_efficiency" else f"--{name.replace('_', '-')}"
        limited.append((option, drawn, LIMITS[name], ""))
    problems = [
        (not plan.species, "no specimen was given: name a density map or an atomic model"),
        (not 64 <= min(ny, nx) <= max(ny, nx) <= 16384, f"--shape must be 64 to 16384 pixels a side (got {ny} {nx})"),
        (plan.astigmatism < 0, f"--astigmatism must be 0 angstrom or more (got {plan.astigmatism:g})"),
        (
            plan.astigmatism >= 2 * plan.defocus[0] > 0,
            f"--astigmatism must be less than twice the --defocus, {2 * plan.defocus[0]:g} angstrom "
            f"(got {plan.astigmatism:g})",
        ),
        (plan.b_factor < 0, f"--b-factor must be 0 square angstrom or more (got {plan.b_factor:g})"),
        (
            not 0 <= plan.amplitude_contrast < 1,
            f"--amplitude-contrast must be 0 or more, and below 1 (got {plan.amplitude_contrast:g})",
        ),
        (all(s.distractor for s in plan.species), "every specimen is a distractor: name one that is to be picked"),
        (not all(math.isfinite(s.share) and s.share > 0 for s in plan.species), "--share must be numbers above zero"),
    ]
    for option, (low, high), (least, most), unit in limited:
        given = f"{low:.10g}" if low == high else f"{low:.10g}:{high:.10g}"
        problems.append((low > high, f"{option} {given}: give the lower number first"))
        wrong = not least <= low <= high <= most
        problems.append((wrong, f"{option} must be between {least:.10g} and {most:.10g}{unit} (got {given})"))
    for wrong, sentence in problems:
        if wrong:
            raise CryoSegNetError(f"{sentence}.")


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, by which a changed specimen is noticed."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise CryoSegNetError(f"{path}: cannot be read ({error.strerror}); check the name.") from error
