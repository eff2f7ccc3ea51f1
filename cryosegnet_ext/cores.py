"""How many CPU cores this process may use: its affinity, and the quota that a container or a batch system gives it."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

from .cgroups import groups


def usable_cores(root: Path = Path("/")) -> int:
    """The number of cores that this process may use, 1 at least.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` are.

    Notes
    -----
    A quota is a share of the time of all cores: ``cpu.max`` in cgroup v2, ``cpu.cfs_quota_us`` and
    ``cpu.cfs_period_us`` in v1, of the process's group or of one above it. Two and a half cores count as three.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """The quotas of the process's groups, in cores."""
    for folder, version in groups("cpu", root):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            yield _quota(folder, version)


def _quota(folder: Path, version: int) -> float:
    if version == 2:
        quota, period = (folder / "cpu.max").read_text().split()
    else:
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    # v2 says "max" where there is none, v1 -1.
    if quota == "max" or float(quota) <= 0:
        raise ValueError("no quota")
    return float(quota) / float(period)
