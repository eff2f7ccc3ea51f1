"""A Dask scheduler in this process, and the jobs that it starts as its workers.

Everybody who can talk to a Dask scheduler can run programs as its owner. So all connections use TLS with a certificate
that is made for this run, and only who has its key is let in.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

from ...errors import CryoSegNetError
from . import cluster_file

log = logging.getLogger(__name__)

#: How often jobs that ended are looked for; what the scheduler of jobs refuses is submitted again as often.
_REPLACE_SECONDS = 15.0


class ClusterJobs:
    """The workers that a cluster file describes.

    Parameters
    ----------
    path
        The file; see `cryosegnet_ext.runs.engines.cluster_file`.

    Attributes
    ----------
    address, security
        The scheduler's, for clients.
    most : int
        Largest number of workers.
    wait : float
        Seconds to go on without any worker.

    Raises
    ------
    CryoSegNetError
        The file is wrong, or the cluster does not start.
    """

    def __init__(self, path: Path) -> None:
        given = cluster_file.read(path)
        self.most: int = given["maximum"]
        self.wait: float = given["wait"]
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._replacing: concurrent.futures.Future[None] | None = None
        self._replaced = time.monotonic()
        self._refused = ""
        try:
            self._cluster = self._start(path, given)
        except ImportError as error:
            raise CryoSegNetError(
                f"a package for clusters is missing ({error}); pip install 'cryosegnet-ext[cluster]' brings it"
            ) from error
        except CryoSegNetError:
            raise
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise CryoSegNetError(
                f"{path}: the cluster does not start ({text}); check the keys under options"
            ) from error
        self.address: str = self._cluster.scheduler_address
        self.security = self._cluster.security

    def _start(self, path: Path, given: dict[str, Any]) -> Any:
        import dask
        from distributed import LocalCluster
        from distributed.security import Security

        least, most, name = given["minimum"], given["maximum"], cluster_file.CLASSES[given["scheduler"]]
        security = Security.temporary()
        # Dask's web server cannot be left out: without pages, and for this machine only.
        port = given.get("dashboard", 0)
        web = {"dashboard": bool(port), "dashboard_address": f"127.0.0.1:{port}"}
        with dask.config.set({} if port else {"distributed.scheduler.http.routes": []}):
            if not name:
                options = {"n_workers": least, "threads_per_worker": 1, "security": security, **given["options"]}
                cluster = LocalCluster(**options, scheduler_kwargs=web)
            else:
                import dask_jobqueue

                options = {"security": security, **cluster_file.arguments(path, given)}
                options["scheduler_options"] = {**web, **options.get("scheduler_options", {})}
                self._write_keys(security, options.pop("shared_temp_directory", os.getcwd()))
                cluster = getattr(dask_jobqueue, name)(**options)
        if least == most:
            cluster.scale(most)
        else:
            cluster.adapt(minimum=least, maximum=most)
        return cluster

    def _write_keys(self, security: Any, shared: str) -> None:
        """Write the certificate and its key where the workers read them, and nobody else."""
        if shlex.quote(shared) != shared:
            raise CryoSegNetError(
                f"the key of the workers cannot be kept in {shared}, since Dask's job scripts take only plain paths; "
                "start from another folder, or name a shared one as shared_temp_directory under options"
            )
        self._folder = tempfile.TemporaryDirectory(prefix=".cryosegnet-tls-", dir=shared, ignore_cleanup_errors=True)
        for field in ("tls_ca_file", "tls_worker_cert", "tls_worker_key"):
            file = Path(self._folder.name, f"{field}.pem")
            file.write_text(getattr(security, field))
            setattr(security, field, str(file))

    def replace_lost(self) -> None:
        """Submit jobs for workers that ended or were killed; does not wait, and does nothing if called too soon.

        Dask takes notice of a lost worker, but starts another only when the number of workers is to change.
        """
        if self._replacing is not None and self._replacing.done():
            error = self._replacing.exception()
            self._replacing = None
            self._tell(error)
        if self._replacing is None and time.monotonic() - self._replaced > _REPLACE_SECONDS:
            self._replaced = time.monotonic()
            self._replacing = asyncio.run_coroutine_threadsafe(_replace(self._cluster), self._cluster.loop.asyncio_loop)

    def _tell(self, error: BaseException | None) -> None:
        """Log why a job could not be submitted, once."""
        text = "" if error is None else str(error).rpartition("stderr:")[2] or type(error).__name__
        text = " ".join(text.split())[:300]
        if text and text != self._refused:
            log.warning(f"a worker cannot be started ({text}); it is tried again every {_REPLACE_SECONDS:.0f} s")
        self._refused = text

    def close(self) -> None:
        """End the workers and the scheduler."""
        with contextlib.suppress(Exception):
            self._cluster.close(timeout=20)
        if self._folder is not None:
            self._folder.cleanup()


async def _replace(cluster: Any) -> None:
    from distributed.core import Status

    for name, worker in list(cluster.workers.items()):
        # Dask counts a job that could not be submitted as one that is there.
        if worker.status in (Status.created, Status.failed):
            del cluster.workers[name]
    await cluster
