"""Held-out micrographs with their labels, real and simulated, for comparisons of pickers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from benchmarks import real_data
from benchmarks.accuracy.other_pickers import Task
from benchmarks.accuracy.real_micrographs import LABEL_DIAMETER, PIXEL_SIZE
from benchmarks.accuracy.simulated_specimens import scenes
from cryosegnet_ext import Picks
from cryosegnet_ext.evaluation import SetScore, match, score_set
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

    def score(self, name: str, picks: Mapping[str, Picks], threshold: float | None = None) -> SetScore:
        """Judge picks by `cryosegnet_ext.evaluation`."""
        reach = 0.3 * self.label_diameter
        shapes = {m.name: (m.data.shape[0], m.data.shape[1]) for m in self.task.micrographs}
        truth, counted = {}, {}
        for stem, xy in self.labels.items():
            x, y = xy[self.inside[stem]].T
            truth[stem] = Picks(x, y, np.full(len(x), np.nan), np.ones(len(x)))
            if stem in picks:
                p = picks[stem]
                i, j = match(np.c_[p.x, p.y], xy, reach)
                aside = np.zeros(len(p), bool)
                aside[i[~self.inside[stem][j]]] = True
                counted[stem] = p.take(~aside)
        return score_set(name, counted, truth, self.label_diameter, reach, shapes, threshold)


def real(sets: list[str], split: str) -> Iterator[HeldOut]:
    """The labelled data sets; all labels count."""
    for name in sets:
        stems = real_data.SPLITS[name][split]
        labelled = real_data.load(name, split)
        micrographs = [Micrograph(m.data, PIXEL_SIZE[name], stem) for m, stem in zip(labelled, stems)]
        labels = {stem: np.c_[m.x, m.y] for m, stem in zip(labelled, stems)}
        inside = {stem: np.ones(len(xy), bool) for stem, xy in labels.items()}
        task = Task(f"{name}-{split}", micrographs, real_data.SETS[name][1] * PIXEL_SIZE[name], PIXEL_SIZE[name])
        yield HeldOut(name, task, labels, inside, LABEL_DIAMETER[name], denoised=name.endswith("denoised"))


def simulated(count: int) -> Iterator[HeldOut]:
    """Specimens that training never saw; particles within half a diameter of the border do not count."""
    for stack, images, truths in scenes(count) if count else ():
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
