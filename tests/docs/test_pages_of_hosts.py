"""As test_pages.py: the pages whose commands need a host, several processes, or a training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import cryosparc_world
from tests.docs.pages import run_page
from tests.docs.tables import PAGES_OF_HOSTS

pytestmark = pytest.mark.slow


# The client of cryosparc-tools has no close(); Dask leaves sockets to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("page", PAGES_OF_HOSTS)
def test_the_commands_of_a_page_work(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page == "cryosparc.md":
        cryosparc_world.available()
    if page == "cluster.md":
        pytest.importorskip("distributed", reason="Dask is not installed: pip install 'cryosegnet-ext[cluster]'")
    if page == "training.md":
        pytest.importorskip("gemmi", reason="gemmi is not installed: pip install '.[simulate]'")
    run_page(page, tmp_path, monkeypatch)
