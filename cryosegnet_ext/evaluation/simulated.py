"""The true size of simulated particles, which the record of the simulation holds and its label files do not."""

from __future__ import annotations

import math
import os
import statistics
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..files.json_text import parse_json


@dataclass(frozen=True)
class SimulatedSize:
    """Size of the particles of a simulation.

    Attributes
    ----------
    diameter
        Angstrom; the median of several specimens, without distractors.
    pixel_size
        Angstrom per pixel of the simulated micrographs.
    record
        The file that says so.
    """

    diameter: float
    pixel_size: float
    record: Path


def simulated_size(labels: Path) -> SimulatedSize | None:
    """The size for labels that are the folder of ``cryosegnet simulate`` or lie in its ``truth``; None for others."""
    whole = Path(os.path.abspath(labels))
    for folder in (whole, *whole.parents):
        record = folder / "simulation.json"
        if (folder == whole or folder / "truth" in (whole, *whole.parents)) and record.is_file():
            # A record that is damaged or of another version says nothing.
            with suppress(OSError, ValueError, KeyError, TypeError):
                made = parse_json(record.read_bytes())
                aside = {species["name"] for species in made["plan"]["species"] if species["distractor"]}
                sizes = [float(one["diameter"]) for one in made["specimens"] if one["name"] not in aside]
                diameter, pixel_size = statistics.median(sizes), float(made["plan"]["pixel_size"])
                if min(diameter, pixel_size) > 0 and math.isfinite(diameter + pixel_size):
                    return SimulatedSize(diameter, pixel_size, record)
    return None
