"""What the long runs of benchmarks pick with: a picker without a network, and a Dask scheduler that can be killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cryosegnet_ext.files import inputs
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.files.picks import Picks

ROOT = Path(__file__).resolve().parents[2]
_SLOW_SECONDS = 0.3
_DIAMETER = 20.0
_TRIES = 1200
_TRY_SECONDS = 0.25


class LocalMaxima:
    """A picker without a network: the brightest pixel of each cell.

    Parameters
    ----------
    cell
        Side of the cells, pixels.
    started
        A folder in which each process makes a file, named by its number, when it has given back its first picks.
    """

    settings: Mapping[str, object] = {"stand-in": "local maxima"}
    needs_diameter = True

    def __init__(self, cell: int, started: Path | None = None) -> None:
        self._cell, self._started, self._picked = cell, started, 0

    def estimate_diameter(self, micrographs: Sequence[object]) -> float:
        # The same whichever micrographs happened to be there.
        return _DIAMETER

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        if self._picked == 1 and self._started is not None:
            (self._started / str(os.getpid())).touch()
        self._picked += 1
        data, cell = micrograph.data, self._cell
        ny, nx = (side // cell for side in data.shape)
        cells = data[: ny * cell, : nx * cell].reshape(ny, cell, nx, cell).swapaxes(1, 2).reshape(ny, nx, -1)
        at = cells.argmax(axis=2)
        y, x = np.mgrid[:ny, :nx] * cell + np.array([at // cell, at % cell])
        score = np.clip(cells.max(axis=2) / 5, 0, 1)
        return Picks(x, y, np.full(x.size, diameter or _DIAMETER), score, micrograph.pixel_size, data.shape)


def make_picker(cell: int, started: Path | None, device: str) -> LocalMaxima:
    """The picker of a worker; micrographs with "slow" in their names are slow to read, as from a busy file server."""
    inputs.read_micrograph = _slowly
    return LocalMaxima(cell, started)


_read = inputs.read_micrograph


def _slowly(path: str | os.PathLike[str], pixel_size: float | None = None) -> Micrograph:
    if "slow" in os.path.basename(path):
        time.sleep(_SLOW_SECONDS)
    return _read(path, pixel_size=pixel_size)


class LocalDask:
    """A Dask scheduler with TLS and its workers, as an administrator would run them, on this machine.

    Parameters
    ----------
    folder
        For the certificate, and what the processes say.
    workers
        How many.
    """

    def __init__(self, folder: Path, workers: int = 2) -> None:
        from distributed.security import Security

        folder.mkdir(exist_ok=True)
        security = Security.temporary()
        # Dask's configuration, by which a user names a certificate, too.
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True"}
        fields = {"CA_FILE": "tls_ca_file"}
        for role in ("scheduler", "worker", "client"):
            fields |= {f"{role.upper()}__CERT": f"tls_{role}_cert", f"{role.upper()}__KEY": f"tls_{role}_key"}
        for name, field in fields.items():
            path = folder / f"{field}.pem"
            path.touch(0o600)
            path.write_text(getattr(security, field))
            self.environment[f"DASK_DISTRIBUTED__COMM__TLS__{name}"] = str(path)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"tls://127.0.0.1:{self._port}"
        self._log = folder / "dask.log"
        self._workers = workers
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def pids(self) -> list[int]:
        """Of the scheduler, and of the nannies of the workers."""
        return [process.pid for process in self._processes]

    def start(self) -> None:
        """Start the scheduler and the workers, and wait until it answers."""
        for words in (
            ["scheduler", "--protocol", "tls", "--host", "127.0.0.1", "--port", str(self._port), "--no-dashboard"],
            *[["worker", self.address, "--nthreads", "2", "--no-dashboard", "--memory-limit", "0"]] * self._workers,
        ):
            with open(self._log, "ab") as log:
                command = [sys.executable, "-m", "dask", *words]
                self._processes.append(
                    # A group of its own: a nanny is killed with its worker.
                    subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
                )
        for _ in range(_TRIES):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(_TRY_SECONDS)
        raise OSError(f"no scheduler; {self._log} says why")

    def kill(self) -> None:
        """Kill all with SIGKILL."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._processes.clear()

    def restart(self) -> None:
        """Kill all, and start all again."""
        self.kill()
        self.start()

    def __enter__(self) -> LocalDask:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


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


class JournalLines:
    """Counts the lines of the journal of an output folder while it grows; what was counted is not read again."""

    def __init__(self, output: Path) -> None:
        self._path = output / ".cryosegnet/journal.jsonl"
        self._read = self._lines = 0

    def count(self) -> int:
        """The number of whole lines."""
        with contextlib.suppress(OSError), open(self._path, "rb") as journal:
            journal.seek(self._read)
            new = journal.read()
            # The rest of a line that a kill cut off is removed by the next run.
            self._read += new.rfind(b"\n") + 1
            self._lines += new.count(b"\n")
        return self._lines


def descendants(pid: int) -> Iterator[int]:
    """The processes below a process."""
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield int(child)
                yield from descendants(int(child))
