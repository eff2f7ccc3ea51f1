"""The files of exposures, brought to this machine in a thread while the exposures before them are picked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryosegnet_ext.runs import reading

from .locations import Exposure
from .source import Source

#: Waiting to be taken; one more is on its way.
_MOST = 4


@dataclass(frozen=True)
class Brought:
    """An exposure and its file, or the error that kept the file away."""

    exposure: Exposure
    path: Path | None = None
    error: Exception | None = None


class Ahead(reading.Ahead[Exposure, Brought]):
    """Brings the files of exposures, in their order, a few ahead of what was taken.

    Parameters
    ----------
    source
        Where the files come from; what it gives is held in the cache until it is released there.
    exposures
        What to bring.

    Attributes
    ----------
    left
        How many have not been taken yet.
    """

    def __init__(self, source: Source, exposures: Sequence[Exposure]) -> None:
        def bring(one: Exposure) -> Brought:
            try:
                return Brought(one, source.bring(one))
            except Exception as error:
                return Brought(one, error=error)

        super().__init__(bring, exposures, _MOST, "bring micrographs")
        self.left = len(exposures)

    def take(self, seconds: float) -> Brought | None:
        """The next one; None where it does not come within ``seconds``."""
        brought = super().take(seconds)
        self.left -= brought is not None
        return brought
