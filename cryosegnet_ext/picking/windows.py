"""The particle under each peak of the U-Net's map, cut out by the small SAM in a window around the peak."""

from __future__ import annotations

from itertools import chain

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from ..networks.cpu_threads import each
from ..networks.memory import free_on, with_less
from ..networks.precision import mixed
from ..networks.window_sam import SIDE, Windows, WindowSam
from .masks import Instance, Masks, measured, without_overlaps
from .segment import find_peaks

Image = NDArray[np.float32]

# Windows at once: on a CPU so many that their tokens stay in its cache; at most on a GPU, which 64 do not fill.
_BATCH_CPU, _BATCH_GPU = 8, 1024
# Bytes that a window takes in float32, with room to spare: counted are 1.3 million.
_BYTES = 2_000_000
# The windows take at most this part of the free memory: other micrographs are in progress, too.
_SHARE = 8

LEAST_HEIGHT = -2.0
"""Peaks of the map lower than this (`evidence.height_map`, natural logarithm of odds) are not worth a window: on the
88 real and simulated micrographs of `benchmarks.speed.same_picks` they change one pick of 14,848."""


def cut(
    probability: Image,
    image: Image,
    sam: WindowSam,
    *,
    diameter_px: float,
    expected_area: float,
    peaks: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None,
) -> Masks:
    """Cut out the particle under each peak of the map with the small SAM.

    Parameters
    ----------
    probability, image : (h, w) float32
        The U-Net's map and the working image it was made of.
    sam
        The small SAM, on the device that runs it.
    diameter_px
        Expected particle diameter, working pixels.
    expected_area
        Expected area of a mask, pixels; masks of less than a fifth or more than 2.5 times it are left out.
    peaks
        Rows and columns of the peaks; default: those of `segment.find_peaks`.

    Returns
    -------
    Masks
        ``score`` is the predicted IoU; best first.

    Raises
    ------
    CryoSegNetError
        Memory ran out.
    """
    rows, columns = find_peaks(probability, diameter_px=diameter_px)[:2] if peaks is None else peaks
    if len(rows) == 0:
        return Masks.empty()
    half, device = SIDE // 2, sam.device
    windows = Windows(probability, image)

    def look(part: slice) -> list[Instance]:
        pictures = torch.from_numpy(windows(rows[part], columns[part])).to(device)
        with mixed(device):
            logits, iou = sam(pictures)
        full = interpolate(logits[:, None].float(), (SIDE, SIDE), mode="bilinear", align_corners=False)
        inside = (full[:, 0] > 0).cpu().numpy()
        score = iou.float().clamp(0, 1).cpu().numpy()
        found = []
        for mask, s, row, column in zip(inside, score, rows[part].tolist(), columns[part].tolist()):
            one = _under_the_point(mask, float(s), row - half, column - half, probability.shape)
            if one is not None and 0.2 * expected_area <= len(one.y) <= 2.5 * expected_area:
                found.append(one)
        return found

    def some(batch: int) -> list[Instance]:
        parts = [slice(i, i + batch) for i in range(0, len(rows), batch)]
        if device.type == "cpu":
            return list(chain.from_iterable(each(look, parts)))
        with torch.inference_mode():
            return list(chain.from_iterable(look(part) for part in parts))

    found = with_less(some, windows_at_once(free_on(device)), 1, "The small SAM", device)
    return measured(without_overlaps(found, probability.shape), probability)


def windows_at_once(free: int | None) -> int:
    """Number of windows that the small SAM sees at once, by the bytes that a GPU has free; None for a CPU.

    It is halved until they fit, so that a GPU with memory to spare always takes the same number.
    """
    if free is None:
        return _BATCH_CPU
    batch = _BATCH_GPU
    while batch > 1 and batch * _BYTES * _SHARE > free:
        batch //= 2
    return batch


def _under_the_point(
    mask: NDArray[np.bool_], score: float, y0: int, x0: int, shape: tuple[int, ...]
) -> Instance | None:
    """The connected part of a window's mask at (or next to) its middle, in pixels of the map; None if there is none."""
    _, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=4)
    half = SIDE // 2
    middle = labels[half - 4 : half + 5, half - 4 : half + 5]
    there = middle[middle > 0]
    if there.size == 0:
        return None
    label = labels[half, half] or np.bincount(there).argmax()
    y, x = np.nonzero(labels == label)
    y, x = y + y0, x + x0
    within = (y >= 0) & (x >= 0) & (y < shape[0]) & (x < shape[1])
    return Instance(score, y[within], x[within]) if within.any() else None
