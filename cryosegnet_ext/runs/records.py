"""The records of a journal, and reading them; `cryosegnet_ext.runs.journal` writes them.

Each line has a checksum (`cryosegnet_ext.files.checksums`). Lines of earlier versions have none.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import plural, some
from ..files.checksums import unseal
from ..files.inputs import STATE_FOLDER
from ..files.inside import is_below
from ..files.json_text import from_json

log = logging.getLogger(__name__)


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
        Expected share of false picks, 0..1; None without picks or calibrated scores, where a person edited the
        picks, and in records of versions that did not estimate it.
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
    checksums
        Output below the output folder -> its checksum (`cryosegnet_ext.files.checksums`): pick files and candidates.
        None in records of earlier versions.
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
    checksums: Mapping[str, int] | None = None

    @property
    def done(self) -> bool:
        """Whether the micrograph was picked."""
        return self.status == "done"


#: What reading a line raises that no run wrote.
DAMAGED = (ValueError, TypeError, AttributeError, KeyError)
#: A copy of the lines that concern all micrographs (settings, diameter): one damaged line does not cost a whole run.
HEAD = "journal.head"
#: Beside the journal: see `cryosegnet_ext.runs.deaths`.
DEATHS = "deaths.json"
_FIELD = r'"{}": ("(?:[^"\\]|\\.)*")'


def journal_path(output: Path) -> Path:
    """The journal of an output folder."""
    return output / STATE_FOLDER / "journal.jsonl"


def read_settings(output: str | Path) -> dict[str, object] | None:
    """The settings of the run in an output folder; None without a run."""
    path = journal_path(Path(output))
    for file in (path, path.with_name(HEAD)):
        with contextlib.suppress(OSError, *DAMAGED), open(file, "rb") as opened:
            return dict(unseal(opened.readline())["settings"])
    return None


def read_records(output: str | Path) -> dict[str, Record]:
    """The last record of each micrograph of an output folder, by its key, in the order of the first records."""
    records: dict[str, Record] = {}
    path = journal_path(Path(output))
    damaged: list[bytes] = []
    with contextlib.suppress(OSError), open(path, "rb") as file:
        for line in file:
            try:
                replay(unseal(line), records, [])
            except DAMAGED:
                if line.endswith(b"\n"):  # else it is being written
                    damaged.append(line)
                    forget(line, records)
    warn_of_damage(path, damaged)
    return records


def warn_of_damage(path: Path, lines: Sequence[bytes]) -> None:
    """Say which micrographs have a damaged line in the journal, if any."""
    if lines:
        names = list(dict.fromkeys(name for line in lines for name in field_of(line, "name")))
        of = f" ({some(names)})" if names else ""
        log.warning(
            f"{path}: {plural(len(lines), 'line')} of the journal cannot be used{of}, so it was damaged or changed; "
            "the same command picks their micrographs again"
        )


def field_of(line: bytes, name: str) -> list[str]:
    """The values that a text field seems to have in a damaged line; several if lines have run together."""
    found = []
    for value in re.findall(_FIELD.format(name), line.decode(errors="replace")):
        with contextlib.suppress(ValueError):
            found.append(str(json.loads(value)))
    return found


def forget(line: bytes, records: dict[str, Record]) -> None:
    """Forget the record that a damaged line replaced."""
    for key in field_of(line, "key"):
        records.pop(key, None)


def replay(entry: Mapping[str, Any], records: dict[str, Record], warnings: list[str]) -> None:
    """Apply a line of the journal to the records and warnings; raises one of ``DAMAGED`` if no run wrote it."""
    kind = entry.get("record")
    if kind == "warning":
        warnings.append(str(entry["text"]))
    elif kind == "warnings forgotten":
        warnings.clear()
    elif kind == "micrograph":
        record = _checked(from_json(Record, entry))
        records[record.key] = record
    elif kind == "moved":
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
