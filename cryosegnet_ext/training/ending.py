"""The end of a run: its report, its model card and curves, and what the user is told."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.atomic import write_atomic
from . import output
from .calibration import MOST_MICROGRAPHS, Scores
from .curves import draw_curves
from .fit import Course, course
from .folder import WEIGHTS, RunFolder

if TYPE_CHECKING:
    from .training import Data


def finish(
    folder: RunFolder,
    data: Data,
    scores: Mapping[str, Scores],
    threshold: float,
    remarks: Sequence[str],
    scored_on: str | None = None,
) -> None:
    """Write the report, the card and the curves, and tell the result."""
    count = min(len(data.validation), MOST_MICROGRAPHS)
    went = course(folder.path)
    remarks = [*early_end(went), *remarks, *useless(scores)]
    results = {
        "steps": went.steps,
        "planned_steps": went.planned,
        "best_step": went.best_step,
        "threshold": threshold,
        "scored_on": scored_on or f"{count} validation micrograph{'s' if count > 1 else ''}",
        "remarks": list(remarks),
        "scores": {
            name: {**asdict(s), "precision": round(s.precision, 4), "recall": round(s.recall, 4), "f1": round(s.f1, 4)}
            for name, s in scores.items()
        },
    }
    draw_curves(folder.path)
    folder.write({"results": results, "weights": WEIGHTS, "command": ["cryosegnet", *sys.argv[1:]]})
    write_atomic(folder.path / "model_card.md", output.model_card(folder.report))
    folder.write({"status": "finished"})
    folder.tidy()


def early_end(went: Course) -> list[str]:
    """That a run ended before all its steps; nothing to say otherwise."""
    if went.steps >= went.planned:
        return []
    return [
        f"The training ended early, at step {went.steps} of {went.planned}, since validation became no better after "
        f"step {went.best_step}."
    ]


def useless(scores: Mapping[str, Scores]) -> list[str]:
    """That the network of the last score picks nothing right; nothing to say otherwise."""
    if list(scores.values())[-1].right:
        return []
    return [
        "WARNING: this network picks no particle right, so it is of no use: train longer, on more micrographs, or "
        "check labels and --diameter."
    ]


def summary(report: Mapping[str, Any], folder: Path) -> list[str]:
    """Lines for the user at the end."""
    results, data = report["results"], report["data"]
    names = list(results["scores"])
    width = max(map(len, names)) + 1
    lines = [f"On {results['scored_on']}, size given:"]
    for name in names:
        s = results["scores"][name]
        words = f"precision {s['precision']:.3f}, recall {s['recall']:.3f}, F1 {s['f1']:.3f}"
        lines.append(f"  {name + ':':<{width}} {words}")
    lines += results["remarks"]
    size = f" --diameter {data['diameter']:.0f}" if data["angstrom"] else ""
    lines += [
        f"weights:  {folder / WEIGHTS} (threshold {results['threshold']:g})",
        # A run of fewer steps than a line of loss.csv stands for has no curves.
        *([f"look at:  {folder / 'curves.png'}"] if (folder / "curves.png").exists() else []),
    ]
    if results["scores"][names[-1]]["f1"] > 0:
        lines.append(f"use them: cryosegnet pick MICROGRAPHS -o picked --weights {folder / WEIGHTS}{size}")
    return lines
