"""Where micrographs are picked: the interface of it, and the simplest place, this process."""

from __future__ import annotations

import queue
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType

from ...errors import CryoSegNetError
from ...files.inputs import Input
from ...files.micrograph import Micrograph, read_micrograph
from ..diameter import Estimate, estimate
from ..pick_task import MicrographPicker, PickOutcome, PickTask, pick_task
from ..prefetch import MicrographReader
from ..stopping import Stop


class EngineError(CryoSegNetError):
    """Nothing can be picked here any more; its text is the first half of a sentence, without a full stop."""


class Engine(ABC):
    """Takes tasks and gives back outcomes, each once, in any order; it writes nothing.

    What was submitted and did not come back before `close` is lost, and the batch picks it in its next run.
    """

    #: How many picks can go on at a time, as far as is known; for reports.
    workers: int = 1
    #: How many workers were lost and replaced so far.
    restarts: int = 0

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, object]:
        """The picker's: everything that changes picks, as JSON-able values."""

    @property
    @abstractmethod
    def needs_diameter(self) -> bool:
        """Whether the picker wants a diameter estimated from the whole dataset."""

    @abstractmethod
    def estimate(self, inputs: Sequence[Input], pixel_size: float | None, stopping: Stop) -> Estimate:
        """Estimate the dataset's diameter; raises `Stopped` where the run is to stop."""

    @property
    @abstractmethod
    def room(self) -> int:
        """How many more tasks the engine wants now, so that none of its workers waits."""

    @abstractmethod
    def submit(self, task: PickTask) -> None:
        """Take a task."""

    @abstractmethod
    def wait(self, stopping: Stop, seconds: float) -> list[PickOutcome]:
        """Outcomes that are there, at once; else the first to come; nothing after ``seconds``, about.

        Raises
        ------
        Stopped
            The run is to stop.
        EngineError
            Nothing can be picked here any more.
        """

    @abstractmethod
    def close(self) -> None:
        """End, and drop what is not finished; a second call does nothing."""


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

    def estimate(self, inputs: Sequence[Input], pixel_size: float | None, stopping: Stop) -> Estimate:
        """Estimate the dataset's diameter; a signal cuts it short."""
        with stopping.interrupts():
            return estimate(self.picker, inputs, pixel_size, stopping.check)


class SerialEngine(LocalEngine):
    """Picks in this process, one after another, and reads ahead in a thread.

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
        self._inputs: queue.SimpleQueue[Input | None] = queue.SimpleQueue()
        self._reader: MicrographReader | None = None
        self._pixel_size: float | None = None

    @property
    def room(self) -> int:
        """How many more tasks make use of the time."""
        return self._MOST - len(self._tasks)

    def submit(self, task: PickTask) -> None:
        """Take a task; reading it begins in the background."""
        if self._reader is None:
            self._reader = MicrographReader(self._read, iter(self._inputs.get, None))
            self._reader.__enter__()
        self._pixel_size = task.pixel_size
        self._tasks.append(task)
        self._inputs.put(task.input)

    def wait(self, stopping: Stop, seconds: float = 0.0) -> list[PickOutcome]:
        """Pick the next task; a signal cuts it short."""
        if self._reader is None or not self._tasks:
            return []
        with stopping.interrupts():
            got = self._reader.next(stopping.check)
            outcome = pick_task(self.picker, self._tasks[0], got)
        self._tasks.popleft()
        return [outcome]

    def close(self) -> None:
        """End the reading thread."""
        self._inputs.put(None)
        if self._reader is not None:
            self._reader.__exit__()
            self._reader = None

    def _read(self, one: Input) -> Micrograph:
        return read_micrograph(one.path, pixel_size=self._pixel_size or one.pixel_size)
