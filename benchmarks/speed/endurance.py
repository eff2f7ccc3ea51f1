"""A long run in which everything goes wrong: each micrograph is picked once, with the result of an undisturbed run.

    python -m benchmarks.speed.endurance [--count 5000] [--seed 0] [--devices N]

Small micrographs are picked by a stand-in picker (local maxima, no network) in processes of their own, while
 - the process is killed with SIGKILL at random moments and started again,
 - the disk that it writes to is too small (a tmpfs; a limit on the size of files where none can be mounted) and is
   enlarged after each run that ended of it,
 - some micrographs vanish and come back, and
 - some are slow to read.
With --devices each run has N worker processes, which are killed at random as well. In the end the folder is compared
with that of an undisturbed run, and the journal and the memory of each process are looked at.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import mrcfile
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SIDE, CELL = 96, 16
#: One micrograph of so many vanishes for a time, and one of so many is slow to read.
VANISH, SLOW, SLOW_SECONDS = 50, 100, 0.3
#: Memory may differ by this much between the first and the last micrographs of a process.
MEMORY_BYTES = 40 * 2**20


class LocalMaxima:
    """A picker without a network: the brightest pixel of each cell."""

    settings = {"stand-in": "local maxima"}  # noqa: RUF012
    needs_diameter = True

    def estimate_diameter(self, micrographs: Sequence[object]) -> float:
        # The same whichever micrographs happened to be there.
        return 20.0

    def pick(self, micrograph: object, diameter: float | None = None) -> object:
        from cryosegnet_ext.files.picks import Picks

        data = micrograph.data
        ny, nx = (side // CELL for side in data.shape)
        cells = data[: ny * CELL, : nx * CELL].reshape(ny, CELL, nx, CELL).swapaxes(1, 2).reshape(ny, nx, -1)
        at = cells.argmax(axis=2)
        y, x = np.mgrid[:ny, :nx] * CELL + np.array([at // CELL, at % CELL])
        score = np.clip(cells.max(axis=2) / 5, 0, 1)
        return Picks(x, y, np.full(x.size, diameter), score, micrograph.pixel_size, data.shape)


def make_picker(device: str) -> LocalMaxima:
    slow_reading()
    return LocalMaxima()


def slow_reading() -> None:
    """Make some micrographs slow to read, as from a busy file server."""
    from cryosegnet_ext.files import inputs

    read = inputs.read_micrograph

    def slowly(path: Path, pixel_size: float | None = None) -> object:
        if "slow" in Path(path).name:
            time.sleep(SLOW_SECONDS)
        return read(path, pixel_size=pixel_size)

    inputs.read_micrograph = slowly


def work(args: argparse.Namespace) -> int:
    """One run: what is killed, and started again."""
    if args.largest_file:
        # A write beyond it fails as on a full disk; the signal that comes with it is ignored by Python.
        resource.setrlimit(resource.RLIMIT_FSIZE, (args.largest_file, args.largest_file))
    from cryosegnet_ext.errors import CryoSegNetError
    from cryosegnet_ext.files.inputs import Input
    from cryosegnet_ext.runs import batch
    from cryosegnet_ext.runs.engines.processes import ProcessEngine
    from cryosegnet_ext.runs.monitor import resident_bytes

    names = (args.folder / "names.txt").read_text().split()
    inputs = [Input(args.folder / "micrographs" / name, name) for name in names]
    memory: list[int] = []

    def watch(*_: object) -> None:
        memory.append(resident_bytes() or 0)

    try:
        if args.devices:
            with ProcessEngine(make_picker, ["cpu"] * args.devices) as engine:
                result = batch.run(engine, inputs, args.out, overlays=False, progress=False, watch=watch)
        else:
            result = batch.run(make_picker("cpu"), inputs, args.out, overlays=False, progress=False, watch=watch)
    except CryoSegNetError as error:
        print(error)
        return 3
    # The first micrographs bring in libraries that load when they are needed.
    settled = memory[min(200, max(5, len(memory) // 2)) :]
    if settled:
        print(json.dumps({"micrographs": len(memory), "grown": settled[-1] - settled[0]}))
    return result.exit_code


def make_micrographs(folder: Path, count: int, seed: int) -> list[str]:
    (folder / "micrographs").mkdir(parents=True)
    names = []
    for number in range(count):
        kind = "slow" if number % SLOW == 3 else "vanishing" if number % VANISH == 7 else "mic"
        names.append(f"{kind}_{number:05d}.mrc")
        data = np.random.default_rng(seed + number).normal(size=(SIDE, SIDE)).astype(np.float32)
        with mrcfile.new(folder / "micrographs" / names[-1]) as mrc:
            mrc.set_data(data)
            mrc.voxel_size = 2.0
    (folder / "names.txt").write_text("\n".join(names))
    return names


@contextlib.contextmanager
def small_disk(folder: Path, mebibytes: float, wanted: bool) -> Iterator[bool]:
    """A file system of this size; whether there could be one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={int(mebibytes * 1024)}k", "tmpfs", str(folder)]
    mounted = False
    if wanted:
        with contextlib.suppress(FileNotFoundError):
            mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


class Trouble:
    """Runs the work and disturbs it until everything is done."""

    def __init__(self, args: argparse.Namespace, folder: Path, disk: Path, mounted: bool, mebibytes: float) -> None:
        self.args, self.folder, self.out = args, folder, disk / "out"
        self.disk, self.mounted, self.mebibytes = disk, mounted, mebibytes
        self.chance = random.Random(args.seed)
        self.counts: Counter[str] = Counter()
        self.grown: list[int] = []

    def run(self) -> None:
        micrographs = self.folder / "micrographs"
        vanishing = sorted(micrographs.glob("vanishing_*"))
        away = self.folder / "away"
        away.mkdir()
        kills = max(4, self.args.count // 100)
        while True:
            early = self.counts["SIGKILL"] < kills
            gone = [path for path in vanishing if early and (not self.counts["runs"] or self.chance.random() < 0.5)]
            for path in gone:
                path.rename(away / path.name)
            self.counts["vanished"] += len(gone)
            code = self.once(kill=self.counts["SIGKILL"] < kills, back=gone, away=away)
            for path in away.iterdir():
                path.rename(micrographs / path.name)
            if code == 3:
                self.counts["full disk"] += 1
                self.enlarge()
            elif code == 0:
                return
            elif code not in (-signal.SIGKILL, 2):
                raise SystemExit(f"a run ended with {code}")
            self.counts["runs"] += 1
            if self.counts["runs"] > 40 * kills:
                raise SystemExit("no end")

    def once(self, kill: bool, back: list[Path], away: Path) -> int:
        """One process; the code it ends with."""
        command = [sys.executable, __file__, "--work", "--folder", str(self.folder), "--out", str(self.out)]
        if not self.mounted and self.counts["SIGKILL"] >= 2 and not self.counts["full disk"]:
            command += ["--largest-file", str(int(self.mebibytes * 2**20))]
        if self.args.devices:
            command += ["--devices", str(self.args.devices)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        start = self.lines()
        if kill:
            # So far it gets, and then any moment.
            share = self.chance.randint(1, max(2, self.args.count // 60))
            while process.poll() is None and self.lines() < start + share:
                time.sleep(0.02)
                if self.chance.random() < 0.1 and self.args.devices:
                    self.kill_a_worker(process.pid)
                if back and self.chance.random() < 0.1:
                    # A vanished one comes back while the run goes on.
                    path = back.pop()
                    with contextlib.suppress(OSError):
                        (away / path.name).rename(path)
            time.sleep(self.chance.random() * 0.05)
            if process.poll() is None:
                process.kill()
                self.counts["SIGKILL"] += 1
        said = process.communicate()[0]
        for line in said.splitlines():
            if line.startswith("{"):
                self.grown.append(json.loads(line)["grown"])
        if process.returncode == 3 and "No space left" not in said and "File too large" not in said:
            raise SystemExit(said)
        return process.returncode

    def lines(self) -> int:
        try:
            return (self.out / ".cryosegnet/journal.jsonl").read_bytes().count(b"\n")
        except OSError:
            return 0

    def kill_a_worker(self, parent: int) -> None:
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            # The first child of a spawning process keeps track of its resources.
            workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            if workers:
                os.kill(int(self.chance.choice(workers)), signal.SIGKILL)
                self.counts["workers killed"] += 1

    def enlarge(self) -> None:
        self.mebibytes *= 1.6
        if self.mounted:
            option = f"remount,size={int(self.mebibytes * 1024)}k"
            subprocess.run(["mount", "-o", option, str(self.disk)], check=True)


def check(undisturbed: Path, disturbed: Path, names: list[str]) -> Counter[str]:
    """Whether both folders hold the same, and each micrograph was picked once."""
    wrong: Counter[str] = Counter()
    files = [{str(p.relative_to(o)): p for p in (o / "picks").rglob("*")} for o in (undisturbed, disturbed)]
    wrong["files missing or too many"] = len(set(files[0]) ^ set(files[1]))
    wrong["files that differ"] = sum(
        files[0][name].read_bytes() != files[1][name].read_bytes() for name in set(files[0]) & set(files[1])
    )
    done: Counter[str] = Counter()
    with open(disturbed / ".cryosegnet/journal.jsonl") as journal:
        for line in journal:
            entry = json.loads(line)
            done[entry.get("name", "")] += entry.get("status") == "done"
    wrong["micrographs not picked exactly once"] = sum(done[name] != 1 for name in names)
    summaries = [json.loads((o / "summary.json").read_text()) for o in (undisturbed, disturbed)]
    for summary in summaries:
        for entry in summary["micrographs"]:
            del entry["seconds"]
    wrong["summary"] = summaries[0] != summaries[1]
    wrong["temporary files left"] = len(list((disturbed / "picks").glob(".tmp-*")))
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--count", type=int, default=5000)
    add("--seed", type=int, default=0)
    add("--devices", type=int, default=0, help="worker processes of each run (default: none, it picks by itself)")
    add("--no-mount", action="store_true", help="limit the size of files where others mount a small file system")
    add("--work", action="store_true", help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    add("--out", type=Path, help=argparse.SUPPRESS)
    add("--largest-file", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work(args)
    start = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="endurance-"))
    try:
        names = make_micrographs(folder, args.count, args.seed)
        args.folder, args.out = folder, folder / "undisturbed"
        command = [sys.executable, __file__, "--work", "--folder", str(folder), "--out", str(args.out)]
        said = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        ).stdout
        grown = json.loads(said)["grown"]
        # Each micrograph takes a block for each of its files; this disk holds about a third.
        used = sum(path.stat().st_blocks * 512 for path in args.out.rglob("*")) / 2**20
        journal = (args.out / ".cryosegnet/journal.jsonl").stat().st_size / 2**20
        with small_disk(folder / "disk", used / 3, not args.no_mount) as mounted:
            trouble = Trouble(args, folder, folder / "disk", mounted, used / 3 if mounted else journal / 2)
            trouble.run()
            wrong = check(args.out, trouble.out, names)
        most = max([grown, *trouble.grown])
        wrong["memory"] = most > MEMORY_BYTES
        counts = trouble.counts
        print(f"{args.count} micrographs, {counts['runs'] + 1} runs, {time.monotonic() - start:.0f} s")
        print(f"killed with SIGKILL {counts['SIGKILL']} times, workers {counts['workers killed']} times")
        print(f"ended of a full disk {counts['full disk']} times ({'tmpfs' if mounted else 'limit on file size'})")
        print(f"{counts['vanished']} times a micrograph was away, {sum('slow' in n for n in names)} were slow to read")
        print(f"memory grew by {grown / 2**20:.1f} MiB over the undisturbed run, by {most / 2**20:.1f} MiB at most")
        for what, number in wrong.items():
            print(f"{what}: {int(number)}")
        good = not any(wrong.values()) and counts["SIGKILL"] and counts["full disk"] and counts["vanished"]
        print("each picked exactly once, the same result" if good else "NOT the same result")
        return 0 if good else 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
