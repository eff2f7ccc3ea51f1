"""The control groups of this process: what a container or a batch job may use of the machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def groups(controller: str, root: Path = Path("/")) -> Iterator[tuple[Path, int]]:
    """The folders of this process's groups and of all above them, each of which may set a limit.

    Parameters
    ----------
    controller
        ``cpu`` or ``memory``.
    root
        Where ``proc`` and ``sys`` are.

    Yields
    ------
    Path, int
        A folder, which need not exist, and the version of cgroups that its files belong to, 1 or 2 (Linux,
        Documentation/admin-guide/cgroup-v2).
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # In a container the path may be the host's; the container's own group is then where the file system begins.
        for mount in (controller, controllers) if controllers else ("", "unified"):
            top = root / "sys/fs/cgroup" / mount
            group = top / path.lstrip("/")
            for folder in (group, *group.parents):
                if not folder.is_relative_to(top):
                    break
                yield folder, 1 if controllers else 2
