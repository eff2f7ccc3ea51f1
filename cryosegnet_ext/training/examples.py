"""Prepare labelled micrographs: read once, checked, denoised or reduced, and kept as frames on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import CryoSegNetError
from ..files.atomic import atomic_path, explained, write_atomic
from ..files.diameter import Diameter
from ..files.inputs import Input
from ..files.micrograph import Micrograph, inverted, read_micrograph
from ..picking import denoise
from ..picking.image_evidence import ImageEvidence, inside
from . import checks
from .checks import Problem
from .crops import Labelled
from .labels import Labels, scaled_labels
from .options import Options

Floats = NDArray[np.float64]
log = logging.getLogger(__name__)

#: Side of the published network's input, pixels.
PUBLISHED_SIDE = 1024
# Frames of the default recipe are reduced until the particle has this many pixels: crops show it at 64 pixels at most,
# except for the few that show it too large.
_FRAME_DIAMETER = 96.0
_NONE = np.zeros((0, 2))


@dataclass(frozen=True)
class Preparation:
    """How micrographs are made into frames.

    Attributes
    ----------
    recipe
        ``default``: reduced; ``published``: denoised as published, 1024 x 1024, upside down.
    denoised
        The micrographs went through the published denoising already.
    pixel_size
        Angstrom per pixel; wins over the value in the file.
    invert
        The particles are brighter than the ice: the contrast is inverted.
    flip, scale
        Changes of label coordinates: see `checks.place`.
    """

    recipe: Literal["default", "published"] = "default"
    denoised: bool = False
    pixel_size: float | None = None
    flip: str | None = None
    scale: float = 1.0
    invert: bool = False

    @classmethod
    def of(cls, options: Options) -> Preparation:
        """From the options of a training."""
        return cls(
            options.recipe,
            options.denoised,
            options.pixel_size,
            options.flip_labels,
            options.label_scale,
            options.invert,
        )


@dataclass(frozen=True)
class Example:
    """One labelled micrograph.

    Attributes
    ----------
    name, path
        The user's name of it, and its file.
    pixel_size : float or None
    shape : (ny, nx)
    diameter_px : float
        Particle diameter, pixels of the micrograph.
    x, y : (n,) float64
        Labels, pixels of the micrograph, all inside.
    frame : Path
        The ``.npy`` file from which crops are cut.
    scale_y, scale_x : float
        Pixels of the frame per pixel of the micrograph.
    doubtful : (m, 2) float64
        x, y of places that may hold a particle: they are labelled neither as particle nor as background.
    invert : bool
        The particles are brighter than the ice in the file.
    """

    name: str
    path: str
    pixel_size: float | None
    shape: tuple[int, int]
    diameter_px: float
    x: Floats
    y: Floats
    frame: Path
    scale_y: float = 1.0
    scale_x: float = 1.0
    doubtful: Floats = field(default_factory=lambda: _NONE)
    invert: bool = False

    def micrograph(self) -> Micrograph:
        """Read the micrograph itself; its particles are dark."""
        return inverted(self.as_in_file()) if self.invert else self.as_in_file()

    def as_in_file(self) -> Micrograph:
        """Read the micrograph itself, with the contrast of its file. For pictures."""
        return read_micrograph(self.path, self.pixel_size)

    def pixels(self) -> NDArray[Any]:
        """The frame, read from disk when it is needed."""
        return np.asarray(np.load(self.frame, mmap_mode="r"))

    def in_frame(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Pixels of the micrograph to pixels of the frame."""
        return (x + 0.5) * self.scale_x - 0.5, (y + 0.5) * self.scale_y - 0.5

    def labelled(self, doubtful: bool = False) -> Labelled:
        """The frame with its labels, or with its doubtful places instead."""
        x, y = (self.doubtful[:, 0], self.doubtful[:, 1]) if doubtful else (self.x, self.y)
        scale = float(np.sqrt(self.scale_x * self.scale_y))
        return Labelled(self.pixels(), *self.in_frame(x, y), self.diameter_px * scale)


@dataclass(frozen=True)
class LabelledInput:
    """A micrograph to prepare, with its labels; without labels it has no particles yet."""

    one: Input
    labels: Labels
    diameter: Diameter

    def diameter_px(self, micrograph: Micrograph) -> float:
        """The particle's diameter in pixels of its micrograph."""
        size = self.diameter.in_pixels(micrograph.pixel_size)
        if self.diameter.unit == "angstrom" and not 4 <= size <= max(micrograph.data.shape) / 2:
            raise CryoSegNetError(
                f"a diameter of {self.diameter} is {size:.3g} pixels of {micrograph.name}: "
                "check --diameter and --pixel-size"
            )
        return size


def prepare(
    tasks: Sequence[LabelledInput], how: Preparation, folder: Path, workers: int = 2
) -> tuple[list[Example], list[Problem]]:
    """Read, check and reduce micrographs. Results of an earlier call that was killed are used again.

    Parameters
    ----------
    tasks
        The micrographs with their labels.
    how
        How frames are made.
    folder
        Folder of the frames.
    workers
        Number of micrographs at a time.

    Returns
    -------
    list of Example
        Those without serious problems, in order.
    list of Problem
        Problems of labels and files.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    results = []
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        for i, result in enumerate(pool.map(lambda task: _prepare(task, how, folder), tasks), 1):
            results.append(result)
            if i % 20 == 0 and i < len(tasks):
                log.info(f"{i} of {len(tasks)} micrographs prepared")
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    problems = [problem for _, found, _ in results for problem in found]
    usable = [(example, seen) for example, _, seen in results if example is not None]
    evidence = {example.name: seen for example, seen in usable if seen is not None}
    together = checks.check_all(evidence, {example.name: len(example.x) for example, _ in usable})
    if together is not None:
        problems.insert(0, _added(together, how))
    return [example for example, _ in usable], problems


def _added(problem: Problem, how: Preparation) -> Problem:
    """The problem with a remedy that includes the options already given."""
    return replace(problem, remedy=problem.remedy and checks.further(problem.remedy, how.flip, how.scale))


def _prepare(
    task: LabelledInput, how: Preparation, folder: Path
) -> tuple[Example | None, list[Problem], Floats | None]:
    key = _fingerprint(task, how)
    note, frame = folder / f"{key}.json", folder / f"{key}.npy"
    if not (os.path.exists(note) and os.path.exists(frame)):
        try:
            pixels, made = _make(task, how)
        except CryoSegNetError as error:
            return None, [Problem(task.one.name, task.one.name, f"cannot be used ({error})", of="micrographs")], None
        # not within try: a file that cannot be written is not a problem of the micrograph
        with atomic_path(frame) as temporary:
            np.save(temporary, pixels)
        write_atomic(note, json.dumps(made))
    known = json.loads(note.read_text())
    problems = [Problem(**p) for p in known.pop("problems")]
    evidence = None if (seen := known.pop("evidence")) is None else np.array(seen)
    if any(p.serious for p in problems):
        return None, problems, evidence
    known |= {"shape": tuple(known["shape"]), "x": np.array(known["x"], float), "y": np.array(known["y"], float)}
    return Example(**known | {"name": task.one.name, "path": str(task.one.path), "frame": frame}), problems, evidence


def _make(task: LabelledInput, how: Preparation) -> tuple[NDArray[Any], dict[str, Any]]:
    """Read and check one micrograph; returns its frame and the content of its note."""
    micrograph = task.one.read(how.pixel_size)
    if how.invert:
        micrograph = inverted(micrograph)
    shape = (micrograph.data.shape[0], micrograph.data.shape[1])
    diameter_px = task.diameter_px(micrograph)
    name = task.one.path.name
    found = [checks.check_shape(name, shape, task.labels) if how.scale == 1 else None]
    labels = checks.place(scaled_labels(task.labels, shape), shape, how.flip, how.scale)
    evidence = None
    if found[0] is None and len(labels):
        evidence = ImageEvidence(micrograph.data, diameter_px).placed(labels.x, labels.y, checks.PLACEMENTS)
        outside = checks.check_frame(name, shape, labels, evidence)
        found.append(outside or checks.check_placement(name, labels, evidence))
    problems = [_added(p, how) for p in found if p is not None]
    within = inside(labels.x, labels.y, shape)
    if not problems and not within.all():
        what = f"has {(~within).sum()} of {len(labels)} labels outside {name}: left out"
        problems.append(Problem(name, labels.source, what, serious=False))
    x, y = np.clip(labels.x[within], 0, shape[1] - 1), np.clip(labels.y[within], 0, shape[0] - 1)
    pixels = _published_frame(micrograph, how) if how.recipe == "published" else _reduced(micrograph, diameter_px)
    known = {
        "name": task.one.name,
        "pixel_size": micrograph.pixel_size,
        "diameter_px": diameter_px,
        "shape": shape,
        "x": x.tolist(),
        "y": y.tolist(),
        "scale_y": pixels.shape[0] / shape[0],
        "scale_x": pixels.shape[1] / shape[1],
        "invert": how.invert,
        "problems": [vars(p) for p in problems],
        "evidence": None if evidence is None else evidence.tolist(),
    }
    return pixels, known


def _reduced(micrograph: Micrograph, diameter_px: float) -> NDArray[np.float32]:
    scale = min(1.0, _FRAME_DIAMETER / diameter_px)
    if scale > 0.8:
        return micrograph.data
    ny, nx = micrograph.data.shape
    size = (max(64, round(nx * scale)), max(64, round(ny * scale)))
    return np.asarray(cv2.resize(micrograph.data, size, interpolation=cv2.INTER_AREA), np.float32)


def _published_frame(micrograph: Micrograph, how: Preparation) -> NDArray[np.float32]:
    """The micrograph as the picker's published recipe shows it to the network: 0..1, upside down."""
    image = micrograph.data if how.denoised else denoise.published(micrograph.data)
    low, high = (float(image.min()), float(image.max())) if how.denoised else (0.0, 255.0)
    side = PUBLISHED_SIDE
    squeezed = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    return np.ascontiguousarray((squeezed[::-1] - np.float32(low)) / np.float32((high - low) or 1.0))


def _fingerprint(task: LabelledInput, how: Preparation) -> str:
    """A key that changes with the file, its labels and the way of preparing."""
    status = task.one.path.stat() if os.path.exists(task.one.path) else None
    words: list[Any] = [task.one.key, status and (status.st_size, status.st_mtime_ns), vars(how)]
    words += [round(task.diameter.value, 4), task.diameter.unit == "angstrom"]
    words += [task.one.pixel_size, task.labels.mask_shape, task.labels.micrograph_shape, task.labels.source]
    digest = hashlib.sha256(repr(words).encode(errors="surrogateescape"))
    digest.update(task.labels.x.tobytes() + task.labels.y.tobytes())
    return digest.hexdigest()[:16]
