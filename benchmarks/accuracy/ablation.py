"""What each step adds, on the held-out micrographs: the U-Net's map alone, segmenters, postprocessing, flips.

    python -m benchmarks.accuracy.ablation
    python -m benchmarks.accuracy.ablation --sam sam_vit_b       # and the published grid, where such a SAM is at hand

The true size is given, so that every row works at the same scale. The steps before postprocessing have the mean
probability in the mask as their score, threshold 0.5; with postprocessing it is the calibrated score at the default
threshold of the segmenter. ``best F1`` is over all thresholds, chosen with the labels: an upper end for every row.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks import real_data
from benchmarks.accuracy import held_out
from benchmarks.weights.calibrate import WORKING_DIAMETER
from cryosegnet_ext import Picker, Picks
from cryosegnet_ext.evaluation import SetScore
from cryosegnet_ext.files.diameter import to_pixels
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.picking.denoise import bad_areas, working_image
from cryosegnet_ext.picking.postprocess import MapGeometry
from cryosegnet_ext.picking.segment import watershed
from cryosegnet_ext.picking.windows import cut
from cryosegnet_ext.training.crops import LABEL_SHARE
from cryosegnet_ext.weights import load_sam

EXPECTED_AREA = float(np.pi / 4 * (LABEL_SHARE * WORKING_DIAMETER) ** 2)
ALONE = "U-Net alone: connected parts of the map"
WITH_SAM = "U-Net + SAM peaks"
DEFAULT = "SAM peaks + postprocessing (default)"
FLIPS = ((1, 1), (1, -1), (-1, 1), (-1, -1))


class FlippedPicker(Picker):
    """The mean of the maps of an image and its mirror images."""

    def _map(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        seen = super()._map
        maps = [seen(np.ascontiguousarray(image[::i, ::j]))[::i, ::j] for i, j in FLIPS]
        return np.ascontiguousarray(np.mean(maps, axis=0, dtype=np.float32))


class Steps:
    """The steps of the default recipe, each to be left out.

    Parameters
    ----------
    weights
        Of the U-Net.
    sam
        A SAM of a published size for the grid, or None.
    flips
        Also the mean over four mirror images, which takes four times as long.
    """

    def __init__(self, weights: str, sam: str | None, flips: bool = True) -> None:
        self._default = Picker(weights, segmenter="peaks")
        self._whole = {
            "watershed + postprocessing": Picker(weights, segmenter="watershed"),
            DEFAULT: self._default,
        }
        if flips:
            self._whole["SAM peaks + postprocessing, mean of four flips"] = FlippedPicker(weights, segmenter="peaks")
        if sam:
            self._whole[f"grid of {sam} + postprocessing"] = Picker(weights, segmenter="grid", sam=sam)
        self._sam = load_sam("sam_small")

    def __call__(self, data: held_out.HeldOut) -> Iterator[tuple[str, SetScore]]:
        """Name of each variant and its figures on one data set."""
        size = data.task.diameter
        raw: dict[str, dict[str, Picks]] = {}
        for m in data.task.micrographs:
            for name, picks in self._without_postprocessing(m, size):
                raw.setdefault(name, {})[m.name] = picks
        for name, picks_of in raw.items():
            yield name, data.score(name, picks_of, 0.5)
        for name, picker in self._whole.items():
            found = {m.name: picker.candidates(m, size) for m in data.task.micrographs}
            yield name, data.score(name, found, picker.threshold)

    def _without_postprocessing(self, m: Micrograph, size: float) -> Iterator[tuple[str, Picks]]:
        probability = self._default.probability_map(m, size).data
        scale = WORKING_DIAMETER / to_pixels(size, m.pixel_size)
        work = working_image(m.data, scale, bad_areas(m.data, m.valid))
        frame = MapGeometry((m.data.shape[0], m.data.shape[1]), work.scale_y, work.scale_x, m.pixel_size, None)
        label, count = ndimage.label(probability > 0.5)
        index = np.arange(1, count + 1)
        y, x = np.array(ndimage.center_of_mass(label > 0, label, index)).reshape(-1, 2).T
        mean = np.asarray(ndimage.mean(probability, label, index), float) if count else np.zeros(0)
        yield ALONE, _picks(x, y, mean, frame)
        masks = watershed(probability, diameter_px=WORKING_DIAMETER)
        yield "U-Net + watershed", _picks(masks.x, masks.y, masks.probability, frame)
        masks = cut(probability, work.data, self._sam, diameter_px=WORKING_DIAMETER, expected_area=EXPECTED_AREA)
        yield WITH_SAM, _picks(masks.x, masks.y, masks.probability, frame)


def _picks(x: np.ndarray, y: np.ndarray, score: np.ndarray, frame: MapGeometry) -> Picks:
    x, y = frame.to_micrograph(x, y)
    return Picks(x, y, np.full(len(x), np.nan), score)


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--sets", nargs="*", default=list(real_data.SETS), help="labelled data sets")
    ap.add_argument("--simulated", type=int, default=1, help="micrographs of each held-out specimen, 0 for none")
    ap.add_argument("--weights", default="default")
    ap.add_argument("--sam", help="a SAM of a published size, for the published 32 x 32 grid")
    a = ap.parse_args()
    steps = Steps(a.weights, a.sam)
    found: dict[tuple[str, str], list[SetScore]] = {}
    for source in (held_out.real(a.sets, "test"), held_out.simulated(a.simulated)):
        for data in source:
            for name, score in steps(data):
                found.setdefault((data.group, name), []).append(score)
    print("| data | steps | precision | recall | F1 | best F1 |\n|---|---|---|---|---|---|")
    for (group, name), scores in found.items():
        s = held_out.merge(scores)
        best = "-" if s.best is None else f"{s.best[0]:.3f}"
        print(f"| {group} | {name} | {s.precision:.3f} | {s.recall:.3f} | {s.f1:.3f} | {best} |")


if __name__ == "__main__":
    main()
