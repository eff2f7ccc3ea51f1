"""Batches: what the network sees at each step. The step number alone decides, so a resumed run sees the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from ..cores import usable_cores
from ..simulation.micrograph import ProjectionStack
from .augmentation import augment
from .crops import Crop, labelled_particles, simulated_particles
from .crops_on_device import CropRenderer, CropToRender, draw_crop_to_render, on_device
from .examples import Example
from .fit import UNKNOWN, Batch
from .parallel import Group

Sample = tuple[NDArray[np.float32], NDArray[Any]]

# Particle diameter in validation crops: the size at which micrographs are picked, working pixels.
_WORKING = (32.0, 32.0 + 1e-6)
_VALIDATION_CROPS = 32


class Samples(Dataset[Sample | CropToRender]):
    """Samples by number, of which batches are made, always the same for a number.

    A sample is an image (H, W) with its label (H, W), or a crop that a device is yet to render.
    """

    def numbers(self, step: int) -> list[int]:
        """Numbers of the samples of a step."""
        raise NotImplementedError


@dataclass(frozen=True)
class Crops(Samples):
    """Augmented crops at the working scale, of labelled and of simulated micrographs.

    Attributes
    ----------
    examples
        Labelled micrographs; each is drawn with the same probability.
    stacks
        Specimens to simulate; may be empty.
    simulated
        Share of simulated crops.
    side, batch, seed
        Side of a crop, pixels; crops in a step; random seed.
    replay
        Crops with the start weights' own maps as labels, so that fine-tuning does not forget.
    replayed
        Share of replayed crops.
    rendered_later
        Simulated crops are only drawn, for a `CropRenderer`.
    """

    examples: Sequence[Example]
    stacks: Sequence[ProjectionStack] = ()
    simulated: float = 0.0
    side: int = 256
    batch: int = 8
    seed: int = 0
    replay: Sequence[Sample] = ()
    replayed: float = 0.0
    rendered_later: bool = False

    def numbers(self, step: int) -> list[int]:
        """Crops of a step."""
        return list(range(step * self.batch, (step + 1) * self.batch))

    def __getitem__(self, number: int) -> Sample | CropToRender:
        rng = np.random.default_rng([self.seed, number])
        place = (number % self.batch + 0.5) / self.batch
        if self.replay and place < self.replayed:
            image, label = self.replay[int(rng.integers(len(self.replay)))]
        elif self.stacks and place < self.replayed + self.simulated:
            seed = int(rng.integers(2**62))
            if self.rendered_later:
                return draw_crop_to_render(self.stacks, self.side, seed, rng)
            crop = simulated_particles(self.stacks, self.side, seed)
            image, label = crop.image, crop.label()
        else:
            example = self.examples[int(rng.integers(len(self.examples)))]
            image, label = labelled_sample(example, self.side, int(rng.integers(2**62)))
        return augment(image, label, rng)


def labelled_sample(
    example: Example, side: int, seed: int, size: tuple[float, float] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """A crop of a labelled micrograph with its label plane; doubtful places are `UNKNOWN`."""
    crop = labelled_particles(example.labelled(), side, np.random.default_rng(seed), size)
    label = crop.label()
    if len(example.doubtful):
        doubtful = labelled_particles(example.labelled(doubtful=True), side, np.random.default_rng(seed), size)
        # in doubt is the whole particle, not only its inner disc
        whole = Crop(doubtful.image, doubtful.x, doubtful.y, doubtful.diameter * 1.4).label()
        label[(whole == 1) & (label == 0)] = UNKNOWN
    return crop.image, label


def validation_crops(examples: Sequence[Example], side: int, batch: int, seed: int) -> list[Batch]:
    """Batches of fixed crops of the validation micrographs, at the scale of picking."""
    count = max(_VALIDATION_CROPS, len(examples))
    samples = []
    for k in range(min(count, 2 * _VALIDATION_CROPS)):
        number = int(np.random.default_rng([seed, 1, k]).integers(2**62))
        samples.append(labelled_sample(examples[k % len(examples)], side, number, _WORKING))
    return [_stacked(samples[i : i + batch]) for i in range(0, len(samples), batch)]


@dataclass(frozen=True)
class Frames(Samples):
    """Whole frames, as published: shuffled each epoch, not augmented, with full discs as labels."""

    examples: Sequence[Example]
    batch: int = 6
    seed: int = 0
    least: int = 1  # least number of samples in a step: one for each process

    @property
    def steps_an_epoch(self) -> int:
        """Number of steps in which each frame is seen once."""
        return -(-len(self.examples) // self.batch)

    def numbers(self, step: int) -> list[int]:
        """Frames of a step."""
        epoch, k = divmod(step, self.steps_an_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.examples)).tolist()
        chosen = order[k * self.batch : (k + 1) * self.batch]
        return chosen + [order[i % len(order)] for i in range(max(self.least - len(chosen), 0))]

    def __getitem__(self, number: int) -> Sample:
        return frame_sample(self.examples[number])


def frame_sample(example: Example) -> Sample:
    """A frame of the published recipe with its label plane, both upside down."""
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
    """Batches of validation frames, read when they are needed."""

    def __init__(self, examples: Sequence[Example], batch: int) -> None:
        self._examples, self._batch = examples, batch

    def __len__(self) -> int:
        return -(-len(self._examples) // self._batch)

    def __getitem__(self, i: Any) -> Any:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return _stacked([frame_sample(e) for e in self._examples[i * self._batch : (i + 1) * self._batch]])


class Loader:
    """Step number -> batch; worker processes make batches ahead.

    Parameters
    ----------
    samples
        Samples for the batches.
    steps
        Number of steps of the run.
    group
        Only this process's part of each batch is made.
    workers
        Number of worker processes; with 0, a batch is made when it is needed.
    renderer
        Renders the crops that are only drawn.
    """

    def __init__(
        self, samples: Samples, steps: int, group: Group, workers: int = 0, renderer: CropRenderer | None = None
    ) -> None:
        self._samples, self._steps, self._group, self._workers = samples, steps, group, workers
        self._renderer = renderer
        self._batches: Iterator[Any] | None = None
        self._next = -1

    def __call__(self, step: int) -> Batch:
        """The batch of a step. Steps come in order, from any first one."""
        if self._batches is None or step != self._next:
            self._batches, self._next = self._begin(step), step
        self._next += 1
        batch = next(self._batches)
        if self._renderer is None:
            return batch
        seed = int(np.random.default_rng([3, step, self._group.rank]).integers(2**62))
        return on_device(batch, self._renderer, seed)

    def _begin(self, step: int) -> Iterator[Any]:
        loader: DataLoader[Any] = DataLoader(
            self._samples,
            batch_sampler=map(self._part, range(step, self._steps)),
            num_workers=self._workers,
            collate_fn=_stacked if self._renderer is None else list,
            worker_init_fn=_alone,
            # a forked process hangs in OpenCV if its parent has used threads
            multiprocessing_context="spawn" if self._workers else None,
        )
        return iter(loader)

    def _part(self, step: int) -> list[int]:
        """Numbers of this process's samples of a step."""
        numbers = self._samples.numbers(step)
        return [numbers[i] for i in self._group.share(len(numbers))]


def _stacked(samples: Sequence[Sample]) -> Batch:
    """A batch of samples; labels stay bytes unless one of them is soft."""
    return np.stack([image for image, _ in samples]), np.stack([label for _, label in samples])


def _alone(_: int) -> None:
    """A worker process takes one core."""
    cv2.setNumThreads(1)


def default_workers(device: str) -> int:
    """Number of worker processes that keep a GPU busy; none on a CPU, which they would take from the network."""
    if device == "cpu":
        return 0
    return min(8, usable_cores() - 1)
