"""A micrograph that can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.files.helpers import picture, write_mrc


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_mrc(tmp_path / "mic_001.mrc", picture())
