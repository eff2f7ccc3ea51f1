"""Maps of discs, and SAMs for them: one that cuts out discs, and a real one of the smallest size."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from segment_anything.modeling import Sam

from cryosegnet_ext.weights import build_sam


def discs(shape, centres, diameter, value=1.0, blur=1.0):
    plane = np.zeros(shape, np.float32)
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    for x, y in centres:
        plane[(xx - x) ** 2 + (yy - y) ** 2 <= (diameter / 2) ** 2] = value
    return cv2.GaussianBlur(plane, (0, 0), blur) if blur else plane


def nearest(masks, centres):
    """Distance from each true centre to the nearest mask."""
    return [float(np.hypot(masks.x - x, masks.y - y).min()) for x, y in centres]


def lattice(rng, n, step, jitter):
    at = range(step // 2 + jitter, n - step // 2 - jitter, step)
    return [tuple(int(v) for v in np.add((x, y), rng.integers(-jitter, jitter + 1, 2))) for x in at for y in at]


class DiscSam:
    """Replaces a SAM: for each point it returns a mask of everything, a disc around the point, and a speck."""

    mask_threshold = 0.0
    image_format = "RGB"
    device = torch.device("cpu")
    postprocess_masks = Sam.postprocess_masks

    def __init__(self, img_size=256, radius=10.0, iou=lambda points: 0.9):
        self.radius, self.iou, self.encoded, self.batches = radius, iou, [], []
        self.image_encoder = EncoderOf(self, img_size)
        self.prompt_encoder = PromptEncoderOf(self)

    def preprocess(self, image):
        return image.float()

    def mask_decoder(
        self, *, image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings, multimask_output
    ):
        assert multimask_output
        points = sparse_prompt_embeddings
        self.batches.append(len(points))
        at = torch.arange(self.image_encoder.img_size // 4) * 4 + 1.5
        distance = torch.hypot(
            at[None, :, None] - points[:, 1, None, None], at[None, None, :] - points[:, 0, None, None]
        )
        masks = torch.stack((torch.full_like(distance, 9.0), self.radius - distance, 1.0 - distance), 1)
        iou = torch.as_tensor(self.iou(points)).expand(len(points))
        return masks, torch.stack((torch.full((len(points),), 0.99), iou, torch.full((len(points),), 0.97)), 1)


class EncoderOf:
    def __init__(self, sam, img_size):
        self.sam, self.img_size = sam, img_size

    def __call__(self, image):
        self.sam.encoded.append(image)
        return image


class PromptEncoderOf:
    def __init__(self, sam):
        self.sam = sam

    def get_dense_pe(self):
        return None

    def __call__(self, *, points, boxes, masks):
        coordinates, labels = points
        assert boxes is None and masks is None and bool((labels == 1).all())
        return coordinates[:, 0], None


def tiny_sam(seed=0, img_size=64):
    torch.manual_seed(seed)
    sizes = {
        "img_size": img_size, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0,
        "qkv_bias": True, "use_rel_pos": True, "window_size": 3, "global_attn_indexes": [1], "prompt_embed_dim": 16,
        "mask_in_chans": 4, "decoder_depth": 2, "decoder_mlp_dim": 24, "decoder_num_heads": 8,
        "num_multimask_outputs": 3, "iou_head_depth": 3, "iou_head_hidden_dim": 16,
    }  # fmt: skip
    return build_sam(sizes).eval().requires_grad_(False)


def segment_anything_shape(shape, size):
    from segment_anything.utils.transforms import ResizeLongestSide

    return ResizeLongestSide.get_preprocess_shape(*shape, size)
