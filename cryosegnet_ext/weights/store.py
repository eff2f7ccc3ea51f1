"""The cache of named weights: find, download, or import them; every file is checked by its sha256."""

from __future__ import annotations

import gzip
import logging
import os
import shutil
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..errors import CryoSegNetError, UsageError
from .files import first_line, load_state_dict
from .sources import SOURCES, cache_folder, expected_sha256, location, named, record_of, sha256_of

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 60


def resolve(name_or_path: str | Path, *, download: bool = True) -> Path:
    """Find the file of weights given by name or by path.

    Parameters
    ----------
    name_or_path
        A key of `SOURCES`, or the user's own file. A name wins over a file of the same name: write ``./default`` for
        the file.
    download
        Download named weights that are not in the cache yet, unless ``$CRYOSEGNET_OFFLINE`` (anything but 0, no or
        false) forbids it.

    Raises
    ------
    UsageError
        No such name or file.
    CryoSegNetError
        The download failed or is forbidden, or the cached file has changed.
    """
    name = str(name_or_path)
    if name not in SOURCES:
        path = Path(name_or_path).expanduser()
        if path.is_file():
            return path
        raise UsageError(f"no weights file {name}, and no weights of that name; names are {', '.join(SOURCES)}")
    path = location(name)
    if not path.is_file():
        if SOURCES[name].url is None:
            raise CryoSegNetError(f"the built-in weights '{name}' are missing at {path}: install the package again")
        if not download:
            raise CryoSegNetError(
                f"weights '{name}' are not in {path.parent}: run 'cryosegnet weights download {name}'"
            )
        if os.environ.get("CRYOSEGNET_OFFLINE", "").lower() not in ("", "0", "no", "false"):
            raise CryoSegNetError(
                f"weights '{name}' are not in {path.parent}, and CRYOSEGNET_OFFLINE forbids downloads: "
                f"run 'cryosegnet weights import {name} FILE', or unset it"
            )
        return fetch(name)
    expected = expected_sha256(name)
    if expected is not None and sha256_of(path) != expected:
        raise CryoSegNetError(
            f"{path} is damaged (its sha256 is not {expected}): "
            f"delete it and run 'cryosegnet weights download {name}' again"
        )
    return path


def fetch(name: str) -> Path:
    """Download named weights into the cache, even if they are there; terminals show a progress bar.

    Parameters
    ----------
    name
        A key of `SOURCES` that has an address.

    Returns
    -------
    Path
        The file, complete and checked. A failed download leaves no file behind.

    Raises
    ------
    CryoSegNetError
        The weights are built in; there is no network, no such address or no space; or the file is not the published
        one.
    """
    source = named(name)
    if source.url is None:
        raise UsageError(f"weights '{name}' are built in: there is nothing to download")
    import pooch
    import requests

    by_hand = f"fetch {source.url} by hand and run 'cryosegnet weights import {name} FILE'"
    pooch.get_logger().setLevel("WARNING")  # `_announce` says the same
    download = pooch.HTTPDownloader(
        progressbar=sys.stderr is not None and sys.stderr.isatty(),
        chunk_size=1 << 20,
        timeout=_TIMEOUT_SECONDS,
        hooks={"response": partial(_announce, name)},
    )
    with _workplace(name) as folder:
        try:
            file = pooch.retrieve(source.url, source.sha256, "download", folder, downloader=download)
        except requests.RequestException as error:
            reason = _why_not(error, source.url)
            raise CryoSegNetError(f"cannot download weights '{name}', because {reason}: {by_hand}") from error
        except ValueError as error:  # another hash, says pooch
            raise CryoSegNetError(
                f"what {source.url} sent is not the published file (its sha256 is not {source.sha256}): {by_hand}"
            ) from error
        return _install(name, Path(file), folder, source.url)


def adopt(name: str, file: str | Path) -> Path:
    """Import a file that the user downloaded, as the weights called ``name``.

    Parameters
    ----------
    name
        A key of `SOURCES` that has an address.
    file
        The weights, or the archive that the address gives.

    Raises
    ------
    CryoSegNetError
        The weights are built in; or the file is missing, is not the published one, or holds other weights.
    """
    if named(name).url is None:
        raise UsageError(f"weights '{name}' are built in: pass your own file by its path instead")
    path = Path(file).expanduser()
    if not path.is_file():
        raise UsageError(f"no such file: {path}")
    with _workplace(name) as folder:
        return _install(name, path, folder, str(path))


@contextmanager
def _workplace(name: str) -> Iterator[Path]:
    """A folder in the cache for incomplete files; it is removed in any case."""
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache) as folder:
            yield Path(folder)
    except OSError as error:
        raise CryoSegNetError(
            f"cannot keep weights '{name}' in {cache} ({error.strerror or error}): "
            "make room there, or set CRYOSEGNET_CACHE to a folder that you may write to"
        ) from error


def _announce(name: str, response: requests.Response, **_: object) -> None:
    """Log size and source once the server answers with the file."""
    if not response.ok:
        response.close()  # pooch leaves it open
    elif not response.is_redirect:
        count = int(response.headers.get("content-length", 0))
        size = (
            f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB" if count else "a file of unknown size"
        )
        url, target = SOURCES[name].url, location(name)
        log.info(f"downloading weights '{name}': {size} from {url} to {target}")


def _why_not(error: requests.RequestException, url: str) -> str:
    """Why a download failed, as the end of a sentence. The library's own texts are long and hold memory addresses."""
    import requests

    host = urlsplit(url).netloc
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"{host} answers {error.response.status_code} {error.response.reason}".rstrip()
    # from the special to the general
    reasons = {
        requests.exceptions.ProxyError: f"the proxy refuses the connection to {host}",
        requests.exceptions.SSLError: f"the certificate of {host} is not trusted here",
        requests.Timeout: f"{host} did not answer within {_TIMEOUT_SECONDS} s",
        requests.exceptions.ChunkedEncodingError: f"the connection to {host} broke off",
        requests.ConnectionError: f"{host} cannot be reached from here",
    }
    return next((reason for kind, reason in reasons.items() if isinstance(error, kind)), first_line(error))


def _install(name: str, file: Path, folder: Path, origin: str) -> Path:
    """Check ``file``, which came from ``origin``, and move or copy it into the cache by way of ``folder``."""
    source, target = SOURCES[name], location(name)
    part = folder / source.file
    if source.member is not None and tarfile.is_tarfile(file):
        _extract(file, source.member, part, origin)
    elif file.parent == folder:
        file.replace(part)
    else:
        shutil.copyfile(file, part)
    digest = sha256_of(part)
    if source.sha256 is not None and digest != source.sha256:
        raise CryoSegNetError(
            f"{origin} is not the published file of '{name}': its sha256 is {digest}, not {source.sha256}"
        )
    if source.sha256 is None:
        try:
            state = load_state_dict(part)
        except CryoSegNetError as error:
            raise CryoSegNetError(str(error).replace(str(part), f"what {origin} holds")) from error
        if "e1.conv.conv.0.weight" not in state:
            raise CryoSegNetError(f"{origin} does not hold CryoSegNet's U-Net")
    record = folder / "sha256"
    record.write_text(f"{digest}  {source.file}\n", encoding="ascii")
    part.chmod(0o644)
    part.replace(target)
    record.replace(record_of(target))
    return target


def _extract(archive: Path, member: str, target: Path, origin: str) -> None:
    """Write one plain file of a tar archive to ``target``. No path in the archive decides where it is written."""
    try:
        with tarfile.open(archive) as tar:
            for entry in tar:
                if entry.isfile() and entry.name.removeprefix("./") == member:
                    stream = tar.extractfile(entry)
                    assert stream is not None  # isfile
                    with stream, open(target, "wb") as out:
                        shutil.copyfileobj(stream, out, 1 << 20)
                    return
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CryoSegNetError(f"the archive {origin} is damaged or incomplete: fetch it again") from error
    raise CryoSegNetError(f"the archive {origin} does not hold {member}")
