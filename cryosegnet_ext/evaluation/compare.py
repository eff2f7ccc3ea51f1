"""Sets of picks against one set of labels: what is read, what is assumed, what is noted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CryoSegNetError, UsageError
from ..files.picks import Picks
from .cryoppp import flipped
from .measures import SetScore, Shape, score_set
from .reading import PickSet, picks_of_others, read_labels, read_set, read_shapes, with_shapes
from .suspicions import outside, repeated, suspicions


@dataclass(frozen=True)
class Question:
    """What is to be compared.

    Attributes
    ----------
    labels
        File or folder of labels.
    sets
        Files or folders of picks, by the set's name.
    diameter
        Number and unit, ``"A"`` or ``"px"``; None: from the labels.
    max_distance
        Largest distance of a right pick, in diameters.
    pixel_size
        Angstrom per pixel, where the files do not say.
    thresholds
        Least score by the set's name; under None that of all others.
    shape
        (ny, nx) of all micrographs.
    micrographs
        Folder of the micrographs, for shapes and pixel size.
    flip_labels
        Exchange top and bottom of the labels.
    limit
        Only so many micrographs, in the order of the labels.
    common
        Only micrographs that every set has picks of.
    """

    labels: Path
    sets: Mapping[str, Path]
    diameter: tuple[float, str] | None = None
    max_distance: float = 0.3
    pixel_size: float | None = None
    thresholds: Mapping[str | None, float] = field(default_factory=dict)
    shape: Shape | None = None
    micrographs: Path | None = None
    flip_labels: bool = False
    limit: int | None = None
    common: bool = False


@dataclass(frozen=True)
class Answer:
    """Scores of all sets; ``settings`` is what they rest on, ``notes`` are about the labels."""

    sets: list[SetScore]
    settings: dict[str, Any]
    notes: list[str]


def compare(question: Question) -> Answer:
    """Read everything and score it.

    Raises
    ------
    CryoSegNetError
        Labels or picks are missing or damaged, have no micrograph in common, or the diameter is not known.
    """
    shapes: dict[str, Shape] = {}
    found = read_labels(question.labels, pixel_size=question.pixel_size, shape=question.shape)
    if question.micrographs is not None:
        shapes = read_shapes(question.micrographs, found.tables)
        if not shapes:
            raise CryoSegNetError(f"{question.micrographs}: it holds none of the labelled micrographs; check the path.")
        if any(p.shape is not None and p.shape != shapes.get(s, p.shape) for s, p in found.tables.items()):
            found = read_labels(question.labels, shapes, question.pixel_size, question.shape)
    labels = dict(sorted(found.tables.items(), key=lambda item: found.files[item[0]]))
    if question.shape is not None:
        shapes = dict.fromkeys(labels, question.shape) | shapes
    labels = with_shapes(labels, shapes)
    if question.limit is not None:
        labels = dict(list(labels.items())[: question.limit])
    sets = {name: read_set(path, labels, question.pixel_size) for name, path in question.sets.items()}
    return score(labels, sets, question, found.notes)


def score(
    labels: Mapping[str, Picks], sets: Mapping[str, PickSet], question: Question, notes: list[str] | None = None
) -> Answer:
    """Score sets of picks that were read already."""
    notes = list(notes or [])
    if question.common:
        shared = {s: p for s, p in labels.items() if all(s in of.tables for of in sets.values())}
        if not shared:
            raise CryoSegNetError("--common: there is no micrograph that all sets have picks of; leave it out.")
        if len(shared) < len(labels):
            notes.append(f"{len(shared)} of {len(labels)} labelled micrographs have picks of every set and count.")
        sets = {
            name: replace(of, tables={s: p for s, p in of.tables.items() if s in shared}) for name, of in sets.items()
        }
        labels = shared
    if not any(len(p) for p in labels.values()):
        raise CryoSegNetError(
            f"{question.labels}: there is not one particle in the labels; give labels with particles."
        )
    pixel_size = question.pixel_size or next((p.pixel_size for p in labels.values() if p.pixel_size), None)
    sizes = sorted({p.pixel_size for p in labels.values() if p.pixel_size})
    if question.pixel_size is None and len(sizes) > 1 and sizes[-1] > 1.001 * sizes[0]:
        notes.append(
            f"the labels have pixel sizes from {sizes[0]:g} to {sizes[-1]:g} A; {pixel_size:g} A is taken for all of "
            "them: evaluate micrographs of each by themselves."
        )
    if pixel_size is None and question.micrographs is not None:
        pixel_size = _pixel_size_of(question.micrographs)
    diameter, origin = diameter_px(labels, question.diameter, pixel_size)
    reach = question.max_distance * diameter
    known = {s: p.shape for s, p in labels.items() if p.shape is not None}
    for of in sets.values():
        known = {s: p.shape for s, p in of.tables.items() if p.shape is not None} | known
    guessed = [stem for stem in labels if stem not in known]
    shapes = dict.fromkeys(guessed, extent(labels, diameter)) | {s: known[s] for s in labels if s in known}
    if guessed:
        notes.append(
            f"the shape of {len(guessed)} of {len(labels)} micrographs is not known; Dice and 'as published' are of a "
            "frame guessed from the labels: give --shape NY NX or --micrographs."
        )
    if question.flip_labels:
        labels = flipped(with_shapes(labels, known))
    notes += [s for s in (outside(with_shapes(labels, known), "labels"), repeated(labels, "labels")) if s]
    scores = []
    for name, of in sets.items():
        threshold = question.thresholds.get(name, question.thresholds.get(None))
        result = score_set(name, of.tables, labels, diameter, reach, shapes, threshold)
        counted = {s: p for s, p in of.tables.items() if s in labels}
        if threshold is not None:
            counted = {s: p.above(threshold) for s, p in counted.items()}
        odd = suspicions(name, with_shapes(counted, known), labels, reach)
        others = picks_of_others(of, labels) if question.limit is None else []
        remarks = tuple([*of.notes, *_uncounted(result), *odd])
        scores.append(SetScore(name, result.micrographs, result.ranked, threshold, others, remarks))
    settings = {
        "labels": str(question.labels),
        "diameter_px": diameter,
        "diameter_from": origin,
        "pixel_size": pixel_size,
        "max_distance": question.max_distance,
        "reach_px": reach,
        "flip_labels": question.flip_labels,
    }
    return Answer(scores, settings, notes)


def diameter_px(
    labels: Mapping[str, Picks], given: tuple[float, str] | None, pixel_size: float | None
) -> tuple[float, str]:
    """The particle diameter in pixels, and where it comes from.

    Raises
    ------
    UsageError
        It is not given and the labels have none, or it is in angstrom and no pixel size is known.
    """
    if given is not None:
        number, unit = given
        if unit == "px":
            return number, "as given"
        if pixel_size is None:
            raise UsageError(
                f"--diameter {number:g} is in angstrom and no pixel size is known; add --pixel-size, "
                f"or give the diameter in pixels, as {number:g}px"
            )
        return number / pixel_size, "as given"
    sizes = np.concatenate([np.zeros(0), *(p.diameter_px for p in labels.values())])
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if not len(sizes):
        raise UsageError("the labels carry no particle diameter; add --diameter, in angstrom or as 108px")
    return float(np.median(sizes)), "the labels' median"


def extent(labels: Mapping[str, Picks], diameter: float) -> Shape:
    """A frame (ny, nx) that holds all labels, for micrographs whose shape nobody knows; the same for every set."""
    x = max((float(p.x.max()) for p in labels.values() if len(p)), default=1.0)
    y = max((float(p.y.max()) for p in labels.values() if len(p)), default=1.0)
    return max(int(y + diameter / 2) + 1, 1), max(int(x + diameter / 2) + 1, 1)


def _uncounted(result: SetScore) -> list[str]:
    """Why a set has no picks that count, or why its threshold does nothing."""
    scores = np.concatenate([np.zeros(0), *(m.score for m in result.ranked)])
    if not len(scores):
        return ["there is not one pick in its files."]
    if result.threshold is None:
        return []
    if not result.has_scores:
        return [f"all its picks have the score {scores[0]:g}, so the threshold takes all or none of them."]
    if not result.picks:
        span = f"{scores.min():.3g} to {scores.max():.3g}"
        return [f"the threshold {result.threshold:g} is above all its scores ({span}), so no pick counts: lower it."]
    return []


def _pixel_size_of(folder: Path) -> float | None:
    """Angstrom per pixel in the header of the folder's first micrograph."""
    from ..files.inputs import expand_inputs
    from ..files.micrograph import read_micrograph

    first = expand_inputs([str(folder)])[0]
    return first.pixel_size or read_micrograph(first.path).pixel_size
