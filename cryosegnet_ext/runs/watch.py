"""Micrographs as they appear in folders, globs, lists and STAR files that grow."""

from __future__ import annotations

import contextlib
import glob
import logging
import math
import os
import struct
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import CryoSegNetError
from ..files.folder_images import described, may_be_micrograph
from ..files.inputs import Input, Stems, expand_one, file_identity, natural_key, search
from .journal import Journal, Record
from .outputs import RunOutputs
from .sources import MicrographSource
from .stopping import Stop

log = logging.getLogger(__name__)

#: A file that was last changed this many settling times ago is not looked at a second time.
_OLD = 12
#: Looking for files takes at most this share of the time, however many files there are.
_LOOK_SHARE = 0.05
#: If no more micrographs come for this long, the diameter is estimated from those that are there.
_PATIENCE_SECONDS = 120.0
#: How often the diameter is estimated, from newer micrographs each time, before picking goes on without.
_ATTEMPTS = 3
_MRC_BYTES = {0: 1, 1: 2, 2: 4, 6: 2, 12: 2}


class Watch(MicrographSource):
    """Micrographs that appear during the run; each is picked once, when it is complete.

    A file is complete when it is readable, its size and modification time have not changed for ``settle`` seconds, and
    a plain MRC file is as long as its header says. A file that failed is picked again when it changes.

    Parameters
    ----------
    arguments
        Folders (with their subfolders), globs, files, ``@list`` files and micrographs STAR files. They need not exist
        yet.
    interval, settle
        Seconds between two looks for new files, and seconds without change.
    stop_file
        When this file appears, the run finishes the micrographs in progress and ends; the file is removed.
    idle
        The run ends after this many seconds without a new micrograph; None: never.

    Raises
    ------
    CryoSegNetError
        The stop file exists already, or an argument can never name a micrograph.
    """

    growing = True

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        interval: float = 5.0,
        settle: float = 5.0,
        stop_file: Path | None = None,
        idle: float | None = None,
    ) -> None:
        if not arguments:
            raise CryoSegNetError("no input was given; name folders, globs, @list files or a micrographs STAR to watch")
        if stop_file is not None and os.path.lexists(stop_file):
            raise CryoSegNetError(f"{stop_file} exists, which ends a run; remove it and start again")
        self._arguments = [str(argument) for argument in arguments]
        self._interval, self._settle = interval, settle
        self._stop_file, self._idle = stop_file, idle
        self._seen: set[str] = set()
        self._growing: dict[str, tuple[Input, tuple[int, int], float]] = {}
        self._taken: dict[str, Input] = {}
        self._failed: dict[str, tuple[Input, tuple[int, int] | None]] = {}
        self._ready: deque[Input] = deque()
        self._lists: dict[str, tuple[tuple[int, int], list[Input]]] = {}
        self._told: set[str] = set()
        self._next_look = 0.0
        self._ended: str | None = None
        self._active = time.monotonic()
        self._outputs: RunOutputs
        self._stems = Stems()
        self.total = self.skipped = 0

    def begin(self, outputs: RunOutputs) -> None:
        """Look for the first micrographs, and log which arguments do not exist yet."""
        self._outputs = outputs
        self._stems = Stems(outputs.journal.stems(), self._top())
        self._active = time.monotonic()
        self.look()
        if missing := self._missing():
            log.info(f"waiting for {', '.join(missing)}, which does not exist yet")
        log.info("watching for micrographs" + (f"; `touch {self._stop_file}` ends it" if self._stop_file else ""))

    @property
    def waiting(self) -> int:
        """How many complete micrographs are not given out yet."""
        return len(self._ready)

    @property
    def over(self) -> bool:
        """Whether the run is to end: the stop file exists, or nothing came for too long."""
        if self._ended is None and self._stop_file is not None and os.path.lexists(self._stop_file):
            self._end(f"{self._stop_file} exists: finishing the micrographs in progress")
            with contextlib.suppress(OSError):
                self._stop_file.unlink()
        idle = time.monotonic() - self._active
        if self._ended is None and self._idle is not None and idle >= self._idle and not self._ready:
            self._end(f"nothing new for {idle / 60:.3g} minutes: ending")
            if missing := self._missing():
                log.warning(f"{', '.join(missing)} never appeared; check the name")
        return self._ended is not None

    def _end(self, why: str) -> None:
        self._ended = why
        log.info(why)

    def samples(self, stopping: Stop, enough: int) -> Iterator[list[Input]]:
        """The first micrographs, when there are enough of them; then newer ones."""
        used = 0
        patience = min(_PATIENCE_SECONDS, self._idle or math.inf)
        for _ in range(_ATTEMPTS):
            first = time.monotonic()
            while len(self._ready) < used + enough and not self.over:
                self._look_if_due()
                new = len(self._ready) > used
                if new and time.monotonic() - first > patience:
                    break
                if not new:
                    first = time.monotonic()
                stopping.pause(min(1.0, self._interval))
            sample = list(self._ready)[used : used + enough]
            if not sample:
                return
            yield sample
            used += len(sample)

    def take(self, count: int) -> list[tuple[Input, str]]:
        """Micrographs that are complete now, with their stems."""
        if count <= 0 or self.over:
            return []
        self._look_if_due()
        taken: list[tuple[Input, str]] = []
        while self._ready and len(taken) < count:
            some = [self._ready.popleft() for _ in range(min(len(self._ready), count - len(taken)))]
            pairs = [(one, self._stem(one)) for one in some]
            for pair, finished in zip(pairs, self._outputs.finished(pairs)):
                self.skipped += finished
                if not finished:
                    taken.append(pair)
                    self._taken[pair[0].key] = pair[0]
        if taken:
            self._active = time.monotonic()
        return taken

    def _stem(self, one: Input) -> str:
        """The stem of a micrograph, also if it was moved since it was picked."""
        old = self._outputs.journal.adopt(one)
        if old is not None:
            self._stems.move(old, one.key)
        return self._stems.of(one)

    def add(self, record: Record) -> None:
        """Remember a failed micrograph, to pick it again when its file changes."""
        self._active = time.monotonic()
        one = self._taken.pop(record.key)
        if not record.done:
            known = None if record.size < 0 else (record.size, record.mtime_ns)
            self._failed[record.key] = (one, known)

    def records(self, journal: Journal) -> list[Record]:
        """Every record of the folder, in natural order."""
        return sorted(journal.records.values(), key=lambda record: natural_key(record.key))

    def _look_if_due(self) -> None:
        if time.monotonic() >= self._next_look:
            self.look()

    def look(self) -> None:
        """Look for new micrographs, and for those seen before that are complete now."""
        start = time.monotonic()
        for argument in self._arguments:
            for one in self._new(argument):
                self.total += 1
                self._growing[one.key] = (one, (-1, -1), start)
        for key, (one, known) in list(self._failed.items()):
            if file_identity(one.path) not in (None, known):
                del self._failed[key]
                self._growing[key] = (one, (-1, -1), start)
        ready = [one for key, one in self._complete(start)]
        self._ready += sorted(ready, key=lambda one: natural_key(str(one.path)))
        if ready:
            self._active = start
        taken = time.monotonic() - start
        self._next_look = start + max(self._interval, taken / _LOOK_SHARE)

    def _complete(self, now: float) -> Iterator[tuple[str, Input]]:
        for key, (one, before, since) in list(self._growing.items()):
            identity = file_identity(one.path)
            if identity is None:
                continue
            if identity != before:
                self._growing[key] = (one, identity, now)
                if time.time() - identity[1] / 1e9 < _OLD * self._settle:
                    continue
            elif now - since < self._settle:
                continue
            # A file that stays too short is picked after all: it fails, and the reason is reported.
            given_up = identity == before and now - since >= _OLD * self._settle
            if given_up or _is_whole(one.path, identity[0]):
                del self._growing[key]
                yield key, one

    def _new(self, argument: str) -> Iterator[Input]:
        """Micrographs that an argument did not name before."""
        if argument.startswith("@") or (argument.lower().endswith(".star") and not os.path.isdir(argument)):
            for one in self._listed(argument):
                if one.key not in self._seen:
                    self._seen.add(one.key)
                    yield one
            return
        names = [argument] if os.path.lexists(argument) else []
        if os.path.isdir(argument) or (not names and glob.has_magic(argument)):
            names, left_out = search(argument)
            for kind in [kind for kind in left_out if f"{argument}: {kind}" not in self._told]:
                self._told.add(f"{argument}: {kind}")
                log.info(f"{argument}: left out: {described({kind: left_out[kind]})}")
        for name in names:
            if name not in self._seen:
                self._seen.add(name)
                one = Input(Path(name), name)
                if one.key == os.path.abspath(name) or one.key not in self._seen:
                    self._seen.add(one.key)
                    yield one

    def _missing(self) -> list[str]:
        """Arguments that name a file or folder that is not there."""
        every = (argument for argument in self._arguments if not glob.has_magic(argument))
        return [argument for argument in every if not os.path.lexists(argument.removeprefix("@"))]

    def _listed(self, argument: str) -> list[Input]:
        """The micrographs in a list or STAR file; none if it is missing, incomplete, or has not changed."""
        path = Path(argument.removeprefix("@"))
        try:
            status = os.stat(path)
        except OSError:
            return []
        identity = (status.st_size, status.st_mtime_ns)
        known = self._lists.get(argument)
        if known is not None and known[0] == identity:
            return []
        try:
            found = expand_one(argument)
        except CryoSegNetError as error:
            # It may be half written; the warning comes once.
            if str(error) not in self._told:
                self._told.add(str(error))
                log.warning(f"{str(error).rstrip('.')}; waiting for it to change")
            found = []
        self._lists[argument] = (identity, [])
        return found

    def _top(self) -> str:
        """The folder that contains all arguments, for stems that repeat."""
        folders = []
        for argument in self._arguments:
            fixed = argument.removeprefix("@")
            while glob.has_magic(fixed):
                fixed = os.path.dirname(fixed)
            fixed = os.path.abspath(fixed)
            # A path that does not exist yet and does not look like a file will be a folder.
            is_file = os.path.isfile(fixed) or may_be_micrograph(fixed) or fixed.lower().endswith((".star", ".txt"))
            folders.append(os.path.dirname(fixed) if is_file else fixed)
        return os.path.commonpath(folders)


def _is_whole(path: Path, size: int) -> bool:
    """Whether a file can be opened, is not empty, and, if it is a plain MRC file, is as long as its header says."""
    if size == 0:
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError:
        return False
    if not path.name.lower().endswith((".mrc", ".mrcs")) or len(head) < 1024 or head[208:211] != b"MAP":
        return True
    order = ">" if head[212] == 0x11 else "<"
    nx, ny, nz, mode = struct.unpack_from(f"{order}4i", head)
    (extended,) = struct.unpack_from(f"{order}i", head, 92)
    if mode not in _MRC_BYTES or min(nx, ny, nz) < 1 or extended < 0:
        return True  # reading it will say what is wrong
    return bool(size >= 1024 + extended + nx * ny * nz * _MRC_BYTES[mode])
