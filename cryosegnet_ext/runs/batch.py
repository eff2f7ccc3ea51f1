"""Many micrographs: each picked once, whatever fails, is killed, or is changed on the way."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import CryoSegNetError, plural
from ..files.atomic import write_atomic
from ..files.inputs import Input, file_identity
from ..files.picks import Picks
from .candidates import write_candidates
from .diameter import MICROGRAPHS, Estimate, find_diameter
from .engines.base import Engine
from .engines.threads import engine_for
from .journal import Journal, Record, log_error, remove_files
from .monitor import Monitor
from .progress import Progress, heard_by
from .result import ONE_ANGSTROM, BatchResult, ended, is_header_of_one, result_of, warn, warnings_of
from .sources import Listed, Source
from .stopping import Stop, Stopped
from .summary import SummaryTimer, write_summary
from .task import MicrographPicker, Outcome, Task, failed
from .watch import Watch

__all__ = ["FORMATS", "BatchResult", "MicrographPicker", "run"]

log = logging.getLogger(__name__)

FORMATS = ("star", "box", "cbox", "csv")
#: Longest wait for an outcome, or for micrographs to come, before both are looked for again.
_WAIT_SECONDS = 1.0


def run(
    picker: MicrographPicker | Engine,
    inputs: Sequence[Input] | Watch,
    output: str | Path,
    *,
    formats: Sequence[str] = ("star",),
    overwrite: bool = False,
    overlays: bool = True,
    pixel_size: float | None = None,
    progress: bool = True,
    stop: Callable[[], bool] | None = None,
    watch: Callable[[Record, int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
    monitor: Monitor | None = None,
    box_size: int | None = None,
) -> BatchResult:
    """Pick micrographs into a folder; what an earlier run finished there is not done again.

    Writes ``picks/<stem>.<format>``, ``overlays/<stem>.jpg``, ``summary.json`` and ``failed.csv``. A failed micrograph
    is recorded and the others go on. A signal (SIGINT, SIGTERM, SIGHUP) drops the micrographs in progress and ends the
    run; a second one ends the process at once. Both leave a folder that the same call continues, with the same pick
    files in the end.

    Parameters
    ----------
    picker
        Picks one micrograph, here; or an engine, which has them picked elsewhere and which the caller closes. This
        process does all the writing.
    inputs
        The micrographs, as from `expand_inputs`; or a `Watch`, which finds them as they appear.
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
    say
        Where ``progress`` is False: called with each sentence that is logged for the user during the run.
    monitor
        Told what goes on.
    box_size
        Side of the boxes of box and cbox files, pixels, even; None: the dataset's particle diameter.

    Raises
    ------
    CryoSegNetError
        No input, the folder is in use or was made with other settings, or nothing can be picked or written any more.
    """
    if not isinstance(inputs, Watch) and not inputs:
        raise CryoSegNetError("no micrographs to pick; check the input")
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        raise CryoSegNetError(f"unknown pick format {', '.join(unknown) or '(none)'}; choose from {', '.join(FORMATS)}")
    engine = picker if isinstance(picker, Engine) else engine_for(picker)
    monitor = monitor or Monitor()
    settings = {**engine.settings, "pixel_size": pixel_size}
    if box_size is not None:
        settings["box_size"] = box_size
    output = Path(output)
    heard = heard_by(None if progress else say)
    with heard, Journal(output, settings, overwrite) as journal, Stop(stop) as stopping:
        batch = _Batch(engine, journal, stopping, tuple(formats), overlays, pixel_size, monitor, box_size)
        source = inputs if isinstance(inputs, Watch) else Listed(inputs, journal, batch.is_finished)
        shown = Progress(source.total, source.skipped, progress, source.growing)
        if isinstance(source, Watch):
            source.begin(journal, batch.is_finished)
        touched: set[str] = set()
        cut = False
        failure: Exception | None = None
        try:
            monitor.open(output)
            batch.find_diameter(source)
            with contextlib.closing(batch.records(source)) as picked:
                for record in picked:
                    journal.add(record)
                    touched.add(record.key)
                    source.add(record)
                    monitor.add(record)
                    shown.grow(source.total, source.skipped)
                    shown.add(record.picks, not record.done)
                    if watch is not None:
                        watch(record, source.skipped + len(touched), source.total)
        except Stopped:
            cut = True
        except (OSError, CryoSegNetError) as error:
            failure = error
        finally:
            if engine is not picker:
                engine.close()
        shown.close()
        # A signal that came after the last micrograph stopped nothing.
        stopped = (cut or failure is not None) and (source.growing or len(touched) < source.total - source.skipped)
        records = source.records(journal)
        try:
            write_summary(journal, records, stopped)
        except (OSError, CryoSegNetError) as error:
            failure = failure or error
        result = replace(result_of(records, touched, stopped), warnings=warnings_of(journal, records))
        monitor.close("failed" if failure is not None else "stopped" if stopped else "ended")
        if failure is not None:
            raise ended(failure, result.done + result.skipped, source.total) from failure
        warn(result)
        if source.waiting and not stopped:
            log.info(f"{plural(source.waiting, 'micrograph')} not picked yet; the same command goes on")
    return result


class _Batch:
    """One run: turns inputs into files and records."""

    def __init__(
        self,
        engine: Engine,
        journal: Journal,
        stopping: Stop,
        formats: tuple[str, ...],
        overlays: bool,
        pixel_size: float | None,
        monitor: Monitor,
        box_size: int | None = None,
    ) -> None:
        self.engine = engine
        self.journal = journal
        self.output = journal.output
        self.stopping = stopping
        self.formats = formats
        self.overlays = overlays
        self.pixel_size = pixel_size
        self.monitor = monitor
        self.box_size = box_size
        self._doubted = False

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
        if file_identity(one.path) not in (None, (record.size, record.mtime_ns)):
            return False
        files = record.files or {}
        return all(name in files and _has_size(self.output / name, files[name]) for name in self.names(stem))

    def find_diameter(self, source: Source) -> None:
        """Know the dataset's diameter, once for all runs into this folder."""
        # To check one that was given is not worth waiting for the first micrographs of a source that grows.
        if self.engine.needs_diameter if source.growing else not source.over:
            find_diameter(self.journal, self.engine.needs_diameter, lambda most: self._look(source, most))
        self.monitor.set_diameter(self.journal.diameter)

    def _look(self, source: Source, most: int) -> Iterator[Estimate]:
        """Estimates from at most so many micrographs."""
        for inputs in source.samples(self.stopping):
            self._tell("estimating", source)
            count = min(len(inputs), most, MICROGRAPHS)
            log.info(f"estimating the particle size from {plural(count, 'micrograph')}")
            yield self.engine.estimate(inputs[:most], self.pixel_size, self.stopping)

    def records(self, source: Source) -> Generator[Record, None, None]:
        """Have each micrograph picked, write its files, and yield its record; ends early when the run is to stop."""
        at_hand = 0
        summary = SummaryTimer()
        while True:
            self.stopping.check()
            for one, stem in source.take(self.engine.room):
                self.monitor.begin(one.key, one.name)
                self.engine.submit(Task(one, stem, self.pixel_size, self.journal.diameter, self.overlays))
                at_hand += 1
            if not at_hand:
                self._tell("waiting", source)
                if source.over:
                    return
                if source.growing and summary.due:
                    summary.write(self.journal, source)
                self.stopping.pause(_WAIT_SECONDS)
                continue
            self._tell("picking", source)
            for outcome in self.engine.wait(self.stopping, _WAIT_SECONDS):
                yield self._keep(outcome)
                at_hand -= 1
            if source.growing and summary.due:
                summary.write(self.journal, source)

    def _tell(self, state: str, source: Source) -> None:
        self.monitor.update(state, source.waiting, source.skipped, self.engine.workers, self.engine.restarts)

    def _keep(self, outcome: Outcome) -> Record:
        """Write the files of one micrograph; gives its record, for the journal."""
        for what, trace in outcome.log:
            log_error(self.journal.folder, what, trace)
        record = outcome.record
        if outcome.picks is not None:
            if outcome.kept is not None:
                write_candidates(self.output, record.stem, outcome.kept)
            record = self._write(record, outcome.picks, outcome.picture)
            if not self._doubted and is_header_of_one(record, self.pixel_size):
                self._doubted = True
                log.warning(ONE_ANGSTROM)
        if not record.done:
            # What an earlier version of the micrograph left must not pass for its picks.
            remove_files(self.output, self.names(record.stem, every=True))
        return record

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
                    picks.write(path, self.box_size)
                except (OSError, CryoSegNetError):
                    raise
                except Exception as error:
                    outcome = failed(record, error)
                    for entry in outcome.log:
                        log_error(self.journal.folder, *entry)
                    return outcome.record
            elif picture is not None:
                write_atomic(path, picture)
            else:
                path.unlink(missing_ok=True)
                files[name] = None
                continue
            files[name] = path.stat().st_size
        return replace(record, files=files)


def _has_size(path: Path, size: int | None) -> bool:
    if size is None:
        return True
    try:
        return path.stat().st_size == size
    except OSError:
        return False
