"""Which weights a fine-tuning leaves: the start weights, the trained ones, or a blend of the two.

Blends are those of Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022. Who judges them, labels or
tests that need none, is not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..files.atomic import write_atomic
from ..networks.unet import AttentionUNet
from ..picking.scoring import Calibration
from ..weights import resolve, sha256_of
from . import result
from .calibration import Scores
from .data import Data
from .folder import CANDIDATE, WEIGHTS, TrainingFolder
from .result import finish

#: Shares of the trained weights in the blends that are tried.
BLENDS = (1.0, 0.6, 0.3)


@dataclass(frozen=True)
class Trained:
    """A fine-tuning that has come to its end, before it is known what is kept of it.

    Attributes
    ----------
    data
        Micrographs that it learned from, and those held out.
    start
        The start weights: a name or a file.
    before, note
        Their state dict and what their file says of them.
    network
        The trained network.
    folder
        Of the run; what is kept goes there.
    device
        Where to pick for the comparison.
    """

    data: Data
    start: str
    before: Mapping[str, Tensor]
    note: Mapping[str, Any]
    network: AttentionUNet
    folder: TrainingFolder
    device: str

    @property
    def calibration(self) -> Calibration:
        """The start weights'."""
        return Calibration(**self.note.get("calibration", {}))

    @property
    def threshold(self) -> float:
        """The start weights'."""
        return float(self.note.get("threshold", 0.5))

    @property
    def segmenters(self) -> Mapping[str, Any] | None:
        """The start weights' calibrations for other segmenters, if they have any."""
        return self.note.get("segmenters")

    @property
    def candidate(self) -> Path:
        """Where weights are written to be tried."""
        return self.folder.path / CANDIDATE

    def blend(self, share: float) -> dict[str, Tensor]:
        """Weights with ``share`` of the trained ones in the start weights."""
        return blended(self.before, self.network.state_dict(), share)


@dataclass(frozen=True)
class Choice:
    """Weights that may be kept: their share of the trained ones, score and threshold, and F1 on validation."""

    share: float
    calibration: Calibration
    threshold: float
    f1: float


def blended(before: Mapping[str, Tensor], after: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights between two networks of one shape: ``share`` of the second."""
    return {k: v if not v.is_floating_point() else v + share * (after[k].to(v.device) - v) for k, v in before.items()}


def keep(trained: Trained, choice: Choice, segmenters: Mapping[str, Any] | None = None) -> None:
    """Write the chosen weights, with the start weights' calibrations for other segmenters if they are to serve."""
    note = result.note_of("default", trained.folder.path.name, choice.calibration, choice.threshold, segmenters)
    result.write_weights(trained.blend(choice.share), note, trained.folder.path / WEIGHTS)


def finish_choice(
    trained: Trained,
    best: Choice,
    untouched: Choice,
    scores: Mapping[str, Scores],
    remarks: Sequence[str] = (),
    scored_on: str | None = None,
    advice: str = "More micrographs with labels, or labels that leave out fewer particles, may help.",
) -> None:
    """Say what was kept, and write the report; the start weights are put back where ``best`` is ``untouched``."""
    said = list(remarks)
    source = Path(resolve(trained.start))
    if best is untouched:
        write_atomic(trained.folder.path / WEIGHTS, source.read_bytes())
        said.append(f"Fine-tuning did not make the network better: the start weights were kept unchanged. {advice}")
    elif best.share == 0:
        said.append("The start weights' map was best; only score and threshold were fitted to these micrographs.")
    elif best.share < 1:
        said.append(f"Kept: {best.share:.0%} of the way from the start weights to the trained ones.")
    finish(trained.folder, trained.data, scores, best.threshold, said, scored_on)
    trained.folder.write({"kept": asdict(best), "start_sha256": sha256_of(source)})
