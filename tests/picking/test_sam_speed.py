"""SAM's encoder and decoder, restructured, against segment-anything's own forward passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.networks import sam_encoder
from cryosegnet_ext.networks.memory import ran_out, with_less
from cryosegnet_ext.networks.precision import all_in
from cryosegnet_ext.networks.sam_decoder import PointDecoder
from cryosegnet_ext.picking import prompts
from cryosegnet_ext.picking.segment import peaks
from cryosegnet_ext.weights import build_sam
from tests.picking.maps import discs, lattice, segment_anything_shape, tiny_sam


def lively_sam(seed=0, **changes):
    """A small SAM whose every parameter matters: relative positions and biases are not zero."""
    sizes = {
        "img_size": 128, "patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 2, "mlp_ratio": 2.0,
        "qkv_bias": True, "use_rel_pos": True, "window_size": 3, "global_attn_indexes": [1, 2], "prompt_embed_dim": 32,
        "mask_in_chans": 4, "decoder_depth": 2, "decoder_mlp_dim": 24, "decoder_num_heads": 4,
        "num_multimask_outputs": 3, "iou_head_depth": 3, "iou_head_hidden_dim": 16,
    } | changes  # fmt: skip
    torch.manual_seed(seed)
    sam = build_sam(sizes).eval().requires_grad_(False)
    for parameter in sam.parameters():
        parameter += 0.2 * torch.randn_like(parameter)
    return sam


@pytest.fixture
def exact():
    """Float32 on every machine."""
    with all_in("float32"):
        yield


@pytest.mark.parametrize("block", [70, 640, 4096, 10**7], ids=lambda n: f"blocks of {n}")
@pytest.mark.parametrize("changes", [{}, {"use_rel_pos": False}, {"window_size": 0}], ids=str)
def test_the_encoder_is_segment_anythings(exact, monkeypatch, changes, block):
    monkeypatch.setattr(sam_encoder, "_BLOCK", block)
    sam = lively_sam(**changes)
    picture = np.random.default_rng(0).integers(0, 256, (100, 128, 3)).astype(np.uint8)
    found, used = sam_encoder.encode(sam, picture)
    assert used == (100, 128)
    x = sam.preprocess(torch.from_numpy(picture).permute(2, 0, 1)[None].float())
    expected = sam.image_encoder(x)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_reduced_precision_changes_features_little():
    sam = lively_sam()
    picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    planes = []
    for precision in ("float32", "bf16"):
        with all_in(precision):
            planes.append(sam_encoder.encode(sam, picture)[0])
    assert planes[1].dtype == torch.float32
    assert 0 < (planes[1] - planes[0]).abs().mean() < 0.05 * planes[0].std()


@pytest.mark.parametrize("changes", [{}, {"decoder_num_heads": 8}, {"decoder_depth": 1}, {"decoder_depth": 3}], ids=str)
def test_the_decoder_is_segment_anythings(changes):
    sam = lively_sam(1, **changes)
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(1, 32, 8, 8, generator=generator)
    points = 128 * torch.rand(6, 2, generator=generator)
    sparse, dense = sam.prompt_encoder(points=(points[:, None], torch.ones(6, 1)), boxes=None, masks=None)
    logits, iou = sam.mask_decoder(
        image_embeddings=features,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )
    corner = torch.tensor([[0, 0], [4, 5], [2, 3], [4, 0], [1, 1], [3, 5]])
    with torch.inference_mode():
        found, found_iou = PointDecoder(sam, features)(points, corner, (4, 3))
    assert logits.std() > 0.1 and iou.std() > 0.01
    torch.testing.assert_close(found_iou, iou, rtol=1e-4, atol=1e-4)
    for i, (row, column) in enumerate((4 * corner).tolist()):
        torch.testing.assert_close(
            found[i], logits[i, :, row : row + 16, column : column + 12], rtol=1e-3, atol=1e-4 * float(logits.std())
        )


@pytest.mark.parametrize("shape", [(128, 128), (180, 111), (60, 90), (190, 40)], ids=str)
@pytest.mark.parametrize("half", [3, 14, 60])
def test_windows_are_those_of_the_whole_masks(exact, shape, half):
    """A window depends only on the part of the tokens that is upsampled."""
    sam = lively_sam(3)
    rng = np.random.default_rng(1)
    features = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(2))
    used = segment_anything_shape(shape, 128)
    points = np.column_stack((rng.integers(0, shape[1], 9), rng.integers(0, shape[0], 9)))
    points[:4] = [(0, 0), (shape[1] - 1, 0), (0, shape[0] - 1), (shape[1] - 1, shape[0] - 1)]
    with torch.inference_mode():
        fast = prompts._Windows(sam, features, used, shape, half)
        plain = prompts._Windows(sam, features, used, shape, half)
        plain.decoder = None
        (inside, iou), (expected, expected_iou) = fast(points), plain(points)
    torch.testing.assert_close(iou, expected_iou, rtol=1e-4, atol=1e-4)
    assert inside.shape == (9, 3, 2 * half + 1, 2 * half + 1)
    assert 0.02 < expected.float().mean() < 0.98
    assert (inside == expected).float().mean() > 0.9995  # rounding moves a border now and then


def test_memory_that_runs_out_makes_smaller_batches(monkeypatch):
    sam = tiny_sam(img_size=64)
    plane = discs((64, 64), lattice(np.random.default_rng(0), 64, 16, 1), 9)
    expected = peaks(plane, sam, diameter_px=12, expected_area=60)
    seen = []
    decode = PointDecoder.__call__

    def tight(self, points, corner, size):
        seen.append(len(points))
        if len(points) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return decode(self, points, corner, size)

    monkeypatch.setattr(PointDecoder, "__call__", tight)
    masks = peaks(plane, sam, diameter_px=12, expected_area=60)
    assert seen[:3] == [8, 4, 2]
    assert max(seen[2:]) <= 3
    assert np.array_equal(masks.x, expected.x) and np.array_equal(masks.area, expected.area)

    def none_left(self, points, corner, size):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(PointDecoder, "__call__", none_left)
    with pytest.raises(CryoSegNetError, match=r"decoder ran out of memory on cpu.*close other programs"):
        peaks(plane, sam, diameter_px=12)


def test_memory_that_runs_out_makes_smaller_blocks_of_the_encoder(exact, monkeypatch):
    sam = lively_sam()
    probability = discs((128, 128), [(40, 50), (90, 80)], 18)
    expected, whole = peaks(probability, sam, diameter_px=20.0), sam_encoder._forward
    tried = []

    def short_of_memory(encoder, x, most):
        tried.append(most)
        if most > 2_000_000:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(encoder, x, most)

    monkeypatch.setattr(sam_encoder, "_forward", short_of_memory)
    found = peaks(probability, sam, diameter_px=20.0)
    assert tried == [8_000_000, 4_000_000, 2_000_000]
    assert found.x == pytest.approx(expected.x) and found.area == pytest.approx(expected.area)


def test_other_errors_are_not_taken_for_memory():
    def work(size):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        with_less(work, 8, 1, "x", torch.device("cpu"))
    assert ran_out(MemoryError())
    assert ran_out(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."))
    assert not ran_out(ValueError("not enough memory"))
    assert ran_out(RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"))
    assert ran_out(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not ran_out(RuntimeError("CUDA error: an illegal memory access was encountered"))
