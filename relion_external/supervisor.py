"""Runs a job in a child process, so that a marker is written whatever happens to it.

The parent imports nothing heavy and stays small. It waits for the child, looks for RELION's request to abort, passes
signals on, and kills the child where it does not stop in time: a long computation inside a library does not.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from cryosegnet_ext.errors import CryoSegNetError, memory_explained
from cryosegnet_ext.runs.folder import log_error
from cryosegnet_ext.runs.stopping import SIGNALS, Stopped, listening

from .markers import ABORTED, FAILURE, SUCCESS, Markers

log = logging.getLogger(__name__)

# Without a marker RELION would wait for ever: every signal counts that a queue or a shell may send to end a job.
_SIGNALS = (*SIGNALS, signal.SIGQUIT, signal.SIGALRM, signal.SIGABRT)

DONE, FAILED, STOPPED = 0, 1, 4
"""Exit codes of the work and of the job."""

# A job aborts within 5 s: one second until the request is seen, three for the child to stop by itself.
_WAIT_SECONDS = 0.1
_ABORT_SECONDS = 1.0
_GRACE_SECONDS = 3.0
_PR_SET_PDEATHSIG = 1


def supervise(folder: Path, work: Callable[[], int]) -> int:
    """Do the work in a child process, and leave exactly one marker in the job's directory.

    Parameters
    ----------
    folder
        The job's directory.
    work
        Does the job; returns 0 for success, 4 where it was stopped, anything else for failure. An exception is a
        failure, and is reported in one sentence.

    Returns
    -------
    int
        0 success, 1 failure, 4 aborted.
    """
    signals: list[int] = []

    def receive(number: int, _: FrameType | None) -> None:
        signals.append(number)

    # Signals are received until the marker is written: queues send more than one.
    with listening(receive, _SIGNALS):
        # Where the caller ignores SIGCHLD, the kernel would not give us the child's exit status.
        before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            return _supervise(folder, work, signals)
        finally:
            signal.signal(signal.SIGCHLD, before)


def _supervise(folder: Path, work: Callable[[], int], signals: list[int]) -> int:
    try:
        markers = Markers(folder)
        markers.begin()
    except OSError as error:
        log.error(f"{folder}: the job's directory cannot be written ({error.strerror}): check its permissions.")
        return FAILED
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    parent = os.getpid()
    try:
        child = os.fork()
    except OSError as error:
        log.error(f"no process could be started ({error.strerror}): run fewer jobs at a time, then Continue.")
        code = FAILED
    else:
        if child == 0:
            _run_child(parent, folder, work)
        code = _exit_code(*_wait(child, markers, signals))
    try:
        markers.end({DONE: SUCCESS, STOPPED: ABORTED}.get(code, FAILURE))
    except OSError as error:
        log.error(
            f"{folder}: the file that tells RELION how the job ended cannot be written ({error.strerror}): "
            "mark the job in the GUI."
        )
    return code


def _wait(child: int, markers: Markers, signals: list[int]) -> tuple[int, str | None]:
    """Wait for the child; its wait status, and why it was told to stop, if it was."""
    why: str | None = None
    looked = deadline = 0.0
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            # A queue may have sent it to the child, too.
            return status, why or _received(signals)
        now = time.monotonic()
        if why is None:
            why = _received(signals)
            if why is None and now - looked >= _ABORT_SECONDS:
                looked = now
                if markers.moved():
                    why = "its directory was deleted or moved"
                elif markers.abort_requested():
                    why = "the user asked to abort"
            if why is not None:
                deadline = now + _GRACE_SECONDS
                os.kill(child, signal.SIGTERM)
        elif now >= deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(_WAIT_SECONDS)


def _received(signals: list[int]) -> str | None:
    return f"{signal.Signals(signals[0]).name} was received" if signals else None


def _exit_code(status: int, why: str | None) -> int:
    """The job's exit code; a child that failed without a word is reported."""
    code = os.waitstatus_to_exitcode(status)
    if code == DONE:
        return DONE
    if why is not None or code == STOPPED or -code in SIGNALS:
        log.info(f"stopped because {why or 'a signal was received'}; Continue goes on from here")
        return STOPPED
    if code < 0:
        name = signal.Signals(-code).name
        hint = "; the system does this when memory runs out" if -code == signal.SIGKILL else ""
        log.error(f"the picking process was killed by {name}{hint}: run.out says how far it came; press Continue.")
    return FAILED


def _run_child(parent: int, folder: Path, work: Callable[[], int]) -> None:
    """Run the work and end the process; never returns."""
    code = FAILED
    # What the parent registered is the parent's.
    atexit._clear()
    try:
        # In a process group of its own it gets signals from its parent only, which decides when the job stops.
        os.setpgid(0, 0)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        _kill_with(parent)
        with memory_explained():
            code = work()
    except CryoSegNetError as error:
        log.error(str(error))
    except Stopped:
        code = STOPPED
    except ImportError as error:
        log_error(folder, "the job", traceback.format_exc())
        log.error(f"a part of the installation does not load ({error}): `cryosegnet doctor` says what is missing.")
    except OSError as error:
        log_error(folder, "the job", traceback.format_exc())
        where = f"{error.filename}: " if error.filename else ""
        log.error(f"{where}{error.strerror or error}: correct this, then Continue.")
    except BaseException as error:
        log_error(folder, "the job", traceback.format_exc())
        what = " ".join(f"{type(error).__name__}: {error}".split())
        log.error(f"unexpected error ({what[:300]}): please report it with {folder / 'errors.log'}.")
    finally:
        # Libraries remove their temporary folders here.
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
        # Buffers that cannot be flushed to a full disk must not change the exit code.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _kill_with(parent: int) -> None:
    """Have the kernel kill this process when its parent is killed, so that no job runs without a supervisor."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(FAILED)
