"""The journal of a run: which micrographs are finished, in a file that only grows, so that a killed run can go on.

``OUT/.cryosegnet/journal.jsonl`` holds one JSON object a line: the settings first, then the dataset's diameter with its
warnings, and one record for each finished or failed micrograph. If a micrograph has several records, the last one
counts. A micrograph that was found again at another path has a line that says so.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import CryoSegNetError, plural
from ..files.atomic import explained, remove_temporaries
from ..files.diameter import Diameter
from ..files.inputs import CANDIDATES_FOLDER, OUTPUT_FOLDERS, STATE_FOLDER, Input, file_identity
from ..files.inside import is_below
from ..files.json_text import from_json, parse_json
from .folder import goes_on, locked, plain, remove

log = logging.getLogger(__name__)

SCHEMA = 1
_REMOVABLE = {(name,) for name in OUTPUT_FOLDERS}
#: What reading a line raises that no run wrote.
_DAMAGED = (ValueError, TypeError, AttributeError, KeyError)


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
    expected_false
        Expected share of false picks, 0..1; None without picks or calibrated scores, and in records of versions that
        did not estimate it.
    pixel_size, given_pixel_size
        Angstrom per pixel as picked, and as the list of inputs gave it.
    file_pixel_size
        Angstrom per pixel that the micrograph's own header says, where it contradicts the list of inputs.
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
    expected_false: float | None = None
    file_pixel_size: float | None = None

    @property
    def done(self) -> bool:
        """Whether the micrograph was picked."""
        return self.status == "done"


class Journal:
    """The journal of one output folder, locked for this process while it is open.

    Parameters
    ----------
    output
        The output folder; it is made if it is missing.
    settings
        Everything that changes picks, as values for JSON.
    overwrite
        Remove the files of an earlier run and begin a new journal.

    Raises
    ------
    CryoSegNetError
        The folder cannot be written, another process works in it, it holds picks of other settings, or picks without a
        journal.
    """

    def __init__(self, output: Path, settings: Mapping[str, object], overwrite: bool = False) -> None:
        self.output = output
        self.folder = output / STATE_FOLDER
        self.path = self.folder / "journal.jsonl"
        self.settings = plain(settings)
        self.records: dict[str, Record] = {}
        self.diameter: Diameter | None = None
        #: The diameter was estimated, perhaps without a result.
        self.has_diameter = False
        #: What was found odd about the dataset, for the summary.
        self.warnings: list[str] = []
        #: Every file that any run into this folder wrote, also in formats that later runs left out.
        self._written: set[str] = set()
        #: Name, size and time of change of a file -> keys of the records of such files; made when needed.
        self._by_file: dict[tuple[str, int, int], dict[str, None]] | None = None
        self._file: Any = None
        self._lock = contextlib.ExitStack()
        try:
            with explained(output):
                self._refuse_foreign_picks(overwrite)
                self._lock.enter_context(locked(output, f"{STATE_FOLDER}/lock"))
                self._open(overwrite)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and release the lock."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
        self._lock.close()

    def add(self, record: Record) -> None:
        """Append the record of one micrograph; raises OSError if the disk is full."""
        entry = {name: value for name, value in asdict(record).items() if value is not None}
        self._append({"record": "micrograph", **entry})
        self.records[record.key] = record
        if self._by_file is not None:
            self._by_file.setdefault(_file_of(record), {})[record.key] = None

    def adopt(self, one: Input, listed: Container[str] = ()) -> str | None:
        """Recognise a micrograph that has another path since it was picked: moved, or on another mount point.

        It is the same micrograph if the name, size and time of change of its file are the same, and its old path leads
        to no other file now. It keeps its record and its stem; as a new one it would get a second set of pick files.

        Parameters
        ----------
        one
            A micrograph.
        listed
            Keys of micrographs that keep their own records.

        Returns
        -------
        str or None
            The key that it had; None if it has a record of its own, or none at all.

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
        with explained(self.path):
            self._append(entry)
        _replay(entry, self.records)
        return old[0]

    def set_diameter(self, diameter: Diameter | None) -> None:
        """Append the diameter of the dataset; None if it could not be determined."""
        entry = {"diameter": None, "in_angstrom": None} if diameter is None else diameter.as_json()
        self._append({"record": "diameter", **entry})
        self.diameter, self.has_diameter = diameter, True

    def warn(self, sentence: str) -> None:
        """Log a warning about the dataset, and remember it for the summaries of this run and of later ones."""
        log.warning(sentence)
        if sentence not in self.warnings:
            self._append({"record": "warning", "text": sentence})
            self.warnings.append(sentence)

    def forget_warnings(self) -> None:
        """Forget the warnings so far: what they tell is found out anew."""
        if self.warnings:
            self._append({"record": "warnings forgotten"})
            self.warnings.clear()

    def stems(self) -> dict[str, str]:
        """Key -> stem of every micrograph that has a record."""
        return {key: record.stem for key, record in self.records.items()}

    def _append(self, entry: Mapping[str, object]) -> None:
        # One write for a whole line: a reader, or a run after a kill, finds at most the last line cut off.
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

    def _open(self, overwrite: bool) -> None:
        before = self._read()
        picked = any(record.done for record in self.records.values())
        if before is not None:
            if not goes_on(self.output, before, self.settings, picked, overwrite):
                self._remove_outputs()
                os.truncate(self.path, 0)
                self.records, self.diameter, self.has_diameter, self.warnings = {}, None, False, []
                before = None
            # In the folder itself: of summary.json, which is the longest write, the heartbeat and the report.
            remove_temporaries(self.output)
            for name in (*OUTPUT_FOLDERS, STATE_FOLDER):
                remove_temporaries(self.output / name, below=True)
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (closed by close())
        if before is None:
            self._append({"record": "settings", "schema": SCHEMA, "version": __version__, "settings": self.settings})

    def _read(self) -> dict[str, object] | None:
        """Read the file, and remove a last line that was cut off; the settings, None if nothing was written yet."""
        known: dict[str, object] | None = None
        whole = damaged = 0
        try:
            file = open(self.path, "r+b")  # noqa: SIM115 (closed below)
        except FileNotFoundError:
            return None
        with file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                try:
                    entry = parse_json(line)
                    kind = entry.get("record")
                    if kind == "settings":
                        known = dict(entry["settings"])
                    elif kind == "diameter":
                        self.diameter, self.has_diameter = Diameter.from_json(entry), True
                    elif kind == "warning":
                        self.warnings.append(str(entry["text"]))
                    elif kind == "warnings forgotten":
                        self.warnings.clear()
                    else:
                        _replay(entry, self.records)
                        if kind == "micrograph":
                            self._written.update(entry.get("files") or ())
                except _DAMAGED:
                    damaged += 1
            file.truncate(whole)
        if damaged:
            _warn_of_damage(self.path, damaged)
        if known is None and whole:
            known = {}
        return known

    def _remove_outputs(self) -> None:
        # Anybody may have edited the journal: no other files are removed, whatever it says.
        remove(self.output, (name for name in sorted(self._written) if Path(name).parts[:1] in _REMOVABLE))
        shutil.rmtree(self.folder / CANDIDATES_FOLDER, ignore_errors=True)


def read_settings(output: str | Path) -> dict[str, object] | None:
    """The settings of the run in an output folder; None without a run."""
    path = Path(output) / STATE_FOLDER / "journal.jsonl"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError), open(path, "rb") as file:
        return dict(parse_json(file.readline())["settings"])
    return None


def read_records(output: str | Path) -> dict[str, Record]:
    """The last record of each micrograph of an output folder, by its key, in the order of the first records."""
    records: dict[str, Record] = {}
    path = Path(output) / STATE_FOLDER / "journal.jsonl"
    damaged = 0
    with contextlib.suppress(OSError), open(path, "rb") as file:
        for line in file:
            try:
                _replay(parse_json(line), records)
            except _DAMAGED:
                damaged += line.endswith(b"\n")  # else it is being written
    if damaged:
        _warn_of_damage(path, damaged)
    return records


def _warn_of_damage(path: Path, lines: int) -> None:
    log.warning(
        f"{path}: {plural(lines, 'line')} of the journal cannot be used, so it was damaged or changed; "
        "the next run picks the micrographs again that it does not know"
    )


def _replay(entry: Mapping[str, Any], records: dict[str, Record]) -> None:
    """Apply a line of the journal to the records."""
    if entry.get("record") == "micrograph":
        record = _checked(from_json(Record, entry))
        records[record.key] = record
    elif entry.get("record") == "moved":
        moved = _checked(
            from_json(Record, {**asdict(records[entry["from"]]), "key": entry["to"], "name": entry["name"]})
        )
        del records[entry["from"]]
        records[moved.key] = moved


def _checked(record: Record) -> Record:
    """The same record; raises ValueError if no run wrote it."""
    sized = record.pixel_size is None or record.pixel_size > 0
    if not (sized and record.status in ("done", "failed") and record.picks >= 0 and is_below(f"{record.stem}.star")):
        raise ValueError("impossible values")
    return record


def _file_of(record: Record) -> tuple[str, int, int]:
    return os.path.basename(record.key), record.size, record.mtime_ns


def _is_another(key: str, one: Input) -> bool:
    """Whether the old path leads to another file than the micrograph's."""
    try:
        return not os.path.samefile(key, one.path)
    except (OSError, ValueError):
        return False
