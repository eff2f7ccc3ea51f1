"""The options of ``cryosegnet pick`` for where and how long it runs: clusters, growing data, monitors."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..picking.options import PickerOptions, split_devices
from .options import make_picker
from .readers import above_zero

if TYPE_CHECKING:
    from ..runs.engines.base import Engine
    from ..runs.pick_task import MicrographPicker
    from ..runs.watch import Watch


def add_running_options(parser: argparse.ArgumentParser) -> None:
    """Add these options to a parser."""
    where = parser.add_argument_group("where it runs (docs/cluster.md)")
    add = where.add_argument
    add("--cluster", metavar="FILE.yaml", type=Path, help="start workers as jobs of SLURM, PBS, SGE or LSF")
    add("--scheduler", metavar="ADDRESS", help="use the workers of a running Dask scheduler, tls://host:port")

    long = parser.add_argument_group("growing data and long runs (docs/cluster.md)")
    add = long.add_argument
    add("--watch", action="store_true", help="keep running, and pick micrographs as they appear in INPUT")
    add(
        "--stop-file",
        metavar="FILE",
        type=Path,
        help="stop when this file appears; with --watch after those in progress (default: DIR/STOP with --watch)",
    )
    text = "with --watch: stop after this time without new micrographs"
    add("--idle-stop", metavar="MINUTES", type=above_zero, help=text)
    add(
        "--settle",
        metavar="SECONDS",
        type=above_zero,
        default=5.0,
        help="with --watch: a file is complete when it has not changed for this time (default: 5)",
    )
    text = "write a JSON file for monitors (default: DIR/heartbeat.json with --watch)"
    add("--heartbeat", metavar="FILE", type=Path, help=text)
    add("--metrics", metavar="FILE.prom", type=Path, help="write metrics for Prometheus' node_exporter (text file)")


def check_running(args: argparse.Namespace) -> None:
    """Check values and their combinations.

    Raises
    ------
    UsageError
        They are not allowed.
    """
    if args.cluster is not None and args.scheduler is not None:
        raise UsageError("--cluster starts a scheduler of its own; leave out --scheduler")
    remote = args.cluster is not None or args.scheduler is not None
    if remote and len(split_devices(args.device)) > 1:
        raise UsageError(
            f"--device {args.device} is a list, but each worker of a cluster has one device; give --device auto"
        )
    if args.cluster is not None and not args.cluster.is_file():
        raise UsageError(f"--cluster {args.cluster}: no such file; docs/cluster.md shows an example")
    if args.stop_file is not None and os.path.lexists(args.stop_file):
        raise UsageError(f"--stop-file {args.stop_file} exists, which ends a run; remove it and start again")
    if not args.watch and args.idle_stop is not None:
        raise UsageError("--idle-stop needs --watch; without it a run ends when all micrographs are picked")
    for option, file in (("--heartbeat", args.heartbeat), ("--metrics", args.metrics)):
        if file is not None:
            _check_place(option, file, args.output)
    if args.metrics is not None and args.metrics.suffix != ".prom":
        raise UsageError(f"--metrics {args.metrics} must end with .prom; node_exporter reads no other files")


def _check_place(option: str, file: Path, output: Path) -> None:
    """Raise UsageError if the folder of a monitor's file does not exist; the run makes its output folder itself."""
    from ..files.inputs import STATE_FOLDER

    folder, made = Path(os.path.abspath(file.parent)), Path(os.path.abspath(output / STATE_FOLDER))
    if not folder.is_dir() and folder not in (made, *made.parents):
        raise UsageError(f"create the folder {file.parent} first: {option} {file} is to be written there")
    if file.is_dir():
        raise UsageError(f"{option} {file} is a folder; name a file")


@contextlib.contextmanager
def engine_from(
    options: PickerOptions, cluster: Path | None = None, scheduler: str | None = None
) -> Iterator[MicrographPicker | Engine]:
    """A picker for this process, or the engine that the options ask for.

    Parameters
    ----------
    options
        The picker's.
    cluster, scheduler
        As ``--cluster`` and ``--scheduler`` give them.
    """
    make = functools.partial(make_picker, options)
    devices = split_devices(options.device)
    if cluster is not None or scheduler is not None:
        from ..runs.engines.cluster import ClusterEngine

        with ClusterEngine(make, options.device, file=cluster, address=scheduler) as engine:
            yield engine
    elif len(devices) > 1:
        from ..runs.engines.processes import ProcessEngine

        with ProcessEngine(make, devices) as engine:
            yield engine
    else:
        yield make(options.device)


def watch_from(args: argparse.Namespace) -> Watch:
    """The micrographs to watch for."""
    from ..runs.watch import Watch

    return Watch(
        args.input,
        settle=args.settle,
        stop_file=args.stop_file or args.output / "STOP",
        idle=None if args.idle_stop is None else 60 * args.idle_stop,
    )
