"""The address of a CryoSPARC server, and which generation answers there: asked before any login is sent."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from cryosegnet_ext.errors import CryoSegNetError

DEFAULT_PORT = 39000
#: Where a server of version 5 describes its calls, for everybody.
_DESCRIPTION = "/api/cmd/openapi.json"
#: command_core of version 4 listens at the base port plus this.
_COMMAND_CORE = 2
_SECONDS = 10.0
_FAILURES = (OSError, http.client.HTTPException, ValueError)


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
        return f"http://{host or 'localhost'}:{port or DEFAULT_PORT}"
    raise CryoSegNetError("No CryoSPARC is given: add --url http://master:39000 or set CRYOSPARC_BASE_URL.")


def sends_login_openly(address: str) -> bool:
    """Whether anybody in the network between can read the login: http to another machine.

    >>> sends_login_openly("http://master:39000"), sends_login_openly("http://localhost:39000")
    (True, False)
    """
    parts = urlsplit(address)
    here = ("localhost", "::1", socket.gethostname().lower(), socket.getfqdn().lower())
    host = parts.hostname or ""
    return parts.scheme == "http" and host not in here and not re.fullmatch(r"127(\.\d+){3}", host)


def host_and_port(address: str) -> tuple[str, int]:
    """Host and base port of an address, as version 4 needs them.

    Raises
    ------
    CryoSegNetError
        The port is not a number, or version 4 cannot be reached in this way.
    """
    parts = urlsplit(address)
    try:
        port = parts.port or DEFAULT_PORT
    except ValueError:
        port = 0
    # The two ports of the command servers follow it.
    if parts.scheme != "http" or parts.path or not parts.hostname or not 0 < port < 65531:
        raise CryoSegNetError(
            f"{address} is not an address of CryoSPARC 4.7, whose client needs a host and the base port: write it as "
            "in http://master:39000."
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return host, port


def describes_version_5(address: str) -> bool:
    """Whether a server of version 5 or newer answers, which describes its calls without a login."""
    try:
        with urllib.request.urlopen(address + _DESCRIPTION, timeout=_SECONDS) as reply:
            start = reply.read(4096).lstrip()
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except _FAILURES:
        return False
    return bool(start.startswith(b"{") and b'"openapi"' in start)


def version_4(address: str, license_id: str | None) -> str | None:
    """Version of a server of version 4, such as ``v4.7.1``; ``v4`` if it is not told without the license.

    Returns
    -------
    str or None
        None if no such server answers.
    """
    try:
        host, port = host_and_port(address)
        core = f"http://{host}:{port + _COMMAND_CORE}"
        with urllib.request.urlopen(core, timeout=_SECONDS) as reply:
            if b"cryosparc" not in reply.read(4096).lower():
                return None
    except urllib.error.HTTPError as error:
        error.close()
        # It may want the license even for its greeting.
        if error.code not in (401, 403):
            return None
    except (CryoSegNetError, *_FAILURES):
        return None
    return (_running_version(core, license_id) if license_id else None) or "v4"


def _running_version(core: str, license_id: str) -> str | None:
    """Version that command_core tells to those who know the license."""
    body = {"jsonrpc": "2.0", "method": "get_running_version", "params": [], "id": "version"}
    headers = {"Content-Type": "application/json", "License-ID": license_id, "Originator": "client"}
    request = urllib.request.Request(f"{core}/api", json.dumps(body).encode(), headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as reply:
            answer: Any = json.load(reply)
    except urllib.error.HTTPError as error:
        error.close()
        return None
    except _FAILURES:
        return None
    version = answer.get("result") if isinstance(answer, dict) else None
    return version if isinstance(version, str) and re.match(r"v?\d", version) else None
