"""The files that a run writes for each micrograph: picks, overlay and candidates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import CryoSegNetError
from ..files.atomic import write_atomic
from ..files.inputs import Input, file_identity
from ..files.inside import inside
from ..files.picks import Picks
from .candidates import write_candidates
from .folder import log_error, remove
from .journal import Journal, Record
from .pick_task import PickOutcome, failed

FORMATS = ("star", "box", "cbox", "csv")


@dataclass(frozen=True)
class RunOutputs:
    """What is written for each micrograph, and where.

    Attributes
    ----------
    journal
        Journal of the output folder; it remembers which files were written.
    formats
        Formats of the pick files.
    overlays
        Draw the picks on a picture.
    box_size
        Side of the boxes of box and cbox files, pixels; None: the particle diameter of the dataset.
    """

    journal: Journal
    formats: tuple[str, ...]
    overlays: bool
    box_size: int | None

    @property
    def folder(self) -> Path:
        """The output folder."""
        return self.journal.output

    def is_finished(self, one: Input, stem: str) -> bool:
        """Whether an earlier run picked this file, the file has not changed, and its outputs exist."""
        record = self.journal.records.get(one.key)
        if record is None or not record.done or record.given_pixel_size != one.pixel_size:
            return False
        # A micrograph that was picked and then moved to an archive is finished.
        if file_identity(one.path) not in (None, (record.size, record.mtime_ns)):
            return False
        files = record.files or {}
        return all(name in files and _has_size(self.folder / name, files[name]) for name in self._names(stem))

    def write(self, outcome: PickOutcome) -> Record:
        """Write the files of one micrograph, or remove those of its earlier picks if it failed now.

        Returns
        -------
        Record
            For the journal, which gets it only after the files are written and never names one that does not exist.

        Raises
        ------
        OSError, CryoSegNetError
            The files cannot be written: the next micrograph would fail as well.
        """
        for what, trace in outcome.log:
            log_error(self.journal.folder, what, trace)
        record = outcome.record
        if outcome.picks is None:
            every = [_picks(record.stem, suffix) for suffix in FORMATS]
            remove(self.folder, [*every, _overlay(record.stem)])
            return record
        if outcome.candidates is not None:
            write_candidates(self.folder, record.stem, outcome.candidates)
        try:
            return replace(record, files=self._write(record.stem, outcome.picks, outcome.picture))
        except (OSError, CryoSegNetError):
            raise
        except Exception as error:
            return self.write(failed(record, error))

    def _write(self, stem: str, picks: Picks, picture: bytes | None) -> dict[str, int | None]:
        """Write pick files and overlay; file -> size, None for an overlay that could not be drawn."""
        sizes: dict[str, int | None] = {}
        for name in self._names(stem):
            path = inside(self.folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if name != _overlay(stem):
                picks.write(path, self.box_size)
            elif picture is not None:
                write_atomic(path, picture)
            else:
                path.unlink(missing_ok=True)
                sizes[name] = None
                continue
            sizes[name] = path.stat().st_size
        return sizes

    def _names(self, stem: str) -> list[str]:
        """The files of a micrograph below the output folder."""
        picks = [_picks(stem, suffix) for suffix in self.formats]
        return [*picks, _overlay(stem)] if self.overlays else picks


def _picks(stem: str, suffix: str) -> str:
    return f"picks/{stem}.{suffix}"


def _overlay(stem: str) -> str:
    return f"overlays/{stem}.jpg"


def _has_size(path: Path, size: int | None) -> bool:
    if size is None:
        return True
    try:
        return path.stat().st_size == size
    except OSError:
        return False
