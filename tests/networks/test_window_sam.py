"""The small SAM: position of the windows, and one prompt for each window, decoded as segment-anything does."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.networks import window_sam
from cryosegnet_ext.weights import build_sam, load_sam, load_state_dict, sam_sizes


@pytest.fixture(scope="module")
def sam():
    torch.manual_seed(0)
    return build_sam(window_sam.SIZES).eval().requires_grad_(False)


def test_windows_are_centred_on_their_points():
    rng = np.random.default_rng(0)
    image = rng.standard_normal((150, 210)).astype(np.float32)
    probability = rng.random((150, 210)).astype(np.float32)
    rows, columns = np.array([0, 75, 149, 20]), np.array([0, 100, 209, 201])
    found = window_sam.Windows(probability, image)(rows, columns)
    assert found.shape == (4, 3, window_sam.SIDE, window_sam.SIDE)
    half = window_sam.SIDE // 2
    for i, (y, x) in enumerate(zip(rows, columns)):
        assert found[i, 0, half, half] == pytest.approx(4 * probability[y, x] - 1, rel=1e-5)
        assert found[i, 1, half, half] == pytest.approx(0.4 * image[y, x], rel=1e-5)
        block = image[y // 2 * 2 : y // 2 * 2 + 2, x // 2 * 2 : x // 2 * 2 + 2]
        assert found[i, 2, half, half] == pytest.approx(0.4 * block.mean(), rel=1e-4) or block.size < 4
    # outside the frame: no particle, no contrast
    assert (found[0, 0, :half] == -1).all()
    assert (found[0, 1:, :half, :half] == 0).all()


def test_a_window_is_decoded_as_by_segment_anything(sam):
    pictures = torch.randn(11, 3, window_sam.SIDE, window_sam.SIDE)
    small = window_sam.WindowSam(sam.state_dict(), window_sam.SIZES)
    with torch.inference_mode():
        logits, iou = small(pictures)
        sparse, dense = sam.prompt_encoder(
            points=(torch.full((1, 1, 2), window_sam.SIDE / 2), torch.ones(1, 1, dtype=torch.int)),
            boxes=None,
            masks=None,
        )
        for i in range(len(pictures)):
            expected, quality = sam.mask_decoder(
                image_embeddings=sam.image_encoder(pictures[i : i + 1]),
                image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
            torch.testing.assert_close(logits[i], expected[0, 0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(iou[i], quality[0, 0], rtol=1e-4, atol=1e-4)


def test_sizes_survive_the_file(sam, tmp_path):
    state, note = window_sam.to_weights(sam, {"fitted": {"threshold": 0.4}})
    file = tmp_path / "small.safetensors"
    save_file(state, file, metadata={"cryosegnet": json.dumps(note)})
    assert file.stat().st_size < 15e6
    assert sam_sizes(load_state_dict(file), note["sam"]) == window_sam.SIZES
    assert isinstance(load_sam(file), window_sam.WindowSam)


def test_tensors_that_are_missing_or_do_not_fit_are_told(sam, tmp_path):
    state, note = window_sam.to_weights(sam, {})
    name = "mask_decoder.iou_prediction_head.layers.2.weight"
    lost = {key: value for key, value in state.items() if key != "image_encoder.blocks.1.norm2.bias"}
    for damaged in (lost, state | {name: state[name][:, :-1].contiguous()}):
        file = tmp_path / "damaged.safetensors"
        save_file(damaged, file, metadata={"cryosegnet": json.dumps(note)})
        with pytest.raises(CryoSegNetError, match="does not hold a SAM"):
            load_sam(file)
