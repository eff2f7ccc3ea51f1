"""Write files whole or not at all: to a temporary name in the same folder, then moved into place."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import CryoSegNetError

#: How the names of files that are being written begin.
TEMPORARY_PREFIX = ".tmp-"
_REMEDIES = {
    errno.ENOSPC: "free some disk space",
    errno.EDQUOT: "free some of your disk quota",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.ENOENT: "create its folder first",
    errno.ENOTDIR: "there is a file where its folder should be",
    errno.EISDIR: "a folder of that name is in the way",
}


@contextmanager
def atomic_path(path: str | Path, sync: bool = False) -> Iterator[Path]:
    """A temporary name to write to; it becomes ``path`` when the block ends well and is removed when it does not.

    The temporary file is in the same folder. Its name starts with "." and ends with the suffix of ``path``, for writers
    that need the suffix. Readers of ``path`` see the old file or the new one, never a part of one. The new file has the
    permissions that the umask gives.

    Parameters
    ----------
    path
        The final name of the file; its folder must exist.
    sync
        Write the data to the disk before the move, so that even a power failure does not leave an empty file.

    Yields
    ------
    Path
        A name that nobody else uses; the block creates the file.

    Raises
    ------
    CryoSegNetError
        The file cannot be written: no permission, no folder, no space.

    Examples
    --------
    >>> with atomic_path("table.npy") as temporary:  # doctest: +SKIP
    ...     np.save(temporary, table)
    """
    target = Path(path)
    temporary = target.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(6)}{target.suffix}"
    try:
        yield temporary
        if sync:
            _sync(temporary)
        os.replace(temporary, target)
        if sync and os.name == "posix":
            _sync(target.parent)
    except OSError as error:
        # An error about another file, which the block reads, is not explained here.
        if error.filename is not None and str(error.filename) not in (str(temporary), str(target), str(target.parent)):
            raise
        raise _cannot_write(target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_atomic(path: str | Path, data: bytes | str, sync: bool = False) -> None:
    """Write ``data`` (text as UTF-8, line ends as they are) to ``path``, whole or not at all.

    Raises
    ------
    CryoSegNetError
        The file cannot be written: no permission, no folder, no space.
    """
    with atomic_path(path, sync=sync) as temporary:
        # Names of files need not be UTF-8, and are written as they were read.
        temporary.write_bytes(data.encode(errors="surrogateescape") if isinstance(data, str) else data)


def link_atomic(source: Path, path: Path) -> None:
    """Make ``path`` another name of the file ``source``, whole or not at all; a copy where the disk has no such links.

    Both names keep what they have when the other one is replaced by `write_atomic`, or removed.

    Raises
    ------
    CryoSegNetError
        The file cannot be written: no permission, no folder, no space.
    OSError
        The source cannot be read.
    """
    with atomic_path(path) as temporary:
        try:
            os.link(source.resolve(), temporary)
        except OSError:  # another disk, a file of another user, or a file system without hard links
            temporary.write_bytes(source.read_bytes())


@contextmanager
def explained(path: str | Path) -> Iterator[None]:
    """A block that writes a file or a folder; an OSError in it becomes a sentence.

    Raises
    ------
    CryoSegNetError
        The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise _cannot_write(path, error) from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it; raises CryoSegNetError if it cannot be made."""
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)


def _cannot_write(path: str | Path, error: OSError) -> CryoSegNetError:
    remedy = _REMEDIES.get(error.errno or 0, "check the path and the disk")
    return CryoSegNetError(f"cannot write {path} ({error.strerror or error}): {remedy}.")


def remove_temporaries(folder: Path, below: bool = False) -> None:
    """Remove what a kill left of files that were being written into a folder, where nobody writes now.

    Parameters
    ----------
    folder
        The folder; it need not exist.
    below
        Look into the folders below it as well.
    """
    for path in folder.glob(f"{'**/' if below else ''}{TEMPORARY_PREFIX}*"):
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
