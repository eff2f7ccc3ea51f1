"""Labels that cannot be right: outside the frame, of another shape, flipped or binned against the image.

Whether labels lie on particles is asked of the image alone, for any particle, dark or bright, full or hollow: the
average of the image around the labels, turned into a radial profile, is flat where the labels are anywhere and has
structure where they are on particles. The average of n places without common structure varies by 1 / n of what the
image does, so n * var(profile) / var(image) is below 1 for wrong places and grows with n for right ones. Profiles of
several micrographs, each in units of its image's deviation, are averaged before that: a few labels on each of a few
micrographs say as much as all of them on one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..picking.denoise import working_image
from .folder import PICTURE
from .labels import Labels

Floats = NDArray[np.float64]

# Labels that lie outside by less than a rounding are inside.
_SLACK = 1.0
# A few strays are dropped; more say that something is wrong with the whole file.
STRAYS = 0.05
# Aspect ratios of a mask and its micrograph may differ by a rounding of the smaller one's sides.
_ASPECT = 0.03
# Evidence for another placement: at least so much, and so many times that of the labels as they are. Over the real data
# sets that this was tried on, right labels have 20 to 460 and every wrong placement less than 1.
SURE, TIMES = 5.0, 6.0
# As they are, labels are believed from here on.
BELIEVED = 3.0
# With fewer labels one blob of ice can look like evidence.
LEAST_LABELS = 15
# Where so many labels show nothing, the user is told; where so many do, training on them is refused.
MANY, PLENTY = 60, 200
# Evidence of each label, on average, from which on they show something: real ones have 0.05 to 0.7.
LEAST_EACH = 0.01
_FACTORS = (2.0, 0.5, 4.0, 0.25, 3.0, 1 / 3, 8.0, 0.125)
_SIDE = 32.0


@dataclass(frozen=True)
class Placement:
    """A way in which labels may be meant: its name, and what it does to x, y in a frame (ny, nx)."""

    name: str
    remedy: str
    apply: Callable[[Floats, Floats, tuple[int, int]], tuple[Floats, Floats]]


def _scaling(factor: float) -> Placement:
    shown = f"{factor:g}" if factor >= 1 else f"1/{1 / factor:g}"
    remedy = f"--label-scale {factor:.6g}"
    return Placement(f"binned: their coordinates times {shown}", remedy, lambda x, y, s: (x * factor, y * factor))


PLACEMENTS: tuple[Placement, ...] = (
    Placement("flipped in y", "--flip-labels y", lambda x, y, s: (x, s[0] - 1 - y)),
    Placement("flipped in x", "--flip-labels x", lambda x, y, s: (s[1] - 1 - x, y)),
    Placement("turned by 180 degrees", "--flip-labels xy", lambda x, y, s: (s[1] - 1 - x, s[0] - 1 - y)),
    Placement("with x and y exchanged", "--flip-labels swap", lambda x, y, s: (y, x)),
    *(_scaling(f) for f in _FACTORS),
)


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
    """Labels after what the user says of them: ``flip`` is x, y, xy or swap; coordinates times ``scale``."""
    x, y = labels.x * scale, labels.y * scale
    if flip == "swap":
        x, y = y, x
    elif flip:
        x = shape[1] - 1 - x if "x" in flip else x
        y = shape[0] - 1 - y if "y" in flip else y
    return Labels(labels.source, x, y, labels.diameter * scale, labels.mask_shape, labels.micrograph_shape)


def inside(x: Floats, y: Floats, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(n,) whether labels lie in a frame (ny, nx)."""
    ny, nx = shape
    return (x > -0.5 - _SLACK) & (y > -0.5 - _SLACK) & (x < nx - 0.5 + _SLACK) & (y < ny - 0.5 + _SLACK)


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
    """More labels outside the frame than a few strays; ``seen`` are the image's profiles (see `Evidence`)."""
    if len(labels) == 0:
        return None
    out = ~inside(labels.x, labels.y, shape)
    if not out.any() or out.sum() <= STRAYS * len(labels):
        return None
    ny, nx = shape
    what = f"has {out.sum()} of {len(labels)} labels outside {micrograph} ({nx} x {ny} pixels)"
    better = fitting(seen) if len(labels) >= LEAST_LABELS else None
    if better is not None:
        return Problem(micrograph, labels.source, f"{what}, but they lie on its particles {better.name}", better.remedy)
    return Problem(micrograph, labels.source, what + ": they belong to another micrograph or another binning")


class Evidence:
    """How well placements of labels fit one micrograph.

    Parameters
    ----------
    data : (ny, nx) float32
        The micrograph.
    diameter_px
        Particle diameter, pixels of it.
    """

    def __init__(self, data: NDArray[np.float32], diameter_px: float) -> None:
        self.shape = (data.shape[0], data.shape[1])
        work = working_image(data, _SIDE / diameter_px)
        self._image = cv2.GaussianBlur(work.data, (0, 0), _SIDE / 16)
        self._scale_x, self._scale_y = work.scale_x, work.scale_y
        self._variance = max(float(self._image.var()), 1e-12)

    def __call__(self, x: Floats, y: Floats) -> Floats:
        """Of labels x, y (n,), pixels of the micrograph: how many have their surroundings in it, and profiles' sum."""
        reach = round(0.75 * _SIDE)
        column = np.round((x + 0.5) * self._scale_x - 0.5).astype(int)
        row = np.round((y + 0.5) * self._scale_y - 0.5).astype(int)
        h, w = self._image.shape
        whole = (column >= reach) & (row >= reach) & (column < w - reach) & (row < h - reach)
        column, row = column[whole], row[whole]
        offset = np.arange(-reach, reach + 1, 2)
        total = np.zeros((len(offset), len(offset)))
        for i in range(0, len(column), 256):
            rows, columns = row[i : i + 256, None, None] + offset[:, None], column[i : i + 256, None, None] + offset
            total += self._image[rows, columns].sum(0)
        ring = (np.hypot(*np.meshgrid(offset, offset)) / 2).round().astype(int)
        within = ring <= reach // 2
        profile = np.bincount(ring[within], total[within]) / np.bincount(ring[within])
        return np.append(len(column), profile / np.sqrt(self._variance))

    def placements(self, labels: Labels) -> Floats:
        """(1 + placements, 1 + radii): labels as they are, then by `PLACEMENTS`; 0 where most would lie outside."""
        seen = [self(labels.x, labels.y)]
        for placement in PLACEMENTS:
            a, b = placement.apply(labels.x, labels.y, self.shape)
            fits = inside(a, b, self.shape)
            seen.append(self(a[fits], b[fits]) if fits.mean() > 0.9 else np.zeros_like(seen[0]))
        return np.array(seen)


def strength(seen: Floats) -> Floats:
    """Evidence for each row of `Evidence.placements`, or of such tables' sum: below 1 for none; see the module."""
    count = np.maximum(seen[:, 0], 1)
    return np.where(seen[:, 0] >= 3, (seen[:, 1:] / count[:, None]).var(1) * count, 0.0)


def fitting(seen: Floats) -> Placement | None:
    """The placement that fits far better than the labels do as they are, if there is one."""
    evidence = strength(seen)
    best = int(np.argmax(evidence))
    sure = evidence[best] >= SURE and evidence[best] >= TIMES * max(evidence[0], 0.5)
    return PLACEMENTS[best - 1] if best > 0 and sure else None


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
    better = fitting(seen) if len(labels) >= LEAST_LABELS else None
    if better is None:
        return None
    evidence = strength(seen)
    what = (
        f"does not lie on the particles of {micrograph}, but does so {better.name} "
        f"(evidence {evidence[0]:.1f} as it is, {evidence.max():.0f} so)"
    )
    return Problem(micrograph, labels.source, what, better.remedy)


def check_all(seen: Mapping[str, Floats], counts: Mapping[str, int]) -> Problem | None:
    """What the micrographs say together, by name: that labels lie elsewhere, show nothing, or are too few to tell."""
    count = sum(counts.values())
    if not seen or not count:
        return None
    total = np.sum(list(seen.values()), axis=0)
    evidence = float(strength(total)[0])
    if count >= LEAST_LABELS:
        better = fitting(total)
        if better is not None:
            return Problem("", "the labels", f"together fit far better {better.name}", better.remedy)
        if evidence >= max(BELIEVED, LEAST_EACH * count):
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
