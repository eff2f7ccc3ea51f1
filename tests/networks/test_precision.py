"""The precision of networks: by the device, by a block, the same in all threads."""

from __future__ import annotations

import threading

import pytest
import torch

from cryosegnet_ext.networks import precision

CPU, GPU = torch.device("cpu"), torch.device("cuda:1")


@pytest.mark.parametrize("kind", ["float32", "bf16", "float16"])
def test_a_block_decides_for_all_threads(kind: str) -> None:
    before = precision.precision_on(CPU)
    found = []
    with precision.all_in(kind):
        thread = threading.Thread(target=lambda: found.append(precision.precision_on(CPU)))
        thread.start()
        thread.join()
        with precision.mixed(CPU):
            product = torch.ones(4, 4) @ torch.ones(4, 4)
    assert found == [kind]
    assert product.dtype == {"float32": torch.float32, "bf16": torch.bfloat16, "float16": torch.float16}[kind]
    assert precision.precision_on(CPU) == before


def test_threads_do_not_share_converted_weights() -> None:
    """Their streams do not wait for each other: one would read weights that another is still writing."""
    with precision.all_in("bf16"), precision.mixed(CPU):
        assert not torch.is_autocast_cache_enabled()


@pytest.mark.parametrize("major, expected", [(7, "float32"), (8, "bf16"), (9, "bf16")])
def test_bf16_is_used_where_that_gpu_has_units_for_it(
    monkeypatch: pytest.MonkeyPatch, major: int, expected: str
) -> None:
    """PyTorch says that GPUs of 2017 support bf16, which they emulate."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major if device == GPU else 0, 0))
    assert precision.precision_on(GPU) == expected


def test_float32_on_a_gpu_is_not_shortened() -> None:
    before = torch.backends.cudnn.allow_tf32
    with precision.all_in("float32"):
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before
