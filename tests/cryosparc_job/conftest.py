"""A fake CryoSPARC server, with an empty world for each test: that of the version whose client comes first on the path.

``make test`` runs these tests twice, with the client 5.0 and with the client 4.7.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import LIMIT

if all(importlib.util.find_spec(name) is not None for name in ("cryosparc", "fastapi", "uvicorn")):
    from cryosparc_job.connection import Connection, connect
    from tests.cryosparc_job.helpers import CLIENT, environment, new_server
    from tests.fake_cryosparc.running import RunningServer
    from tests.fake_cryosparc.world import World

    collect_ignore = ["test_fake_cryosparc.py" if CLIENT == "4.7" else "test_fake_cryosparc4.py"]
else:
    # Both are extras: `cryosparc` and `dev`.
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with new_server(tmp_path_factory.mktemp("world")) as server:
        yield server


@pytest.fixture
def fake(_server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunningServer:
    """The server, empty; saved logins, caches and state go to the test's own folder."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("CRYOSEGNET_CACHE", str(tmp_path / "cache"))
    for name in ("BASE_URL", "MASTER_HOSTNAME", "BASE_PORT", "EMAIL", "PASSWORD", "LICENSE_ID"):
        monkeypatch.delenv(f"CRYOSPARC_{name}", raising=False)
    _server.reset(tmp_path / "server")
    return _server


@pytest.fixture(scope="module", autouse=True)
def _collect_sockets() -> Iterator[None]:
    """Close the sockets that refused logins leave, before they cause a warning in another module."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    wanted = os.environ.get("CRYOSPARC_CLIENT")
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        # The client of cryosparc-tools has no close(): a refused login leaves its socket to the garbage collector.
        item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"))
        if CLIENT == "4.7":
            # It warns of every refusal before it raises the error.
            item.add_marker(pytest.mark.filterwarnings(r"ignore:\*\*\* CommandClient:UserWarning"))
        if wanted not in (None, CLIENT):
            item.add_marker(pytest.mark.skip(f"the client of CryoSPARC {wanted} is not on the path: make environment"))


@pytest.fixture
def world(fake: RunningServer) -> World:
    return fake.world


@pytest.fixture
def connection(fake: RunningServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    """A client that has logged in."""
    for name, value in environment(fake).items():
        monkeypatch.setenv(name, value)
    with connect(fake.url, patience=LIMIT) as one:
        yield one
