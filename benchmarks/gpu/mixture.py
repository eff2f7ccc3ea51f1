"""What the network of stage c is trained on: the crops of the last stage of the built-in weights, one by its number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from benchmarks.gpu.pack import Packed
from benchmarks.weights.train_default import empty_view
from cryosegnet_ext.simulation.micrograph import ProjectionStack
from cryosegnet_ext.training.augmentation import augment
from cryosegnet_ext.training.batches import Sample, Samples
from cryosegnet_ext.training.crops import Crop, Labelled, labelled_particles, planted_particles, simulated_particles
from cryosegnet_ext.training.crops_on_device import CropToRender, draw_crop_to_render

#: Sets in turn; EMPIAR-10017 twice, for it has the most particles.
TURNS = (
    *("empiar-10017-denoised", "apoferritin-one-frame", "apoferritin"),
    *("empiar-10017-denoised", "empiar-10059", "views"),
)
#: Of eight crops: of labelled micrographs, and without particles on average. Of the simulated ones: on real grounds,
#: and of small specimens.
EIGHT, REAL, EMPTY, PLANTED, SMALL = 8, 3, 0.8, 0.2, 0.4


@dataclass(frozen=True)
class Mixture(Samples):
    """Crops by number; a worker process reads the packed micrographs itself.

    Attributes
    ----------
    stacks, small
        Projections of all specimens, and of the small ones.
    data
        Folder of packed data; without it all crops are simulated.
    batch, side, seed
        Crops in a step; their side, pixels; random seed.
    rendered_later
        Simulated crops are only drawn, for a `CropRenderer` of ``stacks`` and ``small`` together.
    """

    stacks: Sequence[ProjectionStack]
    small: Sequence[ProjectionStack]
    data: Path | None
    batch: int
    side: int
    seed: int
    rendered_later: bool = False

    def numbers(self, step: int) -> list[int]:
        """Of the crops of a step."""
        return list(range(step * self.batch, (step + 1) * self.batch))

    @cached_property
    def _real(self) -> dict[str, list[Labelled]]:
        return Packed(self.data).micrographs("train") if self.data else {}

    @cached_property
    def _empty(self) -> list[Labelled]:
        return Packed(self.data).micrographs("empty")["no-particles"] if self.data else []

    @cached_property
    def _spectra(self) -> list[Labelled]:
        return [one for name, pool in self._real.items() if name != "empiar-10017-denoised" for one in pool]

    def __getitem__(self, number: int) -> Sample | CropToRender:
        cv2.setNumThreads(1)
        rng = np.random.default_rng([self.seed, number])
        crop = self._crop(number, rng)
        if isinstance(crop, CropToRender):
            return crop
        image, label = augment(crop.image, crop.label(), rng)
        return image, label

    def _crop(self, number: int, rng: np.random.Generator) -> Crop | CropToRender:
        group, place = divmod(number, EIGHT)
        if self._empty and place == EIGHT - 1 and rng.random() < EMPTY:
            return labelled_particles(empty_view(self._empty, rng), self.side, rng, degraded=True)
        if self._real and place < REAL:
            pool = self._real[TURNS[(group * REAL + place) % len(TURNS)]]
            return labelled_particles(pool[int(rng.integers(len(pool)))], self.side, rng, degraded=True)
        of = self.small if rng.random() < SMALL else self.stacks
        seed, kind = int(rng.integers(2**62)), rng.random()
        if self._empty and kind < PLANTED / 2:
            return planted_particles(of, self._empty, self.side, seed)
        if self._spectra and kind < PLANTED:
            return planted_particles(of, self._spectra, self.side, seed, random_phases=True)
        if not self.rendered_later:
            return simulated_particles(of, self.side, seed)
        drawn = draw_crop_to_render(of, self.side, seed, rng)
        first = 0 if of is self.stacks else len(self.stacks)
        return replace(drawn, plan=replace(drawn.plan, stacks=tuple(i + first for i in drawn.plan.stacks)))
