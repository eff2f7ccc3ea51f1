"""The connection to a CryoSPARC server: versions, the login, and calls that are repeated when the network fails."""

from __future__ import annotations

import getpass
import importlib.metadata
import json
import logging
import os
import queue
import re
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from cryosegnet_ext.errors import CryoSegNetError, UsageError

from .errors import Expired, ServerError

if TYPE_CHECKING:
    from cryosparc.tools import CryoSPARC

log = logging.getLogger(__name__)

SUPPORTED = "5.0"
INSTALL = f'pip install "cryosparc-tools>={SUPPORTED},<5.1"'

_TIMEOUT_SECONDS = 120
_PATIENCE_SECONDS = 300.0
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_LONGEST_DETAIL = 300

T = TypeVar("T")


@dataclass(frozen=True)
class OutputName:
    """An output of a job, written ``J12:exposures``."""

    job: str
    output: str

    def __str__(self) -> str:
        return f"{self.job}:{self.output}"

    @classmethod
    def parse(cls, text: str) -> OutputName:
        """Read ``J12:exposures``.

        Raises
        ------
        UsageError
            The text is not the name of an output.
        """
        match = re.fullmatch(r"(J\d+)[:.]([A-Za-z]\w*)", text.strip())
        if match is None:
            raise UsageError(f"{text} is not an output of a job: write the job and the output, as in J12:exposures.")
        return cls(match[1], match[2])


def require_client() -> str:
    """The version of cryosparc-tools.

    Raises
    ------
    CryoSegNetError
        It is not installed, or its version is not supported.
    """
    try:
        version = importlib.metadata.version("cryosparc-tools")
    except importlib.metadata.PackageNotFoundError:
        raise CryoSegNetError(f"cryosparc-tools is not installed: {INSTALL}") from None
    if ".".join(version.split(".")[:2]) != SUPPORTED:
        raise CryoSegNetError(f"cryosparc-tools {version} is not supported: {INSTALL}")
    return version


def clean_url(url: str) -> str:
    """The address in the form that the client needs: with ``http://`` and without a slash at the end.

    >>> clean_url("master:39000/")
    'http://master:39000'
    """
    url = url.strip().rstrip("/")
    # The address is not repeated in errors: there may be a password in it.
    scheme, separator, rest = url.rpartition("://")
    url = f"{scheme.lower() if separator else 'http'}://{rest}"
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", url):
        raise CryoSegNetError(
            "The address of CryoSPARC cannot be used: write it as in http://master:39000, without a login."
        )
    return url


def sends_login_openly(address: str) -> bool:
    """Whether anybody in the network between can read the login: http to another machine.

    >>> sends_login_openly("http://master:39000"), sends_login_openly("http://localhost:39000")
    (True, False)
    """
    parts = urlsplit(address)
    here = ("localhost", "::1", socket.gethostname().lower(), socket.getfqdn().lower())
    host = parts.hostname or ""
    return parts.scheme == "http" and host not in here and not re.fullmatch(r"127(\.\d+){3}", host)


def default_url() -> str:
    """The address in the environment, in the variables that cryosparc-tools itself uses.

    Raises
    ------
    CryoSegNetError
        The environment has no address.
    """
    url = os.environ.get("CRYOSPARC_BASE_URL")
    host, port = os.environ.get("CRYOSPARC_MASTER_HOSTNAME"), os.environ.get("CRYOSPARC_BASE_PORT")
    if url:
        return url
    if host or port:
        return f"http://{host or 'localhost'}:{port or 39000}"
    raise CryoSegNetError("No CryoSPARC is given: add --url http://master:39000 or set CRYOSPARC_BASE_URL.")


def connect(
    url: str | None = None,
    *,
    prompt: bool = True,
    patience: float = _PATIENCE_SECONDS,
) -> Connection:
    """Connect to a CryoSPARC server.

    The login comes from CRYOSPARC_EMAIL and CRYOSPARC_PASSWORD, else from the login that
    ``python -m cryosparc.tools login`` saved for exactly this address, else from a prompt. There is no argument for it,
    so that it is not stored in a shell history or a notebook and not shown in a process list.

    Parameters
    ----------
    url
        Web address of CryoSPARC; by default that of `default_url`.
    prompt
        Ask for the login on the terminal if it is found nowhere else.
    patience
        Seconds for which a call is repeated while the network or the server is down.

    Raises
    ------
    CryoSegNetError
        The client is missing or has the wrong version; the server cannot be reached, has another version, or refuses
        the login.
    """
    require_client()
    with warnings.catch_warnings():
        # The client warns of versions, which are compared below, and of what its errors say.
        warnings.simplefilter("ignore")
        from cryosparc.tools import CryoSPARC

        address = clean_url(url or default_url())
        if sends_login_openly(address):
            log.warning(f"{address}: the login goes to another machine without encryption; use https:// if it can")
        email, password = _login(address, prompt)
        try:
            # Every argument is given: the defaults are those of the environment when the client was imported.
            cs = _in_thread(
                CryoSPARC,
                address,
                host=None,
                base_port=None,
                email=email,
                password=password,
                license=None,
                timeout=_TIMEOUT_SECONDS,
            )
        except RuntimeError as error:
            problem = _explain(error.__cause__ or error, f"connecting to {address}", address)
            if problem.code in (0, 404) and not problem.passing:
                raise CryoSegNetError(f"The server at {address} is not CryoSPARC {SUPPORTED}: check --url.") from None
            raise problem from None
        except ValueError:
            raise CryoSegNetError(f"The saved login for {address} has expired: {_relogin(address)}") from None
    try:
        version: str = _in_thread(cs.api.config.get_version)
    except Exception as error:
        _close(cs)
        raise _explain(error, "asking for the version", address) from error
    if not re.match(rf"v?{re.escape(SUPPORTED)}(\.|$)", version):
        _close(cs)
        raise CryoSegNetError(
            f"CryoSPARC at {address} is {version} and this program supports {SUPPORTED}.x only: "
            f"update CryoSPARC, or import the picks as files (cryosegnet export)."
        )
    # The client warns each time it repeats a call; `Connection.call` reports the result.
    warnings.filterwarnings("ignore", message=r"\*\*\* API client", category=UserWarning)
    return Connection(cs, address, patience)


def _login(address: str, prompt: bool) -> tuple[str | None, str | None]:
    """Email and password; both may be None if a saved login is used."""
    from cryosparc.auth import InstanceAuthSessions

    email, password = os.environ.get("CRYOSPARC_EMAIL") or None, os.environ.get("CRYOSPARC_PASSWORD") or None
    if email and password:
        return email, password
    saved = InstanceAuthSessions.load()
    if saved.find(address, email) is not None:
        return email, None
    if prompt and sys.stdin is not None and sys.stdin.isatty():
        email = email or input(f"Email for {address}: ").strip()
        return email, getpass.getpass("Password: ")
    others = [known for known in saved.root if saved.find(known, email) is not None]
    hint = f" (a login is saved for {', '.join(others)}; the address must be exactly the same)" if others else ""
    raise CryoSegNetError(f"There is no login for {address}{hint}: {_relogin(address)}")


def _relogin(address: str) -> str:
    return f"run python -m cryosparc.tools login --url {address}, or set CRYOSPARC_EMAIL and CRYOSPARC_PASSWORD."


def _close(cs: CryoSPARC) -> None:
    # Private: cryosparc-tools has no close, and would leave the socket to the garbage collector.
    cs.api._client.close()


class Connection:
    """A login at a CryoSPARC server.

    Attributes
    ----------
    cs
        The client of cryosparc-tools.
    url
        The server's address.
    patience
        Seconds for which a call is repeated while the network or the server is down.
    """

    def __init__(self, cs: CryoSPARC, url: str, patience: float) -> None:
        self.cs = cs
        self.url = url
        self.patience = patience

    @property
    def api(self) -> Any:
        """The client's functions."""
        return self.cs.api

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        _close(self.cs)

    def call(
        self, what: str, function: Callable[..., T], *args: Any, patience: float | None = None, **options: Any
    ) -> T:
        """Call the server; repeat the call while the server does not answer.

        Use it only for calls that may be carried out twice: the client itself repeats a call whose reply was lost.

        Parameters
        ----------
        what
            What is being done, for the error, such as "reading the exposures".
        function, args, options
            The call.
        patience
            Seconds; 0: call once. By default the connection's.

        Raises
        ------
        ServerError
            The call failed.
        """
        end = time.monotonic() + (self.patience if patience is None else patience)
        wait = _FIRST_WAIT
        while True:
            try:
                return _in_thread(function, *args, **options)
            except Exception as error:
                problem = _explain(error, what, self.url)
                if not problem.passing or time.monotonic() + wait > end:
                    raise problem from error
            if wait == _FIRST_WAIT:
                log.info("waiting up to %.0f s: %s", end - time.monotonic(), problem)
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)


def _in_thread(function: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call a function of the client in a thread of its own.

    A signal may raise an exception wherever the main thread is. Inside the client this could leave the lock of its
    connections taken: every later call, and closing the client, would then wait forever.
    """
    if threading.current_thread() is not threading.main_thread():
        return function(*args, **options)
    done: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            done.put((function(*args, **options), None))
        except BaseException as error:
            done.put((None, error))

    # A daemon: a server that hangs does not keep the process from ending.
    threading.Thread(target=work, name="call CryoSPARC", daemon=True).start()
    result, error = done.get()
    if error is None:
        return cast(T, result)
    try:
        raise error
    finally:
        del error  # its traceback refers to this frame


def _explain(error: BaseException, what: str, url: str) -> ServerError:
    """An exception of the client as one sentence."""
    import httpx
    from cryosparc.errors import APIError, DatasetLoadError

    if isinstance(error, ServerError):
        return error
    if isinstance(error, APIError):
        if error.code == 401:
            return Expired(f"CryoSPARC refused the login while {what}: {_relogin(url)}", 401)
        passing = error.code >= 500 or error.code == 429
        remedy = "look at CryoSPARC's own log" if passing else "check the names and the job's state in CryoSPARC"
        return ServerError(f"CryoSPARC refused {what} ({error.code}{_detail(error)}): {remedy}.", error.code, passing)
    # If a stream breaks while it is read, the client raises a RuntimeError of its generator.
    torn = isinstance(error, RuntimeError) and "generator" in str(error)
    if torn or isinstance(error, httpx.TransportError | DatasetLoadError | json.JSONDecodeError):
        return ServerError(
            f"The connection to {url} broke while {what}: check the network and that CryoSPARC runs.", 0, True
        )
    text = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_DETAIL]
    return ServerError(f"The reply of CryoSPARC could not be understood while {what} ({text}): please report it.")


def _detail(error: Any) -> str:
    data = error.data
    detail = data.get("detail", data) if isinstance(data, dict) else data
    text = " ".join(str(detail or "").split())[:_LONGEST_DETAIL]
    return f", {text}" if text else ""
