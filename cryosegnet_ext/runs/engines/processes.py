"""Several devices of this machine: a process each, fed from one queue, and replaced when they die.

Each process talks to the owner through a pipe of its own, so that one which is killed can hold no lock that another
needs. Micrographs that a dead process had at hand are tried once more, each alone; what kills a process then as well is
recorded as failed.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any

from ...errors import CryoSegNetError, UsageError, plural
from ...files.inputs import Input
from ..diameter import Estimate, estimate
from ..pick_task import MicrographPicker, PickOutcome, PickTask, blank_record, refused
from ..stopping import Stop, ignore_terminal
from .base import Engine, EngineError
from .threads import engine_for

log = logging.getLogger(__name__)

#: Makes the picker of a device; it is pickled, so it is a function of a module, or a partial of one.
MakePicker = Callable[[str], MicrographPicker]

#: Micrographs at hand for a process: one is picked and others are read ahead.
_DEPTH = 3
#: A process that dies more often than this in a row without picking anything is not replaced.
_MOST_DEATHS = 3
_POLL_SECONDS = 0.2
_END_SECONDS = 2.0


@dataclass
class _Worker:
    """One process and what it has at hand."""

    device: str
    process: Any = None
    pipe: Any = None
    ready: bool = False
    tasks: deque[PickTask] = field(default_factory=deque)
    alone: bool = False
    estimating: bool = False
    deaths: int = 0
    refusal: str = ""


class ProcessEngine(Engine):
    """Picks in one process for each device; a device named twice gets two.

    Parameters
    ----------
    make
        Makes the picker, in the process that uses it.
    devices
        Names as `Picker` takes them.
    threads
        CPU threads of each process; by default the environment's OMP_NUM_THREADS, or else the cores are shared out
        between the processes.
    """

    def __init__(self, make: MakePicker, devices: Sequence[str], threads: int | None = None) -> None:
        if not devices:
            raise UsageError("no device was named; give --device auto, cpu, cuda:0 or a list like cuda:0,1")
        self._make = make
        given = threads or os.environ.get("OMP_NUM_THREADS", "")
        shared = max(1, len(os.sched_getaffinity(0)) // len(devices))
        self._threads = int(given) if str(given).isdigit() else shared
        self._context = multiprocessing.get_context("spawn")
        self._queue: deque[PickTask] = deque()
        self._suspects: deque[PickTask] = deque()
        self._deaths: dict[str, int] = {}
        self._outcomes: list[PickOutcome] = []
        self._about: tuple[Mapping[str, object], bool] | None = None
        self._estimate: Estimate | None = None
        self._why = ""
        self._workers = [_Worker(device) for device in devices]
        for worker in self._workers:
            self._start(worker)

    @property
    def settings(self) -> Mapping[str, object]:
        """The pickers'; waits until one is loaded."""
        return self._loaded()[0]

    @property
    def needs_diameter(self) -> bool:
        """The pickers'."""
        return self._loaded()[1]

    def _loaded(self) -> tuple[Mapping[str, object], bool]:
        while self._about is None:
            self._pump(_POLL_SECONDS)
        return self._about

    def estimate(self, inputs: Sequence[Input], pixel_size: float | None, stopping: Stop) -> Estimate:
        """Estimate the dataset's diameter in one of the processes."""
        self._estimate = None
        tries = 0
        while self._estimate is None:
            stopping.check()
            if not any(worker.estimating for worker in self._workers):
                if tries == 2:
                    return Estimate(problem=f"the worker process died twice: {self._why}")
                free = next((w for w in self._workers if w.ready and not w.tasks), None)
                if free is not None:
                    tries += 1
                    free.estimating = self._send(free, ("estimate", list(inputs), pixel_size))
            self._pump(_POLL_SECONDS)
        return self._estimate

    @property
    def room(self) -> int:
        """How many more tasks keep every process busy."""
        at_hand = sum(len(worker.tasks) for worker in self._workers) + len(self._queue) + len(self._suspects)
        return max(0, _DEPTH * len(self._workers) - at_hand)

    def submit(self, task: PickTask) -> None:
        """Take a task."""
        self._queue.append(task)
        self._feed()

    def wait(self, stopping: Stop, seconds: float) -> list[PickOutcome]:
        """What the processes have finished."""
        end = time.monotonic() + seconds
        while True:
            stopping.check()
            self._pump(min(_POLL_SECONDS, max(0.0, end - time.monotonic())))
            if self._outcomes or time.monotonic() >= end:
                outcomes, self._outcomes = self._outcomes, []
                return outcomes

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            if worker.process is not None:
                worker.pipe.close()
                # They have nothing to save: what is at hand is dropped.
                worker.process.kill()
        for worker in self._workers:
            if worker.process is not None:
                worker.process.join(_END_SECONDS)
                worker.process = worker.pipe = None
                worker.ready = False

    def _start(self, worker: _Worker) -> None:
        worker.pipe, theirs = self._context.Pipe()
        worker.process = self._context.Process(
            target=_work,
            args=(theirs, self._make, worker.device, self._threads),
            name=f"cryosegnet on {worker.device}",
            daemon=True,
        )
        worker.process.start()
        theirs.close()
        self.workers = sum(w.process is not None for w in self._workers)

    def _feed(self) -> None:
        """Give each process what it can take, always the one that has least at hand."""
        open_ones = []
        for worker in self._workers:
            if not worker.ready or worker.estimating or worker.alone:
                continue
            if self._suspects and not worker.tasks:
                worker.alone = True
                worker.tasks.append(self._suspects.popleft())
                self._send(worker, worker.tasks[-1])
                continue
            open_ones.append(worker)
        while self._queue and open_ones:
            worker = min(open_ones, key=lambda w: len(w.tasks))
            if len(worker.tasks) >= _DEPTH:
                break
            worker.tasks.append(self._queue.popleft())
            if not self._send(worker, worker.tasks[-1]):
                open_ones.remove(worker)

    def _send(self, worker: _Worker, message: object) -> bool:
        """Send; where the process has died, which its sentinel tells soon, nothing happens."""
        try:
            worker.pipe.send(message)
        except OSError:
            return False
        return True

    def _pump(self, seconds: float) -> None:
        """Wait for messages and deaths, and take them in."""
        alive = {w.pipe: w for w in self._workers if w.process is not None}
        alive |= {w.process.sentinel: w for w in alive.values()}
        if not alive:
            raise EngineError(f"every worker process has died ({self._why})")
        heard = {id(worker): worker for worker in (alive[what] for what in connection.wait(list(alive), seconds))}
        for worker in heard.values():
            over = not worker.process.is_alive()
            try:
                while worker.pipe.poll():
                    self._hear(worker, worker.pipe.recv())
            except (EOFError, OSError):
                over = True
            if over:
                self._bury(worker)
        if heard:
            self._feed()

    def _hear(self, worker: _Worker, message: tuple[Any, ...]) -> None:
        kind = message[0]
        if kind == "outcome":
            worker.tasks.popleft()
            worker.alone = False
            worker.deaths = 0
            outcome: PickOutcome = message[1]
            self._deaths.pop(outcome.record.key, None)
            self._outcomes.append(outcome)
        elif kind == "ready":
            worker.ready = True
            self._about = self._about or message[1:]
        elif kind == "estimate":
            worker.estimating = False
            self._estimate = message[1]
        elif kind == "log":
            logger = logging.getLogger(message[1].name)
            if logger.isEnabledFor(message[1].levelno):
                logger.handle(message[1])
        elif worker.deaths == 0:
            raise message[1]
        else:  # it worked there once: a device that has dropped off must not end the others' work
            worker.deaths, worker.refusal = _MOST_DEATHS, str(message[1])

    def _bury(self, worker: _Worker) -> None:
        """Take back what a dead process had at hand, and replace it."""
        worker.process.join(_END_SECONDS)
        self._why = worker.refusal or _cause(worker.process.exitcode)
        worker.pipe.close()
        worker.process, worker.ready, worker.estimating, worker.alone = None, False, False, False
        worker.deaths += 1
        lost, worker.tasks = worker.tasks, deque()
        for task in lost:
            deaths = self._deaths.get(task.input.key, 0) + 1
            if deaths < 2:
                self._deaths[task.input.key] = deaths
                self._suspects.append(task)
                continue
            del self._deaths[task.input.key]
            worker.deaths = 0
            reason = f"the process that picked it died, twice ({self._why})"
            self._outcomes.append(PickOutcome(refused(blank_record(task), reason)))
        taken = f"; {plural(len(lost), 'micrograph')} will be tried again" if lost else ""
        if worker.deaths > _MOST_DEATHS:
            log.warning(f"the process on {worker.device} died again ({self._why}) and is given up{taken}")
            self.workers = sum(w.process is not None for w in self._workers)
            return
        self.restarts += 1
        log.warning(f"the process on {worker.device} died ({self._why}) and is started again{taken}")
        self._start(worker)


def _cause(code: int | None) -> str:
    if code is None:
        return "it closed its pipe"
    if code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            return f"{name}; the system kills programs so when memory runs out" if name == "SIGKILL" else name
    return f"exit code {code}"


def _work(pipe: Any, make: MakePicker, device: str, threads: int) -> None:
    """What a process does: load the models, then pick what comes."""
    ignore_terminal()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    owner = _Owner(pipe)
    logging.getLogger().addHandler(owner)
    # The owner knows what is wanted of it.
    logging.getLogger(__name__.partition(".")[0]).setLevel(logging.DEBUG)
    with contextlib.suppress(EOFError, OSError):
        try:
            import cv2

            cv2.setNumThreads(threads)
            picker = make(device)
        except CryoSegNetError as error:
            owner.send("refused", error)
            return
        except Exception as error:
            text = f"the picker cannot be made on {device} ({type(error).__name__}: {error})"
            owner.send("refused", CryoSegNetError(f"{text}; please report it:\n{traceback.format_exc()}"))
            return
        owner.send("ready", dict(picker.settings), picker.needs_diameter)
        _serve(pipe, owner, picker)


class _Owner(logging.handlers.QueueHandler):
    """Takes what a process has to say and what it logs, from any of its threads, one after another."""

    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            self.send("log", record)

    def send(self, *message: object) -> None:
        self.acquire()
        try:
            self.queue.send(message)  # type: ignore[attr-defined]
        finally:
            self.release()


def _serve(pipe: Any, owner: _Owner, picker: MicrographPicker) -> None:
    here = engine_for(picker)
    never = Stop()
    at_hand = 0
    while True:
        while pipe.poll(0 if at_hand else None):
            message = pipe.recv()
            if isinstance(message, PickTask):
                here.submit(message)
                at_hand += 1
            else:
                owner.send("estimate", estimate(picker, *message[1:]))
        for outcome in here.wait(never, 0.0):
            at_hand -= 1
            owner.send("outcome", outcome)


def _end_with_parent() -> None:
    """End where the owner was killed: nobody would ever read the answer."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
