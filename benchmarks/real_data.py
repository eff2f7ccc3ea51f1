"""The labelled micrographs outside the repository: where they are, their labels, their splits."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from cryosegnet_ext import read_micrograph, read_picks
from cryosegnet_ext.training.crops import Labelled

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("CRYOSEGNET_TEST_DATA", HERE.parent.parent / "shared" / "data"))
SPLITS = json.loads((HERE / "splits.json").read_text())

# Suffix of the micrographs, and the particle's diameter in pixels by the measure of the simulation (97 % of the mass):
# beta-galactosidase 170 A at 1.77 A/px, apoferritin by its ring, TRPV1 by its label discs (35 px) less their margin.
SETS = {"empiar-10017-denoised": (".jpg", 96.0), "apoferritin": (".mrc", 68.0), "empiar-10059": (".mrc", 32.0)}

# Single frames of training fields of apoferritin, in which nobody sees the particles: the labels are those of their
# averages. Two more averages, labelled by a second person. For training only.
FURTHER = {"apoferritin-one-frame": (".png", 68.0), "apoferritin-more": (".png", 68.0)}
_LABELS = {"apoferritin-one-frame": "apoferritin", "apoferritin-more": "apoferritin-second-person"}

# Faint particles whose pixel size is not known, for tests only; the diameter is that of their visible core.
TEST_SETS = {"empiar-10947": (".png", 24.0)}

# Unlabelled views of five more specimens, for training only: their particles were marked by this project (views.json),
# as peaks of a difference of Gaussians or by the built-in network, and sifted by eye. No score is computed on them.
VIEWS = "views"


def centres_of_discs(mask: np.ndarray, radius: float) -> np.ndarray:
    """Cover a mask that was painted as a union of equal discs by discs, greedily; (n, 2) of x, y in mask pixels."""
    todo = (mask > 127).astype(np.float32)
    reach = int(np.ceil(radius))
    yy, xx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (xx**2 + yy**2 <= radius**2).astype(np.float32)
    whole = cv2.filter2D(todo, -1, disc, borderType=cv2.BORDER_CONSTANT) / disc.sum()
    found = []
    while True:
        gain = cv2.filter2D(todo, -1, disc, borderType=cv2.BORDER_CONSTANT) / disc.sum()
        gain[whole < 0.93] = 0
        y, x = np.unravel_index(gain.argmax(), gain.shape)
        if gain[y, x] < 0.4:
            return np.array(found, float).reshape(-1, 2)
        found.append((x, y))
        cv2.circle(todo, (int(x), int(y)), reach, 0, -1)


def diameter_of(dataset: str) -> float:
    """The particle's diameter, pixels."""
    return (SETS | TEST_SETS)[dataset][1]


def suffix_of(dataset: str) -> str:
    """The suffix of its micrographs."""
    return (SETS | TEST_SETS)[dataset][0]


def load(dataset: str, split: str) -> list[Labelled]:
    """The labelled micrographs of one split."""
    return load_named(dataset, SPLITS[dataset][split])


def load_training(names: Sequence[str], leave_out: Sequence[str]) -> dict[str, list[Labelled]]:
    """What these data sets have for training, less the sets and the single micrographs in ``leave_out``."""
    sets = {}
    for name in sorted(set(names) - set(leave_out)):
        sets[name] = load_named(name, [stem for stem in SPLITS[name]["train"] if stem not in leave_out])
    return sets


def load_named(dataset: str, stems: Sequence[str]) -> list[Labelled]:
    """These labelled micrographs, without their suffixes."""
    if dataset == VIEWS:
        return [_labelled_view(stem) for stem in stems]
    suffix, diameter = (SETS | FURTHER | TEST_SETS)[dataset]
    result = []
    for stem in stems:
        image = read_micrograph(SHARED / "micrographs" / dataset / (stem + suffix))
        if dataset == "empiar-10059":
            mask = cv2.imread(str(SHARED / "labels" / dataset / (stem + "_mask.png")), cv2.IMREAD_GRAYSCALE)
            xy = (centres_of_discs(mask, 4.4) + 0.5) * 4 - 0.5
            x, y = xy[:, 0], xy[:, 1]
        else:
            picks = read_picks(SHARED / "labels" / _LABELS.get(dataset, dataset) / (stem + ".star"))
            x, y = picks.x, picks.y
        result.append(Labelled(image.data, x, y, diameter))
    return result


def _labelled_view(stem: str) -> Labelled:
    image = read_micrograph(SHARED / "micrographs" / "quality-examples" / f"{stem}.png")
    labels = json.loads((HERE / "views.json").read_text())[stem]
    return Labelled(image.data, np.array(labels["x"]), np.array(labels["y"]), labels["diameter"])


def load_empty(split: str) -> list[Labelled]:
    """Micrographs without particles: ice, contamination, carbon, cracks; their size of particle is any."""
    folder = SHARED / "micrographs" / "quality-examples"
    return [unlabelled(read_micrograph(folder / f"{stem}.png").data) for stem in SPLITS["no-particles"][split]]


def unlabelled(data: np.ndarray) -> Labelled:
    """A micrograph (ny, nx) whose particles, if any, are not known."""
    none = np.zeros(0)
    return Labelled(data, none, none, 0.0)
