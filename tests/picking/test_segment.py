"""Masks from synthetic probability maps, where the right answer is known."""

from __future__ import annotations

import heapq
import time

import cv2
import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam
from segment_anything.utils.amg import mask_to_rle_pytorch

from cryosegnet_ext.picking import prompts, segment
from cryosegnet_ext.picking.masks import Instance, Masks, without_overlaps
from cryosegnet_ext.picking.segment import (
    _flood,
    _peaks_of,
    find_peaks,
    grid,
    peaks,
    smoothed,
    watershed,
)
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


def test_separated_discs_are_measured():
    centres = [(40, 30), (100, 35), (60, 90), (130, 110)]
    masks = watershed(discs((150, 170), centres, 28), diameter_px=40)
    assert len(masks) == 4
    assert max(nearest(masks, centres)) < 0.6
    assert masks.area == pytest.approx(np.pi * 14**2, rel=0.08)
    assert masks.box[:, 2:] == pytest.approx(28, abs=2)
    assert masks.score == pytest.approx(masks.probability)
    assert (masks.probability > 0.9).all()


@pytest.mark.parametrize("diameter", [9, 20, 40, 80])
def test_touching_discs_are_kept_apart(diameter):
    gap = 0.75 * diameter
    centres = [(60 + gap * np.cos(a), 60 + gap * np.sin(a)) for a in np.arange(6) * np.pi / 3] + [(60, 60)]
    centres = [(x * 1.0 + diameter, y + diameter) for x, y in centres]
    n = int(120 + 2 * diameter)
    masks = watershed(discs((n, n), centres, 0.7 * diameter, blur=0.04 * diameter), diameter_px=diameter)
    assert len(masks) == 7
    assert max(nearest(masks, centres)) < 0.05 * diameter + 0.5


def test_overlapping_blobs_are_cut_at_the_valley():
    y, x = np.mgrid[:80, :120]
    left = np.exp(-((x - 45) ** 2 + (y - 40) ** 2) / (2 * 9**2))
    right = 0.9 * np.exp(-((x - 72) ** 2 + (y - 40) ** 2) / (2 * 9**2))
    plane = np.maximum(left, right).astype(np.float32)
    masks = watershed(plane, diameter_px=36, level=0.2)
    assert len(masks) == 2
    assert masks.x[0] < 58 < masks.x[1]
    last_left, first_right = masks.box[0, 0] + masks.box[0, 2], masks.box[1, 0]
    assert first_right == pytest.approx(last_left + 1, abs=2)


def test_noise_makes_no_particles_and_loses_none():
    rng = np.random.default_rng(3)
    centres = lattice(rng, 400, 50, 6)
    clean = discs((400, 400), centres, 25)
    noisy = np.clip(0.85 * clean + rng.normal(0.04, 0.08, clean.shape), 0, 1).astype(np.float32)
    masks = watershed(noisy, diameter_px=36)
    assert len(masks) == len(centres)
    assert max(nearest(masks, centres)) < 2
    assert len(watershed(np.clip(rng.normal(0.02, 0.03, (400, 400)), 0, 1), diameter_px=36)) == 0


@pytest.mark.parametrize("angle", [0, 30, 90, 135])
@pytest.mark.parametrize("blur", [0, 2])
def test_an_ellipse_has_one_seed(angle, blur):
    plane = np.zeros((120, 120), np.float32)
    cv2.ellipse(plane, (60, 60), (22, 11), angle, 0, 360, 1.0, -1)
    if blur:
        plane = cv2.GaussianBlur(plane, (0, 0), blur)
    masks = watershed(plane, diameter_px=36)
    assert len(masks) == 1
    assert (masks.x[0], masks.y[0]) == pytest.approx((60, 60), abs=1)


def test_a_faint_particle_keeps_a_mask():
    plane = discs((100, 160), [(50, 50)], 26) + discs((100, 160), [(110, 50)], 26, value=0.3)
    masks = watershed(plane, diameter_px=36)
    assert len(masks) == 2
    assert masks.area[1] == pytest.approx(masks.area[0], rel=0.1)
    assert masks.score[1] < 0.35
    assert len(watershed(plane, diameter_px=36, floor=0.4)) == 1


def test_maps_without_particles():
    for plane in (np.zeros((50, 60)), np.full((50, 60), 0.05), np.full((50, 60), np.nan), np.zeros((1, 1))):
        masks = watershed(plane.astype(np.float32), diameter_px=12)
        assert len(masks) == 0
        assert masks.box.shape == (0, 4)
    lone = np.zeros((40, 40), np.float32)
    lone[20, 20] = 1
    assert len(watershed(lone, diameter_px=30)) == 0


def test_a_saturated_map_is_one_mask_that_touches_the_edge():
    masks = watershed(np.ones((50, 61), np.float32), diameter_px=40)
    assert len(masks) == 1
    assert masks.box[0].tolist() == [0, 0, 60, 49]
    assert masks.area[0] == 50 * 61
    assert (masks.x[0], masks.y[0]) == pytest.approx((30, 24.5))


def test_a_single_pixel_is_measured_as_a_disc():
    lone = np.zeros((15, 15), np.float32)
    lone[7, 4] = 1
    masks = watershed(lone, diameter_px=3)
    assert (masks.x[0], masks.y[0], masks.area[0]) == (4, 7, 1)
    assert masks.box[0].tolist() == [4, 7, 0, 0]


def test_discs_cut_by_the_border():
    centres = [(2, 40), (117, 60), (60, 1), (60, 98), (60, 50)]
    masks = watershed(discs((100, 120), centres, 26), diameter_px=36)
    assert len(masks) == 5
    inside = np.hypot(masks.x - 60, masks.y - 50) < 2
    x, y, w, h = masks.box.T
    at_border = (x == 0) | (y == 0) | (x + w == 119) | (y + h == 99)
    assert at_border.tolist() == (~inside).tolist()


def test_the_flood_is_the_plain_watershed():
    """The spanning forest against a flood that takes pixels one by one, highest first."""
    rng = np.random.default_rng(5)
    plane = np.clip(discs((90, 110), lattice(rng, 90, 22, 4), 15, blur=2) + rng.normal(0, 0.05, (90, 110)), 0, 1)
    smooth = smoothed(plane.astype(np.float32), 20)
    rows, columns, values = _peaks_of(smooth, 20, 0.1)
    levels = np.minimum(0.5, 0.5 * values)
    y, x, instance = _flood(smooth, rows, columns, levels, 20)
    fast = np.full(smooth.shape, -1)
    fast[y, x] = instance

    owner = np.full(smooth.shape, -1)
    bottleneck = np.zeros(smooth.shape)
    queue = [(-float(smooth[r, c]), r, c, i, float(smooth[r, c])) for i, (r, c) in enumerate(zip(rows, columns))]
    heapq.heapify(queue)
    while queue:
        _, r, c, i, lowest = heapq.heappop(queue)
        if owner[r, c] >= 0:
            continue
        owner[r, c], bottleneck[r, c] = i, lowest
        for v, u in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
            if 0 <= v < 90 and 0 <= u < 110 and owner[v, u] < 0:
                low = min(lowest, float(smooth[v, u]))
                heapq.heappush(queue, (-low, v, u, i, low))
    slow = np.where(bottleneck >= levels[owner], owner, -1)
    assert len(rows) > 8
    assert (fast == slow).mean() > 0.999


def test_peaks_are_ordered_and_apart():
    rng = np.random.default_rng(8)
    plane = cv2.GaussianBlur(rng.random((200, 200), np.float32), (0, 0), 4)
    plane = (plane - plane.min()) / np.ptp(plane)
    rows, columns, values = find_peaks(plane, diameter_px=30)
    assert (np.diff(values) <= 0).all()
    distance = np.hypot(*(np.subtract.outer(v, v) for v in (rows, columns)))
    assert distance[~np.eye(len(rows), dtype=bool)].min() >= 0.4 * 30


def test_the_map_is_not_changed_and_the_order_does_not_depend_on_it():
    plane = discs((100, 100), [(30, 30), (70, 70)], 26)
    plane[0, 0] = np.nan
    before = plane.copy()
    a, b = watershed(plane, diameter_px=36), watershed(np.asfortranarray(plane).astype(np.float64), diameter_px=36)
    assert np.array_equal(plane, before, equal_nan=True)
    assert np.array_equal(a.x, b.x)
    assert len(a.take([1])) == 1
    assert a.take(a.x > 50).x[0] == pytest.approx(70, abs=0.1)


def test_bad_arguments():
    with pytest.raises(ValueError, match="plane"):
        watershed(np.zeros((3, 4, 5), np.float32), diameter_px=3)
    with pytest.raises(ValueError, match="diameter"):
        watershed(np.zeros((3, 4), np.float32), diameter_px=0)
    assert len(Masks.empty()) == 0


def test_a_whole_micrograph_is_fast():
    rng = np.random.default_rng(0)
    centres = lattice(rng, 1300, 48, 6)
    plane = np.zeros((1300, 1300), np.float32)
    for x, y in centres:
        cv2.circle(plane, (x, y), 14, 1.0, -1)
    plane = np.clip(cv2.GaussianBlur(plane, (0, 0), 3) + rng.normal(0, 0.03, plane.shape), 0, 1).astype(np.float32)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        masks = watershed(plane, diameter_px=38)
        seconds.append(time.process_time() - start)
    assert len(masks) == len(centres) > 600
    assert min(seconds) < 2  # about 0.35 s on one core


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
def test_batches_do_not_matter(points_per_batch):
    centres = lattice(np.random.default_rng(2), 256, 40, 4)
    sam = DiscSam()
    masks = peaks(discs((256, 256), centres, 20), sam, diameter_px=28, points_per_batch=points_per_batch)
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
    assert len(peaks(plane, DiscSam(radius=10, iou=lambda p: 0.7), diameter_px=28, min_iou=0.8)) == 0


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
    windows = prompts.window(logits, matrices, at, torch.arange(-12, 13))
    padded = torch.nn.functional.pad(whole, (12, 12, 12, 12), value=float("-inf"))
    for i, (x, y) in enumerate(at.tolist()):
        expected = padded[i, :, y : y + 25, x : x + 25]
        torch.testing.assert_close(windows[i], expected)
        assert torch.equal(windows[i] > 0, expected > 0)


def segment_anything_shape(shape, size):
    from segment_anything.utils.transforms import ResizeLongestSide

    return ResizeLongestSide.get_preprocess_shape(*shape, size)


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
