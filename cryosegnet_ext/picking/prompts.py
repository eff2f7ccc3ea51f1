"""SAM prompted with points of one map: the best plausible mask at each, searched in a window around the point."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ..networks.memory import with_less
from ..networks.sam_decoder import PointDecoder
from ..networks.sam_encoder import SMALLEST_BLOCK, block_on, encode
from .masks import Instance

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

# Prompts decoded at once: on a CPU as many as fit in its cache (4 MB each), on a GPU enough to keep it busy.
_BATCH_CPU, _BATCH_GPU = 8, 64


class Tile(NamedTuple):
    """A part of the map, [y0, y1) x [x0, x1), with its core: the cores of all tiles cover the map once."""

    y0: int
    y1: int
    x0: int
    x1: int
    core: tuple[int, int, int, int]

    def owns(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.bool_]:
        """(n,) which points lie in the core."""
        top, bottom, left, right = self.core
        return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)


def tiles(shape: tuple[int, ...], size: int, margin: int) -> list[Tile]:
    """Cut a map into overlapping tiles of SAM's input size; one tile if its long side is at most 1.5 times that."""
    ny, nx = shape
    if max(ny, nx) <= 1.5 * size:
        return [Tile(0, ny, 0, nx, (0, ny, 0, nx))]
    margin = min(margin, size // 4)
    return [
        Tile(y0, y1, x0, x1, (top, bottom, left, right))
        for y0, y1, top, bottom in _spans(ny, size, margin)
        for x0, x1, left, right in _spans(nx, size, margin)
    ]


def _spans(length: int, size: int, margin: int) -> list[tuple[int, int, int, int]]:
    """Spans that cover ``length`` and overlap by two margins or more: start, end, start and end of the core."""
    if length <= size:
        return [(0, length, 0, length)]
    count = -(-(length - 2 * margin) // (size - 2 * margin))
    starts = [round(i * (length - size) / (count - 1)) for i in range(count)]
    edges = [0, *((a + size + b) // 2 for a, b in pairwise(starts)), length]
    return [(start, start + size, *core) for start, core in zip(starts, pairwise(edges))]


def prompted(
    picture: NDArray[np.uint8],
    sam: Sam,
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    *,
    half: int,
    least: float,
    most: float,
) -> list[Instance]:
    """SAM's best plausible mask at each point of one picture.

    Parameters
    ----------
    picture : (ny, nx, 3) uint8
    sam
        Its image encoder runs once.
    rows, columns : (n,) int
        Points.
    half
        A mask is searched within this many pixels of its point.
    least, most
        Area of a plausible mask, pixels.

    Returns
    -------
    list of Instance
        In the order of the points; points without a plausible mask are left out.

    Raises
    ------
    CryoSegNetError
        Memory ran out.
    """
    device = sam.device
    batch = _BATCH_CPU if device.type == "cpu" else _BATCH_GPU
    found: list[Instance] = []
    with torch.inference_mode():
        features, used = with_less(
            partial(encode, sam, picture), block_on(device), SMALLEST_BLOCK, "SAM's image encoder", device
        )
        masks = _Windows(sam, features, used, (picture.shape[0], picture.shape[1]), half)
        start = 0
        while start < len(rows):
            points = np.column_stack((columns[start:], rows[start:]))

            def some(size: int, points: NDArray[np.intp] = points) -> tuple[torch.Tensor, torch.Tensor]:
                return masks(points[:size])

            inside, iou = with_less(some, batch, 1, "SAM's mask decoder", device)
            area = inside.sum((2, 3))
            plausible = (area >= least) & (area <= most) & inside[:, :, half, half] & (iou >= 0)
            best = torch.where(plausible, iou, -torch.inf).argmax(1)
            which = torch.arange(len(best), device=device)
            usable = plausible[which, best].cpu().numpy()
            score = iou[which, best].cpu().numpy()
            chosen = inside[which, best].cpu().numpy()
            for i in np.flatnonzero(usable):
                # the pixels that are connected to the point
                _, labels = cv2.connectedComponents(chosen[i].astype(np.uint8), connectivity=4)
                y, x = np.nonzero(labels == labels[half, half])
                if len(y) >= least:
                    found.append(Instance(float(score[i]), y + rows[start + i] - half, x + columns[start + i] - half))
            start += len(best)
            batch = max(1, min(batch, len(best)))  # once memory ran out, the smaller batch stays
    return found


class _Windows:
    """SAM's masks at full resolution in square windows around points of one picture."""

    def __init__(
        self, sam: Sam, features: torch.Tensor, used: tuple[int, int], shape: tuple[int, int], half: int
    ) -> None:
        from segment_anything.modeling import MaskDecoder

        self.sam, self.features, self.used, self.shape, self.half = sam, features, used, shape, half
        self.size = int(sam.image_encoder.img_size)
        self.reach = torch.arange(-half, half + 1, device=sam.device)
        self.decoder = PointDecoder(sam, features) if isinstance(sam.mask_decoder, MaskDecoder) else None
        self.upsampling: list[torch.Tensor] | None = None

    def __call__(self, points: NDArray[np.intp]) -> tuple[torch.Tensor, torch.Tensor]:
        """Points (B, 2) as x, y -> inside (B, M, W, W) bool with W = 2 * half + 1, predicted IoU (B, M)."""
        device = self.sam.device
        scale = np.array([self.used[1] / self.shape[1], self.used[0] / self.shape[0]])
        prompts = torch.as_tensor((points + 0.5) * scale - 0.5, dtype=torch.float32, device=device)
        at = torch.as_tensor(points, device=device)
        if self.decoder is None:
            logits, iou = self._whole(prompts)
            first, low = torch.zeros_like(at), tuple(logits.shape[2:])
        else:
            corner, tokens = self._part(points, scale[::-1])
            first = torch.as_tensor(corner, device=device)
            logits, iou = self.decoder(prompts, first, tokens)
            first, low = 4 * first, (4 * self.features.shape[2], 4 * self.features.shape[3])
        if self.upsampling is None:
            self.upsampling = [
                upsampling(n, self.size, used, length, device) for n, used, length in zip(low, self.used, self.shape)
            ]
        return window(logits, self.upsampling, at, self.reach, first) > self.sam.mask_threshold, iou

    def _whole(self, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Whole masks, from a decoder other than segment-anything's."""
        prompt = prompts[:, None]
        labels = torch.ones(prompt.shape[:2], dtype=torch.int, device=prompt.device)
        sparse, dense = self.sam.prompt_encoder(points=(prompt, labels), boxes=None, masks=None)
        logits, iou = self.sam.mask_decoder(
            image_embeddings=self.features,
            image_pe=self.sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        return logits, iou

    def _part(self, points: NDArray[np.intp], scale: NDArray[np.float64]) -> tuple[NDArray[np.int64], tuple[int, int]]:
        """First token (B, 2; row, column) of the part of the masks that a window needs, and its size in tokens."""
        count = np.array(self.features.shape[2:])
        per_token = self.size / count  # pixels of SAM's input
        centre = (points[:, ::-1] + 0.5) * scale / per_token  # in tokens, from the frame's corner
        # two interpolations, from a quarter of a token and from SAM's input, reach less than half a token beyond
        reach = (self.half + 1) * scale / per_token + 0.5
        tokens = np.minimum(np.ceil(2 * reach).astype(int) + 1, count)
        corner = np.clip(np.floor(centre - reach).astype(np.int64), 0, count - tokens)
        return corner, (int(tokens[0]), int(tokens[1]))


def upsampling(low: int, size: int, used: int, length: int, device: torch.device) -> torch.Tensor:
    """Matrix (length, low) of what ``Sam.postprocess_masks`` does along one axis.

    That function resizes ``low`` logits to SAM's input ``size``, keeps the ``used`` part that is not padding, and
    resizes it to ``length``; both steps are linear, so a window of the result is computed without the rest.
    """
    from torch.nn.functional import interpolate

    unit = torch.eye(low, device=device)[None]
    middle = interpolate(unit, size, mode="linear", align_corners=False)[..., :used]
    return interpolate(middle, length, mode="linear", align_corners=False)[0].T.contiguous()


def window(
    logits: torch.Tensor, matrices: Any, at: torch.Tensor, reach: torch.Tensor, first: torch.Tensor
) -> torch.Tensor:
    """Logits at full resolution in a window around each point; -inf outside the image.

    Parameters
    ----------
    logits : (B, M, h, w)
        SAM's low-resolution logits, M masks for each prompt; whole or a part of each.
    matrices
        For rows and columns, from `upsampling`.
    at : (B, 2) int
        Points x, y.
    reach : (W,) int
        Offsets of the window's rows and columns from the point.
    first : (B, 2) int
        First row and column of the part in ``logits``; 0 if they are whole.

    Returns
    -------
    (B, M, W, W)
    """
    down, across = matrices
    rows, columns = at[:, 1, None] + reach, at[:, 0, None] + reach
    outside = ((rows < 0) | (rows >= len(down)))[:, :, None] | ((columns < 0) | (columns >= len(across)))[:, None, :]
    rows, columns = rows.clamp(0, len(down) - 1), columns.clamp(0, len(across) - 1)
    low_rows = first[:, :1] + torch.arange(logits.shape[2], device=first.device)
    low_columns = first[:, 1:] + torch.arange(logits.shape[3], device=first.device)
    down = down[rows[:, :, None], low_rows[:, None]]
    across = across[columns[:, :, None], low_columns[:, None]]
    result = down[:, None] @ logits.to(down.dtype) @ across[:, None].transpose(2, 3)
    return result.masked_fill(outside[:, None], float("-inf"))
