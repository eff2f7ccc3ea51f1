"""Logins, addresses and versions: one sentence each, and no secret in it."""

from __future__ import annotations

import datetime
import importlib.metadata
import logging
import re
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from cryosparc.models.auth import Token

from cryosegnet_ext.cli import running_options
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.runs.stopping import Stopped, stops_at_once
from cryosparc_job import cli
from cryosparc_job.connection import Connection, OutputName, clean_url, connect, require_client, sends_login_openly
from tests.cryosparc_job.helpers import CLIENT, environment
from tests.fake_cryosparc.faults import Fault
from tests.fake_cryosparc.running import RunningServer
from tests.waiting import LIMIT

only_5 = pytest.mark.skipif(CLIENT == "4.7", reason="the client of CryoSPARC 4.7 saves no logins")


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)


def save_login(fake: RunningServer, url: str, token: str = "saved", days: int = 1) -> None:
    from cryosparc.auth import InstanceAuthSessions

    fake.world.tokens.add("saved")
    sessions = InstanceAuthSessions({})
    expires = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
    sessions.insert(url, fake.world.email, Token(access_token=token, token_type="bearer"), expires)
    sessions.save(connection_path())


def connection_path() -> Any:
    from cryosparc.auth import get_default_auth_config_path

    get_default_auth_config_path.cache_clear()
    return get_default_auth_config_path()


def logged_in(connection: Connection) -> bool:
    return bool(connection.cs.user_id) if CLIENT == "4.7" else connection.cs.user.name == "ali"


def healthy(connection: Connection) -> bool:
    return bool(connection.cs.cli.test_connection() if CLIENT == "4.7" else connection.cs.api.health() == "OK")


def test_login_from_the_environment(fake: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(fake).items():
        monkeypatch.setenv(name, value)
    with connect(fake.url) as one:
        assert logged_in(one)


def test_address_from_the_environment(fake: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(fake).items():
        monkeypatch.setenv(name, value)
    host, port = fake.url.removeprefix("http://").split(":")
    monkeypatch.setenv("CRYOSPARC_MASTER_HOSTNAME", host)
    monkeypatch.setenv("CRYOSPARC_BASE_PORT", port)
    with connect() as one:
        assert one.url == fake.url
    monkeypatch.setenv("CRYOSPARC_BASE_URL", fake.url)
    with connect(fake.url + "/") as one:
        assert one.url == fake.url


@only_5
def test_saved_login(fake: RunningServer) -> None:
    save_login(fake, fake.url)
    with connect(fake.url) as one:
        assert logged_in(one)


@only_5
def test_a_login_saved_under_another_spelling_is_named(fake: RunningServer) -> None:
    other = fake.url.replace("127.0.0.1", "localhost")
    save_login(fake, other)
    with pytest.raises(CryoSegNetError, match="a login is saved for http://localhost"):
        connect(fake.url)


def test_prompt(fake: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("builtins.input", lambda prompt: fake.world.email)
    hidden = {"Password: ": fake.world.password}
    monkeypatch.setattr("getpass.getpass", lambda prompt: hidden.get(prompt, fake.world.license))
    with connect(fake.url) as one:
        assert logged_in(one)


@pytest.mark.parametrize(
    "case", ["no login", "wrong password", *(pytest.param(one, marks=only_5) for one in ("expired", "expired there"))]
)
def test_refused_logins_are_one_sentence_without_secrets(
    fake: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    if case == "wrong password":
        for name, value in {**environment(fake), "CRYOSPARC_PASSWORD": "hunter2 secret"}.items():
            monkeypatch.setenv(name, value)
    elif case.startswith("expired"):
        save_login(fake, fake.url, token="old-secret-token", days=-1 if case == "expired" else 1)
    monkeypatch.setattr(running_options, "make_picker", lambda options, device: None)
    words = ["--url", fake.url, "--project", "P1", "--workspace", "W1", "--exposures", "J1:exposures"]
    assert cli.main(["pick", *words]) == 3
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    assert ("CRYOSPARC_LICENSE_ID" if CLIENT == "4.7" else "cryosparc.tools login") in said
    assert "secret" not in said
    assert fake.world.jobs == {}


def test_nobody_listening(fake: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(fake).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CryoSegNetError, match="check the network"):
        connect("http://127.0.0.1:9")


class _Page(BaseHTTPRequestHandler):
    """Some other web server."""

    def do_GET(self) -> None:
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("content-length", "6")
        self.end_headers()
        self.wfile.write(b"<html>")

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("status", [200, 404])
def test_another_web_server(fake: RunningServer, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    for name, value in environment(fake).items():
        monkeypatch.setenv(name, value)
    with HTTPServer(("127.0.0.1", 0), _Page) as server:
        server.status = status  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(CryoSegNetError, match=r"is not CryoSPARC 4\.7 or 5\.0: check --url"):
            # The command server of 4.7 listens two ports higher.
            connect(f"http://127.0.0.1:{server.server_port - (2 if CLIENT == '4.7' else 0)}")
        server.shutdown()


def test_a_server_that_fails_after_the_login(fake: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(fake).items():
        monkeypatch.setenv(name, value)
    fake.faults.append(Fault("config.get_version", "500", times=-1, after=1))
    with pytest.raises(CryoSegNetError, match=r"refused (asking for the version|connecting to \S+) \(500"):
        connect(fake.url)


@pytest.mark.parametrize(
    ("given", "cleaned"),
    [
        ("master:39000", "http://master:39000"),
        ("http://master:39000/", "http://master:39000"),
        ("https://cryosparc.example.com//", "https://cryosparc.example.com"),
        (" http://master:39000 ", "http://master:39000"),
    ],
)
def test_addresses_are_cleaned(given: str, cleaned: str) -> None:
    assert clean_url(given) == cleaned == clean_url(cleaned.replace("http", "HTTP"))


def test_logins_without_encryption_are_noticed() -> None:
    openly = ("http://master:39000", "http://10.0.0.5", "http://127.evil.example")
    closed = ("https://master:39000", "http://localhost:39000", "http://127.0.0.1:39000", "http://[::1]:39000")
    assert [sends_login_openly(one) for one in openly + closed] == [True] * 3 + [False] * 4
    assert sends_login_openly(f"http://{socket.gethostname()}:39000") is False


@pytest.mark.parametrize(
    "given",
    ["ftp://master", "", "http://me:secret@master:39000", "http://a b"]
    + [f"{scheme}me:secret@master" for scheme in ("HTTP://", "HTTPS://", "ftp://", "x://http://", "://", "")],
)
def test_bad_addresses(given: str) -> None:
    with pytest.raises(CryoSegNetError) as refusal:
        clean_url(given)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("version", ["4.6.1", "4.70.0", "5.1.0", "6.0.0", "50.0"])
def test_other_clients_are_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    with pytest.raises(
        CryoSegNetError, match=rf"{version} is not supported: pip install 'cryosegnet-ext\[cryosparc\]'"
    ):
        require_client()


def test_a_missing_client_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(running_options, "make_picker", lambda options, device: None)
    assert cli.main(["pick", "--project", "P1", "--workspace", "W1", "--exposures", "J1:exposures"]) == 3
    said = capsys.readouterr().err.strip()
    assert said == (
        "cryosegnet-cryosparc: error: cryosparc-tools is not installed: pip install 'cryosegnet-ext[cryosparc]' for a "
        "server of version 5.0, pip install 'cryosegnet-ext[cryosparc4]' for one of 4.7."
    )


@pytest.mark.parametrize("version", ["v4.6.2", "v5.1.0", "v6.0.0"])
def test_other_servers_are_refused(fake: RunningServer, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    for name, value in environment(fake).items():
        monkeypatch.setenv(name, value)
    fake.world.version = version
    with pytest.raises(CryoSegNetError, match=rf"is {version} and this program supports 4.7.x and 5.0.x only"):
        connect(fake.url)


@pytest.mark.parametrize("text", ["J12", "exposures", "J12:", "12:exposures", "J12/exposures"])
def test_output_names(text: str) -> None:
    assert str(OutputName.parse("J12:exposures")) == "J12:exposures"
    with pytest.raises(CryoSegNetError, match="J12:exposures"):
        OutputName.parse(text)


@pytest.mark.parametrize("command", ["", "pick", "chain", "live", "check-orientation"])
def test_help_says_where_the_login_comes_from(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command.split(), "--help"]) == 0
    said = capsys.readouterr().out
    assert "CRYOSPARC_PASSWORD" in said
    assert "--password" not in said
    assert "exit codes" in said


def test_what_is_waited_for_is_said(
    fake: RunningServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in environment(fake).items():
        monkeypatch.setenv(name, value)
    caplog.set_level(logging.INFO, "cryosparc_job")
    with connect(fake.url, patience=LIMIT) as one:
        fake.faults.append(Fault("health", "500", 1))
        assert one.call("asking for its health", healthy, one)
    assert len(caplog.messages) == 1
    assert re.match(r"waiting up to \d+ s: CryoSPARC refused asking for its health \(500\b", caplog.messages[0])


def test_a_signal_cuts_the_wait_for_a_call_short_and_not_the_call(connection: Connection) -> None:
    """An exception within the client would leave one of its locks taken, for which every later call waits."""
    called, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def call() -> None:
        called.set()
        may_end.wait(LIMIT)
        healthy(connection)
        ended.set()

    def interrupt() -> None:
        called.wait(LIMIT)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Stopped, match="SIGTERM"), stops_at_once():
        connection.call("waiting", call)
    thread.join(LIMIT)
    may_end.set()
    assert ended.wait(LIMIT)
    assert connection.call("asking for its health", healthy, connection)


def test_wrong_usage_names_the_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pick", "--project", "1", "--workspace", "W1", "--exposures", "J1:exposures"]) == 1
    assert "must be of the form P12 (got 1)" in capsys.readouterr().err
    assert cli.main(["pikc"]) == 1
    assert "did you mean pick" in capsys.readouterr().err
