"""Parts of a run that are done one after another, each within its time, whatever becomes of the others.

A worker process does the parts; the process that asks for them writes the results. So a part that hangs is killed, and
one that leaves the GPU unusable, as an illegal access does, costs the others nothing: they go on in a new worker.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

from cryosegnet_ext.files.atomic import write_atomic

RESULTS, TABLES, ERRORS = "gpu.json", "tables.md", "errors.txt"
#: Seconds of a part that `--small` gives: they bound a hang, not a slow machine.
_SMALL = 600.0
#: A part whose time has come to less than this is not begun.
_LEAST = 3.0


@dataclass(frozen=True)
class Context:
    """What every part gets.

    Attributes
    ----------
    device
        ``cpu`` or ``cuda``.
    small
        Small sizes: to try the parts on a CPU.
    data
        File of `pack`; None where there is none.
    output
        Folder for what comes back.
    scratch
        Folder for large files, in memory if it can be.
    until
        End of this part's time, by ``time.monotonic``.
    """

    device: str
    small: bool
    data: Path | None
    output: Path
    scratch: Path
    until: float = float("inf")

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.until - time.monotonic()


@dataclass(frozen=True)
class Table:
    """A table of a part's findings; ``note`` is a sentence below it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""

    def lines(self) -> list[str]:
        """In Markdown."""
        rows = [" | ".join(_cell(value) for value in row) for row in self.rows]
        head = [f"**{self.title}**", "", f"| {' | '.join(self.columns)} |", "|---" * len(self.columns) + "|"]
        return [*head, *(f"| {row} |" for row in rows), *(["", self.note] if self.note else []), ""]


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


@dataclass(frozen=True)
class Found:
    """What a part found: tables to read, and figures for JSON."""

    tables: Sequence[Table] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One part of a run.

    Attributes
    ----------
    stage, name
        Its stage, ``a`` to ``c``, and its name in the results.
    function
        ``module:function``, called with a `Context`; gives a `Found`.
    seconds
        Its limit; 0 for all the time that is left but for ``reserve``.
    reserve
        Seconds to leave for the parts after it.
    alone
        It needs a worker of its own.
    again
        It goes on with what it did: a run that is started again does it once more.
    """

    stage: str
    name: str
    function: str
    seconds: float
    reserve: float = 0.0
    alone: bool = False
    again: bool = False


def run(parts: Sequence[Part], context: Context, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Do the parts within ``context.until``; those that an earlier run finished in the same folder are passed over.

    After each part, ``gpu.json`` and ``tables.md`` hold all that was found so far, ``errors.txt`` the tracebacks.
    """
    results = _earlier(context.output / RESULTS)
    done = results.setdefault("parts", {})
    with _Worker() as worker:
        for part in parts:
            if done.get(part.name, {}).get("status") == "done" and not part.again:
                say(f"{part.name}: done before")
                continue
            left = context.left - part.reserve
            seconds = min(left, _SMALL if context.small else part.seconds or left)
            if seconds < _LEAST:
                say(f"{part.name}: no time left")
                done.setdefault(part.name, {"stage": part.stage, "status": "no time left"})
                continue
            began = time.monotonic()
            answer = worker.do(part, context, began + seconds)
            one = {"stage": part.stage, "seconds": round(time.monotonic() - began, 1), **answer}
            if (trace := one.pop("trace", "")) and part.again and "figures" in done.get(part.name, {}):
                one = {**done[part.name], **one}  # what it found before is still true
            done[part.name] = one
            if trace:
                with open(context.output / ERRORS, "a") as errors:
                    errors.write(f"{part.stage}, {part.name}\n{trace}\n")
                say(f"{part.name}: failed after {one['seconds']} s: {one['error']}")
            for table in one.get("tables", ()):
                say("\n".join(Table(**table).lines()))
            _write(context.output, results)
            say(f"({part.stage}, {part.name}: {one['seconds']} s)\n")
    _write(context.output, results)
    return results


def _earlier(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text())
        if isinstance(found, dict) and isinstance(found.get("parts"), dict):
            return found
    return {}


def _write(folder: Path, results: Mapping[str, Any]) -> None:
    write_atomic(folder / RESULTS, json.dumps(results, indent=1) + "\n")
    lines = [line for one in results["parts"].values() for table in one.get("tables", ()) for line in _lines(table)]
    failed = [f"{name}: {one['error']}" for name, one in results["parts"].items() if "error" in one]
    write_atomic(folder / TABLES, "\n".join([*lines, *failed, ""]))


def _lines(table: Mapping[str, Any]) -> list[str]:
    return Table(**table).lines()


class _Worker:
    """The process that does the parts; started when it is needed, in a group of its own with all that it starts."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._pipe: Any = None

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def do(self, part: Part, context: Context, until: float) -> dict[str, Any]:
        """Have a part done until then; the findings, or what went wrong."""
        if part.alone:
            self._end()
        if self._process is None:
            self._pipe, theirs = self._context.Pipe()
            self._process = self._context.Process(target=_serve, args=(theirs,))
            self._process.start()
            theirs.close()
        try:
            self._pipe.send((part.function, context, until))
            if self._pipe.poll(max(until - time.monotonic(), 0)):
                answer: dict[str, Any] = self._pipe.recv()
                broken = answer.pop("broken", False)
                if part.alone or broken:
                    self._end()
                return answer
            why = "it ran past its time and was ended"
        except (EOFError, OSError):
            self._process.join(5)
            why = f"its process died (exit code {self._process.exitcode})"
        self._end()
        return {"status": "failed", "error": why, "trace": why}

    def _end(self) -> None:
        if self._process is None:
            return
        self._pipe.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        # it may have died before it had a group of its own
        self._process.kill()
        self._process.join(10)
        self._process = None


def _serve(pipe: Any) -> None:
    """The worker: does what it is sent until the pipe is closed."""
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while True:
            function, context, until = pipe.recv()
            answer = _tried(function, Context(**{**vars(context), "until": until}))
            sys.stdout.flush()
            pipe.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)


def _tried(function: str, context: Context) -> dict[str, Any]:
    module, _, name = function.partition(":")
    try:
        found: Found = getattr(importlib.import_module(module), name)(context)
        # as JSON gives it back, and nothing else
        plain = json.loads(json.dumps({"tables": [vars(t) for t in found.tables], "figures": found.figures}))
        return {"status": "done", **plain}
    except BaseException as error:
        lines = str(error).splitlines() or [""]
        said = f"{type(error).__name__}: {lines[0]}"[:300]
        return {"status": "failed", "error": said, "trace": traceback.format_exc(), "broken": _broken(context.device)}


def _broken(device: str) -> bool:
    """Whether the GPU no longer answers this process."""
    if device == "cpu":
        return False
    import torch

    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return float(torch.ones(8, device=device).sum()) != 8
    except Exception:
        return True
