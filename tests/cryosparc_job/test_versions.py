"""Two versions of CryoSPARC: which one answers, which client it needs, and what the client of 4.7 says of errors."""

from __future__ import annotations

import importlib
import io
import json
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cryosparc.dataset import NUMPY_FORMAT, Dataset
from cryosparc.errors import DatasetLoadError

from cryosegnet_ext.errors import CryoSegNetError
from cryosparc_job import client as client_module
from cryosparc_job import job_log
from cryosparc_job.address import describes_version_5, host_and_port, version_4
from cryosparc_job.client import check_version
from cryosparc_job.client4 import Client4
from cryosparc_job.client4_errors import explain
from cryosparc_job.connection import Connection, OutputName, connect
from cryosparc_job.errors import Expired, ServerError
from cryosparc_job.job_log import JobLog
from cryosparc_job.pick import PickingJob, pick
from tests.cryosparc_job.helpers import CLIENT, BlobPicker, add_exposures, environment
from tests.fake_cryosparc.running import RunningServer
from tests.fake_cryosparc.world import World
from tests.fake_cryosparc4.server import FakeCryoSPARC4
from tests.waiting import LIMIT

only_4 = pytest.mark.skipif(CLIENT != "4.7", reason="cryosparc-tools 4.7 does not come first on the path")
LICENSE = "0123abcd-0123-4567-89ab-0123456789ab"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def other(fake: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server that needs the client that is not installed."""
    for name, value in environment(fake).items():
        monkeypatch.setenv(name, value)
    if CLIENT == "4.7":
        with canned(200, JSON, b'{"openapi": "3.1.0", "info": {}}') as url:
            yield SimpleNamespace(url=url, world=SimpleNamespace(calls=[]))
    else:
        with FakeCryoSPARC4(tmp_path / "other") as server:
            yield server


def test_a_server_of_the_other_version_names_the_client_and_gets_no_login(other: Any) -> None:
    extra = "cryosparc" if CLIENT == "4.7" else "cryosparc4"
    with pytest.raises(CryoSegNetError, match=rf"pip install 'cryosegnet-ext\[{extra}\]'; .* an environment for each"):
        connect(other.url)
    assert "login" not in other.world.calls
    assert "users.me" not in other.world.calls


@pytest.mark.skipif(CLIENT == "4.7", reason="a server of 5.0 tells its exact version only after a login")
@pytest.mark.parametrize(
    ("version", "said"),
    [("v4.7.2", r"is v4\.7\.2 and the installed .*\[cryosparc4\]"), ("v4.6.1", r"is v4\.6\.1 and .* 4\.7\.x and 5\.0")],
)
def test_with_the_license_the_exact_version_is_known(
    other: Any, monkeypatch: pytest.MonkeyPatch, version: str, said: str
) -> None:
    other.world.version = version
    monkeypatch.setenv("CRYOSPARC_LICENSE_ID", other.world.license)
    with pytest.raises(CryoSegNetError, match=said):
        connect(other.url)


def test_who_answers_is_known_without_a_login(other: Any, fake: RunningServer) -> None:
    five, four = (other, fake) if CLIENT == "4.7" else (fake, other)
    assert describes_version_5(five.url)
    assert not describes_version_5(four.url)
    assert version_4(four.url, None) == version_4(four.url, LICENSE) == "v4"  # another license tells nothing
    assert version_4(four.url, four.world.license) == "v4.7.1"
    for url in (five.url, NOWHERE, "https://127.0.0.1:9"):
        assert version_4(url, LICENSE) is None
    assert not describes_version_5(NOWHERE)


@pytest.mark.parametrize("version", ["v4.6.9", "v4.70.1", "v5.1.0", "v6.0.0-beta", "unknown", "3.3"])
def test_versions_of_neither_client(version: str) -> None:
    for installed in ("4.7.1", "5.0.3"):
        with pytest.raises(CryoSegNetError, match=rf"is {version} and this program supports 4\.7\.x and 5\.0\.x only"):
            check_version("http://master:39000", version, installed)


def test_versions_that_fit() -> None:
    for version, installed in (("v4.7.0", "4.7.1"), ("4.7.1+250814", "4.7.0"), ("v5.0.4", "5.0.3"), ("v5.0", "5.0.3")):
        check_version("http://master:39000", version, installed)
    with pytest.raises(CryoSegNetError, match=r"\[cryosparc4\]"):
        check_version("http://master:39000", "v4.7.1", "5.0.3")
    assert set(client_module.EXTRAS) == {"5.0", "4.7"}


def test_addresses_of_version_4() -> None:
    assert host_and_port("http://master:39000") == ("master", 39000)
    assert host_and_port("http://master") == ("master", 39000)
    assert host_and_port("http://[::1]:61000") == ("[::1]", 61000)
    for address in ("https://master:39000", "http://master/cryosparc", "http://master:x", "http://master:65535"):
        with pytest.raises(CryoSegNetError, match="needs a host and the base port"):
            host_and_port(address)


def test_progress_lines_that_cannot_be_replaced_come_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []

    def add_line(project: str, uid: str, text: str, warning: bool = False) -> str:
        lines.append(text)
        return str(len(lines))

    client: Any = SimpleNamespace(replaces_lines=False, add_line=add_line, add_checkpoint=lambda *_: None)
    now = [0.0]
    monkeypatch.setattr(job_log.time, "monotonic", lambda: now[0])
    log = JobLog(Connection(client, NOWHERE, 0.0), SimpleNamespace(project_uid="P1", uid="J2"))
    for now[0] in (1.0, 2.0, 30.0, 61.0, 62.0):
        log.write_progress(f"at {now[0]:g}")
    log.checkpoint()
    log.write_progress("after the checkpoint")
    assert lines == ["at 1", "at 61", "after the checkpoint"]


# The client of 4.7


class _Canned(BaseHTTPRequestHandler):
    """Answers every request in the same way."""

    def do_POST(self) -> None:
        status, kind, body = self.server.reply  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body) + (100 if status == 200 and not body else 0)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def canned(status: int, kind: str, body: bytes) -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Canned) as server:
        server.reply = status, kind, body  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def called(url: str) -> ServerError:
    """What is said of a call that fails, made by the unmodified client."""
    command = importlib.import_module("cryosparc.command")
    command.MAX_ATTEMPTS, command.RETRY_INTERVAL = 2, 0
    made = command.CommandClient.__new__(command.CommandClient)
    made.service, made._url, made._cls, made._timeout = "command_core", url, None, LIMIT
    made._headers = {"License-ID": LICENSE}
    with pytest.raises(Exception) as failure:
        made._get_callable("get_id_by_email_password")("ali@example.com", "hunter2")
    return explain(failure.value, "logging in", url)


def rpc(code: int, message: str, trace: str = "") -> bytes:
    error = {"name": "ServerError", "code": code, "message": message, "data": {"traceback": trace} if trace else None}
    return json.dumps({"jsonrpc": "2.0", "id": "1", "error": error}).encode()


JSON = "application/json"


@only_4
@pytest.mark.filterwarnings("ignore:.*CommandClient")
@pytest.mark.parametrize(
    ("reply", "code", "passing", "words"),
    [
        ((200, JSON, rpc(400, "ServerError: P1-J9 does not exist", "Traceback")), 404, False, "J9 does not exist"),
        ((200, JSON, rpc(500, "OtherError: 'NoneType'", "Traceback")), 400, False, "NoneType"),
        ((200, JSON, rpc(500, "x", "pymongo.errors.AutoReconnect: master:39001")), 500, True, "database"),
        ((500, JSON, rpc(400, "ServerError: job is not building")), 400, False, "not building"),
        ((500, "text/html", b"<!DOCTYPE HTML><p>Internal"), 500, True, "(500)"),
        ((502, "text/plain", b"Bad gateway"), 502, True, "Bad gateway"),
        ((429, "text/plain", b""), 429, True, "(429)"),
        ((422, JSON, b'{"message": "unexpected field"}'), 422, False, "unexpected field"),
        ((404, JSON, b'{"detail": "Not Found"}'), 404, False, "Not Found"),
        ((401, "text/plain", b"Invalid license"), 401, False, "CRYOSPARC_LICENSE_ID"),
        ((200, JSON, b""), 0, True, "check the network"),
        ((200, JSON, b"<html>"), 0, True, "check the network"),
    ],
)
def test_errors_of_calls_are_one_sentence_without_the_arguments(
    fake: RunningServer, reply: tuple[int, str, bytes], code: int, passing: bool, words: str
) -> None:
    with canned(*reply) as url:
        problem = called(url)
    assert (problem.code, problem.passing) == (code, passing)
    assert words in str(problem)
    assert isinstance(problem, Expired) == (code == 401)
    for secret in ("hunter2", "ali@example.com", LICENSE, "DOCTYPE", "Traceback"):
        assert secret not in str(problem)


@only_4
@pytest.mark.filterwarnings("ignore:.*CommandClient")
def test_a_server_that_is_away_is_waited_for(fake: RunningServer) -> None:
    problem = called(NOWHERE)
    assert (problem.code, problem.passing) == (0, True)
    assert "check the network" in str(problem)


@only_4
def test_a_function_that_the_server_lacks_is_named(connection: Connection) -> None:
    with pytest.raises(ServerError, match="This CryoSPARC has no function 'get_nothing', which trying it needs"):
        connection.call("trying it", lambda: connection.cs.cli.get_nothing())


@only_4
def test_a_download_that_ends_too_early_is_not_taken_for_the_file(fake: RunningServer, tmp_path: Path) -> None:
    class Short:
        def __init__(self) -> None:
            self.headers = {"Content-Length": "10"}
            self.parts = [b"12345", b""]

        def read(self, _: int) -> bytes:
            return self.parts.pop(0)

    @contextmanager
    def download(project: str, path: str) -> Iterator[Short]:
        yield Short()

    client = Client4(SimpleNamespace(download=download), NOWHERE)
    with Connection(client, NOWHERE, 0.0) as one, pytest.raises(ServerError, match="broke while downloading"):
        one.call("downloading it", lambda: b"".join(client.chunks("P1", "S1/a.mrc")))


@only_4
def test_columns_that_the_server_does_not_ask_for_are_kept(
    connection: Connection, world: World, tmp_path: Path
) -> None:
    """Version 4.7 names the least columns of an output; a slot with only these would hide what the input has."""
    add_exposures(world, [(256, 256)] * 2)
    job = PickingJob("P1", "W1", OutputName("J1", "exposures"), state=tmp_path / "state", cache=tmp_path / "cache")
    made = pick(connection, job, BlobPicker()).job
    source = world.outputs["J1", "exposures"].filter_prefix("micrograph_blob")
    assert set(source.fields()) <= set(world.outputs[made, "exposures"].fields())
    assert len(source.fields()) > 5
    particles = world.outputs[made, "particles"]
    assert np.all(np.asarray(particles["location/min_dist_A"]) > 0)
    assert np.allclose(particles["location/micrograph_psize_A"], 1.06)


def test_more_columns_of_an_outputs_own_slots_are_added(fake: RunningServer) -> None:
    """Those of other slots come from the input."""
    least = Dataset(0).add_fields(["micrograph_blob/path"], ["O"])
    job = SimpleNamespace(alloc_output=lambda name, rows: least)
    more = [("micrograph_blob/path", "|O"), ("micrograph_blob/shape", "<u4", (2,)), ("ctf/df1_A", "<f4")]
    table = Client4(None, NOWHERE).template(job, "exposures", more)
    assert table.descr(exclude_uid=True) == [("micrograph_blob/path", "|O"), ("micrograph_blob/shape", "<u4", (2,))]


@only_4
def test_more_columns_than_the_client_reads_are_not_taken_for_a_broken_connection(fake: RunningServer) -> None:
    table = Dataset({"uid": np.arange(2, dtype=np.uint64)})
    table.add_fields([f"micrograph_blob_{number:04d}/path" for number in range(300)], ["f4"] * 300)
    file = io.BytesIO()
    table.save(file, format=NUMPY_FORMAT)
    file.seek(0)
    with pytest.raises(DatasetLoadError) as failure:
        Dataset.load(file)
    problem = explain(failure.value, "reading J1:exposures", NOWHERE)
    assert "cannot read so many columns while reading J1:exposures" in str(problem)
    assert not problem.passing
    with pytest.raises(DatasetLoadError) as failure:
        Dataset.load(io.BytesIO(b"torn"))
    assert explain(failure.value, "reading J1:exposures", NOWHERE).passing


@only_4
@pytest.mark.filterwarnings("ignore:.*CommandClient")
@pytest.mark.parametrize("wrong", ["PASSWORD", "EMAIL", "LICENSE_ID"])
def test_nothing_of_a_refused_login_is_in_its_error(
    fake: RunningServer, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    given = {**environment(fake), f"CRYOSPARC_{wrong}": LICENSE if wrong == "LICENSE_ID" else "hunter2@secret"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Expired, match="refused the login while connecting") as refusal:
        connect(fake.url)
    shown = "".join(traceback.format_exception(refusal.value))
    assert not [value for value in given.values() if value in shown]
    assert refusal.value.__context__ is None


@only_4
def test_a_wrong_license_and_a_missing_login_are_told_before_anything_is_sent(
    fake: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(CryoSegNetError, match="set CRYOSPARC_LICENSE_ID, CRYOSPARC_EMAIL and CRYOSPARC_PASSWORD"):
        connect(fake.url)
    for name, value in {**environment(fake), "CRYOSPARC_LICENSE_ID": "secret"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CryoSegNetError, match="five groups") as refusal:
        connect(fake.url)
    assert "secret" not in str(refusal.value)
    with pytest.raises(CryoSegNetError, match="needs a host and the base port"):
        connect(fake.url.replace("http:", "https:"))


@only_4
def test_the_login_is_asked_for(fake: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def typed(prompt: str) -> str:
        shown.append(prompt)
        return fake.world.license if "License" in prompt else fake.world.password

    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda prompt: fake.world.email)
    monkeypatch.setattr("getpass.getpass", typed)
    with connect(fake.url) as one:
        assert one.cs.user_id
        login = Client4.login(fake.url, True)
    assert len(shown) == 4
    assert fake.world.password not in repr(login)
    assert fake.world.license not in repr(login)


@only_4
def test_the_client_calls_once_and_we_repeat(fake: RunningServer, connection: Connection) -> None:
    """Its own second call would send what it streams empty, after 30 seconds."""
    command = importlib.import_module("cryosparc.command")
    assert (command.MAX_ATTEMPTS, command.RETRY_INTERVAL) == (2, 0)
