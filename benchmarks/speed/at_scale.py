"""What a run over 50,000 micrographs costs beside its picking: time, memory, files, disk, going on, the report.

    python -m benchmarks.speed.at_scale [--count 50000] [--engine dask|devices|here] [--layout facility] [--output DIR]

Two workers pick small micrographs with a stand-in for the network, 289 picks each, so that the owner of the folder does
what it does for real ones. With ``--engine dask`` a scheduler with TLS runs beside it; it is killed with its workers
when half is done, and started again. Then the same command is given again, with everything done, and the folder is
measured. With ``--network`` the built-in network picks micrographs of 4096 x 4096 pixels, of 2 A, each with 500
simulated discs: take a small ``--count`` then.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import mrcfile
import numpy as np
from numpy.typing import NDArray

from benchmarks.speed.stand_in import ROOT, JournalLines, LocalDask, LocalMaxima, descendants, make_picker
from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.runs import pick_task
from cryosegnet_ext.runs.monitor import resident_bytes

#: Pixels of a micrograph, and of the cells in each of which something is picked.
SIDE, CELL = 256, 15
#: Micrographs that share a file on the disk; ext4 has at most 65,000 names for one.
SHARED = 1000
MIB = 2**20


def make_micrographs(folder: Path, count: int, network: bool) -> None:
    folder.mkdir(parents=True)
    if network:
        for number in range(count):
            with mrcfile.new(folder / f"mic_{number:06d}.mrc") as mrc:
                mrc.set_data(discs(np.random.default_rng(number)))
                mrc.voxel_size = 2.0
        return
    for number in range(count):
        path = folder / f"mic_{number:06d}.mrc"
        if number % SHARED:
            os.link(folder / f"mic_{number - number % SHARED:06d}.mrc", path)
            continue
        noise = np.random.default_rng(number).normal(size=(SIDE, SIDE)).astype(np.float32)
        with mrcfile.new(path) as mrc:
            mrc.set_data(noise + 30 * cv2.GaussianBlur(noise, (0, 0), 4))
            mrc.voxel_size = 2.0


def discs(random: np.random.Generator, side: int = 4096, count: int = 500, radius: float = 32) -> NDArray[np.float32]:
    """(side, side) dark discs in noise, with a radius in pixels, none of which overlap."""
    step = 2.4 * radius
    places = np.stack(np.meshgrid(*[np.arange(step, side - step, step)] * 2), -1).reshape(-1, 2)
    centres = random.permutation(places)[:count] + random.uniform(-0.15, 0.15, (min(count, len(places)), 2)) * radius
    picture = np.zeros((side, side), np.float32)
    for x, y in centres:
        cv2.circle(picture, (round(x), round(y)), round(radius), -1.0, -1)
    return cv2.GaussianBlur(picture, (0, 0), 4) + 2 * random.normal(size=picture.shape).astype(np.float32)


_overlays: list[bytes] = []


def make_stubbed(device: str) -> LocalMaxima:
    """A picker; the overlay is drawn once, since drawing takes most of what is left of a worker's time."""
    draw = pick_task.encode_overlay

    def drawn(data: NDArray[np.float32], picks: Picks) -> bytes:
        if not _overlays:
            _overlays.append(draw(data, picks))
        return _overlays[0]

    pick_task.encode_overlay = drawn
    return make_picker(CELL, None, device)


def work(args: argparse.Namespace) -> int:
    """One run, in a process of its own."""
    from benchmarks.speed import at_scale  # as workers import it, which "__main__" is not for them
    from cryosegnet_ext.cli.options import make_picker as make_network
    from cryosegnet_ext.facility.job import Publisher
    from cryosegnet_ext.files.inputs import expand_inputs
    from cryosegnet_ext.picking.options import PickerOptions
    from cryosegnet_ext.report.page import write_report
    from cryosegnet_ext.runs import batch
    from cryosegnet_ext.runs.engines.cluster import ClusterEngine
    from cryosegnet_ext.runs.engines.cluster_worker import MakePicker
    from cryosegnet_ext.runs.engines.processes import ProcessEngine
    from cryosegnet_ext.runs.engines.threads import engine_for
    from cryosegnet_ext.runs.journal import Record
    from cryosegnet_ext.runs.monitor import Monitor

    start = time.monotonic()
    make: MakePicker = at_scale.make_stubbed
    if args.network:
        make = functools.partial(make_network, PickerOptions(device="cpu"))
    found = expand_inputs([args.folder / "micrographs"])
    marks: dict[int, tuple[float, float, int]] = {}
    with (
        ClusterEngine(make, address=args.scheduler)
        if args.scheduler
        else ProcessEngine(make, ["cpu", "cpu"])
        if args.engine == "devices"
        else engine_for(make("cpu"))
    ) as engine:
        publish = Publisher(args.out, engine.settings) if args.layout == "facility" else None

        def watch(record: Record, finished: int, total: int) -> None:
            if publish is not None:
                publish(record, finished, total)
            if finished % (total // 10 or 1) == 0:
                marks[finished] = (time.monotonic() - start, time.process_time(), resident_bytes() or 0)

        formats = ("star",) if publish is None else ("star", "cbox")
        monitor = Monitor(args.out / "heartbeat.json", args.out / "metrics.prom")
        begin = None if publish is None else publish.check
        how = functools.partial(batch.run, begin=begin, watch=watch, monitor=monitor, progress=False)
        result = how(engine, found, args.out, formats=formats)
        restarts = engine.restarts
    picked = time.monotonic()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = time.process_time() + children.ru_utime + children.ru_stime
    write_report(args.out)
    told = {
        "seconds": picked - start,
        "cpu": cpu,
        "report": time.monotonic() - picked,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "done": result.done,
        "skipped": result.skipped,
        "failed": result.failed,
        "restarts": restarts,
        "marks": marks,
    }
    print(json.dumps(told))
    return result.exit_code


def peak_below(pids: list[int]) -> int:
    """Most memory that any process below these has had, bytes."""
    most = 0
    for pid in [one for top in pids for one in descendants(top)]:
        with contextlib.suppress(OSError, IndexError):
            status = Path(f"/proc/{pid}/status").read_text()
            most = max(most, 1024 * int(status.split("VmHWM:")[1].split()[0]))
    return most


def one_run(args: argparse.Namespace, dask: LocalDask | None, restart: bool = False) -> dict[str, Any]:
    """Run once, and kill and start Dask when half is done; what the run tells, and the most memory of a worker."""
    command = [sys.executable, "-m", "benchmarks.speed.at_scale", "--work", "--engine", args.engine]
    command += ["--layout", args.layout, "--folder", str(args.folder), "--out", str(args.out)]
    command += ["--network"] * args.network
    command += ["--scheduler", dask.address] if dask is not None else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} if dask is None else dask.environment
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    journal, worker = JournalLines(args.out), 0
    while process.poll() is None:
        time.sleep(0.2)
        worker = max(worker, peak_below([process.pid] if dask is None else dask.pids[1:]))
        if restart and dask is not None and journal.count() > args.count // 2:
            restart = False
            dask.restart()
    said = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"a run ended with {process.returncode}: {said}")
    return {**json.loads(said.splitlines()[-1]), "worker": worker}


def tell(args: argparse.Namespace, first: dict[str, Any], again: dict[str, Any]) -> None:
    """Print what was measured."""
    count, marks = args.count, [(int(at), *values) for at, values in first["marks"].items()]
    print(f"{count} micrographs, --engine {args.engine}, --layout {args.layout}, {first['restarts']} workers lost")
    for (before, wall, cpu, _), (at, wall_now, cpu_now, memory) in itertools.pairwise(marks):
        each = 1e3 * (wall_now - wall) / (at - before), 1e3 * (cpu_now - cpu) / (at - before)
        print(f"  to {at:>6}: {each[0]:.1f} ms each, {each[1]:.2f} ms of the owner's CPU, {memory / MIB:.0f} MiB")
    print(f"CPU of the owner and its processes: {first['cpu'] / count:.3f} s a micrograph")
    print(f"time: {first['seconds']:.0f} s; the same command with all done: {again['seconds']:.1f} s")
    print(f"report.html: {first['report']:.1f} s, {(args.out / 'report.html').stat().st_size / 1e6:.1f} MB")
    print(f"memory: owner {first['peak'] / MIB:.0f} MiB, with all done {again['peak'] / MIB:.0f}; ", end="")
    print(f"a worker {first['worker'] / MIB:.0f} MiB")
    files: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for path in filter(Path.is_file, args.out.rglob("*")):
        kind = path.name if path.parent.name in (".cryosegnet", args.out.name) else f"*{path.suffix}"
        status = path.stat()
        files[kind] += 1
        sizes[kind] += 0 if path.parent.name == "JPEG" and status.st_nlink > 1 else status.st_size
    for kind, number in files.most_common():
        print(f"  {number:>7} {kind:<30} {sizes[kind] / 1e6:>10.1f} MB")
    each = sizes.total() / count / 1e3
    print(f"  {files.total():>7} in all, {sizes.total() / 1e6:.0f} MB, {each:.1f} KB a micrograph")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--count", type=int, default=50_000)
    add("--engine", choices=("dask", "devices", "here"), default="dask")
    add("--layout", choices=("default", "facility"), default="default")
    add("--network", action="store_true", help="pick large micrographs with the built-in network")
    add("--output", type=Path, help="where to write (default: a temporary folder); what is there is measured again")
    add("--work", action="store_true", help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    add("--out", type=Path, help=argparse.SUPPRESS)
    add("--scheduler", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work(args)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended, and folders are removed
    with contextlib.ExitStack() as stack:
        args.folder = args.output or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="at_scale-")))
        args.out = args.folder / "out"
        if not (args.folder / "micrographs").exists():
            make_micrographs(args.folder / "micrographs", args.count, args.network)
        dask = None
        if args.engine == "dask":
            keys = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="at_scale-dask-")))
            dask = stack.enter_context(LocalDask(keys))
        first = one_run(args, dask, restart=True)
        again = one_run(args, dask)
        tell(args, first, again)
        with open(args.out / ".cryosegnet/journal.jsonl") as journal:
            names = Counter(json.loads(line).get("name", "") for line in journal)
        del names[""]  # lines of the run
        once = len(names) == names.total() == args.count
        good = once and again["skipped"] == args.count and not first["failed"]
        print("each picked exactly once" if good else "NOT each picked exactly once")
        return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
