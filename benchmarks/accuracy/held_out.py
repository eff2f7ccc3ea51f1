"""Held-out micrographs with their labels, real and simulated, for comparisons of pickers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from benchmarks import real_data
from benchmarks.accuracy.other_pickers import Task
from benchmarks.accuracy.real_micrographs import LABEL_DIAMETER, PIXEL_SIZE, random_f1
from benchmarks.accuracy.simulated_specimens import scenes
from cryosegnet_ext import Picks
from cryosegnet_ext.evaluation import MicrographScore, SetScore, score_set
from cryosegnet_ext.files.diameter import from_pixels
from cryosegnet_ext.files.micrograph import Micrograph

SMALL = 120.0
"""Specimens of at most this diameter, angstrom, are a group of their own."""


@dataclass(frozen=True)
class HeldOut:
    """Micrographs of one particle with labels.

    Attributes
    ----------
    group
        What the figures are summed over: a data set's name, or the simulated specimens of like size.
    task
        The micrographs, pixel size and true diameter.
    labels : name -> (n, 2) of x, y in pixels
    inside : name -> (n,) bool
        Labels that count; picks of the others, which lie at the border, count neither as right nor as wrong.
    label_diameter
        Pixels; a pick is right within 0.3 of it.
    denoised
        The micrographs went through the published denoising.
    """

    group: str
    task: Task
    labels: Mapping[str, np.ndarray]
    inside: Mapping[str, np.ndarray]
    label_diameter: float
    denoised: bool = False

    def random_f1(self, score: SetScore) -> float:
        """Mean F1 of as many picks at random places as the score counts on each micrograph."""
        shapes = {m.name: (m.data.shape[0], m.data.shape[1]) for m in self.task.micrographs}
        stems = [m.name for m in score.micrographs]
        inside = [self.labels[stem][self.inside[stem]] for stem in stems]
        counts = [m.picks for m in score.micrographs]
        return random_f1(counts, inside, [shapes[stem] for stem in stems], 0.3 * self.label_diameter)

    def score(self, name: str, picks: Mapping[str, Picks], threshold: float | None = None) -> SetScore:
        """Judge picks by `cryosegnet_ext.evaluation`.

        For its curve, picks take labels in the order of their scores: the same as if the picks above each threshold
        were judged alone. So a picker that gives very many picks loses nothing at its higher thresholds.
        """
        reach = 0.3 * self.label_diameter
        shapes = {m.name: (m.data.shape[0], m.data.shape[1]) for m in self.task.micrographs}
        truth, counted, ranked = {}, {}, []
        for stem, xy in self.labels.items():
            x, y = xy[self.inside[stem]].T
            truth[stem] = Picks(x, y, np.full(len(x), np.nan), np.ones(len(x)))
            hit = np.zeros(0, bool)
            if stem in picks:
                p = picks[stem]
                label = take_in_order(np.c_[p.x, p.y], p.score, xy, reach)
                counts = (label < 0) | self.inside[stem][label]
                counted[stem], hit = p.take(counts), label[counts] >= 0
            ranked.append((stem, hit))
        score = score_set(name, counted, truth, self.label_diameter, reach, shapes, threshold)
        return replace(score, ranked=[_with_hits(m, hit) for m, (_, hit) in zip(score.ranked, ranked)])


def take_in_order(xy: np.ndarray, score: np.ndarray, labels: np.ndarray, reach: float) -> np.ndarray:
    """The label that each pick takes: the nearest within reach that no better pick has taken.

    Parameters
    ----------
    xy, labels : (n, 2), (m, 2)
        x, y in the same unit as ``reach``.
    score : (n,)

    Returns
    -------
    (n,) int
        Index of a label, -1 for none.
    """
    taken = np.full(len(xy), -1)
    if not len(xy) or not len(labels):
        return taken
    near = cKDTree(labels).query_ball_point(xy, reach)
    free = np.ones(len(labels), bool)
    for i in np.argsort(-score, kind="stable"):
        there = [j for j in near[i] if free[j]]
        if there:
            taken[i] = min(there, key=lambda j: float(np.hypot(*(labels[j] - xy[i]))))
            free[taken[i]] = False
    return taken


def _with_hits(m: MicrographScore, hit: np.ndarray) -> MicrographScore:
    return replace(m, hit=hit, offset=np.zeros((0, 2)))


def real(sets: list[str], split: str) -> Iterator[HeldOut]:
    """The labelled data sets that have such a split; all labels count."""
    for name in sets:
        stems = real_data.SPLITS[name].get(split, [])
        if not stems:
            continue
        labelled = real_data.load(name, split)
        pixel_size = PIXEL_SIZE[name]
        micrographs = [Micrograph(m.data, pixel_size, stem) for m, stem in zip(labelled, stems)]
        labels = {stem: np.c_[m.x, m.y] for m, stem in zip(labelled, stems)}
        inside = {stem: np.ones(len(xy), bool) for stem, xy in labels.items()}
        given = from_pixels(real_data.diameter_of(name), pixel_size)
        task = Task(f"{name}-{split}", micrographs, given, pixel_size or 1.0)  # without a pixel size, in pixels
        yield HeldOut(name, task, labels, inside, LABEL_DIAMETER[name], denoised=name.endswith("denoised"))


def simulated(count: int, leave_out: Collection[str] = ()) -> Iterator[HeldOut]:
    """Specimens that training never saw; particles within half a diameter of the border do not count.

    Parameters
    ----------
    count
        Micrographs of each.
    leave_out
        Names of specimens, as their files'.
    """
    for stack, images, truths in scenes(count, leave_out) if count else ():
        micrographs = [replace(m, name=m.name.replace(" ", "_")) for m in images]
        pixel_size = float(micrographs[0].pixel_size)
        rim = 0.5 * stack.diameter / pixel_size
        labels = {m.name: xy for m, xy in zip(micrographs, truths)}
        limits = {m.name: np.array(m.data.shape[::-1]) - 1 - rim for m in micrographs}
        inside = {name: ((xy > rim) & (xy < limits[name])).all(1) for name, xy in labels.items()}
        size = f"up to {SMALL:.0f} A" if stack.diameter <= SMALL else f"over {SMALL:.0f} A"
        task = Task(f"simulated-{stack.name}", micrographs, stack.diameter, pixel_size)
        yield HeldOut(f"simulated, {size}", task, labels, inside, stack.diameter / pixel_size)


def merge(scores: list[SetScore]) -> SetScore:
    """The figures of several data sets as those of one."""
    first = scores[0]
    every = [m for s in scores for m in s.micrographs]
    return SetScore(first.name, every, [m for s in scores for m in s.ranked], first.threshold)
