"""Simulated crops rendered on a GPU that is not there: nothing mixes devices, and the crops are those of the CPU."""

from __future__ import annotations

import numpy as np

from cryosegnet_ext.training.crops_on_device import CropRenderer, draw_crop_to_render, on_device
from cryosegnet_ext.training.synthetic import lumpy_stack
from tests.fake_cuda import fake_cuda


def test_crops_are_rendered() -> None:
    stacks = [lumpy_stack(i) for i in range(2)]
    samples = [draw_crop_to_render(stacks, 96, seed, np.random.default_rng(seed)) for seed in range(24)]
    expected = on_device(samples, CropRenderer(stacks, "cpu"), 0)
    with fake_cuda():
        found = [part.cpu().numpy() for part in on_device(samples, CropRenderer(stacks, "cuda:0"), 0)]
    for here, there in zip(expected, found):
        assert np.array_equal(here.numpy(), there)
