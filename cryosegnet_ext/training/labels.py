"""Labels of the user: which of them belong to which micrograph."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import CryoSegNetError, plural
from ..files.diameter import to_pixels
from ..files.inputs import Input
from ..files.labels import CoordinateFile, label_files, match_name, stem_of
from ..files.masks import in_micrograph, is_mask
from ..files.micrograph import micrograph_stem
from ..files.text import Floats, spelt
from ..runs.edited_picks import FOLDER, edited_files
from ..runs.finished import open_finished, run_holding
from ..runs.written import refuse_changed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labels:
    """The particles of one micrograph, as a label file has them.

    Attributes
    ----------
    source : str
        The file, for messages.
    x, y : (n,) float64
        Centres; pixels of the micrograph, array order; pixels of the mask where ``mask_shape`` is given.
    diameter : float
        Median particle diameter, pixels of the same frame; nan where the file does not give it.
    mask_shape : (ny, nx) or None
        Shape of the mask that the labels come from.
    micrograph_shape : (ny, nx) or None
        The micrograph's shape by the label file (.cs).
    """

    source: str
    x: Floats
    y: Floats
    diameter: float = float("nan")
    mask_shape: tuple[int, int] | None = None
    micrograph_shape: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.x)


def find_labels(inputs: Sequence[Input], arguments: Iterable[str | Path]) -> tuple[dict[int, Labels], list[str]]:
    """Give each micrograph its labels.

    Parameters
    ----------
    inputs
        The micrographs.
    arguments
        Label files or folders: tables of one or many micrographs (STAR, BOX, CBOX, CSV, Topaz, .cs), RELION's
        ``autopick.star`` that lists coordinate files, mask images, ``picks_edited`` of a run (the run knows the
        diameter where its files do not). A file of one micrograph carries its stem, alone or followed by ``_``, ``-``
        or ``.`` and anything (``mic_001_autopick.star``).

    Returns
    -------
    dict of int to Labels
        By the index of the micrograph in ``inputs``; those without labels are absent.
    list of str
        Names in the label files to which no micrograph belongs.

    Raises
    ------
    CryoSegNetError
        A label file cannot be read, one micrograph has two sets of labels, or no micrograph has any.
    """
    own = {one.key for one in inputs}
    files = [file for argument in arguments for file in _files(argument, own)]
    by_stem = _by_stem(inputs)
    result: dict[int, Labels] = {}
    unknown: list[str] = []
    for file in files:
        if is_mask(file.path) and match_name(file.name, by_stem) is None:
            unknown.append(file.name)  # any image may lie in a folder, and is read only where it is asked for
            continue
        refuse_changed(file.path)
        for name, picks in file.read_labels(1.0).items():
            owner = _micrograph_of(name, inputs, by_stem)
            if owner is None:
                unknown.append(name)
                continue
            if owner in result:
                raise CryoSegNetError(
                    f"{inputs[owner].name} has labels in {result[owner].source} and in {file.path}: give one"
                )
            sizes = picks.diameter_px[np.isfinite(picks.diameter_px)]
            diameter = float(np.median(sizes)) if len(sizes) else _of_run(file.path)
            mask, micrograph = (picks.shape, None) if is_mask(file.path) else (None, picks.shape)
            result[owner] = Labels(str(file.path), picks.x, picks.y, diameter, mask, micrograph)
    if not result:
        example = f" (a label file says {unknown[0]}, a micrograph is called {inputs[0].path.name})" if unknown else ""
        raise CryoSegNetError(
            f"there are no labels for the {plural(len(inputs), 'micrograph')}{example}: label files must carry the "
            "micrographs' names"
        )
    return result, unknown


def _files(argument: str | Path, leave_out: Collection[str]) -> list[CoordinateFile]:
    """The label files in an argument; of a micrograph that was edited in several formats the one that counts."""
    output = run_holding(argument)
    if output is None:
        return label_files(argument, leave_out)
    within = Path(os.path.abspath(argument)).relative_to(output).parts
    if within == (FOLDER,):
        return [CoordinateFile(path, in_folder=True) for path in edited_files(output / FOLDER).values()]
    edited = len(edited_files(output / FOLDER)) if within[:1] != (FOLDER,) else 0
    if edited:
        log.warning(
            f"{plural(edited, 'micrograph')} of the run {output} {'is' if edited == 1 else 'are'} edited, and the "
            f"labels are what the program picked: give {output / FOLDER} to train on the edits"
        )
    return label_files(argument, leave_out)


def _of_run(path: Path) -> float:
    """The particle diameter, pixels, of the run to which a file of picks belongs; nan if it belongs to none."""
    output = run_holding(path)
    if output is None:
        return float("nan")
    stem = str(Path(os.path.abspath(path)).relative_to(output).with_suffix("")).partition("/")[2]
    return _sizes(output).get(spelt(stem), float("nan"))


@lru_cache(maxsize=4)
def _sizes(output: Path) -> dict[str, float]:
    """The particle diameter of a run, by the stems of its micrographs, in pixels of each."""
    try:
        run = open_finished(output)
    except CryoSegNetError:
        return {}
    sizes = [(record, run.diameters.get(record.pixel_size is not None)) for record in run.done]
    return {spelt(record.stem): to_pixels(size, record.pixel_size) for record, size in sizes if size is not None}


def _by_stem(inputs: Sequence[Input]) -> dict[str, list[int]]:
    """Indices of the micrographs by their stems, and by what is left of them without what programs add to a name."""
    stems: dict[str, list[int]] = {}
    shorter: dict[str, list[int]] = {}
    for i, one in enumerate(inputs):
        stems.setdefault(micrograph_stem(one.path), []).append(i)
        shorter.setdefault(stem_of(one.path.name), []).append(i)
    return {**shorter, **stems}


def _micrograph_of(name: str, inputs: Sequence[Input], by_stem: Mapping[str, list[int]]) -> int | None:
    """Index of the micrograph that labels of this name or path belong to, or None."""
    stem = match_name(name, by_stem)
    if stem is None:
        return None
    candidates = by_stem[stem]
    # Files of one name in several folders: the one whose path agrees furthest from its end.
    words = Path(name).parts

    def agreement(i: int) -> int:
        other = inputs[i].path.parts
        return sum(a == b for a, b in zip(words[-2::-1], other[-2::-1]))

    best = max(candidates, key=agreement)
    if sum(agreement(i) == agreement(best) for i in candidates) > 1:
        raise CryoSegNetError(
            f"labels of {name} could belong to {inputs[candidates[0]].path} or {inputs[candidates[1]].path}: "
            "train on micrographs whose names differ, or give labels that name the micrographs with their folders"
        )
    return best


def scaled_labels(labels: Labels, shape: tuple[int, int]) -> Labels:
    """Labels in pixels of their micrograph of that shape (ny, nx): a mask may be smaller or larger than it."""
    if labels.mask_shape is None:
        return labels
    x, y, diameter = in_micrograph(labels.x, labels.y, labels.diameter, labels.mask_shape, shape)
    return Labels(labels.source, x, y, float(diameter))
