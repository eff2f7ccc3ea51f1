"""SAM's image encoder without an attention matrix of the whole frame in memory.

In a global layer, segment-anything computes the 4,096 x 4,096 attention of every head with its relative positions.
That takes 0.8 GB for ViT-B several times over, and most of the encoder's time. This encoder uses the same modules and
weights, but PyTorch's fused attention in blocks of queries, and bf16 where the hardware has units for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .compiling import if_asked
from .precision import mixed

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

# Elements of the position term held at once; 16 MB in bf16, which fits in a processor's cache.
_BLOCK = 8_000_000
_BLOCK_GPU = 400_000_000
SMALLEST_BLOCK = 1_000_000


def block_on(device: torch.device) -> int:
    """Elements of the position term to hold at once on a device, if memory allows."""
    return _BLOCK if device.type == "cpu" else _BLOCK_GPU


def encode(sam: Sam, picture: Any, block: int | None = None) -> tuple[Tensor, tuple[int, int]]:
    """Features of one picture.

    Parameters
    ----------
    sam
        On the device that runs it.
    picture : (ny, nx, 3) uint8
        Array order; resized so that its long side is SAM's input, as segment-anything does.
    block
        Elements of the position term held at once; default: as `block_on` says.

    Returns
    -------
    features : (1, C, h, w) float32
        On SAM's device.
    used : (int, int)
        Height and width of the picture in SAM's input; the rest is padding.
    """
    from segment_anything.modeling import ImageEncoderViT
    from segment_anything.utils.transforms import ResizeLongestSide

    encoder = sam.image_encoder
    resized = torch.from_numpy(ResizeLongestSide(int(encoder.img_size)).apply_image(picture))
    x = sam.preprocess(resized.to(sam.device).permute(2, 0, 1)[None].contiguous())
    used = (int(resized.shape[0]), int(resized.shape[1]))
    with torch.inference_mode():
        if not isinstance(encoder, ImageEncoderViT):
            return encoder(x), used
        with mixed(sam.device):
            return _forward(encoder, x, block or block_on(sam.device)).float(), used


def _forward(encoder: Any, x: Tensor, most: int) -> Tensor:
    """(1, 3, size, size) -> (1, C, h, w): ``ImageEncoderViT.forward`` with another attention."""
    run = if_asked(_block)
    x = encoder.patch_embed(x)
    if encoder.pos_embed is not None:
        x = x + encoder.pos_embed
    for block in encoder.blocks:
        x = run(block, x, most)
    return encoder.neck(x.permute(0, 3, 1, 2))


def _block(block: Any, x: Tensor, most: int) -> Tensor:
    """One of the encoder's blocks; (1, h, w, C) -> (1, h, w, C)."""
    from segment_anything.modeling.image_encoder import window_partition, window_unpartition

    y, size = block.norm1(x), (x.shape[1], x.shape[2])
    if block.window_size > 0:
        y, padded = window_partition(y, block.window_size)
    y = _attend(block.attn, y, most)
    if block.window_size > 0:
        y = window_unpartition(y, block.window_size, padded, size)
    x = x + y
    return x + block.mlp(block.norm2(x))


def _attend(attention: Any, x: Tensor, most: int) -> Tensor:
    """Self-attention with decomposed relative positions; (B, H, W, C) -> (B, H, W, C)."""
    from segment_anything.modeling.image_encoder import get_rel_pos

    b, h, w, _ = x.shape
    heads, n = attention.num_heads, h * w
    # (3, B, heads, N, d)
    q, k, v = attention.qkv(x).reshape(b, n, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    if not attention.use_rel_pos:
        out = scaled_dot_product_attention(q, k, v)
    else:
        # position term of query (y, x) and key (j, i): q . Rh[y, j] + q . Rw[x, i]; both parts are small
        down = get_rel_pos(h, h, attention.rel_pos_h).to(q.dtype)
        across = get_rel_pos(w, w, attention.rel_pos_w).to(q.dtype)
        grid = q.reshape(b * heads, h, w, -1)
        part_h = torch.einsum("bhwc,hkc->bhwk", grid, down).reshape(b, heads, n, h, 1)
        part_w = torch.einsum("bhwc,wkc->bhwk", grid, across).reshape(b, heads, n, 1, w)
        rows = max(1, min(n, most // n))
        together = max(1, most // (rows * n))
        out = torch.empty_like(q)
        if b > 1:  # windows: many small frames, several at once
            for i in range(0, b, max(1, together // heads)):
                part = slice(i, i + max(1, together // heads))
                bias = (part_h[part] + part_w[part]).reshape(-1, heads, n, n)
                out[part] = scaled_dot_product_attention(q[part], k[part], v[part], attn_mask=bias)
        else:
            for i in range(0, heads, together):
                of = slice(i, i + together)
                for start in range(0, n, rows):
                    at = slice(start, start + rows)
                    bias = (part_h[:, of, at] + part_w[:, of, at]).flatten(-2)
                    out[:, of, at] = scaled_dot_product_attention(q[:, of, at], k[:, of], v[:, of], attn_mask=bias)
    out = out.reshape(b, heads, h, w, -1).permute(0, 2, 3, 1, 4).reshape(b, h, w, -1)
    return attention.proj(out)
