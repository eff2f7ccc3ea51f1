"""An external job while it runs: however the picking ends, the job ends in the state that is true.

The client's own ``with job.run()`` marks a job completed after Ctrl-C, and after a kill in the web interface.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import urllib.parse
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, NoReturn

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.runs.stopping import Stop, Stopped

from .connection import Connection
from .errors import JobLost, ServerError
from .job_log import JobLog

WATCH_SECONDS = 2.0
_ENDING_PATIENCE = 60.0
#: The error is sent as part of the request's address; servers refuse long ones.
_LONGEST_ERROR = 1500


class ExternalJobRun:
    """An external job while it runs.

    Use it as a context. It marks the job running and watches its state in a thread. At the end it marks the job failed
    with the reason, unless `complete` was called. When the job is killed, cleared or deleted in CryoSPARC, the block
    ends with `JobLost` within seconds and the job is left as it is. A signal ends the block with `Stopped`. Both are
    raised at once in the main thread, wherever it is; in another thread only ``stop.check`` raises them.

    Parameters
    ----------
    connection
        The server.
    job
        An external job controller of cryosparc-tools, building, running or waiting.
    resume
        The command that continues the job, for its log; empty if there is none.

    Attributes
    ----------
    stop
        Stops the work on the job. After a run that completed, ``stop.signal`` is the signal that came too late.
    log
        The job's log.
    resume
        The command that continues the job; empty if there is none.
    note
        For the user, besides the error: that the job could not be marked as failed. None otherwise.
    """

    def __init__(self, connection: Connection, job: Any, resume: str = "") -> None:
        self.connection = connection
        self.job = job
        self.where = (job.project_uid, job.uid)
        self.log = JobLog(connection, job)
        self.resume = resume
        self.stop = _JobStop(job.uid)
        self._listening = contextlib.ExitStack()
        self._completed = False
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.note: str | None = None
        self._watch = threading.Thread(target=self._watch_status, name=f"watch {job.uid}", daemon=True)

    def __enter__(self) -> ExternalJobRun:
        self._listening.enter_context(self.stop)
        try:
            # A signal waits until the job is known to run: a request may be carried out although its reply is not read.
            self._reach("running", "starting the job", self.connection.client.mark_running)
            self.stop.at_once = True
            self.stop.check()
            self._watch.start()
        except BaseException as error:
            self.stop.at_once = False
            if isinstance(error, Stopped) and not isinstance(error, JobLost):
                self._fail(_reason(error, self.resume))
            self._listening.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop.at_once = False
        with self._lock:
            self._over.set()
        try:
            if not self._completed and not isinstance(error, JobLost):
                self._fail(_reason(error, self.resume))
        finally:
            self._listening.close()
            self._watch.join(5.0)
        if self.stop.lost is not None and isinstance(error, ServerError):
            # The server refused a call because the job was killed: the kill is the reason.
            raise JobLost(self.job.uid, self.stop.lost) from error

    def _reach(self, state: str, what: str, function: Any, **options: Any) -> None:
        """Bring the job into a state, and ask the server whether it is in it, since a reply may be lost.

        Raises
        ------
        ServerError
            The job is in another state.
        JobLost
            The job was killed meanwhile.
        """
        error: ServerError | None = None
        for _ in range(3):
            try:
                self.connection.call(what, function, *self.where, **options)
            except ServerError as problem:
                error = problem
            status = self.status()
            if status == state:
                return
            if status in ("killed", "deleted"):
                raise JobLost(self.job.uid, status)
            if error is not None and not error.passing:
                break
        raise error or ServerError(f"{self.job.uid} is {status} after {what}: look at it in CryoSPARC.")

    def status(self, patience: float | None = None) -> str:
        """State of the job on the server; "deleted" if the job no longer exists."""
        try:
            found = self.connection.call(
                "asking for the job's state", self.connection.client.status, *self.where, patience=patience
            )
            return str(found)
        except ServerError as error:
            if error.code == 404:
                return "deleted"
            raise

    def complete(self) -> None:
        """Mark the job completed; the last step, after its outputs were read back.

        Raises
        ------
        JobLost
            The job was killed. It stays killed, although CryoSPARC would allow it to be completed.
        """
        status = self.status()
        if status not in ("running", "waiting"):
            raise JobLost(self.job.uid, _lost(status))
        # The outputs are stored; a signal must not undo that.
        self.stop.at_once = False
        self._reach("completed", "completing the job", self.connection.client.mark_completed)
        self._completed = True

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
            call, function = self.connection.call, self.connection.client.mark_failed
            call("marking the job as failed", function, *self.where, reason, patience=_ENDING_PATIENCE)
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
                continue  # the main thread reports what is wrong with the server
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

    @contextlib.contextmanager
    def delayed(self) -> Iterator[None]:
        """A block that opens files, so that all are closed; a signal during the block is raised after it."""
        before, self.at_once = self.at_once, False
        try:
            yield
        finally:
            self.at_once = before
        self.check()

    def check(self) -> None:
        """Raise `JobLost` or `Stopped` if the work is to stop."""
        if self.lost is not None:
            raise JobLost(self._uid, self.lost)
        super().check()

    def lose(self, what: str) -> None:
        """Stop the work, because this was done to the job; called by the thread that watches it."""
        self.lost = what
        if self._main is not None:
            # A flag alone would wait for the end of a micrograph or of a blocking call.
            signal.pthread_kill(self._main, signal.SIGTERM)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.lost is None:
            super()._receive(number, frame)
        elif self.at_once:
            self.at_once = False
            self.check()

    def _receive_again(self, name: str) -> NoReturn:
        # Do not wait for a server that hangs, but tell the user the state of the job.
        raise Stopped(name)


def _lost(status: str) -> str:
    """What was done to a running job that is in this state now."""
    return {"building": "cleared", "failed": "marked as failed"}.get(status, status)


def _reason(error: BaseException | None, resume: str) -> str:
    """Why the job failed, in a line or two."""
    again = f" It can be continued: {resume}" if resume else ""
    if error is None:
        return "The picking ended without a reason." + again
    if isinstance(error, KeyboardInterrupt):
        return f"The picking was stopped ({str(error) or 'Ctrl-C'})." + again
    if isinstance(error, CryoSegNetError):
        return f"{error}{again}"
    text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    return f"Unexpected error {text}.{again}"
