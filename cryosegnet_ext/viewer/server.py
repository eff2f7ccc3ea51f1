"""The server of ``cryosegnet view``.

It listens on this machine only, unless told otherwise. It answers only with the token of the address, and names files
by number, never by path.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import re
import secrets
import socket
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .._version import __version__
from ..errors import CryoSegNetError
from ..report.page import make_page
from .session import ViewSession

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_EVERYWHERE = ("", "0.0.0.0", "::")
_MOST_BODY = 16 << 20
_TIMEOUT_SECONDS = 30
_TILE = re.compile(r"tile/(\d{1,6})/(\d)/(\d{1,4})/(\d{1,4})/(\d{1,4})")
_LENGTH = re.compile(r"[0-9]{1,12}")  # int() fails on 5000 digits
_ONE = re.compile(r"(thumbnail|save|discard|mark|crops)/(\d{1,6})")


class PageServer(ThreadingHTTPServer):
    """Serves a page to a browser that has the token.

    Parameters
    ----------
    handler
        Answers the requests.
    host, port
        Where to listen; port 0 takes a free one.

    Raises
    ------
    CryoSegNetError
        The server cannot listen on this address.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, handler: type[PageHandler], host: str, port: int) -> None:
        self.token = secrets.token_urlsafe(24)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), handler)
        except (OSError, TypeError, UnicodeError) as error:  # not OSError: the host cannot be a name
            reason = getattr(error, "strerror", None) or error
            raise CryoSegNetError(
                f"cannot listen on {host}:{port} ({reason}): choose another --port or --host."
            ) from error
        self.host = host
        self.names = _names_of(host, self.server_port)

    @property
    def address(self) -> str:
        """The page's address, with the token."""
        name = socket.gethostname() if self.host in _EVERYWHERE else self.host
        return f"http://{f'[{name}]' if ':' in name else name}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore browsers that disconnect; log anything else in one line."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):
            _report(error)


class ViewServer(PageServer):
    """Serves one session to a browser.

    Parameters
    ----------
    session
        The micrographs and their picks.
    host, port
        As for `PageServer`, which says what is raised.
    """

    def __init__(self, session: ViewSession, host: str = "127.0.0.1", port: int = 0) -> None:
        self.session = session
        super().__init__(_ViewHandler, host, port)


def _report(error: BaseException | None) -> None:
    log.error(f"{type(error).__name__}: {error}")
    log.debug("the error comes from here:", exc_info=True)


def _names_of(host: str, port: int) -> set[str]:
    """Allowed Host headers. A foreign page that points its own name at this address sends another one."""
    names = {host, *LOOPBACK}
    if host in _EVERYWHERE:
        names |= {socket.gethostname(), socket.getfqdn()}
        with contextlib.suppress(OSError):
            names |= {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)}
    return {f"{f'[{name}]' if ':' in name else name}:{port}".lower() for name in names}


class PageHandler(BaseHTTPRequestHandler):
    """Answers whoever has the token, with headers that keep other pages away."""

    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = f"cryosegnet/{__version__}", ""
    timeout = _TIMEOUT_SECONDS

    def do_GET(self) -> None:
        """The page and the pictures."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Saving; needs the token in a header too, which pages of other sites cannot send."""
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the address holds the token."""

    def _answer(self, work: Callable[[str], tuple[str, bytes]]) -> None:
        try:
            status, (kind, body) = HTTPStatus.OK, work(self._allowed())
        except (Refused, CryoSegNetError) as error:
            status = error.status if isinstance(error, Refused) else HTTPStatus.UNPROCESSABLE_ENTITY
            kind, body = "text/plain; charset=utf-8", str(error).encode(errors="replace")
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:
            _report(error)
            status, kind = HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8"
            body = b"the server failed; the terminal of cryosegnet view says why"
        self._send(status, kind, body)

    def _allowed(self) -> str:
        """The path below the token."""
        if self.headers.get("Host", "").lower() not in self.server.names:
            raise Refused(HTTPStatus.MISDIRECTED_REQUEST, "this server does not have that name")
        token, _, path = self.path.lstrip("/").partition("/")
        if not hmac.compare_digest(token.encode(errors="replace"), self.server.token.encode()):
            raise Refused(HTTPStatus.NOT_FOUND, "nothing here; use the address that cryosegnet view has printed")
        return path

    def _get(self, path: str) -> tuple[str, bytes]:
        """The kind and the bytes of what lies at a path below the token; raises `Refused`."""
        raise NotImplementedError

    def _post(self, path: str) -> tuple[str, bytes]:
        """The answer to what was sent; nothing can be sent to a page that only shows."""
        raise Refused(HTTPStatus.NOT_FOUND, "nothing here")

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not _LENGTH.fullmatch(length) or int(length) > _MOST_BODY:
            self.close_connection = True
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is too large or has no length")
        return self.rfile.read(int(length))

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        if status != HTTPStatus.OK:
            # The rest of a refused request must not be read as the next request.
            self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "private, max-age=600" if kind == "image/jpeg" else "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)


class _ViewHandler(PageHandler):
    server: ViewServer

    def _get(self, path: str) -> tuple[str, bytes]:
        session = self.server.session
        if path == "":
            return "text/html; charset=utf-8", make_page(session.data, session.view(self.server.token))
        if match := _TILE.fullmatch(path):
            number, level, column, row, lowpass = map(int, match.groups())
            return "image/jpeg", session.tile(number, level, column, row, lowpass)
        if (match := _ONE.fullmatch(path)) and match[1] == "thumbnail":
            return "image/jpeg", session.thumbnail(int(match[2]))
        raise Refused(HTTPStatus.NOT_FOUND, "nothing here")

    def _post(self, path: str) -> tuple[str, bytes]:
        token = self.headers.get("X-CryoSegNet-Token", "")
        if not hmac.compare_digest(token.encode(errors="replace"), self.server.token.encode()):
            raise Refused(HTTPStatus.FORBIDDEN, "the token is missing")
        body = self._body()
        if path == "common":
            return "application/json", json.dumps(self.server.session.common(*_fields(body, "sets"))).encode()
        match = _ONE.fullmatch(path)
        if match is None or match[1] == "thumbnail":
            raise Refused(HTTPStatus.NOT_FOUND, "nothing here")
        number = int(match[2])
        if match[1] == "crops":
            return "image/jpeg", self.server.session.crops(number, *_fields(body, "picks", "width"))
        if match[1] == "discard":
            answer = self.server.session.discard(number)
        elif match[1] == "mark":
            answer = self.server.session.mark(number, *_fields(body, "pick", "verdict"))
        else:
            answer = self.server.session.save(number, *_fields(body, "picks"))
        return "application/json", json.dumps(answer).encode()


def _fields(body: bytes, *names: str) -> list[Any]:
    """These fields of a request."""
    try:
        sent = json.loads(body)
        return [sent[name] for name in names]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Refused(HTTPStatus.BAD_REQUEST, f"no {' and '.join(names)} in the request") from error


class Refused(Exception):
    """A request that is not answered: its status and the reason."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
