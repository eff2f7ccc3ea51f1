"""summary.json and failed.csv: the result of a run, for people and programs to read."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path

from .._version import __version__
from ..files.atomic import write_atomic
from ..files.inputs import natural_key
from .false_picks import expected_false
from .journal import Journal, Record
from .result import shortfall, warnings_of
from .sources import MicrographSource

SCHEMA = 1
#: During a run the summary is written at least this far apart, and takes at most this share of the time.
_SECONDS = 60.0
_SHARE = 0.01


class SummaryTimer:
    """Writes the summary now and then during a run without end; not for each micrograph, as it is written whole."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _SECONDS

    @property
    def due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() >= self._next

    def write(self, journal: Journal, source: MicrographSource, kept: Sequence[Record]) -> None:
        """Write both files."""
        start = time.monotonic()
        write_summary(journal, source.records(journal), False, kept)
        end = time.monotonic()
        self._next = end + max(_SECONDS, (end - start) / _SHARE)


def write_summary(journal: Journal, records: Sequence[Record], stopped: bool, kept: Sequence[Record]) -> None:
    """Write both files from the records of the journal; raises OSError if the disk is full.

    Parameters
    ----------
    journal
        The journal. Micrographs that earlier runs picked into the same folder are part of the summary, before the
        others, in natural order of their paths.
    records
        Records of the micrographs of this run, in its order.
    stopped
        Whether the run was stopped before its end.
    kept
        Of micrographs that failed and whose earlier picks are kept: the summary has those picks, failed.csv the reason.
    """
    ours = {record.key for record in records}
    earlier = [journal.records[key] for key in sorted(journal.records, key=natural_key) if key not in ours]
    earlier = [record for record in earlier if record.done]
    every = [*earlier, *records]
    done = [record for record in every if record.done]
    without_picks = sum(record.picks == 0 for record in done)
    short = shortfall(len(done), without_picks, len(every) - len(done))
    summary = {
        "schema": SCHEMA,
        "version": __version__,
        "settings": journal.settings,
        "dataset_diameter": None if journal.diameter is None else journal.diameter.value,
        "warnings": [*warnings_of(journal, every), *([short] if short else [])],
        "stopped": stopped,
        "totals": {
            "micrographs": len(done),
            "picks": sum(record.picks for record in done),
            "failed": len(every) - len(done),
            "without_picks": without_picks,
            "expected_false": expected_false(done),
        },
        "micrographs": [_entry(record) for record in every],
    }
    write_atomic(journal.output / "summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    _write_failed(journal.output / "failed.csv", [*(record for record in every if not record.done), *kept])


def _entry(record: Record) -> dict[str, object]:
    return {
        "name": record.name,
        "stem": record.stem,
        "status": record.status,
        "picks": record.picks,
        "expected_false": record.expected_false,
        "diameter": record.diameter,
        "pixel_size": record.pixel_size,
        "seconds": record.seconds,
        "reason": record.reason,
    }


def _write_failed(path: Path, failed: Sequence[Record]) -> None:
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["name", "reason"])
    table.writerows([record.name, record.reason] for record in failed)
    write_atomic(path, text.getvalue().encode(errors="surrogateescape"))
