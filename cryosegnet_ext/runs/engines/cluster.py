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
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import CryoSegNetError, plural
from ...files.inputs import Input
from ..diameter import Estimate, estimate
from ..pick_task import MicrographPicker, PickOutcome, PickTask, blank_record, failed, pick_task, refused
from ..progress import duration
from ..stopping import Stop
from . import cluster_file
from .base import Engine, EngineError

log = logging.getLogger(__name__)

#: Makes the picker of a device on a worker. It is pickled, so it must be a function of a module, or a partial of one.
MakePicker = Callable[[str], MicrographPicker]

#: Fewest micrographs that the scheduler is given; its adaptive scaling depends on how many wait.
_LEAST_QUEUED = 32
_QUEUED_EACH = 3
_POLL_SECONDS = 0.2
_SAY_SECONDS = 30.0
#: How long to wait for a scheduler that is lost.
PATIENCE_SECONDS = 600.0
_CONNECT_SECONDS = 10.0


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
        A running scheduler, ``tcp://host:port``.
    patience
        Seconds to wait for a lost scheduler.

    Raises
    ------
    CryoSegNetError
        Dask is not installed, the file is wrong, or the scheduler cannot be reached.
    """

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
        # Lost connections are reported by us, in a sentence.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        self._distributed = distributed
        self._patience = patience
        self._run = uuid.uuid4().hex
        self._make, self._device = make, device
        self._tasks: dict[str, PickTask] = {}
        self._futures: dict[str, Any] = {}
        self._deaths: dict[str, int] = {}
        self._done: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._about: tuple[Mapping[str, object], bool] | None = None
        self._most: int | None = None
        self._cluster: Any = None
        self._client: Any = None
        self._seen: set[str] = set()
        self._looked = 0.0
        self.workers = 0
        if file is not None:
            self._cluster, self._most = cluster_file.start(file)
            address = self._cluster.scheduler_address
        self._address = str(address)
        try:
            self._connect()
        except OSError as error:
            self.close()
            raise CryoSegNetError(
                f"--scheduler {address} cannot be reached ({_first_line(error)}); check the address and the firewall"
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
            self._about = self._ask(Stop(), _describe)
        return self._about

    def estimate(self, inputs: Sequence[Input], pixel_size: float | None, stopping: Stop) -> Estimate:
        """Estimate the dataset's diameter on one of the workers."""
        found: Estimate = self._ask(stopping, _estimate, [_absolute(one) for one in inputs], pixel_size)
        return found

    @property
    def room(self) -> int:
        """Number of further tasks that keep all workers busy, those included that may still start."""
        most = max(self.workers, self._most or 0)
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
            self._look()
            with contextlib.suppress(queue.Empty):
                outcomes += self._take(stopping, *self._done.get(timeout=_POLL_SECONDS))
                while True:
                    outcomes += self._take(stopping, *self._done.get_nowait())
        return outcomes

    def close(self) -> None:
        """Drop what is not finished, and end the workers that this engine started."""
        futures, self._futures = self._futures, {}
        client, self._client = self._client, None
        cluster, self._cluster = self._cluster, None
        self._tasks.clear()
        if client is not None:
            with contextlib.suppress(Exception):
                client.cancel(list(futures.values()), asynchronous=False)
            with contextlib.suppress(Exception):
                client.close(timeout=5)
        if cluster is not None:
            with contextlib.suppress(Exception):
                cluster.close(timeout=20)

    def _connect(self) -> None:
        self._client = self._distributed.Client(self._address, timeout=_CONNECT_SECONDS, set_as_default=False)

    def _send(self, task: PickTask) -> None:
        key = task.input.key
        sent = replace(task, input=_absolute(task.input))
        expected = dict(self._describe()[0])
        name = f"pick-{self._run[:8]}-{uuid.uuid4().hex}"
        try:
            future = self._client.submit(
                _pick, self._run, self._make, self._device, expected, sent, key=name, pure=False
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
            outcome: PickOutcome = future.result(timeout=60)
        except self._distributed.scheduler.KilledWorker as error:
            return self._again(task, f"the workers that picked it died ({_first_line(error)})")
        except CryoSegNetError as error:
            raise EngineError(str(error).rstrip(".")) from error
        except (Exception, asyncio.CancelledError) as error:
            if self._is_lost(error):
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
        return [PickOutcome(refused(blank_record(task), f"{reason}, twice"))]

    def _drop(self, key: str) -> None:
        del self._tasks[key]
        self._futures.pop(key, None)
        self._deaths.pop(key, None)

    def _is_lost(self, error: BaseException) -> bool:
        """Whether an error says that the scheduler went away, not that a task failed."""
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

    def _ask(self, stopping: Stop, function: Callable[..., Any], *values: object) -> Any:
        """Run a function on any worker; its result."""
        said = time.monotonic()
        while True:
            future = self._client.submit(
                function, self._run, self._make, self._device, *values, pure=False, key=f"ask-{uuid.uuid4().hex}"
            )
            try:
                while not future.done():
                    stopping.pause(_POLL_SECONDS)
                    self._look()
                    if not self.workers and time.monotonic() - said > _SAY_SECONDS:
                        said = time.monotonic()
                        log.info(f"waiting for a worker at {self._address}")
                return future.result(timeout=60)
            except self._distributed.scheduler.KilledWorker as error:
                raise EngineError(f"workers die while they load the models ({_first_line(error)})") from error
            except CryoSegNetError:
                raise
            except (Exception, asyncio.CancelledError) as error:
                if not self._is_lost(error):
                    raise EngineError(
                        f"a worker cannot pick ({type(error).__name__}: {_first_line(error)}); install this version of "
                        "cryosegnet-ext on every node"
                    ) from error
                self._reconnect(stopping, _first_line(error))

    def _look(self) -> None:
        """Count the workers, at most once a second."""
        now = time.monotonic()
        if now - self._looked < 1.0:
            return
        self._looked = now
        with contextlib.suppress(Exception):
            there = set(self._client.scheduler_info(n_workers=-1)["workers"])
            self.restarts += len(self._seen - there)
            self._seen = there
            self.workers = len(there)


def _absolute(one: Input) -> Input:
    """The micrograph by its absolute path, since workers may have another working directory."""
    return replace(one, path=Path(os.path.abspath(one.path)))


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__


# What runs on the workers

_LOADING = threading.Lock()
_PICKING = threading.Lock()
_PICKERS: dict[str, MicrographPicker] = {}


def _picker(run: str, make: MakePicker, device: str) -> MicrographPicker:
    """The picker of a run in this process; it replaces that of an earlier run."""
    with _LOADING:
        if run not in _PICKERS:
            _PICKERS.clear()
            _PICKERS[run] = make(device)
        return _PICKERS[run]


def _describe(run: str, make: MakePicker, device: str) -> tuple[dict[str, object], bool]:
    picker = _picker(run, make, device)
    return dict(picker.settings), picker.needs_diameter


def _estimate(run: str, make: MakePicker, device: str, inputs: Sequence[Input], pixel_size: float | None) -> Estimate:
    picker = _picker(run, make, device)
    with _PICKING:
        return estimate(picker, inputs, pixel_size)


def _pick(run: str, make: MakePicker, device: str, expected: Mapping[str, object], task: PickTask) -> PickOutcome:
    """Pick one micrograph; of the threads of a worker only one picks at a time, the others read."""
    picker = _picker(run, make, device)
    differing = sorted(name for name, value in picker.settings.items() if expected.get(name) != value)
    if differing:
        raise CryoSegNetError(
            f"a worker has other settings than this run ({', '.join(differing)}); install the same version and weights "
            "on every node"
        )
    got = task.read()
    with _PICKING:
        return pick_task(picker, task, got)
