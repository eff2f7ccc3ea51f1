"""How fast: every stage, against the published pipeline written plainly, and against what the machine can do.

    python -m benchmarks.speed.speed                                   # everything, about 10 minutes on two cores
    python -m benchmarks.speed.speed --stages "plain *" "ours *"       # some of it
    python -m benchmarks.speed.speed --device cuda --sam sam_vit_h_4b8939.pth
    python -m benchmarks.speed.speed --topaz-python topaz/bin/python   # Topaz beside it, in its own environment

One micrograph, made of the sample of `cryosegnet demo` by reflection and noise. Each stage runs in a process of its
own, so that its peak memory is its own; repeats of all stages take turns, and the least time counts, so that other load
on the machine bears on all alike. The plain generator runs once: it takes minutes. Weights that cannot be shipped are
random of the same shape, which changes neither operations nor bytes (`plain_pipeline.sam` says what it does change);
the map that SAM is shown is the built-in network's.

The last columns say what bounds a stage on this machine: its operations at the rate of matrix products measured in the
same run, or the bytes it must read and write at the bandwidth of a copy, whichever takes longer; and how many times
that limit the stage takes. The operations of `peaks` are those of segment-anything's own decoder, of which ours does a
part.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from benchmarks.speed import speed_stages


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--size", type=int, default=4096, help="side of the micrograph, pixels")
    ap.add_argument("--repeats", type=int, default=2)
    ap.add_argument("--stages", nargs="*", default=["*"], help="names or patterns of stages")
    ap.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    ap.add_argument("--sam", type=Path, help="a SAM file; without it a ViT-B of random weights")
    ap.add_argument("--topaz-python", type=Path, help="the Python of an environment that has Topaz")
    ap.add_argument("--list", action="store_true", help="list the stages and end")
    ap.add_argument("--worker", help=argparse.SUPPRESS)
    ap.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    a = ap.parse_args()
    if a.list:
        print("\n".join(speed_stages.STAGES))
    elif a.worker:
        print(json.dumps(work(a)))
    else:
        measure(a)


def work(a: argparse.Namespace) -> dict[str, object]:
    """One stage in this process: wall and processor seconds, peak memory, operations and bytes."""
    import torch

    torch.set_num_threads(a.threads)
    stage = speed_stages.STAGES[a.worker]
    context = speed_stages.Context(a.folder, a.device, a.sam)
    cuda = a.device.startswith("cuda")
    prepare = speed_stages.ON_GPU.get(a.worker, stage.prepare) if cuda else stage.prepare
    run = prepare(context)
    if not stage.once:
        run()  # memory pools, kernels' choice
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    reset = forget_peak()
    before = peak_mb()
    wall, cpu = time.perf_counter(), processor_seconds()
    note = run()
    if cuda:
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter() - wall, processor_seconds() - cpu
    cost = stage.cost(context) if stage.cost else None
    return {
        "wall": wall,
        "cpu": cpu,
        "peak_mb": peak_mb(),
        "own_mb": peak_mb() - before if reset else None,
        "gpu_mb": torch.cuda.max_memory_allocated() / 2**20 if cuda else None,
        "note": note,
        "cost": cost,
    }


def processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def forget_peak() -> bool:
    """Start the peak of this process's memory anew (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return True
    return False


def peak_mb() -> float:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return float(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def machine(device: str, threads: int) -> dict[str, float]:
    """Bandwidth of a copy (bytes read and written, per second) and rates of matrix products (operations per second)."""
    import torch

    torch.set_num_threads(threads)
    there = torch.device(device)

    def least(work) -> float:
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            work()
            if there.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    source = torch.ones(2**26, device=there)
    target = torch.empty_like(source)
    found = {"copy": 2 * 4 * 2**26 / least(lambda: target.copy_(source))}
    n = 2048 if there.type == "cpu" else 8192
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        x = torch.randn(n, n, device=there).to(dtype)
        y = torch.randn(n, n, device=there).to(dtype)
        found[name] = 2 * n**3 / least(lambda x=x, y=y: x @ y)
    return found


def measure(a: argparse.Namespace) -> None:
    names = [name for name in speed_stages.STAGES if any(fnmatch(name, pattern) for pattern in a.stages)]
    with tempfile.TemporaryDirectory(prefix="speed-") as folder:
        a.folder = Path(folder)
        speed_stages.make_inputs(a.folder, a.size)
        found: dict[str, list[dict]] = {name: [] for name in names}
        topaz: list[float] = []
        load = [os.getloadavg()[0]]
        for repeat in range(a.repeats):
            for name in names:
                if repeat and speed_stages.STAGES[name].once:
                    continue
                print(f"{repeat + 1}/{a.repeats} {name}", file=sys.stderr, flush=True)
                found[name].append(in_process(a, name))
            if a.topaz_python:
                print(f"{repeat + 1}/{a.repeats} Topaz", file=sys.stderr, flush=True)
                topaz.append(speed_stages.topaz_seconds(a.topaz_python, a.folder, a.device, a.threads))
            load.append(os.getloadavg()[0])
        rates = machine(a.device, a.threads)
    report(a, names, found, topaz, rates, load)


def in_process(a: argparse.Namespace, name: str) -> dict:
    command = [
        sys.executable,
        "-m",
        "benchmarks.speed.speed",
        "--worker",
        name,
        "--folder",
        str(a.folder),
        "--device",
        a.device,
    ]
    command += ["--threads", str(a.threads), *(["--sam", str(a.sam.resolve())] if a.sam else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": str(a.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=speed_stages.ROOT)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def report(a, names, found, topaz, rates, load) -> None:
    wall = {name: min(one["wall"] for one in found[name]) for name in names}
    cpu = {name: min(one["cpu"] for one in found[name]) for name in names}
    sam = a.sam.name if a.sam else "ViT-B, random weights"
    print(
        f"{a.size} x {a.size}, {a.device}, {a.threads} threads, SAM: {sam}; copy {rates['copy'] / 1e9:.1f} GB/s, "
        f"matrix products fp32 {rates['fp32'] / 1e9:.0f} and bf16 {rates['bf16'] / 1e9:.0f} GFLOP/s; "
        f"load average {min(load):.1f} to {max(load):.1f}\n"
    )
    print("| stage | s | processor s | peak MB | of the stage itself, MB | GFLOP | GB | limit, s | times the limit | |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in names:
        one = min(found[name], key=lambda r: r["wall"])
        peak = max(r["peak_mb"] for r in found[name])
        own = "" if one["own_mb"] is None else f"{max(r['own_mb'] for r in found[name]):.0f}"
        if one["cost"]:
            flops, size, kind = one["cost"]
            limit = max(flops / rates[kind], size / rates["copy"])
            limits = f"{flops / 1e9:.1f} | {size / 1e9:.2f} | {limit:.3f} | {wall[name] / limit:.1f}"
        else:
            limits = " | | | "
        gpu = f"{one['gpu_mb']:.0f} MB of GPU; " if one["gpu_mb"] else ""
        note = gpu + (one["note"] or "")
        print(f"| {name} | {wall[name]:.2f} | {cpu[name]:.2f} | {peak:.0f} | {own} | {limits} | {note} |")
    if topaz:
        print(f"| Topaz: preprocess and extract, general model | {min(topaz):.2f} | | | | | | | | a micrograph |")
    whole = [name for name in speed_stages.PLAIN if name in wall]
    if len(whole) == len(speed_stages.PLAIN):
        plain, plain_cpu = sum(wall[name] for name in whole), sum(cpu[name] for name in whole)
        print(f"\nThe plain published pipeline: {plain:.1f} s ({plain_cpu:.1f} processor s) for a micrograph.")
        for name in names:
            if name.startswith("ours whole"):
                print(f"{name}: {plain / wall[name]:.0f} times faster ({plain_cpu / cpu[name]:.0f} by processor time).")
    for name in names:
        if name.startswith("ours peaks") and "plain generator" in wall:
            ratio, by_cpu = wall["plain generator"] / wall[name], cpu["plain generator"] / cpu[name]
            print(f"{name}: {ratio:.1f} times faster than the plain generator ({by_cpu:.1f} by processor time).")


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
