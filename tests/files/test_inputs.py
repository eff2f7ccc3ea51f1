from __future__ import annotations

import os
from pathlib import Path

import pytest

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.inputs import Input, Stems, expand_inputs, natural_key, output_stems
from cryosegnet_ext.files.micrograph import read_micrograph


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(arguments: list[object]) -> list[str]:
    return [one.path.name for one in expand_inputs([str(a) for a in arguments])]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_natural_order() -> None:
    assert sorted(["m10", "m9", "m1b2", "m1b10", "1", "a"], key=natural_key) == ["1", "a", "m1b2", "m1b10", "m9", "m10"]


def test_folder_is_searched_whole(here: Path) -> None:
    touch(here / "d/m10.mrc", here / "d/m9.MRC", here / "d/sub/a.tif", here / "d/notes.txt", here / "d/.m.mrc")
    touch(here / "d/.hidden/b.mrc", here / "d/c.mrc.bz2")
    assert [one.name for one in expand_inputs(["d"])] == ["d/c.mrc.bz2", "d/m9.MRC", "d/m10.mrc", "d/sub/a.tif"]


def test_own_output_is_no_input(here: Path) -> None:
    touch(
        here / "m.mrc", here / "out/overlays/m.jpg", here / "out/.cryosegnet/journal.jsonl", here / "out/picks/m.star"
    )
    assert names(["."]) == ["m.mrc"]
    touch(here / "overlays/m.jpg", here / ".cryosegnet/journal.jsonl")
    assert names([here]) == ["m.mrc"]
    # A watch over its own output once picked its pictures, and the pictures of those, without end.
    touch(here / "out/JPEG/m.jpg")
    assert names([here]) == ["m.mrc"]
    touch(here / "elsewhere/overlays/n.jpg", here / "elsewhere/JPEG/o.jpg")
    assert names([here]) == ["o.jpg", "n.jpg", "m.mrc"]


def test_links_are_followed_once(here: Path) -> None:
    touch(here / "real/m.mrc", here / "in/n.mrc")
    (here / "in/linked").symlink_to(here / "real")
    (here / "in/loop").symlink_to(here / "in")
    assert names(["in"]) == ["m.mrc", "n.mrc"]


def test_same_file_counts_once(here: Path) -> None:
    touch(here / "d/m.mrc")
    (here / "d/z.mrc").symlink_to(here / "d/m.mrc")
    assert names(["d", "d/m.mrc", here / "d/m.mrc", "d/*.mrc"]) == ["m.mrc"]


def test_globs(here: Path) -> None:
    touch(here / "a/1.mrc", here / "a/b/2.mrc", here / "a/b/2.txt")
    assert names(["a/**/*.mrc"]) == ["1.mrc", "2.mrc"]
    assert names(["a/*/*"]) == ["2.mrc"]
    with pytest.raises(CryoSegNetError, match="matches no file"):
        expand_inputs(["a/*.tif"])
    with pytest.raises(CryoSegNetError, match="and no micrograph"):
        expand_inputs(["a/b/*.txt"])


def test_a_name_with_magic_characters_is_a_file(here: Path) -> None:
    touch(here / "m[1].mrc")
    assert names(["m[1].mrc"]) == ["m[1].mrc"]


@pytest.mark.parametrize("argument", ["gone.mrc", "gone/", "@gone.txt", "gone.star", "empty", "@empty.txt"])
def test_what_is_missing_or_empty_is_said(here: Path, argument: str) -> None:
    (here / "empty").mkdir()
    (here / "empty.txt").write_text("# nothing\n\n")
    with pytest.raises(CryoSegNetError, match=argument.strip("@/")):
        expand_inputs([argument])


def test_no_argument() -> None:
    with pytest.raises(CryoSegNetError):
        expand_inputs([])


def test_list(here: Path) -> None:
    touch(here / "m1.mrc", here / "lists/m2.mrc", here / "lists/m1.mrc")
    (here / "lists/l.txt").write_bytes(f"\ufeff# comment\r\nm1.mrc\r\n\r\n m2.mrc \r\ngone.mrc\n{here}/m1.mrc".encode())
    found = expand_inputs(["@lists/l.txt"])
    assert [str(one.path) for one in found] == ["gone.mrc", "lists/m2.mrc", "m1.mrc"]
    assert [one.name for one in found] == ["gone.mrc", "m2.mrc", "m1.mrc"]


OPTICS = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographPixelSize #3
opticsGroup1 1 0.885
opticsGroup2 2 1.06


# version 30001

data_micrographs

loop_
_rlnMicrographName #1
_rlnOpticsGroup #2
MotionCorr/job002/m10.mrc 1
MotionCorr/job002/m2.mrc 2
MotionCorr/job002/m3.mrc 7
"""


def test_star_with_optics(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(here / "project/MotionCorr/job002/m2.mrc")
    star = here / "project/CtfFind/job003/micrographs_ctf.star"
    star.parent.mkdir(parents=True)
    star.write_text(OPTICS)
    for folder, argument in ((here, star), (here / "project", "CtfFind/job003/micrographs_ctf.star")):
        monkeypatch.chdir(folder)
        found = expand_inputs([argument])
        assert [one.name for one in found] == [f"MotionCorr/job002/m{i}.mrc" for i in (2, 3, 10)]
        assert [one.pixel_size for one in found] == [1.06, None, 0.885]
        assert found[0].path.exists()
        assert [one.path.exists() for one in found] == [True, False, False]


def test_star_whose_first_micrographs_are_archived(here: Path) -> None:
    touch(here / "project/Movies/m70.mrc", here / "project/Movies/m99.mrc")
    rows = "\n".join(f"Movies/m{i}.mrc" for i in range(100))
    (here / "project/mics.star").write_text(f"data_\n\nloop_\n_rlnMicrographName #1\n{rows}\n")
    assert sum(one.path.exists() for one in expand_inputs(["project/mics.star"])) == 2


def test_star_before_optics_groups(here: Path) -> None:
    (here / "old.star").write_text(
        "data_\n\nloop_\n_rlnMicrographName #1\n_rlnMagnification #2\n_rlnDetectorPixelSize #3\n"
        "m1.mrc 100000 14.0\nm2.mrc 0 14.0\n"
    )
    assert [one.pixel_size for one in expand_inputs(["old.star"])] == [pytest.approx(1.4), None]


@pytest.mark.parametrize(
    "text",
    [
        OPTICS.replace("0.885", "0,885"),
        "data_\n\nloop_\n_rlnMicrographName #1\n_rlnMicrographPixelSize #2\nm1.mrc 1,06\n",
        "data_\n\nloop_\n_rlnMicrographName #1\n_rlnMagnification #2\n_rlnDetectorPixelSize #3\nm1.mrc 100000 14,0\n",
    ],
)
def test_a_pixel_size_that_is_no_number_is_said(here: Path, text: str) -> None:
    """It once counted as not given, and the header's was used."""
    (here / "commas.star").write_text(text)
    with pytest.raises(CryoSegNetError, match="decimal commas are not read: export the file again with decimal points"):
        expand_inputs(["commas.star"])


def test_star_with_one_optics_group_only(here: Path) -> None:
    (here / "one.star").write_text(
        "data_optics\n\n_rlnOpticsGroup 1\n_rlnMicrographPixelSize 1.5\n\n"
        "data_micrographs\n\nloop_\n_rlnMicrographName #1\n001.mrc\n"
    )
    (found,) = expand_inputs(["one.star"])
    assert (found.name, found.pixel_size) == ("001.mrc", 1.5)


def test_star_that_will_not_do(here: Path) -> None:
    (here / "movies.star").write_text("data_movies\n\nloop_\n_rlnMicrographMovieName #1\na.tiff\n")
    (here / "other.star").write_text("data_x\n\nloop_\n_rlnImageName #1\na.tiff\n")
    (here / "binary.star").write_bytes(os.urandom(2000))
    for name, words in (("movies", "motion correction"), ("other", "rlnMicrographName"), ("binary", "STAR|null bytes")):
        with pytest.raises(CryoSegNetError, match=words):
            expand_inputs([f"{name}.star"])


def test_star_cut_off_within_a_row(here: Path) -> None:
    """A file that is being written; the rows before the cut once lost their pixel sizes."""
    (here / "cut.star").write_text(OPTICS.rsplit(" ", 1)[0])
    with pytest.raises(CryoSegNetError, match="line 23 has 1 values for 2 columns"):
        expand_inputs(["cut.star"])


def test_star_values_stay_as_they_are_written(here: Path) -> None:
    (here / "names.star").write_text('data_\n\nloop_\n_rlnMicrographName #1\n0001\nm#1.mrc\n"m 2.mrc"\n')
    assert [one.name for one in expand_inputs(["names.star"])] == ["0001", "m 2.mrc", "m#1.mrc"]


@pytest.mark.parametrize("content", [b"m1\0.mrc\n", "m1.mrc\n".encode("utf-16"), b"m1.mrc\n\0\0\0\0"])
def test_null_bytes_in_a_list_or_star_file(here: Path, content: bytes) -> None:
    (here / "list.txt").write_bytes(content)
    (here / "mics.star").write_bytes(b"data_\n\nloop_\n_rlnMicrographName #1\n" + content)
    for argument in ("@list.txt", "mics.star"):
        with pytest.raises(CryoSegNetError, match="null bytes"):
            expand_inputs([argument])


def stems(*paths: str, known: dict[str, str] | None = None) -> list[str]:
    return output_stems([Input(Path(p), p) for p in paths], known)


def test_stems() -> None:
    assert stems() == []
    assert stems("/d/a.mrc", "/d/sub/b.mrc.gz") == ["a", "b"]
    assert stems("/d/x/a.mrc", "/d/y/a.mrc", "/d/y/b.mrc") == ["x/a", "y/a", "b"]
    assert stems("/d/a.mrc", "/d/y/a.mrc") == ["a", "y/a"]
    assert stems("/d/a.mrc", "/d/a.tif", "/d/a.png") == ["a", "a.tif", "a.png"]


def test_stems_are_always_different() -> None:
    paths = ["/d/a.mrc", "/d/a.tif", "/d/a.tif.mrc", "/d/x/a.mrc", "/d/x/a.mrc.mrc", "/d/x/a.tif"]
    assert len(set(stems(*paths))) == len(paths)


def test_stems_of_earlier_runs_stay() -> None:
    known = {"/d/x/a.mrc": "a"}
    assert stems("/d/x/a.mrc", "/d/y/a.mrc", "/d/y/b.mrc", known=known) == ["a", "y/a", "b"]
    assert stems("/d/y/a.mrc", known=known) == ["a.mrc"]
    assert stems("/d/y/a.mrc", known={**known, "/e/1": "a.mrc"}) == ["a.mrc_2"]


def test_stems_stay_below_the_output_folder(tmp_path: Path) -> None:
    stems = Stems({}, str(tmp_path / "watched"))
    assert stems.of(Input(tmp_path / "watched/a/m.mrc", "m")) == "m"
    assert stems.of(Input(tmp_path / "watched/b/m.mrc", "m")) == "b/m"
    outside = stems.of(Input(tmp_path / "elsewhere/m.mrc", "m"))
    assert outside.endswith("/elsewhere/m") and ".." not in outside and not outside.startswith("/")
    assert stems.of(Input(tmp_path / "watched/b/m.mrc", "m")) == "b/m"


@pytest.mark.parametrize("on_disk", ["utf-8", "latin-1"])
def test_a_list_in_latin_1(here: Path, on_disk: str) -> None:
    """Its names were once not found where the disk has them in UTF-8."""
    file = os.fsdecode("probe_é.mrc".encode(on_disk))
    touch(here / "lists" / file)
    (here / "lists/l.txt").write_bytes("probe_é.mrc\nfehlt_ü.mrc\n".encode("latin-1"))
    gone, found = sorted((one.path for one in expand_inputs(["@lists/l.txt"])), key=lambda path: path.exists())
    assert found == Path("lists", file)
    with pytest.raises(CryoSegNetError, match="does not exist, and its name is not UTF-8: save the list that names it"):
        read_micrograph(gone)
