"""How long picking a micrograph takes, against OpenCV's non-local means of the same micrograph.

    python -m benchmarks.speed.against_nlm --without-bf16
    python -m benchmarks.speed.against_nlm --without-bf16 --other OLDER_CHECKOUT

From file to picks, size given, models loaded; 4096 x 4096 pixels, the micrograph of `benchmarks.speed.speed`. Non-local
means with the arguments of the published recipe, which is most of its denoising, tells how fast the machine is. Each
measurement is a process of its own that works once to warm up and then counts. They take turns, so that other load on
the machine bears on all alike; the ratio is taken turn by turn. ``--without-bf16`` measures what a processor without
bf16 units does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--size", type=int, default=4096, help="side of the micrograph, pixels")
    ap.add_argument("--repeats", type=int, default=3)
    ap.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    ap.add_argument("--without-bf16", action="store_true")
    ap.add_argument("--other", type=Path, help="a checkout of another version, measured too")
    ap.add_argument("--worker", choices=("ours", "nlm"), help=argparse.SUPPRESS)
    ap.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    a = ap.parse_args()
    if a.worker:
        print(json.dumps(measured({"ours": ours, "nlm": nlm}[a.worker](a))))
        return
    from benchmarks.speed.speed_stages import make_inputs

    places = {"OpenCV's non-local means": ROOT, "ours": ROOT} | ({"other version": a.other} if a.other else {})
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in places}
    with tempfile.TemporaryDirectory(prefix="speed-") as folder:
        make_inputs(Path(folder), a.size)
        for _ in range(a.repeats):
            for name, root in places.items():
                found[name].append(in_process(a, "nlm" if name.startswith("OpenCV") else "ours", folder, root))
    print("| | s, least | processor s, least | peak MB | s / OpenCV, median | processor s / OpenCV, median |")
    print("|---|---|---|---|---|---|")
    reference = np.array(found["OpenCV's non-local means"])
    for name, rows in found.items():
        table = np.array(rows)
        ratio = np.median(table[:, :2] / reference[:, :2], axis=0)
        least, peak = table.min(0), table[:, 2].max()
        print(f"| {name} | {least[0]:.2f} | {least[1]:.2f} | {peak:.0f} | {ratio[0]:.2f} | {ratio[1]:.2f} |")


def in_process(a: argparse.Namespace, worker: str, folder: str, root: Path) -> tuple[float, float, float]:
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", worker, "--folder", folder]
    command += ["--threads", str(a.threads), *(["--without-bf16"] if a.without_bf16 else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": str(a.threads), "PYTHONPATH": str(root)}
    if a.without_bf16:
        environment["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_VNNI"
    done = subprocess.run(command, env=environment, cwd=folder, text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{worker} of {root} failed:\n{done.stderr[-3000:]}")
    wall, cpu, peak = json.loads(done.stdout.splitlines()[-1])
    return wall, cpu, peak


def ours(a: argparse.Namespace) -> Callable[[], object]:
    from cryosegnet_ext import Picker, read_micrograph
    from cryosegnet_ext.networks import precision

    if a.without_bf16:
        precision._avx512_bf16 = lambda: False  # type: ignore[assignment]
    picker, size = Picker(device="cpu"), float((a.folder / "diameter.txt").read_text())
    return lambda: picker.pick(read_micrograph(a.folder / "mic.mrc"), size)


def nlm(a: argparse.Namespace) -> Callable[[], object]:
    import cv2
    import mrcfile

    cv2.setNumThreads(a.threads)
    image = cv2.GaussianBlur(mrcfile.read(a.folder / "mic.mrc"), (9, 9), 0)
    image = ((image - image.min()) / np.ptp(image) * 255).astype(np.uint8)
    return lambda: cv2.fastNlMeansDenoising(image, None, 10, 7, 21)


def measured(work: Callable[[], object]) -> tuple[float, float, float]:
    """Seconds and processor seconds of the second time, and this process's peak memory in MB."""
    work()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return wall, cpu, float(peak.split()[1]) / 1024


if __name__ == "__main__":
    main()
