"""Picks the exposures of a job into a journal, so that a run that was stopped continues where it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryosegnet_ext.errors import CryoSegNetError, plural, some
from cryosegnet_ext.files.atomic import atomic_path, write_atomic
from cryosegnet_ext.files.checksums import checksum, is_changed
from cryosegnet_ext.files.inputs import Input
from cryosegnet_ext.files.overlay import draw_overlay
from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.picking.sampling import MICROGRAPHS
from cryosegnet_ext.runs.diameter import Estimate, find_diameter
from cryosegnet_ext.runs.engines.base import Engine
from cryosegnet_ext.runs.false_picks import expected_false
from cryosegnet_ext.runs.journal import Journal
from cryosegnet_ext.runs.pick_task import PickOutcome, PickTask
from cryosegnet_ext.runs.progress import EstimateProgress, Pace, Progress, duration, looked_at

from . import plots
from .errors import EngineLost, ServerError
from .job_log import JobLog
from .locations import Exposure
from .micrographs import ProjectMicrographs
from .outputs import JobOutputs
from .picking_job import PickingJob, PickingResult

_ANNOTATED = 4
_CROPS_EACH = 9
#: Name of the saved picks among a record's checksums.
_PICKS = "picks"
_WAIT_SECONDS = 0.2
#: The wait for a result while the engine has room: a file that was fetched meanwhile waits no longer than this.
_SHORT_WAIT_SECONDS = 0.02


class ExposurePicker:
    """Picks exposures into a journal, which keeps the picks until the outputs are stored.

    Parameters
    ----------
    spec
        What to pick.
    engine
        Where it is picked; the outputs do not depend on it.
    micrographs
        Where the micrographs come from.
    journal
        Keeps the picks.
    outputs
        Takes the pictures; its run is the job's.
    show_progress
        Show on standard error how far the picking is.
    """

    def __init__(
        self,
        spec: PickingJob,
        engine: Engine,
        micrographs: ProjectMicrographs,
        journal: Journal,
        outputs: JobOutputs,
        show_progress: bool,
    ) -> None:
        self.spec = spec
        self.engine = engine
        self.micrographs = micrographs
        self.journal = journal
        self.outputs = outputs
        self.run = outputs.run
        self.folder = journal.output / "picks"
        self.show_progress = show_progress
        self._annotated: set[int] = set()
        self._damaged: set[int] = set()
        self._remarks: set[str] = set()

    def every(self, exposures: Sequence[Exposure]) -> PickingResult:
        """Pick all exposures that an earlier run did not.

        Raises
        ------
        ServerError
            The server or the network failed; the picks so far are kept.
        EngineLost
            Nothing can be picked here any more.
        """
        self._look_for_damage(exposures)
        todo = [one for one in exposures if not self.is_done(one)]
        if len(todo) < len(exposures):
            kept = len(exposures) - len(todo)
            self.run.log.write(f"{plural(kept, 'exposure')} picked by an earlier run, which are kept")
        if todo:
            self._find_diameter(exposures)
        self.run.log.checkpoint()
        self._annotated = {exposures[i].uid for i in np.linspace(0, len(exposures) - 1, _ANNOTATED).astype(int)}
        for one in exposures:
            if one.uid in self._annotated and self.is_done(one):
                self._plot(one)
        earlier = sum(self.journal.records[str(one.uid)].picks for one in exposures if self.is_done(one))
        report = _Report(self.run.log, len(todo), earlier, self.spec.log_seconds, self.show_progress)
        with contextlib.closing(report):
            left_out = self._pick(todo, report)
        return self._result(exposures, left_out)

    def is_done(self, exposure: Exposure) -> bool:
        """Whether the journal has the picks of an exposure."""
        record = self.journal.records.get(str(exposure.uid))
        there = record is not None and record.done and record.name == exposure.path and self._file(exposure).is_file()
        return there and exposure.uid not in self._damaged

    def _look_for_damage(self, exposures: Sequence[Exposure]) -> None:
        """Say which picks of an earlier run are not as they were saved; they do not count as done."""
        done = [one for one in exposures if self.is_done(one)]
        sums = [(self.journal.records[str(one.uid)].checksums or {}).get(_PICKS) for one in done]
        found = [one for one, known in zip(done, sums) if known is not None and is_changed(self._file(one), known)]
        self._damaged = {one.uid for one in found}
        if found:
            count, names = plural(len(found), "exposure"), some([one.path for one in found])
            text = f"the saved picks of {count} were damaged or changed and are made again: {names}"
            self.run.log.write(text, warning=True)

    def load(self, exposure: Exposure) -> Picks:
        """The picks of an exposure that `is_done`."""
        record = self.journal.records[str(exposure.uid)]
        with self.run.stop.delayed():
            rows = np.load(self._file(exposure), allow_pickle=False)
        ny, nx = (int(n) for n in record.stem.split("x"))
        return Picks(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3], record.pixel_size, (ny, nx))

    def _pick(self, todo: Sequence[Exposure], report: _Report) -> dict[int, str]:
        """Pick exposures, in the order in which the engine returns them; uid -> why an exposure was left out."""
        left_out: dict[int, str] = {}
        in_progress: dict[str, Exposure] = {}
        lost: ServerError | None = None
        waiting = len(todo)

        def leave_out(exposure: Exposure, error: Exception | None) -> None:
            left_out[exposure.uid] = _reason(error)
            report.add(None)

        with self.micrographs.prefetcher(todo) as prefetcher:
            while in_progress or waiting:
                self.run.stop.check()
                while waiting and self.engine.room > 0:
                    fetched = prefetcher.take(0.0 if in_progress else _WAIT_SECONDS)
                    if fetched is None:
                        break
                    waiting -= 1
                    if isinstance(fetched.error, ServerError):
                        # The exposure itself may be good. Those in progress are still picked.
                        lost, waiting = fetched.error, 0
                    elif fetched.path is None:
                        leave_out(fetched.exposure, fetched.error)
                    else:
                        key = str(fetched.exposure.uid)
                        in_progress[key] = fetched.exposure
                        self.engine.submit(
                            PickTask(_input(fetched.exposure, fetched.path), key, diameter=self.journal.diameter)
                        )
                if not in_progress:
                    continue
                report.workers(self.engine.workers)
                for outcome in self._wait(_SHORT_WAIT_SECONDS if waiting and self.engine.room > 0 else _WAIT_SECONDS):
                    exposure = in_progress.pop(outcome.record.stem, None)
                    if exposure is None:
                        continue  # from an earlier run with the same engine, which was stopped
                    try:
                        self._save(exposure, outcome)
                        report.add(outcome.record.picks)
                    except CryoSegNetError as error:
                        leave_out(exposure, error)
                    self.micrographs.release(exposure)
        if lost is not None:
            raise lost
        return left_out

    def _wait(self, seconds: float) -> list[PickOutcome]:
        with _engine_lost():
            return self.engine.wait(self.run.stop, seconds)

    def _save(self, exposure: Exposure, outcome: PickOutcome) -> None:
        """Put the picks of one exposure into the journal.

        Raises
        ------
        CryoSegNetError
            There are no picks, or they are those of another micrograph.
        """
        picks = outcome.picks
        if picks is None:
            raise CryoSegNetError(outcome.record.reason or "it was not picked")
        shape = picks.shape or self.micrographs.read(exposure).data.shape
        self.micrographs.check_shape(exposure, shape)
        annotate = exposure.uid in self._annotated
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write(self._file(exposure), np.column_stack([picks.x, picks.y, picks.diameter, picks.score]))
        if annotate:
            self._annotate(exposure, picks)
        # The shape stands where other journals have the name of the pick file; `load` needs it.
        stem = f"{shape[0]}x{shape[1]}"
        sums = {_PICKS: checksum(self._file(exposure).read_bytes())}
        self._damaged.discard(exposure.uid)
        with self.run.stop.delayed():
            record = replace(outcome.record, key=str(exposure.uid), name=exposure.path, stem=stem, checksums=sums)
            self.journal.add(record)
        if outcome.remark is not None and outcome.remark not in self._remarks:
            self._remarks.add(outcome.remark)
            self.run.log.write(f"{exposure.path}: {outcome.remark}")
        if annotate:
            self._plot(exposure)

    def _annotate(self, exposure: Exposure, picks: Picks) -> None:
        """Write the picture of an exposure with its picks, and crops of particles; good picks need neither."""
        with contextlib.suppress(ValueError, CryoSegNetError):
            data = self.micrographs.read(exposure).data
            picture = plots.png(np.ascontiguousarray(draw_overlay(data, picks)[:, :, ::-1]))
            with self.run.stop.delayed():
                write_atomic(self._file(exposure, ".png"), picture)
            self._write(self._file(exposure, "-crops.npy"), plots.crops(data, picks, _CROPS_EACH))

    def _write(self, path: Path, array: np.ndarray) -> None:
        with self.run.stop.delayed(), atomic_path(path) as temporary:
            np.save(temporary, array, allow_pickle=False)

    def _plot(self, exposure: Exposure) -> None:
        """Add the picture of an exposure to the job's log."""
        with contextlib.suppress(OSError, ServerError):
            picture = self._file(exposure, ".png").read_bytes()
            self.outputs.plot(picture, f"Picks on {exposure.path}", f"picks_{exposure.uid}")

    def _file(self, exposure: Exposure, suffix: str = ".npy") -> Path:
        return self.folder / f"{exposure.uid}{suffix}"

    def _result(self, exposures: Sequence[Exposure], left_out: dict[int, str]) -> PickingResult:
        done = [self.journal.records[str(one.uid)] for one in exposures if self.is_done(one)]
        diameters = [record.diameter for record in done if record.diameter is not None]
        missed = [one for one in exposures if one.uid in left_out]
        return PickingResult(
            self.run.job.uid,
            exposures=len(done),
            without_picks=sum(record.picks == 0 for record in done),
            picks=sum(record.picks for record in done),
            failures=[(one.path or str(one.uid), left_out[one.uid]) for one in missed],
            missed=[one.uid for one in missed],
            diameter=float(np.median(diameters)) if diameters else None,
            estimated=self.journal.diameter,
            expected_false=expected_false(done),
            doubt="; ".join(self.journal.warnings) or None,
        )

    def _find_diameter(self, exposures: Sequence[Exposure]) -> None:
        """Put the particle diameter into the journal, once for the job."""
        needed = self.engine.needs_diameter
        if self.spec.estimated is None:
            find_diameter(self.journal, needed, lambda most: [self._estimate(exposures, most)], self.spec.force)
        elif needed and not self.journal.has_diameter:
            self.journal.set_diameter(self.spec.estimated)

    def _estimate(self, exposures: Sequence[Exposure], most: int) -> Estimate:
        """The diameter, from exposures spread evenly over all; those that cannot be read are left out."""
        count = min(most, MICROGRAPHS)
        chosen = [exposures[i] for i in np.unique(np.linspace(0, len(exposures) - 1, count).astype(int))]
        fetched: list[tuple[Exposure, Path]] = []
        try:
            for one in chosen:
                self.run.stop.check()
                try:
                    fetched.append((one, self.micrographs.fetch(one, verify=True)))
                except ServerError:
                    raise
                except CryoSegNetError:
                    continue
            inputs = [_input(one, path) for one, path in fetched]
            if not inputs:
                return Estimate()
            with _engine_lost(), contextlib.closing(EstimateProgress(self.show_progress)) as shown:

                def looked(number: int, of: int) -> None:
                    shown(number, of)
                    self.run.log.write_progress(looked_at(number, of, "exposure"))

                return self.engine.estimate(inputs, None, self.run.stop, looked)
        finally:
            for one, _ in fetched:
                self.micrographs.release(one)


class _Report:
    """Reports how far the picking is: in the job's log and, if wanted, on standard error."""

    def __init__(self, log: JobLog, total: int, picks: int, seconds: float, shown: bool) -> None:
        self._log = log
        self._due = Pace(total, 0, seconds)
        self._progress = Progress(total, 0, shown)
        self._picks = picks
        self._left_out = 0

    def add(self, picks: int | None) -> None:
        """Count an exposure and its picks; None: it was left out."""
        due, pace, failed = self._due, self._progress.pace, picks is None
        due.count += 1
        self._picks += picks or 0
        self._left_out += failed
        self._progress.add(picks or 0, failed)
        if not due.is_due and due.count < due.total:
            return
        due.told()
        words = [f"{due.count} of {plural(due.total, 'exposure')}", *([pace.speed] if pace.speed else [])]
        words += [] if pace.seconds_left is None else [f"{duration(pace.seconds_left)} left"]
        words += [plural(self._picks, "particle")]
        words += [f"{self._left_out} left out"] if self._left_out else []
        self._log.write_progress(", ".join(words))

    def workers(self, count: int) -> None:
        """So many exposures are picked at a time."""
        self._progress.pace.workers = count

    def close(self) -> None:
        self._progress.close()


def _input(exposure: Exposure, path: Path) -> Input:
    return Input(path, exposure.path, exposure.pixel_size)


def _reason(error: Exception | None) -> str:
    text = str(error) if isinstance(error, CryoSegNetError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:500]


@contextlib.contextmanager
def _engine_lost() -> Iterator[None]:
    """An error that the engine raises itself ends the picking."""
    try:
        yield
    except CryoSegNetError as error:
        raise EngineLost(f"Nothing can be picked here any more: {str(error).rstrip('.')}.") from error
