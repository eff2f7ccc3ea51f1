"""The picks of a finished run, edited or not, handed on to a host as if a picker had just found them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import CryoSegNetError, plural, some
from ..files.diameter import from_pixels
from ..files.micrograph import Micrograph
from ..files.micrograph_names import match_micrographs
from ..files.picks import Picks
from ..files.relion_paths import is_flipped
from .edited_picks import EditedPicks
from .false_picks import has_probabilities
from .journal import Record
from .upside_down import fits_upside_down

_SHOWN = 5
#: Settings of the run that tell what its scores mean.
_SCALE = ("recipe", "calibration")


class HandedPicks:
    """A picker that picks nothing: each micrograph gets the picks that a run has of it, where edited the edited ones.

    Parameters
    ----------
    edits
        The edited picks of the run.
    threshold
        For the micrographs that were not edited; None: the run's.

    Attributes
    ----------
    sentences
        What is handed on, for the user.
    remarks
        Sentences about what needs a look: mismatches of names and edits, each with how many and which.
    """

    needs_diameter = False

    def __init__(self, edits: EditedPicks, threshold: float | None = None) -> None:
        self.edits = edits
        self.threshold = edits.run.threshold if threshold is None else threshold
        self.sentences = [edits.sentence] if edits.sentence else ["no micrograph of the run is edited"]
        self.remarks = list(edits.remarks)
        self._records: dict[str, Record] = {}

    @property
    def settings(self) -> Mapping[str, object]:
        """Everything that changes the picks; the digest of the run and its edits among it."""
        ours = {"from_run": str(self.edits.run.output), "threshold": self.threshold, "edits": self.edits.digest()}
        # Everything that is handed on counts, whatever its score.
        scale = {name: self.edits.run.settings[name] for name in _SCALE if name in self.edits.run.settings}
        return {**scale, **ours, "coords_threshold": 0.0}

    def match(self, micrographs: Mapping[str, str]) -> None:
        """Find the micrographs in the run; see `match_micrographs`.

        Parameters
        ----------
        micrographs
            What a micrograph is called when it is picked (`Micrograph.name`) -> its name in the host.

        Raises
        ------
        CryoSegNetError
            None of them is in the run, or in the run under a clear name.
        """
        records = {record.name: record for record in self.edits.run.done}
        names = list(dict.fromkeys(micrographs.values()))
        found, unclear = match_micrographs(names, records)
        output, of_all = self.edits.run.output, plural(len(names), "micrograph")
        if not found:
            first = next(iter(records), "none")
            why = f"the first is called {names[0]} here and {first} there" if names else "there are none here"
            if unclear:
                why = f"it has several called like {unclear[0]}, in other folders"
            raise CryoSegNetError(
                f"{output}: it has none of the {of_all} of this job; {why}: give the run that picked them."
            )
        self._records = {called: records[found[name]] for called, name in micrographs.items() if name in found}
        lost = [name for name in names if name not in found and name not in unclear]
        for those, why in ((lost, "does not have them"), (unclear, "has several of that name in other folders")):
            if those:
                self.remarks.append(
                    f"{len(those)} of {of_all} not handed on, because {output} {why}: {some(those, _SHOWN)}"
                )
        used = set(found.values())
        left = [record for name, record in records.items() if name not in used]
        edited = [record.name for record in left if record in self.edits]
        if edited:
            self.remarks.append(
                f"the edits of {plural(len(edited), 'micrograph')} of {output} are not handed on, because this job "
                f"does not have {'it' if len(edited) == 1 else 'them'}: {some(edited, _SHOWN)}"
            )
        if len(left) > len(edited):
            self.sentences.append(f"{plural(len(left) - len(edited), 'other micrograph')} of {output} not in this job")
        turned = [n for n in found if is_flipped(n) != is_flipped(found[n])]
        if turned:
            were = "was" if len(turned) == 1 else "were"
            self.remarks.append(
                f"{plural(len(turned), 'micrograph')} {were} picked in a file of another format, and MRC and TIFF may "
                f"be mirrored top to bottom: {some(turned, _SHOWN)}; look at the picks"
            )
        self._check_orientation(micrographs)
        judged = sum(record in self.edits for record in {r.key: r for r in self._records.values()}.values())
        if judged and has_probabilities(self.edits.run.settings):
            them = "the edited micrograph" if judged == 1 else f"the {judged} edited micrographs"
            self.sentences.append(f"the expected share of false picks leaves out {them}, which a person has judged")

    def is_edited(self, micrograph: Micrograph) -> bool:
        """Whether a person edited the picks of a micrograph: how many of them are false cannot be told from scores."""
        record = self._records.get(micrograph.name)
        return record is not None and record in self.edits

    def estimate_diameter(self, micrographs: Sequence[Micrograph]) -> float | None:
        """None: nothing is picked."""
        return None

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        """What the run has of a micrograph, in its pixels.

        Raises
        ------
        CryoSegNetError
            The run has no picks of it, they were made on a micrograph of another shape, or its edits are damaged.
        """
        record = self._records.get(micrograph.name)
        if record is None:
            raise CryoSegNetError(f"{self.edits.run.output} has no picks of it: pick it, or give the run that did.")
        picks = self.edits.picks(record, self.threshold)
        ny, nx = micrograph.data.shape
        if picks.shape is not None and picks.shape != (ny, nx):
            raise CryoSegNetError(
                f"it has {ny} rows and {nx} columns, and the run picked one of {picks.shape[0]} and {picks.shape[1]} "
                f"({record.name}): give the run that picked this micrograph."
            )
        diameters = from_pixels(picks.diameter_px, micrograph.pixel_size)
        return replace(picks, diameter=diameters, pixel_size=micrograph.pixel_size, shape=(ny, nx))

    def _check_orientation(self, micrographs: Mapping[str, str]) -> None:
        """Remark if the picks fit other files than the run's own only when mirrored."""
        there = [(Path(called), self._records[called]) for called in micrographs if called in self._records]
        other = [(path, record) for path, record in there if path.is_file() and str(path.resolve()) != record.key]
        if not other:
            return
        most = sorted(other, key=lambda one: -one[1].picks)[:4]
        tables = []
        for path, record in most:
            if record.stem not in self.edits.damaged:
                tables.append((path, self.edits.picks(record, self.threshold)))
        if fits_upside_down([(path, picks) for path, picks in tables if picks.shape is not None]):
            self.remarks.append(
                "the picks lie on particles only when mirrored top to bottom, as happens when another program "
                "corrected the motion of these micrographs: look at them before you extract"
            )
