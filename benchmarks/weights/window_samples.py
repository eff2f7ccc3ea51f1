"""Training samples for the small SAM: windows around the peaks of a U-Net's map, with their true masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cryosegnet_ext.networks.window_sam import SIDE, Windows
from cryosegnet_ext.picking.evidence import height_map
from cryosegnet_ext.picking.evidence import peaks_of as peaks_of_map
from cryosegnet_ext.training.crops import LABEL_SHARE, Crop

Image = NDArray[np.float32]

# A peak is on a particle within the first distance from its centre, and on none beyond the second; in diameters.
ON, OFF = 0.35, 0.45
# Least height of a peak (`evidence.height_map`): lower than where most peaks are noise, so that the network
# learns to refuse them.
FLOOR = -2.5


@dataclass(frozen=True)
class LabelledPeaks:
    """A working image with its map and its peaks.

    Attributes
    ----------
    image, probability : (h, w) float16
    rows, columns : (n,) int
        Peaks that are clearly on a particle, or clearly on none.
    x, y, diameter : (n,)
        The particle under each peak, pixels; nan if there is none.
    """

    image: NDArray[np.float16]
    probability: NDArray[np.float16]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    diameter: NDArray[np.float64]


def peaks_of(crop: Crop, network: Callable[[Image], Image], working_diameter: float) -> LabelledPeaks | None:
    """The peaks of a crop's map, each with its particle or none; None if there are no peaks."""
    probability = network(crop.image)
    found = peaks_of_map(height_map(probability, working_diameter), working_diameter)
    rows, columns = (part[found.height >= FLOOR] for part in (found.rows, found.columns))
    if len(rows) == 0:
        return None
    x, y, d = (np.full(len(rows), np.nan) for _ in range(3))
    distance = np.full(len(rows), np.inf)
    if len(crop.x):
        far = np.hypot(columns[:, None] - crop.x, rows[:, None] - crop.y) / crop.diameter
        nearest = far.argmin(1)
        distance = far[np.arange(len(rows)), nearest]
        on = distance < ON
        x[on], y[on], d[on] = (v[nearest[on]] for v in (crop.x, crop.y, crop.diameter))
    h, w = crop.image.shape
    # particles cut by the border are left out
    rim = 0.3 * working_diameter
    clear = (distance < ON) | (distance > OFF)
    clear &= (rows > rim) & (columns > rim) & (rows < h - rim) & (columns < w - rim)
    if not clear.any():
        return None
    return LabelledPeaks(
        crop.image.astype(np.float16),
        probability.astype(np.float16),
        rows[clear],
        columns[clear],
        x[clear],
        y[clear],
        d[clear],
    )


def sample(
    peaks: LabelledPeaks, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Windows (n, 3, SIDE, SIDE) at up to ``count`` peaks, target masks (n, SIDE/2, SIDE/2), and which hold a particle.

    For half of the peaks the point is moved a little. Windows and masks are rotated and mirrored.
    """
    n = min(count, len(peaks.rows))
    chosen = rng.choice(len(peaks.rows), n, replace=False)
    shift = rng.normal(0, 1.5, (n, 2)).round().astype(int) * (rng.random((n, 1)) < 0.5)
    h, w = peaks.image.shape
    rows = np.clip(peaks.rows[chosen] + shift[:, 0], 0, h - 1)
    columns = np.clip(peaks.columns[chosen] + shift[:, 1], 0, w - 1)
    pictures = Windows(peaks.probability.astype(np.float32), peaks.image.astype(np.float32))(rows, columns)
    dx, dy = peaks.x[chosen] - columns + SIDE // 2, peaks.y[chosen] - rows + SIDE // 2
    at = np.arange(SIDE // 2) * 2 + 0.5
    with np.errstate(invalid="ignore"):
        square = (at - dx[:, None])[:, None, :] ** 2 + (at - dy[:, None])[:, :, None] ** 2
        target = (square <= (LABEL_SHARE / 2 * peaks.diameter[chosen])[:, None, None] ** 2).astype(np.float32)
    turn, mirror = int(rng.integers(4)), bool(rng.random() < 0.5)
    return _turned(pictures, turn, mirror), _turned(target, turn, mirror), np.isfinite(dx)


def _turned(planes: NDArray[np.float32], turn: int, mirror: bool) -> NDArray[np.float32]:
    planes = np.rot90(planes, turn, axes=(-2, -1))
    # mirrored about the point on pixel SIDE / 2, half a pixel from the window's middle
    return np.ascontiguousarray(planes[..., ::-1] if mirror else planes)


def loss(logits: Tensor, iou: Tensor, target: Tensor, there: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Loss of masks and predicted IoU of a batch.

    Parameters
    ----------
    logits, target : (n, h, w)
    iou : (n,)
        Predicted.
    there : (n,) bool
        Whether there is a particle under the point; without one only the predicted IoU counts, which should be 0.

    Returns
    -------
    value
        BCE + Dice of the masks, and five times the squared error of the predicted IoU.
    parts
        Mean IoU of the masks, and the error of its prediction, for the curves.
    """
    true = there.float()
    bce = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((1, 2))
    probability = torch.sigmoid(logits)
    overlap = (probability * target).sum((1, 2))
    dice = 1 - (2 * overlap + 1) / (probability.sum((1, 2)) + target.sum((1, 2)) + 1)
    with torch.no_grad():
        hard = (logits > 0).float()
        both = (hard * target).sum((1, 2))
        actual = both / (hard.sum((1, 2)) + target.sum((1, 2)) - both).clamp(min=1) * true
    error = (iou - actual) ** 2
    count = true.sum().clamp(min=1)
    value = ((2 * bce + dice) * true).sum() / count + 5 * error.mean()
    return value, {"iou": float(actual.sum() / count), "iou_error": float(error.detach().mean().sqrt())}
