"""The folder of a run: one process at a time works in it, and a later run with the same settings goes on with it.

Picking, training and simulation keep records of their own there (``journal.jsonl``, ``training.json``,
``simulation.json``); what they do with what they find is decided here.

The lock is the kernel's own (``flock``): it ends with its process, even after ``kill -9``. On a file system without
locks (NFS without a lock service) a run works without one. The filelock library does less: its lock does not say who
holds it, and fails on such file systems (ENOLCK, EOPNOTSUPP). Its ``SoftFileLock`` works there, but outlives a process
that was killed on another machine, and the user would have to remove it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shlex
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ..errors import CryoSegNetError, option
from ..files.atomic import explained
from ..files.inside import inside

#: Name of the lock in a folder that has no folder of ours in it.
LOCK = ".cryosegnet-lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
_LONGEST_VALUE = 40


@contextlib.contextmanager
def locked(folder: Path, name: str = LOCK) -> Iterator[None]:
    """A block in which no other process works in a folder.

    Parameters
    ----------
    folder
        The folder of a run; it is made if it is missing.
    name
        Path of the lock file below it; the file is there only during the block, or after a kill.

    Raises
    ------
    CryoSegNetError
        Another process works in the folder (the text says which one), or the folder cannot be written.
    """
    path = folder / name
    with explained(folder):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _take(folder, path)
    try:
        with explained(folder):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        # Another run may have a new folder of this name by now, with its own lock.
        with contextlib.suppress(OSError):
            if _is_at(descriptor, path):
                path.unlink()
        os.close(descriptor)


def _take(folder: Path, path: Path) -> int:
    """Open and lock a file; its descriptor."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The process that held the lock may just have removed the file.
            if _is_at(descriptor, path):
                return descriptor
            os.close(descriptor)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return descriptor
            owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                raise
            raise CryoSegNetError(
                f"{folder}: {owner} works in this folder; wait for it or choose another output folder"
            ) from error


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one at a path."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


def is_gone(process: object, host: object) -> bool:
    """Whether a process, which noted its number and its host, was on this machine and is there no more."""
    if host != socket.gethostname() or not isinstance(process, int) or process <= 0:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def goes_on(
    folder: Path, before: Mapping[str, object], settings: Mapping[str, object], begun: bool, overwrite: bool
) -> bool:
    """Whether a run goes on with what an earlier one left in its folder; otherwise it begins anew.

    Parameters
    ----------
    folder
        The folder of the run.
    before, settings
        Everything that changes the results: of the earlier run, and of this one.
    begun
        The earlier run left results. Before that nothing depends on its settings.
    overwrite
        Begin anew.

    Raises
    ------
    CryoSegNetError
        There are results of other settings; the text says what differs.
    """
    changes = differences(before, settings)
    if changes and begun and not overwrite:
        raise CryoSegNetError(
            f"{folder} holds a run with other settings: {', '.join(changes)}; {_quicker(folder, before, settings)}give "
            f"{option('overwrite', True)} to start over, or another output folder"
        )
    return not changes and not overwrite


def _quicker(folder: Path, before: Mapping[str, object], settings: Mapping[str, object]) -> str:
    """The way to picks of another threshold without picking again, where nothing else differs."""
    now = plain(settings)
    differing = {name for name in {*before, *now} if before.get(name) != now.get(name)}
    # The folder of a CryoSPARC job is no run that the report can read.
    if differing != {"threshold"} or not isinstance(now.get("threshold"), int | float) or "server" in now:
        return ""
    command = f"cryosegnet report {shlex.quote(str(folder))} --threshold {now['threshold']:g} --write-picks DIR"
    return f"`{command}` writes the picks of that threshold in seconds, without picking again; or "


def differences(before: Mapping[str, object], settings: Mapping[str, object]) -> list[str]:
    """How settings differ from those of an earlier run, in words: ``threshold (0.3 then, 0.5 now)``."""
    now = plain(settings)
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return [f"{name} ({_short(before.get(name))} then, {_short(now.get(name))} now)" for name in names]


def plain(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings as they come back from a JSON file."""
    return dict(json.loads(json.dumps(dict(settings), default=str)))


def _short(value: object) -> str:
    text = "not set" if value is None else json.dumps(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def remove(folder: Path, names: Iterable[str]) -> None:
    """Remove files that an earlier run wrote, given as paths below a folder; a path that leads out of it is left alone.

    Raises
    ------
    OSError
        One of them cannot be removed.
    """
    for name in names:
        try:
            inside(folder, name).unlink()
        except CryoSegNetError:
            continue
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENAMETOOLONG):
                raise


def log_error(folder: Path, what: str, trace: str) -> None:
    """Note in ``errors.log`` what was being done, with a traceback, for people who look for a bug."""
    with contextlib.suppress(OSError), open(folder / "errors.log", "a", errors="replace") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {what}\n{trace}\n")
