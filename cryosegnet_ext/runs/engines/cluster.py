"""Workers of a cluster, through Dask: jobs of SLURM, PBS, SGE or LSF, or any running Dask scheduler.

Workers read and pick. The picks come back to this process, which owns the output folder and writes all files, so that
the files are the same as from one machine. If a worker or the scheduler is lost, only its micrographs in progress are
picked again.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import queue
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import CryoSegNetError, plural
from ...files.inputs import Input
from ..diameter import Estimate, Looked, unheard
from ..pick_task import PickOutcome, PickTask, blank_record, died, failed
from ..progress import duration
from ..stopping import Stop
from .base import PAUSES, Engine, EngineError
from .cluster_jobs import ClusterJobs
from .cluster_worker import MakePicker, describe, estimate_diameter, pick, topic_of

log = logging.getLogger(__name__)

#: Fewest micrographs that the scheduler is given; its adaptive scaling depends on how many wait.
_LEAST_QUEUED = 32
_QUEUED_EACH = 3
_POLL_SECONDS = 0.2
#: After how long without workers this is said; then after twice as long, and so on, until an hour.
_SAY_SECONDS = 30.0
#: How long to wait for a scheduler that is lost.
PATIENCE_SECONDS = 600.0
_CONNECT_SECONDS = 10.0
#: How long to wait for workers of a scheduler that others run.
_WAIT_SECONDS = 3600.0


class _WorkersDiedError(EngineError):
    """Workers died at each try."""


class ClusterEngine(Engine):
    """Picks on the workers of a Dask cluster.

    Parameters
    ----------
    make
        Makes the picker; called once in each worker process.
    device
        Name of the device that each worker uses, as `Picker` takes it.
    file
        Describes the workers to start as jobs; see `cryosegnet_ext.runs.engines.cluster_file`.
    address
        A running scheduler, ``tls://host:port``; Dask's configuration names the certificate.
    patience
        Seconds to wait for a lost scheduler.

    Raises
    ------
    CryoSegNetError
        Dask is not installed, the file is wrong, or the scheduler cannot be reached.
    """

    remote = True

    def __init__(
        self,
        make: MakePicker,
        device: str = "auto",
        *,
        file: Path | None = None,
        address: str | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        try:
            import distributed
        except ImportError as error:
            raise CryoSegNetError(
                f"Dask is not installed ({error}); pip install 'cryosegnet-ext[cluster]' brings it"
            ) from error
        # Lost connections and jobs are reported by us, in a sentence.
        for name in ("distributed", "distributed.client", "tornado.application"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._distributed = distributed
        self._patience = patience
        self._run = uuid.uuid4().hex
        self._make, self._device = make, device
        self._tasks: dict[str, PickTask] = {}
        self._futures: dict[str, Any] = {}
        self._deaths: dict[str, int] = {}
        self._done: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._about: tuple[Mapping[str, object], bool] | None = None
        self._jobs: ClusterJobs | None = None
        self._client: Any = None
        self._seen: set[str] = set()
        self._looked = 0.0
        self._alone_since: float | None = None
        self._say_after = _SAY_SECONDS
        self.workers = 0
        if file is not None:
            self._jobs = ClusterJobs(file)
            address = self._jobs.address
        self._address = str(address)
        if not self._address.startswith("tls://"):
            log.warning(
                f"the scheduler {address} does not use TLS: everybody who can reach it can run programs as its owner, "
                "and read and change what is picked; docs/cluster.md says how to close it"
            )
        try:
            self._connect()
        except (OSError, TypeError, ValueError) as error:
            self.close()
            raise CryoSegNetError(
                f"--scheduler {address} cannot be reached ({_first_line(error)}); check the address, the firewall, and "
                "for tls:// the certificate in Dask's configuration"
            ) from error

    @property
    def settings(self) -> Mapping[str, object]:
        """The pickers'; waits until a worker has loaded one."""
        return self._describe()[0]

    @property
    def needs_diameter(self) -> bool:
        """The pickers'."""
        return self._describe()[1]

    def _describe(self) -> tuple[Mapping[str, object], bool]:
        if self._about is None:
            self._about = self._ask(Stop(), "load the models", describe)
        return self._about

    def estimate(
        self, inputs: Sequence[Input], pixel_size: float | None, stopping: Stop, looked: Looked = unheard
    ) -> Estimate:
        """Estimate the dataset's diameter on one of the workers."""
        topic = topic_of(self._run)
        # How far it is, is worth telling and no more: a scheduler that is away then is dealt with below.
        with contextlib.suppress(Exception):
            self._client.subscribe_topic(topic, lambda event: looked(*event[1]))
        try:
            sample = [_absolute(one) for one in inputs]
            found: Estimate = self._ask(stopping, "estimate the size", estimate_diameter, sample, pixel_size)
        except _WorkersDiedError as error:
            return Estimate(problem=str(error))  # one of these micrographs kills them; the others can be picked
        finally:
            with contextlib.suppress(Exception):
                self._client.unsubscribe_topic(topic)
        return found

    @property
    def room(self) -> int:
        """Number of further tasks that keep all workers busy, those included that may still start."""
        most = max(self.workers, self._jobs.most if self._jobs is not None else 0)
        return max(0, max(_LEAST_QUEUED, _QUEUED_EACH * most) - len(self._tasks))

    def submit(self, task: PickTask) -> None:
        """Take a task."""
        self._tasks[task.input.key] = task
        self._send(task)

    def wait(self, stopping: Stop, seconds: float) -> list[PickOutcome]:
        """Outcomes that the workers have finished."""
        end = time.monotonic() + seconds
        outcomes: list[PickOutcome] = []
        while not outcomes and time.monotonic() < end:
            stopping.check()
            self._look(bool(self._tasks))
            with contextlib.suppress(queue.Empty):
                outcomes += self._take(stopping, *self._done.get(timeout=_POLL_SECONDS))
                while True:
                    outcomes += self._take(stopping, *self._done.get_nowait())
        return outcomes

    def close(self) -> None:
        """Drop what is not finished, and end the workers that this engine started."""
        futures, self._futures = self._futures, {}
        client, self._client = self._client, None
        jobs, self._jobs = self._jobs, None
        self._tasks.clear()
        if client is not None:
            with contextlib.suppress(Exception):
                client.cancel(list(futures.values()), asynchronous=False)
            with contextlib.suppress(Exception):
                client.close(timeout=5)
        if jobs is not None:
            jobs.close()

    def _connect(self) -> None:
        self._client = self._distributed.Client(
            self._address,
            security=None if self._jobs is None else self._jobs.security,
            timeout=_CONNECT_SECONDS,
            set_as_default=False,
        )

    def _send(self, task: PickTask) -> None:
        key = task.input.key
        sent = replace(task, input=_absolute(task.input))
        expected = dict(self._describe()[0])
        name = f"pick-{self._run[:8]}-{uuid.uuid4().hex}"
        try:
            future = self._client.submit(
                pick, self._run, self._make, self._device, expected, sent, key=name, pure=False
            )
        except Exception:
            # The scheduler is away; `wait` sees the same and sends everything again.
            self._done.put((key, None))
            return
        self._futures[key] = future
        future.add_done_callback(lambda one, key=key: self._done.put((key, one)))

    def _take(self, stopping: Stop, key: str, future: Any) -> list[PickOutcome]:
        """The outcome of a task; none if it has to be done again."""
        task = self._tasks.get(key)
        if task is None or (future is not None and self._futures.get(key) is not future):
            return []
        try:
            if future is None:
                raise ConnectionError("the scheduler is away")
            outcome: PickOutcome = self._result(future, stopping)
        except self._distributed.scheduler.KilledWorker as error:
            return self._again(task, f"the workers that picked it died ({_first_line(error)})")
        except CryoSegNetError as error:
            raise EngineError(str(error).rstrip(".")) from error
        except (Exception, asyncio.CancelledError) as error:
            if self._is_lost(error, future):
                self._reconnect(stopping, _first_line(error))
                return []
            assert isinstance(error, Exception)
            outcome = failed(blank_record(task), error)
        self._drop(key)
        record = replace(outcome.record, key=task.input.key, name=task.input.name)
        return [replace(outcome, record=record)]

    def _again(self, task: PickTask, reason: str) -> list[PickOutcome]:
        """Try a micrograph again after its workers died; preempted jobs are not its fault. A second time it fails."""
        key = task.input.key
        self._deaths[key] = self._deaths.get(key, 0) + 1
        if self._deaths[key] < 2:
            self._send(task)
            return []
        self._drop(key)
        return [died(task, f"{reason}, twice")]

    def _drop(self, key: str) -> None:
        del self._tasks[key]
        self._futures.pop(key, None)
        self._deaths.pop(key, None)

    def _result(self, future: Any, stopping: Stop) -> Any:
        """The result of a future; it is made again if the worker that has it ends."""
        while True:
            while not future.done():
                stopping.pause(_POLL_SECONDS)
                self._look(True)
            try:
                return future.result(timeout=_CONNECT_SECONDS)
            except (TimeoutError, asyncio.TimeoutError):
                if future.done():
                    raise

    def _is_lost(self, error: BaseException, future: Any) -> bool:
        """Whether an error says that the scheduler went away, not that a task failed."""
        if future is not None and future.status == "error":
            return False
        lost = (OSError, TimeoutError, asyncio.CancelledError, concurrent.futures.CancelledError)
        return isinstance(error, lost) or getattr(self._client, "status", "") != "running"

    def _reconnect(self, stopping: Stop, why: str) -> None:
        """Wait for the scheduler, and give it all tasks again."""
        self.restarts += 1
        count = plural(len(self._tasks), "micrograph")
        log.warning(f"the scheduler {self._address} was lost ({why}); {count} will be given to it again")
        end = time.monotonic() + self._patience
        while True:
            with contextlib.suppress(Exception):
                self._client.close(timeout=1)
            try:
                self._connect()
                break
            except OSError as error:
                if time.monotonic() >= end:
                    raise EngineError(
                        f"the scheduler {self._address} was lost and did not come back in {duration(self._patience)}"
                    ) from error
                stopping.pause(1.0)
        self._futures.clear()
        with contextlib.suppress(queue.Empty):
            while True:
                self._done.get_nowait()
        for task in list(self._tasks.values()):
            self._send(task)

    def _ask(self, stopping: Stop, what: str, function: Callable[..., Any], *values: object) -> Any:
        """Run a function on any worker, which says ``what`` they do; its result."""
        pauses = list(PAUSES)
        while True:
            future = self._client.submit(
                function, self._run, self._make, self._device, *values, pure=False, key=f"ask-{uuid.uuid4().hex}"
            )
            try:
                return self._result(future, stopping)
            except self._distributed.scheduler.KilledWorker as error:
                died = f"workers die while they {what} ({_first_line(error)})"
                if not pauses:
                    tries = f"{len(PAUSES) + 1} tries"
                    raise _WorkersDiedError(f"{died}, in {tries}; look at their memory and at their output") from error
                log.warning(f"{died}; trying again in {pauses[0]:g} s")
                stopping.pause(pauses.pop(0))
            except CryoSegNetError:
                raise
            except (Exception, asyncio.CancelledError) as error:
                if not self._is_lost(error, future):
                    raise EngineError(
                        f"a worker cannot pick ({type(error).__name__}: {_first_line(error)}); install this version of "
                        "cryosegnet-ext on every node"
                    ) from error
                self._reconnect(stopping, _first_line(error))

    def _look(self, working: bool) -> None:
        """Count the workers and replace lost ones, at most once a second; ``working`` says that some are needed."""
        now = time.monotonic()
        if now - self._looked < 1.0:
            return
        self._looked = now
        with contextlib.suppress(Exception):
            # Not `scheduler_info`: what it returns may have been replaced meanwhile by a summary without workers.
            there = set(self._client.sync(self._client.scheduler.identity)["workers"])
            self.restarts += len(self._seen - there)
            self._seen = there
            self.workers = len(there)
        if self._jobs is not None:
            self._jobs.replace_lost()
        if self.workers or not working:
            self._alone_since, self._say_after = None, _SAY_SECONDS
        elif self._alone_since is None:
            self._alone_since = now
        else:
            self._say_alone(now - self._alone_since)

    def _say_alone(self, seconds: float) -> None:
        """Say that there are no workers, less and less often; after the limit it is an error."""
        jobs = self._jobs
        remedy = "start workers there" if jobs is None else "look at the queue and at the output of the jobs"
        text = f"no worker at {self._address} for {duration(seconds)}"
        limit = _WAIT_SECONDS if jobs is None else jobs.wait
        if seconds >= limit:
            raise EngineError(f"{text}; {remedy}")
        if seconds >= self._say_after:
            self._say_after = seconds + min(seconds, 3600.0)
            log.warning(f"{text}; waiting {duration(limit - seconds)} more: {remedy}")


def _absolute(one: Input) -> Input:
    """The micrograph by its absolute path, since workers may have another working directory."""
    return replace(one, path=Path(os.path.abspath(one.path)))


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__
