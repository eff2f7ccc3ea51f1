"""The data of a run: the user's micrographs matched with their labels, checked, and split to train and validate."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CryoSegNetError, plural
from ..files.atomic import explained, write_atomic
from ..files.diameter import Diameter, from_pixels
from ..files.inputs import Input, expand_inputs
from ..files.micrograph import Micrograph, inverted
from ..runs.diameter import seen_diameter
from ..weights import resolve, sha256_of
from . import checks
from .examples import Example, LabelledInput, Preparation, prepare
from .folder import FRAMES, TrainingFolder
from .labels import Labels, find_labels, scaled_labels
from .options import Options

log = logging.getLogger(__name__)

_SAMPLE = 6


@dataclass(frozen=True)
class KnownDiameter(Diameter):
    """The particle diameter, and where it comes from."""

    source: str

    def __str__(self) -> str:
        return f"{super().__str__()} ({self.source})"


@dataclass(frozen=True)
class Data:
    """The prepared examples of a run.

    Attributes
    ----------
    training, validation
        Examples to learn from, and held-out ones.
    size
        Particle diameter.
    inputs
        Digests that change with the user's files: see `digests`.
    """

    training: list[Example]
    validation: list[Example]
    size: KnownDiameter
    inputs: Mapping[str, str] = field(default_factory=dict)

    def described(self, name: str) -> dict[str, Any]:
        """The data for ``training.json``."""
        return {
            "name": name,
            "diameter": self.size.value,
            "angstrom": self.size.unit == "angstrom",
            "diameter_from": self.size.source,
            "train": [e.name for e in self.training],
            "validation": [e.name for e in self.validation],
            "train_labels": sum(len(e.x) for e in self.training),
            "validation_labels": sum(len(e.x) for e in self.validation),
        }


def load_data(options: Options, folder: TrainingFolder, device: str) -> Data:
    """Prepare and split the user's micrographs."""
    examples, size, inputs = labelled_examples(options, folder.path, device)
    return split_data(options, examples, size, inputs, folder)


def split_data(
    options: Options,
    examples: Sequence[Example],
    size: KnownDiameter,
    inputs: Mapping[str, str],
    folder: TrainingFolder,
) -> Data:
    """Split examples into those to learn from and held-out ones.

    Raises
    ------
    CryoSegNetError
        The user's split file is invalid, or leaves nothing to train or validate on.
    """
    file = folder.split_file(options.split)
    training, validation = split([e.name for e in examples], file, options.seed, options.validation)
    if options.split is not None:
        inputs = {**inputs, options.split: hashlib.sha256(_read(Path(options.split))).hexdigest()[:16]}
    return Data(
        [e for e in examples if e.name in set(training)],
        [e for e in examples if e.name in set(validation)],
        size,
        inputs,
    )


def labelled_examples(
    options: Options, folder: Path, device: str, weights: str = "default"
) -> tuple[list[Example], KnownDiameter, dict[str, str]]:
    """The user's labelled micrographs, checked. Results of an earlier call that was killed are used again.

    Returns
    -------
    list of Example
        The usable ones.
    KnownDiameter
        Particle diameter.
    dict of str to str
        A digest of each micrograph with its labels: see `digests`.

    Raises
    ------
    CryoSegNetError
        No labels match, the size is not known, or labels are bad; the message names all bad files.
    """
    inputs = expand_inputs(options.micrographs)
    found, unknown = find_labels(inputs, options.labels)
    log.info(f"labels for {len(found)} of {plural(len(inputs), 'micrograph')}")
    if unknown:
        log.warning(f"labels without a micrograph, left out: {', '.join(unknown[:3])}{', ...' if unknown[3:] else ''}")
    labelled = [(inputs[i], found[i]) for i in sorted(found)]
    size = known_diameter(options, labelled, folder, device, weights)
    examples, problems = prepare(
        [LabelledInput(one, labels, size) for one, labels in labelled], Preparation.of(options), folder / FRAMES
    )
    serious = [p for p in problems if p.serious]
    minor = [p for p in problems if not p.serious]
    for problem in minor[:2]:
        log.warning(problem)
    if len(minor) > 2:
        log.warning(f"{plural(len(minor) - 2, 'more label file')} with such problems")
    if serious and not (options.skip_bad and examples):
        kinds = " and the ".join(sorted({p.of for p in serious}, reverse=True))
        remedies = {p.remedy for p in serious if p.remedy}
        if len(remedies) == 1 and (len(serious) > 1 or not serious[0].micrograph):
            hint = f"run again with {remedies.pop()}"
        else:
            hint = "correct them, or add --skip-bad to train without these micrographs"
        raise CryoSegNetError(
            f"{plural(len(serious), 'problem')} with the {kinds}; {hint}:\n" + checks.list_problems(serious)
        )
    left_out = [p for p in serious if p.micrograph]
    if left_out:
        log.warning(f"{plural(len(left_out), 'micrograph')} left out:\n{checks.list_problems(left_out)}")
    for problem in serious:
        if not problem.micrograph:
            log.warning(f"going on because of --skip-bad, although {problem}")
    if not any(len(e.x) for e in examples):
        raise CryoSegNetError(
            "the labels hold no particles, so there is nothing to train on: give labels with particles"
        )
    return examples, size, digests(labelled)


def digests(inputs: Sequence[tuple[Input, Labels | None]]) -> dict[str, str]:
    """By micrograph: a digest of its file size and its labels, which tells whether they changed."""
    found = {}
    for one, labels in inputs:
        digest = hashlib.sha256(str(one.path.stat().st_size if one.path.is_file() else None).encode())
        if labels is not None:
            digest.update(labels.x.tobytes() + labels.y.tobytes())
        found[one.name] = digest.hexdigest()[:16]
    return found


def known_diameter(
    options: Options,
    inputs: Sequence[tuple[Input, Labels | None]],
    folder: Path,
    device: str,
    weights: str = "default",
) -> KnownDiameter:
    """The particle diameter: given, from the label files, or estimated by the network; stored for the next call.

    Raises
    ------
    CryoSegNetError
        It cannot be found.
    """
    if options.diameter is not None:
        given = Diameter.given(options.diameter)
        return KnownDiameter(given.value, given.unit, "given")
    note = folder / FRAMES / f"size-{_size_key(options, inputs, weights)}.json"
    if note.exists():
        found = json.loads(note.read_text())
        return KnownDiameter(found["value"], "angstrom" if found["angstrom"] else "pixels", found["source"])
    picked = [inputs[i] for i in np.unique(np.linspace(0, len(inputs) - 1, _SAMPLE).round().astype(int)).tolist()]
    readable = _readable(picked, options.pixel_size, options.invert)
    # angstrom and pixels cannot be averaged
    readable = [(m, labels) for m, labels in readable if m.pixel_size is not None] or readable
    from_labels = [_labelled_size(m, labels, options.label_scale) for m, labels in readable]
    sizes = [s for s in from_labels if np.isfinite(s)]
    if len(sizes) > len(readable) / 2:
        seen, source = Diameter.of(float(np.median(sizes)), readable[0][0].pixel_size), "from the labels"
    else:
        from ..picking.picker import Picker

        log.info("estimating the particle diameter; --diameter A saves this")
        estimate = seen_diameter(Picker(weights, device=device), [m for m, _ in readable])
        if estimate is None:
            raise CryoSegNetError("the particle diameter is not in the labels and cannot be estimated: give --diameter")
        seen, source = estimate, "estimated"
    with explained(note.parent):
        note.parent.mkdir(parents=True, exist_ok=True)
    found = {"value": seen.value, "angstrom": seen.unit == "angstrom", "source": source}
    write_atomic(note, json.dumps(found))
    return KnownDiameter(seen.value, seen.unit, source)


def _readable(
    inputs: Sequence[tuple[Input, Labels | None]], pixel_size: float | None, invert: bool
) -> list[tuple[Micrograph, Labels | None]]:
    """The micrographs that can be read; an error if none can. `prepare` reports the others."""
    readable, failure = [], None
    for one, labels in inputs:
        try:
            micrograph = one.read(pixel_size)
            readable.append((inverted(micrograph) if invert else micrograph, labels))
        except CryoSegNetError as error:
            failure = error
    if failure is not None and not readable:
        raise failure
    return readable


def _size_key(options: Options, inputs: Sequence[tuple[Input, Labels | None]], weights: str) -> str:
    """A key that changes with everything that a size depends on."""
    words = [digests(inputs), options.pixel_size, options.label_scale, options.invert, sha256_of(resolve(weights))]
    words += [str(None if labels is None else labels.diameter) for _, labels in inputs]
    return hashlib.sha256(repr(words).encode(errors="surrogateescape")).hexdigest()[:16]


def _labelled_size(micrograph: Micrograph, labels: Labels | None, scale: float) -> float:
    """Diameter from the label file, in angstrom, or pixels without a pixel size; nan if the file has none."""
    if labels is None:
        return float("nan")
    ny, nx = micrograph.data.shape
    placed = scaled_labels(labels, (ny, nx))
    return from_pixels(placed.diameter * scale, micrograph.pixel_size)


def split(names: Sequence[str], file: Path | None, seed: int, share: float = 0.2) -> tuple[list[str], list[str]]:
    """Names of the micrographs for training and for validation: from ``file``, or at random without one.

    The micrographs of each folder are split separately, so that every data set is in both parts. Micrographs that are
    not in the file go to training.

    Raises
    ------
    CryoSegNetError
        The file is invalid, or leaves nothing to train or validate on.
    """
    if file is not None:
        known = read_split(file)
        training = [n for n in names if n not in known["validation"]]
        validation = [n for n in names if n in known["validation"]]
    else:
        training, validation = [], []
        rng = np.random.default_rng(seed)
        groups: dict[str, list[str]] = {}
        for name in sorted(names):
            groups.setdefault(os.path.dirname(name), []).append(name)
        for group in groups.values():
            order = [group[i] for i in rng.permutation(len(group)).tolist()]
            count = round(share * len(group)) or int(len(group) > 1)
            validation += order[:count]
            training += order[count:]
        if not validation and len(training) > 1:
            validation.append(training.pop())
    if not training or not validation:
        raise CryoSegNetError(
            f"{f'{file}: ' if file else ''}{plural(len(training), 'micrograph')} to train on and {len(validation)} to "
            "validate on, but both need at least one: give more labelled micrographs, or another split"
        )
    return sorted(training), sorted(validation)


def read_split(file: Path) -> dict[str, Any]:
    """Read a split file: ``train`` and ``validation``, each a list of micrographs.

    Raises
    ------
    CryoSegNetError
        It is invalid.
    """
    try:
        known = json.loads(file.read_text())
        for part in ("train", "validation"):
            if not all(isinstance(name, str) for name in known[part]):
                raise ValueError
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CryoSegNetError(
            f'{file} is not a split file: it must be JSON with the lists "train" and "validation" of micrographs'
        ) from error
    both = set(known["train"]) & set(known["validation"])
    if both:
        raise CryoSegNetError(f"{file}: {sorted(both)[0]} is in both parts; leave it in one")
    return dict(known)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CryoSegNetError(f"--split {path} cannot be read ({error.strerror}): check the path") from error
