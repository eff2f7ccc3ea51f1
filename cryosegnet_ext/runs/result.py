"""The result of a run: its numbers, its exit code, its warnings, and the error if it ended early."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import CryoSegNetError, option, plural
from .engines.base import EngineError
from .false_picks import expected_false
from .journal import Journal, Record

#: There is a warning if more than this share of the micrographs failed or have no picks.
_WARN_SHARE = 0.1


@dataclass(frozen=True)
class BatchResult:
    """Result of one run.

    Attributes
    ----------
    done, failed, skipped
        Numbers of micrographs that this run picked, that failed in it, and that an earlier run finished.
    picks, without_picks
        Number of picks, and of micrographs without picks, over the done and the skipped ones.
    diameter
        Median over micrographs of their median diameter; None without picks. In angstrom if ``in_angstrom`` is true,
        else in pixels.
    failures
        (name, reason) of each failed micrograph.
    stopped
        Whether a signal or ``stop`` ended the run early.
    warnings
        Sentences about the particle's size, the contrast or the pixel size, where something does not fit the data.
    expected_false
        Expected share of false picks, 0..1, an estimate from their calibrated scores; None without picks or such
        scores.
    """

    done: int
    failed: int
    skipped: int
    picks: int
    without_picks: int
    diameter: float | None
    in_angstrom: bool
    failures: tuple[tuple[str, str], ...]
    stopped: bool
    warnings: tuple[str, ...] = ()
    expected_false: float | None = None

    @property
    def exit_code(self) -> int:
        """0 all done, 2 some failed, 3 nothing could be done, 4 stopped."""
        if self.stopped:
            return 4
        if self.done + self.skipped == 0:
            return 3
        return 2 if self.failed else 0


def result_of(
    journal: Journal, records: Sequence[Record], tried: Container[str], stopped: bool, kept: Sequence[Record]
) -> BatchResult:
    """The result of a run.

    Parameters
    ----------
    journal
        Of its output folder.
    records
        Of all its micrographs.
    tried
        Keys of those that it picked or failed to pick.
    stopped
        Whether it ended early.
    kept
        Of those that failed and whose earlier picks are kept; ``records`` has these picks.
    """
    done = [record for record in records if record.done]
    # A failure of an earlier run counts only if this run tried the micrograph again.
    failed = [*(record for record in records if not record.done and record.key in tried), *kept]
    picked = [record for record in done if record.picks]
    # Pixels and angstroms cannot be averaged: if some micrographs have a pixel size, the others are left out.
    known = [record for record in picked if record.pixel_size is not None] or picked
    diameters = [record.diameter for record in known if record.diameter is not None]
    return BatchResult(
        done=sum(record.key in tried for record in done),
        failed=len(failed),
        skipped=sum(record.key not in tried for record in done),
        picks=sum(record.picks for record in done),
        without_picks=sum(record.picks == 0 for record in done),
        diameter=float(np.median(diameters)) if diameters else None,
        in_angstrom=bool(known) and known[0].pixel_size is not None,
        failures=tuple((record.name, record.reason or "") for record in failed),
        stopped=stopped,
        warnings=warnings_of(journal, records),
        expected_false=expected_false(done),
    )


def warnings_of(journal: Journal, records: Iterable[Record]) -> tuple[str, ...]:
    """Sentences about the particle's size, the contrast or the pixel size, where something does not fit the data."""
    records = list(records)
    sentences = [*journal.warnings, _contradicting(records)]
    if any(is_header_of_one(record, journal.settings.get("pixel_size")) for record in records):
        sentences.append(one_angstrom())
    return tuple(sentence for sentence in sentences if sentence)


def _contradicting(records: Sequence[Record]) -> str | None:
    """A sentence about micrographs whose header has another pixel size than the list of inputs."""
    found = [record for record in records if record.file_pixel_size is not None]
    if not found:
        return None
    first, of_all = found[0], plural(len(records), "micrograph")
    return (
        f"the STAR file and the header disagree about the pixel size of {len(found)} of {of_all} "
        f"({first.name}: {first.given_pixel_size:.6g} and {first.file_pixel_size:.6g} A); the STAR file's is used: "
        f"check it, or set {option('pixel_size')}"
    )


def one_angstrom() -> str:
    """The sentence about micrographs of `is_header_of_one`."""
    return (
        "the headers say exactly 1.0 A per pixel, which many programs write when they do not know it; "
        f"{option('pixel_size')} sets it"
    )


def is_header_of_one(record: Record, pixel_size: object) -> bool:
    """Whether a micrograph's pixel size is an exact 1.0 that nobody gave; ``pixel_size`` is the run's."""
    return record.done and record.pixel_size == 1.0 and record.given_pixel_size is None and pixel_size is None


def ended(failure: Exception, finished: int, total: int) -> CryoSegNetError:
    """The error of a run that ended early: why, how many micrographs are kept, and what to do."""
    kept = f"{finished} of {plural(total, 'micrograph')} {'is' if finished == 1 else 'are'} finished and kept"
    if isinstance(failure, EngineError):
        return CryoSegNetError(f"{_reason(failure)}; {kept}: the same command goes on from there")
    return CryoSegNetError(
        f"writing stopped ({_reason(failure)}); {kept}: make room or repair the folder, then run the same command again"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error).rstrip(".")


def failure(record: Record) -> str:
    """Why a micrograph failed, with its name once."""
    reason = record.reason or "it failed"
    return reason if record.name in reason else f"{record.name}: {reason}"


def shortfall(done: int, without_picks: int, failed: int) -> str | None:
    """A sentence if many micrographs failed or have no picks; ``done`` counts those without picks as well."""
    total = done + failed
    if without_picks + failed <= _WARN_SHARE * total:
        return None
    of_all, have = plural(total, "micrograph"), "has" if without_picks == 1 else "have"
    if failed == total:
        return f"none of {of_all} could be picked; failed.csv says why"
    if not without_picks:
        return f"{failed} of {of_all} failed; failed.csv says why"
    return (
        f"{without_picks} of {of_all} {have} no picks and {failed} failed; look at the overlays and failed.csv, and "
        "check pixel size, diameter and threshold"
    )
