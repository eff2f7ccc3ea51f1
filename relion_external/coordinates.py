"""Existing picks (``--in_coords``): read from RELION's lists, then scored again or refined by the picker."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryosegnet_ext.evaluation import match as match_pairs
from cryosegnet_ext.files.inputs import Input
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.files.picks import Picks, read_many, read_picks
from cryosegnet_ext.files.relion import coordinate_list
from cryosegnet_ext.runs.batch import MicrographPicker
from cryosegnet_ext.runs.journal import read_records

# A candidate within this share of the diameter is the same particle.
_REACH = 0.5


class ExistingPicks:
    """Picks of an earlier job.

    Parameters
    ----------
    path
        A list of coordinate files (see `coordinate_list`), or a STAR file of particles with rlnMicrographName.
    names
        The micrographs, as their STAR file calls them.

    Raises
    ------
    CryoSegNetError
        The file cannot be read, or is neither of these.
    """

    def __init__(self, path: str, names: Iterable[str]) -> None:
        self.path = path
        self._files = coordinate_list(path, names)
        self._tables = read_many(path) if self._files is None else {}

    def of(self, name: str) -> Picks:
        """The picks of one micrograph; empty if the job has none."""
        if self._files is None:
            return self._tables.get(name, Picks.empty())
        return read_picks(self._files[name]) if name in self._files else Picks.empty()

    def file_of(self, name: str) -> str | os.PathLike[str] | None:
        """The file with the picks of one micrograph; None if there is none."""
        return self.path if self._files is None else self._files.get(name)


def forget_changed(folder: Path, existing: ExistingPicks, inputs: Sequence[Input]) -> None:
    """Make Continue score micrographs again whose coordinates were changed after the last scoring."""
    records = read_records(folder)
    for one in inputs:
        file = existing.file_of(one.name)
        if file is not None and one.key in records:
            scored = folder / "picks" / f"{records[one.key].stem}.star"
            with contextlib.suppress(FileNotFoundError):
                if os.stat(file).st_mtime_ns > scored.stat().st_mtime_ns:
                    scored.unlink()


class CoordinatePicker:
    """Gives existing picks the scores, and if asked the centres, of the picker's candidates at the same particles.

    Parameters
    ----------
    picker
        Made with threshold 0, so that it returns every candidate.
    existing
        The picks.
    inputs
        The micrographs, with their names in RELION.
    refine
        False: centres stay, and a pick without a candidate scores 0. True: centres are the candidates', and picks
        without one are dropped.
    threshold
        Lowest score that is kept.
    """

    def __init__(
        self,
        picker: MicrographPicker,
        existing: ExistingPicks,
        inputs: Sequence[Input],
        refine: bool,
        threshold: float | None,
    ) -> None:
        self._picker = picker
        self._existing = existing
        self._names = {str(one.path): one.name for one in inputs}
        self._refine = refine
        self.threshold = 0.0 if threshold is None else threshold

    @property
    def device(self) -> str | None:
        """The picker's device."""
        return getattr(self._picker, "device", None)

    @property
    def settings(self) -> Mapping[str, object]:
        """The picker's settings, and how which coordinates are used."""
        mode = "refine" if self._refine else "rescore"
        ours = {"in_coords": self._existing.path, "coords": mode, "coords_threshold": self.threshold}
        return {**self._picker.settings, **ours}

    @property
    def needs_diameter(self) -> bool:
        """As the picker."""
        return self._picker.needs_diameter

    def estimate_diameter(self, micrographs: Sequence[Micrograph]) -> float | None:
        """As the picker."""
        return self._picker.estimate_diameter(micrographs)

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        """The existing picks of one micrograph with their new scores; those outside the micrograph are dropped."""
        return self.candidates(micrograph, diameter).above(self.threshold)

    def candidates(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        """The same without a threshold."""
        ny, nx = micrograph.data.shape
        old = self._existing.of(self._names.get(micrograph.name, micrograph.name))
        old = old.take((old.x >= 0) & (old.y >= 0) & (old.x <= nx - 1) & (old.y <= ny - 1))
        if not len(old):
            return Picks.empty(micrograph.pixel_size, (ny, nx))
        found = match(old, self._picker.pick(micrograph, diameter), self._refine)
        return replace(found, pixel_size=micrograph.pixel_size, shape=(ny, nx))


def match(old: Picks, new: Picks, refine: bool) -> Picks:
    """Pair picks with candidates one to one.

    Parameters
    ----------
    old, new
        Picks and candidates of the same micrograph; the candidates know their diameters.
    refine
        Take the candidates' centres and drop picks without one.
    """
    reach = _REACH * float(np.median(new.diameter_px)) if len(new) else 0.0
    i, j = match_pairs(np.c_[old.x, old.y], np.c_[new.x, new.y], reach)
    if refine:
        return new.take(j[np.argsort(i)])
    score, diameter = np.zeros(len(old)), np.full(len(old), np.median(new.diameter) if len(new) else np.nan)
    score[i], diameter[i] = new.score[j], new.diameter[j]
    return Picks(old.x, old.y, diameter, score, new.pixel_size, new.shape)
