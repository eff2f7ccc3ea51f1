"""Work a few steps ahead, in a thread: read or fetch the next files while the current micrograph is being picked."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

_PUT_SECONDS = 0.2

Given = TypeVar("Given")
Got = TypeVar("Got")
Me = TypeVar("Me", bound="Prefetcher[Any, Any]")


class Prefetcher(Generic[Given, Got]):
    """Calls a function with one thing after another, in a thread, a few ahead of the results that were taken.

    The thread is a daemon: a file system or a server that hangs does not keep the process from ending. It also draws
    the things, so they may come from an iterator that blocks until there is another.

    Parameters
    ----------
    do
        The function; it must not raise.
    given
        What it is called with, in this order.
    most
        How many results may wait to be taken; one more is in progress.
    name
        Name of the thread.
    """

    def __init__(self, do: Callable[[Given], Got], given: Iterable[Given], most: int, name: str) -> None:
        self._do = do
        self._given = given
        self._queue: queue.Queue[Got] = queue.Queue(maxsize=most)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def __enter__(self: Me) -> Me:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join(timeout=2.0)

    def take(self, seconds: float) -> Got | None:
        """The next result; None if it does not come within ``seconds``."""
        try:
            return self._queue.get(timeout=seconds) if seconds > 0 else self._queue.get_nowait()
        except queue.Empty:
            return None

    def _work(self) -> None:
        for one in self._given:
            got = self._do(one)
            while not self._closed.is_set():
                with contextlib.suppress(queue.Full):
                    self._queue.put(got, timeout=_PUT_SECONDS)
                    break
            if self._closed.is_set():
                return
