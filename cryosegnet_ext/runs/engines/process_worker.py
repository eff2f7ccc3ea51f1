"""What a worker process does: it loads the models, then picks what its owner sends; `processes` is the owner.

Outcomes, and what is logged, go back through its pipe.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import logging.handlers
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

from ...errors import CryoSegNetError, memory_explained
from ..diameter import estimate
from ..pick_task import MicrographPicker, PickTask
from ..stopping import Stop, leave_to_owner
from .threads import engine_for

log = logging.getLogger(__name__)

#: Makes the picker of a device. It is pickled, so it must be a function of a module, or a partial of one.
MakePicker = Callable[[str], MicrographPicker]


def work(pipe: Any, make: MakePicker, device: str, threads: int) -> None:
    """The work of a process: load the models, then pick the micrographs that come."""
    leave_to_owner()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    owner = _Owner(pipe)
    logging.getLogger().addHandler(owner)
    # The owner decides what is shown.
    logging.getLogger(__name__.partition(".")[0]).setLevel(logging.DEBUG)
    with contextlib.suppress(EOFError, OSError):
        try:
            with memory_explained():
                threading.Thread(target=_end_with_parent, daemon=True).start()
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
        try:
            with memory_explained():
                _serve(pipe, owner, picker)
        except CryoSegNetError as error:
            log.error(str(error))
            sys.exit(1)


class _Owner(logging.handlers.QueueHandler):
    """Sends messages and log records of all threads of a process to its owner, one after another."""

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
    engine = engine_for(picker)
    never = Stop()
    in_progress = 0
    while True:
        while pipe.poll(0 if in_progress else None):
            message = pipe.recv()
            if isinstance(message, PickTask):
                engine.submit(message)
                in_progress += 1
            else:
                looked = functools.partial(owner.send, "looked")
                _, inputs, pixel_size = message
                owner.send("estimate", estimate(picker, inputs, pixel_size, looked=looked))
        for outcome in engine.wait(never, 0.0):
            in_progress -= 1
            owner.send("outcome", outcome)


def _end_with_parent() -> None:
    """End this process when its owner was killed, since nobody would read the answers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
