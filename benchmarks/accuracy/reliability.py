"""Is the score the chance that a pick is a particle? Bins of score against the share that is right.

    python -m benchmarks.accuracy.reliability

Every candidate of our picker on the held-out micrographs, whatever its score, size estimated by the program. A pick is
right within 0.3 diameters of a label, one to one. The last lines sum up: the mean of score less share right, weighed
by the picks in each bin (expected calibration error), over all candidates and over the picks above the threshold.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks import real_data
from benchmarks.accuracy import held_out
from cryosegnet_ext import Picker

BINS = np.linspace(0, 1, 11)


def calibration_error(score: np.ndarray, hit: np.ndarray) -> float:
    """Mean over bins of |mean score - share right|, weighed by how many picks each bin has."""
    which = bins_of(score)
    error = sum(
        abs(float(score[which == b].mean() - hit[which == b].mean())) * int((which == b).sum())
        for b in np.unique(which)
    )
    return error / max(len(score), 1)


def bins_of(score: np.ndarray) -> np.ndarray:
    """Index of the bin of each score; 1 belongs to the last."""
    return np.clip(np.digitize(score, BINS) - 1, 0, len(BINS) - 2)


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--sets", nargs="*", default=list(real_data.SETS), help="labelled data sets")
    ap.add_argument("--split", default="test", choices=("test", "validation"))
    ap.add_argument("--simulated", type=int, default=2, help="micrographs of each held-out specimen, 0 for none")
    ap.add_argument("--weights", default="default")
    a = ap.parse_args()
    threshold = Picker(a.weights).threshold
    groups: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {}
    for source in (held_out.real(a.sets, a.split), held_out.simulated(a.simulated)):
        for data in source:
            picker = Picker(a.weights, denoised=data.denoised, threshold=0.0)
            size = picker.estimate_diameter(data.task.micrographs)
            picks = {m.name: picker.pick(m, size) for m in data.task.micrographs} if size else {}
            judged = data.score("ours", picks)
            scores, hits = groups.setdefault(data.group.split(",")[0], ([], []))
            scores += [m.score for m in judged.micrographs]
            hits += [m.hit for m in judged.micrographs]
    found = {name: (np.concatenate(s), np.concatenate(h)) for name, (s, h) in groups.items()}
    every = (np.concatenate([s for s, _ in found.values()]), np.concatenate([h for _, h in found.values()]))
    found["all"] = every
    print("| score | " + " | ".join(f"{name}: right (picks)" for name in found) + " |")
    print("|---" * (len(found) + 1) + "|")
    for b in range(len(BINS) - 1):
        cells = []
        for score, hit in found.values():
            here = bins_of(score) == b
            cells.append(f"{hit[here].mean():.2f} ({here.sum()})" if here.any() else "- (0)")
        print(f"| {BINS[b]:.1f} to {BINS[b + 1]:.1f} | " + " | ".join(cells) + " |")
    for title, least in (("all candidates", 0.0), (f"picks from {threshold:g}", threshold)):
        cells = [f"{calibration_error(s[s >= least], h[s >= least]):.3f}" for s, h in found.values()]
        print(f"| calibration error, {title} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
