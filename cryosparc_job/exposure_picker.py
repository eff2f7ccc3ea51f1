"""The exposures of a job, picked and remembered one by one, so that a run that was cut off goes on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.atomic import atomic_path, write_atomic
from cryosegnet_ext.files.inputs import Input
from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.runs import task as core
from cryosegnet_ext.runs.diameter import MICROGRAPHS, Estimate, doubted, find_diameter, given_diameter
from cryosegnet_ext.runs.engines.base import Engine
from cryosegnet_ext.runs.journal import Journal, Record
from cryosegnet_ext.runs.overlay import draw_overlay
from cryosegnet_ext.runs.progress import duration, heard_by

from . import plots
from .errors import EngineLost, ServerError
from .locations import Exposure
from .micrographs import FetchedExposure, ProjectMicrographs
from .outputs import JobOutputs
from .picking_job import PickingJob, PickingResult

_ANNOTATED = 4
_CROPS_EACH = 9
_WAIT_SECONDS = 0.2
#: Where the engine could take more: so long at most does a file that has come wait for it.
_BRIEF_SECONDS = 0.02


class ExposurePicker:
    """Has exposures picked into a journal, which remembers them until they are stored.

    Parameters
    ----------
    task
        What to pick.
    engine
        Where it is picked; the outputs are the same wherever that is.
    source
        Where the micrographs come from.
    journal
        Remembers.
    store
        Takes the pictures; its run hears what goes on.
    progress
        Called with (exposures done, all, picks so far).
    """

    def __init__(
        self,
        task: PickingJob,
        engine: Engine,
        source: ProjectMicrographs,
        journal: Journal,
        store: JobOutputs,
        progress: Callable[[int, int, int], None] | None,
    ) -> None:
        self.task = task
        self.engine = engine
        self.source = source
        self.journal = journal
        self.store = store
        self.run = store.run
        self.folder = journal.output / "picks"
        self.progress = progress
        self._said = 0.0

    def every(self, exposures: Sequence[Exposure]) -> PickingResult:
        """Pick all exposures that an earlier run did not.

        Raises
        ------
        ServerError
            The server or the network failed; what was at hand is remembered.
        EngineLost
            Nothing can be picked here any more.
        """
        outcome = PickingResult(self.run.job.uid)
        todo = [one for one in exposures if not self.is_done(one)]
        self._count(exposures, outcome)
        if outcome.exposures:
            self.run.say(f"{outcome.exposures} exposures were picked by an earlier run and are kept.")
        with heard_by(self._say):
            if todo:
                self._find_diameter(exposures)
            self.run.checkpoint()
            annotated = {exposures[i].uid for i in np.linspace(0, len(exposures) - 1, _ANNOTATED).astype(int)}
            for one in exposures:
                if one.uid in annotated and self.is_done(one):
                    self._show(one)
            reasons = self._pick(todo, annotated, outcome)
        left_out = [one for one in todo if one.uid in reasons]
        outcome.failures = [(one.path or str(one.uid), reasons[one.uid]) for one in left_out]
        outcome.missed = [one.uid for one in left_out]
        self._count(exposures, outcome)
        return outcome

    def is_done(self, exposure: Exposure) -> bool:
        """Whether the picks of an exposure are remembered."""
        record = self.journal.records.get(str(exposure.uid))
        return record is not None and record.done and record.name == exposure.path and self._file(exposure).is_file()

    def load(self, exposure: Exposure) -> Picks:
        """The remembered picks of a finished exposure."""
        record = self.journal.records[str(exposure.uid)]
        rows = np.load(self._file(exposure), allow_pickle=False)
        ny, nx = (int(n) for n in record.stem.split("x"))
        return Picks(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3], record.pixel_size, (ny, nx))

    def _pick(self, todo: Sequence[Exposure], annotated: Collection[int], outcome: PickingResult) -> dict[int, str]:
        """Have exposures picked, in whatever order they come back; why some were not, by identifier."""
        start = time.monotonic()
        reasons: dict[int, str] = {}
        at_hand: dict[str, Exposure] = {}
        away: ServerError | None = None
        number = 0

        def end(exposure: Exposure, reason: str | None) -> None:
            nonlocal number
            number += 1
            if reason is None:
                outcome.exposures += 1
                outcome.picks += self.journal.records[str(exposure.uid)].picks
            else:
                reasons[exposure.uid] = reason
            self._report(number, len(todo), start, outcome.picks, len(reasons))

        left = len(todo)
        with self.source.prefetcher(todo) as prefetcher:
            while at_hand or (left and away is None):
                self.run.stop.check()
                while away is None and left and self.engine.room > 0:
                    fetched = prefetcher.take(0.0 if at_hand else _WAIT_SECONDS)
                    if fetched is None:
                        break
                    left -= 1
                    if isinstance(fetched.error, ServerError):
                        # Nothing is wrong with the exposure. What is at hand is still picked.
                        away = fetched.error
                    elif fetched.path is None:
                        end(fetched.exposure, _reason(fetched.error))
                    else:
                        at_hand[str(fetched.exposure.uid)] = fetched.exposure
                        self.engine.submit(self._work_on(fetched.exposure, fetched.path))
                hungry = away is None and left and self.engine.room > 0
                for picked in self._outcomes(_BRIEF_SECONDS if hungry else _WAIT_SECONDS) if at_hand else ():
                    exposure = at_hand.pop(picked.record.stem, None)
                    if exposure is None:
                        continue  # of an earlier run that was cut short, with the same engine
                    end(exposure, self._keep(exposure, picked, exposure.uid in annotated))
                    self.source.release(exposure)
        if away is not None:
            raise away
        return reasons

    def _work_on(self, exposure: Exposure, path: Path) -> core.Task:
        """An exposure as the engine takes it; the stem is what its outcome is known by."""
        return core.Task(_input(exposure, path), str(exposure.uid), diameter=self.journal.diameter)

    def _outcomes(self, seconds: float) -> list[core.Outcome]:
        with _engine_lost():
            return self.engine.wait(self.run.stop, seconds)

    def _keep(self, exposure: Exposure, picked: core.Outcome, annotate: bool) -> str | None:
        """Remember the picks of one exposure; the reason where there are none to be remembered."""
        picks = picked.picks
        if picks is None:
            return picked.record.reason or "it was not picked"
        try:
            shape = picks.shape or self.source.read(exposure).data.shape
            self.source.check_shape(exposure, shape)
        except CryoSegNetError as error:
            return _reason(error)
        self.run.stop.check()
        file = self._file(exposure)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as temporary:
            np.save(temporary, np.column_stack([picks.x, picks.y, picks.diameter, picks.score]), allow_pickle=False)
        if annotate:
            with contextlib.suppress(ValueError, CryoSegNetError):
                data = self.source.read(exposure).data
                write_atomic(self._file(exposure, ".png"), plots.png(draw_overlay(data, picks)))
                with atomic_path(self._file(exposure, "-crops.npy")) as temporary:
                    np.save(temporary, plots.crops(data, picks, _CROPS_EACH), allow_pickle=False)
        diameter = round(float(np.median(picks.diameter)), 2) if len(picks) else None
        key, stem = str(exposure.uid), f"{shape[0]}x{shape[1]}"
        self.journal.add(
            Record(key, exposure.path, stem, "done", len(picks), diameter, picks.pixel_size, exposure.pixel_size)
        )
        if annotate:
            self._show(exposure)
        return None

    def _file(self, exposure: Exposure, suffix: str = ".npy") -> Path:
        return self.folder / f"{exposure.uid}{suffix}"

    def _count(self, exposures: Sequence[Exposure], outcome: PickingResult) -> None:
        done = [self.journal.records[str(one.uid)] for one in exposures if self.is_done(one)]
        outcome.exposures = len(done)
        outcome.picks = sum(record.picks for record in done)
        outcome.without_picks = sum(record.picks == 0 for record in done)
        diameters = [record.diameter for record in done if record.diameter is not None]
        outcome.diameter = float(np.median(diameters)) if diameters else None
        outcome.estimated = self.journal.diameter
        outcome.doubt = doubted(given_diameter(self.journal.settings), self.journal.diameter)

    def _find_diameter(self, exposures: Sequence[Exposure]) -> None:
        """Know the particle's diameter, once for the job."""
        needed = self.engine.needs_diameter
        if self.task.estimated is None:
            find_diameter(self.journal, needed, lambda most: [self._estimate(exposures, most)])
        elif needed and not self.journal.has_diameter:
            self.journal.set_diameter(self.task.estimated)

    def _say(self, text: str) -> None:
        """Put what the package says into the job's log."""
        warning = text.startswith("warning: ")
        self.run.say(text.removeprefix("warning: "), level="warning" if warning else "text")

    def _estimate(self, exposures: Sequence[Exposure], most: int) -> Estimate:
        """The diameter, from exposures spread evenly over all; those that cannot be read are left out."""
        count = min(most, MICROGRAPHS)
        chosen = [exposures[i] for i in np.unique(np.linspace(0, len(exposures) - 1, count).astype(int))]
        fetched: list[FetchedExposure] = []
        try:
            for one in chosen:
                self.run.stop.check()
                try:
                    fetched.append(FetchedExposure(one, self.source.fetch(one, verify=True)))
                except ServerError:
                    raise
                except CryoSegNetError:
                    continue
            inputs = [_input(one.exposure, one.path) for one in fetched if one.path is not None]
            with _engine_lost():
                return self.engine.estimate(inputs, None, self.run.stop) if inputs else Estimate()
        finally:
            for one in fetched:
                self.source.release(one.exposure)

    def _report(self, number: int, total: int, start: float, picks: int, left_out: int) -> None:
        if self.progress is not None:
            self.progress(number, total, picks)
        now = time.monotonic()
        if number < total and now - self._said < self.task.log_seconds:
            return
        self._said = now
        rate = number / max(now - start, 1e-9)
        left = f", {duration((total - number) / rate)} left" if number < total else ""
        failed = f", {left_out} left out" if left_out else ""
        self.run.say(
            f"{number} of {total} exposures, {rate:.2g} a second{left}, {picks} particles{failed}",
            name="progress",
        )

    def _show(self, exposure: Exposure) -> None:
        with contextlib.suppress(OSError, ServerError):
            picture = self._file(exposure, ".png").read_bytes()
            self.store.plot(picture, f"Picks on {exposure.path}", f"picks_{exposure.uid}")


def _input(exposure: Exposure, path: Path) -> Input:
    return Input(path, exposure.path, exposure.pixel_size)


def _reason(error: Exception | None) -> str:
    text = str(error) if isinstance(error, CryoSegNetError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:500]


@contextlib.contextmanager
def _engine_lost() -> Iterator[None]:
    """What an engine raises of its own is its end."""
    try:
        yield
    except CryoSegNetError as error:
        raise EngineLost(f"Nothing can be picked here any more: {str(error).rstrip('.')}.") from error
