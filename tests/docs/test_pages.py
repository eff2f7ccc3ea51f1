"""Every command in the documentation is run, page by page, and leaves behind what its page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import run_page
from tests.docs.tables import PAGES

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_work(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page in ("simulation.md", "will_it_work.md"):
        pytest.importorskip("gemmi", reason="gemmi is not installed: pip install '.[simulate]'")
    run_page(page, tmp_path, monkeypatch)
