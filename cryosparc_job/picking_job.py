"""What is to be picked in an external job, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryosegnet_ext.files.diameter import Diameter

from .connection import OutputName
from .micrographs import CACHE_BYTES

TITLE = "CryoSegNet particle picking"


@dataclass(frozen=True)
class PickingJob:
    """What to pick, and how to bring it back.

    Attributes
    ----------
    project, workspace
        Identifiers, as P1 and W1.
    exposures
        The output to pick, as J12:exposures; None where ``table`` gives them.
    table
        Exposures that are no job's output, such as those of a Live session; they become an output of the new job.
    job
        An external job of an earlier run that is to go on; None makes a new one.
    title, note
        Title of a new job, and a word for its description.
    estimated
        Particle diameter, as another job of the same specimen has estimated it.
    flip_y
        Mirror the picks top to bottom.
    only
        Identifiers of the exposures to pick; None: all.
    overwrite
        Forget what an earlier run of ``job`` has picked.
    state
        Folder for what is picked so far; by default in the cache.
    cache, cache_bytes
        Folder for downloaded micrographs and its bound.
    download
        True: always, False: never, None: where the project's folder is not mounted here.
    log_seconds
        How often the line of progress in the job's log is written anew.
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
    overwrite: bool = False
    state: Path | None = None
    cache: Path | None = None
    cache_bytes: int = CACHE_BYTES
    download: bool | None = None
    log_seconds: float = 5.0


@dataclass
class PickingResult:
    """What became of a task.

    Attributes
    ----------
    job : the external job
    exposures, without_picks, picks : numbers, over the exposures that were picked
    failures : (path, reason) of each exposure that was not; ``missed`` are their identifiers
    diameter : median over the picks, angstrom (pixels without a pixel size)
    estimated : the particle's diameter that was estimated before picking
    doubt : a sentence where the diameter that was given does not fit
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
    doubt: str | None = None
    late_signal: str | None = None

    @property
    def exit_code(self) -> int:
        """0 all done, 2 some exposures failed."""
        return 2 if self.failures else 0
