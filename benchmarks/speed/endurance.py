"""Runs in which everything goes wrong: each micrograph is picked once, with the result of an undisturbed run.

    python -m benchmarks.speed.endurance [--count 5000] [--seed 0] [--devices N | --dask]
    python -m benchmarks.speed.endurance --minutes 60

Small micrographs are picked by a stand-in picker (local maxima, no network) in processes of their own, while
 - the process is killed with SIGKILL at random moments and started again,
 - the disk that it writes to is too small (a tmpfs; a limit on the size of files where none can be mounted) and is
   enlarged after each run that ended of it,
 - some micrographs vanish and come back, and
 - some are slow to read.
With --devices each run has N worker processes; with --dask a scheduler with TLS and two workers run beside it. Workers
are killed as well, each after so many micrographs that were finished, and the scheduler once, with its workers. In the
end the folder is compared with that of an undisturbed run; journal and memory of the processes are looked at.

With --minutes whole runs follow one another for so long, with random seeds and the engines in turn. The first one that
differs ends it; its folder is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
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
from pathlib import Path

import mrcfile
import numpy as np

from benchmarks.speed.stand_in import ROOT, JournalLines, LocalDask, descendants, make_picker, small_disk

SIDE, CELL = 96, 16
#: One micrograph of so many vanishes for a time, and one of so many is slow to read.
VANISH, SLOW = 50, 100
#: Memory may differ by this much between the first and the last micrographs of a process.
MEMORY_BYTES = 40 * 2**20
#: Micrographs of each run, alone and with --minutes, and what the runs of the latter pick with in turn.
COUNT, COUNT_OF_MANY = 5000, 600
ENGINES = ([], ["--devices", "2"], ["--dask"])


class UnlikeError(Exception):
    """A run did what it must not do."""


def work(args: argparse.Namespace) -> int:
    """One run: what is killed, and started again."""
    if args.largest_file:
        # A write beyond it fails as on a full disk; the signal that comes with it is ignored by Python.
        resource.setrlimit(resource.RLIMIT_FSIZE, (args.largest_file, args.largest_file))
    from cryosegnet_ext.errors import CryoSegNetError
    from cryosegnet_ext.files.inputs import Input
    from cryosegnet_ext.runs import batch
    from cryosegnet_ext.runs.engines.base import Engine
    from cryosegnet_ext.runs.engines.cluster import ClusterEngine
    from cryosegnet_ext.runs.engines.processes import ProcessEngine
    from cryosegnet_ext.runs.engines.threads import engine_for
    from cryosegnet_ext.runs.monitor import resident_bytes

    make = functools.partial(make_picker, CELL, args.folder / "started")
    names = (args.folder / "names.txt").read_text().split()
    inputs = [Input(args.folder / "micrographs" / name, name) for name in names]
    memory: list[int] = []

    def watch(*_: object) -> None:
        memory.append(resident_bytes() or 0)

    def engine() -> Engine:
        if args.scheduler:
            return ClusterEngine(make, address=args.scheduler)
        return ProcessEngine(make, ["cpu"] * args.devices) if args.devices else engine_for(make("cpu"))

    try:
        with engine() as picks:
            result = batch.run(picks, inputs, args.out, overlays=False, progress=False, watch=watch)
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


class Trouble:
    """Runs the work and disturbs it until everything is done."""

    def __init__(self, args: argparse.Namespace, mounted: bool, mebibytes: float, dask: LocalDask | None) -> None:
        self.args, self.folder, self.dask = args, args.folder, dask
        self.disk, self.mounted, self.mebibytes = args.folder / "disk", mounted, mebibytes
        self.out = self.disk / "out"
        self.chance = random.Random(args.seed)
        self.counts: Counter[str] = Counter()
        self.grown: list[int] = []
        self.journal = JournalLines(self.out)
        self.kills = max(4, args.count // 100)
        self.next_worker = self.share(3)

    def share(self, most: int = 1) -> int:
        """So many micrographs until the next kill."""
        return self.chance.randint(1, max(2, self.args.count // 60)) * most

    def run(self) -> None:
        micrographs = self.folder / "micrographs"
        vanishing = sorted(micrographs.glob("vanishing_*"))
        away = self.folder / "away"
        away.mkdir()
        while True:
            early = self.counts["SIGKILL"] < self.kills
            gone = [path for path in vanishing if early and (not self.counts["runs"] or self.chance.random() < 0.5)]
            for path in gone:
                path.rename(away / path.name)
            self.counts["vanished"] += len(gone)
            code, said = self.once(kill=early, back=gone, away=away)
            for path in away.iterdir():
                path.rename(micrographs / path.name)
            if code == 3:
                if "No space left" not in said and "File too large" not in said:
                    raise UnlikeError(f"a run ended: {said}")
                self.counts["full disk"] += 1
                self.enlarge()
            elif code == 0:
                return
            elif code not in (-signal.SIGKILL, 2):
                raise UnlikeError(f"a run ended with {code}: {said}")
            self.counts["runs"] += 1
            if self.counts["runs"] > 40 * self.kills:
                raise UnlikeError("no end")

    def once(self, kill: bool, back: list[Path], away: Path) -> tuple[int, str]:
        """One process; the code it ends with, and what it says."""
        words = ["--work", "--folder", str(self.folder), "--out", str(self.out), "--devices", str(self.args.devices)]
        if self.dask is not None:
            words += ["--scheduler", self.dask.address]
        if not self.mounted and self.counts["SIGKILL"] >= 2 and not self.counts["full disk"]:
            words += ["--largest-file", str(int(self.mebibytes * 2**20))]
        process = start(words, self.dask)
        # So far it gets, and then any moment.
        end = self.journal.count() + self.share()
        while process.poll() is None and (not kill or self.journal.count() < end):
            time.sleep(0.02)
            self.kill_by_work(process.pid)
            if back and self.chance.random() < 0.1:
                # A vanished one comes back while the run goes on.
                path = back.pop()
                with contextlib.suppress(OSError):
                    (away / path.name).rename(path)
        if kill:
            time.sleep(self.chance.random() * 0.05)
            if process.poll() is None:
                process.kill()
                self.counts["SIGKILL"] += 1
        said = process.communicate()[0]
        for line in said.splitlines():
            if line.startswith("{"):
                self.grown.append(json.loads(line)["grown"])
        return process.returncode, said

    def kill_by_work(self, parent: int) -> None:
        """Kill a worker, and once the scheduler, when enough was finished since the last time.

        Only workers that have finished something are killed: on a busy machine the others may still be loading.
        """
        finished = self.journal.count()
        if self.dask is not None and finished > self.args.count // 2 and not self.counts["scheduler"]:
            self.counts["scheduler"] += 1
            self.dask.restart()
        if finished < self.next_worker or self.counts["workers killed"] >= self.kills:
            return
        tops = [parent] if self.dask is None else self.dask.pids[1:]
        there = [pid for top in tops for pid in descendants(top) if (self.folder / "started" / str(pid)).exists()]
        if (self.args.devices or self.dask is not None) and there:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.chance.choice(sorted(there)), signal.SIGKILL)
                self.counts["workers killed"] += 1
                self.next_worker = finished + self.share(3)

    def enlarge(self) -> None:
        self.mebibytes *= 1.6
        if self.mounted:
            option = f"remount,size={int(self.mebibytes * 1024)}k"
            subprocess.run(["mount", "-o", option, str(self.disk)], check=True)


def start(words: list[str], dask: LocalDask | None) -> subprocess.Popen[str]:
    """Start one run."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} if dask is None else dask.environment
    command = [sys.executable, "-m", "benchmarks.speed.endurance", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)


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


def whole_run(args: argparse.Namespace, folder: Path) -> bool:
    """Pick everything in a folder, undisturbed and disturbed; whether the results are the same."""
    begun = time.monotonic()
    names = make_micrographs(folder, args.count, args.seed)
    (folder / "started").mkdir()
    args.folder, args.out = folder, folder / "undisturbed"
    process = start(["--work", "--folder", str(folder), "--out", str(args.out)], None)
    said = process.communicate()[0]
    if process.returncode:
        raise UnlikeError(f"the undisturbed run ended with {process.returncode}: {said}")
    grown = json.loads(said)["grown"]
    # Each micrograph takes a block for each of its files; this disk holds about a third.
    used = sum(path.stat().st_blocks * 512 for path in args.out.rglob("*")) / 2**20
    journal = (args.out / ".cryosegnet/journal.jsonl").stat().st_size / 2**20
    with contextlib.ExitStack() as stack:
        dask = stack.enter_context(LocalDask(folder / "dask")) if args.dask else None
        mounted = stack.enter_context(small_disk(folder / "disk", used / 3, not args.no_mount))
        trouble = Trouble(args, mounted, used / 3 if mounted else journal / 2, dask)
        trouble.run()
        wrong = check(args.out, trouble.out, names)
        if any(wrong.values()) and mounted:
            shutil.copytree(trouble.out, folder / "disturbed")
    most = max([grown, *trouble.grown])
    wrong["memory"] = most > MEMORY_BYTES
    counts = trouble.counts
    print(f"{args.count} micrographs, {counts['runs'] + 1} runs, {time.monotonic() - begun:.0f} s")
    print(f"killed with SIGKILL {counts['SIGKILL']} times, workers {counts['workers killed']} times, ", end="")
    print(f"the scheduler {counts['scheduler']} times")
    print(f"ended of a full disk {counts['full disk']} times ({'tmpfs' if mounted else 'limit on file size'})")
    print(f"{counts['vanished']} times a micrograph was away, {sum('slow' in n for n in names)} were slow to read")
    print(f"memory grew by {grown / 2**20:.1f} MiB over the undisturbed run, by {most / 2**20:.1f} MiB at most")
    for what, number in wrong.items():
        print(f"{what}: {int(number)}")
    wanted = ["SIGKILL", "full disk", "vanished"]
    wanted += ["workers killed"] * bool(args.devices or args.dask) + ["scheduler"] * args.dask
    for what in wanted:
        if not counts[what]:
            print(f"nothing was tried of: {what}")
    return not any(wrong.values()) and all(counts[what] for what in wanted)


def one(args: argparse.Namespace) -> bool:
    """A whole run in a folder of its own, which is kept if the results differ."""
    folder = Path(tempfile.mkdtemp(prefix="endurance-"))
    same = False
    try:
        same = whole_run(args, folder)
    except UnlikeError as error:
        print(error)
    print("each picked exactly once, the same result" if same else f"NOT the same result; kept in {folder}", flush=True)
    if same:
        shutil.rmtree(folder, ignore_errors=True)
    return same


def many(args: argparse.Namespace) -> bool:
    """Whole runs for some minutes, as long as the results are the same; prints how to repeat the one that differs."""
    end = time.monotonic() + 60 * args.minutes
    totals: Counter[str] = Counter()
    while time.monotonic() < end:
        words = ["--count", str(args.count), "--seed", str(random.randrange(10**6))]
        words += ENGINES[totals["runs"] % len(ENGINES)] + ["--no-mount"] * args.no_mount
        command = [sys.executable, "-m", "benchmarks.speed.endurance", *words]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=False)
        totals["runs"] += 1
        totals["micrographs"] += args.count
        outcome = "the same result" if ended.returncode == 0 else "NOT the same result"
        kills = next((line for line in ended.stdout.splitlines() if line.startswith("killed")), "no count of kills")
        print(f"{time.strftime('%H:%M:%S')} {' '.join(words)}: {outcome}; {kills}", flush=True)
        if ended.returncode:
            print(f"{ended.stdout}python -m benchmarks.speed.endurance {' '.join(words)}", flush=True)
            return False
    print(f"{totals['runs']} runs of {args.count} micrographs, {totals['micrographs']} in all, all the same result")
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--count", type=int, help=f"micrographs of a run (default: {COUNT}, {COUNT_OF_MANY} with --minutes)")
    add("--seed", type=int, default=0)
    add("--devices", type=int, default=0, help="worker processes of each run (default: none, it picks by itself)")
    add("--dask", action="store_true", help="two workers of a Dask scheduler on this machine, which is restarted once")
    add("--minutes", type=float, help="whole runs for so long, with random seeds, and the engines in turn")
    add("--no-mount", action="store_true", help="limit the size of files where others mount a small file system")
    add("--work", action="store_true", help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    add("--out", type=Path, help=argparse.SUPPRESS)
    add("--largest-file", type=int, default=0, help=argparse.SUPPRESS)
    add("--scheduler", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.count = args.count or (COUNT if args.minutes is None else COUNT_OF_MANY)
    if args.work:
        return work(args)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended, and folders are removed
    return 0 if (one(args) if args.minutes is None else many(args)) else 1


if __name__ == "__main__":
    sys.exit(main())
