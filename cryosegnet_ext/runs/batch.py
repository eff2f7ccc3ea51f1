"""Many micrographs: each is picked once, also if some fail, the run is killed, or more are added."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import CryoSegNetError, UsageError, plural
from ..files.inputs import Input
from ..picking.sampling import MICROGRAPHS
from .deaths import ESTIMATING, Deaths
from .diameter import Estimate, find_diameter
from .engines.base import Engine
from .engines.threads import engine_for
from .journal import Journal, Record
from .monitor import Monitor
from .outputs import RunOutputs
from .pick_task import MicrographPicker, PickOutcome, PickTask, died
from .progress import EstimateProgress, Progress, SentenceHandler, heard_by
from .result import BatchResult, ended, failure, is_header_of_one, one_angstrom, result_of, shortfall
from .sources import MicrographList, MicrographSource
from .stopping import Stop, Stopped
from .summary import SummaryTimer, write_summary
from .watch import Watch
from .written import FORMATS

__all__ = ["FORMATS", "BatchResult", "MicrographPicker", "run"]

log = logging.getLogger(__name__)

#: Longest wait for an outcome, or for micrographs to come, before both are looked for again.
_WAIT_SECONDS = 1.0
#: So many failures of a run are named in warnings.
MOST_TOLD = 20


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
    begin: Callable[[], None] | None = None,
    watch: Callable[[Record, int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
    monitor: Monitor | None = None,
    box_size: int | None = None,
    force: bool = False,
) -> BatchResult:
    """Pick micrographs into a folder; micrographs that an earlier run finished there are not picked again.

    Writes ``picks/<stem>.<format>``, ``overlays/<stem>.jpg``, ``summary.json`` and ``failed.csv``. A failed micrograph
    is recorded, and the others are picked. A signal (`stopping.SIGNALS`) drops the micrographs in progress and
    ends the run; a second one ends the process at once. In both cases the same call goes on later, with the same pick
    files in the end.

    Parameters
    ----------
    picker
        Picks one micrograph in this process; or an engine that picks elsewhere, and that the caller closes. This
        process writes all files.
    inputs
        The micrographs, as from `expand_inputs`; or a `Watch`, which finds them as they appear.
    output
        Folder for the results.
    formats
        Formats of the pick files: star, box, cbox, csv.
    overwrite
        Start anew: remove the files of an earlier run.
    overlays
        Draw the picks on a picture of each micrograph.
    pixel_size
        Angstrom per pixel; wins over that of the inputs.
    progress
        Report on stderr.
    stop
        Called between micrographs and while waiting; True ends the run as a signal does.
    begin
        Called before anything is picked, once the folder is this run's and its settings are those of before.
    watch
        Called for each micrograph of this run after its files and its line in the journal are written, with its record,
        the number of finished micrographs (also by earlier runs), and the number of all. If it raises OSError or
        CryoSegNetError, the run ends as with a full disk.
    say
        Where ``progress`` is False: called with each sentence that is logged for the user during the run.
    monitor
        Writes a heartbeat and metrics during the run.
    box_size
        Side of the boxes in box and cbox files, pixels, even; None: the particle diameter of the dataset.
    force
        Pick with the picker's diameter even if it is far from that of the particles that are seen.

    Raises
    ------
    UsageError
        The picker was given a diameter that is at least 2.5 times too large or too small for what the first micrographs
        surely show; nothing is picked.
    CryoSegNetError
        There is no input, the folder is in use or was picked with other settings, or nothing more can be picked or
        written.
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
        if begin is not None:
            begin()
        if source.skipped:
            log.info(f"{source.skipped} finished by an earlier run, {source.total - source.skipped} to pick")
        deaths = Deaths(None if engine.remote else journal.folder, journal.records)
        stopping.before_exit = deaths.close
        how = (monitor or Monitor(), stopping, progress, force)
        picking = PickingRun(engine, source, outputs, deaths, pixel_size, *how)
        try:
            picking.pick(watch)
        finally:
            deaths.close()
            if engine is not picker:
                engine.close()
        return picking.end()


def _check(inputs: Sequence[Input] | Watch, formats: Sequence[str]) -> None:
    if not isinstance(inputs, Watch) and not inputs:
        raise CryoSegNetError("no micrographs to pick; check the input")
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        raise CryoSegNetError(f"unknown pick format {', '.join(unknown) or '(none)'}; choose from {', '.join(FORMATS)}")


@dataclass
class PickingRun:
    """One run over many micrographs: the engine picks, this process writes files and journal.

    ``pixel_size`` wins over that of the inputs; ``stopping`` ends the run early; ``progress`` is reported on stderr;
    ``force`` goes on with a given diameter that is far from what is seen.
    """

    engine: Engine
    source: MicrographSource
    outputs: RunOutputs
    deaths: Deaths
    pixel_size: float | None
    monitor: Monitor
    stopping: Stop
    progress: bool
    force: bool = False
    _suspects: deque[tuple[Input, str]] = field(default_factory=deque)
    _alone: bool = False
    _given_up: list[PickOutcome] = field(default_factory=list)
    _in_progress: int = 0
    _tried: set[str] = field(default_factory=set)
    # Failed ones that were picked before; the journal still has those picks.
    _kept: dict[str, Record] = field(default_factory=dict)
    _remarks: set[str] = field(default_factory=set)
    _failures: int = 0
    _warned: bool = False
    _cut: bool = False
    _failure: Exception | None = None

    def pick(self, watch: Callable[[Record, int, int], None] | None) -> None:
        """Pick all micrographs of the source; `end` deals with what ended it early."""
        try:
            self.monitor.open(self.outputs.folder)
            self._find_diameter()
            # The clock starts here: the estimate takes as long as several micrographs.
            source = self.source
            with contextlib.closing(Progress(source.total, source.skipped, self.progress, source.growing)) as shown:
                self._pick(shown, watch)
        except Stopped:
            self._cut = True
        except UsageError:
            self.monitor.close("failed")
            raise
        except (OSError, CryoSegNetError) as error:
            self._failure = error

    def _pick(self, shown: Progress, watch: Callable[[Record, int, int], None] | None) -> None:
        summary = SummaryTimer()
        self.monitor.set_pace(shown.pace)
        while True:
            self.stopping.check()
            self._submit()
            self._tell("picking" if self._in_progress else "waiting")
            if not self._in_progress and self.source.over:
                return
            shown.pace.workers = self.engine.workers
            for record in self._finished():
                shown.grow(self.source.total, self.source.skipped)
                shown.add(record.picks, not record.done)
                if watch is not None and record.key not in self._kept:
                    watch(record, self.source.skipped + len(self._tried), self.source.total)
            if self.source.growing and summary.due:
                summary.write(self.outputs.journal, self.source, [*self._kept.values()])

    def _find_diameter(self) -> None:
        """Find the diameter of the dataset, once for all runs into this folder."""
        source, needed = self.source, self.engine.needs_diameter
        if needed or not source.over:
            find_diameter(self.outputs.journal, needed, self._estimates, self.force)
        self.monitor.set_diameter(self.outputs.journal.diameter)

    def _estimates(self, most: int) -> Iterator[Estimate]:
        """Estimates from at most ``most`` micrographs each."""
        for sample in self.source.samples(self.stopping, min(most, MICROGRAPHS)):
            inputs = [one for one in sample if not self.deaths.is_suspect(one)][:most]
            if not inputs:
                continue
            first = inputs[:MICROGRAPHS]
            count = plural(len(first), "micrograph")
            state, on = ("estimating", "from") if self.engine.needs_diameter else ("checking", "on")
            self._tell(state)
            log.info(f"{state} the particle size {on} {count}")
            with contextlib.closing(EstimateProgress(self.progress)) as shown:

                def looked(number: int, of: int, shown: EstimateProgress = shown) -> None:
                    shown(number, of)
                    self.monitor.set_estimate(number, of)

                self.deaths.begin(first, ESTIMATING)
                found = self.engine.estimate(inputs, self.pixel_size, self.stopping, looked)
                self.deaths.survived(one.key for one in first)
                yield found

    def _submit(self) -> None:
        """Give the engine as many micrographs as it wants now; suspects of an earlier death come last, each alone."""
        if self._alone and self._in_progress:
            return
        self._alone = False
        while pairs := self.source.take(self.engine.room):
            suspects = {one.key for one, _ in pairs if self.deaths.is_suspect(one)}
            self._suspects += [pair for pair in pairs if pair[0].key in suspects]
            self._begin([pair for pair in pairs if pair[0].key not in suspects])
        if self._suspects and not self._in_progress and (self.source.over or not self.source.waiting):
            self._alone = True
            self._begin([self._suspects.popleft()])

    def _begin(self, pairs: Sequence[tuple[Input, str]]) -> None:
        """Give these micrographs to the engine, but for those at which this process died too often."""
        reasons = [self.deaths.reason(one) for one, _ in pairs]
        self.deaths.begin([one for (one, _), reason in zip(pairs, reasons) if reason is None])
        outputs = self.outputs
        for (one, stem), reason in zip(pairs, reasons):
            task = PickTask(one, stem, self.pixel_size, outputs.journal.diameter, outputs.overlays)
            self.monitor.begin(one.key, one.name)
            self._in_progress += 1
            if reason is None:
                self.engine.submit(task)
            else:
                self._given_up.append(died(task, reason))

    def _finished(self) -> Iterator[Record]:
        """Wait a little for the engine; write the files of each micrograph that is finished, then its record."""
        if not self._in_progress:
            self.stopping.pause(_WAIT_SECONDS)
            return
        given_up, self._given_up = self._given_up, []
        for outcome in given_up or self.engine.wait(self.stopping, _WAIT_SECONDS):
            record = self.outputs.write(outcome)
            self._in_progress -= 1
            self._kept.pop(record.key, None)
            if self.outputs.keeps(record):
                record = replace(record, reason=f"{(record.reason or '').rstrip('.')}; its earlier picks are kept")
                self._kept[record.key] = record
            else:
                self.outputs.journal.add(record)
                self._tried.add(record.key)
            if not given_up:
                self.deaths.survived([record.key])
            self.source.add(record)
            self.monitor.add(record)
            if outcome.remark is not None and outcome.remark not in self._remarks:
                self._remarks.add(outcome.remark)
                log.info(f"{record.name}: {outcome.remark}")
            self._say(record)
            if not self._warned and is_header_of_one(record, self.pixel_size):
                self._warned = True
                log.warning(one_angstrom())
            yield record

    def _say(self, record: Record) -> None:
        """Say how a micrograph ended: the first failures as warnings, the rest for those who look for a bug."""
        sentence = f"{record.name}: {plural(record.picks, 'pick')}" if record.done else failure(record)
        self._failures += not record.done
        if record.done or self._failures > MOST_TOLD + 1:
            log.debug(sentence)
        elif self._failures <= MOST_TOLD:
            log.warning(sentence)
        else:
            log.debug(sentence)
            log.warning(
                f"further micrographs that fail are not named here: {self.outputs.folder / 'failed.csv'} has all"
            )

    def _tell(self, state: str) -> None:
        source, engine = self.source, self.engine
        self.monitor.update(state, source.waiting, source.skipped, engine.workers, engine.restarts)

    def end(self) -> BatchResult:
        """Write the summary; log warnings.

        Raises
        ------
        CryoSegNetError
            The run ended because writing or the engine failed.
        """
        source, failure, kept = self.source, self._failure, [*self._kept.values()]
        # A signal that came after the last micrograph did not stop anything.
        left = source.growing or len(self._tried) + len(kept) < source.total - source.skipped
        stopped = left and (self._cut or failure is not None)
        records = source.records(self.outputs.journal)
        try:
            write_summary(self.outputs.journal, records, stopped, kept)
        except (OSError, CryoSegNetError) as error:
            failure = failure or error
        result = result_of(self.outputs.journal, records, self._tried, stopped, kept)
        self.monitor.close("failed" if failure is not None else "stopped" if stopped else "ended")
        if failure is not None:
            raise ended(failure, result.done + result.skipped, source.total) from failure
        short = shortfall(result.done + result.skipped - len(kept), result.without_picks, result.failed)
        if short:
            log.warning(short, extra={"of_result": True})  # a host may have its own words for it
        elif self._failures > MOST_TOLD:
            log.warning(f"{plural(self._failures, 'micrograph')} failed; {self.outputs.folder / 'failed.csv'} says why")
        if source.waiting and not stopped:
            log.info(f"{plural(source.waiting, 'micrograph')} not picked yet; the same command goes on")
        return result
