"""A small SAM, and a comparison of weights."""

from __future__ import annotations

import torch

from cryosegnet_ext import weights


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


SIZES = {
    "img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 2, "mlp_ratio": 2.0, "qkv_bias": True,
    "use_rel_pos": True, "window_size": 3, "global_attn_indexes": [1], "prompt_embed_dim": 16, "mask_in_chans": 4,
    "decoder_depth": 2, "decoder_mlp_dim": 24, "decoder_num_heads": 4, "num_multimask_outputs": 3, "iou_head_depth": 3,
    "iou_head_hidden_dim": 20,
}  # fmt: skip


def tiny_sam(**changes):
    torch.manual_seed(0)
    return weights.build_sam({**SIZES, **changes}).eval()
