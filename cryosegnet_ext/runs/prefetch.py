"""Reading micrographs ahead, in a thread, while the one before is being picked."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..files.inputs import Input, file_identity
from ..files.micrograph import Micrograph

_POLL_SECONDS = 0.2

Item = TypeVar("Item")
Got = TypeVar("Got")
Me = TypeVar("Me", bound="Prefetcher[Any, Any]")


@dataclass
class ReadMicrograph:
    """One micrograph that was read, or the error that reading it raised.

    ``size`` and ``mtime_ns`` are the file's before it was read (-1: no such file); a file that changes meanwhile is
    noticed by the next run.
    """

    size: int
    mtime_ns: int
    seconds: float = 0.0
    micrograph: Micrograph | None = None
    error: Exception | None = None


class Prefetcher(Generic[Item, Got]):
    """Does something with items in their order, in a thread, a few ahead of what was taken.

    The thread is a daemon: a file system or a server that hangs does not keep the process from ending. The items are
    drawn in the thread, so they may come from something that blocks until there is another.

    Parameters
    ----------
    do
        What to do with an item; it must not raise.
    items
        In their order.
    most
        Answers that wait to be taken; one more is on its way.
    name
        Of the thread.
    """

    def __init__(self, do: Callable[[Item], Got], items: Iterable[Item], most: int, name: str) -> None:
        self._do = do
        self._items = items
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
        """The next answer; None where it does not come within ``seconds``."""
        try:
            return self._queue.get(timeout=seconds) if seconds > 0 else self._queue.get_nowait()
        except queue.Empty:
            return None

    def _work(self) -> None:
        for one in self._items:
            got = self._do(one)
            while not self._closed.is_set():
                with contextlib.suppress(queue.Full):
                    self._queue.put(got, timeout=_POLL_SECONDS)
                    break
            if self._closed.is_set():
                return


class MicrographReader(Prefetcher[Input, "ReadMicrograph"]):
    """Reads the inputs in their order, at most two ahead of what was taken with `next`."""

    def __init__(self, read: Callable[[Input], Micrograph], inputs: Iterable[Input]) -> None:
        super().__init__(lambda one: read_one(one, read), inputs, 1, "read micrographs")

    def next(self, check: Callable[[], None]) -> ReadMicrograph:
        """The next micrograph; ``check`` is called while waiting and may raise to give up."""
        while True:
            check()
            got = self.take(_POLL_SECONDS)
            if got is not None:
                return got


def read_one(one: Input, read: Callable[[Input], Micrograph]) -> ReadMicrograph:
    """Read one micrograph; what goes wrong is in the answer."""
    got = ReadMicrograph(*(file_identity(one.path) or (-1, -1)))
    start = time.monotonic()
    try:
        got.micrograph = read(one)
    except Exception as error:
        got.error = error
    got.seconds = time.monotonic() - start
    return got
