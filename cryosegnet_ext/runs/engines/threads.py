"""Several micrographs at a time on one GPU: while the network works on one, others are read, uploaded or segmented.

The threads share the models. Each has a stream of its own on the GPU, so that copies and kernels of
different micrographs overlap; reading, OpenCV, SciPy and PyTorch let other threads run meanwhile. A micrograph for
which the GPU's memory does not suffice beside the others is picked again alone.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ...errors import TooLittleMemory
from ..pick_task import MicrographPicker, PickOutcome, PickTask, pick_task
from ..stopping import Stop
from .base import Engine, EngineError
from .serial import LocalEngine, SerialEngine

if TYPE_CHECKING:
    import torch

DEPTH = 4
"""Micrographs in progress on a GPU: a 4096 x 4096 one takes about 0.5 GB of its memory."""

_POLL_SECONDS = 0.1

log = logging.getLogger(__name__)


def engine_for(picker: MicrographPicker) -> Engine:
    """The engine for the picker's device: several micrographs at a time on a GPU, one after another on a CPU."""
    device = getattr(picker, "device", None)
    return ThreadedEngine(picker) if getattr(device, "type", None) == "cuda" else SerialEngine(picker)


class ThreadedEngine(LocalEngine):
    """Picks in threads of this process, several micrographs at a time.

    Parameters
    ----------
    picker
        Picks one micrograph; called from several threads at once.
    depth
        Number of threads.
    """

    def __init__(self, picker: MicrographPicker, depth: int = DEPTH) -> None:
        super().__init__(picker)
        self.workers = depth
        self._tasks: queue.SimpleQueue[PickTask | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[PickOutcome] = queue.SimpleQueue()
        self._pending = 0
        # Daemons: a file system that hangs does not keep the process from ending.
        self._threads = [threading.Thread(target=self._work, name=f"pick {i}", daemon=True) for i in range(depth)]
        self._closed = threading.Event()
        self._lost = ""
        self._sharing: MicrographPicker = _Sharing(picker)

    @property
    def room(self) -> int:
        """Number of further tasks that keep the engine busy."""
        return self.workers + 1 - self._pending

    def submit(self, task: PickTask) -> None:
        """Take a task; the next free thread begins it."""
        for thread in self._threads:
            if not thread.ident:
                thread.start()
        self._pending += 1
        self._tasks.put(task)

    def wait(self, stopping: Stop, seconds: float = 0.0) -> list[PickOutcome]:
        """Outcomes that are finished; waits for the first one. Raises `EngineError` if the GPU is lost."""
        if self._pending == 0:
            return []
        until = time.monotonic() + max(seconds, _POLL_SECONDS)
        found: list[PickOutcome] = []
        while not found and time.monotonic() < until:
            stopping.check()
            with contextlib.suppress(queue.Empty):
                found.append(self._outcomes.get(timeout=_POLL_SECONDS))
            if self._lost and not found:
                raise EngineError(self._lost)
        with contextlib.suppress(queue.Empty):
            while found:
                found.append(self._outcomes.get_nowait())
        self._pending -= len(found)
        return found

    def close(self) -> None:
        """End the threads and drop the micrographs in progress."""
        self._closed.set()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            if thread.ident:
                thread.join(timeout=2.0)

    def _work(self) -> None:
        device = getattr(self.picker, "device", None)
        with _own_stream(device):
            while (task := self._tasks.get()) is not None and not self._closed.is_set():
                outcome = pick_task(self._sharing, task, task.read())
                if not outcome.record.done and (why := _lost(device)):
                    # not the micrograph's fault, and every further one would fail
                    self._lost = f"{device} no longer answers ({why}); `nvidia-smi` tells its state"
                    return
                self._outcomes.put(outcome)


class _Sharing:
    """A picker as its threads use it: who runs out of memory tries again when no other thread picks."""

    def __init__(self, picker: MicrographPicker) -> None:
        self._picker = picker
        self._changed = threading.Condition()
        self._picking, self._alone = 0, False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._picker, name)
        return functools.partial(self._tried, found) if name in ("pick", "candidates") else found

    def _tried(self, pick: Callable[..., Any], *given: Any) -> Any:
        try:
            with self._with_others():
                return pick(*given)
        except TooLittleMemory as error:
            log.info(f"{error} It is tried again without other micrographs.")
        with self._without_others():
            return pick(*given)

    @contextlib.contextmanager
    def _with_others(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._picking += 1
        try:
            yield
        finally:
            with self._changed:
                self._picking -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def _without_others(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._alone = True
            self._changed.wait_for(lambda: self._picking == 0)
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


def _own_stream(device: torch.device | None) -> contextlib.AbstractContextManager[object]:
    if getattr(device, "type", None) != "cuda":
        return contextlib.nullcontext()
    import torch

    return torch.cuda.stream(torch.cuda.Stream(device))


def _lost(device: torch.device | None) -> str:
    """Why a GPU can do nothing more in this process, as after an illegal memory access; empty if it can."""
    if getattr(device, "type", None) != "cuda":
        return ""
    import torch

    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return ""
