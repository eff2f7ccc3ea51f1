"""``cryosegnet view --live``: a page that follows a run, in a process of its own that only reads the run's folder."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .._version import __version__
from ..errors import CryoSegNetError
from ..files.inside import inside
from ..files.overlay import encode_overlay
from ..report.page import assemble, read_text
from ..runs.candidates import read_candidates
from ..runs.false_picks import expected_false
from ..runs.finished import FinishedRun
from ..runs.records import Record
from .following import Following
from .server import PageHandler, PageServer, Refused

#: The folder is looked at once in so many seconds, however many browsers ask.
_LOOK_SECONDS = 1.0
_LATEST = 12
_FAILURES = 50
#: The curves have at most so many points, each the median over its micrographs.
_POINTS = 300
_PICTURE = re.compile(r"picture/(\d{1,9})/(\d{1,9})")
_SIDE = 512


class LiveRun:
    """A run that is followed, as the page shows it.

    Parameters
    ----------
    output
        Its folder, which need not exist yet.
    """

    def __init__(self, output: Path) -> None:
        self._run = Following(output)
        self._looking = threading.Lock()
        self._looked = -1e9
        self._numbers: dict[str, int] = {}
        self._keys: list[str] = []
        self._generation = 0
        self._answer = b""

    def page(self) -> bytes:
        """The page."""
        data = {"folder": str(self._run.output), "version": __version__}
        style = read_text("style.css") + read_text("live.css")
        return assemble("live.html", style, read_text("live.js"), str(self._run.output), data, served=True)

    def state(self) -> bytes:
        """The state of the run as JSON."""
        with self._looking:
            if time.monotonic() - self._looked >= _LOOK_SECONDS or self._run.behind:
                self._answer = json.dumps(self._look(), allow_nan=False).encode()
                self._looked = time.monotonic()
            return self._answer

    def picture(self, generation: int, number: int) -> bytes:
        """A micrograph with its picks, as JPEG; raises CryoSegNetError if there is none."""
        with self._looking:
            known = generation == self._generation and number < len(self._keys)
            record = self._run.records.get(self._keys[number]) if known else None
            threshold = FinishedRun(self._run.output, self._run.settings, ()).threshold
        if record is None:
            raise CryoSegNetError("no such micrograph")
        try:
            return inside(self._run.output, f"overlays/{record.stem}.jpg").read_bytes()
        except OSError:
            return _drawn(self._run.output, record, threshold)

    def _look(self) -> dict[str, Any]:
        run = self._run
        try:
            run.look()
            state, says = run.state()
        except OSError as error:
            state, says = "unreadable", f"{run.output} cannot be read ({error.strerror}); this page tries again"
        if run.generation != self._generation:
            self._generation, self._numbers, self._keys = run.generation, {}, []
        every = [run.records[key] for key in run.order if key in run.records]
        done = [record for record in every if record.done]
        failed = [record for record in every if not record.done]
        known = [record for record in done if record.pixel_size is not None] or done
        return {
            "state": state,
            "says": says,
            "behind": run.behind,
            "progress": run.progress(),
            "done": len(done),
            "failed": len(failed),
            "without": sum(record.picks == 0 for record in done),
            "picks": sum(record.picks for record in done),
            "false": expected_false(done),
            "damaged": run.damaged,
            "warnings": run.warnings,
            "unit": "A" if known and known[0].pixel_size is not None else "px",
            "curves": {
                "picks": _curve([record.picks for record in done]),
                "size": _curve([record.diameter for record in known if record.diameter is not None]),
                "score": _curve([1 - r.expected_false for r in done if r.expected_false is not None]),
            },
            "latest": [self._shown(record) for record in done[: -_LATEST - 1 : -1]],
            "failures": [[_text(r.name), _text(r.reason or "")] for r in failed[: -_FAILURES - 1 : -1]],
        }

    def _shown(self, record: Record) -> dict[str, Any]:
        number = self._numbers.setdefault(record.key, len(self._keys))
        if number == len(self._keys):
            self._keys.append(record.key)
        # A micrograph that was picked again has another picture.
        address = f"picture/{self._generation}/{number}?{record.mtime_ns % 10**9}-{record.picks}"
        return {"name": _text(record.name), "picks": record.picks, "diameter": record.diameter, "picture": address}


def _text(text: str) -> str:
    """Text that JSON and the page can hold, whatever bytes a file name has."""
    return text.encode("utf-8", "replace").decode()


def _curve(values: Sequence[float]) -> dict[str, Any]:
    """Medians of groups of neighbours, how many values there are, and the median of all."""
    if not values:
        return {"count": 0, "median": None, "points": []}
    array = np.asarray(values, float)
    groups = np.array_split(array, min(len(array), _POINTS))
    points = [round(float(np.median(group)), 3) for group in groups]
    return {"count": len(array), "median": round(float(np.median(array)), 3), "points": points}


def _drawn(output: Path, record: Record, threshold: float) -> bytes:
    """The picks on the thumbnail that the run saved, where it draws no overlays."""
    kept = read_candidates(output, record.stem, thumbnail=True)
    grey = None if kept is None else cv2.imdecode(np.frombuffer(kept.thumbnail, np.uint8), cv2.IMREAD_GRAYSCALE)
    if kept is None or grey is None:
        raise CryoSegNetError("the run saved no picture of this micrograph")
    picks = kept.candidates.above(threshold)
    scale = grey.shape[1] / max(picks.shape[1] if picks.shape else grey.shape[1], 1)
    small = replace(
        picks,
        x=picks.x * scale,
        y=picks.y * scale,
        diameter=picks.diameter if picks.pixel_size else picks.diameter * scale,
        pixel_size=picks.pixel_size and picks.pixel_size / scale,
        shape=(grey.shape[0], grey.shape[1]),
    )
    return encode_overlay(grey.astype(np.float32), small, _SIDE)


class LiveServer(PageServer):
    """Serves the page of a run that is followed.

    Parameters
    ----------
    output
        Folder of the run, which need not exist yet.
    host, port
        As for `PageServer`, which says what is raised.
    """

    def __init__(self, output: Path, host: str = "127.0.0.1", port: int = 0) -> None:
        self.run = LiveRun(output)
        super().__init__(_LiveHandler, host, port)


class _LiveHandler(PageHandler):
    server: LiveServer

    def _get(self, path: str) -> tuple[str, bytes]:
        run = self.server.run
        if path == "":
            return "text/html; charset=utf-8", run.page()
        if path == "state.json":
            return "application/json", run.state()
        if match := _PICTURE.fullmatch(path.partition("?")[0]):
            return "image/jpeg", run.picture(int(match[1]), int(match[2]))
        raise Refused(HTTPStatus.NOT_FOUND, "nothing here")
