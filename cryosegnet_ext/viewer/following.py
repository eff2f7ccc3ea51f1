"""What a run has done so far, read from its folder while it goes on, and never written to.

The journal is read from where the last look ended, so that 50,000 micrographs cost no more than a few. A line that is
still being written waits for its end; one that is damaged is counted and left out. If the journal no longer goes on
from where it was read, the run was started anew.
"""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ..files.checksums import unseal
from ..files.inputs import STATE_FOLDER
from ..files.json_text import parse_json
from ..runs.folder import is_gone
from ..runs.monitor import HEARTBEAT, SECONDS
from ..runs.progress import duration
from ..runs.records import DAMAGED, Record, forget, journal_path, replay

#: A look reads at most so much of the journal, so that the first one of a long run does not keep the page waiting.
_MOST_BYTES = 4_000_000
#: So many bytes before the place that was read to must be the same as before.
_TAIL = 200
#: A heartbeat that does not change for so long is that of a process that has ended.
SILENT_SECONDS = 6 * SECONDS
_ENDED = {"ended": "finished", "stopped": "stopped", "failed": "failed"}
_ALIVE = {
    "starting": "starting",
    "estimating": "estimating",
    "checking": "checking",
    "picking": "running",
    "waiting": "waiting",
}


class Following:
    """A run that is followed by its files.

    Parameters
    ----------
    output
        Its folder, which need not exist yet.

    Attributes
    ----------
    records
        Key -> the last record of each micrograph.
    order
        Keys in the order in which their last records came.
    warnings, settings
        As in the journal.
    damaged
        Lines of the journal that cannot be used.
    generation
        Grows when the run was started anew.
    behind
        There is more of the journal to read.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.generation = 0
        self._heartbeat: Mapping[str, Any] = {}
        # When something changed while this process looked, and when it looked first.
        self._changed: float | None = None
        self._first: float | None = None
        self._forget()

    def _forget(self) -> None:
        self.records: dict[str, Record] = {}
        self.order: dict[str, None] = {}
        self.warnings: list[str] = []
        self.settings: Mapping[str, Any] = {}
        self.damaged = 0
        self.behind = False
        self._at, self._tail = 0, b""

    def look(self) -> None:
        """Read what is new; raises OSError if the journal is there and cannot be read."""
        caught_up = self._first is not None and not self.behind
        changed = self._read_heartbeat()
        try:
            file = open(journal_path(self.output), "rb")  # noqa: SIM115 (closed below)
        except (FileNotFoundError, NotADirectoryError):
            if self._at:
                self.generation += 1
                self._forget()
            self._note(changed)
            return
        with file:
            if self._at:
                file.seek(self._at - len(self._tail))
                if file.read(len(self._tail)) != self._tail:
                    self.generation += 1
                    self._forget()
                    file.seek(0)
            text = file.read(_MOST_BYTES)
            self.behind = len(text) == _MOST_BYTES
        whole = text[: text.rfind(b"\n") + 1]
        if not whole and self.behind:  # no run writes so long a line
            whole = text
        if whole:
            self._at += len(whole)
            self._tail = (self._tail + whole)[-_TAIL:]
        self._note(changed or (bool(whole) and caught_up))
        for line in io.BytesIO(whole):
            try:
                self._apply(unseal(line))
            except DAMAGED:
                self.damaged += 1
                forget(line, self.records)

    def _note(self, changed: bool) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
        elif changed:
            self._changed = now

    def _apply(self, entry: Mapping[str, Any]) -> None:
        kind = entry.get("record")
        if kind == "settings":
            self.settings = dict(entry["settings"])
        else:
            replay(entry, self.records, self.warnings)
        if kind in ("micrograph", "moved"):
            self.order.pop(str(entry.get("from")), None)
            key = str(entry["key"] if kind == "micrograph" else entry["to"])
            self.order.pop(key, None)
            self.order[key] = None

    def _read_heartbeat(self) -> bool:
        """Whether it has changed."""
        found: Any = {}
        with contextlib.suppress(OSError, ValueError):
            found = parse_json((self.output / STATE_FOLDER / HEARTBEAT).read_bytes())
        if not isinstance(found, dict) or (not found and self._heartbeat):
            return False  # a file system that is away for a moment
        changed = found != self._heartbeat
        self._heartbeat = found
        return changed

    def state(self) -> tuple[str, str]:
        """The state of the run in a word and in a sentence."""
        beat = self._heartbeat
        if not self.output.is_dir():
            return "missing", f"{self.output} does not exist yet; this page waits for it"
        if not beat and not self._at:
            return "missing", f"nothing was picked into {self.output} yet; this page waits for it"
        said = beat.get("state")
        if said in _ENDED:
            word = _ENDED[said]
            about = {
                "finished": "all is done",
                "stopped": "the run was stopped; the same command goes on",
                "failed": "the run ended with an error; its output says why, and the same command goes on",
            }
            return word, about[word]
        silent = self._silent()
        if not beat:
            if silent < SILENT_SECONDS:
                return "running", "the journal grows"
            return "unknown", "the run has no heartbeat (an older version wrote it), and its journal does not grow"
        gone = is_gone(beat.get("process"), beat.get("host"))
        if silent >= SILENT_SECONDS or ((silent >= 2 * SECONDS or self._changed is None) and gone):
            since = _ago(silent)
            why = f"process {beat.get('process')} on {beat.get('host')} gave its last sign of life {since} ago"
            return "died", f"{why}: it was killed, or its machine or file system is away; the same command goes on"
        return _ALIVE.get(str(said), "running"), self._doing(beat, str(said))

    def _doing(self, beat: Mapping[str, Any], said: str) -> str:
        current = _mapping(beat, "current")
        if said in ("estimating", "checking"):
            seen = _mapping(beat, "size_estimate")
            if _number(seen.get("of")):
                return f"{said} the particle size: {seen.get('looked_at')} of {seen['of']} micrographs looked at"
            return f"{said} the particle size"
        if said == "waiting":
            return "waiting for micrographs"
        if current and (seconds := _number(current.get("seconds"))) is not None and seconds > SILENT_SECONDS:
            return f"picking {current.get('name')} for {_ago(seconds)}"
        return "picking" if said == "picking" else "starting"

    def _silent(self) -> float:
        """Seconds without a sign of life; by the clocks of two machines until something has changed here."""
        now = time.monotonic()
        if self._changed is not None:
            return now - self._changed
        return max(now - (self._first or now), self._age())

    def _age(self) -> float:
        """How old the heartbeat is, or the journal of a run that has none."""
        try:
            if self._heartbeat:
                written = datetime.fromisoformat(str(self._heartbeat.get("time"))).timestamp()
            else:
                written = journal_path(self.output).stat().st_mtime
            return max(0.0, time.time() - written)
        except (ValueError, OverflowError, OSError):
            return math.inf

    def progress(self) -> dict[str, Any]:
        """Total, waiting, rate and time left, as the heartbeat has them; None for what is not known."""
        beat = self._heartbeat
        counts = _mapping(beat, "micrographs")
        known = [_number(counts.get(name)) for name in ("done", "failed", "skipped", "waiting", "in_flight")]
        minute = _number(beat.get("micrographs_per_minute"))
        return {
            "total": None if None in known else int(sum(number or 0 for number in known)),
            "waiting": _number(counts.get("waiting")),
            "rate": minute,
            "left": _number(beat.get("seconds_left")),
            "started": beat.get("started") if isinstance(beat.get("started"), str) else None,
            "workers": _number(beat.get("workers")),
        }


def _mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def _number(value: object) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
    return value if good else None  # type: ignore[return-value]


def _ago(seconds: float) -> str:
    return "a long time" if not math.isfinite(seconds) or seconds > 90 * 86400 else duration(seconds)
