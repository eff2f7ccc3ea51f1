"""The results of a training: weights, report, model card, curves, and the summary for the user."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..errors import plural
from ..files.atomic import write_atomic
from ..picking.scoring import Calibration
from .calibration import MOST_MICROGRAPHS, Scores
from .crops import LABEL_SHARE
from .data import Data
from .fit import course
from .folder import WEIGHTS, TrainingFolder
from .progress import draw_curves

#: Particle diameter in the working image of our networks, pixels.
WORKING_DIAMETER = 32.0


def note_of(
    recipe: str,
    name: str,
    calibration: Calibration | None = None,
    threshold: float | None = None,
    segmenters: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The note in a weights file: what `Picker` needs to use it, and which program made it.

    Parameters
    ----------
    recipe
        ``default`` or ``published``.
    name
        Name for the user.
    calibration, threshold
        Fitted to validation micrographs. Without them the score is the mean probability and all candidates pass.
    segmenters
        Calibrations for other segmenters, from the note of the start weights.
    """
    note: dict[str, Any] = {"name": name, "recipe": recipe, "program": f"cryosegnet-ext {__version__}"}
    if recipe == "default":
        note |= {"diameter": WORKING_DIAMETER, "label_share": LABEL_SHARE}
        if calibration is not None:
            note["calibration"] = asdict(calibration)
        if segmenters:
            note["segmenters"] = dict(segmenters)
    if threshold is not None:
        note["threshold"] = threshold
    return note


def write_weights(state: Mapping[str, Tensor], note: Mapping[str, Any], path: Path) -> None:
    """Write a state dict with its note as safetensors, whole or not at all. The same input gives the same bytes.

    Raises
    ------
    CryoSegNetError
        The file cannot be written.
    """
    from safetensors.torch import save

    tensors = {k: v.detach().to("cpu").contiguous().clone() for k, v in state.items()}
    write_atomic(path, save(tensors, metadata={"cryosegnet": json.dumps(note, sort_keys=True)}))


def environment(device: str) -> dict[str, str]:
    """Versions and device, which may change a result too."""
    found = {
        "cryosegnet-ext": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(terse=True),
        "device": device,
    }
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(torch.device(device))
    return found


def _steps(results: Mapping[str, Any]) -> str:
    early = f" of {results['planned_steps']}, ended early" if results["steps"] < results["planned_steps"] else ""
    return f"{results['steps']}{early}; the best by validation was {results['best_step']}"


def model_card(report: Mapping[str, Any]) -> str:
    """A short model card in Markdown, made from ``training.json``."""
    settings, data, results = report["settings"], report["data"], report["results"]
    kind = report["kind"]
    size = f"{data['diameter']:.0f} {'A' if data['angstrom'] else 'pixels'} ({data['diameter_from']})"
    lines = [
        f"# Model card: {data['name']}",
        "",
        f"`{report['weights']}`, made by `cryosegnet {kind}` {report['environment']['cryosegnet-ext']}.",
        "",
        "| | |",
        "|---|---|",
        f"| network | attention-gated U-Net, {settings['base_channels']} base channels, {settings['levels']} levels |",
        f"| recipe | {settings['preset']} |",
        f"| particle diameter | {size} |",
        f"| trained on | {plural(len(data['train']), 'micrograph')}, {plural(data['train_labels'], 'particle')} |",
        f"| validated on | {plural(len(data['validation']), 'micrograph')}, "
        f"{plural(data['validation_labels'], 'particle')} |",
        f"| steps | {_steps(results)} |",
        f"| threshold | {results['threshold']:g} |",
    ]
    if settings.get("invert"):
        lines.append("| contrast | inverted: pick such micrographs with `--invert` |")
    if settings.get("start"):
        lines.append(f"| started from | {settings['start']} |")
    if settings.get("simulate"):
        lines.append(f"| simulated specimens | {', '.join(Path(p).name for p in settings['simulate'])} |")
    lines += ["", f"## On {results['scored_on']}, as `cryosegnet pick` picks them, size given", ""]
    lines += ["| network | precision | recall | F1 |", "|---|---|---|---|"]
    for name, score in results["scores"].items():
        lines.append(f"| {name} | {score['precision']:.3f} | {score['recall']:.3f} | {score['f1']:.3f} |")
    lines += ["", *results.get("remarks", [])]
    if "validation" in results["scored_on"]:
        fitted = (
            "The score and the threshold were fitted to these same micrographs, so the figures are a little better "
        )
        lines += ["", fitted + "than new micrographs will give."]
    lines += [
        "",
        "The network was not tested on other particles or microscopes.",
        "",
        "`training.json` lists the micrographs, the settings and the versions; the same command gives the same network "
        "up to the rounding of the machine.",
        "",
    ]
    return "\n".join(lines)


def finish(
    folder: TrainingFolder,
    data: Data,
    scores: Mapping[str, Scores],
    threshold: float,
    remarks: Sequence[str],
    scored_on: str | None = None,
) -> None:
    """Write the report, the model card and the curves."""
    count = min(len(data.validation), MOST_MICROGRAPHS)
    went = course(folder.path)
    early = (
        f"The training ended early, at step {went.steps} of {went.planned}, because validation did not improve after "
        f"step {went.best_step}."
    )
    remarks = [*([early] if went.steps < went.planned else []), *remarks, *useless(scores)]
    results = {
        "steps": went.steps,
        "planned_steps": went.planned,
        "best_step": went.best_step,
        "threshold": threshold,
        "scored_on": scored_on or plural(count, "validation micrograph"),
        "remarks": remarks,
        "scores": {
            name: {**asdict(s), "precision": round(s.precision, 4), "recall": round(s.recall, 4), "f1": round(s.f1, 4)}
            for name, s in scores.items()
        },
    }
    draw_curves(folder.path)
    folder.write({"results": results, "weights": WEIGHTS, "command": ["cryosegnet", *sys.argv[1:]]})
    write_atomic(folder.path / "model_card.md", model_card(folder.report))
    folder.write({"status": "finished"})
    folder.tidy()


def useless(scores: Mapping[str, Scores]) -> list[str]:
    """A remark if the network of the last score picks nothing right."""
    if list(scores.values())[-1].right:
        return []
    return [
        "WARNING: this network picks no particle right and is useless: train longer, on more micrographs, or "
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
    how = f" --diameter {data['diameter']:.0f}" if data["angstrom"] else ""
    how += " --invert" if report["settings"].get("invert") else ""
    lines += [
        f"weights:  {folder / WEIGHTS} (threshold {results['threshold']:g})",
        # a run too short for a line of loss.csv has no curves
        *([f"look at:  {folder / 'curves.png'}"] if (folder / "curves.png").exists() else []),
    ]
    if results["scores"][names[-1]]["f1"] > 0:
        lines.append(f"use them: cryosegnet pick MICROGRAPHS -o picked --weights {folder / WEIGHTS}{how}")
    return lines
