"""What a run left in its output folder: settings, records, candidates, the diameter of its particles."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CryoSegNetError
from ..files.diameter import as_picks_hold
from ..files.inputs import OUTPUT_FOLDERS, STATE_FOLDER, natural_key
from ..files.inside import inside
from ..files.json_text import parse_json
from ..files.picks import Picks, read_picks
from .candidates import SavedCandidates, candidates_name, read_candidates
from .journal import Record, read_records, read_settings
from .written import without_changed


@dataclass(frozen=True)
class FinishedRun:
    """An output folder of ``cryosegnet pick`` or of a RELION job.

    Attributes
    ----------
    output
        The folder.
    settings
        As in the journal.
    records
        One for each micrograph, in the order of the input.
    """

    output: Path
    settings: Mapping[str, Any]
    records: Sequence[Record]

    @property
    def done(self) -> list[Record]:
        """The micrographs that were picked."""
        return [record for record in self.records if record.done]

    @property
    def failed(self) -> list[Record]:
        """The micrographs that could not be picked."""
        return [record for record in self.records if not record.done]

    @property
    def threshold(self) -> float:
        """The run's score threshold; 0 if its settings hold none."""
        value = self.settings.get("coords_threshold")
        value = self.settings.get("threshold") if value is None else value
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0

    def candidates(self, record: Record, thumbnail: bool = False) -> tuple[SavedCandidates, bool]:
        """The saved candidates of a micrograph, and whether they are complete: else they come from its pick file."""
        known = record.checksums is None or candidates_name(record.stem) in record.checksums
        kept = read_candidates(self.output, record.stem, thumbnail) if known else None
        if kept is not None:
            return kept, True
        return SavedCandidates(self._picks(record)), False

    def above(self, record: Record, threshold: float | None = None) -> Picks:
        """The picks of a micrograph above a threshold (None: the run's).

        Raises
        ------
        CryoSegNetError
            The run saved no candidates down to this threshold.
        """
        wanted = self.threshold if threshold is None else threshold
        kept, complete = self.candidates(record)
        if wanted < self.threshold and not complete:
            raise CryoSegNetError(
                f"{record.name}: its candidates below the run's threshold of {self.threshold:g} were not saved: "
                "pick again with the lower threshold."
            )
        return kept.candidates.above(wanted)

    @functools.cached_property
    def diameters(self) -> dict[bool, float]:
        """One particle diameter for the boxes of all micrographs. The key tells whether it is in angstrom.

        It is the diameter of the run, so that box files equal those of picking; if there is none, the median of the
        picks.
        """
        found: dict[bool, float] = {}
        for known in (False, True):
            sizes = [r.diameter for r in self.done if r.diameter is not None and (r.pixel_size is not None) == known]
            if sizes:
                found[known] = float(np.median(sizes))
        size = self.settings.get("diameter")
        if not isinstance(size, int | float | str):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                size = json.loads((self.output / "summary.json").read_bytes())["dataset_diameter"]
        if isinstance(size, int | float | str):
            pixel_size = next((record.pixel_size for record in self.done if record.pixel_size is not None), None)
            found[pixel_size is not None] = as_picks_hold(size, pixel_size)
        return found

    def with_diameters(self, picks: Picks, record: Record) -> Picks:
        """The same picks; those without a diameter get the median of their micrograph, else that of the run."""
        sought = self.diameters.get(picks.pixel_size is not None)
        usual = sought if record.diameter is None or picks.pixel_size != record.pixel_size else record.diameter
        known = np.isfinite(picks.diameter)
        return replace(picks, diameter=np.where(known, picks.diameter, usual or np.nan), sought=sought)

    def refuse_own_folders(self, target: Path) -> None:
        """Raise CryoSegNetError if ``target`` is a folder of the run's own files."""
        for name in (*OUTPUT_FOLDERS, STATE_FOLDER):
            own = (self.output / name).resolve()
            if own == target.resolve() or own in target.resolve().parents:
                raise CryoSegNetError(
                    f"{target} holds the run's own files, which are never overwritten: choose another folder."
                )

    def _picks(self, record: Record) -> Picks:
        """The picks of a run that saved no candidates, from the pick file with most columns."""
        for suffix in ("csv", "cbox", "star"):
            with contextlib.suppress(CryoSegNetError):
                path = inside(self.output, f"picks/{record.stem}.{suffix}")
                picks = read_picks(path, pixel_size=record.pixel_size)
                known = np.where(np.isnan(picks.diameter), record.diameter or np.nan, picks.diameter)
                return Picks(picks.x, picks.y, known, picks.score, record.pixel_size, picks.shape).by_score()
        return Picks.empty(record.pixel_size)


def open_finished(output: str | Path) -> FinishedRun:
    """Read the journal of an output folder.

    Raises
    ------
    CryoSegNetError
        Nothing was picked into the folder.
    """
    output = Path(output)
    if read_settings(output.parent) is not None:
        raise CryoSegNetError(f"{output} is part of a run: give the run's folder, {output.parent}.")
    settings = read_settings(output)
    records = without_changed(output, _in_order(output, read_records(output).values()))
    if settings is None or not records:
        raise CryoSegNetError(
            f"{output}: nothing was picked into this folder; give that of `cryosegnet pick -o`, or of a picking job."
        )
    return FinishedRun(output, settings, records)


def _in_order(output: Path, records: Iterable[Record]) -> list[Record]:
    """Records in the order of the summary, which is that of the input; those that it lacks come last, by their paths.

    The journal has them in the order in which they were finished, which depends on the engine.
    """
    places: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        entries = parse_json((output / "summary.json").read_bytes())["micrographs"]
        places = {str(entry["stem"]): i for i, entry in enumerate(entries)}
    return sorted(records, key=lambda record: (places.get(record.stem, len(places)), natural_key(record.key)))


def run_holding(path: str | Path) -> Path | None:
    """The output folder of the run to which a file or folder belongs: itself or the nearest above it; None if none."""
    whole = Path(os.path.abspath(path))
    return next((f for f in (whole, *whole.parents) if os.path.isfile(f / STATE_FOLDER / "journal.jsonl")), None)
