"""Picking while the microscope runs: new exposures of a Live session or of a growing output, a job for each batch."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.runs.batch import MicrographPicker
from cryosegnet_ext.runs.engines.base import Engine

from .connection import Connection, OutputName
from .errors import EngineLost, Expired, Interrupted, ServerError
from .jobs import find_marked
from .locations import live_table
from .pick import PickingJob, PickingResult, pick

_PAGE = 500
_ENDED_SESSION = ("completed", "compacting", "compacted")
_ENDED_JOB = ("completed", "failed", "killed")
#: Stages of a Live exposure at which its micrograph is final.
_READY = ("ready",)
_TRIES_EACH = 2
_SLICE_SECONDS = 0.5


@dataclass(frozen=True)
class LivePlan:
    """What to follow, and in what portions.

    Attributes
    ----------
    task
        How to pick and where the jobs go; its exposures are the growing output, None for a session.
    session
        A Live session, as S1.
    batch, largest
        A job is made for so many new exposures, and for at most so many.
    wait_minutes
        A job is made for fewer when they have waited so long; a session that is paused for so long is over.
    idle_hours
        End when nothing has come for so long.
    outage_hours
        How long the server may be away.
    poll_seconds
        How often to look.
    """

    task: PickingJob
    session: str | None = None
    batch: int = 50
    largest: int = 1000
    wait_minutes: float = 15.0
    idle_hours: float = 3.0
    outage_hours: float = 12.0
    poll_seconds: float = 30.0

    @property
    def mark(self) -> str:
        """What the descriptions of the jobs carry, by which a later run knows what is done."""
        return f"live {self.session or self.task.exposures}"


class _Origin(Protocol):
    """Where new exposures come from."""

    def look(self) -> tuple[list[int], str]:
        """Identifiers of the exposures that are ready, and whether more will come: "open", "paused" or "over"."""

    def task(self, uids: list[int]) -> PickingJob:
        """The task of picking some of them."""


class _Output:
    """A job's output that grows."""

    def __init__(self, connection: Connection, follow: LivePlan) -> None:
        assert follow.task.exposures is not None
        self._connection = connection
        self._follow = follow
        self._source: OutputName = follow.task.exposures

    def look(self) -> tuple[list[int], str]:
        call, jobs, project = self._connection.call, self._connection.api.jobs, self._follow.task.project
        # The state first: what comes between the two questions is then not missed.
        status = call("asking for the job's state", jobs.get_status, project, self._source.job, patience=0.0)
        state = "over" if status in _ENDED_JOB else "open"
        try:
            load = jobs.load_output
            names = (project, self._source.job, self._source.output)
            table = call(f"reading {self._source}", load, *names, slots="all", patience=0.0)
        except ServerError as error:
            if error.code != 400:
                raise
            return [], state  # nothing has been written yet
        return [int(uid) for uid in table["uid"]], state

    def task(self, uids: list[int]) -> PickingJob:
        return replace(self._follow.task, only=frozenset(uids), note=self._follow.mark)


class _Session:
    """A Live session."""

    def __init__(self, connection: Connection, follow: LivePlan) -> None:
        self._connection = connection
        self._follow = follow
        self._ready: dict[int, Any] = {}

    def look(self) -> tuple[list[int], str]:
        call, api, project = self._connection.call, self._connection.api, self._follow.task.project
        session = call("asking for the session", api.sessions.find_one, project, self._follow.session, patience=0.0)
        found: dict[int, Any] = {}
        after: str | None = None
        while page := call("listing the exposures", self._page, after, patience=0.0):
            for one in page:
                rejected = one.failed or one.manual_reject or one.threshold_reject or one.deleted
                if one.groups.exposure.micrograph_blob is not None and not rejected:
                    found[int(one.groups.exposure.uid)] = one
            after = page[-1].id
        self._ready = found
        state = "over" if session.status in _ENDED_SESSION else "paused" if session.status == "paused" else "open"
        return list(found), state

    def _page(self, after: str | None) -> list[Any]:
        find = self._connection.api.exposures.find
        wanted = {"project_uid": [self._follow.task.project], "session_uid": [self._follow.session]}
        return list(find(after=after, limit=_PAGE, stage=list(_READY), **wanted))

    def task(self, uids: list[int]) -> PickingJob:
        table = live_table([self._ready[uid] for uid in uids])
        return replace(self._follow.task, exposures=None, table=table, note=self._follow.mark)


def follow(
    connection: Connection,
    plan: LivePlan,
    picker: MicrographPicker | Engine,
    say: Callable[[str], None] = print,
) -> list[PickingResult]:
    """Pick what comes until nothing more does.

    Each batch is an external job of its own, completed when its outputs were read back. What is done is read from the
    jobs themselves, so that a new run, on any machine, goes on with what is left; jobs of a batch that was cut off are
    marked as failed, and their exposures picked again. All batches share the diameter that the first one estimates. A
    server that is away is waited for.

    Returns
    -------
    list of PickingResult
        The batches of this run.

    Raises
    ------
    CryoSegNetError
        The login has expired, the server is away for too long, it refuses what is asked, or an engine's workers are
        gone.
    JobLost
        A batch was killed in CryoSPARC, which ends the following.
    Interrupted
        A signal came.
    """
    origin: _Origin = _Output(connection, plan) if plan.session is None else _Session(connection, plan)
    done = _finished(connection, plan)
    tries: dict[int, int] = {}
    outcomes: list[PickingResult] = []
    seen = 0
    fresh_since: float | None = None
    last_news = last_answer = time.monotonic()
    if done:
        say(f"{len(done)} exposures were picked by earlier jobs")
    received: list[int] = []

    def check() -> None:
        if received:
            _stop(received[0])

    with _heard(lambda number, _: received.append(number)):
        while True:
            check()
            try:
                ready, state = origin.look()
                last_answer = now = time.monotonic()
                fresh = [uid for uid in ready if uid not in done and tries.get(uid, 0) < _TRIES_EACH]
                if len(ready) > seen:
                    seen, last_news = len(ready), now
                fresh_since = (fresh_since or now) if fresh else None
                over = state == "over" or (state == "paused" and now - last_news > 60 * plan.wait_minutes)
                waited = fresh_since is not None and now - fresh_since > 60 * plan.wait_minutes
                if len(fresh) >= plan.batch or (fresh and (over or waited)):
                    uids = fresh[: plan.largest]
                    with _heard(_stop):
                        outcome = _batch(connection, origin.task(uids), picker, say, outcomes)
                    for uid in uids:
                        tries[uid] = tries.get(uid, 0) + 1
                    if outcome is not None:
                        done.update(set(uids) - set(outcome.missed))
                        outcomes.append(outcome)
                        if outcome.late_signal is not None:
                            raise Interrupted(signal.Signals(outcome.late_signal).name)
                    fresh_since = None
                    last_news = last_answer = time.monotonic()
                    continue
            except ServerError as error:
                # A server that is away is no fault of the exposures: they keep their tries.
                away = time.monotonic() - last_answer
                if isinstance(error, Expired) or not error.passing or away > 3600 * plan.outage_hours:
                    raise
                say(f"waiting for CryoSPARC: {error}")
                _sleep(plan.poll_seconds, check)
                continue
            if over and not fresh:
                say("the exposures have come to their end")
                return outcomes
            if not fresh and now - last_news > 3600 * plan.idle_hours:
                say(f"nothing new for {plan.idle_hours:g} hours")
                return outcomes
            _sleep(plan.poll_seconds, check)


def _batch(
    connection: Connection,
    task: PickingJob,
    picker: MicrographPicker | Engine,
    say: Callable[[str], None],
    before: list[PickingResult],
) -> PickingResult | None:
    """Pick one batch; None where it could not be picked and the next one may."""
    estimated = next((one.estimated for one in before if one.estimated is not None), None)
    try:
        outcome = pick(connection, replace(task, estimated=estimated), picker)
    except (ServerError, EngineLost):
        raise
    except CryoSegNetError as error:
        say(str(error))
        return None
    say(f"{outcome.job} completed: {outcome.picks} particles on {outcome.exposures} exposures")
    for path, reason in outcome.failures:
        say(f"left out {path}: {reason}")
    return outcome


def _finished(connection: Connection, plan: LivePlan) -> set[int]:
    """Exposures that earlier jobs have picked; what they left unfinished is marked as failed."""
    task = plan.task
    done: set[int] = set()
    for job in find_marked(connection, task.project, task.workspace, f"{plan.mark})", "snowflake"):
        if job.status == "completed":
            load = connection.api.jobs.load_output
            with contextlib.suppress(ServerError):
                names = (task.project, job.uid, "exposures")
                table = connection.call(f"reading {job.uid}:exposures", load, *names, slots="default")
                done.update(int(uid) for uid in np.asarray(table["uid"]))
        elif job.status in ("running", "waiting"):
            reason = "The picking was cut off; its exposures are picked in a new job."
            fail = connection.api.jobs.mark_failed
            with contextlib.suppress(ServerError):
                connection.call(f"marking {job.uid} as failed", fail, task.project, job.uid, error=reason)
    return done


def _sleep(seconds: float, check: Callable[[], None]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check()
        time.sleep(min(left, _SLICE_SECONDS))


def _stop(number: int, _frame: object = None) -> None:
    raise Interrupted(signal.Signals(number).name)


@contextlib.contextmanager
def _heard(receive: Callable[[int, Any], Any]) -> Iterator[None]:
    """Signals go to ``receive``: between the batches they end the following where it may end, in one at once.

    While a batch's job runs, `ExternalJobRun` takes them.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
