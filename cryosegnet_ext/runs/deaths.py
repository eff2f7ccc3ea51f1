"""Micrographs at which this process was killed: they are picked last and alone, and after a second time no more.

A process that the system kills, mostly for memory, can say nothing. So a run notes what it begins, and strikes it
out when it is done. Queues and people kill, too: a death makes all micrographs in progress suspects, no more. A
micrograph is given up if the process dies again while it picks only this one, after all others.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import CryoSegNetError, plural, some
from ..files.atomic import write_atomic
from ..files.inputs import Input, file_identity
from ..files.json_text import parse_json
from .records import DEATHS, Record

log = logging.getLogger(__name__)

#: What a death counts: while a micrograph was picked, and while the size was estimated, always from the same ones.
PICKING, ESTIMATING = 2, 1
_SUSPECT, _GIVEN_UP = 2, 4


class Deaths:
    """Deaths of this process in a run's folder, for each micrograph that was in progress then.

    A micrograph whose file has changed since has none.

    Parameters
    ----------
    folder
        The state folder of the run, in which no other process works; None: nothing is noted, and no death is known.
    records
        What the run has finished.
    """

    def __init__(self, folder: Path | None, records: Mapping[str, Record]) -> None:
        self._path = None if folder is None else folder / DEATHS
        self._before = {} if self._path is None else _read(self._path)
        for key, entry in list(self._before.items()):
            record = records.get(key)
            if record is not None and record.done and entry[1:] == (record.size, record.mtime_ns):
                del self._before[key]  # killed after it was finished
        #: In progress, with the deaths as they will be if this process dies now.
        self._now: dict[str, tuple[int, int, int]] = {}
        suspects = [os.path.basename(key) for key, entry in self._before.items() if _SUSPECT <= entry[0] < _GIVEN_UP]
        if suspects:
            count, pronoun = plural(len(suspects), "micrograph"), "it is" if len(suspects) == 1 else "they are"
            log.warning(
                f"an earlier run was killed while it worked on {count} ({some(suspects)}); {pronoun} picked last, alone"
            )

    def is_suspect(self, one: Input) -> bool:
        """Whether the process died while this micrograph was in progress."""
        return self._count(one) >= _SUSPECT

    def reason(self, one: Input) -> str | None:
        """Why a micrograph is not to be picked any more, as a sentence; None if it is."""
        if self._count(one) < _GIVEN_UP:
            return None
        return (
            "the program was killed twice while it picked this micrograph, the last time this one alone, perhaps for "
            f"lack of memory; give it more memory and remove {self._path}, then the same command tries it again"
        )

    def begin(self, inputs: Sequence[Input], weight: int = PICKING) -> None:
        """Note micrographs before they are begun; ``weight`` is what a death counts now.

        Raises
        ------
        CryoSegNetError
            The file cannot be written.
        """
        for one in inputs:
            identity = file_identity(one.path)
            if identity is not None:
                self._now[one.key] = (self._count(one) + weight, *identity)
        self._write()

    def survived(self, keys: Iterable[str]) -> None:
        """Strike out micrographs that are done; the file is written when the next ones begin."""
        for key in keys:
            self._now.pop(key, None)
            self._before.pop(key, None)

    def close(self) -> None:
        """Strike out what is in progress: the run ends, and nothing killed it."""
        self._now.clear()
        with contextlib.suppress(CryoSegNetError):
            self._write()
            return
        # On a full disk: better none than those of this run, which ended well.
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _count(self, one: Input) -> int:
        entry = self._before.get(one.key)
        return entry[0] if entry is not None and entry[1:] == file_identity(one.path) else 0

    def _write(self) -> None:
        if self._path is None:
            return
        entries = self._before | self._now
        if entries:
            write_atomic(self._path, json.dumps(entries) + "\n")
        else:
            self._path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, tuple[int, int, int]]:
    """What an earlier run left; nothing if it is no such file."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        entries = {key: (count, size, changed) for key, (count, size, changed) in parse_json(path.read_bytes()).items()}
        if all(type(value) is int for entry in entries.values() for value in entry):
            return entries
    return {}
