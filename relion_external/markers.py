"""The files in a job's directory by which RELION and a job talk: how it ended, and that the user asks to abort.

RELION takes no notice of exit codes: a job has ended when one of three files is there (its ``src/pipeline_control.h``).
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
    """The files in a job's directory by which RELION learns how the job ended.

    Parameters
    ----------
    folder
        The job's directory; it is made where it is missing.

    Raises
    ------
    OSError
        The directory cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._place = folder.stat()

    def begin(self) -> None:
        """Remove the markers of an earlier run, and put a file aside that can become one on a full disk.

        A request to abort is left: RELION removes old ones when it submits a job, so it was made while this one queued.
        """
        for name in (SUCCESS, FAILURE, ABORTED):
            # Kept under the other name: on a full disk there may be no room for a new file.
            with contextlib.suppress(FileNotFoundError):
                os.replace(self.folder / name, self.folder / _RESERVE)
        (self.folder / _RESERVE).touch()

    def abort_requested(self) -> bool:
        """Whether the user pressed Abort; a file server that does not answer is asked again later."""
        return os.path.exists(self.folder / ABORT_NOW)

    def moved(self) -> bool:
        """Whether the directory is not in its place any more: RELION moves that of a deleted job into its Trash."""
        try:
            return not os.path.samestat(self._place, os.stat(self.folder))
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def end(self, marker: str) -> None:
        """Write one marker; it appears last, and a request to abort is gone before.

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
            # Renaming needs no room, where a new file may need a block for its directory's entry.
            os.replace(self.folder / _RESERVE, self.folder / marker)
        except OSError:
            (self.folder / marker).touch()
