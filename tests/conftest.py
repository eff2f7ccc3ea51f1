"""What all tests share: where the data is that cannot be committed, and a bound on torch's threads."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# `from tests.damage import ...` works under plain `pytest` too, which does not put the working directory on the path.
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

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


@pytest.fixture(autouse=True)
def _few_threads() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() > 2:
        torch.set_num_threads(2)
