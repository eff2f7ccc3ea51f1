"""The journal of a run: which micrographs are finished, in a file that only grows, so that a killed run can go on.

``OUT/.cryosegnet/journal.jsonl`` holds one JSON object a line: the settings first, then the dataset's diameter with its
warnings, and one record for each finished or failed micrograph. If a micrograph has several records, the last one
counts. A micrograph that was found again at another path has a line that says so.

Each line has a checksum. The next run takes damaged lines out, names their micrographs, and picks those again.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import logging
import os
import shutil
from collections.abc import Container, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import CryoSegNetError, option
from ..files.atomic import explained, remove_temporaries, write_atomic
from ..files.checksums import seal, unseal
from ..files.diameter import Diameter
from ..files.inputs import CANDIDATES_FOLDER, OUTPUT_FOLDERS, STATE_FOLDER, Input, file_identity
from ..files.inside import is_below
from .folder import goes_on, locked, plain, remove
from .records import (
    DAMAGED,
    DEATHS,
    HEAD,
    Record,
    field_of,
    forget,
    journal_path,
    read_records,
    read_settings,
    replay,
    warn_of_damage,
)

__all__ = ["Journal", "Record", "read_records", "read_settings"]

log = logging.getLogger(__name__)

SCHEMA = 1
_REMOVABLE = {(name,) for name in OUTPUT_FOLDERS}


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
        self.path = journal_path(output)
        self.settings = plain(settings)
        self.records: dict[str, Record] = {}
        self.diameter: Diameter | None = None
        #: The diameter was estimated, perhaps without a result.
        self.has_diameter = False
        #: What was found odd about the dataset, for the summary.
        self.warnings: list[str] = []
        #: Lines that no run wrote.
        self._damaged: list[bytes] = []
        #: Key -> stem of micrographs whose lines are damaged and whose files are there: their new files replace those.
        self._stems: dict[str, str] = {}
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
        replay(entry, self.records, self.warnings)
        return old[0]

    def set_diameter(self, diameter: Diameter | None) -> None:
        """Append the diameter of the dataset; None if it could not be determined."""
        self._append(_diameter_entry(diameter))
        self.diameter, self.has_diameter = diameter, True
        self._write_head()

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
        """Key -> stem of every micrograph that has a record, or had one before its line was damaged."""
        return self._stems | {key: record.stem for key, record in self.records.items()}

    def _append(self, entry: Mapping[str, object]) -> None:
        # One write for a whole line: a reader, or a run after a kill, finds at most the last line cut off.
        line = _line(entry)
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def _head(self) -> bytes:
        """The lines that concern all micrographs."""
        lines = _line(self._settings_entry())
        if self.has_diameter:
            lines += _line(_diameter_entry(self.diameter))
        return lines

    def _settings_entry(self) -> dict[str, object]:
        return {"record": "settings", "schema": SCHEMA, "version": __version__, "settings": self.settings}

    def _write_head(self) -> None:
        write_atomic(self.path.with_name(HEAD), self._head())

    def _refuse_foreign_picks(self, overwrite: bool) -> None:
        if overwrite or self.path.exists():
            return
        picks = self.output / "picks"
        if picks.is_dir() and any(picks.iterdir()):
            raise CryoSegNetError(
                f"{picks} holds files but no journal of an earlier run; choose another output folder, "
                f"or {option('overwrite', True)} to write among them"
            )

    def _open(self, overwrite: bool) -> None:
        before = self._read()
        picked = any(record.done for record in self.records.values())
        if before is not None:
            if not goes_on(self.output, before, self.settings, picked, overwrite):
                self._remove_outputs()
                os.truncate(self.path, 0)
                self.records, self.diameter, self.has_diameter, self.warnings = {}, None, False, []
                self._stems, self._damaged = {}, []
                before = None
            # In the folder itself: of summary.json, which is the longest write, the heartbeat and the report.
            remove_temporaries(self.output)
            for name in (*OUTPUT_FOLDERS, STATE_FOLDER):
                remove_temporaries(self.output / name, below=True)
            if self._damaged:
                self._take_out_damaged()
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (closed by close())
        if before is None:
            self._append(self._settings_entry())
        if before is None or not self.path.with_name(HEAD).exists():
            self._write_head()

    def _read(self) -> dict[str, object] | None:
        """Read the file, and remove a last line that was cut off; the settings, None if nothing was written yet."""
        known: dict[str, object] | None = None
        whole = 0
        try:
            file = open(self.path, "r+b")  # noqa: SIM115 (closed below)
        except FileNotFoundError:
            return None
        with file:
            for line in file:
                if not line.endswith(b"\n"):
                    with contextlib.suppress(*DAMAGED):
                        unseal(line[:-1])
                        self._damaged.append(line)  # it is whole but for its end, and so it was not cut off
                    break
                whole += len(line)
                known = self._apply(line, known)
            file.truncate(whole)
        if self._damaged:
            warn_of_damage(self.path, self._damaged)
            for line in self._damaged:
                self._keep_stem(line)
            known = self._read_head(known)
        if known is None and whole:
            known = {}
        return known

    def _apply(self, line: bytes, known: dict[str, object] | None) -> dict[str, object] | None:
        """Apply a line; the settings as they are known now."""
        try:
            entry = unseal(line)
            kind = entry.get("record")
            if kind == "settings":
                return dict(entry["settings"])
            if kind == "diameter":
                self.diameter, self.has_diameter = Diameter.from_json(entry), True
            else:
                replay(entry, self.records, self.warnings)
                if kind == "micrograph":
                    self._written.update(entry.get("files") or ())
        except DAMAGED:
            self._damaged.append(line)
            forget(line, self.records)
        return known

    def _read_head(self, known: dict[str, object] | None) -> dict[str, object] | None:
        """The settings, and the diameter, from the copy of their lines where they are not known."""
        with contextlib.suppress(OSError, *DAMAGED):
            settings, *others = self.path.with_name(HEAD).read_bytes().splitlines()
            known = dict(unseal(settings)["settings"]) if known is None else known
            if others and not self.has_diameter:
                self.diameter, self.has_diameter = Diameter.from_json(unseal(others[0])), True
        return known

    def _keep_stem(self, line: bytes) -> None:
        """Keep the stem of a damaged line, if it seems to be whole."""
        for key, stem in zip(field_of(line, "key"), field_of(line, "stem")):
            if os.path.lexists(key) and is_below(f"{stem}.star") and list(self._pick_files(stem)):
                self._stems[key] = stem

    def _pick_files(self, stem: str) -> Iterator[Path]:
        path = self.output / "picks" / stem
        return path.parent.glob(f"{glob.escape(path.name)}.*")

    def _take_out_damaged(self) -> None:
        """Write the journal without damaged lines, so that they are said once; they go to ``journal.damaged``."""
        damaged = set(self._damaged)
        with open(self.path, "rb") as file:
            good = [line for line in file if line not in damaged]
        with open(self.path.with_name("journal.damaged"), "ab") as file:
            file.writelines(self._damaged)
        write_atomic(self.path, self._head() + b"".join(good))

    def _remove_outputs(self) -> None:
        # Anybody may have edited the journal: no other files are removed, whatever it says.
        remove(self.output, (name for name in sorted(self._written) if Path(name).parts[:1] in _REMOVABLE))
        shutil.rmtree(self.folder / CANDIDATES_FOLDER, ignore_errors=True)
        (self.folder / DEATHS).unlink(missing_ok=True)


def _line(entry: Mapping[str, object]) -> bytes:
    return seal(json.dumps(entry)).encode() + b"\n"


def _diameter_entry(diameter: Diameter | None) -> dict[str, object]:
    values = {"diameter": None, "in_angstrom": None} if diameter is None else diameter.as_json()
    return {"record": "diameter", **values}


def _file_of(record: Record) -> tuple[str, int, int]:
    return os.path.basename(record.key), record.size, record.mtime_ns


def _is_another(key: str, one: Input) -> bool:
    """Whether the old path leads to another file than the micrograph's."""
    try:
        return not os.path.samefile(key, one.path)
    except (OSError, ValueError):
        return False
