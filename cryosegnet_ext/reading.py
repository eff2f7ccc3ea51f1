"""Reading micrographs ahead, in a thread, while the one before is being picked."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .inputs import Input
from .micrograph import Micrograph

_POLL_SECONDS = 0.2


@dataclass
class Read:
    """One micrograph that was read, or the error that reading it raised.

    ``size`` and ``mtime_ns`` are the file's before it was read (-1: no such file); a file that changes meanwhile is
    noticed by the next run.
    """

    size: int
    mtime_ns: int
    seconds: float = 0.0
    micrograph: Micrograph | None = None
    error: Exception | None = None


class Reader:
    """Reads the inputs in their order, at most two ahead of what was taken with `next`.

    The thread is a daemon: a file system that hangs does not keep the process from ending. The inputs are drawn in the
    thread, so they may come from something that blocks until there is another.
    """

    def __init__(self, read: Callable[[Input], Micrograph], inputs: Iterable[Input]) -> None:
        self._read = read
        self._inputs = inputs
        self._queue: queue.Queue[Read] = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="read micrographs", daemon=True)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join(timeout=2.0)

    def next(self, check: Callable[[], None]) -> Read:
        """The next micrograph; ``check`` is called while waiting and may raise to give up."""
        while True:
            check()
            with contextlib.suppress(queue.Empty):
                return self._queue.get(timeout=_POLL_SECONDS)

    def _work(self) -> None:
        for one in self._inputs:
            got = read_one(one, self._read)
            while not self._closed.is_set():
                with contextlib.suppress(queue.Full):
                    self._queue.put(got, timeout=_POLL_SECONDS)
                    break
            if self._closed.is_set():
                return


def read_one(one: Input, read: Callable[[Input], Micrograph]) -> Read:
    """Read one micrograph; what goes wrong is in the answer."""
    got = Read(*(file_identity(one) or (-1, -1)))
    start = time.monotonic()
    try:
        got.micrograph = read(one)
    except Exception as error:
        got.error = error
    got.seconds = time.monotonic() - start
    return got


def file_identity(one: Input) -> tuple[int, int] | None:
    """Size and modification time (ns) of the file; None where it is missing or out of reach."""
    try:
        status = os.stat(one.path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns
