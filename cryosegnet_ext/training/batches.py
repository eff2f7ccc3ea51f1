"""Batches: what is shown at each step, told by the step's number alone, so that a resumed run sees the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from ..simulation.micrograph import ProjectionStack
from .crops import Crop, augment, labelled_particles, simulated_particles
from .examples import Example
from .fit import UNKNOWN, Batch
from .parallel import Group

Item = tuple[NDArray[np.float32], NDArray[Any]]

# Particle diameter in validation crops: the size at which micrographs are picked, working pixels.
_WORKING = (32.0, 32.0 + 1e-6)
_VALIDATION_CROPS = 32


class Source(Protocol):
    """What batches are made of."""

    def ids(self, step: int) -> list[int]:
        """Numbers of the items of a step."""

    def item(self, number: int) -> Item:
        """Image (H, W) and label (H, W) of an item; the same for the same number."""


@dataclass(frozen=True)
class Crops:
    """Crops at the working scale, of labelled micrographs and simulated ones, augmented.

    Attributes
    ----------
    examples
        Labelled micrographs; each is as likely as the others.
    stacks
        Specimens to simulate; may be empty.
    simulated
        Share of simulated crops.
    side, batch, seed
        Of a crop, in pixels; crops a step; of everything random.
    replay
        Crops with what the start weights say of them, shown so that these are not forgotten.
    replayed
        Share of those.
    """

    examples: Sequence[Example]
    stacks: Sequence[ProjectionStack] = ()
    simulated: float = 0.0
    side: int = 256
    batch: int = 8
    seed: int = 0
    replay: Sequence[Item] = ()
    replayed: float = 0.0

    def ids(self, step: int) -> list[int]:
        """Crops of a step."""
        return list(range(step * self.batch, (step + 1) * self.batch))

    def item(self, number: int) -> Item:
        """One crop."""
        rng = np.random.default_rng([self.seed, number])
        place = (number % self.batch + 0.5) / self.batch
        if self.replay and place < self.replayed:
            image, label = self.replay[int(rng.integers(len(self.replay)))]
        elif self.stacks and place < self.replayed + self.simulated:
            crop = simulated_particles(self.stacks, self.side, int(rng.integers(2**62)))
            image, label = crop.image, crop.label()
        else:
            example = self.examples[int(rng.integers(len(self.examples)))]
            image, label = labelled_item(example, self.side, int(rng.integers(2**62)))
        return augment(image, label, rng)


def labelled_item(
    example: Example, side: int, seed: int, size: tuple[float, float] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """A crop of a labelled micrograph with its label plane; doubtful places are `UNKNOWN`."""
    crop = labelled_particles(example.labelled(), side, np.random.default_rng(seed), size)
    label = crop.label()
    if len(example.doubtful):
        doubtful = labelled_particles(example.labelled(doubtful=True), side, np.random.default_rng(seed), size)
        # the whole particle is in doubt, not only its inner disc
        whole = Crop(doubtful.image, doubtful.x, doubtful.y, doubtful.diameter * 1.4).label()
        label[(whole == 1) & (label == 0)] = UNKNOWN
    return crop.image, label


def validation_crops(examples: Sequence[Example], side: int, batch: int, seed: int) -> list[Batch]:
    """Fixed crops of the validation micrographs at the scale of picking, in batches."""
    count = max(_VALIDATION_CROPS, len(examples))
    items = []
    for k in range(min(count, 2 * _VALIDATION_CROPS)):
        number = int(np.random.default_rng([seed, 1, k]).integers(2**62))
        items.append(labelled_item(examples[k % len(examples)], side, number, _WORKING))
    return [_stacked(items[i : i + batch]) for i in range(0, len(items), batch)]


@dataclass(frozen=True)
class Frames:
    """Whole frames as published: shuffled each epoch, no augmentation, particles painted as full discs."""

    examples: Sequence[Example]
    batch: int = 6
    seed: int = 0
    least: int = 1  # items a step at least: one for each process

    @property
    def steps_an_epoch(self) -> int:
        """Steps in which each frame is seen once."""
        return -(-len(self.examples) // self.batch)

    def ids(self, step: int) -> list[int]:
        """Frames of a step."""
        epoch, k = divmod(step, self.steps_an_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.examples)).tolist()
        chosen = order[k * self.batch : (k + 1) * self.batch]
        return chosen + [order[i % len(order)] for i in range(max(self.least - len(chosen), 0))]

    def item(self, number: int) -> Item:
        """One frame."""
        return frame_item(self.examples[number])


def frame_item(example: Example) -> Item:
    """A frame of the published recipe with its label plane, upside down as the frame is."""
    image = np.asarray(example.pixels(), np.float32)
    label = np.zeros(image.shape, np.uint8)
    ry, rx = example.diameter_px / 2 * example.scale_y, example.diameter_px / 2 * example.scale_x
    for x, y in zip(*example.in_frame(example.x, example.y)):
        x0, x1 = max(int(x - rx), 0), min(int(x + rx) + 2, image.shape[1])
        y0, y1 = max(int(y - ry), 0), min(int(y + ry) + 2, image.shape[0])
        yy, xx = np.ogrid[y0:y1, x0:x1]
        label[y0:y1, x0:x1] |= (((xx - x) / rx) ** 2 + ((yy - y) / ry) ** 2 <= 1).astype(np.uint8)
    return image, np.ascontiguousarray(label[::-1])


class FrameBatches(Sequence[Batch]):
    """Validation frames in batches, read as they are needed."""

    def __init__(self, examples: Sequence[Example], batch: int) -> None:
        self._examples, self._batch = examples, batch

    def __len__(self) -> int:
        return -(-len(self._examples) // self._batch)

    def __getitem__(self, i: Any) -> Any:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return _stacked([frame_item(e) for e in self._examples[i * self._batch : (i + 1) * self._batch]])


class Loader:
    """Step number -> batch, made ahead by worker processes where there are any.

    Parameters
    ----------
    source
        What batches are made of.
    steps
        The last step is one less.
    group
        Only this process's part of each batch is made.
    workers
        Processes; 0 makes batches as they are needed.
    """

    def __init__(self, source: Source, steps: int, group: Group, workers: int = 0) -> None:
        self._source, self._steps, self._group, self._workers = source, steps, group, workers
        self._batches: Iterator[Batch] | None = None
        self._next = -1

    def __call__(self, step: int) -> Batch:
        """The batch of a step; steps are asked for in order, from any first one."""
        if self._batches is None or step != self._next:
            self._batches, self._next = self._begin(step), step
        self._next += 1
        return next(self._batches)

    def _begin(self, step: int) -> Iterator[Batch]:
        loader: DataLoader[Item] = DataLoader(
            _Items(self._source.item),
            batch_sampler=_Steps(self._source, step, self._steps, self._group),
            num_workers=self._workers,
            collate_fn=_stacked,
            worker_init_fn=_alone,
            # a forked process hangs in OpenCV where its parent has used threads
            multiprocessing_context="spawn" if self._workers else None,
        )
        return iter(loader)


class _Items(Dataset[Item]):
    def __init__(self, make: Callable[[int], Item]) -> None:
        self._make = make

    def __getitem__(self, number: int) -> Item:
        return self._make(number)


class _Steps(Sampler[list[int]]):
    def __init__(self, source: Source, first: int, last: int, group: Group) -> None:
        self._source, self._first, self._last, self._group = source, first, last, group

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self._first, self._last):
            ids = self._source.ids(step)
            yield [ids[i] for i in self._group.share(len(ids))]


def _stacked(items: Sequence[Item]) -> Batch:
    """Images and labels one above the other; labels stay bytes unless one of them is soft."""
    return np.stack([image for image, _ in items]), np.stack([label for _, label in items])


def _alone(_: int) -> None:
    """A worker is one of many and takes one core."""
    cv2.setNumThreads(1)


def default_workers(device: str) -> int:
    """Worker processes that keep a GPU busy; on a CPU they would only take it from the network."""
    if device == "cpu":
        return 0
    return max(0, min(8, len(os.sched_getaffinity(0)) - 1 if hasattr(os, "sched_getaffinity") else 4))
