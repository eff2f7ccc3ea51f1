"""What a device can do: rates that were measured on it, and those of its data sheet."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Card:
    """Rates of a data sheet: bytes a second of its memory, and operations a second, dense, without sparsity."""

    bandwidth: float
    bf16: float
    fp32: float


#: By what the driver's name of a card contains; the first that fits. NVIDIA's data sheets of the H200 (2024), H100
#: (2023; SXM and PCIe), A100 (2021) and L40S (2023).
CARDS = {
    "H200": Card(4.8e12, 989e12, 67e12),
    "H100 PCIe": Card(2.0e12, 756e12, 51e12),
    "H100": Card(3.35e12, 989e12, 67e12),
    "A100": Card(2.0e12, 312e12, 19.5e12),
    "L40S": Card(0.864e12, 362e12, 91.6e12),
}


def card_of(name: str) -> Card | None:
    """The card of that name; None if its data sheet is not here."""
    return next((card for part, card in CARDS.items() if part in name), None)


def seconds_of(work: Callable[[], object], device: str, repeats: int = 5, first: bool = True) -> float:
    """Median seconds of some work, after a first time that does not count; on a GPU until it is finished there."""
    taken = []
    for _ in range(repeats + first):
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        taken.append(time.perf_counter() - began)
    taken = sorted(taken[first:])
    return taken[len(taken) // 2]


def wait(device: str) -> None:
    """Until a GPU has finished what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()


def measured(device: str, small: bool) -> dict[str, float]:
    """Bytes a second of a copy (read and written), operations a second of products of random matrices."""
    source = torch.randn(2 ** (22 if small else 29 if device == "cuda" else 26), device=device)
    target = torch.empty_like(source)
    found = {"copy": 8 * source.numel() / seconds_of(lambda: target.copy_(source), device)}
    n = 256 if small else 8192 if device == "cuda" else 2048
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        x, y = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        found[name] = 2 * n**3 / seconds_of(lambda x=x, y=y: x @ y, device)
    return found
