"""A job folder that a running process fills: one message, one micrograph, and the model stays loaded."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ..errors import CryoSegNetError, memory_explained
from ..files.atomic import explained, write_atomic
from ..files.diameter import Diameter
from ..files.inputs import file_identity
from ..files.inside import check_stem, inside
from ..files.json_text import parse_json
from ..files.micrograph import Micrograph, check_pixel_size, micrograph_stem, read_micrograph, require_pixel_size
from ..files.overlay import encode_overlay
from ..files.picks import Picks, read_picks
from ..files.text import read_bytes
from ..picking.sampling import MICROGRAPHS
from ..runs.diameter import doubted, given_diameter, seen_diameter
from ..runs.folder import log_error, plain
from ..runs.journal import Record, read_records
from ..runs.pick_task import MicrographPicker
from ..runs.written import changed_files, each
from . import layout
from .layout import PickedMicrograph

log = logging.getLogger(__name__)

_DIAMETER = "diameter.json"
#: A micrograph at which the process was killed so often is not picked any more.
_MOST_DEATHS = 2
#: Of the files of a micrograph: what they hold, or the file that gets a second name.
Contents: TypeAlias = dict[tuple[str, str], Picks | bytes | Path]


class FacilityJob:
    """Picks micrographs one by one into a job folder.

    Each micrograph gets ``STAR/<stem>.star``, ``CBOX/<stem>.cbox``, ``JPEG/<stem>.jpg`` and ``JSON/<stem>.json``.
    ``STAR/<stem>.tmp`` exists while it is being picked. A micrograph that was picked before, from the same file with
    the same settings, is answered from its JSON file, so a message may be delivered twice. Several processes may work
    in one folder, each on micrographs of its own.

    Without a given diameter the job estimates one from each of the first eight micrographs and uses the median so far.
    It stays in the folder for later processes. The picks of those eight may differ a little from those of a later run.
    A given diameter is compared with what the first micrograph shows; a warning is logged if it does not fit, and
    picking goes on.

    Parameters
    ----------
    picker
        The loaded model, `cryosegnet_ext.Picker`.
    folder
        The job folder, such as ``AutoPick/job005``; created if it does not exist.
    pixel_size
        Angstrom per pixel of micrographs that are given without one; by default that of their header.
    pictures
        Write the JPEG pictures.

    Raises
    ------
    CryoSegNetError
        The folder cannot be written, or the pixel size is impossible.

    Examples
    --------
    >>> job = FacilityJob(Picker(), "AutoPick/job005")
    >>> picked = job.pick("MotionCorr/job002/Movies/mic_001.mrc", pixel_size=0.83)
    >>> picked.picks, picked.diameters
    """

    def __init__(
        self, picker: MicrographPicker, folder: str | Path, *, pixel_size: float | None = None, pictures: bool = True
    ) -> None:
        self.picker = picker
        self.folder = Path(folder)
        self.pixel_size = None if pixel_size is None else check_pixel_size(pixel_size, str(folder))
        self.pictures = pictures
        self._state = self.folder / ".cryosegnet"
        with explained(self.folder):
            self._state.mkdir(parents=True, exist_ok=True)
        self._settings = plain(picker.settings)
        self._estimates = self._read_estimates()
        self._given = given_diameter(self._settings)

    @property
    def diameter(self) -> float | None:
        """Median of the estimates so far, angstrom; None before the first."""
        return float(np.median(self._estimates)) if self._estimates else None

    def pick(self, path: str | Path, pixel_size: float | None = None) -> PickedMicrograph:
        """Pick one micrograph and write its files.

        Parameters
        ----------
        path
            The micrograph.
        pixel_size
            Angstrom per pixel; by default that of the job, then that of the header.

        Returns
        -------
        PickedMicrograph
            Also for a micrograph that failed: it gives the reason, and there is no STAR file. Where its name cannot be
            that of a file, or is too long, there is no JSON file either. If an argument is wrong, or the micrograph's
            file has not changed since it was picked, a failure changes no file: those of the earlier picks stay.

        Raises
        ------
        CryoSegNetError
            The files cannot be written: the next micrograph would fail as well.
        """
        name, stem = os.fspath(path), micrograph_stem(path)
        blank = PickedMicrograph(name, stem or "unnamed", "failed", settings=self._settings)
        try:
            check_stem(stem)
            pixel_size = self.pixel_size if pixel_size is None else check_pixel_size(pixel_size, name)
        except CryoSegNetError as error:
            return replace(blank, reason=str(error))
        identity = file_identity(path)
        if identity is not None:
            blank = replace(blank, size=identity[0], mtime_ns=identity[1])
        before = layout.read_json(self.folder, stem)
        if before is not None and before.done and _differ(before.micrograph, name):
            reason = f"{before.micrograph} has the same stem and was picked into this folder; use another job folder"
            return replace(blank, reason=reason)
        whole = before is not None and not layout.is_damaged(self.folder, stem, before.checksums or {})
        finished = before is not None and whole and self._is_finished(before, blank)
        if before is not None and finished and self._is_current(before, blank, pixel_size):
            return before
        with explained(self.folder):
            kept = self._state / "deaths" / f"{stem}.json"
            deaths = self._deaths(kept, blank)
            with layout.working(self.folder, stem):
                if deaths < _MOST_DEATHS:
                    result = self._pick(path, pixel_size, blank, finished)
                    kept.unlink(missing_ok=True)
                    return result
                reason = (
                    f"the program was killed {deaths} times while it picked this micrograph, perhaps for lack of "
                    f"memory; give it more memory and remove {kept}, then pick it again"
                )
                return self._failed(replace(blank, reason=reason), finished)

    def _deaths(self, kept: Path, now: PickedMicrograph) -> int:
        """How often a process was killed while it picked this file; what it left tells of the last time."""
        deaths = 0
        with contextlib.suppress(OSError, ValueError, TypeError):
            count, *identity = parse_json(kept.read_bytes())
            deaths = count if type(count) is int and identity == [now.size, now.mtime_ns] else 0
        if layout.left_by_kill(self.folder, now.stem):
            deaths += 1
            kept.parent.mkdir(exist_ok=True)
            write_atomic(kept, json.dumps([deaths, now.size, now.mtime_ns]) + "\n")
        return deaths

    def _pick(
        self, path: str | Path, pixel_size: float | None, blank: PickedMicrograph, finished: bool
    ) -> PickedMicrograph:
        start = time.monotonic()
        try:
            with memory_explained():
                micrograph = read_micrograph(path, pixel_size=pixel_size)
                # The contract promises diameters in angstrom.
                require_pixel_size(micrograph, "the size of its particles")
                picks = self.picker.pick(micrograph, self._diameter_for(micrograph))
        except Exception as error:
            known = isinstance(error, CryoSegNetError)
            if not known:
                log_error(self._state, blank.micrograph, traceback.format_exc())
            reason = str(error) if known else f"unexpected error {type(error).__name__}: {error}"
            return self._failed(replace(blank, reason=" ".join(reason.split()), seconds=_since(start)), finished)
        picture = self._picture(micrograph, picks)
        result = _done(replace(blank, seconds=_since(start)), picks, picture)
        return layout.write_done(self.folder, result, _contents(picks, picks, picture))

    def _failed(self, result: PickedMicrograph, finished: bool) -> PickedMicrograph:
        """Write why a micrograph failed; ``finished`` picks of the same file are kept, and nothing is written."""
        if finished:
            reason = (result.reason or "").rstrip(".")
            return replace(result, reason=f"{reason}; the files of its earlier picks are kept")
        layout.write_failed(self.folder, result)
        return result

    def _is_finished(self, before: PickedMicrograph, now: PickedMicrograph) -> bool:
        """Whether the file was picked and has not changed since, as far as it is seen, and the pick files exist."""
        there = all(layout.path_of(self.folder, now.stem, kind).exists() for kind in (layout.STAR, layout.CBOX))
        return before.done and layout.same_file(before, now) and there

    def _is_current(self, before: PickedMicrograph, now: PickedMicrograph, pixel_size: float | None) -> bool:
        """Whether finished picks were made as they would be now, and the picture is there that they name."""
        sized = pixel_size is None or before.pixel_size == pixel_size
        drawn = not self.pictures or before.jpeg is None or layout.path_of(self.folder, now.stem, layout.JPEG).exists()
        return before.settings == now.settings and sized and drawn

    def _diameter_for(self, micrograph: Micrograph) -> float | None:
        if self._given is not None and self._given.unit == "angstrom":
            # A service goes on: one odd micrograph must not stop it.
            given, self._given = self._given, None
            if doubt := doubted(given, seen_diameter(self.picker, [micrograph])):
                log.warning(f"{micrograph.name}: {doubt}")
        if self.picker.needs_diameter and len(self._estimates) < MICROGRAPHS:
            seen = seen_diameter(self.picker, [micrograph])
            if seen is not None:
                self._estimates.append(seen.value)
                write_atomic(self._state / _DIAMETER, json.dumps({"angstrom": self._estimates}) + "\n")
        return self.diameter

    def _read_estimates(self) -> list[float]:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            every = parse_json((self._state / _DIAMETER).read_bytes())["angstrom"]
            return [known.value for one in every if (known := Diameter.from_json({"diameter": one})) is not None]
        return []

    def _picture(self, micrograph: Micrograph, picks: Picks) -> bytes | None:
        if not self.pictures:
            return None
        try:
            return encode_overlay(micrograph.data, picks)
        except Exception:
            # A picture that fails must not cost the picks.
            log_error(self._state, f"picture of {micrograph.name}", traceback.format_exc())
            return None


class Publisher:
    """Writes the same files for ``cryosegnet pick --layout facility``, from those in ``picks/`` and ``overlays/``.

    The run calls `check` at its start, and the object for each finished micrograph. One that cannot be published gets a
    JSON file with the reason.

    Parameters
    ----------
    folder
        The output folder, with ``picks/<stem>.star`` and ``.cbox``, and ``overlays/<stem>.jpg`` if overlays are drawn.
    settings
        Everything that changes picks.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        self._folder = folder
        self._settings = plain(settings)

    def __call__(self, record: Record, finished: int = 0, total: int = 0) -> None:
        """Write the files of one micrograph."""
        folder, stem = self._folder, record.stem
        blank = PickedMicrograph(record.name, stem, "failed", seconds=record.seconds, reason=record.reason)
        blank = replace(blank, settings=self._settings, size=record.size, mtime_ns=record.mtime_ns)
        if not record.done:
            with contextlib.suppress(CryoSegNetError):  # a name that no file can have failed for that
                check_stem(stem)
                layout.write_failed(folder, blank)
            return
        try:
            star, cbox = (inside(folder, f"picks/{stem}{suffix}") for suffix in (".star", ".cbox"))
            overlay = inside(folder, f"overlays/{stem}.jpg")
            picture = overlay if overlay.is_file() and os.access(overlay, os.R_OK) else None
            result = _done(blank, read_picks(cbox, pixel_size=record.pixel_size), picture)
            contents = _contents(read_bytes(star), read_bytes(cbox), picture)
        except CryoSegNetError as error:
            log.error(str(error))
            layout.write_failed(folder, replace(blank, reason=str(error)))
            return
        layout.write_done(folder, result, contents)

    def check(self) -> None:
        """Write files of earlier runs anew that are missing, damaged or edited, and all where there are none yet.

        Micrographs whose files in ``picks/`` are not as they were written are left out: the run picks them again.
        """
        done = [record for record in read_records(self._folder).values() if record.done]
        for record, wrong in zip(done, each(self._is_wrong, done)):
            if wrong:
                self(record)

    def _is_wrong(self, record: Record) -> bool:
        """Whether files of a micrograph are missing, or not as they were written, and can be made from its picks."""
        folder, stem = self._folder, record.stem
        kinds = [layout.STAR, layout.CBOX, layout.JSON]
        if inside(folder, f"overlays/{stem}.jpg").exists():
            kinds.append(layout.JPEG)
        copied = {f"picks/{stem}{kind[1]}": layout.file_of(stem, kind) for kind in (layout.STAR, layout.CBOX)}
        sums = record.checksums or {}
        there = all(layout.path_of(folder, stem, kind).exists() for kind in kinds)
        if there and not layout.is_damaged(folder, stem, {copied[name]: sums[name] for name in copied if name in sums}):
            return False
        picks = [inside(folder, name) for name in copied]
        return all(path.exists() for path in picks) and not {*copied}.intersection(changed_files(folder, record))


def _done(blank: PickedMicrograph, picks: Picks, picture: bytes | Path | None) -> PickedMicrograph:
    """The answer for a micrograph that was picked."""
    stem = blank.stem
    return replace(
        blank,
        status="done",
        star=layout.file_of(stem, layout.STAR),
        cbox=layout.file_of(stem, layout.CBOX),
        jpeg=None if picture is None else layout.file_of(stem, layout.JPEG),
        **layout.columns(picks),
    )


def _contents(star: Picks | bytes, cbox: Picks | bytes, picture: bytes | Path | None) -> Contents:
    contents: Contents = {layout.STAR: star, layout.CBOX: cbox}
    return contents if picture is None else contents | {layout.JPEG: picture}


def _differ(one: str, other: str) -> bool:
    try:
        return os.path.realpath(one) != os.path.realpath(other)
    except ValueError:  # of a folder with a name that is impossible
        return True


def _since(start: float) -> float:
    return round(time.monotonic() - start, 3)
