"""The life of a job: it runs in a process of its own, so that whatever happens to it a marker is written.

The parent imports nothing heavy and stays small. It waits for the work, looks for RELION's request to abort, passes
signals on, and ends the work where it does not stop in time, as a long computation inside a library does not.
"""

from __future__ import annotations

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

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.runs.folder import log_error
from cryosegnet_ext.runs.stopping import SIGNALS, Stopped, listening

from .markers import ABORTED, FAILURE, SUCCESS, Markers

log = logging.getLogger(__name__)

DONE, FAILED, STOPPED = 0, 1, 4
"""Exit codes of the work and of the job."""

# An abort is to be obeyed within 5 s: one second until it is seen, three for the work to stop by itself.
_WAIT_SECONDS = 0.1
_ABORT_SECONDS = 1.0
_GRACE_SECONDS = 3.0
_PR_SET_PDEATHSIG = 1


def supervise(folder: Path, work: Callable[[], int]) -> int:
    """Do the work in a child process and leave exactly one marker in the job's directory.

    Parameters
    ----------
    folder
        The job's directory.
    work
        Does the job; returns 0 for success, 4 where it was stopped, anything else for failure. What it raises is told
        in one sentence and is a failure.

    Returns
    -------
    int
        0 success, 1 failure, 4 aborted.
    """
    asked: list[int] = []

    def receive(number: int, _: FrameType | None) -> None:
        asked.append(number)

    # Signals are taken until the marker is there: queues send more than one.
    with listening(receive):
        # Where the caller ignores the ends of its children, the kernel would keep that of the work from us.
        before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            return _supervise(folder, work, asked)
        finally:
            signal.signal(signal.SIGCHLD, before)


def _supervise(folder: Path, work: Callable[[], int], asked: list[int]) -> int:
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
            _be_child(parent, folder, work)
        code = _judge(*_wait(child, markers, asked))
    try:
        markers.end({DONE: SUCCESS, STOPPED: ABORTED}.get(code, FAILURE))
    except OSError as error:
        log.error(f"{folder}: RELION cannot be told how the job ended ({error.strerror}): mark it in the GUI.")
    return code


def _wait(child: int, markers: Markers, asked: list[int]) -> tuple[int, str | None]:
    """Wait for the work to end; its wait status, and why it was asked to stop, if it was."""
    why: str | None = None
    looked = deadline = 0.0
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status, why
        now = time.monotonic()
        if why is None:
            if asked:
                why = f"{signal.Signals(asked[0]).name} was received"
            elif now - looked >= _ABORT_SECONDS:
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


def _judge(status: int, why: str | None) -> int:
    code = os.waitstatus_to_exitcode(status)
    if code == DONE:
        return DONE
    if why is not None or code == STOPPED:
        log.info(f"stopped because {why or 'a signal was received'}; Continue goes on from here")
        return STOPPED
    if code < 0:
        name = signal.Signals(-code).name
        hint = "; the system kills programs so when memory runs out" if -code == signal.SIGKILL else ""
        log.error(f"the picking process was killed by {name}{hint}: see run.out for how far it came, then Continue.")
    return FAILED


def _be_child(parent: int, folder: Path, work: Callable[[], int]) -> None:
    """Run the work and end the process; never returns."""
    code = FAILED
    try:
        # In a group of its own it hears only of its parent, which decides what ends the job.
        os.setpgid(0, 0)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        _die_with(parent)
        code = work()
    except CryoSegNetError as error:
        log.error(str(error))
    except Stopped:
        code = STOPPED
    except MemoryError:
        log.error("memory ran out: run fewer jobs at a time, or ask the queue for more memory.")
    except ImportError as error:
        log_error(folder, "the job", traceback.format_exc())
        log.error(f"a part of the installation does not load ({error}): `cryosegnet doctor` says what is missing.")
    except OSError as error:
        log_error(folder, "the job", traceback.format_exc())
        where = f"{error.filename}: " if error.filename else ""
        log.error(f"{where}{error.strerror or error}: put it right, then Continue.")
    except BaseException as error:
        log_error(folder, "the job", traceback.format_exc())
        what = " ".join(f"{type(error).__name__}: {error}".split())
        log.error(f"unexpected error ({what[:300]}): please report it with {folder / 'errors.log'}.")
    finally:
        # Buffers that cannot be flushed to a full disk must not change how the job ends.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _die_with(parent: int) -> None:
    """Have the kernel end this process when its parent is killed, so that nothing works on without a supervisor."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(FAILED)
