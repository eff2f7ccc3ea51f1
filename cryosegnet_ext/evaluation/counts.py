"""Precision, recall and F1 from numbers of picks, labels and right picks."""

from __future__ import annotations

from typing import TYPE_CHECKING


class Counts:
    """Base class for classes with the fields or properties ``picks``, ``labels`` and ``right`` (numbers of particles).

    Precision is 0 without picks, recall is 0 without labels, and F1 is 0 without either.
    """

    if TYPE_CHECKING:
        # Only for type checkers: a dataclass would take an inherited property for the default of its field.
        @property
        def picks(self) -> int:
            """Number of picks."""

        @property
        def labels(self) -> int:
            """Number of labels."""

        @property
        def right(self) -> int:
            """Number of right picks."""

    @property
    def precision(self) -> float:
        """Share of the picks that are right."""
        return self.right / max(self.picks, 1)

    @property
    def recall(self) -> float:
        """Share of the labels that were found."""
        return self.right / max(self.labels, 1)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.right / max(self.picks + self.labels, 1)
