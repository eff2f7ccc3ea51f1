"""Is a compiled or frozen U-Net faster on this CPU than the plain one? Processor seconds, taken in turns.

    python -m benchmarks.speed.compiled_unet

The three run one after the other in every round, so that a busy machine is as unkind to each. The first column is what
making the graph costs, once a process and once a size of image; the last is how far the map moves from the plain one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cryosegnet_ext.networks.unet import AttentionUNet
from cryosegnet_ext.weights import load_unet


def ways(model: AttentionUNet, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The same network in three ways; each gives the logits of ``x`` (1, 1, h, w)."""
    mixed = {"device_type": "cpu", "dtype": torch.bfloat16}
    compiled = torch.compile(model)
    with torch.inference_mode(), torch.autocast(**mixed, cache_enabled=False):
        frozen = torch.jit.freeze(torch.jit.trace(model, x))

    def plain() -> Tensor:
        with torch.inference_mode(), torch.autocast(**mixed):
            return model(x)

    def with_compile() -> Tensor:
        with torch.inference_mode(), torch.autocast(**mixed):
            return compiled(x)

    def with_freeze() -> Tensor:
        with torch.inference_mode():
            return frozen(x)

    return {"plain": plain, "torch.compile": with_compile, "traced and frozen": with_freeze}


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--side", type=int, default=768, help="of the image, pixels")
    ap.add_argument("--repeats", type=int, default=9)
    ap.add_argument("--threads", type=int, default=1)
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    model, _ = load_unet("default")
    model = model.eval().to(memory_format=torch.channels_last)
    x = torch.randn(1, 1, a.side, a.side, generator=torch.Generator().manual_seed(0))
    found = ways(model, x.contiguous(memory_format=torch.channels_last))
    first: dict[str, float] = {}
    for name, run in found.items():
        start = time.monotonic()
        run()
        first[name] = time.monotonic() - start
        run()
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(a.repeats):
        for name, run in found.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    usual = float(np.median(times["plain"]))
    truth = torch.sigmoid(found["plain"]().float())
    print("| U-Net | first run, s | processor time, relative to plain | largest change of the map |\n|---|---|---|---|")
    for name, run in found.items():
        change = float((torch.sigmoid(run().float()) - truth).abs().max())
        print(f"| {name} | {first[name]:.1f} | {np.median(times[name]) / usual:.2f} | {change:.4f} |")


if __name__ == "__main__":
    main()
