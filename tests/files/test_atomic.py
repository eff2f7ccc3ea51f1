"""Files that are whole or absent."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.atomic import atomic_path, write_atomic


def test_atomic_writing_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "a.star"
    write_atomic(target, "old")
    with atomic_path(target, sync=True) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        assert temporary.suffix == ".star"
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    write_atomic(target, b"\r\n")
    assert target.read_bytes() == b"\r\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.star"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_atomic_writing_that_fails_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    write_atomic(tmp_path / "a", "old")
    with pytest.raises(error), atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise error
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "old")]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_atomic_writing_goes_by_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_atomic_writing_explains_what_is_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(CryoSegNetError, match="create its folder first"):
        write_atomic(tmp_path / "none" / "a", "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CryoSegNetError, match="folder of that name"):
        write_atomic(tmp_path / "folder", "text")
    with pytest.raises(CryoSegNetError, match="free some disk space"), atomic_path(tmp_path / "full") as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_atomic_writing_does_not_explain_other_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        (tmp_path / "other").read_bytes()
