"""The files of exposures, brought to this machine in a thread while the exposures before them are picked."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .locations import Exposure
from .source import Source

_POLL_SECONDS = 0.2
#: Waiting to be taken; one more is on its way.
_MOST = 4


@dataclass(frozen=True)
class Brought:
    """An exposure and its file, or the error that kept the file away."""

    exposure: Exposure
    path: Path | None = None
    error: Exception | None = None


class Ahead:
    """Brings the files of exposures, in their order, a few ahead of what was taken.

    The thread is a daemon: a server or a file system that hangs does not keep the process from ending.

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
        self.left = len(exposures)
        self._source = source
        self._exposures = exposures
        self._queue: queue.Queue[Brought] = queue.Queue(maxsize=_MOST)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="bring micrographs", daemon=True)

    def __enter__(self) -> Ahead:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join(timeout=2.0)

    def take(self, seconds: float) -> Brought | None:
        """The next one; None where it does not come within ``seconds``."""
        try:
            brought = self._queue.get(timeout=seconds) if seconds > 0 else self._queue.get_nowait()
        except queue.Empty:
            return None
        self.left -= 1
        return brought

    def _work(self) -> None:
        for one in self._exposures:
            try:
                brought = Brought(one, self._source.bring(one))
            except Exception as error:
                brought = Brought(one, error=error)
            while not self._closed.is_set():
                with contextlib.suppress(queue.Full):
                    self._queue.put(brought, timeout=_POLL_SECONDS)
                    break
            if self._closed.is_set():
                return
