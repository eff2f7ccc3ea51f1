"""Where the pixels come from: the project's folder where it is mounted, else the server, through a bounded cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.atomic import atomic_path
from cryosegnet_ext.files.micrograph import Micrograph, read_micrograph
from cryosegnet_ext.runs.reading import Prefetcher

from .connection import Connection
from .errors import ServerError
from .locations import Exposure

CACHE_BYTES = 20 * 2**30
#: Files that were fetched ahead and wait to be picked; one more is on its way.
_FETCHED_AHEAD = 4


@dataclass(frozen=True)
class FetchedExposure:
    """An exposure and its file on this machine, or the error that kept the file away."""

    exposure: Exposure
    path: Path | None = None
    error: Exception | None = None


class ProjectMicrographs:
    """Reads the micrographs of a project.

    Parameters
    ----------
    connection, project
        The server and the project's identifier.
    cache
        Folder for downloaded micrographs.
    cache_bytes
        Most it may hold, besides what is being picked; the file that was used longest ago goes first.
    download
        True: download even where the project's folder is mounted; None: only where it is not.
    """

    def __init__(
        self,
        connection: Connection,
        project: str,
        cache: Path,
        cache_bytes: int = CACHE_BYTES,
        download: bool | None = None,
    ) -> None:
        self.connection = connection
        self.project = project
        directory = connection.call("asking for the project's folder", connection.api.projects.get_directory, project)
        self.directory = Path(str(directory))
        self._key = hashlib.sha256(f"{connection.url}\n{project}\n{directory}".encode()).hexdigest()[:16]
        self.cache = cache / self._key
        self.cache_bytes = cache_bytes
        self._download = download
        self._lock = threading.RLock()
        self._held: Counter[Path] = Counter()

    def read(self, exposure: Exposure) -> Micrograph:
        """Read the micrograph of an exposure.

        Returns
        -------
        Micrograph
            With CryoSPARC's pixel size where it gives one.

        Raises
        ------
        ServerError
            The server or the network failed: nothing is wrong with the micrograph.
        CryoSegNetError
            The micrograph is missing, damaged, of another shape than CryoSPARC says, or out of reach.
        """
        return self._read(exposure)[1]

    def bring(self, exposure: Exposure, look: bool = False) -> Path:
        """See that an exposure's micrograph is in a file on this machine, for a process that cannot ask the server.

        A download has been read once, since it can be cut short; it stays in the cache until `release`.

        Parameters
        ----------
        exposure
            Whose micrograph.
        look
            Read also a file that is not a download.

        Raises
        ------
        ServerError, CryoSegNetError
            As `read`.
        """
        target = self._target(exposure)
        with self._lock:
            self._held[target] += 1
        try:
            if not look:
                path, downloaded = self._find(exposure)
                if not downloaded:
                    return path
            return self._read(exposure)[0]
        except BaseException:
            self.release(exposure)
            raise

    def prefetcher(self, exposures: Sequence[Exposure]) -> Prefetcher[Exposure, FetchedExposure]:
        """Brings the files of exposures, in their order and in a thread, a few ahead of what was taken."""

        def fetch(exposure: Exposure) -> FetchedExposure:
            try:
                return FetchedExposure(exposure, self.bring(exposure))
            except Exception as error:
                return FetchedExposure(exposure, error=error)

        return Prefetcher(fetch, exposures, _FETCHED_AHEAD, "fetch micrographs")

    def release(self, exposure: Exposure) -> None:
        """Say that a file is not needed any more: once for each time that `bring` gave it."""
        target = self._target(exposure)
        with self._lock:
            self._held[target] -= 1
            if self._held[target] <= 0:
                del self._held[target]
            if not self._held and self.cache.is_dir():
                self._evict()

    def check_shape(self, exposure: Exposure, shape: tuple[int, ...]) -> None:
        """See that a micrograph, of ``shape`` (ny, nx), is as large as CryoSPARC says.

        Raises
        ------
        CryoSegNetError
            It is not.
        """
        if exposure.shape is not None and exposure.shape != tuple(shape):
            raise CryoSegNetError(
                f"{exposure.path} has {shape[0]} rows and {shape[1]} columns and CryoSPARC says {exposure.shape[0]} "
                f"and {exposure.shape[1]}: the file is not the one that was imported."
            )

    def _read(self, exposure: Exposure) -> tuple[Path, Micrograph]:
        path, downloaded = self._find(exposure)
        try:
            micrograph = read_micrograph(path, pixel_size=exposure.pixel_size)
        except CryoSegNetError:
            if not downloaded:
                raise
            # A download can be cut short without notice; what comes a second time is the file itself.
            path.unlink(missing_ok=True)
            path, _ = self._find(exposure)
            micrograph = read_micrograph(path, pixel_size=exposure.pixel_size)
        self.check_shape(exposure, micrograph.data.shape)
        return path, micrograph

    def _find(self, exposure: Exposure) -> tuple[Path, bool]:
        if not exposure.path:
            raise CryoSegNetError(f"Exposure {exposure.uid} has no micrograph: motion-correct it first.")
        local = self.directory / exposure.path
        if self._download is not True and local.is_file():
            return local, False
        if self._download is False:
            raise CryoSegNetError(f"{local} is not here: mount the project's folder or leave out --no-download.")
        return self._fetch(exposure), True

    def _fetch(self, exposure: Exposure) -> Path:
        """The downloaded file, from the cache where it is there."""
        target = self._target(exposure)
        if target.is_file():
            with contextlib.suppress(OSError):
                os.utime(target)
            return target
        self._make_folder()
        try:
            with atomic_path(target) as temporary:
                self.connection.call(f"downloading {exposure.path}", self._save, exposure.path, temporary)
        except ServerError as error:
            if error.code in (400, 403, 404):
                outside = "CryoSPARC does not send links to files outside the project"
                raise CryoSegNetError(
                    f"{exposure.path} cannot be downloaded ({error.code}; {outside}): run this where the project's "
                    f"folder {self.directory} is mounted."
                ) from error
            raise
        self._evict(target)
        return target

    def _target(self, exposure: Exposure) -> Path:
        """The micrograph's place in the cache."""
        digest = hashlib.sha256(exposure.path.encode()).hexdigest()[:24]
        suffix = "".join(PurePosixPath(exposure.path).suffixes[-2:])
        return self.cache / f"{digest}{suffix[-12:]}"

    def _save(self, path: str, target: Path) -> None:
        stream: Any = self.connection.api.projects.download_file(self.project, path=path)
        try:
            with open(target, "wb") as file:
                for chunk in stream.stream():
                    file.write(chunk)
        except OSError as error:
            raise self._unwritable(error) from error

    def _make_folder(self) -> None:
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> ServerError:
        # Nothing is wrong with the exposure, which must not be left out for it.
        return ServerError(
            f"The cache folder {self.cache} cannot be written ({error.strerror}): make room there, or choose another "
            "with --cache."
        )

    def _evict(self, keep: Path | None = None) -> None:
        """Remove the files used longest ago until the cache is within its bounds.

        What is held stays, and the two newest do, for those who read without holding.
        """
        with self._lock:
            files = []
            for file in self.cache.iterdir():
                with contextlib.suppress(OSError):
                    status = file.stat()
                    if not file.name.startswith(".tmp-"):
                        files.append((status.st_mtime_ns, status.st_size, file))
            files.sort()
            total = sum(size for _, size, _ in files)
            for _, size, file in files[:-2]:
                if total <= self.cache_bytes:
                    break
                if file != keep and file not in self._held:
                    with contextlib.suppress(OSError):
                        file.unlink()
                        total -= size

    def clear(self) -> None:
        """Remove what was downloaded for this project."""
        shutil.rmtree(self.cache, ignore_errors=True)
