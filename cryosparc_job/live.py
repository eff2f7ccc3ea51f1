"""Pick while the microscope runs: new exposures of a Live session or of a growing output, one job for each batch."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from cryosegnet_ext.errors import CryoSegNetError, UsageError, plural
from cryosegnet_ext.runs.batch import MicrographPicker
from cryosegnet_ext.runs.engines.base import Engine
from cryosegnet_ext.runs.stopping import Stop, Stopped

from .connection import Connection, OutputName
from .errors import EngineLost, Expired, ServerError
from .jobs import delete, find_marked
from .locations import live_table
from .pick import PickingJob, PickingResult, pick

log = logging.getLogger(__name__)

_ENDED_SESSION = ("completed", "compacting", "compacted")
_ENDED_JOB = ("completed", "failed", "killed")
_TRIES_EACH = 2


@dataclass(frozen=True)
class LivePlan:
    """What to follow, and how large the batches are.

    Attributes
    ----------
    job
        How to pick, and where the jobs go. Its exposures are the growing output; None for a session.
    session
        A Live session, such as S1.
    batch, largest
        Fewest and most new exposures of a job.
    wait_minutes
        After so long a job is made for fewer exposures, and a session that is paused counts as ended.
    idle_hours
        End after so long without new exposures.
    outage_hours
        End with an error when the server is away for so long.
    poll_seconds
        Time between two looks at the server.
    """

    job: PickingJob
    session: str | None = None
    batch: int = 50
    largest: int = 1000
    wait_minutes: float = 15.0
    idle_hours: float = 3.0
    outage_hours: float = 12.0
    poll_seconds: float = 30.0

    @property
    def mark(self) -> str:
        """Text in the descriptions of the jobs, by which a later run finds them."""
        return f"live {self.session or self.job.exposures}"


class _Origin(Protocol):
    """Where new exposures come from."""

    def look(self) -> tuple[list[int], str]:
        """Uids of the exposures that are ready, and whether more will come: "open", "paused" or "over"."""

    def job(self, uids: list[int]) -> PickingJob:
        """A job that picks some of them."""


class _GrowingOutput:
    """A job's output that grows."""

    def __init__(self, connection: Connection, plan: LivePlan) -> None:
        assert plan.job.exposures is not None
        self._connection = connection
        self._plan = plan
        self._source: OutputName = plan.job.exposures

    def look(self) -> tuple[list[int], str]:
        call, client, project = self._connection.call, self._connection.client, self._plan.job.project
        # The state first, so that no exposure is missed that comes between the two calls.
        status = call("asking for the job's state", client.status, project, self._source.job, patience=0.0)
        state = "over" if status in _ENDED_JOB else "open"
        try:
            names = (project, self._source.job, self._source.output)
            table = call(f"reading {self._source}", client.load_output, *names, patience=0.0)
        except ServerError as error:
            if error.code != 400:
                raise
            return [], state  # nothing has been written yet
        return [int(uid) for uid in table["uid"]], state

    def job(self, uids: list[int]) -> PickingJob:
        return replace(self._plan.job, only=frozenset(uids), note=self._plan.mark)


class _LiveSession:
    """A Live session."""

    def __init__(self, connection: Connection, plan: LivePlan) -> None:
        self._connection = connection
        self._plan = plan
        assert plan.session is not None
        self._session = plan.session
        self._ready: dict[int, dict[str, Any]] = {}

    def look(self) -> tuple[list[int], str]:
        call, client = self._connection.call, self._connection.client
        where = self._plan.job.project, self._session
        status = call("asking for the session", client.session_status, *where, patience=0.0)
        self._ready = call("listing the exposures", client.ready_exposures, *where, patience=0.0)
        state = "over" if status in _ENDED_SESSION else "paused" if status == "paused" else "open"
        return list(self._ready), state

    def job(self, uids: list[int]) -> PickingJob:
        table = live_table({uid: self._ready[uid] for uid in uids})
        return replace(self._plan.job, exposures=None, table=table, note=self._plan.mark)


def follow(
    connection: Connection,
    plan: LivePlan,
    picker: MicrographPicker | Engine,
) -> list[PickingResult]:
    """Pick new exposures until no more will come.

    Each batch is an external job of its own, completed when its outputs were read back. The jobs themselves tell which
    exposures are done, so that a new run on any machine continues with the others. A job that an earlier run left
    unfinished is marked as failed, and its exposures are picked again. All batches use the diameter that the first one
    estimates. When the server is away, this waits for it.

    Returns
    -------
    list of PickingResult
        The batches of this run.

    Raises
    ------
    CryoSegNetError
        The login has expired, the server is away for too long or refuses a call, or nothing can be picked on this
        machine any more.
    JobLost
        A batch was killed in CryoSPARC.
    Stopped
        A signal stopped the process.
    """
    follower = _Follower(connection, plan, picker)
    with Stop() as stop:
        while True:
            stop.check()
            try:
                follower.look()
                if uids := follower.due():
                    # While the batch's job runs, `ExternalJobRun` takes the signals.
                    with stop.interrupts():
                        follower.pick_batch(uids)
                    continue
            except ServerError as error:
                follower.check_outage(error)
            else:
                if reason := follower.end():
                    log.info(reason)
                    return follower.results
            stop.pause(plan.poll_seconds)


class _Follower:
    """Knows which exposures were seen and picked, and from that what to do next."""

    def __init__(self, connection: Connection, plan: LivePlan, picker: MicrographPicker | Engine) -> None:
        self._connection = connection
        self._plan = plan
        self._picker = picker
        self._origin: _Origin = (
            _GrowingOutput(connection, plan) if plan.session is None else _LiveSession(connection, plan)
        )
        self._picked = _finished(connection, plan)
        if self._picked:
            log.info("%s picked by earlier jobs", plural(len(self._picked), "exposure"))
        self._tries: Counter[int] = Counter()
        self._new: list[int] = []
        self._new_since: float | None = None
        self._over = False
        self._seen = 0
        self._last_news = self._last_answer = time.monotonic()
        self.results: list[PickingResult] = []

    def look(self) -> None:
        """See which exposures are ready and not picked yet, and whether more will come."""
        ready, state = self._origin.look()
        now = self._last_answer = time.monotonic()
        if len(ready) > self._seen:
            self._seen, self._last_news = len(ready), now
        self._new = [uid for uid in ready if uid not in self._picked and self._tries[uid] < _TRIES_EACH]
        self._new_since = (self._new_since or now) if self._new else None
        paused = state == "paused" and now - self._last_news > 60 * self._plan.wait_minutes
        self._over = state == "over" or paused

    def due(self) -> list[int]:
        """The exposures of the next job; none while it is better to wait for more."""
        since, now = self._new_since, time.monotonic()
        waited = since is not None and now - since > 60 * self._plan.wait_minutes
        enough = len(self._new) >= self._plan.batch or waited or self._over
        return self._new[: self._plan.largest] if enough else []

    def pick_batch(self, uids: list[int]) -> None:
        """Pick these exposures in a job of their own, and note which of them it picked."""
        result = self._run_job(self._origin.job(uids))
        self._tries.update(uids)
        self._new_since = None
        self._last_news = self._last_answer = time.monotonic()
        if result is None:
            return
        self._picked.update(set(uids) - set(result.missed))
        self.results.append(result)
        if result.late_signal is not None:
            raise Stopped(result.late_signal)

    def _run_job(self, job: PickingJob) -> PickingResult | None:
        """Pick one batch; None if it failed and the next one need not."""
        estimated = next((one.estimated for one in self.results if one.estimated is not None), None)
        try:
            result = pick(self._connection, replace(job, estimated=estimated), self._picker)
        except (ServerError, EngineLost, UsageError):
            raise
        except CryoSegNetError as error:
            log.warning("%s", error)
            return None
        found = f"{plural(result.picks, 'particle')} on {plural(result.exposures, 'exposure')}"
        log.info("%s completed: %s", result.job, found)
        for path, reason in result.failures:
            log.warning("left out %s: %s", path, reason)
        return result

    def check_outage(self, error: ServerError) -> None:
        """Allow a server to be away for a while; the exposures keep their tries.

        Raises
        ------
        ServerError
            The server has been away for too long, or waiting does not help.
        """
        away = time.monotonic() - self._last_answer
        if isinstance(error, Expired) or not error.passing or away > 3600 * self._plan.outage_hours:
            raise error
        log.info("waiting for CryoSPARC: %s", error)

    def end(self) -> str | None:
        """The reason to end; None while more exposures may come."""
        if self._new:
            return None
        if self._over:
            return "no more exposures will come"
        if time.monotonic() - self._last_news > 3600 * self._plan.idle_hours:
            return f"no new exposures for {self._plan.idle_hours:g} hours"
        return None


def _finished(connection: Connection, plan: LivePlan) -> set[int]:
    """Uids of the exposures that earlier jobs have picked; marks unfinished jobs as failed, deletes unstarted ones."""
    done: set[int] = set()
    for job in find_marked(connection, plan.job.project, plan.job.workspace, f"{plan.mark})", "snowflake"):
        if job.status == "completed":
            load = connection.client.load_output
            with contextlib.suppress(ServerError):
                names = (plan.job.project, job.uid, "exposures")
                table = connection.call(f"reading {job.uid}:exposures", load, *names, own=True)
                done.update(int(uid) for uid in np.asarray(table["uid"]))
        elif job.status in ("running", "waiting"):
            reason = "The picking was stopped; its exposures are picked in a new job."
            fail = connection.client.mark_failed
            with contextlib.suppress(ServerError):
                connection.call(f"marking {job.uid} as failed", fail, plan.job.project, job.uid, reason)
        elif job.status == "building" and not connection.client.children(job):
            # The start failed or was stopped: there is nothing in it, and nothing comes after it.
            delete(connection, plan.job.project, job.uid)
    return done
