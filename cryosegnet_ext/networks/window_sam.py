"""A small SAM that sees one window around each peak of the U-Net's map, not the whole frame.

It consists of Segment Anything's own modules in small sizes, trained on windows of three particle diameters. The image
encoder sees the map, the working image, and the working image at half the resolution with twice the field of view, so
that it can tell a particle from the edge of a carbon film. The decoder's cost is image tokens x prompts: 144 tokens a
prompt instead of the 4,096 of a 1024 x 1024 frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from segment_anything.modeling import Sam

Image = NDArray[np.float32]

SIDE = 96
"""Side of a window, working pixels: three particle diameters."""

CONTEXT = 2
"""The third channel shows this many times the field of view."""

SIZES: dict[str, Any] = {
    "img_size": SIDE,
    "patch_size": 8,
    "embed_dim": 128,
    "depth": 4,
    "num_heads": 4,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "use_rel_pos": False,
    "window_size": 0,
    "global_attn_indexes": [0, 1, 2, 3],
    "prompt_embed_dim": 64,
    "mask_in_chans": 16,
    "decoder_depth": 2,
    "decoder_mlp_dim": 256,
    "decoder_num_heads": 4,
    "num_multimask_outputs": 3,
    "iou_head_depth": 3,
    "iou_head_hidden_dim": 64,
}
"""For `weights.build_sam`."""

# The working image has noise of standard deviation 1 and is clipped at 5; the map is 0..1.
_IMAGE_SCALE, _MAP_SCALE, _MAP_OFFSET = 0.4, 4.0, -1.0


def is_windowed(sam: Sam) -> bool:
    """Whether a SAM is one of this kind."""
    return int(sam.image_encoder.img_size) == SIDE


def windows(probability: Image, image: Image, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float32]:
    """The encoder's input around each point.

    Parameters
    ----------
    probability, image : (h, w) float32
        The U-Net's map and the working image it was made of.
    rows, columns : (n,) int
        Points; each lies on pixel (SIDE / 2, SIDE / 2) of its window.

    Returns
    -------
    (n, 3, SIDE, SIDE) float32
        Map, image, and image of `CONTEXT` times the field, scaled to about 1. Outside the image: probability 0 and
        background.
    """
    half = SIDE // 2
    near = np.pad(probability, half), np.pad(image, half)
    h, w = image.shape
    even = np.pad(image, ((0, h % CONTEXT), (0, w % CONTEXT)), mode="edge")
    coarse = cv2.resize(even, (even.shape[1] // CONTEXT, even.shape[0] // CONTEXT), interpolation=cv2.INTER_AREA)
    far = np.pad(coarse, half)
    result = np.empty((len(rows), 3, SIDE, SIDE), np.float32)
    for i, (y, x) in enumerate(zip(rows.tolist(), columns.tolist())):
        result[i, 0] = near[0][y : y + SIDE, x : x + SIDE]
        result[i, 1] = near[1][y : y + SIDE, x : x + SIDE]
        y, x = y // CONTEXT, x // CONTEXT
        result[i, 2] = far[y : y + SIDE, x : x + SIDE]
    result[:, 0] = result[:, 0] * _MAP_SCALE + _MAP_OFFSET
    result[:, 1:] *= _IMAGE_SCALE
    return result


def decode(sam: Sam, pictures: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One mask and its predicted IoU for one point in each window.

    Parameters
    ----------
    sam
        As `weights.build_sam` makes it of `SIZES`.
    pictures : (n, 3, SIDE, SIDE)
        From `windows`.
    points : (n, 2)
        x, y in pixels of the window.

    Returns
    -------
    logits : (n, SIDE / 2, SIDE / 2)
        Of the mask, at half the window's resolution.
    iou : (n,)
        Predicted; trained to be 0 where no particle is under the point.
    """
    import torch

    features = sam.image_encoder(pictures)
    labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
    sparse, dense = sam.prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
    decoder = sam.mask_decoder
    # MaskDecoder.predict_masks serves one image with many prompts; here every prompt has an image of its own.
    n = len(points)
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])[None].expand(n, -1, -1)
    tokens = torch.cat((tokens, sparse.to(tokens.dtype)), dim=1)
    positions = sam.prompt_encoder.get_dense_pe().expand(n, -1, -1, -1)
    source = features + dense
    out, flat = decoder.transformer(source, positions, tokens)
    upscaled = decoder.output_upscaling(flat.transpose(1, 2).view_as(source))
    weights = decoder.output_hypernetworks_mlps[0](out[:, 1])
    logits = torch.einsum("nc,nchw->nhw", weights, upscaled)
    return logits, decoder.iou_prediction_head(out[:, 0])[:, 0]


def to_weights(sam: Sam, note: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """State dict and metadata of a trained network, as `weights.load_sam` reads them."""
    state = {key: value.detach().contiguous().half() for key, value in sam.state_dict().items()}
    return state, {"sam": {"num_heads": SIZES["num_heads"], "decoder_num_heads": SIZES["decoder_num_heads"]}, **note}
