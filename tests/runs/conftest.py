"""Micrographs for tests of runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stub_picker import write_micrograph


@pytest.fixture
def mics(tmp_path: Path) -> Path:
    folder = tmp_path / "mics"
    for i in range(12):
        write_micrograph(folder / f"m{i}.mrc", seed=i)
    return folder
