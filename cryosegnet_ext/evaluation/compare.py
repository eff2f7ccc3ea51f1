"""Compare sets of picks with labels: read the files, decide on sizes and shapes, score, and remark on what is odd."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CryoSegNetError, UsageError, option, plural
from ..files.diameter import Diameter, to_pixels
from ..files.inputs import expand_inputs
from ..files.labels import label_files
from ..files.micrograph import read_micrograph
from ..files.picks import Picks
from ..runs.edited_picks import FOLDER, edited_files
from ..runs.finished import FinishedRun, open_finished, run_holding
from . import remarks
from .cryoppp import flipped
from .matching import MAX_DISTANCE
from .measures import SetScore, Shape, score_set
from .reading import PickSet, on_micrographs, picks_of_others, read_labels, read_set, read_shapes, with_shapes
from .simulated import SimulatedSize, simulated_size


@dataclass(frozen=True)
class EvaluationOptions:
    """What is compared, and how.

    Attributes
    ----------
    labels
        File or folder of labels.
    sets
        Files or folders of picks, by the set's name.
    diameter
        None takes it from the labels.
    max_distance
        Largest distance of a right pick from its label, in diameters.
    pixel_size
        Angstrom per pixel, for files that do not give it.
    thresholds
        Lowest score that counts, by the set's name; under None for all other sets.
    shape
        (ny, nx) of all micrographs.
    micrographs
        Folder of the micrographs, for shapes and pixel size.
    flip_labels
        Mirror the labels top to bottom.
    limit
        Number of micrographs to evaluate, in the order of the labels; None for all.
    common
        Only micrographs that every set has picks of.
    """

    labels: Path
    sets: Mapping[str, Path]
    diameter: Diameter | None = None
    max_distance: float = MAX_DISTANCE
    pixel_size: float | None = None
    thresholds: Mapping[str | None, float] = field(default_factory=dict)
    shape: Shape | None = None
    micrographs: Path | None = None
    flip_labels: bool = False
    limit: int | None = None
    common: bool = False


@dataclass(frozen=True)
class Evaluation:
    """Scores of all sets, the settings that they depend on, and remarks on the labels."""

    sets: list[SetScore]
    settings: dict[str, Any]
    notes: list[str]


def compare(options: EvaluationOptions) -> Evaluation:
    """Read everything and score it.

    Raises
    ------
    CryoSegNetError
        Labels or picks are missing or damaged, have no micrograph in common, or the diameter is not known.
    """
    found = read_labels(label_files(options.labels), options.pixel_size)
    shapes = {} if options.shape is None else dict.fromkeys(found.tables, options.shape)
    if options.micrographs is not None:
        there = read_shapes(options.micrographs, found.tables)
        if not there:
            raise CryoSegNetError(
                f"{options.micrographs}: it contains none of the labelled micrographs; check the path."
            )
        shapes |= there
    labels = dict(sorted(on_micrographs(found, shapes).items(), key=lambda item: found.files[item[0]]))
    if options.limit is not None:
        labels = dict(list(labels.items())[: options.limit])
    sets = {name: read_set(path, labels, options.pixel_size) for name, path in options.sets.items()}
    for name, path in options.sets.items():
        sets[name].notes += _on_edits(path)
    return score(labels, sets, options, found.notes)


def score(
    labels: Mapping[str, Picks], sets: Mapping[str, PickSet], options: EvaluationOptions, notes: Sequence[str] = ()
) -> Evaluation:
    """Score sets of picks that are already read; ``notes`` are remarks on the labels. Raises as `compare`."""
    notes = list(notes)
    if options.common:
        every = labels
        labels, sets = _in_common(labels, sets)
        if len(labels) < len(every):
            share = f"{len(labels)} of {plural(len(every), 'labelled micrograph')}"
            notes.append(f"{share} have picks of every set; only these are counted.")
    if not any(len(p) for p in labels.values()):
        raise CryoSegNetError(f"{options.labels}: the labels contain no particles; give labels with particles.")
    pixel_size, note = _pixel_size(labels, options)
    notes += [note] if note else []
    runs = [run for path in (options.labels, *options.sets.values()) if (run := _run_of(path)) is not None]
    if pixel_size is None:
        # One run whose micrographs all have the same pixel size knows it as well.
        sizes = {record.pixel_size for run in runs for record in run.done}
        pixel_size = sizes.pop() if len(sizes) == 1 else None
    simulated = simulated_size(options.labels)
    if pixel_size is None and simulated is not None:
        pixel_size = simulated.pixel_size
    diameter, origin = diameter_px(labels, options.diameter, pixel_size, runs, simulated)
    reach = options.max_distance * diameter
    known = _known_shapes(labels, sets)
    guessed = sum(stem not in known for stem in labels)
    if guessed:
        notes.append(
            f"the shape of {guessed} of {plural(len(labels), 'micrograph')} is not known; Dice and 'as published' use "
            f"a frame guessed from the labels: give {option('shape')} (rows and columns) or {option('micrographs')}."
        )
    frame = extent(labels, diameter)
    shapes = {stem: known.get(stem, frame) for stem in labels}
    if options.flip_labels:
        labels = flipped(with_shapes(labels, known))
    notes += remarks.on_labels(with_shapes(labels, known))
    scores = []
    for name, of in sets.items():
        threshold = options.thresholds.get(name, options.thresholds.get(None))
        result = score_set(name, of.tables, labels, diameter, reach, shapes, threshold)
        counted = {s: p if threshold is None else p.above(threshold) for s, p in of.tables.items() if s in labels}
        odd = remarks.on_picks(with_shapes(counted, known), labels, reach)
        others = picks_of_others(of, labels) if options.limit is None else []
        scores.append(replace(result, unlabelled=others, notes=(*of.notes, *remarks.on_scores(result), *odd)))
    settings = {
        "labels": str(options.labels),
        "diameter_px": diameter,
        "diameter_from": origin,
        "pixel_size": pixel_size,
        "max_distance": options.max_distance,
        "reach_px": reach,
        "flip_labels": options.flip_labels,
    }
    return Evaluation(scores, settings, notes)


def _in_common(labels: Mapping[str, Picks], sets: Mapping[str, PickSet]) -> tuple[dict[str, Picks], dict[str, PickSet]]:
    """Labels and picks of the micrographs that every set has picks of; raises CryoSegNetError if there are none."""
    shared = {s: p for s, p in labels.items() if all(s in of.tables for of in sets.values())}
    if not shared:
        raise CryoSegNetError(f"{option('common', True)}: no micrograph has picks of all sets; leave the option out.")
    return shared, {
        name: replace(of, tables={s: p for s, p in of.tables.items() if s in shared}) for name, of in sets.items()
    }


def _pixel_size(labels: Mapping[str, Picks], options: EvaluationOptions) -> tuple[float | None, str | None]:
    """Angstrom per pixel: given, of the labels or of a micrograph; and a remark if the labels have several."""
    if options.pixel_size is not None:
        return options.pixel_size, None
    sizes = [p.pixel_size for p in labels.values() if p.pixel_size]
    if not sizes:
        return None if options.micrographs is None else _pixel_size_of(options.micrographs), None
    if max(sizes) <= 1.001 * min(sizes):
        return sizes[0], None
    return sizes[0], (
        f"the labels have pixel sizes from {min(sizes):g} to {max(sizes):g} A; {sizes[0]:g} A is used for all of "
        "them: evaluate the micrographs of each pixel size separately."
    )


def _known_shapes(labels: Mapping[str, Picks], sets: Mapping[str, PickSet]) -> dict[str, Shape]:
    """Shapes (ny, nx) of micrographs, from the labels or else from the picks."""
    found: dict[str, Shape] = {}
    for tables in (labels, *(of.tables for of in sets.values())):
        for stem, p in tables.items():
            if p.shape is not None:
                found.setdefault(stem, p.shape)
    return found


def diameter_px(
    labels: Mapping[str, Picks],
    given: Diameter | None,
    pixel_size: float | None,
    runs: Sequence[FinishedRun] = (),
    simulated: SimulatedSize | None = None,
) -> tuple[float, str]:
    """The particle diameter in pixels, and where it comes from: given, of the labels, or of a run that is judged.

    The labels of a simulation do not hold it, but its record does.

    Raises
    ------
    UsageError
        It is neither given nor in the labels, or it is in angstrom and no pixel size is known.
    """
    if given is not None:
        if given.unit == "angstrom" and pixel_size is None:
            raise UsageError(
                f"{option('diameter', given.value)} is in angstrom and no pixel size is known; add "
                f"{option('pixel_size')}, "
                f"or give the diameter in pixels: {given.value:g}px"
            )
        return given.in_pixels(pixel_size), "as given"
    sizes = np.concatenate([np.zeros(0), *(p.diameter_px for p in labels.values())])
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if not len(sizes) and simulated is not None:
        return simulated.diameter / simulated.pixel_size, f"the true one in {simulated.record}"
    for run in runs if not len(sizes) else ():
        found = run.diameters.get(pixel_size is not None)
        if found is not None:
            return to_pixels(found, pixel_size), f"the run {run.output}"
    if not len(sizes):
        raise UsageError(f"the labels have no particle diameter; add {option('diameter')}, in angstrom or as 108px")
    return float(np.median(sizes)), "the labels' median"


def _run_of(path: Path) -> FinishedRun | None:
    """The run in whose folder a file or folder of picks lies."""
    output = run_holding(path)
    with suppress(CryoSegNetError):
        return None if output is None else open_finished(output)
    return None


def _on_edits(path: Path) -> list[str]:
    """A remark if the picks of a run are judged that was edited: the edits would make the program look better."""
    output = run_holding(path)
    if output is None or FOLDER in Path(os.path.abspath(path)).relative_to(output).parts[:1]:
        return []
    edited = len(edited_files(output / FOLDER))
    if not edited:
        return []
    return [
        f"{plural(edited, 'micrograph')} of this run {'is' if edited == 1 else 'are'} edited; what the program picked "
        f"is judged, not the edits: give {output / FOLDER} to judge those."
    ]


def extent(labels: Mapping[str, Picks], diameter: float) -> Shape:
    """A frame (ny, nx) that contains all labels, for micrographs of unknown shape; the same for every set."""
    x = max((float(p.x.max()) for p in labels.values() if len(p)), default=1.0)
    y = max((float(p.y.max()) for p in labels.values() if len(p)), default=1.0)
    return max(int(y + diameter / 2) + 1, 1), max(int(x + diameter / 2) + 1, 1)


def _pixel_size_of(folder: Path) -> float | None:
    """Angstrom per pixel in the header of the folder's first micrograph."""
    first = expand_inputs([str(folder)])[0]
    return first.pixel_size or read_micrograph(first.path).pixel_size
