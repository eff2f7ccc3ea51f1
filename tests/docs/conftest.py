"""What the tests of the documentation's commands share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

# What the checks compare is shown when they fail.
pytest.register_assert_rewrite("tests.docs.outputs")

from tests.docs.pages import one_thread  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    yield from one_thread()
