"""Progress of a batch on stderr: a bar on a terminal, plain lines in a log file."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

_LINE_SECONDS = 30.0
_SHORTEST_SECONDS = 5.0
_LINE_SHARE = 0.05


class Progress:
    """Counts micrographs towards ``total``.

    Parameters
    ----------
    total
        Number of micrographs of the run.
    finished
        How many of them were finished before; they do not count for the rate.
    shown
        False: say nothing.
    growing
        The total is what is known so far.
    """

    def __init__(self, total: int, finished: int = 0, shown: bool = True, growing: bool = False) -> None:
        self.total = total
        self.growing = growing
        self.count = self._first = self._said = finished
        self.picks = self.failed = 0
        self._start = self._last = time.monotonic()
        self._shown = shown
        self._bar: Any = None
        if shown and sys.stderr is not None and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=finished, unit="mic", desc="picking", dynamic_ncols=True)

    def add(self, picks: int, failed: bool = False) -> None:
        """Count one micrograph."""
        self.count += 1
        self.picks += picks
        self.failed += failed
        # A closed terminal or a full log must not stop the picking.
        with contextlib.suppress(OSError, ValueError):
            if self._bar is not None:
                self._bar.set_postfix(picks=self.picks, failed=self.failed, refresh=False)
                self._bar.update()
            elif self._shown and self._due():
                self._say()

    def close(self) -> None:
        """Write the last line, or leave the bar as it is."""
        with contextlib.suppress(OSError, ValueError):
            if self._bar is not None:
                self._bar.close()
            elif self._shown and self._said != self.count:
                self._say()

    def say(self, text: str) -> None:
        """Say what is going on."""
        if self._shown:
            with contextlib.suppress(OSError, ValueError):
                if self._bar is not None:
                    self._bar.clear()
                print(f"cryosegnet: {text}", file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Say something that the user should look into."""
        self.say(f"warning: {text}")

    def grow(self, total: int, finished: int) -> None:
        """More micrographs are known, and more that earlier runs finished."""
        earlier = finished - self._first
        self.total, self._first, self.count = total, finished, self.count + earlier
        if self._bar is not None and earlier + total != self._bar.total:
            self._bar.total, self._bar.initial = total, finished
            self._bar.update(earlier)

    def _due(self) -> bool:
        waited = time.monotonic() - self._last
        step = self.count - self._said >= _LINE_SHARE * self.total and not self.growing
        return waited >= _LINE_SECONDS or (step and waited >= _SHORTEST_SECONDS)

    def _say(self) -> None:
        self._last, self._said = time.monotonic(), self.count
        rate = (self.count - self._first) / max(self._last - self._start, 1e-9)
        words = [f"{self.count}/{self.total} micrographs"]
        if not self.growing:
            words[0] += f" ({100 * self.count // max(self.total, 1)} %)"
        words.append(f"{rate:.2f}/s" if rate < 10 else f"{rate:.0f}/s")
        if self.count < self.total and rate > 0 and not self.growing:
            words.append(f"{duration((self.total - self.count) / rate)} left")
        words.append(f"{self.picks} picks")
        if self.failed:
            words.append(f"{self.failed} failed")
        print("cryosegnet: " + ", ".join(words), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A length of time in words.

    >>> duration(42), duration(90), duration(8000)
    ('42 s', '2 min', '2 h 13 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
