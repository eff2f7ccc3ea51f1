"""The exposures of a job, picked one by one and remembered, so that a run that was cut off goes on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cryosegnet_ext.advice import about_diameter, checked_diameter
from cryosegnet_ext.atomic import atomic_path, write_atomic
from cryosegnet_ext.batch import MicrographPicker
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.inputs import Input
from cryosegnet_ext.journal import Journal, Record
from cryosegnet_ext.micrograph import Micrograph
from cryosegnet_ext.overlay import draw_overlay
from cryosegnet_ext.picks import Picks
from cryosegnet_ext.progress import duration
from cryosegnet_ext.reading import Reader

from . import plots
from .errors import ServerError
from .locations import Exposure
from .source import Source
from .storing import Store
from .task import Outcome, Task

_ANNOTATED = 4
_CROPS_EACH = 9
_ESTIMATE_EXPOSURES = 8
_CHECK_EXPOSURES = 2


class Picking:
    """Picks exposures one by one into a journal, which remembers them until they are stored.

    Parameters
    ----------
    task, picker
        What to pick, and with what.
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
        task: Task,
        picker: MicrographPicker,
        source: Source,
        journal: Journal,
        store: Store,
        progress: Callable[[int, int, int], None] | None,
    ) -> None:
        self.task = task
        self.picker = picker
        self.source = source
        self.journal = journal
        self.store = store
        self.run = store.run
        self.folder = journal.output / "picks"
        self.progress = progress
        self._said = 0.0

    def every(self, exposures: Sequence[Exposure]) -> Outcome:
        """Pick all exposures that an earlier run did not."""
        outcome = Outcome(self.run.job.uid)
        todo = [one for one in exposures if not self.is_done(one)]
        self._count(exposures, outcome)
        if outcome.exposures:
            self.run.say(f"{outcome.exposures} exposures were picked by an earlier run and are kept.")
        if todo:
            self._find_diameter(exposures)
        self.run.checkpoint()
        annotated = {exposures[i].uid for i in np.linspace(0, len(exposures) - 1, _ANNOTATED).astype(int)}
        for one in exposures:
            if one.uid in annotated and self.is_done(one):
                self._show(one)
        start = time.monotonic()
        by_key = {str(one.uid): one for one in todo}
        inputs = [Input(Path(one.path), str(one.uid)) for one in todo]
        with Reader(lambda one: self.source.read(by_key[one.name]), inputs) as reader:
            for number, exposure in enumerate(todo, 1):
                got = reader.next(self.run.check)
                reason = self._pick(exposure, got.micrograph, got.error, exposure.uid in annotated)
                if reason is None:
                    outcome.exposures += 1
                    outcome.picks += self.journal.records[str(exposure.uid)].picks
                else:
                    outcome.failures.append((exposure.path or str(exposure.uid), reason))
                    outcome.missed.append(exposure.uid)
                self._report(number, len(todo), start, outcome, number == len(todo))
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

    def _pick(
        self, exposure: Exposure, micrograph: Micrograph | None, error: Exception | None, annotate: bool
    ) -> str | None:
        """Pick one exposure and remember its picks; the reason where that cannot be."""
        try:
            if error is not None:
                raise error
            assert micrograph is not None
            picks = self.picker.pick(micrograph, self.journal.diameter)
        except ServerError:
            raise
        except Exception as problem:
            text = str(problem) if isinstance(problem, CryoSegNetError) else f"{type(problem).__name__}: {problem}"
            return " ".join(text.split())[:500]
        self.run.check()
        file = self._file(exposure)
        shape = micrograph.data.shape
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as temporary:
            np.save(temporary, np.column_stack([picks.x, picks.y, picks.diameter, picks.score]), allow_pickle=False)
        if annotate:
            with contextlib.suppress(ValueError, CryoSegNetError):
                write_atomic(self._file(exposure, ".png"), plots.png(draw_overlay(micrograph.data, picks)))
                with atomic_path(self._file(exposure, "-crops.npy")) as temporary:
                    np.save(temporary, plots.crops(micrograph.data, picks, _CROPS_EACH), allow_pickle=False)
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

    def _count(self, exposures: Sequence[Exposure], outcome: Outcome) -> None:
        done = [self.journal.records[str(one.uid)] for one in exposures if self.is_done(one)]
        outcome.exposures = len(done)
        outcome.picks = sum(record.picks for record in done)
        outcome.without_picks = sum(record.picks == 0 for record in done)
        diameters = [record.diameter for record in done if record.diameter is not None]
        outcome.diameter = float(np.median(diameters)) if diameters else None
        outcome.estimated = self.journal.diameter
        given = checked_diameter(self.picker.settings)
        outcome.doubt = None if given is None else about_diameter(given, self.journal.diameter)

    def _find_diameter(self, exposures: Sequence[Exposure]) -> None:
        """Estimate the particle's diameter once for the job, from exposures spread evenly over it."""
        if self.journal.has_diameter:
            return
        given = checked_diameter(self.picker.settings)
        if given is not None and self.task.estimated is None:
            self._check_diameter(given, exposures)
        if not self.picker.needs_diameter:
            return
        if self.task.estimated is not None:
            self.journal.set_diameter(self.task.estimated)
            return
        micrographs = self._sample(exposures, _ESTIMATE_EXPOSURES)
        diameter = self.picker.estimate_diameter(micrographs) if micrographs else None
        self.journal.set_diameter(None if diameter is None else float(diameter))
        found = "could not be estimated" if diameter is None else f"is about {diameter:.0f} angstrom"
        self.run.say(f"The particle's diameter {found} ({len(micrographs)} exposures).")

    def _check_diameter(self, given: float, exposures: Sequence[Exposure]) -> None:
        """See whether a diameter that was given, angstrom, fits; it is what is picked for all the same."""
        micrographs = self._sample(exposures, _CHECK_EXPOSURES)
        if not micrographs:
            return
        seen = self.picker.estimate_diameter(micrographs)
        self.journal.set_diameter(seen, True)
        doubt = about_diameter(given, seen)
        if doubt:
            self.run.say(f"Look into this: {doubt}.", level="warning")

    def _sample(self, exposures: Sequence[Exposure], count: int) -> list[Micrograph]:
        """Micrographs spread evenly over the exposures; those that cannot be read are left out."""
        chosen = [exposures[i] for i in np.unique(np.linspace(0, len(exposures) - 1, count).astype(int))]
        micrographs = []
        for one in chosen:
            self.run.check()
            try:
                micrographs.append(self.source.read(one))
            except ServerError:
                raise
            except CryoSegNetError:
                continue
        return micrographs

    def _report(self, number: int, total: int, start: float, outcome: Outcome, last: bool) -> None:
        if self.progress is not None:
            self.progress(number, total, outcome.picks)
        now = time.monotonic()
        if not last and now - self._said < self.task.log_seconds:
            return
        self._said = now
        rate = number / max(now - start, 1e-9)
        left = f", {duration((total - number) / rate)} left" if number < total else ""
        failed = f", {len(outcome.failures)} left out" if outcome.failures else ""
        self.run.say(
            f"{number} of {total} exposures, {rate:.2g} a second{left}, {outcome.picks} particles{failed}",
            name="progress",
        )

    def _show(self, exposure: Exposure) -> None:
        with contextlib.suppress(OSError, ServerError):
            picture = self._file(exposure, ".png").read_bytes()
            self.store.plot(picture, f"Picks on {exposure.path}", f"picks_{exposure.uid}")
