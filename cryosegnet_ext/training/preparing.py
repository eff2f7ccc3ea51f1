"""From what the user gives to labelled examples: files matched, size known, labels checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import CryoSegNetError
from ..files.atomic import write_atomic
from ..files.inputs import Input, expand_inputs
from ..files.micrograph import Micrograph, read_micrograph
from ..runs.progress import plural
from ..weights import resolve, sha256_of
from . import checks
from .dataset import Example, Preparation, Say, Task, prepare
from .folder import FRAMES, explained
from .labels import Labels, find_labels, scaled_labels

_SAMPLE = 6


@dataclass(frozen=True)
class Size:
    """The particle's diameter: angstrom or pixels, and who said so."""

    value: float
    angstrom: bool
    source: str

    def __str__(self) -> str:
        return f"{self.value:.0f} {'A' if self.angstrom else 'pixels'} ({self.source})"


@dataclass(frozen=True)
class Wanted:
    """What to prepare.

    Attributes
    ----------
    micrographs, labels
        As on the command line.
    diameter
        Angstrom; None to find it.
    how
        What frames are made of.
    skip_bad
        Leave out micrographs whose labels are bad, instead of stopping.
    weights, device
        Network that estimates the size where nothing gives it, and where it runs.
    """

    micrographs: Sequence[str]
    labels: Sequence[str]
    diameter: float | None
    how: Preparation
    skip_bad: bool = False
    weights: str = "default"
    device: str = "cpu"


def labelled_examples(wanted: Wanted, folder: Path, say: Say) -> tuple[list[Example], Size, dict[str, str]]:
    """Labelled micrographs, checked; what an earlier, killed call found is not found again.

    Returns
    -------
    list of Example
        Those that can be used.
    Size
        The particle's.
    dict of str to str
        A digest of each micrograph with its labels: see `digests`.

    Raises
    ------
    CryoSegNetError
        Nothing matches, the size cannot be told, or labels are bad; all bad files are named.
    """
    inputs = expand_inputs(wanted.micrographs)
    found, unknown = find_labels(inputs, wanted.labels)
    say(f"labels for {len(found)} of {plural(len(inputs), 'micrograph')}")
    if unknown:
        say(f"warning: labels without a micrograph, left out: {', '.join(unknown[:3])}{', ...' if unknown[3:] else ''}")
    chosen = [(inputs[i], found[i]) for i in sorted(found)]
    size = known_size(wanted, chosen, folder, say)
    tasks = [Task(one, labels, size.value, size.angstrom) for one, labels in chosen]
    examples, problems = prepare(tasks, wanted.how, folder / FRAMES, say)
    serious = [p for p in problems if p.serious]
    minor = [p for p in problems if not p.serious]
    for problem in minor[:2]:
        say(f"warning: {problem}")
    if len(minor) > 2:
        say(f"warning: and the like of {len(minor) - 2} more label files")
    if serious and not (wanted.skip_bad and examples):
        kinds = " and the ".join(sorted({p.of for p in serious}, reverse=True))
        remedies = {p.remedy for p in serious if p.remedy}
        if len(remedies) == 1 and (len(serious) > 1 or not serious[0].micrograph):
            hint = f"run again with {remedies.pop()}"
        else:
            hint = "put them right, or add --skip-bad to train without these micrographs"
        raise CryoSegNetError(
            f"{plural(len(serious), 'problem')} with the {kinds}; {hint}:\n" + checks.list_problems(serious)
        )
    left_out = [p for p in serious if p.micrograph]
    if left_out:
        say(f"warning: {plural(len(left_out), 'micrograph')} left out:\n{checks.list_problems(left_out)}")
    for problem in serious:
        if not problem.micrograph:
            say(f"warning: going on, since --skip-bad says so, although {problem}")
    if not any(len(e.x) for e in examples):
        raise CryoSegNetError("the labels hold no particles at all: nothing can be learnt from them")
    return examples, size, digests(chosen)


def digests(chosen: Sequence[tuple[Input, Labels | None]]) -> dict[str, str]:
    """By micrograph: what tells whether it or its labels were changed, of the file's size and the labels' content."""
    found = {}
    for one, labels in chosen:
        digest = hashlib.sha256(str(one.path.stat().st_size if one.path.is_file() else None).encode())
        if labels is not None:
            digest.update(labels.x.tobytes() + labels.y.tobytes())
        found[one.name] = digest.hexdigest()[:16]
    return found


def known_size(wanted: Wanted, chosen: Sequence[tuple[Input, Labels | None]], folder: Path, say: Say) -> Size:
    """The particle's diameter: given, from the label files, or estimated by the network; kept for the next call.

    Raises
    ------
    CryoSegNetError
        It cannot be told.
    """
    if wanted.diameter is not None:
        return Size(wanted.diameter, True, "given")
    note = folder / FRAMES / f"size-{_size_key(wanted, chosen)}.json"
    if note.exists():
        return Size(**json.loads(note.read_text()))
    picked = [chosen[i] for i in np.unique(np.linspace(0, len(chosen) - 1, _SAMPLE).round().astype(int)).tolist()]
    picked, micrographs = _readable(picked, wanted.how.pixel_size)
    angstrom = all(m.pixel_size is not None for m in micrographs)
    from_labels = [_labelled_size(m, labels, wanted) for m, (_, labels) in zip(micrographs, picked)]
    sizes = [s for s in from_labels if np.isfinite(s)]
    if len(sizes) > len(picked) / 2:
        size = Size(float(np.median(sizes)), angstrom, "from the labels")
    else:
        from ..picking.picker import Picker

        say("estimating the particle's size; --diameter A saves this")
        estimate = Picker(wanted.weights, device=wanted.device).estimate_diameter(micrographs)
        if estimate is None:
            raise CryoSegNetError(
                "the particle's size can neither be read off the labels nor estimated: give --diameter"
            )
        size = Size(estimate, angstrom, "estimated")
    with explained(note.parent):
        note.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(note, json.dumps(vars(size)))
    return size


def _readable(
    chosen: Sequence[tuple[Input, Labels | None]], pixel_size: float | None
) -> tuple[list[tuple[Input, Labels | None]], list[Micrograph]]:
    """Those of the micrographs that can be read, which `prepare` says of each; an error where none can."""
    readable, micrographs, failure = [], [], None
    for one, labels in chosen:
        try:
            micrographs.append(read_micrograph(one.path, pixel_size or one.pixel_size))
        except CryoSegNetError as error:
            failure = error
        else:
            readable.append((one, labels))
    if failure is not None and not micrographs:
        raise failure
    return readable, micrographs


def _size_key(wanted: Wanted, chosen: Sequence[tuple[Input, Labels | None]]) -> str:
    """Changes with all that a size depends on."""
    words = [digests(chosen), wanted.how.pixel_size, wanted.how.scale, sha256_of(resolve(wanted.weights))]
    words += [str(None if labels is None else labels.diameter) for _, labels in chosen]
    return hashlib.sha256(repr(words).encode(errors="surrogateescape")).hexdigest()[:16]


def _labelled_size(micrograph: Micrograph, labels: Labels | None, wanted: Wanted) -> float:
    """Diameter by the label file, angstrom, or pixels where there is no pixel size; nan where it does not say."""
    if labels is None:
        return float("nan")
    ny, nx = micrograph.data.shape
    placed = scaled_labels(labels, (ny, nx))
    return placed.diameter * wanted.how.scale * (micrograph.pixel_size or 1.0)
