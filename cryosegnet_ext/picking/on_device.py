"""From a micrograph to the U-Net's map, on a CPU or on a GPU with one upload and one small download.

On a GPU the steps are those of `denoise.working_image` and `denoise.bad_areas`. Resizing and blurring are linear along
each axis, so they are done by matrices, which the OpenCV functions of the CPU make: only rounding differs.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cache, lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..cores import usable_cores
from ..errors import UsageError, option
from ..files.micrograph import Micrograph
from ..networks.memory import OutOfMemoryError, with_less
from ..networks.unet import AttentionUNet, map_of_tensor
from . import denoise, denoise_torch
from .denoise import (
    BACKGROUND_SIGMA,
    BLOCK,
    CLIP,
    DARK_SHARE,
    DARKEST,
    LEAST_CONTRAST,
    Change,
    WorkingImage,
    areas_of,
    grid_of,
    opaque_areas,
)
from .options import is_device

log = logging.getLogger(__name__)

Part = tuple[slice, slice]
WHOLE: Part = (slice(None), slice(None))


def choose_device(name: str) -> torch.device:
    """Turn a device's name into the device; the CPU's threads become as many as a container's quota allows.

    Raises
    ------
    UsageError
        The device does not exist on this machine.
    """
    if not os.environ.get("OMP_NUM_THREADS"):
        # The libraries count the cores of the machine, or those of the affinity.
        cores = usable_cores()
        if torch.get_num_threads() > cores:
            torch.set_num_threads(cores)
        if cv2.getNumThreads() > cores:
            cv2.setNumThreads(cores)
    if name == "auto" and torch.cuda.is_available():
        return torch.device("cuda")
    if name == "auto":
        if hidden := _visible():
            _say_once(f"no GPU is visible{hidden}; the CPU is used")
        return torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    if not is_device(name):
        raise UsageError(f"{option('device', name)} is not known: use auto, cpu, cuda or cuda:0.")
    if not torch.cuda.is_available():
        raise UsageError(
            f"{option('device', name)}: PyTorch finds no GPU here{_visible()}; run `cryosegnet doctor` to see why, or "
            f"use {option('device', 'cpu')}."
        )
    number = name.partition(":")[2]
    if number and int(number) >= torch.cuda.device_count():
        raise UsageError(
            f"{option('device', name)}: this machine has {torch.cuda.device_count()} GPUs, counted from 0."
        )
    return torch.device(name)


def _visible() -> str:
    """What the environment says of GPUs, for a message; empty if nothing."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if value is None else f" (CUDA_VISIBLE_DEVICES is {value!r})"


@cache
def _say_once(text: str) -> None:
    log.info(text)


class OnCpu:
    """One micrograph in the computer's memory, with the interface of `OnDevice`.

    Parameters
    ----------
    micrograph
        As `read_micrograph` gives it.
    network
        Image (h, w) float32 -> probability (h, w).

    Attributes
    ----------
    bad : (ny, nx) bool
        Bad areas.
    """

    def __init__(self, micrograph: Micrograph, network: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
        self._data, self._network = micrograph.data, network
        self.bad = denoise.bad_areas(micrograph.data, micrograph.valid)

    def working_image_and_map(self, scale: float, part: Part = WHOLE) -> tuple[WorkingImage, NDArray[np.float32]]:
        """Working image and probability map (h, w) of the micrograph, or of a part of it."""
        work = denoise.working_image(self._data[part], scale, self.bad[part])
        return work, self._network(work.data)

    def map_of(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probability map (h, w) of a working image (h, w)."""
        return self._network(image)

    def published_map(self, side: int) -> NDArray[np.float32]:
        """Probability map (side, side) of the published recipe, array order."""
        image = cv2.resize(denoise.published(self._data), (side, side), interpolation=cv2.INTER_LINEAR)
        # upside down, as it was trained
        upside_down = np.ascontiguousarray(image[::-1].astype(np.float32) / np.float32(255))
        return np.ascontiguousarray(self._network(upside_down)[::-1])


class OnDevice:
    """One micrograph, uploaded once.

    Parameters
    ----------
    micrograph
        As `read_micrograph` gives it.
    unet
        On the device that runs everything; a CPU works too, for tests.

    Attributes
    ----------
    bad : (ny, nx) bool
        Bad areas, in the computer's memory; they are found from small averages.

    Raises
    ------
    CryoSegNetError
        The device's memory does not hold the micrograph.
    """

    def __init__(self, micrograph: Micrograph, unet: AttentionUNet) -> None:
        self._unet = unet
        self.device = next(unet.parameters()).device
        self._data = with_less(lambda _: _uploaded(micrograph.data, self.device), 1, 1, "A micrograph", self.device)
        self.shape = micrograph.data.shape
        changes = with_less(self._changes, 1, 1, "The search for bad areas", self.device)
        self.bad = areas_of(changes, self.shape, micrograph.valid)
        self._bad = torch.from_numpy(self.bad).to(self.device) if self.bad.any() else None

    def _changes(self, _: int) -> list[Change]:
        found = []
        for axis in (0, 1):
            difference = torch.diff(self._data, dim=axis).abs_()
            blocks = torch.zeros(0, 0)
            if min(difference.shape) >= 2 * BLOCK:
                blocks = avg_pool2d(difference[None], BLOCK)[0]
            parts = (blocks, *(difference.mean(i).nan_to_num_() for i in (axis, 1 - axis)))
            found.append(Change(*(part.cpu().numpy() for part in parts)))
        return found

    def working_image_and_map(self, scale: float, part: Part = WHOLE) -> tuple[WorkingImage, NDArray[np.float32]]:
        """Working image and probability map (h, w) of the micrograph, or of a part of it, downloaded together."""
        data, hidden = self._data[part], None if self._bad is None else self._bad[part]
        image = with_less(lambda _: working_image(data, scale, hidden), 1, 1, "The working image", self.device)
        both = torch.stack((image, map_of_tensor(self._unet, image))).cpu().numpy()
        h, w = image.shape
        return WorkingImage(both[0], h / data.shape[0], w / data.shape[1]), both[1]

    def map_of(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probability map (h, w) of a working image (h, w)."""
        return map_of_tensor(self._unet, torch.from_numpy(image).to(self.device)).cpu().numpy()

    def published_map(self, side: int) -> NDArray[np.float32]:
        """Probability map (side, side) of the published recipe, array order."""

        def work(_: int) -> Tensor:
            return denoise_torch.squeezed(denoise_torch.published(self._data), side)

        image = with_less(work, 1, 1, "The published denoising", self.device)
        return map_of_tensor(self._unet, (image / 255).flip(0).contiguous()).flip(0).cpu().numpy()


def _uploaded(data: NDArray[np.float32], device: torch.device) -> Tensor:
    plane = torch.from_numpy(np.ascontiguousarray(data, np.float32))
    if device.type != "cuda":
        return plane.clone()
    try:
        # from pinned memory the upload runs at the same time as the work on other micrographs
        return plane.pin_memory().to(device, non_blocking=True)
    except OutOfMemoryError:
        raise
    except RuntimeError:  # no pinned memory left
        return plane.to(device)


def working_image(data: Tensor, scale: float, bad: Tensor | None = None) -> Tensor:
    """`denoise.working_image` of a tensor (ny, nx) on any device; (h, w) float32 there."""
    return working_images(data[None], scale, None if bad is None else bad[None])[0]


def working_images(data: Tensor, scale: float, bad: Tensor | None = None) -> Tensor:
    """`working_image` of several micrographs of one shape; (b, ny, nx), bad areas as well -> (b, h, w)."""
    ny, nx = data.shape[1:]
    h, w = max(1, round(ny * scale)), max(1, round(nx * scale))
    if bad is not None:
        bad = bad & ~bad.flatten(1).all(1)[:, None, None]
        bad = bad if bool(bad.any()) else None
    image, limit = _centred(data, bad)
    weight: Tensor | None = None
    if bad is not None:
        image = image.masked_fill_(bad, 0)
        weight = _resized((~bad).float(), h, w)
    small = _resized(image, h, w)
    opaque = _opaque(small, limit)
    if opaque is not None:
        small = small.masked_fill(opaque, 0)
        weight = torch.ones_like(small).masked_fill_(opaque, 0) if weight is None else weight.masked_fill(opaque, 0)
    used = torch.ones_like(small, dtype=torch.bool)
    if weight is not None:
        background = _background(small) / _background(weight).clamp(min=1e-3)
        inside = weight > 0.5
        flat = torch.where(inside, small / weight.clamp(min=0.5) - background, 0)
        used = inside | ~inside.flatten(1).any(1)[:, None, None]
    else:
        flat = small - _background(small)
    count = used.flatten(1).sum(1)
    ordered = _ordered(flat, used)
    level = _middle(ordered, count)
    noise = 1.4826 * _middle(_ordered((flat - level).abs(), used), count)
    noise = torch.where(noise > 0, noise, _spread_of(flat, used, count).clamp(min=1e-12))
    rank = (DARK_SHARE * count.double()).long()
    dark = level - ordered.gather(1, rank[:, None])[:, :, None]
    noise = torch.minimum(torch.maximum(noise, dark / DARKEST), noise / LEAST_CONTRAST)
    return ((flat - level) / noise).clamp_(-CLIP, CLIP)


def medians(values: Tensor) -> Tensor:
    """Of each image (b, ...), as NumPy's: the mean of the two middle values of an even number; (b, 1, 1)."""
    ordered = values.flatten(1).sort(1).values
    return _middle(ordered, torch.full((len(values),), ordered.shape[1], device=values.device))


def _ordered(values: Tensor, used: Tensor) -> Tensor:
    """(b, h * w): the used pixels of each image in ascending order, then infinities."""
    return torch.where(used, values, torch.inf).flatten(1).sort(1).values


def _middle(ordered: Tensor, count: Tensor) -> Tensor:
    """Median (b, 1, 1) of the first ``count`` (b,) of the ordered values (b, n)."""
    both = ordered.gather(1, torch.stack(((count - 1) // 2, count // 2), 1))
    return both.mean(1)[:, None, None]


def _spread_of(values: Tensor, used: Tensor, count: Tensor) -> Tensor:
    """Standard deviation (b, 1, 1) of the used pixels."""
    count = count[:, None, None]
    mean = torch.where(used, values, 0).sum((1, 2), keepdim=True) / count
    return (torch.where(used, values - mean, 0).square().sum((1, 2), keepdim=True) / count).sqrt()


def _opaque(small: Tensor, limit: Tensor) -> Tensor | None:
    """`denoise.opaque_areas` of each image; only the small grids of cells are downloaded."""
    h, w = small.shape[1:]
    cells = _resized(small, *grid_of(h, w)).cpu().numpy()
    found = [opaque_areas(each, most, (h, w)) for each, most in zip(cells, limit.flatten().tolist())]
    if all(each is None for each in found):
        return None
    nothing = np.zeros((h, w), bool)
    return torch.from_numpy(np.stack([nothing if each is None else each for each in found])).to(small.device)


def _centred(data: Tensor, bad: Tensor | None) -> tuple[Tensor, Tensor]:
    """`denoise._centred` of each image; the limits are (b, 1, 1)."""
    if bad is None:
        median, spread = _usual(data.flatten(1))
    else:
        each = [_usual(image[~hidden][None]) for image, hidden in zip(data, bad)]
        median, spread = (torch.cat(values) for values in zip(*each))
    return torch.minimum(torch.maximum(data - median, -spread), spread), spread


def _usual(values: Tensor) -> tuple[Tensor, Tensor]:
    """Median of each row (b, n), and 8 robust standard deviations, infinite if they are 0; each (b, 1, 1)."""
    sample = values[:, :: max(1, values.shape[1] // 500_000)]
    median = medians(sample)
    spread = 1.4826 * medians((sample - median[:, 0]).abs())
    spread = 8 * torch.where(spread == 0, sample.std(1, correction=0)[:, None, None], spread)
    return median, torch.where(spread > 0, spread, torch.inf)


def _resized(image: Tensor, h: int, w: int) -> Tensor:
    ny, nx = image.shape[-2:]
    if (h, w) == (ny, nx):
        return image
    method = cv2.INTER_AREA if h < ny else cv2.INTER_CUBIC
    return resizing(ny, h, method, image.device) @ image @ resizing(nx, w, method, image.device).T


def _background(image: Tensor) -> Tensor:
    """Gaussian blur of large sigma on a coarser grid."""
    ny, nx = image.shape[-2:]
    down, up = map(_in_use, _blurring(ny, image.device))
    across, back = map(_in_use, _blurring(nx, image.device))
    return up @ (down @ image @ across.T) @ back.T


def resizing(n: int, m: int, method: int, device: torch.device) -> Tensor:
    """Matrix (m, n) of OpenCV's resizing of n pixels to m."""
    return _in_use(_resizing(n, m, method, device))


@lru_cache(maxsize=40)
def _resizing(n: int, m: int, method: int, device: torch.device) -> Tensor:
    return _kept(_along_rows(n, m, method), device)


@lru_cache(maxsize=40)
def _blurring(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Matrices (c, n) and (n, c): to the blurred coarse grid, and back."""
    factor = max(1, int(BACKGROUND_SIGMA / 6))
    c = max(1, -(-n // factor))
    sigma = BACKGROUND_SIGMA / factor
    coarse = _along_rows(n, c, cv2.INTER_AREA)
    width = round(8 * sigma + 1) | 1  # as OpenCV sets it for floats
    taps = cv2.getGaussianKernel(width, sigma, cv2.CV_32F)
    blurred = cv2.sepFilter2D(coarse, -1, np.ones(1, np.float32), taps, borderType=cv2.BORDER_REFLECT)
    return _kept(np.asarray(blurred, np.float32), device), _kept(_along_rows(c, n, cv2.INTER_LINEAR), device)


def _kept(matrix: NDArray[np.float32], device: torch.device) -> Tensor:
    """Upload, and wait: another thread with its own stream may take it from the cache next."""
    tensor = torch.from_numpy(matrix).to(device)
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    return tensor


def _in_use(matrix: Tensor) -> Tensor:
    """Keep a matrix's memory until this thread's stream has used it, even if the cache drops the matrix before."""
    if matrix.device.type == "cuda":
        matrix.record_stream(torch.cuda.current_stream(matrix.device))
    return matrix


def _along_rows(n: int, m: int, method: int) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(np.eye(n, dtype=np.float32), (n, m), interpolation=method), np.float32).reshape(m, n)
