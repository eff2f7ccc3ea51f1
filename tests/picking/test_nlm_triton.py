"""Non-local means as a Triton kernel: its numbers in Triton's interpreter, and what happens where it does not work."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from cryosegnet_ext.picking import nlm
from tests.fake_cuda import There, fake_cuda
from tests.picking.images import noise, stretched

with_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


@pytest.mark.slow
@with_triton
def test_it_is_opencvs_and_the_torch_path_bit_for_bit() -> None:
    words = [sys.executable, "-m", "tests.picking.nlm_interpreted"]
    done = subprocess.run(words, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert len(rows) == 8
    assert all(row[3:] == ["0", "0"] for row in rows), done.stdout
    assert sum(float(row[2]) > 0.5 for row in rows) == 5


@pytest.fixture
def image(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setattr(nlm, "_kernel_works", None)
    return stretched(noise((150, 33), seed=4))


def denoised(image: np.ndarray) -> np.ndarray:
    with fake_cuda():
        return nlm.non_local_means(torch.from_numpy(image).to("cuda:0"), 30, 5, 7).cpu().numpy()


def on_the_cpu(image: np.ndarray) -> np.ndarray:
    return nlm.non_local_means(torch.from_numpy(image), 30, 5, 7).numpy()


def wrong(image: torch.Tensor, *_: object) -> torch.Tensor:
    return torch.zeros_like(image)


def raising(error: Exception) -> object:
    def one_kernel(*_: object) -> torch.Tensor:
        raise error

    return one_kernel


@with_triton
@pytest.mark.parametrize(
    ("one_kernel", "said"),
    [
        # without a driver it is not launched
        (None, ""),
        (raising(RuntimeError("no C compiler\nmore")), "(RuntimeError: no C compiler)"),
        (raising(AssertionError()), "(AssertionError: no message)"),
        (wrong, "(ArithmeticError: its result is wrong)"),
    ],
    ids=["launch", "compile", "no message", "wrong"],
)
def test_where_it_does_not_work_the_torch_path_is_used_and_one_line_says_so(
    image: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    one_kernel: object,
    said: str,
) -> None:
    if one_kernel is not None:
        monkeypatch.setattr("cryosegnet_ext.picking.nlm_triton.one_kernel", one_kernel)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert np.array_equal(denoised(image), on_the_cpu(image))
    assert len(caplog.messages) == 1 and "Triton" in caplog.text and said in caplog.text


def test_without_triton_the_torch_path_is_used_and_one_line_says_so(
    image: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "cryosegnet_ext.picking.nlm_triton", raising=False)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert np.array_equal(denoised(image), on_the_cpu(image))
    assert len(caplog.messages) == 1 and "ModuleNotFoundError" in caplog.text


@with_triton
@pytest.mark.parametrize("shape", [(150, 33), (134, 135), (20, 300)], ids=str)
def test_a_right_result_is_used_and_checked_once(
    image: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, shape: tuple[int, int]
) -> None:
    image = stretched(noise(shape, seed=5))
    right, calls = on_the_cpu(image), []
    by_shifts = nlm.by_shifts
    monkeypatch.setattr("cryosegnet_ext.picking.nlm_triton.one_kernel", lambda *_: There(torch.from_numpy(right)))
    monkeypatch.setattr(nlm, "by_shifts", lambda *given: calls.append(given[0].shape) or by_shifts(*given))
    for _ in range(2):
        assert np.array_equal(denoised(image), right)
    assert len(calls) == 1 and max(calls[0]) <= 128 + 5 and not caplog.messages


@with_triton
def test_a_lack_of_memory_is_not_a_fault_of_the_kernel(image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory.")
    monkeypatch.setattr("cryosegnet_ext.picking.nlm_triton.one_kernel", raising(error))
    with pytest.raises(torch.OutOfMemoryError):
        denoised(image)
    assert nlm._kernel_works is None
