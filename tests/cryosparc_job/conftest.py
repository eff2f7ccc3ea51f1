"""A fake CryoSPARC server, with an empty world for each test."""

from __future__ import annotations

import gc
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import LIMIT

if all(importlib.util.find_spec(name) is not None for name in ("cryosparc", "fastapi", "uvicorn")):
    from cryosparc_job.connection import Connection, connect
    from tests.cryosparc_job.helpers import environment
    from tests.fake_cryosparc.server import FakeCryoSPARC
    from tests.fake_cryosparc.world import World
else:
    # Both are extras: `cryosparc` and `dev`.
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeCryoSPARC]:
    with FakeCryoSPARC(tmp_path_factory.mktemp("world")) as server:
        yield server


@pytest.fixture
def fake(_server: FakeCryoSPARC, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCryoSPARC:
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
    # The client of cryosparc-tools has no close(): a refused login leaves its socket to the garbage collector.
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"))


@pytest.fixture
def world(fake: FakeCryoSPARC) -> World:
    return fake.world


@pytest.fixture
def connection(fake: FakeCryoSPARC, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    """A client that has logged in."""
    for name, value in environment(fake).items():
        monkeypatch.setenv(name, value)
    with connect(fake.url, patience=LIMIT) as one:
        yield one
