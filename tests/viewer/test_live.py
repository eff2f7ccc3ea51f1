"""A run that is followed while it goes on: what is read of its folder, what the server answers, and the page."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from cryosegnet_ext.cli import main
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.runs import batch
from cryosegnet_ext.viewer import following, live
from cryosegnet_ext.viewer.live import LiveRun, LiveServer
from tests.browser import Watched
from tests.report.runs import CandidatePicker, make_run
from tests.runs.helpers import STUB
from tests.stub_picker import write_micrograph
from tests.viewer.test_server import ask, running
from tests.waiting import LIMIT, start

NAMES = [f"mic_{i}.mrc" for i in range(6)]


@pytest.fixture(autouse=True)
def looks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_LOOK_SECONDS", 0.0)


def state(run: LiveRun) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run.state())
    return found


def beat(out: Path, **values: object) -> None:
    path = out / ".cryosegnet/heartbeat.json"
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    default = {"state": "picking", "time": now, "process": os.getpid(), "host": socket.gethostname()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**default, **values}))


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (s.st_size, s.st_mtime_ns) for path in folder.rglob("*") for s in [path.stat()]}


def test_a_run_from_before_it_begins_to_its_end(tmp_path: Path) -> None:
    run = LiveRun(tmp_path / "out")
    first = state(run)
    assert first["state"] == "missing" and first["says"].endswith("does not exist yet; this page waits for it")
    (tmp_path / "out").mkdir()
    assert state(run)["says"].startswith("nothing was picked into")
    out = make_run(tmp_path, [*NAMES, "bad.mrc", "empty.mrc"])
    before = files(out)
    found = state(run)
    assert (found["state"], found["done"], found["failed"], found["without"]) == ("finished", 7, 1, 1)
    assert found["picks"] == sum(one["picks"] for one in found["latest"]) > 0 and found["unit"] == "A"
    assert found["progress"]["total"] == 8
    assert found["curves"]["picks"]["count"] == 7 and len(found["curves"]["picks"]["points"]) == 7
    assert found["curves"]["score"]["count"] == 6 and 0.5 < found["curves"]["score"]["median"] < 1
    ((name, reason),) = found["failures"]
    assert name.endswith("bad.mrc") and reason
    generation, number = found["latest"][0]["picture"].partition("?")[0].split("/")[1:]
    # Drawn on the thumbnail that the run saved, as it has no overlays, like a RELION job.
    assert run.picture(int(generation), int(number)).startswith(b"\xff\xd8")
    assert files(out) == before


def test_only_what_is_new_is_read_and_lines_may_be_damaged_or_half_written(tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES)
    journal = out / ".cryosegnet/journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:3]))
    run = LiveRun(out)
    assert state(run)["done"] == 2
    with open(journal, "ab", buffering=0) as file:
        file.write(lines[3][:40])
        assert (state(run)["done"], state(run)["damaged"]) == (2, 0)
        file.write(lines[3][40:])
        assert state(run)["done"] == 3
        file.write(b'{"record": "micrograph", "key": 5}\n\xff\x00 no JSON\n{}\n[1]\n' + lines[4])
        found = state(run)
        assert found["done"] == 4 and found["damaged"] >= 3
        file.write(lines[4])  # picked again: the same micrograph
        assert state(run)["done"] == 4


def test_a_run_that_is_started_anew_is_shown_anew(tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES)
    run = LiveRun(out)
    before = state(run)
    assert before["done"] == 6
    batch.run(CandidatePicker(0.9), expand_inputs([tmp_path / "mics"]), out, overwrite=True, progress=False)
    after = state(run)
    assert after["done"] == 6 and after["picks"] < before["picks"]
    assert after["latest"][0]["picture"] != before["latest"][0]["picture"]
    with pytest.raises(Exception, match="no such micrograph"):
        run.picture(0, 0)
    shutil.rmtree(out)
    assert state(run)["state"] == "missing" and state(run)["done"] == 0


def test_who_is_dead_is_not_called_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    clock = [1000.0]
    monkeypatch.setattr(following.time, "monotonic", lambda: clock[0])
    beat(out)
    run = LiveRun(out)
    assert state(run)["state"] == "running"
    # The clock of another machine may be an hour ahead or behind: what counts is whether the heartbeat changes here.
    for hours in (2, -2):
        when = datetime.fromtimestamp(time.time() + 3600 * hours, timezone.utc).isoformat()
        beat(out, time=when, host="gpu3")
        clock[0] += 20
        assert state(run)["state"] == "running"
        clock[0] += 61
        found = state(run)
        assert found["state"] == "died" and "on gpu3 gave its last sign of life 1 min ago" in found["says"]
        assert state(LiveRun(out))["state"] == ("running" if hours > 0 else "died")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    beat(out, process=ended.pid)
    clock[0] += 10
    assert state(run)["state"] == "running"  # it may be one of another container
    clock[0] += 21
    assert state(run)["state"] == "died" and state(LiveRun(out))["state"] == "died"
    for said, word in (("ended", "finished"), ("stopped", "stopped"), ("failed", "failed"), ("waiting", "waiting")):
        beat(out, state=said)
        assert state(run)["state"] == word
    for doing in ("estimating", "checking"):
        beat(out, state=doing, size_estimate={"looked_at": 3, "of": 8})
        assert state(run)["state"] == doing
        assert state(run)["says"] == f"{doing} the particle size: 3 of 8 micrographs looked at"


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[1]", b'{"state": 5, "micrographs": [1], "time": {}, "process": -1, "current": "x"}', b"\xff"]
)
def test_a_heartbeat_that_nobody_wrote(tmp_path: Path, text: bytes) -> None:
    out = make_run(tmp_path, NAMES)
    (out / ".cryosegnet/heartbeat.json").write_bytes(text)
    found = state(LiveRun(out))
    assert found["done"] == 6 and found["state"] in ("running", "unknown", "died")


def test_fifty_thousand_micrographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make_run(tmp_path, NAMES[:1])
    journal = out / ".cryosegnet/journal.jsonl"
    head, line = journal.read_text().splitlines()
    entry = json.loads(line)
    entry.pop("crc32", None)
    with open(journal, "w") as file:
        file.write(head + "\n")
        for i in range(50_000):
            file.write(json.dumps({**entry, "key": f"/m/{i}.mrc", "name": f"m/{i}.mrc", "stem": f"m{i}"}) + "\n")
    run = LiveRun(out)
    looks = 1
    while state(run)["behind"]:
        looks += 1
    assert looks > 2
    read: list[int] = []
    real = following.unseal
    monkeypatch.setattr(following, "unseal", lambda text: (read.append(len(text)), real(text))[1])
    with open(journal, "a") as file:
        file.write(json.dumps({**entry, "key": "/m/new.mrc", "name": "new.mrc"}) + "\n")
    found = state(run)
    assert found["done"] == 50_001 and found["latest"][0]["name"] == "new.mrc" and len(found["latest"]) == 12
    assert len(read) == 1
    assert len(run.state()) < 50_000


def test_the_server_shows_no_more_than_the_run(tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES)
    with running(LiveServer(out)) as server:
        status, body, headers = ask(server, "")
        assert status == 200 and b"connect-src &#x27;self&#x27;" in body and headers["X-Frame-Options"] == "DENY"
        status, body, _ = ask(server, "state.json")
        address = json.loads(body)["latest"][0]["picture"]
        assert status == 200 and ask(server, address)[0] == 200
        refused = ("picture/0/99", "picture/1/0", "picture/0/-1", "picture/0/0/../../x", "overlays/mic_0.jpg", "../x")
        assert {ask(server, path)[0] for path in refused} <= {404, 422}
        assert ask(server, "state.json", token=False)[0] == 404
        assert ask(server, "state.json", Host="evil.example")[0] == 421
        assert ask(server, "save/0", "POST", b"{}")[0] == 404


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for words, said in (
        (["--live"], "name the folder of a run"),
        (["--live", str(tmp_path), "-o", "x"], "--live follows the folder of a run and saves nothing"),
        (["--live", str(tmp_path / "file")], "is a file; name the output folder of a run"),
    ):
        assert main(["view", *words]) == 1
        assert said in capsys.readouterr().err


@pytest.mark.browser
def test_the_page_follows_a_process_that_picks(browser: Any, tmp_path: Path) -> None:
    for i in range(6):
        write_micrograph(tmp_path / f"mics/m{i}.mrc", seed=i)
    (tmp_path / "mics/m1.mrc").write_bytes(b"no image" * 300)
    out = tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": str(STUB.parents[1]), "STUB_HOLD": "m5.mrc"}
    with running(LiveServer(out)) as server:
        watched = Watched(browser)
        page = watched.open(server.address)
        assert page.locator("#state").text_content() == "Waiting"
        words = [sys.executable, str(STUB), "pick", str(tmp_path / "mics"), "-o", str(out), "--diameter", "20"]
        process = start(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        watched.until("document.getElementById('count-done').textContent === '4'")
        watched.until("document.getElementById('state').textContent === 'Running'")
        assert page.locator("#count-failed").text_content() == "1"
        assert page.locator("#failures-rows td").first.text_content().endswith("m1.mrc")
        assert page.locator(".card").count() == 4
        watched.until("Array.from(document.querySelectorAll('.card img')).every((one) => one.naturalWidth > 100)")
        assert "5 of 6 micrographs" in page.locator("#pace").text_content()
        process.kill()
        process.wait()
        watched.until("document.getElementById('state').textContent === 'No sign of life'")
        del environment["STUB_HOLD"]
        done = subprocess.run(words, env=environment, capture_output=True, timeout=LIMIT)
        assert done.returncode == 2
        watched.until("document.getElementById('state').textContent === 'Finished'")
        watched.until("document.getElementById('count-done').textContent === '5'")
        assert watched.complaints == []
        assert all(address.startswith(server.address) for address in watched.requests if not address.startswith("data"))
