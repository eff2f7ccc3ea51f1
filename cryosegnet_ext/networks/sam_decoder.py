"""SAM's mask decoder for many points on one image: computes only what differs between the points.

segment-anything repeats the image for every prompt, projects its 4,096 tokens again in each attention, and upsamples
every mask to the whole frame. This decoder gives the same numbers up to rounding, from the same weights:

- The first layer sees the same image for every prompt, so its keys, values and queries are projected once.
- In later layers, the projection of the 4,096 image tokens moves to the other side of the product, where there are
  seven tokens: ``q . (W k) = (W^T q) . k``. The term of the position encoding is the same for all prompts.
- Upsampling is local to a token (2 x 2 transposed convolutions, normalisation over channels), so only the tokens of a
  window around the point are upsampled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from segment_anything.modeling import Sam


class PointDecoder:
    """Masks for single points on one image.

    Parameters
    ----------
    sam
        A Segment Anything model of any size, in evaluation mode.
    features : (1, C, h, w)
        Of the image, from `sam_encoder.encode`.
    """

    def __init__(self, sam: Sam, features: Tensor) -> None:
        self._sam = sam
        self._decoder = sam.mask_decoder
        self._tokens_across = int(features.shape[3])
        # without a mask prompt the dense embedding is one vector for the whole image
        dense = sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        self._image = (features + dense)[0].flatten(1).T.contiguous()  # (N, C)
        self._place = sam.prompt_encoder.get_dense_pe()[0].flatten(1).T.contiguous()  # (N, C)
        transformer = self._decoder.transformer
        # W k of the position encoding, of every cross attention; (N, inner)
        self._placed = {
            id(attention): self._place @ projection.weight.T
            for layer in transformer.layers
            for attention, projection in (
                (layer.cross_attn_token_to_image, layer.cross_attn_token_to_image.k_proj),
                (layer.cross_attn_image_to_token, layer.cross_attn_image_to_token.q_proj),
            )
        }
        final = transformer.final_attn_token_to_image
        self._placed[id(final)] = self._place @ final.k_proj.weight.T

    def __call__(self, points: Tensor, corner: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Decode points.

        Parameters
        ----------
        points : (B, 2) float
            x, y in pixels of SAM's input.
        corner : (B, 2) int
            First row and column of image tokens of the part of the masks to compute.
        size : (int, int)
            Rows and columns of tokens of that part.

        Returns
        -------
        logits : (B, M, 4 * rows, 4 * columns)
            SAM's low-resolution masks of that part, without the one for single-mask output.
        iou : (B, M)
            Predicted.
        """
        decoder, labels = self._decoder, torch.ones(len(points), 1, dtype=torch.int, device=points.device)
        sparse, _ = self._sam.prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
        own = torch.cat((decoder.iou_token.weight, decoder.mask_tokens.weight))
        tokens = torch.cat((own.expand(len(points), -1, -1), sparse), 1)
        queries, keys = self._transform(decoder.transformer, tokens)
        masks = queries[:, 1 : 1 + decoder.num_mask_tokens]
        rows = corner[:, :1] + torch.arange(size[0], device=corner.device)
        columns = corner[:, 1:] + torch.arange(size[1], device=corner.device)
        which = (rows[:, :, None] * self._tokens_across + columns[:, None]).flatten(1)
        part = torch.take_along_dim(keys, which[:, :, None], 1)
        part = decoder.output_upscaling(part.transpose(1, 2).reshape(len(points), -1, *size))
        weigh = torch.stack(
            [mlp(masks[:, i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps) if i > 0], 1
        )  # mask 0 is for single-mask output
        logits = (weigh @ part.flatten(2)).unflatten(2, part.shape[2:])
        return logits, decoder.iou_prediction_head(queries[:, 0])[:, 1:]

    def _transform(self, transformer: Any, place: Tensor) -> tuple[Tensor, Tensor]:
        """``TwoWayTransformer.forward``; tokens (B, T, C) -> tokens (B, T, C), image (B, N, C)."""
        queries, keys = place, self._image
        for layer in transformer.layers:
            if layer.skip_first_layer_pe:
                queries = layer.self_attn(q=queries, k=queries, v=queries)
            else:
                q = queries + place
                queries = queries + layer.self_attn(q=q, k=q, v=queries)
            queries = layer.norm1(queries)
            read = self._read(layer.cross_attn_token_to_image, queries + place, keys)
            queries = layer.norm2(queries + read)
            queries = layer.norm3(queries + layer.mlp(queries))
            keys = layer.norm4(self._write(layer.cross_attn_image_to_token, keys, queries + place, queries))
        read = self._read(transformer.final_attn_token_to_image, queries + place, keys)
        return transformer.norm_final_attn(queries + read), keys

    def _read(self, attention: Any, tokens: Tensor, image: Tensor) -> Tensor:
        """Tokens (B, T, C) attend to the image (N, C) or (B, N, C); (B, T, C)."""
        b, t, _ = tokens.shape
        heads = attention.num_heads
        q = _by_head(attention.q_proj(tokens), heads) * (attention.internal_dim // heads) ** -0.5  # (B, H, T, d)
        placed = _by_head(self._placed[id(attention)][None], heads)[0]  # (H, N, d)
        # the keys' bias adds the same value to every key of a query, which softmax cancels
        if image.ndim == 2:
            k = placed + _by_head((image @ attention.k_proj.weight.T)[None], heads)[0]
            v = _by_head(attention.v_proj(image)[None], heads)[0]
            flat = q.transpose(0, 1).flatten(1, 2)  # (H, B T, d)
            out = (torch.softmax(flat @ k.transpose(1, 2), 2) @ v).unflatten(1, (b, t)).transpose(0, 1)
        else:
            moved = q @ attention.k_proj.weight.unflatten(0, (heads, -1))  # (B, H, T, C)
            by_place = (q.transpose(0, 1).flatten(1, 2) @ placed.transpose(1, 2)).unflatten(1, (b, t))
            by_place = by_place.transpose(0, 1).reshape(b, heads * t, -1)
            weight = torch.softmax(torch.baddbmm(by_place, moved.flatten(1, 2), image.transpose(1, 2)), 2)
            seen = (weight @ image).unflatten(1, (heads, t))  # (B, H, T, C)
            value = attention.v_proj.weight.unflatten(0, (heads, -1)).transpose(1, 2)
            out = seen @ value + attention.v_proj.bias.unflatten(0, (heads, 1, -1))
        return attention.out_proj(out.transpose(1, 2).flatten(2))

    def _write(self, attention: Any, image: Tensor, tokens: Tensor, values: Tensor) -> Tensor:
        """The image (N, C) or (B, N, C) looks at tokens (B, T, C) and adds what it sees; (B, N, C), overwriting it."""
        b, t, _ = tokens.shape
        heads = attention.num_heads
        k = _by_head(attention.k_proj(tokens), heads) * (attention.internal_dim // heads) ** -0.5  # (B, H, T, d)
        v = _by_head(attention.v_proj(values), heads)
        placed = self._placed[id(attention)] + attention.q_proj.bias  # (N, inner)
        if image.ndim == 2:
            q = _by_head((placed + image @ attention.q_proj.weight.T)[None], heads)[0]  # (H, N, d)
            scores = (k.transpose(0, 1).flatten(1, 2) @ q.transpose(1, 2)).unflatten(1, (b, t)).transpose(0, 1)
        else:
            moved = k @ attention.q_proj.weight.unflatten(0, (heads, -1))  # (B, H, T, C)
            q = _by_head(placed[None], heads)[0]
            scores = (k.transpose(0, 1).flatten(1, 2) @ q.transpose(1, 2)).unflatten(1, (b, t)).transpose(0, 1)
            scores = torch.baddbmm(
                scores.reshape(b, heads * t, -1), moved.flatten(1, 2), image.transpose(1, 2)
            ).unflatten(1, (heads, t))
        weight = torch.softmax(scores, 2).flatten(1, 2)  # over the tokens; (B, H T, N)
        out = attention.out_proj.weight.unflatten(1, (heads, -1)).permute(1, 2, 0)  # (H, d, C)
        # the weights of a head sum to 1, so each head may add an equal part of the bias
        change = (v @ out + attention.out_proj.bias / heads).flatten(1, 2)  # (B, H T, C)
        if image.ndim == 2:
            return torch.baddbmm(image.expand(b, -1, -1), weight.transpose(1, 2), change)
        return image.baddbmm_(weight.transpose(1, 2), change)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads * d) -> (B, heads, N, d)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)
