"""Picking one micrograph of a run, as a task that any process can do.

The process that owns the output folder makes the tasks and writes the outcomes. Reading and picking, in between, write
nothing: they may be cut short, lost, or done twice without harm.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import CryoSegNetError, as_typed, is_typed, memory_sentence, out_of_memory
from ..files.diameter import Diameter
from ..files.inputs import Input, file_identity
from ..files.inside import check_stem
from ..files.micrograph import Micrograph
from ..files.overlay import encode_overlay
from ..files.picks import Picks
from .candidates import encode_candidates
from .false_picks import expected_false_of
from .journal import Record

_LONGEST_REASON = 500
#: Pixel sizes that differ by more than this share are not the same one, calibrated or rounded.
_SAME_PIXEL_SIZE = 0.02


class MicrographPicker(Protocol):
    """What a run needs of a picker, as `cryosegnet_ext.picking.picker.Picker` has it."""

    @property
    def settings(self) -> Mapping[str, object]:
        """Everything that changes picks, as values for JSON."""

    @property
    def needs_diameter(self) -> bool:
        """Whether the picker needs a diameter estimated from the dataset."""

    def estimate_diameter(self, micrographs: Sequence[Micrograph]) -> float | None:
        """Particle diameter in angstrom (pixels without a pixel size); None if it cannot be determined."""

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        """Picks of one micrograph."""


@dataclass
class ReadMicrograph:
    """One micrograph that was read, or the error that reading it raised.

    Attributes
    ----------
    size, mtime_ns
        Of the file before it was read (-1: no such file). If it changes meanwhile, the next run notices.
    seconds
        Time for reading.
    """

    size: int
    mtime_ns: int
    seconds: float = 0.0
    micrograph: Micrograph | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class PickTask:
    """A micrograph to pick, and how.

    Attributes
    ----------
    input, stem
        The micrograph, and the path of its outputs below ``picks/``.
    pixel_size
        Angstrom per pixel; wins over that of the input.
    diameter
        Particle diameter of the dataset, if it was estimated.
    overlay
        Draw the picks.
    typed
        How messages name options (`errors.as_typed`): as in the process that made the task.
    """

    input: Input
    stem: str
    pixel_size: float | None = None
    diameter: Diameter | None = None
    overlay: bool = False
    typed: bool = field(default_factory=is_typed)

    def read(self) -> ReadMicrograph:
        """Read the micrograph; an error is returned, not raised."""
        got = ReadMicrograph(*(file_identity(self.input.path) or (-1, -1)))
        start = time.monotonic()
        try:
            with as_typed(self.typed):
                got.micrograph = self.input.read(self.pixel_size)
        except Exception as error:
            got.error = error
        got.seconds = time.monotonic() - start
        return got


@dataclass(frozen=True)
class PickOutcome:
    """The result of a task.

    Attributes
    ----------
    record
        For the journal, without ``files``.
    picks
        None if the micrograph failed.
    picture
        The overlay as a JPEG file; None if it was not asked for or could not be drawn.
    candidates
        Content of the candidates file, from `encode_candidates`.
    log
        (what was done, traceback), for people who look for a bug.
    remark
        What was assumed in reading the micrograph (`Micrograph.remark`), for the user.
    """

    record: Record
    picks: Picks | None = None
    picture: bytes | None = None
    candidates: bytes | None = None
    log: tuple[tuple[str, str], ...] = ()
    remark: str | None = None


def pick_task(picker: MicrographPicker, task: PickTask, got: ReadMicrograph) -> PickOutcome:
    """Pick a micrograph that was read; errors are in the outcome, and nothing is raised."""
    one = task.input
    record = replace(blank_record(task), size=got.size, mtime_ns=got.mtime_ns)
    start = time.monotonic()
    try:
        if got.error is not None:
            raise got.error
        check_stem(task.stem)
        assert got.micrograph is not None
        with as_typed(task.typed):
            size = None if task.diameter is None else task.diameter.for_picks(got.micrograph.pixel_size)
            picks, candidates = _pick(picker, got.micrograph, size)
            # Of a picker that hands on picks, of which a person has edited some.
            by_hand = hasattr(picker, "is_edited") and picker.is_edited(got.micrograph)
    except Exception as error:
        return failed(record, error, one.path)
    sizes = picks.diameter[np.isfinite(picks.diameter)]
    record = replace(
        record,
        status="done",
        picks=len(picks),
        diameter=round(float(np.median(sizes)), 2) if len(sizes) else None,
        pixel_size=None if picks.pixel_size is None else float(picks.pixel_size),
        expected_false=None if by_hand else expected_false_of(picks, picker.settings),
        file_pixel_size=_contradicting(got.micrograph, one.pixel_size if task.pixel_size is None else None),
        seconds=round(got.seconds + time.monotonic() - start, 3),
    )
    picture = encoded = None
    log: tuple[tuple[str, str], ...] = ()
    try:
        encoded = encode_candidates(got.micrograph.data, candidates)
        picture = encode_overlay(got.micrograph.data, picks) if task.overlay else None
    except Exception:
        # A picture that fails must not cost the picks.
        log = ((f"overlay of {one.name}", traceback.format_exc()),)
    return PickOutcome(record, picks, picture, encoded, log, got.micrograph.remark)


def _contradicting(micrograph: Micrograph, given: float | None) -> float | None:
    """The pixel size of the file itself, if it differs from that which the list of inputs gives."""
    own = micrograph.file_pixel_size
    return own if own is not None and given is not None and abs(own / given - 1) > _SAME_PIXEL_SIZE else None


def _pick(picker: MicrographPicker, micrograph: Micrograph, diameter: float | None) -> tuple[Picks, Picks]:
    """Picks of a micrograph, and the candidates from which the threshold chose them, if the picker has them."""
    candidates = getattr(picker, "candidates", None)
    if candidates is None:
        picks = picker.pick(micrograph, diameter)
        return picks, picks
    every = candidates(micrograph, diameter)
    return every.above(picker.threshold), every  # type: ignore[attr-defined]


def blank_record(task: PickTask) -> Record:
    """A record that says failed, to be filled in."""
    return Record(task.input.key, task.input.name, task.stem, "failed", given_pixel_size=task.input.pixel_size)


def failed(record: Record, error: Exception, path: Path | None = None) -> PickOutcome:
    """The outcome of a failure; an unexpected error has its traceback in ``log``."""
    if isinstance(error, CryoSegNetError):
        return PickOutcome(refused(record, without_name(str(error), record.name, path)))
    if out_of_memory(error):
        return PickOutcome(refused(record, memory_sentence(error)))
    text = f"unexpected error {type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(error))
    return PickOutcome(refused(record, text), log=((record.name, trace),))


def died(task: PickTask, reason: str) -> PickOutcome:
    """The outcome of a micrograph that ended what picked it; with --watch it is tried again when its file changes."""
    size, mtime_ns = file_identity(task.input.path) or (-1, -1)
    return PickOutcome(refused(replace(blank_record(task), size=size, mtime_ns=mtime_ns), reason))


def refused(record: Record, reason: str) -> Record:
    """The record of a failed micrograph, with the reason."""
    reason = " ".join(reason.split())[:_LONGEST_REASON]
    return replace(record, status="failed", reason=reason, picks=0, diameter=None, expected_false=None, files=None)


def without_name(sentence: str, name: str, path: Path | None = None) -> str:
    """A reason without the micrograph's name, beside which it is printed.

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
