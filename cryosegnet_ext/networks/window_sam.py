"""A small SAM that sees one window around each peak of the U-Net's map, not the whole frame.

It consists of Segment Anything's own modules in small sizes, trained on windows of three particle diameters. The image
encoder sees the map, the working image, and the working image at half the resolution with twice the field of view, so
that it can tell a particle from the edge of a carbon film. The decoder's cost is image tokens x prompts: 144 tokens a
prompt instead of the 4,096 of a 1024 x 1024 frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, linear, scaled_dot_product_attention

if TYPE_CHECKING:
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


def is_windowed(sizes: Mapping[str, Any]) -> bool:
    """Whether a SAM of these sizes (`weights.sam_sizes`) is one of this kind."""
    return int(sizes["img_size"]) == SIDE


class Windows:
    """The encoder's input around points of one micrograph.

    Parameters
    ----------
    probability, image : (h, w) float32
        The U-Net's map and the working image it was made of.
    """

    def __init__(self, probability: Image, image: Image) -> None:
        half = SIDE // 2
        h, w = image.shape
        even = np.pad(image, ((0, h % CONTEXT), (0, w % CONTEXT)), mode="edge")
        coarse = cv2.resize(even, (even.shape[1] // CONTEXT, even.shape[0] // CONTEXT), interpolation=cv2.INTER_AREA)
        self._planes = [
            sliding_window_view(np.pad(plane, half, constant_values=outside), (SIDE, SIDE))
            for plane, outside in (
                (probability * _MAP_SCALE + _MAP_OFFSET, _MAP_OFFSET),
                (image * _IMAGE_SCALE, 0.0),
                (coarse * _IMAGE_SCALE, 0.0),
            )
        ]

    def __call__(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float32]:
        """Windows (n, 3, SIDE, SIDE), float32, around points (n,), each on pixel (SIDE / 2, SIDE / 2) of its window.

        They show the map, the image, and the image with `CONTEXT` times the field, scaled to about 1. Outside the
        image: probability 0 and background.
        """
        result = np.empty((len(rows), 3, SIDE, SIDE), np.float32)
        for i, plane in enumerate(self._planes):
            step = CONTEXT if i == 2 else 1
            for window, y, x in zip(result, (rows // step).tolist(), (columns // step).tolist()):
                window[i] = plane[y, x]
        return result


class WindowSam:
    """The small SAM, to run and not to train: one mask and its predicted IoU for the middle of each window.

    It computes what segment-anything's modules compute from the same weights, to rounding, without importing that
    package, which loads torchvision and torch.compile. One prompt serves each window and always lies in its middle, so
    that the tokens of the first layer and the position encodings are constants; linear layers of the same input are one
    product; and the upsampling is a product for each token.

    Parameters
    ----------
    state
        Tensors by the names of segment-anything.
    sizes
        From `weights.sam_sizes`.

    Raises
    ------
    ValueError
        It is a SAM of another kind: with relative positions or attention in windows.
    """

    def __init__(self, state: Mapping[str, Tensor], sizes: Mapping[str, Any]) -> None:
        if sizes["use_rel_pos"] or sizes["window_size"]:
            raise ValueError("relative positions or windows of attention in a small SAM")
        self._heads, self._decoder_heads = int(sizes["num_heads"]), int(sizes["decoder_num_heads"])
        self._depth, self._layers = int(sizes["depth"]), int(sizes["decoder_depth"])
        self._patch = int(sizes["patch_size"])
        self._w = {key: value.detach().float().contiguous() for key, value in state.items()}
        self._prepare(int(sizes["iou_head_depth"]))

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._w["image_encoder.pos_embed"].device

    def to(self, device: torch.device) -> WindowSam:
        """Move the network; returns it."""
        self._w = {key: value.to(device) for key, value in self._w.items()}
        return self

    def _prepare(self, iou_depth: int) -> None:
        """Constants, and the weights of layers that are computed together."""
        w, side = self._w, SIDE // self._patch
        self._iou_depth = iou_depth
        w["patch.weight"] = w["image_encoder.patch_embed.proj.weight"].flatten(1)
        w["place"] = w["image_encoder.pos_embed"].flatten(1, 2)[0]
        w["neck.weight"] = w["image_encoder.neck.0.weight"].flatten(1)
        # Beyond the middle of the window, the prompt has a point of padding, as segment-anything gives it.
        waves = w["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
        middle = _position(torch.full((1, 2), (SIDE / 2 + 0.5) / SIDE), waves)
        own = [w["mask_decoder.iou_token.weight"], w["mask_decoder.mask_tokens.weight"]]
        point = [middle + w["prompt_encoder.point_embeddings.1.weight"], w["prompt_encoder.not_a_point_embed.weight"]]
        w["tokens"] = torch.cat(own + point)
        at = (torch.arange(side) + 0.5) / side
        grid = torch.stack([at[None, :].expand(side, -1), at[:, None].expand(-1, side)], -1).flatten(0, 1)
        place = _position(grid, waves)
        transformer = "mask_decoder.transformer."
        for i in range(self._layers):
            layer = f"{transformer}layers.{i}."
            read, write = layer + "cross_attn_token_to_image.", layer + "cross_attn_image_to_token."
            self._join(
                layer + "image", place, (read + "k_proj", True), (read + "v_proj", False), (write + "q_proj", True)
            )
        final = transformer + "final_attn_token_to_image."
        self._join(transformer + "image", place, (final + "k_proj", True), (final + "v_proj", False))
        for i in (0, 3):
            name = f"mask_decoder.output_upscaling.{i}."
            # (in, out, 2, 2): one row for each of the four new pixels and channels
            w[name + "product"] = w[name + "weight"].permute(2, 3, 1, 0).flatten(0, 2).contiguous()
            w[name + "added"] = w[name + "bias"].repeat(4)

    def _join(self, name: str, place: Tensor, *parts: tuple[str, bool]) -> None:
        """One product for several projections of the image's tokens, some of them with the position encoding."""
        w = self._w
        w[name + ".product"] = torch.cat([w[part + ".weight"] for part, _ in parts])
        w[name + ".added"] = torch.cat(
            [w[part + ".bias"] + (place if placed else 0 * place) @ w[part + ".weight"].T for part, placed in parts], 1
        )

    def __call__(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Masks for the middles of windows.

        Parameters
        ----------
        pictures : (n, 3, SIDE, SIDE)
            From `Windows`.

        Returns
        -------
        logits : (n, SIDE / 2, SIDE / 2)
            Of the mask, at half the window's resolution.
        iou : (n,)
            Predicted; trained to be 0 where no particle is under the point.
        """
        return self._decode(self._encode(pictures))

    def _encode(self, pictures: Tensor) -> Tensor:
        """(n, 3, SIDE, SIDE) -> tokens (n, tokens, C)."""
        w, n, side = self._w, len(pictures), SIDE // self._patch
        patches = pictures.view(n, 3, side, self._patch, side, self._patch).permute(0, 2, 4, 1, 3, 5)
        x = self._linear(patches.reshape(n * side**2, -1), "patch.weight", "image_encoder.patch_embed.proj.bias")
        x = (x.view(n, side**2, -1) + w["place"]).flatten(0, 1)
        for i in range(self._depth):
            block = f"image_encoder.blocks.{i}."
            qkv = self._layer(self._norm(x, block + "norm1", 1e-6), block + "attn.qkv")
            q, k, v = qkv.view(n, side**2, 3, self._heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            seen = scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n * side**2, -1)
            x += self._layer(seen, block + "attn.proj")
            inner = gelu(self._layer(self._norm(x, block + "norm2", 1e-6), block + "mlp.lin1"))
            x += self._layer(inner, block + "mlp.lin2")
        x = self._norm(self._linear(x, "neck.weight", None), "image_encoder.neck.1", 1e-6)
        planes = x.view(n, side, side, -1).permute(0, 3, 1, 2)
        planes = conv2d(planes, w["image_encoder.neck.2.weight"], padding=1)
        return self._norm(planes.permute(0, 2, 3, 1).flatten(1, 2), "image_encoder.neck.3", 1e-6)

    def _decode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (n, tokens, C) -> logits (n, SIDE / 2, SIDE / 2) and predicted IoU (n,)."""
        w, n, name = self._w, len(features), "mask_decoder.transformer."
        keys = features + w["prompt_encoder.no_mask_embed.weight"]
        place = w["tokens"].expand(n, -1, -1)
        queries = place
        for i in range(self._layers):
            layer = f"{name}layers.{i}."
            attention = layer + "self_attn."
            q = queries + place if i else queries
            seen = self._attend(
                self._layer(q, attention + "q_proj"),
                self._layer(q, attention + "k_proj"),
                self._layer(queries, attention + "v_proj"),
                attention + "out_proj",
            )
            queries = self._norm(queries + seen if i else seen, layer + "norm1")
            read, write = layer + "cross_attn_token_to_image.", layer + "cross_attn_image_to_token."
            k, v, q = self._projected(keys, layer + "image").chunk(3, 2)
            seen = self._attend(self._layer(queries + place, read + "q_proj"), k, v, read + "out_proj")
            queries = self._norm(queries + seen, layer + "norm2")
            inner = self._layer(queries, layer + "mlp.lin1").relu()
            queries = self._norm(queries + self._layer(inner, layer + "mlp.lin2"), layer + "norm3")
            k, v = self._layer(queries + place, write + "k_proj"), self._layer(queries, write + "v_proj")
            keys = self._norm(keys + self._attend(q, k, v, write + "out_proj"), layer + "norm4")
        final = name + "final_attn_token_to_image."
        k, v = self._projected(keys, name + "image").chunk(2, 2)
        seen = self._attend(self._layer(queries + place, final + "q_proj"), k, v, final + "out_proj")
        queries = self._norm(queries + seen, name + "norm_final_attn")
        weigh = self._mlp(queries[:, 1], "mask_decoder.output_hypernetworks_mlps.0", 3)
        iou = self._mlp(queries[:, 0], "mask_decoder.iou_prediction_head", self._iou_depth)[:, 0]
        return self._mask(keys, weigh), iou

    def _mask(self, keys: Tensor, weigh: Tensor) -> Tensor:
        """Image tokens (n, tokens, C) and weights of channels (n, c) -> logits (n, SIDE / 2, SIDE / 2)."""
        n, side, name = len(keys), SIDE // self._patch, "mask_decoder.output_upscaling."
        x = self._linear(keys, name + "0.product", name + "0.added").unflatten(2, (4, -1))
        x = self._linear(gelu(self._norm(x, name + "1", 1e-6)), name + "3.product", name + "3.added").unflatten(
            3, (4, -1)
        )
        logits = gelu(x).flatten(1, 3) @ weigh[:, :, None].to(x.dtype)
        # (token's row and column; row and column of the first upsampling; of the second)
        return logits.view(n, side, side, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6).reshape(n, 4 * side, 4 * side)

    def _projected(self, keys: Tensor, name: str) -> Tensor:
        return linear(keys, self._w[name + ".product"]) + self._w[name + ".added"]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, out: str) -> Tensor:
        """Attention of (n, T, c) to (n, S, c), and its output layer."""
        q, k, v = (x.unflatten(2, (self._decoder_heads, -1)).transpose(1, 2).to(v.dtype) for x in (q, k, v))
        return self._layer(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), out)

    def _mlp(self, x: Tensor, name: str, depth: int) -> Tensor:
        for i in range(depth):
            x = self._layer(x if i == 0 else x.relu(), f"{name}.layers.{i}")
        return x

    def _layer(self, x: Tensor, name: str) -> Tensor:
        return self._linear(x, name + ".weight", name + ".bias")

    def _linear(self, x: Tensor, weight: str, bias: str | None) -> Tensor:
        return linear(x, self._w[weight], None if bias is None else self._w[bias])

    def _norm(self, x: Tensor, name: str, eps: float = 1e-5) -> Tensor:
        weight = self._w[name + ".weight"]
        return layer_norm(x.float(), weight.shape, weight, self._w[name + ".bias"], eps)


def _position(at: Tensor, waves: Tensor) -> Tensor:
    """Position encoding (n, C) of places (n, 2) of x, y in 0..1."""
    angle = 2 * torch.pi * ((2 * at - 1) @ waves)
    return torch.cat([angle.sin(), angle.cos()], 1)


def to_weights(sam: Sam, note: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """State dict and metadata of a trained network, as `weights.load_sam` reads them."""
    state = {key: value.detach().contiguous().half() for key, value in sam.state_dict().items()}
    return state, {"sam": {"num_heads": SIZES["num_heads"], "decoder_num_heads": SIZES["decoder_num_heads"]}, **note}
