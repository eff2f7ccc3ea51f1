"""Precision, recall and F1 of anything that counts picks, labels and right picks."""

from __future__ import annotations

from typing import TYPE_CHECKING


class Counts:
    """A base for what has ``picks``, ``labels`` and ``right``, numbers of particles, as fields or properties.

    A share of nothing is 0, so precision is 0 without picks, recall without labels, and F1 without either.
    """

    if TYPE_CHECKING:
        # Not at run time: a dataclass takes an inherited property for the default of its field.
        @property
        def picks(self) -> int:
            """How many picks."""

        @property
        def labels(self) -> int:
            """How many labels."""

        @property
        def right(self) -> int:
            """How many of the picks are right."""

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
