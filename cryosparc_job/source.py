"""Where the pixels come from: the project's folder where it is mounted, else the server, through a bounded cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
from pathlib import Path, PurePosixPath
from typing import Any

from cryosegnet_ext.atomic import atomic_path
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.micrograph import Micrograph, read_micrograph

from .connection import Connection
from .errors import ServerError
from .locations import Exposure

CACHE_BYTES = 20 * 2**30


class Source:
    """Reads the micrographs of a project.

    Parameters
    ----------
    connection, project
        The server and the project's identifier.
    cache
        Folder for downloaded micrographs.
    cache_bytes
        Most it may hold; the file that was used longest ago goes first.
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
        self._lock = threading.Lock()

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
        ny, nx = micrograph.data.shape
        if exposure.shape not in (None, (ny, nx)):
            assert exposure.shape is not None
            raise CryoSegNetError(
                f"{exposure.path} has {ny} rows and {nx} columns and CryoSPARC says {exposure.shape[0]} and "
                f"{exposure.shape[1]}: the file is not the one that was imported."
            )
        return micrograph

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
        digest = hashlib.sha256(exposure.path.encode()).hexdigest()[:24]
        suffix = "".join(PurePosixPath(exposure.path).suffixes[-2:])
        target = self.cache / f"{digest}{suffix[-12:]}"
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

    def _save(self, path: str, target: Path) -> None:
        stream: Any = self.connection.api.projects.download_file(self.project, path=path)
        with open(target, "wb") as file:
            for chunk in stream.stream():
                file.write(chunk)

    def _make_folder(self) -> None:
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ServerError(
                f"The cache folder {self.cache} cannot be made ({error.strerror}): choose another with --cache."
            ) from error

    def _evict(self, keep: Path) -> None:
        """Remove the files used longest ago until the cache is within its bounds; two newest stay for the reader."""
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
                if file != keep:
                    with contextlib.suppress(OSError):
                        file.unlink()
                        total -= size

    def clear(self) -> None:
        """Remove what was downloaded for this project."""
        shutil.rmtree(self.cache, ignore_errors=True)
