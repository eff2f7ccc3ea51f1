"""An external job that picks: what to pick and how, and the result."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryosegnet_ext.files.diameter import Diameter
from cryosegnet_ext.runs.handed_picks import HandedPicks

from .connection import OutputName
from .micrographs import CACHE_BYTES

TITLE = "CryoSegNet particle picking"


@dataclass(frozen=True)
class PickingJob:
    """An external job that picks exposures.

    Attributes
    ----------
    project, workspace
        Identifiers, such as P1 and W1.
    exposures
        The output to pick, such as J12:exposures; None if ``table`` holds the exposures.
    table
        Exposures that are not a job's output, such as those of a Live session. They become an output of the new job.
    job
        The external job of an earlier run to continue; None: a new job.
    title, note
        Title of a new job, and text for its description.
    estimated
        Particle diameter that an earlier job of the same specimen estimated.
    flip_y
        Mirror the picks top to bottom.
    only
        uids of the exposures to pick; None: all.
    force
        Pick with the picker's diameter even if it is far from that of the particles that are seen.
    overwrite
        Discard what an earlier run of ``job`` has picked.
    state
        Folder for the picks until the job is completed; by default in the cache.
    cache, cache_bytes
        Folder for downloaded micrographs, and its size limit.
    download
        True: always; False: never; None: if the project's folder is not mounted.
    handed
        Picks of a finished run to hand on; it is the picker, too, and nothing is picked.
    log_seconds
        How often the progress line in the job's log is updated.
    """

    project: str
    workspace: str
    exposures: OutputName | None
    table: Any = None
    job: str | None = None
    title: str = TITLE
    note: str = ""
    estimated: Diameter | None = None
    flip_y: bool = False
    only: frozenset[int] | None = None
    force: bool = False
    overwrite: bool = False
    state: Path | None = None
    cache: Path | None = None
    cache_bytes: int = CACHE_BYTES
    download: bool | None = None
    handed: HandedPicks | None = None
    log_seconds: float = 5.0


@dataclass
class PickingResult:
    """Result of a `PickingJob`.

    Attributes
    ----------
    job : the external job
    exposures, without_picks, picks : exposures that were picked, those of them without picks, and all picks
    failures : (path, reason) of each exposure that was not picked; ``missed`` are their uids
    diameter : median over the picks, angstrom (pixels without a pixel size)
    estimated : particle diameter that was estimated before picking
    expected_false : expected share of false picks, 0..1; None without picks or calibrated scores
    doubt : what does not fit the micrographs in the given diameter or contrast, in words
    late_signal : name of the signal that came while the job was being completed, too late to stop it
    """

    job: str
    exposures: int = 0
    without_picks: int = 0
    picks: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    missed: list[int] = field(default_factory=list)
    diameter: float | None = None
    estimated: Diameter | None = None
    expected_false: float | None = None
    doubt: str | None = None
    late_signal: str | None = None

    @property
    def exit_code(self) -> int:
        """0 all done, 2 some exposures failed."""
        return 2 if self.failures else 0
