"""The files of one micrograph in a facility's job folder.

``STAR/<stem>.star`` is written last: when it exists, the other files exist too. ``STAR/<stem>.tmp`` exists while the
micrograph is being picked; an empty one that a service made stays.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..files.atomic import link_atomic, write_atomic
from ..files.checksums import checksum, is_changed, seal, unseal
from ..files.inside import inside
from ..files.json_text import from_json
from ..files.picks import Picks, encode_picks
from ..runs.folder import is_gone
from ..runs.written import keep_if_changed

log = logging.getLogger(__name__)

SCHEMA = 1

#: Folder below the job folder, and suffix, of each file of a micrograph.
STAR, CBOX, JPEG, JSON = ("STAR", ".star"), ("CBOX", ".cbox"), ("JPEG", ".jpg"), ("JSON", ".json")
WORKING = ("STAR", ".tmp")


@dataclass(frozen=True)
class PickedMicrograph:
    """The result for one micrograph; as JSON it follows the schema ``micrograph``.

    Attributes
    ----------
    micrograph, stem
        The micrograph's name as it was given, and the stem of its files.
    status
        ``done`` or ``failed``.
    picks
        Number of picks.
    diameter
        Median diameter of the picks, angstrom; None without picks.
    diameters, scores
        Diameter in angstrom and score of each pick, in the order of the STAR file's rows.
    pixel_size
        Angstrom per pixel; None where the micrograph failed before it was known.
    shape
        Rows and columns of the micrograph, (ny, nx); None as for ``pixel_size``.
    seconds
        Time for reading and picking.
    reason
        Why it failed, one sentence.
    star, cbox, jpeg
        The files, relative to the job folder; None if there is none.
    version, settings
        Version of this program, and everything that changes picks.
    size, mtime_ns
        Size and modification time of the micrograph's file. A message that is delivered twice is recognised by them.
    checksums
        Checksum (CRC-32) of the STAR and the CBOX file, by their paths relative to the job folder; None without them,
        and in files of earlier versions.
    """

    micrograph: str
    stem: str
    status: str
    picks: int = 0
    diameter: float | None = None
    diameters: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    pixel_size: float | None = None
    shape: tuple[int, int] | None = None
    seconds: float = 0.0
    reason: str | None = None
    star: str | None = None
    cbox: str | None = None
    jpeg: str | None = None
    version: str = __version__
    settings: Mapping[str, Any] | None = None
    size: int = -1
    mtime_ns: int = -1
    checksums: Mapping[str, int] | None = None

    @property
    def done(self) -> bool:
        """Whether the micrograph was picked."""
        return self.status == "done"

    def as_json(self) -> dict[str, Any]:
        """The result as values for JSON; they follow the schema ``micrograph``."""
        made = {"schema": SCHEMA, **asdict(self)}
        return dict(json.loads(json.dumps(made, default=str)))


def path_of(folder: Path, stem: str, kind: tuple[str, str]) -> Path:
    """A micrograph's file; raises CryoSegNetError if the stem leads out of the job folder."""
    return inside(folder, file_of(stem, kind))


def file_of(stem: str, kind: tuple[str, str]) -> str:
    """A micrograph's file relative to the job folder.

    >>> file_of("mic_001", STAR)
    'STAR/mic_001.star'
    """
    folder, suffix = kind
    return f"{folder}/{stem}{suffix}"


@contextmanager
def working(folder: Path, stem: str) -> Iterator[None]:
    """Keep ``STAR/<stem>.tmp`` while a micrograph is being picked; it is removed however the block ends.

    An empty one was made by the service that calls us, which removes it when it has told others of the picks: it is
    empty again after the block.
    """
    path = path_of(folder, stem, WORKING)
    path.parent.mkdir(parents=True, exist_ok=True)
    of_service = path.is_file() and path.stat().st_size == 0
    write_atomic(path, f"process {os.getpid()} on {socket.gethostname()}\n")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if of_service:
                write_atomic(path, "")
            else:
                path.unlink()


def left_by_kill(folder: Path, stem: str) -> bool:
    """Whether a process of this machine was killed in `working`; what one of another machine left may still go on."""
    with contextlib.suppress(OSError, ValueError):
        _, process, _, host = path_of(folder, stem, WORKING).read_text().split()
        own = (int(process), host) == (os.getpid(), socket.gethostname())  # in a container numbers come again
        return own or is_gone(int(process), host)
    return False


def write_done(
    folder: Path, result: PickedMicrograph, contents: Mapping[tuple[str, str], Picks | bytes | Path]
) -> PickedMicrograph:
    """Write the files of a picked micrograph, the STAR file last; returns the result with their checksums.

    Parameters
    ----------
    folder
        The job folder.
    result
        Content of the JSON file.
    contents
        Contents of the other files: picks, bytes, or the path of a file that gets a second name.

    Raises
    ------
    CryoSegNetError, OSError
        They cannot be written.
    """
    stem = result.stem
    written: dict[tuple[str, str], bytes] = {}
    for kind, content in contents.items():
        if isinstance(content, Picks):
            written[kind] = encode_picks(content, path_of(folder, stem, kind))
        elif isinstance(content, bytes):
            written[kind] = content
    result = replace(result, checksums={file_of(stem, kind): checksum(written[kind]) for kind in (STAR, CBOX)})
    before = read_json(folder, stem)
    for kind in (CBOX, JPEG, JSON, STAR):
        path = path_of(folder, stem, kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind is JSON:
            write_json(folder, result)
        elif kind in written:
            # Earlier versions wrote no checksums.
            if kind in (STAR, CBOX) and (before is None or before.checksums is not None):
                _keep(folder, result, kind, (before and before.checksums) or {}, written[kind])
            write_atomic(path, written[kind])
        elif isinstance(source := contents.get(kind), Path):
            link_atomic(source, path)
        else:
            path.unlink(missing_ok=True)
    return result


def write_failed(folder: Path, result: PickedMicrograph) -> None:
    """Write why a micrograph failed, and remove the files of earlier picks so that nobody takes them for new ones.

    Pick files are kept below ``.cryosegnet/changed``, unless they are as they were written and of another file of the
    micrograph.

    Raises
    ------
    CryoSegNetError, OSError
        The file cannot be written.
    """
    before = read_json(folder, result.stem)
    outdated = before is not None and not same_file(before, result)
    known = (before and outdated and before.checksums) or {}
    for kind in (STAR, CBOX):
        _keep(folder, result, kind, known, b"")
    for kind in (STAR, CBOX, JPEG):
        path_of(folder, result.stem, kind).unlink(missing_ok=True)
    write_json(folder, result)


def same_file(before: PickedMicrograph, now: PickedMicrograph) -> bool:
    """Whether the file of a micrograph has not changed since; also if it is not there any more."""
    return (now.size, now.mtime_ns) in ((-1, -1), (before.size, before.mtime_ns))


def _keep(
    folder: Path, result: PickedMicrograph, kind: tuple[str, str], known: Mapping[str, int], content: bytes
) -> None:
    """Keep a pick file that is about to be replaced or removed, if it is not as it was written, which is said."""
    name = file_of(result.stem, kind)
    keep_if_changed(folder, name, {known.get(name)}, content, result.micrograph)


def write_json(folder: Path, result: PickedMicrograph) -> None:
    """Write ``JSON/<stem>.json``; a damaged one that it replaces is said."""
    path = path_of(folder, result.stem, JSON)
    path.parent.mkdir(parents=True, exist_ok=True)
    if json_is_damaged(folder, result.stem):
        log.warning(f"{result.micrograph}: {path} was damaged or edited; it is written again")
    write_atomic(path, seal(json.dumps(result.as_json(), indent=1)) + "\n")


def read_json(folder: Path, stem: str) -> PickedMicrograph | None:
    """The result that an earlier run wrote; None if there is none or it is damaged."""
    with contextlib.suppress(OSError, ValueError):
        entry = unseal(path_of(folder, stem, JSON).read_bytes())
        picked = from_json(PickedMicrograph, entry)
        if entry.get("schema") == SCHEMA:
            return picked
    return None


def is_damaged(folder: Path, stem: str, checksums: Mapping[str, int]) -> bool:
    """Whether one of a micrograph's files is there and not as it was written.

    Parameters
    ----------
    folder, stem
        As for `path_of`.
    checksums
        Of the other files beside the JSON file, which has its own.
    """
    changed = any(is_changed(inside(folder, name), known) for name, known in checksums.items())
    return changed or json_is_damaged(folder, stem)


def json_is_damaged(folder: Path, stem: str) -> bool:
    """Whether ``JSON/<stem>.json`` is there and not as it was written."""
    with contextlib.suppress(OSError):
        try:
            unseal(path_of(folder, stem, JSON).read_bytes())
        except ValueError:
            return True
    return False


def columns(picks: Picks) -> dict[str, Any]:
    """The fields of `PickedMicrograph` that come from picks with a pixel size."""
    return {
        "picks": len(picks),
        "diameter": round(float(np.median(picks.diameter)), 2) if len(picks) else None,
        "diameters": tuple(round(float(d), 2) for d in picks.diameter),
        "scores": tuple(round(float(s), 6) for s in picks.score),
        "pixel_size": picks.pixel_size,
        "shape": picks.shape,
    }
