"""The names of docs/api.md stay where users import them from, wherever the code lives."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

from tests.conftest import REPOSITORY

NAMES = re.findall(r"^::: (\S+)$", (REPOSITORY / "docs" / "api.md").read_text(), re.MULTILINE)
#: Names that the pages import and the API page does not describe.
MORE = ["cryosegnet_ext.evaluation.score_set", "cryosegnet_ext.batch.MicrographPicker", "cryosegnet_ext.inputs.Input"]


def test_the_page_has_names() -> None:
    assert len(NAMES) > 12


@pytest.mark.parametrize("name", [*NAMES, *MORE])
def test_a_public_name_is_where_the_page_says(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    found = getattr(import_module(module), attribute)
    home = import_module(found.__module__)
    assert getattr(home, attribute) is found
