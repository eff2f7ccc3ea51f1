"""Whether the pick files and candidates of a run are as it wrote them, by the checksums in its journal.

A file that is not was damaged, or edited by a person. Nobody can tell which, so it is not used as the run's, and never
lost: the next run picks the micrograph again, and keeps what was there below ``OUT/.cryosegnet/changed``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from ..errors import CryoSegNetError, plural, some
from ..files.atomic import make_folder, write_atomic
from ..files.checksums import checksum, is_changed
from ..files.inputs import STATE_FOLDER
from ..files.inside import inside
from .candidates import candidates_name
from .records import Record, journal_path, read_records

log = logging.getLogger(__name__)

FORMATS = ("star", "box", "cbox", "csv")
#: Where a file goes that is not as the run wrote it, before it is written anew.
CHANGED_FOLDER = "changed"
#: Files are read by so many threads where there are many, as a network's file system answers late.
_THREADS = 8
_FEW = 64
#: Folder of ``--layout facility`` -> suffix of the files in ``picks/`` that those in it are copies of.
_COPIES = {"STAR": ".star", "CBOX": ".cbox"}

One = TypeVar("One")
Answer = TypeVar("Answer")


def changed_files(output: Path, record: Record) -> list[str]:
    """The files of a micrograph below the output folder that are there and not as the run wrote them."""
    known = record.checksums or {}
    names = [name for name in (*pick_names(record.stem), candidates_name(record.stem)) if name in known]
    return [name for name in names if is_changed(inside(output, name), known[name])]


def pick_names(stem: str, formats: Sequence[str] = FORMATS) -> list[str]:
    """The pick files of a micrograph below the output folder."""
    return [f"picks/{stem}.{suffix}" for suffix in formats]


def each(function: Callable[[One], Answer], every: Sequence[One]) -> list[Answer]:
    """The answers of a function that reads files; many are read at a time."""
    if len(every) <= _FEW:
        return list(map(function, every))
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, every, chunksize=_FEW))


def without_changed(output: Path, records: Iterable[Record]) -> list[Record]:
    """The same records; those whose files are not as the run wrote them are failed, which is said."""
    every = list(records)
    found = each(lambda one: changed_files(output, one) if one.done else [], every)
    names = [record.name for record, changed in zip(every, found) if changed]
    if names:
        log.warning(
            f"{output}: the files of {plural(len(names), 'micrograph')} were damaged or edited after they were written "
            f"and are not used ({some(names)}); the same command that picked them picks them again"
        )
    return [_failed(record, changed) if changed else record for record, changed in zip(every, found)]


def _failed(record: Record, changed: Sequence[str]) -> Record:
    reason = f"{changed[0]} was damaged or edited after it was written; the same command picks it again"
    return replace(record, status="failed", reason=reason, picks=0, diameter=None, expected_false=None)


def keep_if_changed(
    output: Path, name: str, known: Collection[int | None], content: bytes, micrograph: str | None = None
) -> None:
    """Keep a file that is about to get another content, if it is not what the run wrote: it may be a person's work.

    Parameters
    ----------
    output
        The output folder.
    name
        The file below it.
    known
        Checksums of what the run may have written; None is none.
    content
        What it is to get; empty if it is to be removed.
    micrograph
        The micrograph, if the warning is to name it.

    Raises
    ------
    OSError, CryoSegNetError
        The file cannot be kept.
    """
    try:
        old = inside(output, name).read_bytes()
    except (OSError, CryoSegNetError):  # there is none, or nobody can read it
        return
    if old == content or checksum(old) in known:
        return
    kept = inside(output, f"{STATE_FOLDER}/{CHANGED_FOLDER}/{name}")
    first, number = kept, 1
    while kept.exists() and kept.read_bytes() != old:
        number += 1
        kept = first.with_name(f"{first.stem}_{number}{first.suffix}")
    make_folder(kept.parent)
    write_atomic(kept, old)
    whose = "" if micrograph is None else f"{micrograph}: "
    log.warning(f"{whose}{output / name} was damaged or edited; the old file is kept in {kept}")


def refuse_changed(path: Path) -> None:
    """Raise CryoSegNetError if a pick file is one of a run, and is not as the run wrote it."""
    path = path.absolute()
    output = _run_of(path.parent)
    if output is None:
        return
    name = path.relative_to(output)
    if name.parts[0] in _COPIES:
        name = Path("picks", *name.parts[1:]).with_suffix(_COPIES[name.parts[0]])
    journal = journal_path(output)
    status = journal.stat()
    known = _checksums(journal, (status.st_size, status.st_mtime_ns)).get(str(name))
    if known is not None and is_changed(path, known):
        raise CryoSegNetError(
            f"{path}: it was damaged or edited after the run wrote it: run the same `cryosegnet pick` again, or copy "
            "it out of the run's folder to use it as it is."
        )


@lru_cache(maxsize=64)
def _run_of(folder: Path) -> Path | None:
    """The output folder of a run in which a folder of pick files lies."""
    return next((top for top in folder.parents if journal_path(top).is_file()), None)


@lru_cache(maxsize=4)
def _checksums(journal: Path, _: tuple[int, int]) -> dict[str, int]:
    records = read_records(journal.parent.parent).values()
    return {name: value for record in records if record.done for name, value in (record.checksums or {}).items()}
