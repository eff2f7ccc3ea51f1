"""Waiting in tests: always for a condition, and with one limit that only a hang reaches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from subprocess import Popen
from typing import Any, TypeVar

T = TypeVar("T")

#: Seconds. What takes ten on an idle machine takes minutes where other programs share its cores.
LIMIT = 900.0
#: Seconds that nobody waits to the end: what is told to take so long and yet ends was interrupted.
FOREVER = 10 * LIMIT


def wait_until(condition: Callable[[], T], what: str = "the condition", process: Popen[Any] | None = None) -> T:
    """Wait until the condition is true, and return its value.

    Raises
    ------
    AssertionError
        When it does not come true, or when ``process``, which is to make it true, ends before.
    """
    end = time.monotonic() + LIMIT
    while True:
        ended = process is not None and process.poll() is not None
        if found := condition():
            return found
        assert not ended, f"{what} did not come: the process ended with {process and process.returncode}"
        assert time.monotonic() < end, f"{what} did not come in {LIMIT:.0f} s"
        time.sleep(0.02)


_STARTED: list[Popen[Any]] = []


def start(command: str | Sequence[str], **options: Any) -> Popen[Any]:
    """Start a process, which is killed with the end of the test at the latest."""
    process = Popen(command, **options)
    _STARTED.append(process)
    return process


def kill_started() -> None:
    """Kill what tests have started and left, so that it takes no processor time from those that follow."""
    while _STARTED:
        process = _STARTED.pop()
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
