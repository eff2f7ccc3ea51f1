"""Simulated training crops on a GPU: `crops.simulated_particles` and `augmentation.augment` for a batch.

Worker processes draw the crops on the CPU (`crops.draw_crop`); here everything that is done to each pixel is done:
projections pasted, contrast transfer, noise, degradation, working image, augmentation. With the same noise the crops
are those of the CPU path except for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from ..picking.denoise import CLIP
from ..picking.on_device import medians, working_images
from ..simulation.micrograph import ProjectionStack
from ..simulation.on_device import Noise, StacksOnDevice, electrons, turned
from .augmentation import OCTAVES, Augmentation, draw_augmentation, margin_of
from .crops import CropPlan, draw_crop, paint_labels
from .degradation_on_device import degraded, with_distractors


@dataclass(frozen=True)
class CropToRender:
    """A drawn crop, how it is augmented, and its label (side, side) of 0 and 1, turned as the image will be."""

    plan: CropPlan
    augmentation: Augmentation
    label: NDArray[np.uint8]


def draw_crop_to_render(
    stacks: Sequence[ProjectionStack], side: int, seed: int, rng: np.random.Generator
) -> CropToRender:
    """Draw one crop; ``rng`` draws the augmentation. It needs no device, so worker processes can do it."""
    plan, _ = draw_crop(stacks, side, seed)
    augmentation = draw_augmentation(rng)
    label = augmentation.placed(paint_labels(plan.x, plan.y, plan.diameter, (side, side)))
    return CropToRender(plan, augmentation, label)


def on_device(
    samples: Sequence[CropToRender | tuple[NDArray[Any], NDArray[Any]]], renderer: CropRenderer, seed: int
) -> tuple[Tensor, Tensor]:
    """Images and labels (b, side, side) of a batch, on the renderer's device, in the order of the samples.

    A sample is a crop to render, or an image (side, side) with its label.
    """
    labels = np.stack([one.label if isinstance(one, CropToRender) else one[1] for one in samples])
    to_render = {i: one for i, one in enumerate(samples) if isinstance(one, CropToRender)}
    images = torch.empty(labels.shape, device=renderer.device)
    if to_render:
        images[list(to_render)] = renderer(list(to_render.values()), seed)
    made = {i: one[0] for i, one in enumerate(samples) if not isinstance(one, CropToRender)}
    if made:
        images[list(made)] = torch.from_numpy(np.stack(list(made.values()))).to(renderer.device)
    return images, torch.from_numpy(labels).to(renderer.device)


class CropRenderer:
    """Renders crops on one device.

    Parameters
    ----------
    stacks
        The specimens from which the crops are drawn.
    device
        A GPU; the CPU does it too, for tests.
    """

    def __init__(self, stacks: Sequence[ProjectionStack], device: str | torch.device) -> None:
        self.device = torch.device(device)
        self._stacks = StacksOnDevice(stacks, self.device)

    def __call__(self, crops: Sequence[CropToRender], seed: int) -> Tensor:
        """Augmented working images (b, side, side) float32 on the device; ``seed`` decides their noise."""
        noise = Noise(seed, self.device)
        images = self.working_images([crop.plan for crop in crops], noise)
        return augmented(images, [crop.augmentation for crop in crops], noise)

    def working_images(self, plans: Sequence[CropPlan], noise: Noise) -> Tensor:
        """Working images (b, side, side) before their augmentation."""
        side = plans[0].side
        images = torch.empty(len(plans), side, side, device=self.device)
        for shape in sorted({plan.drawn.shape for plan in plans}):
            which = [i for i, plan in enumerate(plans) if plan.drawn.shape == shape]
            some = [plans[i] for i in which]
            frames = electrons([p.drawn for p in some], [p.stacks for p in some], self._stacks, noise)
            images[which] = finished(frames, some)
        return images


def finished(frames: Tensor, plans: Sequence[CropPlan]) -> Tensor:
    """Working images (b, side, side) of counted electrons (b, n, n): distractors, degradation, background."""
    frames = with_distractors(frames, [plan.distractors for plan in plans], [plan.fine for plan in plans])
    return working_images(degraded(frames, [plan.degradation for plan in plans]), plans[0].scale)


def augmented(images: Tensor, drawn: Sequence[Augmentation], noise: Noise) -> Tensor:
    """`augmentation.augment` of working images (b, side, side), each with its own changes."""

    def column(name: str) -> Tensor:
        return torch.tensor([getattr(one, name) for one in drawn], device=images.device)

    def per_image(name: str) -> Tensor:
        return column(name).float()[:, None, None]

    images = turned(images, column("turns"), column("mirrored"))
    bent = {i: one.bends for i, one in enumerate(drawn) if one.bends is not None}
    if bent:
        images[list(bent)] = _bent(images[list(bent)], np.stack(list(bent.values())))
    images = images * per_image("contrast") + per_image("offset")
    return images + per_image("noise") * noise.normal(*images.shape)


def _bent(images: Tensor, bends: NDArray[Any]) -> Tensor:
    """`augmentation.bend_spectrum` of images (b, side, side) by the factors of ``bends`` (b, octaves)."""
    margin = margin_of(tuple(images.shape[1:]))
    padded = pad(images[None], [margin] * 4, mode="reflect")[0]
    ny, nx = padded.shape[1:]
    fy = torch.fft.fftfreq(ny, device=images.device)[:, None]
    octave = torch.hypot(fy, torch.fft.rfftfreq(nx, device=images.device)).clamp(min=2.0**-9).log2()
    octave = octave.clamp(float(OCTAVES[0]), float(OCTAVES[-1]))
    near = torch.stack([(1 - (octave - at).abs()).clamp(min=0) for at in OCTAVES.tolist()])
    gain = torch.einsum("bk,kyx->byx", torch.from_numpy(bends).float().to(images.device), near).exp()
    bent = torch.fft.irfft2(torch.fft.rfft2(padded) * gain, s=(ny, nx))
    bent = bent[:, margin : ny - margin, margin : nx - margin]
    before, after = (medians((v - medians(v)).abs()) for v in (images, bent))
    ratio = torch.where((before > 0) & (after > 0), before / after, 1)
    return (bent * ratio).clamp(-CLIP, CLIP)
