"""Labels that cannot be right: outside the frame, of another shape, flipped or binned against the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..files.text import Floats
from ..picking.image_evidence import inside, stands_out, strength
from ..picking.placements import AS_THEY_ARE, FLIPS, Placement, scaled_by
from .folder import PICTURE
from .labels import Labels

# A few strays are dropped; more say that something is wrong with the whole file.
STRAYS = 0.05
# Aspect ratios of a mask and its micrograph may differ by a rounding of the smaller one's sides.
_ASPECT = 0.03
# As they are, labels are believed from here on.
BELIEVED = 3.0
# With fewer labels one blob of ice can look like evidence.
LEAST_LABELS = 15
# Where so many labels show nothing, the user is told; where so many do, training on them is refused.
MANY, PLENTY = 60, 200
# Evidence of each label, on average, from which on they show something: real ones have 0.05 to 0.7.
LEAST_EACH = 0.01
_FACTORS = (2.0, 0.5, 4.0, 0.25, 3.0, 1 / 3, 8.0, 0.125)

PLACEMENTS = (AS_THEY_ARE, *FLIPS.values(), *(scaled_by(factor) for factor in _FACTORS))
"""How labels may be meant; each has an option that puts it right."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with the labels of one micrograph.

    Attributes
    ----------
    micrograph, source
        Names of the micrograph, empty for all of them, and of its label file.
    what
        The rest of a sentence that the file's name begins.
    remedy
        An option that puts it right; empty where there is none.
    serious
        Training on it would teach nonsense.
    of
        What has the problem: ``labels`` or ``micrographs``.
    """

    micrograph: str
    source: str
    what: str
    remedy: str = ""
    serious: bool = True
    of: str = "labels"

    def __str__(self) -> str:
        tail = f": use {self.remedy}" if self.remedy else ""
        return f"{self.source} {self.what}{tail}"


def place(labels: Labels, shape: tuple[int, int], flip: str | None, scale: float) -> Labels:
    """Labels after what the user says of them: ``flip`` is a key of `FLIPS`; coordinates times ``scale``."""
    placement = replace(FLIPS[flip] if flip else AS_THEY_ARE, scale=(scale, scale))
    x, y = placement.apply(labels.x, labels.y, shape)
    return replace(labels, x=x, y=y, diameter=labels.diameter * scale)


def check_shape(micrograph: str, shape: tuple[int, int], labels: Labels) -> Problem | None:
    """A mask, or a shape noted in the label file, that is not this micrograph's."""
    ny, nx = shape
    for other, what in ((labels.mask_shape, "is a mask"), (labels.micrograph_shape, "is of a micrograph")):
        if other is None:
            continue
        size = f"{what} of {other[1]} x {other[0]} pixels, {micrograph} has {nx} x {ny}"
        ratio = (other[1] / other[0]) / (nx / ny)
        if abs(np.log(ratio)) > _ASPECT:
            turned = abs(np.log((other[0] / other[1]) / (nx / ny))) < _ASPECT
            return Problem(micrograph, labels.source, size + (": it is turned by 90 degrees" if turned else ""))
        if labels.mask_shape is None and (other[0], other[1]) != (ny, nx):
            remedy = f"--label-scale {nx / other[1]:.6g}"
            return Problem(micrograph, labels.source, size + ": another binning", remedy)
    return None


def check_frame(micrograph: str, shape: tuple[int, int], labels: Labels, seen: Floats) -> Problem | None:
    """More labels outside the frame than a few strays; ``seen`` is what the image says of `PLACEMENTS`."""
    if len(labels) == 0:
        return None
    out = ~inside(labels.x, labels.y, shape)
    if not out.any() or out.sum() <= STRAYS * len(labels):
        return None
    ny, nx = shape
    what = f"has {out.sum()} of {len(labels)} labels outside {micrograph} ({nx} x {ny} pixels)"
    better = fitting(seen, len(labels))
    if better is not None:
        return Problem(
            micrograph, labels.source, f"{what}, but they lie on its particles {better.name}", remedy_of(better)
        )
    return Problem(micrograph, labels.source, what + ": they belong to another micrograph or another binning")


def fitting(seen: Floats, count: int) -> Placement | None:
    """The placement that fits far better than the labels do as they are, if there are enough labels and such a one."""
    evidence = strength(seen)
    best = int(np.argmax(evidence))
    return PLACEMENTS[best] if count >= LEAST_LABELS and best > 0 and stands_out(evidence, best, 0) else None


def remedy_of(placement: Placement) -> str:
    """The option that puts labels right which are meant so."""
    flip = next((word for word, one in FLIPS.items() if one is placement), None)
    return f"--flip-labels {flip}" if flip else f"--label-scale {placement.scale[0]:.6g}"


def further(remedy: str, flip: str | None, scale: float) -> str:
    """A remedy for labels that a flip or a scale was applied to already: the options that do both."""
    option, _, value = remedy.partition(" ")
    if option == "--label-scale":
        scale *= float(value)
    elif option == "--flip-labels" and flip is None:
        flip = value
    elif option == "--flip-labels" and value == flip:
        flip = None
    elif option == "--flip-labels" and "swap" not in (value, flip):
        flip = "".join(axis for axis in "xy" if (axis in value) != (axis in str(flip)))
    else:
        return remedy
    words = [f"--flip-labels {flip}"] if flip else []
    words += [f"--label-scale {scale:.6g}"] if abs(scale - 1) > 1e-6 else []
    return " ".join(words) or "neither --flip-labels nor --label-scale"


def check_placement(micrograph: str, labels: Labels, seen: Floats) -> Problem | None:
    """A placement that fits this micrograph far better than the labels do as they are."""
    better = fitting(seen, len(labels))
    if better is None:
        return None
    evidence = strength(seen)
    what = (
        f"lies on the particles of {micrograph} only {better.name} "
        f"(evidence {evidence[0]:.1f} as it is, {evidence.max():.0f} so)"
    )
    return Problem(micrograph, labels.source, what, remedy_of(better))


def check_all(seen: Mapping[str, Floats], counts: Mapping[str, int]) -> Problem | None:
    """What the micrographs say together, by name: that labels lie elsewhere, show nothing, or are too few to tell."""
    count = sum(counts.values())
    if not seen or not count:
        return None
    total = np.sum(list(seen.values()), axis=0)
    evidence = float(strength(total)[0])
    better = fitting(total, count)
    if better is not None:
        return Problem("", "the labels", f"together fit far better {better.name}", remedy_of(better))
    if count >= LEAST_LABELS and evidence >= max(BELIEVED, LEAST_EACH * count):
        return None
    if count < MANY:
        few = f"are too few to tell whether they lie on particles ({count}): look at {PICTURE} as the training begins"
        return Problem("", "the labels", few, serious=False)
    what = (
        f"lie where nothing stands out in the images (evidence {evidence:.1f} of {count} labels): check that labels "
        "and micrographs belong together, and --diameter"
    )
    return Problem("", "the labels", what, serious=count >= PLENTY and evidence < BELIEVED)


def list_problems(problems: Sequence[Problem], most: int = 10) -> str:
    """Problems as lines of text, the first ``most`` of them."""
    lines = [f"  {problem}" for problem in problems[:most]]
    return "\n".join(lines + ([f"  and {len(problems) - most} more"] if len(problems) > most else []))
