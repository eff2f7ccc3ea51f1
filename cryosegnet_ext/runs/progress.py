"""How far long work is, how fast it goes, and how long it will take; what is said on the way is heard by callers."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import plural

_LINE_SECONDS = 30.0
_SHORTEST_SECONDS = 5.0
_LINE_SHARE = 0.05
_ESTIMATE_SECONDS = 10.0
#: The rate is measured over so many picked micrographs, the share of failures over about so many finished ones.
_RATE_OVER = 100
_SHARE_OVER = 15

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


class PickingPace(Pace):
    """The pace of picking: failed micrographs count as finished, but only picked ones tell the rate.

    Make it when the first micrograph is about to be picked: its clock starts at once.

    Parameters
    ----------
    total
        Number of micrographs.
    count
        How many of them earlier runs finished.
    seconds, shortest, share
        When to tell of it, as for `Pace`.
    growing
        The total is what is known so far, so nobody knows how long it will take.
    """

    def __init__(
        self,
        total: int,
        count: int,
        seconds: float = _LINE_SECONDS,
        *,
        shortest: float = _SHORTEST_SECONDS,
        share: float = _LINE_SHARE,
        growing: bool = False,
    ) -> None:
        super().__init__(total, count, seconds, shortest=shortest, share=math.inf if growing else share)
        self.growing = growing
        #: Micrographs that are picked at a time. The first ones are finished together, and tell a rate together.
        self.workers = 1
        # The start of the clock or the end of a micrograph, and of those picked after it.
        self._times = deque([self._start], maxlen=_RATE_OVER + 1)
        self._picked_share = 1.0

    def add(self, picked: bool) -> None:
        """Count one micrograph."""
        self.count += 1
        # Failures come in blocks, as of a folder that is away; the last few tell best whether they go on.
        self._picked_share += (picked - self._picked_share) / _SHARE_OVER
        if picked:
            self._times.append(time.monotonic())

    @property
    def rate(self) -> float:
        """Micrographs picked in a second, over the last 100; 0 where it is not known yet."""
        times = self._times
        picked = len(times) - 1
        if picked < min(max(self.workers, 1), _RATE_OVER):
            return 0.0
        # One in progress that takes longer than the others slows the rate down.
        waited = max(time.monotonic() - times[0], 1e-3)
        return min(picked / max(times[-1] - times[0], 1e-3), (picked + 1) / waited)

    @property
    def seconds_left(self) -> float | None:
        """How long the rest will take, if as many fail as of the last ones; None where it is not known."""
        rate = self.rate
        if self.growing or self.count >= self.total or not rate:
            return None
        return (self.total - self.count) * self._picked_share / rate

    @property
    def speed(self) -> str:
        """The rate in words, such as ``19 s a micrograph``; empty where it is not known."""
        rate = self.rate
        if not rate:
            return ""
        if rate >= 1:
            return f"{rate:.1f}/s" if rate < 9.95 else f"{rate:.0f}/s"
        each = 1 / rate
        return (f"{each:.1f} s" if each < 10 else f"{each:.0f} s" if each < 120 else f"{each / 60:.1f} min") + (
            " a micrograph"
        )


class _Shown:
    """A bar on a terminal, and lines elsewhere. Where ``logging`` lets INFO through, lines go there."""

    def __init__(self, shown: bool, total: int, done: int, what: str) -> None:
        self._shown = shown
        self._bar: Any = None
        if shown and sys.stderr is not None and sys.stderr.isatty():
            from tqdm import tqdm

            # Its own rate counts failures, and its time left follows from that.
            layout = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
            self._bar = tqdm(total=total, initial=done, desc=what, dynamic_ncols=True, bar_format=layout)

    def move(self, total: int, done: int, text: str = "") -> None:
        """Let the bar stand at ``done`` of ``total``."""
        if self._bar is None:
            return
        # A closed terminal must not stop the picking.
        with contextlib.suppress(OSError, ValueError):
            self._bar.total = total
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(done - self._bar.n)

    def say(self, line: str) -> None:
        """Say a line, if there is no bar."""
        if not self._shown or self._bar is not None:
            log.debug(line)
        elif log.isEnabledFor(logging.INFO):
            log.info(line)
        else:
            with contextlib.suppress(OSError, ValueError):
                print(f"cryosegnet: {line}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.close()


class EstimateProgress:
    """Shows on stderr how far the estimate of the particle size is.

    Parameters
    ----------
    shown
        False: the lines are for a log of DEBUG messages only.
    """

    def __init__(self, shown: bool = True) -> None:
        self._wanted = shown
        self._shown: _Shown | None = None
        self._last = time.monotonic()

    def __call__(self, looked: int, total: int) -> None:
        """So many of the micrographs were looked at."""
        if self._shown is None:
            self._shown = _Shown(self._wanted, total, 0, "particle size")
        self._shown.move(total, looked)
        if time.monotonic() - self._last >= _ESTIMATE_SECONDS:
            self._last = time.monotonic()
            self._shown.say(looked_at(looked, total))

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._shown is not None:
            self._shown.close()


class Progress:
    """Shows on stderr how many micrographs are picked: a bar on a terminal, lines elsewhere.

    Where ``logging`` lets INFO through, lines go there, so that they are in a log file as well. Make it when the first
    micrograph is about to be picked.

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
        self.pace = PickingPace(total, finished, shortest=_SHORTEST_SECONDS, growing=growing)
        self._picks = self._failed = 0
        self._shown = _Shown(shown, total, finished, "picking")

    def add(self, picks: int, failed: bool = False) -> None:
        """Count one micrograph."""
        self.pace.add(not failed)
        self._picks += picks
        self._failed += failed
        self._shown.move(self.pace.total, self.pace.count, ", ".join(self._words()))
        if self.pace.is_due:
            self._say()

    def close(self) -> None:
        """Say the last line, and leave the bar as it is."""
        self._shown.close()
        if self.pace.is_new:
            self._say()

    def grow(self, total: int, finished: int) -> None:
        """More micrographs are known, and more that earlier runs finished."""
        pace = self.pace
        earlier = finished - pace.first
        pace.total, pace.first, pace.count = total, finished, pace.count + earlier

    def _say(self) -> None:
        pace = self.pace
        pace.told()
        share = "" if pace.growing else f" ({100 * pace.count // max(pace.total, 1)} %)"
        self._shown.say(", ".join([f"{pace.count}/{plural(pace.total, 'micrograph')}{share}", *self._words()]))

    def _words(self) -> list[str]:
        """Rate, time left and counts; what is not known is left out."""
        left = self.pace.seconds_left
        words = [self.pace.speed, "" if left is None else f"{duration(left)} left", plural(self._picks, "pick")]
        return [word for word in [*words, f"{self._failed} failed" if self._failed else ""] if word]


def looked_at(looked: int, total: int, noun: str = "micrograph") -> str:
    """How far an estimate is, in words.

    >>> looked_at(3, 8)
    'particle size: 3 of 8 micrographs looked at'
    """
    return f"particle size: {looked} of {plural(total, noun)} looked at"


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
