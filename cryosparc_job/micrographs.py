"""The micrographs of a project: from its folder if it is mounted here, else downloaded into a cache of bounded size."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.atomic import TEMPORARY_PREFIX, atomic_path
from cryosegnet_ext.files.micrograph import Micrograph, read_micrograph
from cryosegnet_ext.runs.prefetch import Prefetcher

from .connection import Connection
from .errors import ServerError
from .locations import Exposure

CACHE_BYTES = 20 * 2**30
#: So many files are fetched ahead and wait to be picked; one more is being fetched.
_FETCHED_AHEAD = 4


@dataclass(frozen=True)
class FetchedExposure:
    """An exposure with its file on this machine, or with the error of fetching it."""

    exposure: Exposure
    path: Path | None = None
    error: Exception | None = None


class ProjectMicrographs:
    """Reads the micrographs of a project.

    Parameters
    ----------
    connection, project
        The server, and the project's uid.
    cache
        Folder for downloaded micrographs.
    cache_bytes
        Size limit of the cache, not counting micrographs in progress. The file used longest ago is removed first.
    download
        True: download even if the project's folder is mounted; False: never; None: only if it is not mounted.
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
        directory = connection.call("asking for the project's folder", connection.client.project_folder, project)
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
            With CryoSPARC's pixel size, if there is one.

        Raises
        ------
        ServerError
            The server or the network failed; the micrograph itself may be good.
        CryoSegNetError
            The micrograph is missing, damaged, out of reach, or its shape is not the one that CryoSPARC has.
        """
        return self._read(exposure)[1]

    def fetch(self, exposure: Exposure, verify: bool = False) -> Path:
        """Get an exposure's micrograph as a file on this machine, for processes that have no connection to the server.

        A download is read once, since it may be incomplete. It stays in the cache until `release`.

        Parameters
        ----------
        exposure
            Its micrograph is fetched.
        verify
            Read the file even if it is not a download.

        Raises
        ------
        ServerError, CryoSegNetError
            As `read`.
        """
        target = self._target(exposure)
        with self._lock:
            self._held[target] += 1
        try:
            if not verify:
                path, downloaded = self._find(exposure)
                if not downloaded:
                    return path
            return self._read(exposure)[0]
        except BaseException:
            self.release(exposure)
            raise

    def called(self, exposure: Exposure) -> str:
        """The name with which an exposure's micrograph is read: its file in the project or in the cache."""
        local = self.directory / exposure.path
        return str(local if self._download is not True and local.is_file() else self._target(exposure))

    def prefetcher(self, exposures: Sequence[Exposure]) -> Prefetcher[Exposure, FetchedExposure]:
        """Fetches the micrographs of exposures in a thread, in order, a few ahead of the one that is taken."""

        def fetch(exposure: Exposure) -> FetchedExposure:
            try:
                return FetchedExposure(exposure, self.fetch(exposure))
            except Exception as error:
                return FetchedExposure(exposure, error=error)

        return Prefetcher(fetch, exposures, _FETCHED_AHEAD, "fetch micrographs")

    def release(self, exposure: Exposure) -> None:
        """Allow the cache to remove a file; call it once for each `fetch`."""
        target = self._target(exposure)
        with self._lock:
            self._held[target] -= 1
            if self._held[target] <= 0:
                del self._held[target]
            if not self._held and self.cache.is_dir():
                self._evict()

    def check_shape(self, exposure: Exposure, shape: tuple[int, ...]) -> None:
        """Check that ``shape``, (ny, nx), of a micrograph is the one that CryoSPARC has.

        Raises
        ------
        CryoSegNetError
            It is another one.
        """
        if exposure.shape is not None and exposure.shape != tuple(shape):
            raise CryoSegNetError(
                f"{exposure.path} has {shape[0]} rows and {shape[1]} columns and CryoSPARC says {exposure.shape[0]} "
                f"and {exposure.shape[1]}: the file was replaced after the import; import it again."
            )

    def _read(self, exposure: Exposure) -> tuple[Path, Micrograph]:
        path, downloaded = self._find(exposure)
        try:
            micrograph = read_micrograph(path, pixel_size=exposure.pixel_size)
        except CryoSegNetError:
            if not downloaded:
                raise
            # A download may be incomplete without an error. If the second one fails too, the file itself is damaged.
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
            raise CryoSegNetError(
                f"{local} does not exist on this machine: mount the project's folder, or leave out --no-download."
            )
        return self._downloaded(exposure), True

    def _downloaded(self, exposure: Exposure) -> Path:
        """The downloaded file; from the cache if it is there."""
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
        try:
            with open(target, "wb") as file:
                for chunk in self.connection.client.chunks(self.project, path):
                    file.write(chunk)
        except OSError as error:
            raise self._unwritable(error) from error

    def _make_folder(self) -> None:
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> ServerError:
        # A ServerError, since the exposure itself may be good and must not be left out.
        return ServerError(
            f"The cache folder {self.cache} cannot be written ({error.strerror}): make room there, or choose another "
            "with --cache."
        )

    def _evict(self, keep: Path | None = None) -> None:
        """Remove the files used longest ago until the cache is within its size limit.

        Files that were fetched and not released stay, and so do the two newest, which `read` may be using.
        """
        with self._lock:
            files = []
            for file in self.cache.iterdir():
                with contextlib.suppress(OSError):
                    status = file.stat()
                    if not file.name.startswith(TEMPORARY_PREFIX):
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
