"""Labels of the user: which file belongs to which micrograph, and where its particles are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import CryoSegNetError, plural
from ..files.discs import centres_of_mask
from ..files.formats import READABLE
from ..files.inputs import Input
from ..files.micrograph import MICROGRAPH_SUFFIXES, micrograph_stem, read_micrograph
from ..files.picks import Picks, read_many
from ..files.relion import coordinate_list

Floats = NDArray[np.float64]

# What programs append to a micrograph's stem in the names of its coordinates and masks.
_JOINTS = ("_", "-", ".")
# Box sizes are chosen half as large again as the particle, by habit, not by measure.
_SIZELESS = (".box",)


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


@dataclass(frozen=True)
class _Found:
    """Labels before they are given to a micrograph: by the name that their file uses, which may be a path."""

    name: str
    exact: bool  # the file names the micrograph; else its own stem stands for it
    labels: Labels | Path  # a mask is read when it is known to be wanted


def find_labels(inputs: Sequence[Input], arguments: Iterable[str | Path]) -> tuple[dict[int, Labels], list[str]]:
    """Give each micrograph its labels.

    Parameters
    ----------
    inputs
        The micrographs.
    arguments
        Label files or folders: tables of one or many micrographs (STAR, BOX, CBOX, CSV, Topaz, .cs), RELION's
        ``autopick.star`` that lists coordinate files, mask images. A file of one micrograph carries its stem, alone or
        followed by ``_``, ``-`` or ``.`` and anything (``mic_001_autopick.star``).

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
    files = [path for argument in arguments for path in _files(Path(argument)) if os.path.realpath(path) not in own]
    if not files:
        raise CryoSegNetError("--labels names no file of labels; give STAR, BOX, CBOX, CSV, .cs files or mask images")
    by_stem: dict[str, list[int]] = {}
    for i, one in enumerate(inputs):
        by_stem.setdefault(micrograph_stem(one.path), []).append(i)
    result: dict[int, Labels] = {}
    unknown: list[str] = []
    for path in files:
        for found in _read(path):
            owner = _micrograph_of(found, inputs, by_stem)
            if owner is None:
                unknown.append(found.name)
                continue
            labels = _read_mask(found.labels) if isinstance(found.labels, Path) else found.labels
            if owner in result:
                raise CryoSegNetError(
                    f"{inputs[owner].name} has labels in {result[owner].source} and in {labels.source}: give one"
                )
            result[owner] = labels
    if not result:
        example = f" (a label file says {unknown[0]}, a micrograph is called {inputs[0].path.name})" if unknown else ""
        raise CryoSegNetError(
            f"there are no labels for the {plural(len(inputs), 'micrograph')}{example}: label files must carry the "
            "micrographs' names"
        )
    return result, unknown


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        wanted = (*READABLE, *MICROGRAPH_SUFFIXES)
        found = sorted(p for p in path.rglob("*") if p.name.lower().endswith(wanted) and not p.name.startswith("."))
        if not found:
            raise CryoSegNetError(f"--labels {path}: the folder holds no labels; looked for {', '.join(wanted)}")
        return found
    if not path.is_file():
        raise CryoSegNetError(f"--labels {path}: no such file or folder; check the path")
    if not path.name.lower().endswith((*READABLE, *MICROGRAPH_SUFFIXES)):
        raise CryoSegNetError(
            f"--labels {path}: '{path.suffix}' is no format of labels; use one of {', '.join(READABLE)} or a mask image"
        )
    return [path]


def _read(path: Path) -> list[_Found]:
    if path.suffix.lower() not in READABLE:
        return [_Found(micrograph_stem(path), False, path)]
    listed = coordinate_list(path)
    if listed is not None:
        return [_Found(name, True, _labels(picks, file)) for name, file in listed.items() for picks in _one(file)]
    table = read_many(path, 1.0)
    if not table:  # a table without rows: a micrograph without particles
        table = {path.stem: Picks.empty()}
    return [_Found(name, name != path.stem, _labels(picks, path)) for name, picks in table.items()]


def _one(path: Path) -> list[Picks]:
    return list(read_many(path, 1.0).values())[:1] or [Picks.empty()]


def _labels(picks: Picks, path: Path) -> Labels:
    sizes = picks.diameter_px[np.isfinite(picks.diameter_px)]
    usable = len(sizes) > 0 and path.suffix.lower() not in _SIZELESS
    diameter = float(np.median(sizes)) if usable else float("nan")
    return Labels(str(path), picks.x, picks.y, diameter, micrograph_shape=picks.shape)


def _read_mask(path: Path) -> Labels:
    image: NDArray[Any] | None = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:  # MRC, or a TIFF that OpenCV does not know
        try:
            mask: NDArray[Any] = read_micrograph(path).data
        except CryoSegNetError as error:
            if "constant" in str(error):
                raise CryoSegNetError(
                    f"{path}: the mask is empty or full; leave it out, or give an empty STAR file for a micrograph "
                    "without particles"
                ) from None
            raise
    else:
        mask = image if image.ndim == 2 else image[..., :3].max(-1)
    try:
        x, y, diameter = centres_of_mask(mask)
    except CryoSegNetError as error:
        raise CryoSegNetError(f"{path}: {error}") from None
    return Labels(str(path), x, y, diameter, mask_shape=(mask.shape[0], mask.shape[1]))


def _micrograph_of(found: _Found, inputs: Sequence[Input], by_stem: dict[str, list[int]]) -> int | None:
    """Index of the micrograph that labels belong to, or None."""
    stem = micrograph_stem(found.name)
    candidates = by_stem.get(stem, [])
    if not candidates and not found.exact:
        longest = max((s for s in by_stem if stem.startswith(tuple(s + j for j in _JOINTS))), key=len, default=None)
        candidates = by_stem[longest] if longest is not None else []
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    # files of one name in several folders: the one whose path agrees furthest from its end
    words = Path(found.name if found.exact else found.labels.source if isinstance(found.labels, Labels) else "").parts

    def agreement(i: int) -> int:
        other = inputs[i].path.parts
        return sum(a == b for a, b in zip(words[-2::-1], other[-2::-1]))

    best = max(candidates, key=agreement)
    if sum(agreement(i) == agreement(best) for i in candidates) > 1:
        raise CryoSegNetError(
            f"labels of {found.name} could belong to {inputs[candidates[0]].path} or {inputs[candidates[1]].path}: "
            "train on micrographs whose names differ, or give labels that name the micrographs with their folders"
        )
    return best


def scaled_labels(labels: Labels, shape: tuple[int, int]) -> Labels:
    """Labels in pixels of their micrograph of that shape (ny, nx): a mask may be smaller or larger than it."""
    if labels.mask_shape is None:
        return labels
    fy, fx = shape[0] / labels.mask_shape[0], shape[1] / labels.mask_shape[1]
    x, y = (labels.x + 0.5) * fx - 0.5, (labels.y + 0.5) * fy - 0.5
    return Labels(labels.source, x, y, labels.diameter * float(np.sqrt(fx * fy)))
