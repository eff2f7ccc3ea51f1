"""The weights that a fine-tuning keeps: the start weights, the trained ones, or a blend of the two.

Blends follow Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022. They are compared on labelled
micrographs (`finetune`) or by tests without labels (`selftraining`).
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
    """A fine-tuning after its last step, before it is decided which weights are kept.

    Attributes
    ----------
    data
        Micrographs for training and held-out ones.
    start
        The start weights: a name or a file.
    before, note
        State dict and note of the start weights.
    network
        The trained network.
    folder
        Folder of the run, for the weights that are kept.
    device
        Device on which the comparison is picked.
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
        """Calibration of the start weights."""
        return Calibration(**self.note.get("calibration", {}))

    @property
    def threshold(self) -> float:
        """Threshold of the start weights."""
        return float(self.note.get("threshold", 0.5))

    @property
    def segmenters(self) -> Mapping[str, Any] | None:
        """Calibrations of the start weights for other segmenters, if they have any."""
        return self.note.get("segmenters")

    @property
    def candidate(self) -> Path:
        """File for the weights that are tried."""
        return self.folder.path / CANDIDATE

    def blend(self, share: float) -> dict[str, Tensor]:
        """Blend of the start weights with a ``share`` of the trained ones."""
        return blended(self.before, self.network.state_dict(), share)


@dataclass(frozen=True)
class Choice:
    """Weights that may be kept: share of the trained ones, calibration, threshold, and F1 on validation."""

    share: float
    calibration: Calibration
    threshold: float
    f1: float


def blended(before: Mapping[str, Tensor], after: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights between those of two networks of the same shape, with a ``share`` of the second."""
    return {k: v if not v.is_floating_point() else v + share * (after[k].to(v.device) - v) for k, v in before.items()}


def keep(trained: Trained, choice: Choice, segmenters: Mapping[str, Any] | None = None) -> None:
    """Write the chosen weights, with calibrations for other segmenters if given."""
    note = result.note_of("default", trained.folder.path.name, choice.calibration, choice.threshold, segmenters)
    result.write_weights(trained.blend(choice.share), note, trained.folder.path / WEIGHTS)


def finish_choice(
    trained: Trained,
    best: Choice,
    untouched: Choice,
    scores: Mapping[str, Scores],
    remarks: Sequence[str] = (),
    scored_on: str | None = None,
    hint: str = "More micrographs with labels, or labels that leave out fewer particles, may help.",
) -> None:
    """Write the report with what was kept. If ``best`` is ``untouched``, the start weights are written again."""
    said = list(remarks)
    source = Path(resolve(trained.start))
    if best is untouched:
        write_atomic(trained.folder.path / WEIGHTS, source.read_bytes())
        said.append(f"Fine-tuning did not make the network better: the start weights were kept unchanged. {hint}")
    elif best.share == 0:
        said.append("The start weights' map was best; only score and threshold were fitted to these micrographs.")
    elif best.share < 1:
        said.append(f"Kept: {best.share:.0%} of the way from the start weights to the trained ones.")
    finish(trained.folder, trained.data, scores, best.threshold, said, scored_on)
    trained.folder.write({"kept": asdict(best), "start_sha256": sha256_of(source)})
