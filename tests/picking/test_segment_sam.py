"""Masks from SAM, asked at peaks of a map or at a grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything.utils.amg import mask_to_rle_pytorch

from cryosegnet_ext.picking import prompts, segment
from cryosegnet_ext.picking.masks import Instance, without_overlaps
from cryosegnet_ext.picking.segment import (
    grid,
    peaks,
)
from tests.picking.maps import (
    DiscSam,
    discs,
    lattice,
    nearest,
    segment_anything_shape,
    tiny_sam,
)


def test_peaks_gives_each_particle_its_disc():
    rng = np.random.default_rng(1)
    centres = [(x + 5, y) for x, y in lattice(rng, 200, 40, 4)]
    sam = DiscSam()
    masks = peaks(discs((200, 256), centres, 20), sam, diameter_px=28)
    assert len(sam.encoded) == 1
    assert len(masks) == len(centres)
    assert max(nearest(masks, centres)) < 0.7
    assert masks.area == pytest.approx(np.pi * 100, rel=0.08)
    assert masks.score == pytest.approx(0.9)


@pytest.mark.parametrize("shape", [(300, 210), (120, 384), (64, 80)])
def test_peaks_come_back_in_pixels_of_the_map_whatever_its_size(shape):
    centres = [(40, 30), (20, 20 + shape[0] // 2), (shape[1] - 24, 40)]
    scale = 256 / max(shape)
    masks = peaks(discs(shape, centres, 14), DiscSam(radius=7 * scale), diameter_px=20)
    assert len(masks) == 3
    assert max(nearest(masks, centres)) < 0.5
    assert masks.area == pytest.approx(np.pi * 49, rel=0.18)


@pytest.mark.parametrize("points_per_batch", [1, 7, 64])
def test_batches_do_not_matter(points_per_batch, monkeypatch):
    monkeypatch.setattr(prompts, "_BATCH_CPU", points_per_batch)
    centres = lattice(np.random.default_rng(2), 256, 40, 4)
    sam = DiscSam()
    masks = peaks(discs((256, 256), centres, 20), sam, diameter_px=28)
    assert sum(sam.batches) == len(centres)
    assert max(sam.batches) <= points_per_batch
    assert len(masks) == len(centres)
    assert max(nearest(masks, centres)) < 0.7


def test_peaks_asks_for_a_plausible_area():
    plane = discs((256, 256), [(60, 70), (150, 150)], 20)
    assert len(peaks(plane, DiscSam(radius=10), diameter_px=28)) == 2
    assert len(peaks(plane, DiscSam(radius=18), diameter_px=28)) == 0
    assert len(peaks(plane, DiscSam(radius=18), diameter_px=28, expected_area=np.pi * 18**2)) == 2
    assert len(peaks(plane, DiscSam(radius=3), diameter_px=28)) == 0
    assert len(peaks(plane, DiscSam(radius=10, iou=lambda p: -0.1), diameter_px=28)) == 0


def test_overlapping_masks_share_no_pixel():
    centres = [(100, 100), (126, 100)]
    sam = DiscSam(radius=15, iou=lambda points: 0.8 + 0.1 * (points[:, 0] > 110))
    masks = peaks(discs((256, 256), centres, 20), sam, diameter_px=30)
    assert masks.score == pytest.approx([0.9, 0.8])
    assert masks.x[0] == pytest.approx(126, abs=0.5)
    assert masks.area[0] == pytest.approx(np.pi * 15**2, rel=0.03)
    both = np.zeros((256, 256), bool)
    yy, xx = np.mgrid[:256, :256]
    for x, y in centres:
        both |= (xx - x) ** 2 + (yy - y) ** 2 <= 15**2
    assert masks.area.sum() == pytest.approx(both.sum(), rel=0.03)
    assert masks.area[1] < masks.area[0]


def test_duplicates_keep_the_best():
    def row(score, start, end):
        return Instance(score, np.zeros(end - start, np.intp), np.arange(start, end))

    kept = without_overlaps([row(0.5, 0, 10), row(0.9, 3, 13), row(0.7, 12, 20), row(0.6, 0, 5)], (1, 30))
    assert [(one.score, one.x.min(), one.x.max()) for one in kept] == [(0.9, 3, 12), (0.7, 13, 19), (0.6, 0, 2)]


def test_a_large_map_is_taken_in_tiles():
    rng = np.random.default_rng(4)
    centres = lattice(rng, 700, 45, 8)
    sam = DiscSam(img_size=256)
    masks = peaks(discs((700, 700), centres, 20), sam, diameter_px=28)
    assert len(sam.encoded) == 16
    assert {tuple(image.shape) for image in sam.encoded} == {(1, 3, 256, 256)}
    assert len(masks) == len(centres) == sum(sam.batches)
    assert max(nearest(masks, centres)) < 0.7
    assert masks.area == pytest.approx(np.pi * 100, rel=0.08)

    sam = DiscSam(img_size=256)
    assert len(peaks(discs((700, 700), [(30, 40), (690, 690)], 20), sam, diameter_px=28)) == 2
    assert len(sam.encoded) == 2


@pytest.mark.parametrize(
    ("shape", "size", "margin"), [((700, 700), 256, 31), ((401, 100), 256, 200), ((257, 2000), 512, 40)]
)
def test_tiles_own_every_pixel_once(shape, size, margin):
    owned = np.zeros(shape, int)
    rows, columns = np.indices(shape).reshape(2, -1)
    for tile in prompts.tiles(shape, size, margin):
        mine = tile.owns(rows, columns)
        owned[rows[mine], columns[mine]] += 1
        assert 0 <= tile.y0 < tile.y1 <= shape[0] and 0 <= tile.x0 < tile.x1 <= shape[1]
        assert max(tile.y1 - tile.y0, tile.x1 - tile.x0) <= size
        top, bottom, left, right = tile.core
        clear = min(margin, size // 4)
        assert tile.y0 == 0 or top - tile.y0 >= clear
        assert tile.x1 == shape[1] or tile.x1 - right >= clear
        assert tile.x0 == 0 or left - tile.x0 >= clear
        assert tile.y1 == shape[0] or tile.y1 - bottom >= clear
    assert (owned == 1).all()


def test_without_peaks_sam_does_not_run():
    sam = DiscSam()
    assert len(peaks(np.zeros((100, 120), np.float32), sam, diameter_px=20)) == 0
    assert not sam.encoded


@pytest.mark.parametrize("shape", [(64, 64), (90, 70), (33, 51)])
def test_windows_are_cut_from_what_sam_would_give(shape):
    sam = tiny_sam()
    used = segment_anything_shape(shape, 64)
    logits = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    whole = sam.postprocess_masks(logits, used, shape)
    at = torch.tensor([[0, 0], [shape[1] - 1, shape[0] - 1], [20, 17], [30, 5], [2, 30]])
    matrices = tuple(prompts.upsampling(16, 64, u, n, torch.device("cpu")) for u, n in zip(used, shape))
    windows = prompts.window(logits, matrices, at, torch.arange(-12, 13), torch.zeros_like(at))
    padded = torch.nn.functional.pad(whole, (12, 12, 12, 12), value=float("-inf"))
    for i, (x, y) in enumerate(at.tolist()):
        expected = padded[i, :, y : y + 25, x : x + 25]
        torch.testing.assert_close(windows[i], expected)
        assert torch.equal(windows[i] > 0, expected > 0)


def test_a_real_sam_runs_the_same_way_twice():
    plane = discs((150, 130), [(40, 40), (90, 70), (60, 120)], 20)
    sam = tiny_sam()
    runs = [peaks(plane, sam, diameter_px=28, expected_area=900) for _ in range(2)]
    for f in ("x", "y", "area", "score", "box"):
        assert np.array_equal(getattr(runs[0], f), getattr(runs[1], f))
    assert ((runs[0].score >= 0) & (runs[0].score <= 1)).all()


def test_grid_measures_the_generators_masks():
    sam = DiscSam(radius=10, iou=lambda points: 0.95)
    plane = discs((256, 200), [(60, 60)], 20)
    masks = grid(plane, sam, points_per_side=4, points_per_batch=5, stability_score_thresh=0.5, box_nms_thresh=0.7)
    discs_only = masks.take(masks.area < 1000)
    assert len(masks) == len(discs_only) + 1  # and the mask of everything, once
    assert len(discs_only) == 16
    assert sorted(set(np.round(discs_only.x))) == [25, 75, 125, 175]
    assert discs_only.area == pytest.approx(np.pi * 100, rel=0.08)
    assert discs_only.score == pytest.approx(0.95)
    everything = masks.take(masks.area > 1000)
    assert everything.box[0].tolist() == [0, 0, 199, 255]
    assert everything.probability[0] == pytest.approx(plane.mean(), rel=1e-4)


def test_grid_without_masks():
    assert len(grid(np.zeros((60, 60), np.float32), tiny_sam(), points_per_side=2, pred_iou_thresh=9.0)) == 0


def test_run_lengths():
    rng = np.random.default_rng(0)
    masks = rng.random((6, 9, 14)) < 0.5
    masks[0], masks[1] = False, True
    for mask, encoded in zip(masks, mask_to_rle_pytorch(torch.as_tensor(masks))):
        plane = np.zeros((9, 14), bool)
        plane[segment._runs(encoded)] = True
        assert np.array_equal(plane, mask)


def test_memory_that_runs_out_makes_smaller_batches_of_the_grid(monkeypatch):
    sam, plane = tiny_sam(), discs((64, 64), [(20, 30), (45, 40)], 12)
    how = {"points_per_side": 4, "pred_iou_thresh": -9.0, "stability_score_thresh": 0.0}
    expected = grid(plane, sam, **how)
    decode, sizes = sam.mask_decoder.forward, []

    def short_of_memory(**given):
        sizes.append(len(given["sparse_prompt_embeddings"]))
        if sizes[-1] > 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return decode(**given)

    monkeypatch.setattr(sam.mask_decoder, "forward", short_of_memory)
    found = grid(plane, sam, **how)
    assert len(found) == len(expected) > 0 and sizes[-1] <= 5
    assert found.area == pytest.approx(expected.area)
