"""The file that describes the workers of a cluster, ``cluster.yaml``, and what dask-jobqueue is told of it.

scheduler: slurm            # slurm, pbs, sge, lsf, or local: processes of this machine
workers: {minimum: 0, maximum: 16}   # scaled by the number that wait; one number: always so many
cores: 4                    # of each worker, like memory
memory: 16GB
gpus: 1                     # of each worker; SLURM only, elsewhere through options
queue: gpu
walltime: "04:00:00"
wait: "24:00:00"            # how long to go on without any worker
dashboard: 8787             # Dask's page, for this machine only; none without it
options: {}                 # anything else that dask_jobqueue.SLURMCluster (PBSCluster, ...) takes
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ...errors import CryoSegNetError

#: Class of dask-jobqueue for each scheduler.
CLASSES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster", "local": ""}
#: Values of keys that the file leaves out.
DEFAULTS: dict[str, Any] = {
    "workers": {"minimum": 0, "maximum": 4},
    "cores": 4,
    "memory": "16GB",
    "gpus": 0,
    "wait": "24:00:00",
}
_KEYS = "scheduler", *DEFAULTS, "queue", "account", "walltime", "dashboard", "options"
#: A worker ends by itself so long before the time of its job is over; a quarter of the time if that is shorter.
_MARGIN_SECONDS = 300


def read(path: Path) -> dict[str, Any]:
    """The contents of a cluster file, with the defaults for what it leaves out.

    Raises
    ------
    CryoSegNetError
        It cannot be read, or a value is wrong.
    """
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CryoSegNetError(f"{path}: the cluster file cannot be read ({error.strerror}); check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CryoSegNetError(f"{path}: not YAML ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(found, dict) or found.get("scheduler") not in CLASSES:
        raise CryoSegNetError(f"{path}: give `scheduler:` with one of {', '.join(CLASSES)}")
    unknown = sorted(str(key) for key in found if key not in _KEYS)
    if unknown:
        raise CryoSegNetError(f"{path}: unknown key {', '.join(unknown)}; the keys are {', '.join(_KEYS)}")
    given = {**DEFAULTS, **found}
    given["minimum"], given["maximum"] = _workers(path, given.pop("workers"))
    for name in ("cores", "gpus"):
        if not isinstance(given[name], int) or given[name] < (name == "cores"):
            raise CryoSegNetError(f"{path}: {name} is {given[name]!r}; give a whole number")
    if given["gpus"] and given["scheduler"] not in ("slurm", "local"):
        raise CryoSegNetError(
            f"{path}: each site asks {given['scheduler']} for GPUs in its own way; leave gpus out and give "
            "the line of your site's job scripts under options, as job_extra_directives or resource_spec"
        )
    if not isinstance(given.setdefault("options", {}), dict):
        raise CryoSegNetError(f"{path}: options must be a mapping of names to values")
    given["wait"] = _seconds(path, "wait", given["wait"], given["scheduler"])
    if not isinstance(given.get("dashboard", 0), int) or not 0 <= given.get("dashboard", 0) < 65536:
        raise CryoSegNetError(f"{path}: dashboard is {given['dashboard']!r}; give a port, as in dashboard: 8787")
    if "walltime" in given:
        _seconds(path, "walltime", given["walltime"], given["scheduler"])
    return given


def _workers(path: Path, value: Any) -> tuple[int, int]:
    least, most = (value.get("minimum", 0), value.get("maximum")) if isinstance(value, dict) else (value, value)
    if not isinstance(least, int) or not isinstance(most, int) or not 0 <= least <= most or not most:
        raise CryoSegNetError(
            f"{path}: workers is {value!r}; give a number, or minimum and maximum, as in {{minimum: 0, maximum: 8}}"
        )
    return least, most


def _seconds(path: Path, key: str, value: Any, scheduler: str) -> int:
    """Seconds of a time as the scheduler reads it: two numbers are minutes and seconds, of LSF hours and minutes."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", str(value))
    if isinstance(value, int):
        # YAML reads 4:00:00 without quotes as a number of seconds (sexagesimal).
        seconds = value
    elif match:
        days, hours, minutes, rest = (int(part or 0) for part in match.groups())
        seconds = 86400 * days + 3600 * hours + 60 * minutes + rest
        if scheduler == "lsf" and match[2] is None:
            seconds = 86400 * days + 3600 * minutes + 60 * rest
    else:
        seconds = 0
    if seconds < 60:
        raise CryoSegNetError(f'{path}: {key} is {value}; give "HOURS:MINUTES:SECONDS", in quotes, a minute at least')
    return seconds


def _walltime_arguments(path: Path, scheduler: str, walltime: Any) -> tuple[str, list[str]]:
    """The time of a job as its scheduler wants it, and the worker's options that end it before, between micrographs."""
    seconds = _seconds(path, "walltime", walltime, scheduler)
    hours, minutes, rest = seconds // 3600, seconds // 60 % 60, seconds % 60
    text = f"{hours:02d}:{minutes:02d}" if scheduler == "lsf" else f"{hours:02d}:{minutes:02d}:{rest:02d}"
    margin = min(_MARGIN_SECONDS, seconds // 4)
    # Dask adds or subtracts up to the stagger, so that workers do not all end at the same moment.
    stagger = margin // 2
    return text, ["--lifetime", f"{seconds - margin - stagger}s", "--lifetime-stagger", f"{stagger}s"]


def arguments(path: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Arguments for the class of dask-jobqueue; ``options`` win over the other keys."""
    import dask

    made: dict[str, Any] = {"cores": given["cores"], "processes": 1, "memory": given["memory"]}
    made |= {name: given[name] for name in ("queue", "account") if name in given}
    options = dict(given["options"])
    directives = [f"--gpus={given['gpus']}"] if given["gpus"] else []
    # Two threads, so that one micrograph is read while another is picked; picking itself uses all cores.
    extra = ["--nthreads", "2", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    # Without a walltime dask-jobqueue writes that of its own configuration, 30 minutes where the site has not set it.
    configured = dask.config.get(f"jobqueue.{options.get('config_name', given['scheduler'])}.walltime", None)
    walltime = options.pop("walltime", given.get("walltime", configured))
    if walltime is not None:
        made["walltime"], lifetime = _walltime_arguments(path, given["scheduler"], walltime)
        extra += lifetime
    # Dask would limit each library to one thread.
    threads = f"export OMP_NUM_THREADS={given['cores']} MKL_NUM_THREADS={given['cores']}"
    return {
        **made,
        "job_script_prologue": [threads, *options.pop("job_script_prologue", [])],
        "job_extra_directives": [*directives, *options.pop("job_extra_directives", [])],
        "worker_extra_args": [*extra, *options.pop("worker_extra_args", [])],
        **options,
    }
