"""The token of the page's address is on no command line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.viewer.redirect import redirect_file
from tests.report.runs import make_run
from tests.waiting import LIMIT, start, wait_until

ROOT = Path(__file__).resolve().parents[2]
# Stands in for a browser: notes its command line, and what it finds in the file that is named there.
BROWSER = """#!/bin/sh
file=$(printf %s "$*" | sed 's,^file://,,')
(echo "$*"; stat -c %a "$file"; cat "$file") > SEEN.part
mv SEEN.part SEEN
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the stand-in browser needs Linux")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_browsers_command_line_does_not_hold_the_token(tmp_path: Path, number: int) -> None:
    temporary, seen, browser = tmp_path / "temporary", tmp_path / "seen", tmp_path / "browser"
    temporary.mkdir()
    browser.write_text(BROWSER.replace("SEEN", str(seen)))
    browser.chmod(0o755)
    command = [sys.executable, "-m", "cryosegnet_ext", "view", str(make_run(tmp_path, ["a.mrc"]))]
    settings = {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "BROWSER": f"{browser} %s", "DISPLAY": ":99"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = start(command, env={**os.environ, **settings}, umask=0, **pipes)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    address = re.search(r"http://\S+", lines[1])
    assert address, lines
    wait_until(seen.exists, "the browser", process)
    given, mode, *page = seen.read_text().splitlines()
    assert given.startswith(f"file://{temporary}/") and mode == "600"
    assert address[0].split("/")[3] not in given
    assert f'content="0; url={address[0]}"' in "\n".join(page)
    process.send_signal(number)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0 and errors == ""
    assert list(temporary.iterdir()) == []


def test_no_folder_for_it_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(CryoSegNetError, match="cannot write"), redirect_file("http://127.0.0.1:1/t/"):
        pass


def test_an_address_cannot_end_its_quotes() -> None:
    with redirect_file('http://a"><script>/') as path:
        assert "<script>" not in path.read_text()
    assert not path.exists()
