"""The log of an external job, which users read in CryoSPARC. No failure to write it stops the picking."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any

from cryosegnet_ext.runs import progress

from .connection import Connection
from .errors import ServerError

_QUIET_SECONDS = 60.0
#: Between two progress lines that cannot replace each other.
_LINE_SECONDS = 60.0


class JobLog(logging.Handler):
    """Writes lines to a job's log; as a handler it also writes what the package logs for users.

    Parameters
    ----------
    connection
        The server.
    job
        The job's controller.
    """

    def __init__(self, connection: Connection, job: Any) -> None:
        super().__init__(logging.INFO)
        self._connection = connection
        self._where = (job.project_uid, job.uid)
        self._progress_line: str | None = None
        self._next_line = self._quiet_until = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        # The job's log has its own progress line.
        if record.name != progress.__name__:
            self.write(record.getMessage(), warning=record.levelno >= logging.WARNING)

    def write(self, text: str, warning: bool = False) -> None:
        """Write a line."""
        self._call(self._connection.client.add_line, text, warning=warning)

    def write_progress(self, text: str) -> None:
        """Write the progress line, or replace it by its new text; where that is not possible, one line a minute."""
        client = self._connection.client
        if self._progress_line is None or not client.replaces_lines:
            if self._progress_line is None or time.monotonic() >= self._next_line:
                self._progress_line = self._call(client.add_line, text)
                self._next_line = time.monotonic() + _LINE_SECONDS
        else:
            self._call(client.replace_line, self._progress_line, text)

    def checkpoint(self) -> None:
        """Mark a stage; the next progress line is a new one."""
        self._call(self._connection.client.add_checkpoint)
        self._progress_line = None

    def _call(self, function: Any, *args: Any, **options: Any) -> Any:
        """Call the server; after a failure not again for a while."""
        if time.monotonic() < self._quiet_until:
            return None
        with contextlib.suppress(ServerError):
            return self._connection.call(
                "writing the job's log", function, *self._where, *args, patience=0.0, **options
            )
        self._quiet_until = time.monotonic() + _QUIET_SECONDS
        return None
