"""What an engine is: a place where micrographs are picked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType

from ...errors import CryoSegNetError
from ...files.inputs import Input
from ..diameter import Estimate, Looked, unheard
from ..pick_task import PickOutcome, PickTask
from ..stopping import Stop

#: Seconds to wait, each time that all workers have died, before the next try; after the last one the run ends.
PAUSES = (1.0, 4.0, 15.0)


class EngineError(CryoSegNetError):
    """The engine can pick nothing any more; the text is the first half of a sentence, without a full stop."""


class Engine(ABC):
    """Takes tasks and gives back one outcome for each, in any order; it writes nothing.

    Tasks without an outcome when `close` is called are dropped; the next run picks their micrographs.
    """

    #: Micrographs that can be picked at a time, as far as is known; for reports.
    workers: int = 1
    #: Workers that died and were replaced so far.
    restarts: int = 0
    #: Micrographs are read and picked on other machines: none of them can take this process with it.
    remote: bool = False

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
    def estimate(
        self, inputs: Sequence[Input], pixel_size: float | None, stopping: Stop, looked: Looked = unheard
    ) -> Estimate:
        """Estimate the dataset's particle diameter; raises `Stopped` if the run is to stop.

        ``looked`` is called with the number of micrographs that were looked at so far, and of those to look at.
        """

    @property
    @abstractmethod
    def room(self) -> int:
        """Number of further tasks that the engine needs now to keep all its workers busy."""

    @abstractmethod
    def submit(self, task: PickTask) -> None:
        """Take a task."""

    @abstractmethod
    def wait(self, stopping: Stop, seconds: float) -> list[PickOutcome]:
        """Outcomes that are finished; waits for the first one, but not much longer than ``seconds``.

        Raises
        ------
        Stopped
            The run is to stop.
        EngineError
            The engine can pick nothing any more.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop the workers and drop what is not finished; a second call does nothing."""
