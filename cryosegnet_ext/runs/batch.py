"""Many micrographs: each picked once, whatever fails, is killed, or is changed on the way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..errors import CryoSegNetError, plural
from ..files.inputs import Input
from .diameter import MICROGRAPHS, Estimate, find_diameter
from .engines.base import Engine
from .engines.threads import engine_for
from .journal import Journal, Record
from .monitor import Monitor
from .outputs import FORMATS, RunOutputs
from .pick_task import MicrographPicker, PickTask
from .progress import Progress, SentenceHandler, heard_by
from .result import ONE_ANGSTROM, BatchResult, ended, is_header_of_one, result_of, warn
from .sources import MicrographList, MicrographSource
from .stopping import Stop, Stopped
from .summary import SummaryTimer, write_summary
from .watch import Watch

__all__ = ["FORMATS", "BatchResult", "MicrographPicker", "run"]

log = logging.getLogger(__name__)

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
    _check(inputs, formats)
    engine = picker if isinstance(picker, Engine) else engine_for(picker)
    settings = {**engine.settings, "pixel_size": pixel_size}
    if box_size is not None:
        settings["box_size"] = box_size
    heard = heard_by(None if progress or say is None else SentenceHandler(say))
    with heard, Journal(Path(output), settings, overwrite) as journal, Stop(stop) as stopping:
        outputs = RunOutputs(journal, tuple(formats), overlays, box_size)
        source = inputs if isinstance(inputs, Watch) else MicrographList(inputs)
        source.begin(outputs)
        picking = PickingRun(engine, source, outputs, pixel_size, monitor or Monitor(), stopping)
        shown = Progress(source.total, source.skipped, progress, source.growing)
        try:
            picking.pick(shown, watch)
        finally:
            if engine is not picker:
                engine.close()
        shown.close()
        return picking.end()


def _check(inputs: Sequence[Input] | Watch, formats: Sequence[str]) -> None:
    if not isinstance(inputs, Watch) and not inputs:
        raise CryoSegNetError("no micrographs to pick; check the input")
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        raise CryoSegNetError(f"unknown pick format {', '.join(unknown) or '(none)'}; choose from {', '.join(FORMATS)}")


class PickingRun:
    """One run over many micrographs: the engine picks, this process writes files and journal.

    Parameters
    ----------
    engine
        Where micrographs are picked.
    source
        Which ones.
    outputs
        What is written for each of them; its journal remembers them.
    pixel_size
        Angstrom per pixel; wins over that of the inputs.
    monitor
        Told what goes on.
    stopping
        Ends the run early.
    """

    def __init__(
        self,
        engine: Engine,
        source: MicrographSource,
        outputs: RunOutputs,
        pixel_size: float | None,
        monitor: Monitor,
        stopping: Stop,
    ) -> None:
        self._engine = engine
        self._source = source
        self._outputs = outputs
        self._journal = outputs.journal
        self._pixel_size = pixel_size
        self._monitor = monitor
        self._stopping = stopping
        self._in_progress = 0
        self._touched: set[str] = set()
        self._warned = self._cut = False
        self._failure: Exception | None = None

    def pick(self, shown: Progress, watch: Callable[[Record, int, int], None] | None) -> None:
        """Pick every micrograph that the source gives out; what ends it early is for `end`."""
        summary = SummaryTimer()
        try:
            self._monitor.open(self._outputs.folder)
            self._find_diameter()
            while True:
                self._stopping.check()
                self._submit()
                self._tell("picking" if self._in_progress else "waiting")
                if not self._in_progress and self._source.over:
                    return
                for record in self._finished():
                    shown.grow(self._source.total, self._source.skipped)
                    shown.add(record.picks, not record.done)
                    if watch is not None:
                        watch(record, self._source.skipped + len(self._touched), self._source.total)
                if self._source.growing and summary.due:
                    summary.write(self._journal, self._source)
        except Stopped:
            self._cut = True
        except (OSError, CryoSegNetError) as error:
            self._failure = error

    def _find_diameter(self) -> None:
        """Know the dataset's diameter, once for all runs into this folder."""
        source, needed = self._source, self._engine.needs_diameter
        # To check one that was given is not worth waiting for the first micrographs of a source that grows.
        if needed if source.growing else not source.over:
            find_diameter(self._journal, needed, self._estimates)
        self._monitor.set_diameter(self._journal.diameter)

    def _estimates(self, most: int) -> Iterator[Estimate]:
        """Estimates from at most so many micrographs each."""
        for inputs in self._source.samples(self._stopping):
            self._tell("estimating")
            if self._engine.needs_diameter:  # else a given one is checked
                count = plural(min(len(inputs), most, MICROGRAPHS), "micrograph")
                log.info(f"estimating the particle size from {count}")
            yield self._engine.estimate(inputs[:most], self._pixel_size, self._stopping)

    def _submit(self) -> None:
        """Give the engine as many micrographs as it wants now."""
        for one, stem in self._source.take(self._engine.room):
            self._monitor.begin(one.key, one.name)
            self._engine.submit(PickTask(one, stem, self._pixel_size, self._journal.diameter, self._outputs.overlays))
            self._in_progress += 1

    def _finished(self) -> Iterator[Record]:
        """Wait a little for micrographs that the engine has finished; write their files, then their records."""
        if not self._in_progress:
            self._stopping.pause(_WAIT_SECONDS)
            return
        for outcome in self._engine.wait(self._stopping, _WAIT_SECONDS):
            record = self._outputs.write(outcome)
            self._in_progress -= 1
            self._journal.add(record)
            self._touched.add(record.key)
            self._source.add(record)
            self._monitor.add(record)
            log.debug(f"{record.name}: {record.reason or plural(record.picks, 'pick')}")
            if not self._warned and is_header_of_one(record, self._pixel_size):
                self._warned = True
                log.warning(ONE_ANGSTROM)
            yield record

    def _tell(self, state: str) -> None:
        source, engine = self._source, self._engine
        self._monitor.update(state, source.waiting, source.skipped, engine.workers, engine.restarts)

    def end(self) -> BatchResult:
        """Write the summary, and say how the run went.

        Raises
        ------
        CryoSegNetError
            Writing or the engine failed, which ended the run.
        """
        source, failure = self._source, self._failure
        # A signal that came after the last micrograph stopped nothing.
        left = source.growing or len(self._touched) < source.total - source.skipped
        stopped = left and (self._cut or failure is not None)
        records = source.records(self._journal)
        try:
            write_summary(self._journal, records, stopped)
        except (OSError, CryoSegNetError) as error:
            failure = failure or error
        result = result_of(self._journal, records, self._touched, stopped)
        self._monitor.close("failed" if failure is not None else "stopped" if stopped else "ended")
        if failure is not None:
            raise ended(failure, result.done + result.skipped, source.total) from failure
        warn(result)
        if source.waiting and not stopped:
            log.info(f"{plural(source.waiting, 'micrograph')} not picked yet; the same command goes on")
        return result
