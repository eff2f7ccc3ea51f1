"""Files for those who monitor a long run: a heartbeat as JSON, and metrics for the text files of Prometheus.

A thread replaces both files every few seconds, also while one micrograph takes long. The time that the current
micrograph has taken shows whether the run still goes on. ``docs/cluster.md`` lists the names.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from datetime import datetime, timezone
from pathlib import Path

from .._version import __version__
from ..errors import CryoSegNetError
from ..files.atomic import write_atomic
from ..files.diameter import Diameter
from ..files.inputs import STATE_FOLDER
from .journal import Record
from .progress import PickingPace

SCHEMA = 1
SECONDS = 10.0
#: News, such as another state, are written sooner, but not more often than so.
_SHORTEST_SECONDS = 1.0
#: In the folder of a run's state, so that everybody who looks at the folder finds it.
HEARTBEAT = "heartbeat.json"

_HELP = {
    "info": ("gauge", "Version of the program and the output folder; always 1"),
    "up": ("gauge", "1 while the run goes on, 0 after its end"),
    "start_time_seconds": ("gauge", "Start of the run, seconds since 1970"),
    "heartbeat_time_seconds": ("gauge", "When this file was written, seconds since 1970"),
    "last_micrograph_time_seconds": ("gauge", "When the last micrograph was finished, seconds since 1970"),
    "current_micrograph_seconds": ("gauge", "How long the oldest micrograph in progress has taken so far"),
    "micrographs_picked_total": ("counter", "Micrographs picked by this run"),
    "micrographs_failed_total": ("counter", "Micrographs that failed in this run"),
    "micrographs_skipped": ("gauge", "Micrographs that earlier runs had finished"),
    "micrographs_without_picks_total": ("counter", "Micrographs picked by this run that have no picks"),
    "micrographs_waiting": ("gauge", "Micrographs that are known and not begun"),
    "micrographs_in_flight": ("gauge", "Micrographs in progress"),
    "picks_total": ("counter", "Picks of this run"),
    "expected_false_ratio": ("gauge", "Expected share of false picks of this run, 0 to 1, from calibrated scores"),
    "picking_seconds_total": ("counter", "Time spent on reading and picking, over all workers"),
    "micrographs_per_second": ("gauge", "Rate over the last 100 micrographs that were picked"),
    "seconds_left": ("gauge", "How long the rest will take; absent while it is not known"),
    "size_estimate_micrographs": ("gauge", "Micrographs that the estimate of the particle size has looked at"),
    "workers": ("gauge", "Workers that pick"),
    "worker_restarts_total": ("counter", "Workers that were lost and replaced"),
    "dataset_diameter": (
        "gauge",
        "Particle diameter estimated for the dataset, angstrom (pixels without pixel size); also if another was given",
    ),
    "resident_memory_bytes": ("gauge", "Resident memory of the process that owns the output folder"),
}


class Monitor:
    """Counts what a run does and writes it to files; a file that cannot be written never stops the run.

    A heartbeat is always written, into the folder of the run's state.

    Parameters
    ----------
    heartbeat, metrics
        Further files to write; None: none.
    seconds
        Time between two writes.
    """

    def __init__(
        self, heartbeat: str | Path | None = None, metrics: str | Path | None = None, seconds: float = SECONDS
    ) -> None:
        self.heartbeat, self.metrics = heartbeat and Path(heartbeat), metrics and Path(metrics)
        self._seconds = seconds
        self._lock = threading.Lock()
        self._ended, self._news = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._output = ""
        self._own: Path | None = None
        self._start = time.time()
        self._in_progress: dict[str, tuple[str, float]] = {}
        self._last: tuple[str, float] | None = None
        self._pace: PickingPace | None = None
        self._estimate = (0, 0)
        self._counts = dict.fromkeys(("done", "failed", "skipped", "waiting", "without_picks", "picks"), 0)
        self._picking_seconds = 0.0
        # Picks whose share of false ones is estimated, and how many of them are expected to be false.
        self._estimated = 0
        self._expected_false = 0.0
        self._workers = self._restarts = 0
        self._diameter: float | None = None
        self.state = "starting"

    def open(self, output: Path) -> None:
        """Begin to write; raises CryoSegNetError if a file that was asked for cannot be written.

        Later such errors are ignored.
        """
        self._output, self._own = str(output), output / STATE_FOLDER / HEARTBEAT
        self.write()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def close(self, state: str) -> None:
        """Write the files a last time, with the end of the run: ``ended``, ``stopped`` or ``failed``."""
        if self._thread is None:
            return
        self._ended.set()
        self._news.set()
        self._thread.join(timeout=5)
        self.state = state
        with self._lock:
            self._in_progress.clear()
        with contextlib.suppress(OSError, CryoSegNetError):
            self.write()

    def begin(self, key: str, name: str) -> None:
        """A micrograph was begun."""
        with self._lock:
            self._in_progress[key] = (name, time.time())

    def add(self, record: Record) -> None:
        """A micrograph is finished."""
        now = time.time()
        with self._lock:
            self._in_progress.pop(record.key, None)
            self._last = (record.name, now)
            self._counts["done" if record.done else "failed"] += 1
            self._counts["without_picks"] += record.done and record.picks == 0
            self._counts["picks"] += record.picks
            self._picking_seconds += record.seconds
            if record.expected_false is not None:
                self._estimated += record.picks
                self._expected_false += record.picks * record.expected_false

    def update(self, state: str, waiting: int, skipped: int, workers: int, restarts: int) -> None:
        """Set the state of the run: ``estimating`` or ``checking`` the size, ``picking`` or ``waiting``."""
        with self._lock:
            if state != self.state:
                self._news.set()
            self.state = state
            self._counts["waiting"], self._counts["skipped"] = waiting, skipped
            self._workers, self._restarts = workers, restarts

    def set_pace(self, pace: PickingPace) -> None:
        """Picking begins; the pace tells the rate and the time left."""
        self._pace = pace

    def set_estimate(self, looked: int, of: int) -> None:
        """The estimate of the particle size has looked at so many of its micrographs."""
        self._estimate = (looked, of)
        self._news.set()

    def set_diameter(self, diameter: Diameter | None) -> None:
        """The dataset's diameter is known."""
        self._diameter = None if diameter is None else diameter.value

    def write(self) -> None:
        """Write both files now; raises CryoSegNetError if one cannot be written."""
        with self._lock:
            now = time.time()
            oldest = min(self._in_progress.values(), key=lambda pair: pair[1], default=None)
            pace = self._pace
            rate, left = (0.0, None) if pace is None else (pace.rate, pace.seconds_left)
            beat = json.dumps(self._heartbeat(now, oldest, rate, left), indent=1) + "\n"
            text = self._metrics(now, oldest, rate, left)
        if self._own is not None:
            with contextlib.suppress(OSError, CryoSegNetError):
                write_atomic(self._own, beat)
        if self.heartbeat:
            write_atomic(self.heartbeat, beat)
        if self.metrics:
            write_atomic(self.metrics, text.encode(errors="surrogateescape"))

    def _beat(self) -> None:
        while not self._ended.wait(min(self._seconds, _SHORTEST_SECONDS)):
            self._news.wait(self._seconds)
            self._news.clear()
            if self._ended.is_set():
                return
            with contextlib.suppress(OSError, CryoSegNetError):
                self.write()

    @property
    def _share(self) -> float | None:
        """Expected share of false picks so far."""
        return round(self._expected_false / self._estimated, 4) if self._estimated else None

    def _heartbeat(
        self, now: float, oldest: tuple[str, float] | None, rate: float, left: float | None
    ) -> dict[str, object]:
        counts = self._counts
        names = ("done", "failed", "skipped", "without_picks", "waiting")
        return {
            "schema": SCHEMA,
            "version": __version__,
            "time": _iso(now),
            "state": self.state,
            "process": os.getpid(),
            "host": socket.gethostname(),
            "output": self._output,
            "started": _iso(self._start),
            "micrographs": {name: counts[name] for name in names} | {"in_flight": len(self._in_progress)},
            "picks": counts["picks"],
            "expected_false": self._share,
            "current": oldest and {"name": oldest[0], "seconds": round(now - oldest[1], 1)},
            "last": self._last and {"name": self._last[0], "time": _iso(self._last[1])},
            "micrographs_per_minute": round(60 * rate, 2),
            "seconds_left": left if left is None else round(left),
            "size_estimate": {"looked_at": self._estimate[0], "of": self._estimate[1]},
            "dataset_diameter": self._diameter,
            "workers": self._workers,
            "worker_restarts": self._restarts,
            "memory_bytes": resident_bytes(),
        }

    def _metrics(self, now: float, oldest: tuple[str, float] | None, rate: float, left: float | None) -> str:
        counts = self._counts
        values: dict[str, float | None] = {
            "info": 1,
            "up": float(not self._ended.is_set()),
            "start_time_seconds": self._start,
            "heartbeat_time_seconds": now,
            "last_micrograph_time_seconds": self._last and self._last[1],
            "current_micrograph_seconds": now - oldest[1] if oldest else 0.0,
            "micrographs_picked_total": counts["done"],
            "micrographs_failed_total": counts["failed"],
            "micrographs_skipped": counts["skipped"],
            "micrographs_without_picks_total": counts["without_picks"],
            "micrographs_waiting": counts["waiting"],
            "micrographs_in_flight": len(self._in_progress),
            "picks_total": counts["picks"],
            "expected_false_ratio": self._share,
            "picking_seconds_total": self._picking_seconds,
            "micrographs_per_second": rate,
            "seconds_left": left,
            "size_estimate_micrographs": self._estimate[0],
            "workers": self._workers,
            "worker_restarts_total": self._restarts,
            "dataset_diameter": self._diameter,
            "resident_memory_bytes": resident_bytes(),
        }
        lines = []
        for name, value in values.items():
            if value is None:
                continue
            kind, text = _HELP[name]
            labels = f'{{version="{__version__}",output="{_escaped(self._output)}"}}' if name == "info" else ""
            lines += [f"# HELP cryosegnet_{name} {text}", f"# TYPE cryosegnet_{name} {kind}"]
            lines.append(f"cryosegnet_{name}{labels} {value!r}")
        return "\n".join(lines) + "\n"


def resident_bytes() -> int | None:
    """Resident memory of this process; None if the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
