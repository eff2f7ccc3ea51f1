"""Tables of many programs: those that are not picks, joined ones, optics groups, and large ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.inputs import Input, expand_inputs
from cryosegnet_ext.files.picks import read_many, read_picks
from cryosegnet_ext.files.relion import coordinate_list, listed_micrographs
from cryosegnet_ext.files.star import read_star_blocks
from tests.files.helpers import picture, write_mrc, written

XY = "_rlnCoordinateX #1\n_rlnCoordinateY #2\n"
NAMED = f"loop_\n{XY}_rlnMicrographName #3\n"
OPTICS = "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnMicrographPixelSize #2\n"
MICROGRAPHS = "data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n"


# --- tables that are not picks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.star", f"data_general\n\n_rlnVoltage 300\n\ndata_hot_pixels\n\nloop_\n{XY}7 8\n", "data_hot_pixels"),
        ("a.star", f"data_local_shift\n\nloop_\n_rlnMicrographFrameNumber #1\n{XY}1 7 8\n", "data_local_shift"),
        ("a.star", f"data_\n\nloop_\n{XY}_rlnCoordinateZ #3\n1 2 30\n3 4 30\n", "tomogram"),
        ("a.star", f"data_\n\nloop_\n{XY}_rlnTomoName #3\n1 2 TS_01\n", "tomogram"),
        ("a.csv", "x,y,z\n1,2,3\n4,5,3\n", "tomogram"),
        ("a.txt", "image_name\tx_coord\ty_coord\tz_coord\nm\t1\t2\t3\n", "tomogram"),
        ("a.csv", "x,y,width,height\n40,50,20,20\n", "corners or centres"),
        ("a.box", "1 2 10 10 -1\n11 12 10 10 -2\n", "line 1 is the end of a helix"),
        ("a.box", "1 2 10 10 0\n1 2 10 10 -2\n", "line 2 is the end of a helix"),
    ],
)
def test_tables_that_are_not_picks_are_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(CryoSegNetError, match=said):
        read_many(written(tmp_path / name, text))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.star", f"data_hot_pixels\n\nloop_\n{XY}7 8\n\ndata_particles\n\nloop_\n{XY}1 2\n"),
        ("a.star", f"data_\n\nloop_\n{XY}_rlnCoordinateZ #3\n1 2 0.0\n"),
        ("a.csv", "x,y,z\n1,2,\n"),
        ("a.csv", "x,y,z\n1,2,0\n"),
        ("a.box", "-4 -3 10 10 -3\n"),
        ("a.box", "-4 -3 10 10 0\n"),
    ],
)
def test_picks_in_like_tables_are_read(tmp_path: Path, name: str, text: str) -> None:
    picks = read_picks(written(tmp_path / name, text))
    assert (picks.x.tolist(), picks.y.tolist()) == ([1], [2])


# --- joined files -----------------------------------------------------------------------------------------------------


def test_joined_tables_of_picks_are_all_read(tmp_path: Path) -> None:
    one, two = (f"data_\n\n{NAMED}{i} 2 {name}.mrc\n" for i, name in ((1, "a"), (5, "b")))
    table = read_many(written(tmp_path / "both.star", one + two))
    assert {name: picks.x.tolist() for name, picks in table.items()} == {"a.mrc": [1], "b.mrc": [5]}
    scored = f"data_\n\n{NAMED}_rlnAutopickFigureOfMerit #4\n3 4 a.mrc 0.5\n"
    both = read_many(written(tmp_path / "c.star", one + scored))["a.mrc"]
    assert (both.x.tolist(), both.score.tolist()) == ([1, 3], [1, 0.5])


CBOX = "data_cryolo\n\nloop_\n_CoordinateX #1\n_CoordinateY #2\n_Width #3\n_Height #4\n1 2 10 10\n\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.star", f"data_\n\nloop_\n{XY}1 2\n" * 2),
        ("a.star", f"data_\n\nloop_\n{XY}1 2\ndata_\n\n{NAMED}1 2 a.mrc\n"),
        ("a.cbox", CBOX * 2),
        ("a.csv", "x,y\n1,2\n" * 2),
    ],
)
def test_joined_tables_that_do_not_name_their_micrographs_are_refused(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(CryoSegNetError, match="several tables of picks, which do not all name their micrographs"):
        read_many(written(tmp_path / name, text))


@pytest.mark.parametrize("column", ["filename", "image", "Micrograph Name", "micrograph_path", "mic_name"])
def test_a_csv_of_several_micrographs_by_another_column_is_not_one_micrograph(tmp_path: Path, column: str) -> None:
    table = read_many(written(tmp_path / "a.csv", f"{column},x,y\na.mrc,1,2\nb.mrc,3,4\n"))
    assert {name: picks.x.tolist() for name, picks in table.items()} == {"a.mrc": [1], "b.mrc": [3]}


def test_thousands_of_joined_tables(tmp_path: Path) -> None:
    text = "".join(f"data_\n\n{NAMED}1 2 m{i}.mrc\n\n" for i in range(5000))
    assert len(read_many(written(tmp_path / "a.star", text))) == 5000


def test_joined_tables_of_picks_keep_their_optics_groups(tmp_path: Path) -> None:
    loop = f"{NAMED}_rlnOpticsGroup #4\n"
    one = f"{OPTICS}1 1.5\n\ndata_particles\n\n{loop}1 2 a.mrc 1\n\n"
    two = f"{OPTICS}1 0.8\n\ndata_particles\n\n{loop}1 2 b.mrc 1\n"
    table = read_many(written(tmp_path / "both.star", one + two))
    assert [picks.pixel_size for picks in table.values()] == [1.5, 0.8]


def test_joined_lists_of_micrographs_keep_their_optics_groups(tmp_path: Path) -> None:
    one, two = (f"{OPTICS}1 {size}\n\n{MICROGRAPHS}{name}.mrc 1\n\n" for size, name in ((1.5, "a"), (0.8, "b")))
    rows = listed_micrographs(written(tmp_path / "both.star", one + two))
    assert [(name, size) for _, name, size, _ in rows] == [("a.mrc", 1.5), ("b.mrc", 0.8)]


def test_a_joined_list_of_relion_3_0_keeps_its_own_pixel_sizes(tmp_path: Path) -> None:
    new = f"{OPTICS}1 1.5\n\n{MICROGRAPHS}a.mrc 1\n\n"
    old = "data_\n\nloop_\n_rlnMicrographName\n_rlnDetectorPixelSize\n_rlnMagnification\nb.mrc 5 50000\n"
    rows = listed_micrographs(written(tmp_path / "both.star", new + old))
    assert [size for _, _, size, _ in rows] == [1.5, 1.0]


@pytest.mark.parametrize(("name", "header"), [("a.csv", "x,y,micrograph"), ("a.txt", "x_coord\ty_coord\timage_name")])
def test_joined_tables_may_repeat_their_header(tmp_path: Path, name: str, header: str) -> None:
    row = "1,2,m" if name == "a.csv" else "1\t2\tm"
    assert len(read_picks(written(tmp_path / name, f"{header}\n{row}\n{header}\n{row}\n"))) == 2


def test_joined_lists_of_coordinate_files(tmp_path: Path) -> None:
    head = "data_coordinate_files\n\nloop_\n_rlnMicrographName #1\n_rlnMicrographCoordinates #2\n"
    for name in ("a", "b"):
        (tmp_path / f"{name}.star").write_text("data_\n")
    path = tmp_path / "both.star"
    written(path, f"{head}a.mrc {tmp_path}/a.star\n\n{head}b.mrc {tmp_path}/b.star\n\n")
    assert list(coordinate_list(path) or ()) == ["a.mrc", "b.mrc"]
    written(path, f"{head}a.mrc {tmp_path}/a.star\n\n{head}a.mrc {tmp_path}/b.star\n\n")
    with pytest.raises(CryoSegNetError, match=r"two coordinate files for a\.mrc"):
        coordinate_list(path)


@pytest.mark.parametrize("number", [" #1", ""])
@pytest.mark.parametrize(
    "names", [["data_1.mrc", "data_2.mrc"], ["_1.mrc", "_2.mrc", "data_3.mrc"], ["a.mrc", "data_b.mrc", "_c/d.mrc"]]
)
def test_names_that_look_like_labels_or_blocks(tmp_path: Path, names: list[str], number: str) -> None:
    rows = "\n".join(names)
    path = written(
        tmp_path / "a.star", f"data_\n\nloop_\n_rlnMicrographName{number}\n{rows}\n\ndata_other\n\n_rlnX 1\n"
    )
    assert [name for _, name, _, _ in listed_micrographs(path)] == names
    rows = "\n".join(f"{name} 1" for name in names)
    text = f"{OPTICS}1 1.5\n\ndata_\n\nloop_\n_rlnMicrographName{number}\n_rlnOpticsGroup{number}\n{rows}\n"
    assert [row[1:] for row in listed_micrographs(written(path, text))] == [(name, 1.5, None) for name in names]


# --- optics groups ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "mine"), [("1", "1.000000"), ("1", "01"), ("1.000000", "1"), ("02", "2.0")])
def test_optics_groups_are_numbers(tmp_path: Path, group: str, mine: str) -> None:
    text = f"{OPTICS}{group} 1.5\n7 3.0\n\n{MICROGRAPHS}a.mrc {mine}\n"
    assert listed_micrographs(written(tmp_path / "a.star", text))[0][2] == 1.5
    text = f"{OPTICS}{group} 1.5\n7 3.0\n\ndata_particles\n\n{NAMED}_rlnOpticsGroup #4\n1 2 a.mrc {mine}\n"
    assert read_picks(written(tmp_path / "b.star", text)).pixel_size == 1.5


def test_a_missing_optics_group_is_an_error_of_its_rows(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_mrc(tmp_path / f"{name}.mrc", picture(), voxel=9.0)
    a, b = (tmp_path / f"{name}.mrc" for name in ("a", "b"))
    star = written(tmp_path / "mics.star", f"{OPTICS}1 1.5\n\n{MICROGRAPHS}{a} 1\n{b} 2\n")
    good, lost = expand_inputs([star])
    assert good.read().pixel_size == 1.5
    with pytest.raises(CryoSegNetError, match=r"b\.mrc: it has optics group 2, which .*mics\.star lacks"):
        lost.read()
    assert lost.read(1.2).pixel_size == 1.2
    picks = f"{OPTICS}1 1.5\n\ndata_particles\n\n{NAMED}_rlnOpticsGroup #4\n1 2 a.mrc 1\n1 2 b.mrc 2\n"
    with pytest.raises(CryoSegNetError, match="line 16 has optics group 2"):
        read_many(written(tmp_path / "picks.star", picks))


@pytest.mark.parametrize("size", ["0.000000", "-1"])
def test_a_pixel_size_of_zero_is_an_error_of_its_rows(tmp_path: Path, size: str) -> None:
    write_mrc(tmp_path / "a.mrc", picture(), voxel=9.0)
    star = written(tmp_path / "mics.star", f"{OPTICS}1 {size}\n\n{MICROGRAPHS}{tmp_path / 'a.mrc'} 1\n")
    (lost,) = expand_inputs([star])
    with pytest.raises(CryoSegNetError, match=r"a\.mrc: it has a pixel size of (0|-1) in .*mics\.star; correct"):
        lost.read()
    assert lost.read(1.2).pixel_size == 1.2


@pytest.mark.parametrize("optics", ["", f"{OPTICS}1 1.5\n2 2.5\n\n"])
def test_a_table_with_groups_and_pixel_sizes_of_its_own_is_not_one_of_optics(tmp_path: Path, optics: str) -> None:
    both = "_rlnOpticsGroup #4\n_rlnMicrographPixelSize #5\n"
    table = f"{optics}data_\n\n{NAMED}{both}1 2 a.mrc 1 1.5\n3 4 b.mrc 2 2.5\n"
    star = written(tmp_path / "a.star", table)
    assert [(name, size) for _, name, size, _ in listed_micrographs(star)] == [("a.mrc", 1.5), ("b.mrc", 2.5)]
    assert {name: picks.x.tolist() for name, picks in read_many(star).items()} == {"a.mrc": [1], "b.mrc": [3]}


def test_an_optics_group_of_two_pixel_sizes_is_refused(tmp_path: Path) -> None:
    star = written(tmp_path / "a.star", f"{OPTICS}1 1.5\n01 2.5\n\n{MICROGRAPHS}a.mrc 1\n")
    with pytest.raises(CryoSegNetError, match=r"optics group 01 twice, with pixel sizes 1\.5 and 2\.5"):
        listed_micrographs(star)
    star = written(tmp_path / "b.star", f"{OPTICS}1 1.5\n1 1.500000\n2 nan\n2 nan\n\n{MICROGRAPHS}a.mrc 1\n")
    assert [size for *_, size, _ in listed_micrographs(star)] == [1.5]


def test_groups_of_two_sizes_and_no_column_that_says_which(tmp_path: Path) -> None:
    head = f"{OPTICS}1 1.5\n2 {{}}\n\ndata_micrographs\n\nloop_\n_rlnMicrographName #1\na.mrc\n"
    _, _, size, problem = listed_micrographs(written(tmp_path / "a.star", head.format("0.8")))[0]
    assert size is None and problem is not None and "add" in problem
    assert listed_micrographs(written(tmp_path / "b.star", head.format("1.5")))[0][2:] == (1.5, None)


# --- size -------------------------------------------------------------------------------------------------------------

MEASURE = """
import resource, sys
from cryosegnet_ext.files.picks import read_many
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
picks = read_many(sys.argv[1])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(sum(map(len, picks.values())), (after - before) * 1024)
"""


def memory_of(path: Path) -> tuple[int, int]:
    """How many picks a table has, and how many bytes reading it takes."""
    words = [sys.executable, "-c", MEASURE, str(path)]
    count, memory = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    return int(count), int(memory)


@pytest.mark.parametrize("suffix", ["star", "csv"])
def test_a_table_of_particles_needs_little_memory(tmp_path: Path, suffix: str) -> None:
    rows, others = 100_000, [f"rlnOther{i}" for i in range(20)]
    labels = ["rlnCoordinateX", "rlnCoordinateY", "rlnAutopickFigureOfMerit", "rlnMicrographName", *others]
    space = " " if suffix == "star" else ","
    rest = space.join(f"{value:12.6f}" for value in np.linspace(0, 1e4, len(others)))
    head = "data_\n\nloop_\n" + "".join(f"_{label}\n" for label in labels) if suffix == "star" else ",".join(labels)
    with open(tmp_path / f"big.{suffix}", "w") as file:
        file.write(head + ("" if suffix == "star" else "\n"))
        for i in range(rows):
            row = (f"{i / 7:.6f}", f"{i / 3:.6f}", f"{i / rows:.6f}", f"Movies/mic_{i // 300:05d}.mrc", rest)
            file.write(space.join(row) + "\n")
    count, memory = memory_of(tmp_path / f"big.{suffix}")
    assert count == rows
    assert memory < 450 * rows  # a million rows: under 500 MB with the program


def test_the_micrographs_of_a_table_of_particles_need_little_memory(tmp_path: Path) -> None:
    rows = 200_000
    with open(tmp_path / "big.star", "w") as file:
        file.write("data_particles\n\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n")
        file.writelines(f"MotionCorr/job002/Movies/mic_{i // 1000:05d}.mrc {i}.000000\n" for i in range(rows))
    reading = MEASURE.replace("files.picks import read_many", "files.relion import listed_micrographs as read_many")
    words = [
        sys.executable,
        "-c",
        reading.replace("sum(map(len, picks.values()))", "len(picks)"),
        tmp_path / "big.star",
    ]
    count, memory = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    assert int(count) == 200
    assert int(memory) < 400 * rows


def test_a_large_table_of_cryosparc_needs_little_memory(tmp_path: Path) -> None:
    fields = [("blob/path", "S200"), ("ctf/many", "<f4", (100,)), ("location/micrograph_path", "S100")]
    fields += [("location/micrograph_shape", "<u4", (2,)), ("location/micrograph_psize_A", "<f4")]
    fields += [("location/center_x_frac", "<f4"), ("location/center_y_frac", "<f4")]
    rows = np.zeros(100_000, fields)
    rows["location/micrograph_shape"] = 4000
    rows["location/center_x_frac"] = np.linspace(0, 0.9, len(rows))
    rows["location/micrograph_path"] = [f">J1/mic_{i // 300:05d}.mrc".encode() for i in range(len(rows))]
    with open(tmp_path / "big.cs", "wb") as file:
        np.save(file, rows)
    picks = read_many(tmp_path / "big.cs")
    assert list(picks)[-1] == "J1/mic_00333.mrc"
    assert np.concatenate([p.x for p in picks.values()]) == pytest.approx(rows["location/center_x_frac"] * 4000)
    assert {p.shape for p in picks.values()} == {(4000, 4000)}
    count, memory = memory_of(tmp_path / "big.cs")
    assert count == len(rows) and memory < 450 * len(rows)
    (tmp_path / "big.cs").write_bytes((tmp_path / "big.cs").read_bytes()[:-5])
    with pytest.raises(CryoSegNetError, match="damaged"):
        read_many(tmp_path / "big.cs")


def test_a_million_values_and_a_million_columns(tmp_path: Path) -> None:
    n = 200_000  # a time that grows with the square would be hours
    block = read_star_blocks(written(tmp_path / "a.star", "data_\n" + "".join(f"_l{i} {i}\n" for i in range(n))))[0]
    assert (len(block), len(block.labels), block.text(f"l{n - 1}")) == (1, n, [str(n - 1)])
    head = "data_\nloop_\n" + "".join(f"_l{i}\n" for i in range(n))
    text = head + " ".join(map(str, range(n))) + "\n"
    assert read_star_blocks(written(tmp_path / "b.star", text))[0].numbers("l7").tolist() == [7]


@pytest.mark.parametrize("name", ["@/dev/zero", "list.star", "@list.star"])
def test_a_device_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink("/dev/zero", "list.star")
    with pytest.raises(CryoSegNetError, match="it is a device or socket; name a file"):
        expand_inputs([name])
    with pytest.raises(CryoSegNetError, match="it is a device or socket; name a file"):
        read_many("list.star")


def test_numbers_and_gaps_in_large_tables(tmp_path: Path) -> None:
    rows = [f"{i} <NA> m{i % 3}.mrc" for i in range(20_000)]
    path = written(tmp_path / "a.star", "data_\nloop_\n_rlnA\n_rlnB\n_rlnMicrographName\n" + "\n".join(rows) + "\n")
    (block,) = read_star_blocks(path, {"rlnB", "rlnMicrographName"})
    assert np.isnan(block.numbers("rlnB")).all() and len(block) == 20_000
    assert block.text("rlnMicrographName")[-2:] == ["m0.mrc", "m1.mrc"]
    rows[15_000] = "1 2x m.mrc"
    written(path, "data_\nloop_\n_rlnA\n_rlnB\n_rlnMicrographName\n" + "\n".join(rows) + "\n")
    with pytest.raises(CryoSegNetError, match="line 15006 has '2x' for a number in column rlnB"):
        read_star_blocks(path)[0].numbers("rlnB")
    assert np.isnan(read_star_blocks(path)[0].floats("rlnB")[14_999:15_001]).all()
    assert Input(path, "a").problem is None
