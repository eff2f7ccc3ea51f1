"""One micrograph of a batch as work that any process can do: what goes in, and what comes back to be written.

The process that owns the output folder makes the tasks and writes the outcomes; reading and picking, in between, touch
no output and may be cut short, lost, or done twice without harm.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import CryoSegNetError
from ..files.diameter import Diameter
from ..files.inputs import Input
from ..files.micrograph import Micrograph, read_micrograph
from ..files.picks import Picks
from .candidates import encode_candidates
from .journal import Record
from .overlay import encode_overlay
from .prefetch import ReadMicrograph, read_one

#: Names longer than this leave no room for suffixes within the 255 bytes of a file name.
_LONGEST_STEM = 230
_LONGEST_REASON = 500


class MicrographPicker(Protocol):
    """What a batch needs of a picker; `cryosegnet_ext.picking.picker.Picker` is the one."""

    @property
    def settings(self) -> Mapping[str, object]:
        """Everything that changes picks, as JSON-able values."""

    @property
    def needs_diameter(self) -> bool:
        """Whether the picker wants a diameter estimated from the whole dataset."""

    def estimate_diameter(self, micrographs: Sequence[Micrograph]) -> float | None:
        """Particle diameter in angstrom (pixels without pixel size); None where it cannot be determined."""

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        """Picks of one micrograph."""


@dataclass(frozen=True)
class PickTask:
    """A micrograph to pick, and how.

    Attributes
    ----------
    input, stem
        The micrograph, and the path of its outputs below ``picks/``.
    pixel_size
        Angstrom per pixel; wins over the input's own.
    diameter
        The dataset's particle diameter, where it was estimated.
    overlay
        Draw the picks.
    """

    input: Input
    stem: str
    pixel_size: float | None = None
    diameter: Diameter | None = None
    overlay: bool = False

    def read(self) -> ReadMicrograph:
        """Read the micrograph."""
        return read_one(self.input, self.load)

    def load(self, one: Input) -> Micrograph:
        """The micrograph; raises CryoSegNetError where it cannot be read."""
        return read_micrograph(one.path, pixel_size=self.pixel_size or one.pixel_size)


@dataclass(frozen=True)
class PickOutcome:
    """What became of a task.

    Attributes
    ----------
    record
        For the journal; ``files`` are not in it yet.
    picks
        None where the micrograph failed.
    picture
        The overlay as a JPEG file; None where it is not wanted or could not be drawn.
    kept
        What the report needs of the micrograph, as `encode_candidates` gives it.
    log
        For people who look for a bug: (what was done, traceback).
    """

    record: Record
    picks: Picks | None = None
    picture: bytes | None = None
    kept: bytes | None = None
    log: tuple[tuple[str, str], ...] = ()


def pick_task(picker: MicrographPicker, task: PickTask, got: ReadMicrograph) -> PickOutcome:
    """Pick a micrograph that was read; whatever goes wrong is in the outcome, and nothing is raised."""
    one = task.input
    record = replace(blank_record(task), size=got.size, mtime_ns=got.mtime_ns)
    start = time.monotonic()
    try:
        if got.error is not None:
            raise got.error
        if len(os.fsencode(os.path.basename(task.stem))) > _LONGEST_STEM:
            raise CryoSegNetError(f"{one.name}: the file name is too long for its pick file; rename the micrograph")
        assert got.micrograph is not None
        size = None if task.diameter is None else task.diameter.for_picks(got.micrograph.pixel_size)
        picks, candidates = _pick(picker, got.micrograph, size)
    except Exception as error:
        return failed(record, error, one.path)
    record = replace(
        record,
        status="done",
        picks=len(picks),
        diameter=round(float(np.median(picks.diameter)), 2) if len(picks) else None,
        pixel_size=None if picks.pixel_size is None else float(picks.pixel_size),
        seconds=round(got.seconds + time.monotonic() - start, 3),
    )
    picture = kept = None
    log: tuple[tuple[str, str], ...] = ()
    try:
        kept = encode_candidates(got.micrograph.data, candidates)
        picture = encode_overlay(got.micrograph.data, picks) if task.overlay else None
    except Exception:
        # Picks are worth more than their picture.
        log = ((f"overlay of {one.name}", traceback.format_exc()),)
    return PickOutcome(record, picks, picture, kept, log)


def _pick(picker: MicrographPicker, micrograph: Micrograph, diameter: float | None) -> tuple[Picks, Picks]:
    """The picks of a micrograph, and what the threshold chose them from, where the picker tells that."""
    candidates = getattr(picker, "candidates", None)
    if candidates is None:
        picks = picker.pick(micrograph, diameter)
        return picks, picks
    every = candidates(micrograph, diameter)
    return every.above(picker.threshold), every  # type: ignore[attr-defined]


def blank_record(task: PickTask) -> Record:
    """The record of a task that came to nothing yet."""
    return Record(task.input.key, task.input.name, task.stem, "failed", given_pixel_size=task.input.pixel_size)


def failed(record: Record, error: Exception, path: Path | None = None) -> PickOutcome:
    """The outcome of a failure; the traceback of one that is not the user's is for a log."""
    if isinstance(error, CryoSegNetError):
        return PickOutcome(refused(record, without_name(str(error), record.name, path)))
    text = f"unexpected error {type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(error))
    return PickOutcome(refused(record, text), log=((record.name, trace),))


def refused(record: Record, reason: str) -> Record:
    """The record of a micrograph that failed for a reason."""
    reason = " ".join(reason.split())[:_LONGEST_REASON]
    return replace(record, status="failed", reason=reason, picks=0, diameter=None, files=None)


def without_name(sentence: str, name: str, path: Path | None = None) -> str:
    """A reason that stands beside the micrograph's name and need not repeat it.

    >>> without_name("a/m.mrc is truncated: copy it again.", "a/m.mrc")
    'the file is truncated: copy it again.'
    >>> without_name("a/m.mrc: the file name is too long", "a/m.mrc")
    'the file name is too long'
    """
    for known in (name, str(path)):
        for spelt in (known, ascii(known)):
            if sentence.startswith(f"{spelt}: "):
                return sentence[len(spelt) + 2 :]
            if sentence.startswith(f"{spelt} "):
                return f"the file{sentence[len(spelt) :]}"
    return sentence
