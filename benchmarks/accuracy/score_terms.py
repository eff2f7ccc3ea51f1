"""What each feature adds to the score, on data that neither training nor the fit saw.

    python -m benchmarks.accuracy.score_terms runs/zero/checkpoint.pt --known empiar-10059 \\
        --unknown empiar-10017-denoised apoferritin

For a checkpoint whose training left the ``--unknown`` sets out. The score is fitted on the validation micrographs of
the known ones, simulated micrographs and the views without particles of the training split; it is judged on the
training micrographs of the unknown ones, whose labels serve nothing else here, and on the views of the test split.
Maps and watershed, the size given; the threshold of each fit is the one that `calibrate.py` would choose.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import real_data
from benchmarks.weights.calibrate import (
    EMPTY,
    EMPTY_SIZES,
    candidates,
    choose_threshold,
    every,
    f1_curve,
    fit,
    gather,
    particles,
    uncalibrated,
    validation_groups,
)
from benchmarks.weights.train_default import weights_of
from cryosegnet_ext import Picker
from cryosegnet_ext.picking.scoring import MaskFeatures, joined

# Columns of the features (see `MaskFeatures.columns`) that a fit does without.
TERMS = {
    "probability and size": (4, 5, 6),
    "the same, and the noise around": (5, 6),
    "the same, and the company": (4, 6),
    "the same, and the peak's height": (4, 5),
    "all of them": (),
}


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("checkpoint", type=Path)
    ap.add_argument("--known", nargs="+", required=True)
    ap.add_argument("--unknown", nargs="+", required=True)
    a = ap.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        picker = uncalibrated(weights_of(a.checkpoint), Path(folder))
    groups = validation_groups(a.known)
    labels = particles(groups)
    seen = gather(picker, groups)
    unknown = {name: real_data.load(name, "train") for name in a.unknown}
    there = {name: alone(picker, micrographs) for name, micrographs in unknown.items()}
    empty = gather(picker, {EMPTY: every([replace(m, diameter_px=1.0) for m in real_data.load_empty("test")])})
    views = len(real_data.load_empty("test")) * len(EMPTY_SIZES)
    print("| score made of | " + " | ".join(f"{n}: F1, best" for n in unknown) + f" | picks on {views} empty views |")
    print("|---|" + "---|" * (len(unknown) + 1))
    for name, without in TERMS.items():
        calibration = fit(seen, without)
        threshold = choose_threshold(seen, calibration.score(seen.features), labels)
        row = []
        for data, (features, right) in there.items():
            count = sum(len(m.x) for m in unknown[data])
            score = calibration.score(features)
            kept = score >= threshold
            at_threshold = 2 * right[kept].sum() / (kept.sum() + count)
            row.append(f"{at_threshold:.3f}, {f1_curve(score, right, count)[1].max():.3f}")
        none = (calibration.score(empty.features) >= threshold).sum()
        print(f"| {name} | " + " | ".join(row) + f" | {none} |", flush=True)


def alone(picker: Picker, micrographs: list[real_data.Labelled]) -> tuple[MaskFeatures, np.ndarray]:
    """Candidates at the true size, and whether they are right (n,)."""
    found, hits = zip(*(candidates(picker, m, 1.0, 0.3) for m in every(micrographs)))
    return joined(found), np.concatenate(hits)


if __name__ == "__main__":
    main()
