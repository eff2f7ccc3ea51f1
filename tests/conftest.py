"""What all tests share: where the data is that cannot be committed, one thread, and an end to what hangs."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# `from tests.damage import ...` works under plain `pytest` too, which does not put the working directory on the path.
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

from tests.browser import open_browser  # noqa: E402
from tests.waiting import kill_started  # noqa: E402

# The networks here are small. Threads that wait for each other cost much where several tests share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

# In the background of a shell, or under nohup, the suite ignores these signals. The programs that tests start would
# inherit that; a handler is not inherited.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real micrographs and labels; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("CRYOSEGNET_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "micrographs").is_dir():
        pytest.skip(f"no real micrographs at {folder}: set CRYOSEGNET_TEST_DATA")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; tests that need it skip where it or Playwright is absent."""
    with open_browser() as found:
        yield found


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _processes_end_with_their_test() -> Iterator[None]:
    yield
    kill_started()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """pytest-xdist cannot send names of files that are no text, as they stand in what was logged."""
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report


def pytest_unconfigure() -> None:
    """A thread that does not end would keep the process for ever, after the last test and beyond its time limit."""
    faulthandler.dump_traceback_later(300, exit=True)
