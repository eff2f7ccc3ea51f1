"""The folder of a run: who may work in it, and when a later run goes on with what is there."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.atomic import explained, remove_temporaries
from cryosegnet_ext.runs.folder import LOCK, differences, goes_on, locked, remove
from tests.waiting import LIMIT, start

ROOT = Path(__file__).resolve().parents[2]

HOLDER = """
import sys, time
from pathlib import Path
from cryosegnet_ext.runs.folder import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(9000)
"""


def test_one_process_at_a_time_and_it_is_named(tmp_path: Path) -> None:
    out = tmp_path / "new/out"
    owner = f"process {os.getpid()} on {socket.gethostname()} works in this folder"
    with locked(out), pytest.raises(CryoSegNetError, match=owner), locked(out):
        pass
    assert out.is_dir() and not any(out.iterdir())
    with locked(out), locked(tmp_path):
        assert (out / LOCK).exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_ends_with_its_process(tmp_path: Path, number: signal.Signals) -> None:
    process = start([sys.executable, "-c", HOLDER, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    with pytest.raises(CryoSegNetError, match=f"process {process.pid} on "), locked(tmp_path):
        pass
    process.send_signal(number)
    process.communicate(timeout=LIMIT)
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


def test_a_lock_that_was_removed_while_it_was_taken_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, removed = fcntl.flock, []

    def ends_just_now(descriptor: int, operation: int) -> None:
        flock(descriptor, operation)
        if not removed:
            removed.append(True)
            (tmp_path / LOCK).unlink()

    monkeypatch.setattr(fcntl, "flock", ends_just_now)
    with locked(tmp_path):
        assert removed
        monkeypatch.undo()
        with pytest.raises(CryoSegNetError), locked(tmp_path):
            pass


def test_the_lock_of_a_new_folder_of_the_same_name_stays(tmp_path: Path) -> None:
    with locked(tmp_path / "out"):
        (tmp_path / "out").rename(tmp_path / "trash")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / LOCK).write_text("another run")
    assert (tmp_path / "out" / LOCK).exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path), locked(tmp_path):
        pass
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_locked_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(CryoSegNetError, match=r"cannot write .*file/out .Not a directory"),
        locked(tmp_path / "file/out"),
    ):
        pass

    def flock(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(CryoSegNetError, match=r"cannot write .*Input/output error"), locked(tmp_path):
        pass


def test_what_differs_is_told() -> None:
    before = {"threshold": 0.3, "weights": "a" * 60, "old": 1, "box": [1, 2], "same": None}
    now = {"threshold": 0.5, "weights": "b" * 60, "new": Path("x"), "box": (1, 2)}
    assert differences(before, now) == [
        'new (not set then, "x" now)',
        "old (1 then, not set now)",
        "threshold (0.3 then, 0.5 now)",
        f'weights ("{"a" * 36}... then, "{"b" * 36}... now)',
    ]


def test_when_a_run_goes_on() -> None:
    out, before, now = Path("out"), {"seed": 0}, {"seed": 1}
    for begun in (False, True):
        assert goes_on(out, before, before, begun, overwrite=False)
        assert not goes_on(out, before, before, begun, overwrite=True)
        assert not goes_on(out, before, now, begun, overwrite=True)
    assert not goes_on(out, before, now, begun=False, overwrite=False)
    with pytest.raises(
        CryoSegNetError, match=r"out holds a run with other settings: seed \(0 then, 1 now\); give over"
    ):
        goes_on(out, before, now, begun=True, overwrite=False)


def test_only_files_of_the_folder_are_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    for name in ("a", "sub/b", "mine", "../outside"):
        (out / name).write_text("")
    remove(out, ["a", "sub/b", "missing/c", "x" * 300, "../outside", str(tmp_path / "outside"), "sub/../../outside"])
    assert sorted(path.name for path in out.rglob("*")) == ["mine", "sub"] and (tmp_path / "outside").exists()
    with pytest.raises(CryoSegNetError, match=r"cannot write out .Is a directory"), explained(Path("out")):
        remove(out, ["sub"])


def test_temporary_files_are_removed(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "below"):
        folder.mkdir(exist_ok=True)
        (folder / ".tmp-1-ab.star").write_text("")
        (folder / "tmp-1.star").write_text("")
    remove_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*.star")) == [".tmp-1-ab.star", "tmp-1.star", "tmp-1.star"]
    remove_temporaries(tmp_path, below=True)
    assert sorted(path.name for path in tmp_path.rglob("*.star")) == ["tmp-1.star", "tmp-1.star"]
    remove_temporaries(tmp_path / "missing", below=True)


def test_another_threshold_needs_no_picking(tmp_path: Path) -> None:
    advice = r"now\); `cryosegnet report .*out --threshold 0.5 --write-picks DIR` writes .* seconds, .*; or give over"
    with pytest.raises(CryoSegNetError, match=advice):
        goes_on(tmp_path / "out", {"threshold": 0.3, "seed": 0}, {"threshold": 0.5, "seed": 0}, True, False)
    for more in ({"seed": 1}, {"threshold": None}):
        with pytest.raises(CryoSegNetError, match=r"now\); give over"):
            goes_on(tmp_path / "out", {"threshold": 0.3, "seed": 0}, {"threshold": 0.5, "seed": 0, **more}, True, False)
    of_server = {"server": "http://localhost:39000"}
    with pytest.raises(CryoSegNetError, match=r"now\); give over"):
        goes_on(tmp_path / "out", {"threshold": 0.3, **of_server}, {"threshold": 0.5, **of_server}, True, False)
