"""Ending a long run on SIGINT, SIGTERM or the caller's wish, without tearing what is being written."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_POLL_SECONDS = 0.2


class Stopped(BaseException):
    """The run is to stop. Not an Exception, so that nothing takes it for a failure of one micrograph."""


class Stop:
    """Listens for signals while it is open (in the main thread; elsewhere only to ``wish``).

    The first signal raises `Stopped` within an `interrupts` block, at once, and from `check` anywhere; outside such a
    block it waits for the next one. The second signal ends the process with exit code 4.

    Parameters
    ----------
    wish
        Asked by `check`; True stops the run.
    """

    def __init__(self, wish: Callable[[], bool] | None = None) -> None:
        self.requested = False
        self._wish = wish
        self._may_raise = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._may_raise = False
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def check(self) -> None:
        """Raise `Stopped` where the run is to stop."""
        if self._wish is not None and self._wish():
            self.requested = True
        if self.requested:
            raise Stopped

    def pause(self, seconds: float) -> None:
        """Sleep, but raise `Stopped` soon after the run is to stop."""
        end = time.monotonic() + seconds
        while True:
            self.check()
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, _POLL_SECONDS))

    @contextlib.contextmanager
    def interrupts(self) -> Iterator[None]:
        """A block without side effects on disk, which a signal may cut short."""
        self.check()
        self._may_raise = True
        try:
            yield
        finally:
            self._may_raise = False

    def _receive(self, number: int, _frame: object) -> None:
        # os.write, since print may be what the signal interrupted.
        if self.requested:
            _tell("cryosegnet: ended at once; the same command goes on from here\n")
            os._exit(4)
        self.requested = True
        _tell(f"\ncryosegnet: {signal.Signals(number).name}: stopping; once more to end at once\n")
        if self._may_raise:
            self._may_raise = False
            raise Stopped


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM raises `KeyboardInterrupt` as Ctrl-C does, wherever `Stop` does not listen."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
