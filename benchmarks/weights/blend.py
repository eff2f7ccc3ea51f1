"""The weighted mean of the weights of several checkpoints of one training.

    python -m benchmarks.weights.blend runs/long/checkpoint.pt=0.25 runs/clear/checkpoint.pt=0.5 \\
        runs/last/checkpoint.pt=0.25 --output runs/blend/checkpoint.pt

Later stages of a training learn something new and forget a little; their mean keeps more of both.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.weights.train_default import weights_of


def part(text: str) -> tuple[Path, float]:
    """``checkpoint.pt=share``; without a share it is 1."""
    path, equals, share = text.rpartition("=")
    return (Path(path), float(share)) if equals else (Path(text), 1.0)


def blended(parts: Sequence[tuple[Path, float]]) -> dict[str, torch.Tensor]:
    """The mean of the weights of several checkpoints, by their shares."""
    if abs(sum(share for _, share in parts) - 1) > 1e-6:
        raise SystemExit("the shares do not add up to 1")
    states = [(weights_of(path), share) for path, share in parts]
    mean = dict(states[-1][0])
    for name, value in mean.items():
        if value.is_floating_point():
            mean[name] = sum(share * state[name] for state, share in states)
    return mean


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("parts", nargs="+", type=part, metavar="checkpoint.pt=share", help="shares add up to 1")
    ap.add_argument("--output", type=Path, required=True)
    a = ap.parse_args()
    a.output.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": blended(a.parts)}, a.output)


if __name__ == "__main__":
    main()
