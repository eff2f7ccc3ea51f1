"""Where a run gets its micrographs: a list known from the start, or (`cryosegnet_ext.runs.watch`) one that grows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from ..files.inputs import Input, output_stems
from ..picking.sampling import TRIES, spread
from .journal import Journal, Record
from .outputs import RunOutputs
from .stopping import Stop


class MicrographSource(ABC):
    """Gives out each micrograph that is to be picked, once.

    Attributes
    ----------
    total
        How many micrographs are known, including those that earlier runs finished.
    skipped
        How many of them earlier runs finished.
    """

    #: Whether more micrographs may come later.
    growing = False
    total: int = 0
    skipped: int = 0

    @abstractmethod
    def begin(self, outputs: RunOutputs) -> None:
        """Begin a run; its outputs tell what earlier runs finished."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """How many micrographs are known and not given out yet."""

    @property
    @abstractmethod
    def over(self) -> bool:
        """Whether nothing is left to give out, and nothing will come."""

    @abstractmethod
    def samples(self, stopping: Stop, enough: int) -> Iterator[list[Input]]:
        """Micrographs to estimate the diameter from, in the order to try them; others if those tell nothing.

        A source that grows waits for ``enough`` of them, but not for long.
        """

    @abstractmethod
    def take(self, count: int) -> list[tuple[Input, str]]:
        """At most ``count`` micrographs to pick now, with their stems."""

    @abstractmethod
    def add(self, record: Record) -> None:
        """Take note of a micrograph that was picked or failed."""

    @abstractmethod
    def records(self, journal: Journal) -> list[Record]:
        """Records of the source's micrographs, in its order."""


class MicrographList(MicrographSource):
    """A list of micrographs, each of which it holds once."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        self._inputs = inputs
        self._todo: list[tuple[Input, str]] = []
        self._next = 0

    def begin(self, outputs: RunOutputs) -> None:
        """Leave out what earlier runs finished."""
        keys = {one.key for one in self._inputs}
        for one in self._inputs:
            outputs.journal.adopt(one, listed=keys)
        every = list(zip(self._inputs, output_stems(self._inputs, outputs.journal.stems())))
        self._todo = [pair for pair, finished in zip(every, outputs.finished(every)) if not finished]
        self.total = len(self._inputs)
        self.skipped = len(self._inputs) - len(self._todo)

    @property
    def waiting(self) -> int:
        """How many were not given out yet."""
        return len(self._todo) - self._next

    @property
    def over(self) -> bool:
        """Whether all were given out."""
        return self._next == len(self._todo)

    def samples(self, stopping: Stop, enough: int) -> Iterator[list[Input]]:
        """Micrographs spread evenly over the list; always the same ones of the same list."""
        yield [self._inputs[i] for i in spread(len(self._inputs))[:TRIES]]

    def take(self, count: int) -> list[tuple[Input, str]]:
        """The next ones of the list."""
        taken = self._todo[self._next : self._next + count]
        self._next += len(taken)
        return taken

    def add(self, record: Record) -> None:
        """Nothing: the list stays the same."""

    def records(self, journal: Journal) -> list[Record]:
        """Records in the order of the list."""
        return [journal.records[one.key] for one in self._inputs if one.key in journal.records]
