"""The files that a run writes for each micrograph: picks, overlay and candidates."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import CryoSegNetError, plural, some
from ..files.atomic import write_atomic
from ..files.checksums import checksum
from ..files.inputs import Input, file_identity
from ..files.inside import inside
from ..files.picks import encode_picks
from .candidates import candidates_name, write_candidates
from .folder import log_error, remove
from .journal import Journal, Record
from .pick_task import PickOutcome, failed
from .written import changed_files, each, keep_if_changed, pick_names

log = logging.getLogger(__name__)


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

    def finished(self, every: Sequence[tuple[Input, str]]) -> list[bool]:
        """Whether an earlier run picked these micrographs (with their stems), and neither they nor its outputs changed.

        Outputs that were damaged or edited are said.
        """
        there = [self._is_finished(one, stem) for one, stem in every]
        done = [self.journal.records[one.key] for (one, _), known in zip(every, there) if known]
        changed = {r.key for r, names in zip(done, each(lambda r: changed_files(self.folder, r), done)) if names}
        if changed:
            names = [one.name for one, _ in every if one.key in changed]
            log.warning(
                f"{self.folder}: the files of {plural(len(names), 'micrograph')} were damaged or edited after they "
                f"were written, and are picked again: {some(names)}"
            )
        return [known and one.key not in changed for (one, _), known in zip(every, there)]

    def _is_finished(self, one: Input, stem: str) -> bool:
        """Whether an earlier run picked this file, the file has not changed, and its outputs exist in their sizes."""
        record = self.journal.records.get(one.key)
        if record is None or not record.done or record.given_pixel_size != one.pixel_size:
            return False
        # A micrograph that was picked and then moved to an archive is finished.
        if file_identity(one.path) not in (None, (record.size, record.mtime_ns)):
            return False
        files = record.files or {}
        return all(name in files and _has_size(self.folder / name, files[name]) for name in self._names(stem))

    def write(self, outcome: PickOutcome) -> Record:
        """Write the files of one micrograph; if it failed, remove those of its earlier picks unless they are kept.

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
        if self.keeps(record):
            return record
        before = self.journal.records.get(record.key)
        if outcome.picks is None:
            for name in pick_names(record.stem):
                self._keep(name, before, b"")
            remove(self.folder, [*pick_names(record.stem), _overlay(record.stem)])
            return record
        if outcome.candidates is not None:
            write_candidates(self.folder, record.stem, outcome.candidates)
        try:
            return self._write(outcome, before)
        except (OSError, CryoSegNetError):
            raise
        except Exception as error:
            return self.write(failed(record, error))

    def keeps(self, record: Record) -> bool:
        """Whether a micrograph failed whose file has not changed since it was picked, and its pick files are whole.

        They are finished work, which a failure, or a wrong pixel size in a list, must not cost.
        """
        before = self.journal.records.get(record.key)
        if record.done or before is None or not before.done:
            return False
        same = (record.size, record.mtime_ns) in ((-1, -1), (before.size, before.mtime_ns))
        picks = {name: size for name, size in (before.files or {}).items() if name in pick_names(before.stem)}
        there = bool(picks) and all(_has_size(self.folder / name, size) for name, size in picks.items())
        return same and there and not changed_files(self.folder, before)

    def _write(self, outcome: PickOutcome, before: Record | None) -> Record:
        """Write pick files and overlay; the record with their sizes (None: it could not be drawn) and checksums."""
        record, stem = outcome.record, outcome.record.stem
        assert outcome.picks is not None
        sizes: dict[str, int | None] = {}
        sums: dict[str, int] = {}
        if outcome.candidates is not None:
            sums[candidates_name(stem)] = checksum(outcome.candidates)
        for name in self._names(stem):
            path = inside(self.folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if name != _overlay(stem):
                if path.exists():
                    self._keep(name, before, encode_picks(outcome.picks, path, self.box_size))
                outcome.picks.write(path, self.box_size)
                sums[name] = checksum(path.read_bytes())
            elif outcome.picture is not None:
                write_atomic(path, outcome.picture)
            else:
                path.unlink(missing_ok=True)
                sizes[name] = None
                continue
            sizes[name] = path.stat().st_size
        return replace(record, files=sizes, checksums=sums)

    def _keep(self, name: str, before: Record | None, content: bytes) -> None:
        """Keep a pick file that is about to be replaced, if it is not what an earlier run wrote."""
        sizes = (before and before.files) or {}
        earlier_version = before is not None and before.checksums is None
        if earlier_version and name in sizes and _has_size(self.folder / name, sizes[name]):
            return  # those knew sizes only
        known = None if before is None else (before.checksums or {}).get(name)
        keep_if_changed(self.folder, name, {known}, content)

    def _names(self, stem: str) -> list[str]:
        """The files of a micrograph below the output folder."""
        picks = pick_names(stem, self.formats)
        return [*picks, _overlay(stem)] if self.overlays else picks


def _overlay(stem: str) -> str:
    return f"overlays/{stem}.jpg"


def _has_size(path: Path, size: int | None) -> bool:
    if size is None:
        return True
    try:
        return path.stat().st_size == size
    except OSError:
        return False
