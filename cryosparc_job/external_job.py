"""The life of an external job: whatever ends the picking, the job ends in the state that tells the truth.

The client's own ``with job.run()`` marks a job completed after Ctrl-C, and after a kill in the web interface.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import urllib.parse
from types import FrameType, TracebackType
from typing import Any, NoReturn

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.runs.stopping import Stop, Stopped

from .connection import Connection
from .errors import JobLost, ServerError

WATCH_SECONDS = 2.0
_ENDING_PATIENCE = 60.0
#: The error travels in the address of the request; servers refuse long ones.
_LONGEST_ERROR = 1500
_QUIET_SECONDS = 60.0


class ExternalJobRun:
    """An external job while it runs.

    Use it as a context. It marks the job running, watches its state from a thread, and on the way out marks it failed
    with the reason, unless `complete` was called. A job that was killed, cleared or deleted in CryoSPARC is left alone:
    the block is left by `JobLost` within seconds. A signal leaves it by `Stopped`. Both are raised wherever the main
    thread is; elsewhere than in the main thread only ``stop.check`` raises them.

    Parameters
    ----------
    connection
        The server.
    job
        An external job controller of cryosparc-tools, building, running or waiting.
    resume
        How to go on with this job, as the user would type it; for the job's log.

    Attributes
    ----------
    stop
        Stops the work on the job. After a run that completed, ``stop.signal`` is the signal that came too late.
    note
        What the user must know besides the error: that CryoSPARC could not be told of the end.
    """

    def __init__(self, connection: Connection, job: Any, resume: str = "") -> None:
        self.connection = connection
        self.job = job
        self.where = (job.project_uid, job.uid)
        self._resume = resume
        self.stop = _JobStop(job.uid)
        self._listening = contextlib.ExitStack()
        self._completed = False
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.note: str | None = None
        self._watch = threading.Thread(target=self._watch_status, name=f"watch {job.uid}", daemon=True)
        self._quiet_until = 0.0
        self._events: dict[str, str] = {}

    def __enter__(self) -> ExternalJobRun:
        self._listening.enter_context(self.stop)
        try:
            # Until the job is known to run, a signal waits: a request that is cut off may still be carried out.
            self.settle("running", "starting the job", self.connection.api.jobs.mark_running, status="running")
            self.stop.at_once = True
            self.stop.check()
            self._watch.start()
        except BaseException as error:
            self.stop.at_once = False
            if isinstance(error, Stopped) and not isinstance(error, JobLost):
                self._fail(_reason(error, self._resume))
            self._listening.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop.at_once = False
        with self._lock:
            self._over.set()
        try:
            if not self._completed and not isinstance(error, JobLost):
                self._fail(_reason(error, self._resume))
        finally:
            self._listening.close()
            self._watch.join(5.0)
        if self.stop.lost is not None and isinstance(error, ServerError):
            # What the server refused to a job that was killed is no news beside the kill.
            raise JobLost(self.job.uid, self.stop.lost) from error

    def settle(self, wanted: str, what: str, function: Any, **options: Any) -> None:
        """Bring the job into a state and see that it is in it; a reply that was lost is no failure.

        Raises
        ------
        ServerError
            The job is in another state.
        JobLost
            It was killed meanwhile.
        """
        error: ServerError | None = None
        for _ in range(3):
            try:
                self.connection.call(what, function, *self.where, **options)
            except ServerError as problem:
                error = problem
            status = self.status()
            if status == wanted:
                return
            if status in ("killed", "deleted"):
                raise JobLost(self.job.uid, status)
            if error is not None and not error.passing:
                break
        raise error or ServerError(f"{self.job.uid} is {status} after {what}: look at it in CryoSPARC.")

    def status(self, patience: float | None = None) -> str:
        """State of the job as the server has it; "deleted" where it is gone."""
        try:
            found = self.connection.call(
                "asking for the job's state", self.connection.api.jobs.get_status, *self.where, patience=patience
            )
            return str(found)
        except ServerError as error:
            if error.code == 404:
                return "deleted"
            raise

    def complete(self) -> None:
        """Mark the job completed; the last thing to do, after its outputs were read back.

        Raises
        ------
        JobLost
            The job was killed: it stays so, though CryoSPARC would let a killed job be completed.
        """
        status = self.status()
        if status not in ("running", "waiting"):
            raise JobLost(self.job.uid, _lost(status))
        # From here on a signal would only spoil what is done.
        self.stop.at_once = False
        self.settle("completed", "completing the job", self.connection.api.jobs.mark_completed)
        self._completed = True

    # The job's log: nothing here may stop the picking.

    def say(self, text: str, level: str = "text", name: str | None = None) -> None:
        """Write a line to the job's log; a ``name`` makes it a line that is written anew each time."""
        api = self.connection.api.jobs
        if time.monotonic() < self._quiet_until:
            return
        try:
            if name is not None and name in self._events:
                self._quietly(api.update_event_log, *self.where, self._events[name], text, type=level)
            else:
                event = self._quietly(api.add_event_log, *self.where, text, type=level)
                if name is not None:
                    self._events[name] = event.id
        except ServerError:
            self._quiet_until = time.monotonic() + _QUIET_SECONDS

    def checkpoint(self) -> None:
        """Mark a stage in the job's log; lines with a name begin anew after it."""
        with contextlib.suppress(ServerError):
            self._quietly(self.connection.api.jobs.add_checkpoint, *self.where, {})
        self._events = {}

    def _quietly(self, function: Any, *args: Any, **options: Any) -> Any:
        return self.connection.call("writing the job's log", function, *args, patience=0.0, **options)

    # Ends

    def _fail(self, reason: str) -> None:
        """Mark the job failed, unless somebody killed or completed it."""
        try:
            status = self.status(patience=_ENDING_PATIENCE)
            if status not in ("running", "waiting", "launched", "started", "queued"):
                if status in ("killed", "deleted", "building"):
                    self.stop.lost = self.stop.lost or _lost(status)
                return
            while len(urllib.parse.quote(reason)) > _LONGEST_ERROR:
                reason = reason[: len(reason) * 9 // 10]
            call, function = self.connection.call, self.connection.api.jobs.mark_failed
            call("marking the job as failed", function, *self.where, error=reason, patience=_ENDING_PATIENCE)
        except (ServerError, Stopped) as error:
            if isinstance(error, ServerError) and error.code == 400 and self._safe_status() == "failed":
                return
            self.note = f"{self.job.uid} could not be marked as failed and may still be shown as running"

    def _safe_status(self) -> str:
        try:
            return self.status(patience=0.0)
        except ServerError:
            return "unknown"

    def _watch_status(self) -> None:
        while not self._over.wait(WATCH_SECONDS):
            try:
                status = self.status(patience=0.0)
            except (ServerError, CryoSegNetError):
                continue  # the calls of the main thread say what is wrong with the server
            if status not in ("running", "waiting") and self.stop.at_once and not self.stop.requested:
                with self._lock:
                    # Under the lock our handler is still in place.
                    if not self._over.is_set():
                        self.stop.lose(_lost(status))
                return


class _JobStop(Stop):
    """Stops the work on a job: on a signal, by `Stopped`, or because the job is gone, by `JobLost`."""

    def __init__(self, uid: str) -> None:
        super().__init__()
        self.lost: str | None = None
        self._uid = uid
        self._main = threading.main_thread().ident if threading.current_thread() is threading.main_thread() else None

    def check(self) -> None:
        """Raise `JobLost` or `Stopped` if the work is to stop."""
        if self.lost is not None:
            raise JobLost(self._uid, self.lost)
        super().check()

    def lose(self, what: str) -> None:
        """Note what was done to the job; for the thread that watches it."""
        self.lost = what
        if self._main is not None:
            # Not only a flag: a micrograph may take a minute, and a signal cuts a blocking call short, too.
            signal.pthread_kill(self._main, signal.SIGTERM)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.lost is None:
            super()._receive(number, frame)
        elif self.at_once:
            self.at_once = False
            self.check()

    def _receive_again(self, name: str) -> NoReturn:
        # A server that hangs is left alone, but the user is told what became of the job.
        raise Stopped(name)


def _lost(status: str) -> str:
    """What was done to a job that is in this state and was running."""
    return {"building": "cleared", "failed": "marked as failed"}.get(status, status)


def _reason(error: BaseException | None, resume: str) -> str:
    """Why the job failed, in a line or two."""
    again = f" It can be continued: {resume}" if resume else ""
    if error is None:
        return "The picking ended without saying so." + again
    if isinstance(error, KeyboardInterrupt):
        return f"The picking was stopped ({str(error) or 'Ctrl-C'})." + again
    if isinstance(error, CryoSegNetError):
        return f"{error}{again}"
    text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    return f"Unexpected error {text}.{again}"
