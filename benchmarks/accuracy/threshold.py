"""How far the default threshold is from the best one, on every data set.

    python -m benchmarks.accuracy.threshold

The figures are those of `contrast.py` and `peers.py`: for the simulated specimens the mean F1 of the specimens and the
mean at the one threshold that is best for it, for the real data sets F1 of all particles and the best F1. A default
threshold within NEAR of the best on every set needs no tuning.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import real_data
from benchmarks.accuracy import contrast, held_out, peers
from cryosegnet_ext import Picker

NEAR = 0.03


@dataclass(frozen=True)
class Row:
    """F1 of one data set at the default threshold, and the best one with its threshold."""

    data: str
    picker: str
    default: float
    best: float
    threshold: float

    @property
    def lost(self) -> float:
        """What the default threshold costs."""
        return max(self.best - self.default, 0.0)


def simulated(picker: Picker, ratios: Sequence[float]) -> Iterator[Row]:
    """The ratios of `contrast.py`."""
    judge = contrast.ours(picker)
    judged = (one for sample in contrast.samples(ratios) for one in judge(sample))
    for s in contrast.summaries(judged):
        yield Row(f"specimens, SNR {s.ratio:g}", s.picker, s.mean or 0.0, s.common, s.common_threshold)


def real(weights: str, sets: Sequence[str], split: str) -> Iterator[Row]:
    """The labelled data sets."""
    judge = peers.ours(weights)
    for data in held_out.real(list(sets), split):
        for name, score in judge(data):
            best, threshold = score.best or (score.f1, score.threshold or 0.0)
            yield Row(data.group, name, score.f1, best, threshold)


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--weights", default="default")
    ap.add_argument("--ratios", type=float, nargs="*", default=list(contrast.RATIOS), help="signal-to-noise ratios")
    ap.add_argument("--sets", nargs="*", default=[*real_data.SETS, *real_data.TEST_SETS], help="labelled data sets")
    ap.add_argument("--split", default="test", choices=("test", "validation"))
    ap.add_argument("--json", type=Path, help="file for the figures")
    a = ap.parse_args()
    picker = Picker(a.weights)
    print(
        f"| data | picker | F1 at {picker.threshold:g} | best F1 | at | lost |\n|---|---|---|---|---|---|", flush=True
    )
    rows = []
    for source in (real(a.weights, a.sets, a.split), simulated(picker, a.ratios) if a.ratios else ()):
        for row in source:
            figures = f"{row.default:.3f} | {row.best:.3f} | {row.threshold:.2f} | {row.lost:.3f}"
            print(f"| {row.data} | {row.picker} | {figures} |", flush=True)
            rows.append(row)
    far = [f"{row.data} ({row.picker})" for row in rows if row.lost > NEAR]
    print(f"\nWithin {NEAR} of the best threshold on {len(rows) - len(far)} of {len(rows)}.", end="")
    print(f" Not on: {'; '.join(far)}." if far else "")
    if a.json:
        a.json.write_text(json.dumps([asdict(row) | {"lost": row.lost} for row in rows], indent=1))


if __name__ == "__main__":
    main()
