"""The journal of a batch: what is finished, in a file that only ever grows, so that a killed run can go on.

``OUT/.cryosegnet/journal.jsonl`` holds one JSON object a line: the settings first, then the dataset's diameter and one
record for each finished or failed micrograph. Where a micrograph has several records the last one counts. A micrograph
that was found again at another path has a line that says so.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import CryoSegNetError
from ..files.diameter import Diameter
from ..files.inputs import CANDIDATES_FOLDER, OUTPUT_FOLDERS, STATE_FOLDER, Input, file_identity

SCHEMA = 1
#: How `cryosegnet_ext.files.atomic` begins the names of files that are not finished.
TEMPORARY_PREFIX = ".tmp-"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


@dataclass(frozen=True, slots=True)
class Record:
    """What became of one micrograph.

    Attributes
    ----------
    key, name, stem
        The file's real path, the name the user knows, and the path of its outputs below ``picks/``.
    status
        ``done`` or ``failed``; a failed one has a ``reason`` and is tried again by the next run.
    picks, diameter
        Number of picks and their median diameter (angstrom, or pixels where ``pixel_size`` is None).
    pixel_size, given_pixel_size
        Angstrom per pixel as picked, and as the list of inputs gave it.
    seconds
        Time for reading and picking.
    size, mtime_ns
        Of the input file, to notice that it has changed.
    files
        Output below the output folder -> its size in bytes; None for an overlay that could not be drawn.
    """

    key: str
    name: str
    stem: str
    status: str
    picks: int = 0
    diameter: float | None = None
    pixel_size: float | None = None
    given_pixel_size: float | None = None
    seconds: float = 0.0
    reason: str | None = None
    size: int = -1
    mtime_ns: int = -1
    files: Mapping[str, int | None] | None = None

    @property
    def done(self) -> bool:
        """Whether the micrograph was picked."""
        return self.status == "done"


_FIELDS = {field.name for field in fields(Record)}


class Journal:
    """The journal of one output folder, locked for this process while it is open.

    Parameters
    ----------
    output
        The output folder; it is made where it is missing.
    settings
        Everything that changes picks, as JSON-able values; they must be those of the journal that is there.
    overwrite
        Forget an earlier run: its files are removed and the journal starts anew.

    Raises
    ------
    CryoSegNetError
        The folder cannot be written, another process works in it, it was made with other settings, or it holds picks of
        unknown origin.
    """

    def __init__(self, output: Path, settings: Mapping[str, object], overwrite: bool = False) -> None:
        self.output = output
        self.folder = output / STATE_FOLDER
        self.path = self.folder / "journal.jsonl"
        self.settings: dict[str, object] = json.loads(json.dumps(settings, default=str))
        self.records: dict[str, Record] = {}
        self.diameter: Diameter | None = None
        #: the dataset's diameter was estimated, be it without a result
        self.has_diameter = False
        #: every output that any run into this folder wrote, also in formats that later runs left out
        self._written: set[str] = set()
        #: name, size and time of change of a file -> keys of the records of such files; made when it is asked for
        self._by_file: dict[tuple[str, int, int], dict[str, None]] | None = None
        self._file: Any = None
        self._lock = -1
        try:
            self._refuse_foreign_picks(overwrite)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            self._open(overwrite)
        except OSError as error:
            self.close()
            raise CryoSegNetError(
                f"{output}: the output folder cannot be used ({error.strerror}); check its permissions and free space"
            ) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let the next process in."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def add(self, record: Record) -> None:
        """Append the record of one micrograph; raises OSError where the disk is full."""
        entry = {name: value for name, value in asdict(record).items() if value is not None}
        self._append({"record": "micrograph", **entry})
        self.records[record.key] = record
        if self._by_file is not None:
            self._by_file.setdefault(_file_of(record), {})[record.key] = None

    def adopt(self, one: Input, listed: Container[str] = ()) -> str | None:
        """Know a micrograph again that was moved, or is reached by another path, since it was picked.

        It is the same where its file's name, size and time of change are, and its old path leads nowhere else now. It
        keeps its record and with that its stem; as a new one it would get pick files beside those that it has.

        Parameters
        ----------
        one
            A micrograph.
        listed
            Keys of micrographs that stay what they are.

        Returns
        -------
        str or None
            The key that it had; None where it is known by its own, or not at all.

        Raises
        ------
        CryoSegNetError
            The journal cannot be written.
        """
        if one.key in self.records or not self.records:
            return None
        if self._by_file is None:
            self._by_file = {}
            for record in self.records.values():
                self._by_file.setdefault(_file_of(record), {})[record.key] = None
        identity = file_identity(one.path) or (-1, -1)
        keys = self._by_file.get((os.path.basename(one.key), *identity), {})
        old = [key for key in keys if key in self.records and key not in listed and not _is_another(key, one)]
        if len(old) != 1 or identity == (-1, -1):
            return None
        entry = {"record": "moved", "from": old[0], "to": one.key, "name": one.name}
        try:
            self._append(entry)
        except OSError as error:
            raise CryoSegNetError(f"{self.path} cannot be written ({error.strerror}); free some disk space") from error
        _replay(entry, self.records)
        return old[0]

    def set_diameter(self, diameter: Diameter | None) -> None:
        """Append the dataset's diameter; None: it could not be determined."""
        entry = {"diameter": None, "in_angstrom": None} if diameter is None else diameter.as_json()
        self._append({"record": "diameter", **entry})
        self.diameter, self.has_diameter = diameter, True

    def stems(self) -> dict[str, str]:
        """Key -> stem of every micrograph that has a record."""
        return {key: record.stem for key, record in self.records.items()}

    def _append(self, entry: Mapping[str, object]) -> None:
        # One write of one whole line: a reader, or a run after a kill, sees the line or at most a torn last one.
        line = json.dumps(entry).encode() + b"\n"
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def _refuse_foreign_picks(self, overwrite: bool) -> None:
        if overwrite or self.path.exists():
            return
        picks = self.output / "picks"
        if picks.is_dir() and any(picks.iterdir()):
            raise CryoSegNetError(
                f"{picks} holds files but no journal of an earlier run; choose another output folder, "
                "or --overwrite to write among them"
            )

    def _take_lock(self) -> None:
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return
            if not isinstance(error, BlockingIOError):
                raise
            owner = os.pread(self._lock, 200, 0).decode(errors="replace").strip() or "another process"
            raise CryoSegNetError(
                f"{self.output}: {owner} is picking into this folder; wait for it or choose another output folder"
            ) from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def _open(self, overwrite: bool) -> None:
        known = self._read()
        if known is not None and overwrite:
            self._remove_outputs()
            os.truncate(self.path, 0)
            self.records, self.diameter, self.has_diameter = {}, None, False
        elif known is not None and differences(known, self.settings) and not any(r.done for r in self.records.values()):
            # nothing was picked yet, so new settings spoil nothing, and the advice of a message can be followed
            os.truncate(self.path, 0)
            self.records, self.diameter, self.has_diameter = {}, None, False
            known = None
            self._remove_unfinished()
        elif known is not None:
            self._compare(known)
            self._remove_unfinished()
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (closed by close())
        if known is None or overwrite:
            self._append({"record": "settings", "schema": SCHEMA, "version": __version__, "settings": self.settings})

    def _read(self) -> dict[str, object] | None:
        """Take in what the file says and cut off a torn last line; the settings, None where there is nothing yet."""
        known: dict[str, object] | None = None
        whole = 0
        try:
            file = open(self.path, "r+b")  # noqa: SIM115 (closed below)
        except FileNotFoundError:
            return None
        with file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError):
                    entry = json.loads(line)
                    kind = entry.get("record")
                    if kind == "settings":
                        known = dict(entry["settings"])
                    elif kind == "diameter":
                        self.diameter, self.has_diameter = Diameter.from_json(entry), True
                    else:
                        _replay(entry, self.records)
                        self._written.update(entry.get("files") or ())
            file.truncate(whole)
        if known is None and whole:
            known = {}
        return known

    def _compare(self, known: Mapping[str, object]) -> None:
        changes = differences(known, self.settings)
        if not changes:
            return
        raise CryoSegNetError(
            f"{self.output} was picked with other settings: {', '.join(changes)}; "
            "give --overwrite to pick everything again, or another output folder"
        )

    def _remove_unfinished(self) -> None:
        """Remove the temporary files of writes that a kill cut short; the lock says that no other run writes here."""
        # In the folder itself: of summary.json, which is the longest write, the heartbeat and the report.
        for top in (self.output, *(self.output / name for name in (*OUTPUT_FOLDERS, STATE_FOLDER))):
            for folder, subfolders, files in os.walk(top):
                if top == self.output:
                    subfolders.clear()
                for file in files:
                    if file.startswith(TEMPORARY_PREFIX):
                        with contextlib.suppress(FileNotFoundError):
                            os.unlink(os.path.join(folder, file))

    def _remove_outputs(self) -> None:
        remove_files(self.output, sorted(self._written))
        shutil.rmtree(self.folder / CANDIDATES_FOLDER, ignore_errors=True)


def read_settings(output: str | Path) -> dict[str, object] | None:
    """The settings that an output folder was picked with; None where nothing was picked into it yet."""
    path = Path(output) / STATE_FOLDER / "journal.jsonl"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError), open(path, "rb") as file:
        return dict(json.loads(file.readline())["settings"])
    return None


def read_records(output: str | Path) -> dict[str, Record]:
    """The last record of each micrograph of an output folder, by its key, in the order in which they came first."""
    records: dict[str, Record] = {}
    with contextlib.suppress(OSError), open(Path(output) / STATE_FOLDER / "journal.jsonl", "rb") as file:
        for line in file:
            with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError):
                _replay(json.loads(line), records)
    return records


def _replay(entry: Mapping[str, Any], records: dict[str, Record]) -> None:
    """Do to the records what a line of the journal says."""
    if entry.get("record") == "micrograph":
        record = Record(**{k: v for k, v in entry.items() if k in _FIELDS})
        records[record.key] = record
    elif entry.get("record") == "moved":
        record = records.pop(entry["from"])
        records[entry["to"]] = replace(record, key=entry["to"], name=entry["name"])


def _file_of(record: Record) -> tuple[str, int, int]:
    return os.path.basename(record.key), record.size, record.mtime_ns


def _is_another(key: str, one: Input) -> bool:
    """Whether there is a file at an old path that is not the micrograph's."""
    try:
        return not os.path.samefile(key, one.path)
    except (OSError, ValueError):
        return False


def log_error(folder: Path, what: str, trace: str) -> None:
    """Add what was being done and a traceback to ``errors.log``, for people who look for a bug."""
    with contextlib.suppress(OSError), open(folder / "errors.log", "a", errors="replace") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {what}\n{trace}\n")


def differences(known: Mapping[str, object], settings: Mapping[str, object]) -> list[str]:
    """How settings differ from those of an earlier run, in words: ``threshold (0.3 then, 0.5 now)``."""
    now = json.loads(json.dumps(settings, default=str))
    names = [name for name in sorted({*known, *now}) if known.get(name) != now.get(name)]
    return [f"{name} ({_short(known.get(name))} then, {_short(now.get(name))} now)" for name in names]


def remove_files(output: Path, names: Any) -> None:
    """Remove outputs of an earlier run, given as paths below ``output``; anything else is left alone."""
    for name in names:
        parts = Path(name).parts
        if parts and parts[0] in OUTPUT_FOLDERS and ".." not in parts:
            try:
                os.unlink(output / name)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENAMETOOLONG):
                    raise


def _short(value: object) -> str:
    text = "not set" if value is None else json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
