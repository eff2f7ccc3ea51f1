"""Build the U-Net and SAM from weights; the sizes of the networks are read off the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CryoSegNetError
from .files import first_line, load_state_dict, metadata_of
from .store import resolve

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from torch import Tensor
    from torch.nn import Module

    from ..networks.unet import AttentionUNet
    from ..networks.window_sam import WindowSam


def load_unet(name_or_path: str | Path) -> tuple[AttentionUNet, dict[str, Any]]:
    """Load a U-Net of any width and depth, of one plane or two.

    Returns
    -------
    AttentionUNet
        On the CPU, in evaluation mode.
    dict
        The trainer's note in the file (safetensors metadata, JSON under the key ``cryosegnet``); empty where there is
        none, as in the published checkpoint.

    Raises
    ------
    CryoSegNetError
        See `resolve` and `load_state_dict`; or the weights belong to another network.
    """
    path = resolve(name_or_path)
    state = load_state_dict(path)
    from ..networks.unet import AttentionUNet

    first = state.get("e1.conv.conv.0.weight")
    if first is None or first.ndim != 4:
        raise CryoSegNetError(f"{path} does not hold CryoSegNet's U-Net: it has no tensor e1.conv.conv.0.weight")
    levels = 1
    while f"e{levels + 1}.conv.conv.0.weight" in state:
        levels += 1
    try:
        unet = AttentionUNet(base_channels=len(first), levels=levels, planes=first.shape[1])
    except (RuntimeError, MemoryError, ValueError) as error:
        raise CryoSegNetError(f"{path} does not hold a possible U-Net: {first_line(error)}") from error
    _fill(unet, state, path, "CryoSegNet's U-Net")
    return unet.eval(), metadata_of(path)


def load_sam(name_or_path: str | Path) -> Sam | WindowSam:
    """Load a SAM: ViT-H, ViT-L, ViT-B, or one of any other size, such as our small one for windows.

    Sizes that the shapes of tensors do not tell come from the file's metadata (`metadata_of`) under ``sam``:
    ``num_heads`` (of the image encoder; needed only without relative positions) and ``decoder_num_heads`` (default 8).

    Returns
    -------
    segment_anything.modeling.Sam or WindowSam
        On the CPU, in evaluation mode, without gradients.

    Raises
    ------
    CryoSegNetError
        See `resolve` and `load_state_dict`; or the weights belong to another network.
    """
    path = resolve(name_or_path)
    state = load_state_dict(path)
    note = metadata_of(path).get("sam", {})
    import torch

    from ..networks.window_sam import SIDE, WindowSam, is_windowed

    try:
        sizes = sam_sizes(state, note if isinstance(note, dict) else {})
        if is_windowed(sizes):
            small = WindowSam(state, sizes)
            # One window shows whether all tensors are there and fit.
            with torch.inference_mode():
                small(torch.zeros(1, 3, SIDE, SIDE))
            return small
        # A network without memory takes over the file's tensors: twice as fast, and half the memory, of copying them.
        with torch.device("meta"):
            sam = build_sam(sizes)
    except (LookupError, ValueError, TypeError, ArithmeticError, RuntimeError, AssertionError) as error:
        raise CryoSegNetError(
            f"{path} does not hold a SAM of the segment-anything package ({first_line(error)})"
        ) from error
    _fill(sam, {key: value.float() for key, value in state.items()}, path, "a SAM", assign=True)
    # constants that are not in state dicts (build_sam.py of segment-anything)
    sam.pixel_mean = torch.tensor([123.675, 116.28, 103.53]).view(-1, 1, 1)
    sam.pixel_std = torch.tensor([58.395, 57.12, 57.375]).view(-1, 1, 1)
    return sam.eval().requires_grad_(False)


def sam_sizes(state: Mapping[str, Tensor], note: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Sizes of the SAM that a state dict belongs to.

    Parameters
    ----------
    state
        Tensors by name; only names and shapes are used.
    note
        Sizes that the shapes do not tell: see `load_sam`.

    Returns
    -------
    dict
        img_size, patch_size, embed_dim, depth, num_heads, mlp_ratio, qkv_bias, use_rel_pos, window_size,
        global_attn_indexes, prompt_embed_dim, mask_in_chans, decoder_depth, decoder_mlp_dim, decoder_num_heads,
        num_multimask_outputs, iou_head_depth, iou_head_hidden_dim.

    Raises
    ------
    KeyError, ValueError, IndexError, ZeroDivisionError
        The names and shapes are not those of a SAM.
    """
    note = note or {}
    shape = {key: tuple(value.shape) for key, value in state.items()}
    encoder, decoder = "image_encoder.", "mask_decoder."
    embed_dim, _, _, patch = shape[encoder + "patch_embed.proj.weight"]
    grid = shape[encoder + "pos_embed"][1]
    depth = _count(shape, encoder + r"blocks\.(\d+)\.norm1\.weight")
    use_rel_pos = encoder + "blocks.0.attn.rel_pos_h" in shape
    if use_rel_pos:
        reach = [(shape[f"{encoder}blocks.{i}.attn.rel_pos_h"][0] + 1) // 2 for i in range(depth)]
        head_dim = shape[encoder + "blocks.0.attn.rel_pos_h"][1]
        windows = sorted({size for size in reach if size != grid})
        if len(windows) > 1:
            raise ValueError(f"attention windows of several sizes: {windows}")
        window_size = windows[0] if windows else 0
        global_attn_indexes = [i for i, size in enumerate(reach) if size == grid]
        num_heads = embed_dim // head_dim
    else:
        num_heads = int(note["num_heads"])
        window_size = int(note.get("window_size", 0))
        global_attn_indexes = [int(i) for i in note.get("global_attn_indexes", range(depth))]
    return {
        "img_size": grid * patch,
        "patch_size": patch,
        "embed_dim": embed_dim,
        "depth": depth,
        "num_heads": num_heads,
        "mlp_ratio": shape[encoder + "blocks.0.mlp.lin1.weight"][0] / embed_dim,
        "qkv_bias": encoder + "blocks.0.attn.qkv.bias" in shape,
        "use_rel_pos": use_rel_pos,
        "window_size": window_size,
        "global_attn_indexes": global_attn_indexes,
        "prompt_embed_dim": shape[encoder + "neck.0.weight"][0],
        "mask_in_chans": shape["prompt_encoder.mask_downscaling.3.weight"][0],
        "decoder_depth": _count(shape, decoder + r"transformer\.layers\.(\d+)\.norm1\.weight"),
        "decoder_mlp_dim": shape[decoder + "transformer.layers.0.mlp.lin1.weight"][0],
        "decoder_num_heads": int(note.get("decoder_num_heads", 8)),
        "num_multimask_outputs": shape[decoder + "mask_tokens.weight"][0] - 1,
        "iou_head_depth": _count(shape, decoder + r"iou_prediction_head\.layers\.(\d+)\.weight"),
        "iou_head_hidden_dim": shape[decoder + "iou_prediction_head.layers.0.weight"][0],
    }


def build_sam(sizes: Mapping[str, Any]) -> Sam:
    """Build a SAM from `sam_sizes`, as build_sam.py of segment-anything does for its three."""
    from functools import partial

    import torch
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    encoder = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "use_rel_pos")
    grid = sizes["img_size"] // sizes["patch_size"]
    width = sizes["prompt_embed_dim"]
    return Sam(
        image_encoder=ImageEncoderViT(
            **{key: sizes[key] for key in encoder},
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            window_size=sizes["window_size"],
            global_attn_indexes=tuple(sizes["global_attn_indexes"]),
            out_chans=width,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=width,
            image_embedding_size=(grid, grid),
            input_image_size=(sizes["img_size"], sizes["img_size"]),
            mask_in_chans=sizes["mask_in_chans"],
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=sizes["num_multimask_outputs"],
            transformer=TwoWayTransformer(
                depth=sizes["decoder_depth"],
                embedding_dim=width,
                mlp_dim=sizes["decoder_mlp_dim"],
                num_heads=sizes["decoder_num_heads"],
            ),
            transformer_dim=width,
            iou_head_depth=sizes["iou_head_depth"],
            iou_head_hidden_dim=sizes["iou_head_hidden_dim"],
        ),
    )


def _count(shape: Mapping[str, Any], pattern: str) -> int:
    found = {int(match[1]) for key in shape if (match := re.fullmatch(pattern, key))}
    if found != set(range(len(found))) or not found:
        raise KeyError(pattern)
    return len(found)


def _fill(network: Module, state: Mapping[str, Tensor], path: Path, name: str, assign: bool = False) -> None:
    """Give a network its weights."""
    try:
        network.load_state_dict(state, assign=assign)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
        mismatch = lines[0][:200] if lines else first_line(error)
        raise CryoSegNetError(f"{path} does not fit {name}: {mismatch}") from error
