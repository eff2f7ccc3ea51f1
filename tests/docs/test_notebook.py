"""The notebook of the Python interface runs from top to bottom, with the built-in networks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from cryosegnet_ext import read_picks
from tests.notebooks import PICKING, check_outputs, executed, text_of


@pytest.mark.slow
def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    said = text_of(executed(PICKING, names))
    check_outputs(PICKING)
    right, picks, found, true = map(int, re.search(r"(\d+) of (\d+) picks.*; (\d+) of (\d+) true", said).groups())  # type: ignore[union-attr]
    assert right > 0.8 * picks and found > 0.8 * true
    assert len(read_picks(tmp_path / "sample.star")) == len(names["picks"])
