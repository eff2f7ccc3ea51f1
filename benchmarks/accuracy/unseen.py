"""What checkpoints of a training find in a data set that it left out: maps and watershed alone, the size given.

    python -m benchmarks.accuracy.unseen runs/zero/checkpoint.pt --sets empiar-10017-denoised

For comparing recipes within minutes, before anything is calibrated. Masks are ranked by their mean probability; printed
are F1 at the probability of 0.5, the best F1 with its probability, and the recall of all masks. A pick is right within
0.3 diameters of a label.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks import real_data
from benchmarks.accuracy.score_terms import alone
from benchmarks.weights.calibrate import f1_curve, uncalibrated
from benchmarks.weights.train_default import weights_of


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("checkpoints", type=Path, nargs="+")
    ap.add_argument("--sets", nargs="*", default=list(real_data.SETS))
    ap.add_argument("--split", default="train", choices=("train", "validation", "test"))
    ap.add_argument("--most", type=int, help="micrographs of a set, the first ones (default: all)")
    a = ap.parse_args()
    sets = {name: real_data.load(name, a.split)[: a.most] for name in a.sets}
    print("| checkpoint | data set | F1 at 0.5 | best F1 | at | recall of all |")
    print("|---|---|---|---|---|---|")
    for checkpoint in a.checkpoints:
        with tempfile.TemporaryDirectory() as folder:
            picking = uncalibrated(weights_of(checkpoint), Path(folder))
        for name, micrographs in sets.items():
            features, right = alone(picking, micrographs)
            probability = features.probability
            labels = sum(len(m.x) for m in micrographs)
            ranked, f1 = f1_curve(probability, right, labels)
            best = int(f1.argmax())
            kept = probability >= 0.5
            at_half = 2 * right[kept].sum() / max(kept.sum() + labels, 1)
            where = f"{at_half:.3f} | {f1[best]:.3f} | {ranked[best]:.2f} | {right.sum() / labels:.2f}"
            print(f"| {checkpoint.parent.name} | {name} | {where} |", flush=True)


if __name__ == "__main__":
    main()
