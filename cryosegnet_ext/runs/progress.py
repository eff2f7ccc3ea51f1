"""How far long work is, how fast it goes, and how long it will take; what is said on the way is heard by callers."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import plural

_LINE_SECONDS = 30.0
_SHORTEST_SECONDS = 5.0
_LINE_SHARE = 0.05

log = logging.getLogger(__name__)


class Pace:
    """A count on its way to a total: when to tell of it, how fast it grows, and how long it will take.

    Parameters
    ----------
    total
        What it comes to in the end.
    count
        What was done before; it does not count for the rate.
    seconds
        It is to be told of after so long;
    shortest, share
        or after this share of the total, but not within so many seconds.
    """

    def __init__(
        self, total: int, count: int, seconds: float, *, shortest: float = math.inf, share: float = _LINE_SHARE
    ) -> None:
        self.total, self.count, self.first = total, count, count
        self._seconds, self._shortest, self._share = seconds, shortest, share
        self._said, self._last = count, time.monotonic()
        self._start = self._last

    def told(self) -> None:
        """The count was told of just now."""
        self._said, self._last = self.count, time.monotonic()

    @property
    def is_new(self) -> bool:
        """Whether the count has changed since it was told of."""
        return self.count != self._said

    @property
    def is_due(self) -> bool:
        """Whether it is time to tell of it."""
        waited = time.monotonic() - self._last
        much = self.count - self._said >= self._share * self.total
        return waited >= self._seconds or (much and waited >= self._shortest)

    @property
    def rate(self) -> float:
        """How much comes in a second."""
        return (self.count - self.first) / max(time.monotonic() - self._start, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """How long the rest will take; None where there is none, or where nothing has come yet."""
        rate = self.rate
        return (self.total - self.count) / rate if self.count < self.total and rate > 0 else None


class Progress:
    """Shows on stderr how many micrographs are picked: a bar on a terminal, lines elsewhere.

    Where ``logging`` lets INFO through, lines go there, so that they are in a log file as well.

    Parameters
    ----------
    total
        Number of micrographs of the run.
    finished
        How many of them were finished before; they do not count for the rate.
    shown
        False: the lines are for a log of DEBUG messages only.
    growing
        The total is what is known so far.
    """

    def __init__(self, total: int, finished: int = 0, shown: bool = True, growing: bool = False) -> None:
        share = math.inf if growing else _LINE_SHARE
        self._pace = Pace(total, finished, _LINE_SECONDS, shortest=_SHORTEST_SECONDS, share=share)
        self._growing = growing
        self._picks = self._failed = 0
        self._shown = shown
        self._bar: Any = None
        if shown and sys.stderr is not None and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=finished, unit="mic", desc="picking", dynamic_ncols=True)

    def add(self, picks: int, failed: bool = False) -> None:
        """Count one micrograph."""
        self._pace.count += 1
        self._picks += picks
        self._failed += failed
        if self._bar is not None:
            # A closed terminal must not stop the picking.
            with contextlib.suppress(OSError, ValueError):
                self._bar.set_postfix(picks=self._picks, failed=self._failed, refresh=False)
                self._bar.update()
        if self._pace.is_due:
            self._say()

    def close(self) -> None:
        """Say the last line, and leave the bar as it is."""
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.close()
        if self._pace.is_new:
            self._say()

    def grow(self, total: int, finished: int) -> None:
        """More micrographs are known, and more that earlier runs finished."""
        pace = self._pace
        earlier = finished - pace.first
        pace.total, pace.first, pace.count = total, finished, pace.count + earlier
        if self._bar is not None and earlier + total != self._bar.total:
            self._bar.total, self._bar.initial = total, finished
            self._bar.update(earlier)

    def _say(self) -> None:
        pace = self._pace
        pace.told()
        words = [f"{pace.count}/{plural(pace.total, 'micrograph')}"]
        if not self._growing:
            words[0] += f" ({100 * pace.count // max(pace.total, 1)} %)"
        words.append(f"{pace.rate:.2f}/s" if pace.rate < 10 else f"{pace.rate:.0f}/s")
        if pace.seconds_left is not None and not self._growing:
            words.append(f"{duration(pace.seconds_left)} left")
        words.append(plural(self._picks, "pick"))
        if self._failed:
            words.append(f"{self._failed} failed")
        line = ", ".join(words)
        if not self._shown or self._bar is not None:
            log.debug(line)
        elif log.isEnabledFor(logging.INFO):
            log.info(line)
        else:
            with contextlib.suppress(OSError, ValueError):
                print(f"cryosegnet: {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def heard_by(handler: logging.Handler | None) -> Iterator[None]:
    """In the block, ``handler`` gets what the package logs for users: INFO and above."""
    if handler is None:
        yield
        return
    package = logging.getLogger(__name__.partition(".")[0])
    before = package.level
    package.addHandler(handler)
    package.setLevel(min(logging.INFO, package.getEffectiveLevel()))
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(before)


class SentenceHandler(logging.Handler):
    """Calls a function with each sentence; those of warnings begin with "warning: "."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Call the function."""
        self._say("warning: " * (record.levelno >= logging.WARNING) + record.getMessage())


def duration(seconds: float) -> str:
    """A length of time in words.

    >>> duration(42), duration(90), duration(8000)
    ('42 s', '2 min', '2 h 13 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
