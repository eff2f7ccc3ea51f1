"""Picking in this process, one micrograph after another; and what every engine of this process shares."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Mapping, Sequence

from ...files.inputs import Input
from ..diameter import Estimate, Looked, estimate, unheard
from ..pick_task import MicrographPicker, PickOutcome, PickTask, ReadMicrograph, pick_task
from ..prefetch import Prefetcher
from ..stopping import Stop
from .base import Engine

_POLL_SECONDS = 0.2


class LocalEngine(Engine):
    """An engine whose picker lives in this process.

    Parameters
    ----------
    picker
        Picks one micrograph.
    """

    def __init__(self, picker: MicrographPicker) -> None:
        self.picker = picker

    @property
    def settings(self) -> Mapping[str, object]:
        """The picker's."""
        return self.picker.settings

    @property
    def needs_diameter(self) -> bool:
        """The picker's."""
        return self.picker.needs_diameter

    def estimate(
        self, inputs: Sequence[Input], pixel_size: float | None, stopping: Stop, looked: Looked = unheard
    ) -> Estimate:
        """Estimate the dataset's diameter; a signal cuts it short."""
        with stopping.interrupts():
            return estimate(self.picker, inputs, pixel_size, stopping.check, looked)


class SerialEngine(LocalEngine):
    """Picks micrographs one after another in this process, and reads the next ones in a thread.

    Parameters
    ----------
    picker
        Picks one micrograph.
    """

    #: One being picked and two read ahead.
    _MOST = 3

    def __init__(self, picker: MicrographPicker) -> None:
        super().__init__(picker)
        self._tasks: deque[PickTask] = deque()
        self._to_read: queue.SimpleQueue[PickTask | None] = queue.SimpleQueue()
        self._reader: Prefetcher[PickTask, ReadMicrograph] | None = None

    @property
    def room(self) -> int:
        """Number of further tasks that keep the engine busy."""
        return self._MOST - len(self._tasks)

    def submit(self, task: PickTask) -> None:
        """Take a task; reading it begins in the background."""
        if self._reader is None:
            reader = Prefetcher(PickTask.read, iter(self._to_read.get, None), 1, "read micrographs")
            self._reader = reader.__enter__()
        self._tasks.append(task)
        self._to_read.put(task)

    def wait(self, stopping: Stop, seconds: float = 0.0) -> list[PickOutcome]:
        """Pick the next task; a signal cuts it short."""
        if self._reader is None or not self._tasks:
            return []
        with stopping.interrupts():
            while (got := self._reader.take(_POLL_SECONDS)) is None:
                stopping.check()
            outcome = pick_task(self.picker, self._tasks[0], got)
        self._tasks.popleft()
        return [outcome]

    def close(self) -> None:
        """End the reading thread."""
        self._to_read.put(None)
        if self._reader is not None:
            self._reader.__exit__()
            self._reader = None
