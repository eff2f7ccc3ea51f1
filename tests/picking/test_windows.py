"""The small SAM at the peaks of a map: one mask under each, of a plausible size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.networks import memory, window_sam
from cryosegnet_ext.networks.precision import all_in
from cryosegnet_ext.picking import windows
from cryosegnet_ext.picking.options import BUILT_IN_SAM
from cryosegnet_ext.picking.segment import find_peaks
from cryosegnet_ext.weights import load_sam


class Answers:
    """In place of the network: a disc around the point, for any picture."""

    device = torch.device("cpu")

    def __init__(self, radius, iou):
        side = window_sam.SIDE // 2
        at = np.arange(side) - (side - 1) / 2
        self.disc = torch.tensor(
            np.where(np.hypot(at[:, None], at[None]) <= radius / 2, 4.0, -4.0), dtype=torch.float32
        )
        self.iou = iou

    def __call__(self, pictures):
        return self.disc.expand(len(pictures), -1, -1), torch.full((len(pictures),), self.iou)


def blobs(shape, centres, radius):
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    return np.max([np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / radius**2) for x, y in centres], axis=0).astype(np.float32)


def test_masks_lie_under_the_peaks():
    sam = Answers(11.0, 0.8)
    centres = [(40, 50), (150, 60), (100, 120), (3, 140)]
    probability = blobs((160, 200), centres, 8.0)
    area = np.pi / 4 * 22**2
    masks = windows.cut(probability, np.zeros_like(probability), sam, diameter_px=32.0, expected_area=area)
    assert len(masks) == 4
    assert masks.score == pytest.approx(0.8)
    whole = masks.x > 10
    found = sorted(zip(masks.x[whole].round(), masks.y[whole].round()))
    assert found == [(40, 50), (100, 120), (150, 60)]
    assert masks.area[whole] == pytest.approx(area, rel=0.1)
    rows, columns, _ = find_peaks(probability, diameter_px=32.0)
    assert len(rows) == 4
    assert len(columns) == 4


def test_nothing_where_the_map_has_no_peaks_or_the_masks_no_size():
    flat = np.zeros((120, 120), np.float32)
    assert len(windows.cut(flat, flat, Answers(11.0, 0.9), diameter_px=32.0, expected_area=380.0)) == 0
    sam = Answers(2.0, 0.9)
    probability = blobs((120, 120), [(60, 60)], 8.0)
    assert len(windows.cut(probability, flat, sam, diameter_px=32.0, expected_area=380.0)) == 0


def test_doubled_prompts_give_one_mask():
    sam = Answers(14.0, 0.9)
    probability = blobs((120, 120), [(50, 60), (66, 60)], 6.0)
    masks = windows.cut(probability, np.zeros_like(probability), sam, diameter_px=32.0, expected_area=616.0)
    assert len(masks) <= 2
    assert masks.area.sum() <= np.pi / 4 * (28**2) * 2


def test_memory_that_runs_out_makes_smaller_batches(caplog):
    """The picks are the same, and it is said."""
    answers = Answers(11.0, 0.8)
    centres = [(20 + 40 * i, 20 + 40 * j) for i in range(5) for j in range(3)]
    probability = blobs((140, 220), centres, 8.0)
    sizes = []

    def cut(sam):
        masks = windows.cut(probability, np.zeros_like(probability), sam, diameter_px=32.0, expected_area=380.0)
        return sorted(zip(masks.x, masks.y))

    expected = cut(answers)

    class ShortOfMemory(Answers):
        def __call__(self, pictures):
            sizes.append(len(pictures))
            if len(pictures) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().__call__(pictures)

    memory._say_once.cache_clear()
    assert cut(ShortOfMemory(11.0, 0.8)) == expected and len(expected) == 15
    assert max(sizes[-3:]) <= 4
    assert "The small SAM ran out of memory on cpu: it goes on in smaller pieces" in caplog.text

    class NoneLeft(Answers):
        def __call__(self, pictures):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(CryoSegNetError, match="The small SAM ran out of memory on cpu even with the smallest pieces"):
        cut(NoneLeft(11.0, 0.8))


def test_a_gpu_gets_as_many_windows_at_once_as_its_free_memory_holds_beside_the_others():
    assert windows.windows_at_once(None) == 8
    assert windows.windows_at_once(75 * 10**9) == windows.windows_at_once(20 * 10**9) == 1024
    sizes = [windows.windows_at_once(free) for free in (12 * 10**9, 5 * 10**9, 10**9, 10**8, 10**6, 0)]
    assert sizes == [512, 256, 32, 4, 1, 1]


def test_the_masks_are_the_same_however_many_windows_are_looked_at_at_once(monkeypatch):
    """Within rounding: places within 0.02 pixels, areas within 2 pixels, scores within 1e-4."""
    rng = np.random.default_rng(3)
    at = [(40 + 36 * i + int(rng.integers(9)), 40 + 36 * j + int(rng.integers(9))) for i in range(9) for j in range(8)]
    probability = blobs((380, 410), at, 9.0)
    image = np.clip(rng.standard_normal(probability.shape) - 3 * probability, -5, 5).astype(np.float32)
    built_in = load_sam(BUILT_IN_SAM)
    found, looked = [], []

    class Counted:
        device = torch.device("cpu")

        def __call__(self, pictures):
            looked.append(len(pictures))
            return built_in(pictures)

    for batch in (1, 7, 64, 256):
        monkeypatch.setattr(windows, "windows_at_once", lambda free, batch=batch: batch)
        with all_in("float32"):
            masks = windows.cut(probability, image, Counted(), diameter_px=32.0, expected_area=400.0)
        order = np.lexsort((masks.x.round(), masks.y.round()))
        found.append([values[order] for values in (masks.x, masks.y, masks.area, masks.score)])
    assert sorted(looked) == sorted([1] * 72 + [7] * 10 + [2] + [64, 8] + [72])
    assert len(found[0][0]) > 50
    for one in found[1:]:
        for values, expected, most in zip(one, found[0], (0.02, 0.02, 2, 1e-4)):
            assert len(values) == len(expected) and np.abs(values - expected).max() <= most
