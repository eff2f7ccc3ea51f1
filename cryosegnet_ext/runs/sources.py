"""Where a batch gets its micrographs: a list known from the start, or (`cryosegnet_ext.runs.watch`) one that grows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

from ..files.inputs import Input, output_stems
from .diameter import TRIES, spread
from .journal import Journal, Record
from .stopping import Stop

#: Whether a micrograph, with its stem, was finished by an earlier run.
Finished = Callable[[Input, str], bool]


class Source(ABC):
    """Gives out each micrograph that is to be picked once.

    Attributes
    ----------
    total
        How many micrographs are known, those finished by earlier runs included.
    skipped
        How many of them were finished by earlier runs.
    """

    #: Whether there may be more micrographs later.
    growing = False
    total: int = 0
    skipped: int = 0

    @property
    @abstractmethod
    def waiting(self) -> int:
        """How many micrographs are known and not given out yet."""

    @property
    @abstractmethod
    def over(self) -> bool:
        """Whether nothing is left to give out, and nothing will come."""

    @abstractmethod
    def samples(self, stopping: Stop) -> Iterator[list[Input]]:
        """Micrographs to estimate the dataset's diameter from, in the order to try them; again where that fails."""

    @abstractmethod
    def take(self, count: int) -> list[tuple[Input, str]]:
        """At most ``count`` micrographs to pick now, with their stems."""

    @abstractmethod
    def add(self, record: Record) -> None:
        """Hear what became of a micrograph."""

    @abstractmethod
    def records(self, journal: Journal) -> list[Record]:
        """Records of the source's micrographs, in its order."""


class Listed(Source):
    """A list of micrographs.

    Parameters
    ----------
    inputs
        The micrographs, each once.
    journal
        Knows what earlier runs did.
    finished
        Whether they finished one of them.
    """

    def __init__(self, inputs: Sequence[Input], journal: Journal, finished: Finished) -> None:
        self._inputs = inputs
        keys = {one.key for one in inputs}
        for one in inputs:
            journal.adopt(one, listed=keys)
        tasks = list(zip(inputs, output_stems(inputs, journal.stems())))
        self._todo = [task for task in tasks if not finished(*task)]
        self._next = 0
        self.total = len(inputs)
        self.skipped = len(inputs) - len(self._todo)

    @property
    def waiting(self) -> int:
        """How many were not given out yet."""
        return len(self._todo) - self._next

    @property
    def over(self) -> bool:
        """Whether all were given out."""
        return self._next == len(self._todo)

    def samples(self, stopping: Stop) -> Iterator[list[Input]]:
        """Micrographs spread evenly over the list; always the same ones of the same list."""
        yield [self._inputs[i] for i in spread(len(self._inputs))[:TRIES]]

    def take(self, count: int) -> list[tuple[Input, str]]:
        """The next ones of the list."""
        taken = self._todo[self._next : self._next + count]
        self._next += len(taken)
        return taken

    def add(self, record: Record) -> None:
        """A list does not change by what becomes of its micrographs."""

    def records(self, journal: Journal) -> list[Record]:
        """Records in the order of the list."""
        return [journal.records[one.key] for one in self._inputs if one.key in journal.records]
