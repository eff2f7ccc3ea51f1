"""Many micrographs: each picked once, whatever fails, is killed, or is changed on the way."""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from .atomic import write_atomic
from .errors import CryoSegNetError
from .inputs import Input, output_stems
from .journal import Journal, Record, remove_files
from .micrograph import Micrograph, read_micrograph
from .overlay import encode_overlay
from .picks import Picks
from .progress import Progress
from .reading import Read, Reader, file_identity
from .stopping import Stop, Stopped
from .summary import write_summary

FORMATS = ("star", "box", "cbox", "csv")
#: The dataset's diameter is estimated from this many micrographs at most, and from this many pixels.
_ESTIMATE_MICROGRAPHS = 8
_ESTIMATE_PIXELS = 400_000_000
_ESTIMATE_TRIES = 100
#: Above this share of micrographs without picks the user is told.
_WARN_SHARE = 0.1
#: Names longer than this leave no room for suffixes within the 255 bytes of a file name.
_LONGEST_STEM = 230
_LONGEST_REASON = 500


class MicrographPicker(Protocol):
    """What a batch needs of a picker; `cryosegnet_ext.picker.Picker` is the one."""

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
class BatchResult:
    """What became of the micrographs of one run.

    Attributes
    ----------
    done, failed, skipped
        Numbers of micrographs picked by this run, failed in it, and finished by an earlier run.
    picks, without_picks
        Number of picks, and of micrographs without any, over the done and the skipped ones.
    diameter
        Median over micrographs of their median diameter, None without picks; in angstrom where ``in_angstrom`` says so,
        else in pixels.
    failures
        (name, reason) of each failed micrograph.
    stopped
        Whether a signal or ``stop`` ended the run early.
    """

    done: int
    failed: int
    skipped: int
    picks: int
    without_picks: int
    diameter: float | None
    in_angstrom: bool
    failures: tuple[tuple[str, str], ...]
    stopped: bool

    @property
    def exit_code(self) -> int:
        """0 all done, 2 some failed, 3 nothing could be done, 4 stopped."""
        if self.stopped:
            return 4
        if self.done + self.skipped == 0:
            return 3
        return 2 if self.failed else 0


def run(
    picker: MicrographPicker,
    inputs: Sequence[Input],
    output: str | Path,
    *,
    formats: Sequence[str] = ("star",),
    overwrite: bool = False,
    overlays: bool = True,
    pixel_size: float | None = None,
    progress: bool = True,
    stop: Callable[[], bool] | None = None,
    watch: Callable[[Record, int, int], None] | None = None,
) -> BatchResult:
    """Pick micrographs into a folder; what an earlier run finished there is not done again.

    Writes ``picks/<stem>.<format>``, ``overlays/<stem>.jpg``, ``summary.json`` and ``failed.csv``. A failed micrograph
    is recorded and the others go on. SIGINT and SIGTERM drop the micrograph at hand and end the run; a second one ends
    the process at once. Both leave a folder that the same call continues, with the same pick files in the end.

    Parameters
    ----------
    picker
        Picks one micrograph.
    inputs
        The micrographs, as from `expand_inputs`.
    output
        Folder for the results.
    formats
        Formats of the pick files: star, box, cbox, csv.
    overwrite
        Start anew: remove what an earlier run wrote.
    overlays
        Draw the picks on a picture of each micrograph.
    pixel_size
        Angstrom per pixel; wins over the inputs' own.
    progress
        Report on stderr.
    stop
        Asked between micrographs and while waiting; True ends the run as a signal would.
    watch
        Called for each micrograph of this run when its files and its line in the journal are written, with its record,
        how many micrographs are finished (those of earlier runs included), and how many there are. An error that it
        raises (OSError, CryoSegNetError) ends the run as a full disk does.

    Raises
    ------
    CryoSegNetError
        No input, the folder is in use or was made with other settings, or nothing can be written any more.
    """
    if not inputs:
        raise CryoSegNetError("no micrographs to pick; check the input")
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        raise CryoSegNetError(f"unknown pick format {', '.join(unknown) or '(none)'}; choose from {', '.join(FORMATS)}")
    settings = {**picker.settings, "pixel_size": pixel_size}
    output = Path(output)
    with Journal(output, settings, overwrite) as journal, Stop(stop) as stopping:
        batch = _Batch(picker, journal, stopping, tuple(formats), overlays, pixel_size)
        tasks = list(zip(inputs, output_stems(inputs, journal.stems())))
        todo = [task for task in tasks if not batch.is_finished(*task)]
        shown = Progress(len(tasks), len(tasks) - len(todo), progress)
        touched: set[str] = set()
        failure: Exception | None = None
        try:
            if todo and not batch.find_diameter(inputs):
                shown.warn("no particle diameter could be estimated from the dataset; --diameter A gives one")
            with contextlib.closing(batch.records(todo)) as picked:
                for record in picked:
                    journal.add(record)
                    touched.add(record.key)
                    shown.add(record.picks, not record.done)
                    if watch is not None:
                        watch(record, len(tasks) - len(todo) + len(touched), len(tasks))
        except Stopped:
            pass
        except (OSError, CryoSegNetError) as error:
            failure = error
        shown.close()
        stopped = len(touched) < len(todo)
        records = [journal.records[one.key] for one in inputs if one.key in journal.records]
        try:
            write_summary(journal, records, stopped)
        except (OSError, CryoSegNetError) as error:
            failure = failure or error
        result = _result(records, touched, stopped)
    if failure is not None:
        finished = result.done + result.skipped
        raise CryoSegNetError(
            f"writing stopped ({_reason(failure)}); {finished} of {len(tasks)} micrographs are finished and kept: "
            "make room or put the folder right, then run the same command again"
        ) from failure
    total = result.done + result.skipped + result.failed
    if result.without_picks + result.failed > _WARN_SHARE * total:
        shown.warn(
            f"{result.without_picks} of {total} micrographs have no picks and {result.failed} failed; look at the "
            "overlays and failed.csv, and check pixel size, diameter and threshold"
        )
    return result


def _result(records: Sequence[Record], touched: set[str], stopped: bool) -> BatchResult:
    done = [record for record in records if record.done]
    # A failure of an earlier run that this one did not come to is neither done nor failed here.
    failed = [record for record in records if not record.done and record.key in touched]
    picked = [record for record in done if record.picks]
    # Pixels and angstroms do not mix: micrographs without a pixel size are left out where others have one.
    known = [record for record in picked if record.pixel_size is not None] or picked
    diameters = [record.diameter for record in known if record.diameter is not None]
    return BatchResult(
        done=sum(record.key in touched for record in done),
        failed=len(failed),
        skipped=sum(record.key not in touched for record in done),
        picks=sum(record.picks for record in done),
        without_picks=sum(record.picks == 0 for record in done),
        diameter=float(np.median(diameters)) if diameters else None,
        in_angstrom=bool(known) and known[0].pixel_size is not None,
        failures=tuple((record.name, record.reason or "") for record in failed),
        stopped=stopped,
    )


class _Batch:
    """One run: turns inputs into files and records."""

    def __init__(
        self,
        picker: MicrographPicker,
        journal: Journal,
        stopping: Stop,
        formats: tuple[str, ...],
        overlays: bool,
        pixel_size: float | None,
    ) -> None:
        self.picker = picker
        self.journal = journal
        self.output = journal.output
        self.stopping = stopping
        self.formats = formats
        self.overlays = overlays
        self.pixel_size = pixel_size

    def names(self, stem: str, every: bool = False) -> list[str]:
        """Outputs of a micrograph below the output folder: those of this run, or every one there can be."""
        names = [f"picks/{stem}.{suffix}" for suffix in (FORMATS if every else self.formats)]
        return [*names, f"overlays/{stem}.jpg"] if every or self.overlays else names

    def is_finished(self, one: Input, stem: str) -> bool:
        """Whether an earlier run picked this very file and its outputs are still there."""
        record = self.journal.records.get(one.key)
        if record is None or not record.done or record.given_pixel_size != one.pixel_size:
            return False
        # A micrograph that was archived after it was picked needs no second pick.
        if file_identity(one) not in (None, (record.size, record.mtime_ns)):
            return False
        files = record.files or {}
        return all(name in files and _has_size(self.output / name, files[name]) for name in self.names(stem))

    def read(self, one: Input) -> Micrograph:
        return read_micrograph(one.path, pixel_size=self.pixel_size or one.pixel_size)

    def find_diameter(self, inputs: Sequence[Input]) -> bool:
        """Estimate the dataset's diameter, once for all runs into this folder; False where it came to nothing.

        An estimate that came to nothing is tried again as long as no micrograph has been picked without one.
        """
        journal = self.journal
        if not self.picker.needs_diameter or journal.diameter is not None:
            return True
        if journal.has_diameter and any(record.done for record in journal.records.values()):
            return False
        diameter = None
        try:
            with self.stopping.interrupts():
                chosen = self._sample(inputs)
                diameter = self.picker.estimate_diameter(chosen) if chosen else None
        except Exception:
            self._log("estimate of the particle diameter")
        journal.set_diameter(None if diameter is None else float(diameter))
        return diameter is not None

    def _sample(self, inputs: Sequence[Input]) -> list[Micrograph]:
        """Readable micrographs spread evenly over the inputs; always the same ones of the same inputs."""
        chosen: list[Micrograph] = []
        pixels = 0
        for number in _spread(len(inputs))[:_ESTIMATE_TRIES]:
            self.stopping.check()
            with contextlib.suppress(Exception):
                chosen.append(self.read(inputs[number]))
                pixels += chosen[-1].data.size
            if len(chosen) == _ESTIMATE_MICROGRAPHS or pixels > _ESTIMATE_PIXELS:
                break
        return chosen

    def records(self, tasks: Sequence[tuple[Input, str]]) -> Generator[Record, None, None]:
        """Pick each micrograph, write its files, and yield its record; ends early when the run is to stop."""
        with Reader(self.read, [one for one, _ in tasks]) as reader:
            for one, stem in tasks:
                with self.stopping.interrupts():
                    got = reader.next(self.stopping.check)
                    record, picks, picture = self._pick(one, stem, got)
                if picks is not None:
                    record = self._write(record, picks, picture)
                if not record.done:
                    # What an earlier version of the micrograph left must not pass for its picks.
                    remove_files(self.output, self.names(stem, every=True))
                yield record

    def _pick(self, one: Input, stem: str, got: Read) -> tuple[Record, Picks | None, bytes | None]:
        """The record of a micrograph, its picks (None: failed), and their picture."""
        record = Record(one.key, one.name, stem, "failed", given_pixel_size=one.pixel_size)
        record = replace(record, size=got.size, mtime_ns=got.mtime_ns)
        start = time.monotonic()
        try:
            if got.error is not None:
                raise got.error
            if len(os.fsencode(os.path.basename(stem))) > _LONGEST_STEM:
                raise CryoSegNetError(f"{one.name}: the file name is too long for its pick file; rename the micrograph")
            assert got.micrograph is not None
            picks = self.picker.pick(got.micrograph, self.journal.diameter)
        except Exception as error:
            return self._explained(record, error), None, None
        record = replace(
            record,
            status="done",
            picks=len(picks),
            diameter=round(float(np.median(picks.diameter)), 2) if len(picks) else None,
            pixel_size=None if picks.pixel_size is None else float(picks.pixel_size),
            seconds=round(got.seconds + time.monotonic() - start, 3),
        )
        picture = None
        if self.overlays:
            try:
                picture = encode_overlay(got.micrograph.data, picks)
            except Exception:
                # Picks are worth more than their picture.
                self._log(f"overlay of {one.name}")
        return record, picks, picture

    def _write(self, record: Record, picks: Picks, picture: bytes | None) -> Record:
        """Write the files of one micrograph; its line in the journal comes after them and never promises too much.

        Raises OSError or CryoSegNetError where writing fails, which ends the run: the next micrograph would fail too.
        """
        files: dict[str, int | None] = {}
        for name in self.names(record.stem):
            path = self.output / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.startswith("picks/"):
                try:
                    picks.write(path)
                except (OSError, CryoSegNetError):
                    raise
                except Exception as error:
                    return self._explained(record, error)
            elif picture is not None:
                write_atomic(path, picture)
            else:
                path.unlink(missing_ok=True)
                files[name] = None
                continue
            files[name] = path.stat().st_size
        return replace(record, files=files)

    def _explained(self, record: Record, error: Exception) -> Record:
        """The record of a failure; the traceback of one that is not the user's goes to a log."""
        known = isinstance(error, CryoSegNetError)
        if not known:
            self._log(record.name)
        text = str(error) if known else f"unexpected error {type(error).__name__}: {error}"
        return replace(record, status="failed", reason=" ".join(text.split())[:_LONGEST_REASON], picks=0, diameter=None)

    def _log(self, what: str) -> None:
        with contextlib.suppress(OSError), open(self.journal.folder / "errors.log", "a", errors="replace") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {what}\n{traceback.format_exc()}\n")


def _spread(count: int) -> list[int]:
    """The numbers below ``count``, from coarsely to finely spaced: any first few of them lie evenly."""
    bits = max(count - 1, 1).bit_length()
    fractions = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits))
    return list(dict.fromkeys(fraction * count >> bits for fraction in fractions))


def _has_size(path: Path, size: int | None) -> bool:
    if size is None:
        return True
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error).rstrip(".")
