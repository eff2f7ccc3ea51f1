"""The file that describes the workers of a cluster, ``cluster.yaml``, and how they are started.

scheduler: slurm            # slurm, pbs, sge, lsf, or local: processes of this machine
workers: {minimum: 0, maximum: 16}   # scaled by the number that wait; one number: always so many
cores: 4                    # of each worker, like memory
memory: 16GB
gpus: 1                     # of each worker; SLURM only, elsewhere through options
queue: gpu
walltime: "04:00:00"
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
DEFAULTS: dict[str, Any] = {"workers": {"minimum": 0, "maximum": 4}, "cores": 4, "memory": "16GB", "gpus": 0}
_KEYS = ("scheduler", "workers", "cores", "memory", "gpus", "queue", "account", "walltime", "options")
_BY_OPTIONS = "queue", "account", "walltime"
#: A worker ends by itself at least this long before the time of its job is over.
_MARGIN_SECONDS = 300
_SHORTEST_LIFE = 120


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
            f"{path}: how {given['scheduler']} is asked for GPUs differs from site to site; leave gpus out and give "
            "what a job script of your site says under options, as job_extra_directives or resource_spec"
        )
    if not isinstance(given.setdefault("options", {}), dict):
        raise CryoSegNetError(f"{path}: options must be a mapping of names to values")
    if "walltime" in given:
        lifetime(path, given["walltime"])
    return given


def _workers(path: Path, value: Any) -> tuple[int, int]:
    least, most = (value.get("minimum", 0), value.get("maximum")) if isinstance(value, dict) else (value, value)
    if not isinstance(least, int) or not isinstance(most, int) or not 0 <= least <= most or not most:
        raise CryoSegNetError(
            f"{path}: workers is {value!r}; give a number, or minimum and maximum, as in {{minimum: 0, maximum: 8}}"
        )
    return least, most


def lifetime(path: Path, walltime: Any) -> int:
    """Seconds after which a worker ends by itself, between two micrographs, before the scheduler kills its job."""
    # YAML reads 4:00:00 without quotes as a number of seconds (sexagesimal).
    text = str(walltime)
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+)(?::(\d+))?", text)
    if isinstance(walltime, int):
        seconds = walltime
    elif match:
        days, hours, minutes, rest = (int(part or 0) for part in match.groups())
        seconds = 86400 * days + 3600 * hours + 60 * minutes + rest
    else:
        raise CryoSegNetError(f'{path}: walltime is {text}; give "HOURS:MINUTES:SECONDS", in quotes')
    return max(seconds - _MARGIN_SECONDS, _SHORTEST_LIFE)


def arguments(path: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Arguments for the class of dask-jobqueue; ``options`` win over the other keys."""
    made: dict[str, Any] = {"cores": given["cores"], "processes": 1, "memory": given["memory"]}
    made |= {name: given[name] for name in _BY_OPTIONS if name in given}
    directives, extra = [], []
    if given["gpus"]:
        directives.append(f"--gpus={given['gpus']}")
    if "walltime" in given:
        if isinstance(given["walltime"], int):
            hours, rest = divmod(given["walltime"], 3600)
            made["walltime"] = f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"
        life = lifetime(path, given["walltime"])
        # So that they do not all end at the same moment.
        extra += ["--lifetime", f"{life}s", "--lifetime-stagger", f"{min(_MARGIN_SECONDS, life // 4)}s"]
    options = dict(given["options"])
    directives += options.pop("job_extra_directives", [])
    extra += options.pop("worker_extra_args", [])
    # Two threads, so that one micrograph is read while another is picked; picking itself uses all cores.
    extra = ["--nthreads", "2", *extra]
    # Dask would limit each library to one thread.
    threads = f"export OMP_NUM_THREADS={given['cores']} MKL_NUM_THREADS={given['cores']}"
    prologue = [threads, *options.pop("job_script_prologue", [])]
    return {
        **made,
        "job_script_prologue": prologue,
        "job_extra_directives": directives,
        "worker_extra_args": extra,
        **options,
    }


def start(path: Path) -> tuple[Any, int]:
    """Start a scheduler in this process, which starts the workers; the cluster, and the largest number of workers.

    Raises
    ------
    CryoSegNetError
        The file is wrong, or the cluster does not start.
    """
    given = read(path)
    name = CLASSES[given["scheduler"]]
    try:
        if name:
            import dask_jobqueue

            cluster = getattr(dask_jobqueue, name)(**arguments(path, given))
        else:
            from distributed import LocalCluster

            cluster = LocalCluster(
                n_workers=given["minimum"], threads_per_worker=1, dashboard_address=None, **given["options"]
            )
        if given["minimum"] == given["maximum"]:
            cluster.scale(given["maximum"])
        else:
            cluster.adapt(minimum=given["minimum"], maximum=given["maximum"])
    except CryoSegNetError:
        raise
    except ImportError as error:
        raise CryoSegNetError(
            f"dask-jobqueue is not installed ({error}); pip install 'cryosegnet-ext[cluster]' brings it"
        ) from error
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise CryoSegNetError(f"{path}: the cluster does not start ({text}); check the keys under options") from error
    return cluster, given["maximum"]
