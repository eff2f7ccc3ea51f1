"""Files that are whole or absent."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.atomic import atomic_path, link_atomic, write_atomic


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


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_second_name_keeps_its_content(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    one, other = tmp_path / "one", tmp_path / "other"
    write_atomic(one, "first")
    write_atomic(other, "in the way")
    for _ in range(2):  # the second time both are the same file already
        link_atomic(one, other)
        assert other.read_text() == "first" and other.samefile(one) == links
    write_atomic(one, "second")
    assert other.read_text() == "first"
    link_atomic(one, other)
    write_atomic(other, "third")
    assert one.read_text() == "second"
    (tmp_path / "alias").symlink_to("one")
    (tmp_path / "below").mkdir()
    link_atomic(tmp_path / "alias", tmp_path / "below/other")
    one.unlink()
    assert (tmp_path / "below/other").read_text() == "second" and not (tmp_path / "below/other").is_symlink()
    with pytest.raises(FileNotFoundError):
        link_atomic(one, other)
    with pytest.raises(CryoSegNetError, match="create its folder first"):
        link_atomic(other, tmp_path / "none/other")
    assert other.read_text() == "third"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alias", "below", "other"]
