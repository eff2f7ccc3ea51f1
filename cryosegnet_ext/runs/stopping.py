"""How a run stops: on a signal, or when the caller wishes it. No other module of the package sets signal handlers.

A signal that the process was started to ignore stays ignored: hanging up under nohup, Ctrl-C in a background job.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import NoReturn

#: What people, terminals and queues send; SIGUSR1, SIGUSR2 and SIGXCPU announce the end of a queue's time.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
_POLL_SECONDS = 0.2


class Stopped(KeyboardInterrupt):
    """The work is to stop; the text is the signal's name. Commands end with exit code 4.

    It is no Exception, so that nothing takes it for a failure of one micrograph. It is a KeyboardInterrupt, because
    that is what Ctrl-C raises where nobody listens.
    """


class Stop:
    """Listens for signals while it is open.

    The first signal raises `Stopped` within an `interrupts` block, at once, and from `check` anywhere; outside such a
    block it waits for the next one. The second signal ends the process with exit code 4. Elsewhere than in the main
    thread only the wish stops the run.

    Parameters
    ----------
    wish
        Asked by `check`; True stops the run.

    Attributes
    ----------
    requested
        Whether the run is to stop.
    signal
        Name of the signal that came first, such as ``SIGTERM``; None if none came.
    at_once
        Whether a signal raises `Stopped` wherever the main thread is.
    before_exit
        Called by the second signal, before it ends the process.
    """

    def __init__(self, wish: Callable[[], bool] | None = None) -> None:
        self.requested = False
        self.signal: str | None = None
        self._wish = wish
        self.at_once = False
        self.before_exit: Callable[[], None] = lambda: None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Stop:
        self._open.enter_context(listening(self._receive))
        return self

    def __exit__(self, *_: object) -> None:
        self.at_once = False
        self._open.close()

    def check(self) -> None:
        """Raise `Stopped` if the run is to stop."""
        if self._wish is not None and self._wish():
            self.requested = True
        if self.requested:
            raise Stopped(self.signal or "")

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
        before, self.at_once = self.at_once, True
        try:
            self.check()
            yield
        finally:
            self.at_once = before

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.signal is not None:
            self._receive_again(name)
        self.requested, self.signal = True, name
        _tell(f"\ncryosegnet: {name}: stopping; once more to end at once\n")
        if self.at_once:
            raise Stopped(name)

    def _receive_again(self, name: str) -> NoReturn:
        with contextlib.suppress(Exception):
            self.before_exit()
        _tell("cryosegnet: ended at once; the same command goes on from here\n")
        os._exit(4)


@contextlib.contextmanager
def stops_at_once() -> Iterator[None]:
    """A block in which every signal raises `Stopped`, wherever the main thread is."""

    def receive(number: int, _frame: FrameType | None) -> None:
        raise Stopped(signal.Signals(number).name)

    with listening(receive):
        yield


@contextlib.contextmanager
def listening(
    receive: Callable[[int, FrameType | None], None], numbers: Sequence[signal.Signals] = SIGNALS
) -> Iterator[None]:
    """A block in which these signals go to ``receive``; the earlier handlers are back after it.

    Ignored signals stay ignored. Elsewhere than in the main thread nothing changes.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in numbers}
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    try:
        for number in heard:
            signal.signal(number, receive)
        yield
    finally:
        for number in heard:
            # None stands for a handler of C code, which Python cannot set again.
            signal.signal(number, signal.SIG_DFL if before[number] is None else before[number])


def leave_to_owner() -> None:
    """In a worker process: leave to its owner what a terminal or a queue sends to every process."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _tell(text: str) -> None:
    # os.write, since print may be what the signal interrupted.
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
