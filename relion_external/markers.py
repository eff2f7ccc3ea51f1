"""The marker files in a job's directory: by them RELION learns how the job ended, and the job that it shall abort.

RELION ignores exit codes. For it a job has ended when one of three files exists (its ``src/pipeline_control.h``).
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

SUCCESS, FAILURE, ABORTED = "RELION_JOB_EXIT_SUCCESS", "RELION_JOB_EXIT_FAILURE", "RELION_JOB_EXIT_ABORTED"
ABORT_NOW = "RELION_JOB_ABORT_NOW"
_RESERVE = ".RELION_JOB_EXIT_reserve"


class Markers:
    """The marker files of one job.

    Parameters
    ----------
    folder
        The job's directory; it is created if it is missing.

    Raises
    ------
    OSError
        The directory cannot be created or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._place = folder.stat()

    def begin(self) -> None:
        """Remove the markers of an earlier run, and keep a file that can be renamed to one on a full disk.

        A request to abort stays: RELION removes old ones when it submits a job, so this one came while the job queued.
        """
        for name in (SUCCESS, FAILURE, ABORTED):
            # Renamed, not removed: a full disk may have no room for a new file.
            with contextlib.suppress(FileNotFoundError):
                os.replace(self.folder / name, self.folder / _RESERVE)
        (self.folder / _RESERVE).touch()

    def abort_requested(self) -> bool:
        """Whether the user pressed Abort; a file server that does not answer is asked again later."""
        return os.path.exists(self.folder / ABORT_NOW)

    def moved(self) -> bool:
        """Whether the directory is gone from its path: RELION moves that of a deleted job to its Trash."""
        try:
            return not os.path.samestat(self._place, os.stat(self.folder))
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def end(self, marker: str) -> None:
        """Write one marker, after a request to abort was removed.

        Raises
        ------
        OSError
            It cannot be written.
        """
        if self.moved():
            raise FileNotFoundError(errno.ENOENT, "it was deleted or moved")
        for name in (ABORT_NOW, *({SUCCESS, FAILURE, ABORTED} - {marker})):
            with contextlib.suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)
        try:
            # Renaming needs no disk space; a new file may need a block for its directory entry.
            os.replace(self.folder / _RESERVE, self.folder / marker)
        except OSError:
            (self.folder / marker).touch()
