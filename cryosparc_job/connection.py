"""The connection to a CryoSPARC server, and calls that are repeated when the network fails."""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from cryosegnet_ext.errors import UsageError

from .address import clean_url, default_url, sends_login_openly
from .client import check_server, require_client
from .errors import ServerError

if TYPE_CHECKING:
    from .client import Client

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 120
_PATIENCE_SECONDS = 300.0
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0

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


def connect(
    url: str | None = None,
    *,
    prompt: bool = True,
    patience: float = _PATIENCE_SECONDS,
) -> Connection:
    """Connect to a CryoSPARC server.

    The login comes from CRYOSPARC_EMAIL and CRYOSPARC_PASSWORD, else from the login that
    ``python -m cryosparc.tools login`` saved for exactly this address, else from a prompt. CryoSPARC 4.7 also needs the
    license, from CRYOSPARC_LICENSE_ID or a prompt, and saves no logins. There is no argument for it, so that it is not
    stored in a shell history or a notebook and not shown in a process list.

    Parameters
    ----------
    url
        Web address of CryoSPARC; by default that of `address.default_url`.
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
    installed = require_client()
    address = clean_url(url or default_url())
    with warnings.catch_warnings():
        # The client warns of versions, which are compared here, and of what its errors say.
        warnings.simplefilter("ignore")
        _in_thread(check_server, address, installed, os.environ.get("CRYOSPARC_LICENSE_ID"))
        kind = _kind(installed)
        if sends_login_openly(address):
            log.warning("%s: %s", address, kind.openly)
        login = kind.login(address, prompt)
        client = _in_thread(kind.connect, address, login, _TIMEOUT_SECONDS, installed)
    # The client warns each time a call fails; `Connection.call` reports the result.
    warnings.filterwarnings("ignore", message=r"\*\*\* (API client|CommandClient)", category=UserWarning)
    return Connection(client, address, patience)


def _kind(installed: str) -> Any:
    if installed.startswith("4."):
        from .client4 import Client4

        return Client4
    from .client5 import Client5

    return Client5


class Connection:
    """A login at a CryoSPARC server.

    Attributes
    ----------
    client
        The calls by which the versions of CryoSPARC differ.
    cs
        The client of cryosparc-tools.
    url
        The server's address.
    patience
        Seconds for which a call is repeated while the network or the server is down.
    """

    def __init__(self, client: Client, url: str, patience: float) -> None:
        self.client = client
        self.url = url
        self.patience = patience

    @property
    def cs(self) -> Any:
        """The client of cryosparc-tools."""
        return self.client.cs

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

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
                problem = error if isinstance(error, ServerError) else self.client.explain(error, what)
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
