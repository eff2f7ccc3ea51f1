"""The small SAM: windows where they should be, one prompt a window as segment-anything itself decodes it, and picks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryosegnet_ext.picking import window_sam
from cryosegnet_ext.picking.segment import find_peaks
from cryosegnet_ext.weights import build_sam, load_sam, sam_sizes


@pytest.fixture(scope="module")
def sam():
    torch.manual_seed(0)
    return build_sam(window_sam.SIZES).eval().requires_grad_(False)


def test_windows_are_centred_on_their_points():
    rng = np.random.default_rng(0)
    image = rng.standard_normal((150, 210)).astype(np.float32)
    probability = rng.random((150, 210)).astype(np.float32)
    rows, columns = np.array([0, 75, 149, 20]), np.array([0, 100, 209, 201])
    found = window_sam.windows(probability, image, rows, columns)
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


def test_one_prompt_a_window_is_what_segment_anything_decodes(sam):
    pictures = torch.randn(3, 3, window_sam.SIDE, window_sam.SIDE)
    points = torch.tensor([[48.0, 48.0], [30.0, 60.0], [48.0, 10.0]])
    with torch.inference_mode():
        logits, iou = window_sam.decode(sam, pictures, points)
        for i in range(3):
            sparse, dense = sam.prompt_encoder(
                points=(points[i, None, None], torch.ones(1, 1, dtype=torch.int)), boxes=None, masks=None
            )
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
    import json

    from safetensors.torch import save_file

    state, note = window_sam.to_weights(sam, {"fitted": {"threshold": 0.4}})
    file = tmp_path / "small.safetensors"
    save_file(state, file, metadata={"cryosegnet": json.dumps(note)})
    assert file.stat().st_size < 15e6
    again = load_sam(file)
    assert window_sam.is_windowed(again)
    assert sam_sizes(again.state_dict(), note["sam"]) == window_sam.SIZES


class Answers:
    """Stands where the network is: a disc around the point, whatever the picture."""

    def __init__(self, monkeypatch, radius, iou):
        side = window_sam.SIDE // 2
        at = np.arange(side) - (side - 1) / 2
        disc = np.where(np.hypot(at[:, None], at[None]) <= radius / 2, 4.0, -4.0).astype(np.float32)

        def decode(sam, pictures, points):
            n = len(pictures)
            return torch.from_numpy(disc).expand(n, side, side), torch.full((n,), iou)

        monkeypatch.setattr(window_sam, "decode", decode)


def blobs(shape, centres, radius):
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    return np.max([np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / radius**2) for x, y in centres], axis=0).astype(np.float32)


def test_masks_lie_under_the_peaks(sam, monkeypatch):
    Answers(monkeypatch, 11.0, 0.8)
    centres = [(40, 50), (150, 60), (100, 120), (3, 140)]
    probability = blobs((160, 200), centres, 8.0)
    area = np.pi / 4 * 22**2
    masks = window_sam.cut(probability, np.zeros_like(probability), sam, diameter_px=32.0, expected_area=area)
    assert len(masks) == 4
    assert masks.score == pytest.approx(0.8)
    whole = masks.x > 10
    found = sorted(zip(masks.x[whole].round(), masks.y[whole].round()))
    assert found == [(40, 50), (100, 120), (150, 60)]
    assert masks.area[whole] == pytest.approx(area, rel=0.1)
    rows, columns, _ = find_peaks(probability, diameter_px=32.0)
    assert len(rows) == 4
    assert len(columns) == 4


def test_nothing_where_the_map_has_no_peaks_or_the_masks_no_size(sam, monkeypatch):
    flat = np.zeros((120, 120), np.float32)
    assert len(window_sam.cut(flat, flat, sam, diameter_px=32.0, expected_area=380.0)) == 0
    Answers(monkeypatch, 2.0, 0.9)
    probability = blobs((120, 120), [(60, 60)], 8.0)
    assert len(window_sam.cut(probability, flat, sam, diameter_px=32.0, expected_area=380.0)) == 0


def test_doubled_prompts_give_one_mask(sam, monkeypatch):
    Answers(monkeypatch, 14.0, 0.9)
    probability = blobs((120, 120), [(50, 60), (66, 60)], 6.0)
    masks = window_sam.cut(probability, np.zeros_like(probability), sam, diameter_px=32.0, expected_area=616.0)
    assert len(masks) <= 2
    assert masks.area.sum() <= np.pi / 4 * (28**2) * 2
