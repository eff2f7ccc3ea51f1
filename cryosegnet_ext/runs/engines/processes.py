"""Several devices of this machine: one process for each, all fed from one queue, and replaced when they die.

Each process talks to its owner through a pipe of its own, so that a killed process cannot hold a lock that another one
needs. The micrographs that a dead process was working on are tried again, one at a time; a micrograph that kills a
second process is recorded as failed.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any

from ...cores import usable_cores
from ...errors import UsageError, option, plural
from ...files.inputs import Input
from ..diameter import Estimate, Looked, unheard
from ..pick_task import PickOutcome, PickTask, died
from ..stopping import Stop
from .base import PAUSES, Engine, EngineError
from .process_worker import MakePicker, work

log = logging.getLogger(__name__)

#: Micrographs given to a process: one is picked, the others are read meanwhile.
_DEPTH = 3
#: A process that dies more often than this in a row, without picking anything, is not replaced.
_MOST_DEATHS = 3
_POLL_SECONDS = 0.2
_END_SECONDS = 2.0


@dataclass
class _Worker:
    """One process and the tasks that it was given."""

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
    """Picks in one process for each device. A device that is named twice gets two processes.

    Parameters
    ----------
    make
        Makes the picker; called in each process.
    devices
        Names as `Picker` takes them.
    threads
        CPU threads of each process; by default OMP_NUM_THREADS of the environment, or an equal share of the cores.
    """

    def __init__(self, make: MakePicker, devices: Sequence[str], threads: int | None = None) -> None:
        if not devices:
            raise UsageError(f"no device was named; give {option('device')}: auto, cpu, cuda:0 or a list like cuda:0,1")
        self._make = make
        given = threads or os.environ.get("OMP_NUM_THREADS", "")
        shared = max(1, usable_cores() // len(devices))
        self._threads = int(given) if str(given).isdigit() else shared
        self._context = multiprocessing.get_context("spawn")
        self._queue: deque[PickTask] = deque()
        self._suspects: deque[PickTask] = deque()
        self._deaths: dict[str, int] = {}
        self._outcomes: list[PickOutcome] = []
        self._about: tuple[Mapping[str, object], bool] | None = None
        self._estimate: Estimate | None = None
        self._looked: Looked = unheard
        self._why = ""
        self._pauses = list(PAUSES)
        self._died = 0
        self._workers = [_Worker(device) for device in devices]
        for worker in self._workers:
            self._start(worker)

    @property
    def settings(self) -> Mapping[str, object]:
        """The pickers'; waits until a process has loaded one."""
        return self._loaded()[0]

    @property
    def needs_diameter(self) -> bool:
        """The pickers'."""
        return self._loaded()[1]

    def _loaded(self) -> tuple[Mapping[str, object], bool]:
        while self._about is None:
            self._listen(Stop(), _POLL_SECONDS)
        return self._about

    def estimate(
        self, inputs: Sequence[Input], pixel_size: float | None, stopping: Stop, looked: Looked = unheard
    ) -> Estimate:
        """Estimate the dataset's diameter in one of the processes."""
        self._estimate, self._looked = None, looked
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
            self._listen(stopping, _POLL_SECONDS)
        return self._estimate

    @property
    def room(self) -> int:
        """Number of further tasks that keep all processes busy."""
        given = sum(len(worker.tasks) for worker in self._workers) + len(self._queue) + len(self._suspects)
        return max(0, _DEPTH * len(self._workers) - given)

    def submit(self, task: PickTask) -> None:
        """Take a task."""
        self._queue.append(task)
        self._feed()

    def wait(self, stopping: Stop, seconds: float) -> list[PickOutcome]:
        """Outcomes that the processes have finished."""
        end = time.monotonic() + seconds
        while True:
            stopping.check()
            self._listen(stopping, min(_POLL_SECONDS, max(0.0, end - time.monotonic())))
            if self._outcomes or time.monotonic() >= end:
                outcomes, self._outcomes = self._outcomes, []
                return outcomes

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            if worker.process is not None:
                worker.pipe.close()
                # A process has nothing to save: its micrographs in progress are dropped.
                worker.process.kill()
        for worker in self._workers:
            if worker.process is not None:
                worker.process.join(_END_SECONDS)
                worker.process = worker.pipe = None
                worker.ready = False

    def _start(self, worker: _Worker) -> None:
        worker.pipe, theirs = self._context.Pipe()
        worker.process = self._context.Process(
            target=work,
            args=(theirs, self._make, worker.device, self._threads),
            name=f"cryosegnet on {worker.device}",
            daemon=True,
        )
        worker.process.start()
        theirs.close()
        self.workers = sum(w.process is not None for w in self._workers)

    def _feed(self) -> None:
        """Give the processes what they can take, always the one that has the fewest tasks first."""
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

    def _start_all(self, stopping: Stop) -> None:
        """Start all processes again after a pause; what killed them may be over, such as another program's memory."""
        died = f"every worker process has died ({self._why})"
        if not self._pauses:
            raise EngineError(
                f"{died}, {self._died} times in a row without picking anything; look at the memory that is free on the "
                "machine, on the GPU and within the job's limit"
            )
        pause = self._pauses.pop(0)
        log.warning(f"{died}; all are started again in {pause:g} s")
        stopping.pause(pause)
        for worker in self._workers:
            # Not 0: a device that was there before and is lost must not end the run at once.
            worker.deaths, worker.refusal = 1, ""
            self.restarts += 1
            self._start(worker)

    def _send(self, worker: _Worker, message: object) -> bool:
        """Send a message; False if the process has died, as its sentinel will tell soon."""
        try:
            worker.pipe.send(message)
        except OSError:
            return False
        return True

    def _listen(self, stopping: Stop, seconds: float) -> None:
        """Wait for messages and for processes that die, and act on them."""
        if all(w.process is None for w in self._workers):
            self._start_all(stopping)
        alive = {w.pipe: w for w in self._workers if w.process is not None}
        alive |= {w.process.sentinel: w for w in alive.values()}
        heard = {id(worker): worker for worker in (alive[what] for what in connection.wait(list(alive), seconds))}
        for worker in heard.values():
            over = not worker.process.is_alive()
            try:
                while worker.pipe.poll():
                    self._act_on(worker, worker.pipe.recv())
            except (EOFError, OSError):
                over = True
            if over:
                self._replace(worker)
        if heard:
            self._feed()

    def _act_on(self, worker: _Worker, message: tuple[Any, ...]) -> None:
        kind = message[0]
        if kind == "outcome":
            worker.tasks.popleft()
            worker.alone = False
            worker.deaths = 0
            self._pauses, self._died = list(PAUSES), 0
            outcome: PickOutcome = message[1]
            self._deaths.pop(outcome.record.key, None)
            self._outcomes.append(outcome)
        elif kind == "ready":
            worker.ready = True
            self._about = self._about or message[1:]
        elif kind == "looked":
            self._looked(*message[1:])
        elif kind == "estimate":
            worker.estimating = False
            self._estimate = message[1]
        elif kind == "log":
            logger = logging.getLogger(message[1].name)
            if logger.isEnabledFor(message[1].levelno):
                logger.handle(message[1])
        elif worker.deaths == 0:
            raise message[1]
        else:  # the device worked before: one that is lost must not end the work of the others
            worker.deaths, worker.refusal = _MOST_DEATHS, str(message[1])

    def _replace(self, worker: _Worker) -> None:
        """Take back the tasks of a dead process, and start a new process."""
        worker.process.join(_END_SECONDS)
        self._why = worker.refusal or _cause(worker.process.exitcode)
        worker.pipe.close()
        worker.process, worker.ready, worker.estimating, worker.alone = None, False, False, False
        worker.deaths += 1
        self._died += 1
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
            self._outcomes.append(died(task, reason))
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
            return f"{name}; the system kills programs this way when memory runs out" if name == "SIGKILL" else name
    return f"exit code {code}"
