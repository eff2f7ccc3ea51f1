"""What a micrograph costs beside its picking, from the first to the 50,000th: time, memory and size of the journal.

    python -m benchmarks.speed.constant_cost [--count 50000] [--watch] [--output DIR]

Reading and picking are stubbed: each micrograph comes back at once with the same 300 picks, so that what is measured is
the batch: files, journal, progress and, with --watch, looking for new files in a folder that grows.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryosegnet_ext.files.inputs import Input, file_identity
from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.runs import batch
from cryosegnet_ext.runs.diameter import Estimate
from cryosegnet_ext.runs.engines.base import Engine
from cryosegnet_ext.runs.journal import Record
from cryosegnet_ext.runs.monitor import Monitor, resident_bytes
from cryosegnet_ext.runs.pick_task import PickOutcome, PickTask, blank_record
from cryosegnet_ext.runs.stopping import Stop
from cryosegnet_ext.runs.watch import Watch

PICKS = 300
#: The cost is the mean over this many micrographs.
OVER = 500
#: Files of a folder under watch appear so many at a time.
AT_A_TIME = 1000


class Stubbed(Engine):
    """Gives each task back at once, picked."""

    settings: Mapping[str, object] = {"stub": True}  # type: ignore[assignment]
    needs_diameter = False  # type: ignore[assignment]

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        x, y = random.integers(0, 4096, (2, PICKS))
        self._picks = Picks(x, y, np.full(PICKS, 180.0), random.uniform(0.5, 1, PICKS), 1.0, (4096, 4096))
        self._tasks: deque[PickTask] = deque()

    def estimate(self, inputs: Sequence[Input], pixel_size: float | None, stopping: Stop) -> Estimate:
        return Estimate()

    @property
    def room(self) -> int:
        return 3 - len(self._tasks)

    def submit(self, task: PickTask) -> None:
        self._tasks.append(task)

    def wait(self, stopping: Stop, seconds: float) -> list[PickOutcome]:
        task = self._tasks.popleft()
        size, mtime = file_identity(task.input.path) or (-1, -1)
        record = replace(blank_record(task), status="done", picks=PICKS, diameter=180.0, pixel_size=1.0)
        return [PickOutcome(replace(record, size=size, mtime_ns=mtime), self._picks)]

    def close(self) -> None:
        self._tasks.clear()


class Meter:
    """Notes the cost at some micrographs, and makes files appear for a watch."""

    def __init__(self, at: Sequence[int], output: Path, grow: int = 0, folder: Path | None = None) -> None:
        self._at, self._output = set(at), output
        self._grow, self._folder = grow, folder
        self._made = 0
        self._marks: dict[int, tuple[float, float]] = {}
        self.rows: list[tuple[int, float, float, float, float]] = []

    def make_files(self) -> None:
        assert self._folder is not None
        for number in range(self._made, min(self._made + AT_A_TIME, self._grow)):
            (self._folder / f"mic_{number:06d}.mrc").write_bytes(b"stub")
        self._made += AT_A_TIME

    def __call__(self, record: Record, finished: int, total: int) -> None:
        for at in self._at:
            if finished == at - OVER:
                self._marks[at] = (time.perf_counter(), time.process_time())
        if finished in self._at:
            wall, cpu = self._marks[finished]
            wall, cpu = (time.perf_counter() - wall) / OVER, (time.process_time() - cpu) / OVER
            journal = (self._output / ".cryosegnet/journal.jsonl").stat().st_size
            memory = (resident_bytes() or 0) / 2**20
            self.rows.append((finished, wall, cpu, memory, journal / finished))
            print(f"{finished:>8} {1e3 * wall:>9.2f} {1e3 * cpu:>8.2f} {memory:>8.0f} {journal / finished:>9.0f}")
            sys.stdout.flush()
        if self._folder is not None and finished == self._made and self._made < self._grow:
            self.make_files()
        elif finished == self._grow:
            (self._output / "STOP").touch()


def measure(count: int, watched: bool, top: Path) -> Meter:
    at = sorted({n for n in (1000, 10_000, 20_000, 50_000, count) if OVER < n <= count})
    folder, output = top / "micrographs", top / ("watched" if watched else "listed")
    print(f"{'a folder that grows, --watch' if watched else 'a list'}, {count} micrographs of {PICKS} picks")
    print(f"{'at':>8} {'ms':>9} {'ms CPU':>8} {'RSS MiB':>8} {'journal B':>9}   (each micrograph)")
    inputs: list[Input] | Watch
    if watched:
        folder.mkdir()
        meter = Meter(at, output, count, folder)
        meter.make_files()
        inputs = Watch([folder], interval=0.01, settle=0.01, stop_file=output / "STOP")
    else:
        meter = Meter(at, output)
        inputs = [Input(folder / f"mic_{number:06d}.mrc", f"mic_{number:06d}.mrc") for number in range(count)]
    monitor = Monitor(top / "heartbeat.json", top / "cryosegnet.prom")
    with Stubbed() as engine:
        result = batch.run(engine, inputs, output, overlays=False, progress=False, watch=meter, monitor=monitor)
        assert result.done == count
        if not watched:
            start = time.perf_counter()
            more = [*inputs, Input(folder / "one_more.mrc", "one_more.mrc")]  # type: ignore[misc]
            result = batch.run(engine, more, output, overlays=False, progress=False)
            assert (result.done, result.skipped) == (1, count)
            print(f"the same command again with one more: {time.perf_counter() - start:.1f} s\n")
    return meter


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--watch", action="store_true", help="a folder that grows instead of a list")
    parser.add_argument("--output", type=Path, help="where to write (default: a temporary folder, removed in the end)")
    args = parser.parse_args()
    top = Path(tempfile.mkdtemp(prefix="constant_cost-", dir=args.output))
    try:
        rows = measure(args.count, args.watch, top).rows
        growth = (rows[-1][3] - rows[0][3]) * 2**20 / max(rows[-1][0] - rows[0][0], 1)
        print(f"CPU time of the last {rows[-1][2] / rows[0][2]:.2f} times that at {rows[0][0]}; ", end="")
        print(f"memory grows by {growth:.0f} bytes a micrograph (its record)")
    finally:
        shutil.rmtree(top, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
