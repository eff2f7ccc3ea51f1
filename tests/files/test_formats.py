from __future__ import annotations

import argparse
import errno
import os
import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile

from cryosegnet_ext.cli import export
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.atomic import atomic_path, write_atomic
from cryosegnet_ext.files.formats import READABLE, WRITABLE
from cryosegnet_ext.files.picks import Picks, read_many, read_picks, write_cs, write_picks

SHAPE = (3000, 4000)


def some_picks(n: int = 20, whole: bool = False, seed: int = 0) -> Picks:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, SHAPE[1] - 1, n), rng.uniform(0, SHAPE[0] - 1, n)
    if whole:
        x, y = np.floor(x), np.floor(y)
    return Picks(x, y, rng.uniform(100, 250, n), rng.uniform(0, 1, n), pixel_size=1.77, shape=SHAPE)


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# --- every format -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 20])
@pytest.mark.parametrize("suffix", WRITABLE)
def test_round_trip_of_whole_pixels_keeps_centres_and_order(tmp_path: Path, suffix: str, n: int) -> None:
    picks = some_picks(n, whole=True)
    path = tmp_path / ("mic.001" + suffix)
    picks.write(path)
    back = read_picks(path, pixel_size=1.77)
    assert len(back) == n
    tolerance = 1e-3 if suffix == ".cs" else 0  # a float32 fraction of 4000 pixels
    np.testing.assert_allclose(back.x, picks.x, atol=tolerance)
    np.testing.assert_allclose(back.y, picks.y, atol=tolerance)
    np.testing.assert_allclose(back.score, 1.0 if suffix == ".box" else picks.score, atol=1e-6)
    assert back.pixel_size == pytest.approx(1.77)


@pytest.mark.parametrize(("suffix", "tolerance"), [(".cbox", 1e-6), (".csv", 0), (".cs", 1e-3)])
def test_formats_that_keep_fractions_and_diameters(tmp_path: Path, suffix: str, tolerance: float) -> None:
    picks = some_picks()
    picks.write(tmp_path / ("mic" + suffix))
    back = read_picks(tmp_path / ("mic" + suffix), pixel_size=1.77)
    np.testing.assert_allclose(back.x, picks.x, atol=tolerance)
    np.testing.assert_allclose(back.y, picks.y, atol=tolerance)
    np.testing.assert_allclose(back.diameter, picks.diameter, rtol=1e-6)


@pytest.mark.parametrize("suffix", READABLE)
def test_a_file_that_is_missing_empty_or_a_folder(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(CryoSegNetError, match="cannot be read"):
        read_picks(tmp_path / ("none" + suffix))
    (tmp_path / ("folder" + suffix)).mkdir()
    with pytest.raises(CryoSegNetError, match="cannot be read"):
        read_picks(tmp_path / ("folder" + suffix))
    empty = written(tmp_path / ("nothing" + suffix), b"")
    if suffix == ".box":  # EMAN's way to say that there are none
        assert len(read_picks(empty)) == 0
    else:
        with pytest.raises(CryoSegNetError, match=r"no block|lacks|does not name columns|not a \.cs file"):
            read_picks(empty)


@pytest.mark.parametrize("suffix", READABLE)
def test_no_damage_raises_anything_but_our_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / ("mic" + suffix)
    if suffix in WRITABLE:
        some_picks(5).write(path)
    else:
        path.write_text("image_name\tx_coord\ty_coord\tscore\nm1\t10\t20\t-1.5\nm1\t30\t40\t2.5\n")
    good = path.read_bytes()
    chance = random.Random(suffix)
    refused = 0
    for _ in range(400):
        bad = bytearray(good)
        for _ in range(chance.choice([0, 1, 1, 3, 20])):
            i = chance.randrange(len(bad))
            bad[i] = chance.choice([bad[i] ^ (1 << chance.randrange(8)), chance.randrange(256), ord("9"), ord('"')])
        if chance.random() < 0.5:
            del bad[chance.randrange(len(bad)) :]
        if chance.random() < 0.1:
            i = chance.randrange(len(bad) + 1)
            bad[i:i] = bytes(chance.randrange(256) for _ in range(chance.randrange(30)))
        path.write_bytes(bad)
        try:
            picks = read_picks(path)
        except CryoSegNetError as error:
            refused += 1
            assert str(path) in str(error)
            assert "\n" not in str(error)
        else:
            assert np.isfinite([picks.x, picks.y, picks.score]).all()
    assert refused > 20


def test_unknown_formats(tmp_path: Path) -> None:
    with pytest.raises(CryoSegNetError, match=r"\.star, \.box"):
        some_picks().write(tmp_path / "mic.json")
    with pytest.raises(CryoSegNetError, match=r"\.star, \.box"):
        read_picks(written(tmp_path / "mic.json", "{}"))


@pytest.mark.parametrize("suffix", WRITABLE)
def test_coordinates_that_are_no_numbers_are_not_written(tmp_path: Path, suffix: str) -> None:
    picks = Picks([1, np.nan], [1, 2], [9, 9], [1, 1], shape=SHAPE)
    with pytest.raises(CryoSegNetError, match="pick 2"):
        picks.write(tmp_path / ("mic" + suffix))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, -1.0, float("nan")])
def test_pixel_sizes_that_cannot_be(tmp_path: Path, size: float) -> None:
    with pytest.raises(CryoSegNetError, match="pixel size"):
        read_picks(written(tmp_path / "a.box", "1\t2\t8\t8\n"), pixel_size=size)


# --- STAR -------------------------------------------------------------------------------------------------------------

HEADER = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnAutopickFigureOfMerit #3\n"


def test_star_text_is_exactly_what_relion_prints(tmp_path: Path) -> None:
    Picks([10.4, 839], [20.5, 0], [90, 90], [0.25, 1]).write(tmp_path / "a.star")
    rows = "   10.000000    21.000000     0.250000\n  839.000000     0.000000     1.000000\n"
    assert (tmp_path / "a.star").read_text() == HEADER + rows


def test_star_header_is_six_lines(tmp_path: Path) -> None:
    picks = some_picks(3, whole=True)
    picks.write(tmp_path / "a.star")
    xy = np.loadtxt(tmp_path / "a.star", skiprows=6, usecols=(0, 1))
    np.testing.assert_array_equal(xy, np.column_stack([picks.x, picks.y]))
    Picks.empty().write(tmp_path / "none.star")
    assert (tmp_path / "none.star").read_text() == HEADER
    assert HEADER.count("\n") == 6


def test_star_rounds_half_up_and_stays_inside(tmp_path: Path) -> None:
    x = [0.5, 1.5, 2.5, -0.5, -3, 3999.7]
    y = [0.49, 1.51, 2.5, 2999.5, 5000, -0.6]
    picks = Picks(x, y, np.ones(6), np.ones(6), shape=SHAPE)
    picks.write(tmp_path / "a.star")
    back = read_picks(tmp_path / "a.star")
    assert back.x.tolist() == [1, 2, 3, 0, 0, 3999]
    assert back.y.tolist() == [0, 2, 3, 2999, 2999, 0]
    assert "-0.0" not in (tmp_path / "a.star").read_text()


@pytest.mark.parametrize("n", [1, 7])
def test_star_is_read_by_starfile_and_back(tmp_path: Path, n: int) -> None:
    picks = some_picks(n, whole=True)
    picks.write(tmp_path / "a.star")
    frame = starfile.read(tmp_path / "a.star")
    assert list(frame.columns) == ["rlnCoordinateX", "rlnCoordinateY", "rlnAutopickFigureOfMerit"]
    assert frame["rlnCoordinateX"].tolist() == picks.x.tolist()
    frame["rlnMicrographName"] = "Micrographs/a b.mrc"
    starfile.write(frame, tmp_path / "b.star")
    table = read_many(tmp_path / "b.star")
    assert list(table) == ["Micrographs/a b.mrc"]
    assert table["Micrographs/a b.mrc"].y.tolist() == picks.y.tolist()


def test_star_without_picks_is_read_by_starfile(tmp_path: Path) -> None:
    Picks.empty().write(tmp_path / "a.star")
    assert len(starfile.read(tmp_path / "a.star")) == 0


def test_star_header_followed_by_a_comment_or_another_block(tmp_path: Path) -> None:
    text = HEADER + "# version 30001\n\ndata_other\n\n_rlnVoltage 300\n"
    assert len(read_picks(written(tmp_path / "a.star", text))) == 0


def test_star_quirks(tmp_path: Path) -> None:
    text = (
        "# version 50001\r\n\r\ndata_optics\r\n\r\nloop_ \r\n_rlnOpticsGroup #1\r\n_rlnOpticsGroupName\r\n"
        "_rlnMicrographPixelSize #3\r\n1 'the first' 1.5\r\n\r\n\r\ndata_particles\r\n\r\nloop_\r\n"
        '_rlnCoordinateY #1\r\n_rlnNote #2\r\n_rlnCoordinateX #3 # a note\r\n20\t"two words" \t10\r\n'
        "\r\n# a note\r\n 40.5 x#1 30 # another\r\n"
    )
    picks = read_picks(written(tmp_path / "a.star", text))
    assert picks.x.tolist() == [10, 30]
    assert picks.y.tolist() == [20, 40.5]
    assert picks.score.tolist() == [1, 1]
    assert np.isnan(picks.diameter).all()
    assert picks.pixel_size == 1.5


def test_star_single_values_instead_of_a_loop(tmp_path: Path) -> None:
    starfile.write({"rlnCoordinateX": 3.0, "rlnCoordinateY": 4.0}, tmp_path / "a.star")
    picks = read_picks(tmp_path / "a.star")
    assert (picks.x.tolist(), picks.y.tolist()) == ([3.0], [4.0])


def test_star_scores_stay_but_missing_ones_become_one(tmp_path: Path) -> None:
    text = HEADER + "1 1 nan\n2 2 -999.000000\n3 3 -4.5\n4 4 <NA>\n5 5 7\n"
    assert read_picks(written(tmp_path / "a.star", text)).score.tolist() == [1, 1, -4.5, 1, 7]


def test_star_without_coordinates(tmp_path: Path) -> None:
    text = "data_\nloop_\n_rlnCoordinateX #1\n1\n"
    with pytest.raises(CryoSegNetError, match="_rlnCoordinateY"):
        read_picks(written(tmp_path / "a.star", text))
    text = "data_coordinate_files\nloop_\n_rlnMicrographName #1\n_rlnMicrographCoordinates #2\na.mrc a.star\n"
    with pytest.raises(CryoSegNetError, match="coordinate files: give those"):
        read_picks(written(tmp_path / "a.star", text))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("1 2 0.5\n3 4\n", "line 8 has 2 values for 3 columns"),
        ("1 2 0.5 7\n", "line 7 has 4 values"),
        ("1 2 0.5\n1 two 0.5\n", "line 8 has 'two' for a number in column rlnCoordinateY"),
        ("nan 2 0.5\n", "the x of pick 1"),
        ("1 inf 0.5\n", "the y of pick 1"),
        ("1 2 0.5\nloop_\n", "second table"),
    ],
)
def test_star_that_is_damaged_says_where(tmp_path: Path, rows: str, words: str) -> None:
    with pytest.raises(CryoSegNetError, match=words):
        read_picks(written(tmp_path / "a.star", HEADER + rows))


def test_star_of_several_micrographs(tmp_path: Path) -> None:
    text = (
        "data_optics\nloop_\n_rlnOpticsGroup\n_rlnMicrographPixelSize\n1 1.5\n2 0.8\n"
        "data_particles\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnMicrographName\n_rlnOpticsGroup\n"
        "1 2 M/b.mrc 1\n3 4 M/a.mrc 2\n5 6 M/b.mrc 1\n"
    )
    path = written(tmp_path / "particles.star", text)
    table = read_many(path)
    assert list(table) == ["M/b.mrc", "M/a.mrc"]
    assert table["M/b.mrc"].x.tolist() == [1, 5]
    assert [p.pixel_size for p in table.values()] == [1.5, 0.8]
    with pytest.raises(CryoSegNetError, match=r"2 micrographs \(M/b\.mrc, M/a\.mrc"):
        read_picks(path)


# --- BOX and CBOX -----------------------------------------------------------------------------------------------------


def test_box_holds_corners_of_even_boxes(tmp_path: Path) -> None:
    """One size for all, as EMAN has it: the one that was looked for, or the median of the picks'."""
    picks = Picks([100.2, 3], [200, 4], [50, 52], [1, 1])
    picks.write(tmp_path / "a.box")
    assert (tmp_path / "a.box").read_text() == "74\t174\t52\t52\n-23\t-22\t52\t52\n"
    replace(picks, pixel_size=2.0, sought=90).write(tmp_path / "b.box")
    assert (tmp_path / "b.box").read_text() == "77\t177\t46\t46\n-20\t-19\t46\t46\n"
    replace(picks, sought=90).write(tmp_path / "b.cbox")
    assert np.isfinite(read_picks(tmp_path / "b.cbox").diameter).all()
    assert read_picks(tmp_path / "b.cbox").diameter.tolist() == [50, 52]
    block = starfile.read(tmp_path / "b.cbox", always_dict=True)["cryolo"]
    assert set(block["Width"]) == set(block["Height"]) == {90}
    back = read_picks(tmp_path / "a.box")
    assert back.x.tolist() == [100, 3]
    assert back.diameter.tolist() == [52, 52]


def test_box_of_a_given_size(tmp_path: Path) -> None:
    write_picks(Picks([100], [200], [np.nan], [1]), tmp_path / "a.box", box_size=256)
    assert (tmp_path / "a.box").read_text() == "-28\t72\t256\t256\n"
    with pytest.raises(CryoSegNetError, match="even"):
        write_picks(some_picks(), tmp_path / "a.box", box_size=255)
    with pytest.raises(CryoSegNetError, match="--box-size"):
        Picks([1], [1], [np.nan], [1]).write(tmp_path / "a.box")


def test_box_of_other_programs(tmp_path: Path) -> None:
    text = "-12 -6\t24 12 -3\n\n# note\n  10.5\t20.0\t5\t5\n"
    picks = read_picks(written(tmp_path / "a.box", text), pixel_size=2.0)
    assert picks.x.tolist() == [0, 13]
    assert picks.y.tolist() == [0, 22.5]
    assert picks.diameter.tolist() == [36, 10]
    with pytest.raises(CryoSegNetError, match="line 1 has 3 values"):
        read_picks(written(tmp_path / "a.box", "1 2 3\n"))
    with pytest.raises(CryoSegNetError, match="pick 1 has no size"):
        read_picks(written(tmp_path / "a.box", "1 2 0 5\n"))


def test_cbox_holds_corners_and_sizes(tmp_path: Path) -> None:
    Picks([100.25], [200], [91], [0.75], pixel_size=1.0).write(tmp_path / "a.cbox")
    blocks = starfile.read(tmp_path / "a.cbox", always_dict=True)
    assert list(blocks) == ["global", "cryolo", "cryolo_include"]
    row = blocks["cryolo"].iloc[0]
    assert (row["CoordinateX"], row["CoordinateY"], row["Width"], row["Height"]) == (54.25, 154, 92, 92)
    assert (row["EstWidth"], row["EstHeight"], row["Confidence"]) == (91, 91, 0.75)


def test_cbox_is_read_as_a_facility_reads_it(tmp_path: Path) -> None:
    cif = pytest.importorskip("gemmi").cif
    picks = some_picks(4)
    picks.write(tmp_path / "a.cbox")
    block = cif.read_file(str(tmp_path / "a.cbox")).find_block("cryolo")
    column = {name: np.array(block.find_loop("_" + name), dtype=float) for name in ("CoordinateX", "Width", "EstWidth")}
    np.testing.assert_allclose(column["CoordinateX"] + column["Width"] / 2, picks.x, atol=1e-5)
    np.testing.assert_allclose(column["EstWidth"], picks.diameter_px, atol=1e-5)
    Picks.empty().write(tmp_path / "none.cbox")
    assert len(cif.read_file(str(tmp_path / "none.cbox")).find_block("cryolo").find_loop("_CoordinateX")) == 0


def test_cbox_of_cryolo(tmp_path: Path) -> None:
    text = (
        "\ndata_global\n\n_cbox_format_version 1.0\n \n\ndata_cryolo\n\nloop_ \n_CoordinateX #1\n_CoordinateY #2\n"
        "_CoordinateZ #3\n_Width #4\n_Height #5\n_Depth #6\n_EstWidth #7\n_EstHeight #8\n_Confidence #9\n_NumBoxes\n"
        "_Angle #11\n10.5 20.0 <NA> 160.0 160.0 1.0 100.0 120.0 0.9 3.0 <NA>\n"
        "-30 20.0 <NA> 160.0 160.0 1.0 <NA> <NA> 0.3 <NA> <NA>\n\ndata_cryolo_include\n\nloop_ \n_slice_index #1\n"
    )
    picks = read_picks(written(tmp_path / "a.cbox", text))
    assert picks.x.tolist() == [90.5, 50]
    assert picks.diameter.tolist() == [110, 160]
    assert picks.score.tolist() == [0.9, 0.3]
    volume = text.replace("<NA> 160.0", "7 160.0", 1).replace("<NA> 160.0", "8 160.0", 1)
    with pytest.raises(CryoSegNetError, match="tomogram"):
        read_picks(written(tmp_path / "b.cbox", volume))
    with pytest.raises(CryoSegNetError, match="lacks _Height"):
        read_picks(written(tmp_path / "c.cbox", text.replace("_Height", "_Hight")))
    with pytest.raises(CryoSegNetError, match="data_cryolo lacks"):
        read_picks(written(tmp_path / "d.cbox", "data_cryolo\n"))


# --- CSV and Topaz ----------------------------------------------------------------------------------------------------


def test_csv_text(tmp_path: Path) -> None:
    Picks([1.5], [2], [177], [0.5], pixel_size=1.77).write(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "x,y,diameter_A,diameter_px,score\n1.5,2.0,177.0,100.0,0.5\n"
    Picks([1.5], [2], [100], [0.5]).write(tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_text() == "x,y,diameter_A,diameter_px,score\n1.5,2.0,,100.0,0.5\n"
    assert read_picks(tmp_path / "a.csv").pixel_size == 1.77
    back = read_picks(tmp_path / "b.csv")
    assert (back.pixel_size, back.diameter.tolist()) == (None, [100])


def test_csv_of_other_programs(tmp_path: Path) -> None:
    cryoppp = "X-Coordinate,Y-Coordinate,Diameter\n10,20,108\n"
    picks = read_picks(written(tmp_path / "a.csv", cryoppp), pixel_size=1.5)
    assert (picks.x[0], picks.y[0], picks.diameter[0], picks.score[0]) == (10, 20, 162, 1)
    angstrom = written(tmp_path / "b.csv", "x;y;diameter_A\n1;2;150\n\n")
    assert read_picks(angstrom, pixel_size=1.5).diameter_px.tolist() == [100]
    with pytest.raises(CryoSegNetError, match="give the pixel size"):
        read_picks(angstrom)


def test_csv_that_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(CryoSegNetError, match="not name columns x and y"):
        read_picks(written(tmp_path / "a.csv", "1,2\n3,4\n"))
    with pytest.raises(CryoSegNetError, match="line 3 has 1 values for 2 columns"):
        read_picks(written(tmp_path / "a.csv", "x,y\n3,4\n5\n"))


def test_topaz_table(tmp_path: Path) -> None:
    text = "image_name\tx_coord\ty_coord\tscore\nm.2\t10\t20\t-1.5\nm.1\t30\t40\t2.5\nm.2\t50\t60\t0\n"
    table = read_many(written(tmp_path / "picks.txt", text))
    assert list(table) == ["m.2", "m.1"]
    assert table["m.2"].score.tolist() == [-1.5, 0]
    with pytest.raises(CryoSegNetError, match="2 micrographs"):
        read_picks(tmp_path / "picks.txt")
    one = written(tmp_path / "one.txt", "\n".join(text.split("\n")[:2]))
    assert read_picks(one).x.tolist() == [10]


# --- CryoSPARC --------------------------------------------------------------------------------------------------------


def cs_rows(tmp_path: Path, **columns: object) -> Path:
    values = {
        "location/center_x_frac": np.array([0.5, 0.25], "f4"),
        "location/center_y_frac": np.array([0.5, 0.75], "f4"),
        "location/micrograph_shape": np.array([[3000, 4000], [3000, 4000]], "u4"),
        "location/micrograph_path": np.array([b">J1/m/a.mrc", b"J1/m/b.mrc"]),
        **columns,
    }
    arrays = {k: np.asarray(v) for k, v in values.items() if v is not None}
    rows = np.zeros(2, dtype=[(k, v.dtype, v.shape[1:]) for k, v in arrays.items()])
    for name, array in arrays.items():
        rows[name] = array
    with open(tmp_path / "p.cs", "wb") as file:
        np.save(file, rows)
    return tmp_path / "p.cs"


def test_cs_is_fractions_of_width_and_height_without_a_flip(tmp_path: Path) -> None:
    sizes = np.array([1.5, 0], "f4")
    path = cs_rows(
        tmp_path, **{"location/micrograph_psize_A": sizes, "location/min_dist_A": np.array([150, 150], "f4")}
    )
    table = read_many(path, pixel_size=3.0)
    assert list(table) == ["J1/m/a.mrc", "J1/m/b.mrc"]
    a, b = table.values()
    assert (a.x[0], a.y[0], a.shape, a.pixel_size, a.diameter[0]) == (2000, 1500, SHAPE, 1.5, 150)
    assert (b.x[0], b.y[0], b.pixel_size, b.diameter[0]) == (1000, 2250, 3.0, 150)


def test_cs_without_a_path_goes_by_the_micrographs_uid(tmp_path: Path) -> None:
    path = cs_rows(tmp_path, **{"location/micrograph_path": None, "location/micrograph_uid": np.array([7, 8], "u8")})
    assert list(read_many(path)) == ["7", "8"]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"location/center_x_frac": None}, "lacks"),
        ({"location/micrograph_shape": None}, "lacks"),
        ({"location/micrograph_shape": np.array([3, 4])}, "has the type"),
        ({"location/micrograph_shape": np.zeros((2, 2), "u4")}, "not a size"),
        ({"location/center_x_frac": np.array([b"a", b"b"])}, "has the type"),
        ({"location/center_x_frac": np.array([np.nan, 1])}, "the x of pick 1"),
    ],
)
def test_cs_that_cannot_be_used(tmp_path: Path, columns: dict[str, object], words: str) -> None:
    with pytest.raises(CryoSegNetError, match=words):
        read_many(cs_rows(tmp_path, **columns))


def test_cs_with_pickles_plain_arrays_or_compressed(tmp_path: Path) -> None:
    with open(tmp_path / "a.cs", "wb") as file:
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(CryoSegNetError, match="damaged"):
        read_picks(tmp_path / "a.cs")
    with open(tmp_path / "a.cs", "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(CryoSegNetError, match="no table"):
        read_picks(tmp_path / "a.cs")
    with pytest.raises(CryoSegNetError, match="cryosparc-tools"):
        read_picks(written(tmp_path / "a.cs", b"\x95CSDAT..."))


def test_written_cs_has_cryosparcs_fields(tmp_path: Path) -> None:
    twice = Picks([10, 10], [20, 20], [150, 150], [0.5, 0.5], pixel_size=1.5, shape=SHAPE)
    table = {"J1/a.mrc": some_picks(3), "J1/longer.mrc": twice, "J1/none.mrc": Picks.empty(shape=SHAPE)}
    write_cs(table, tmp_path / "a.cs")
    write_cs(table, tmp_path / "again.cs")
    assert (tmp_path / "a.cs").read_bytes() == (tmp_path / "again.cs").read_bytes()
    rows = np.load(tmp_path / "a.cs", allow_pickle=False)
    assert len(set(rows["uid"])) == len(rows) == 5
    assert len(set(rows["location/micrograph_uid"])) == 2
    assert rows["location/micrograph_path"].tolist()[2:4] == [b"J1/a.mrc", b"J1/longer.mrc"]
    assert rows["location/micrograph_shape"][0].tolist() == [3000, 4000]
    types = {name: rows.dtype[name].base.str for name in rows.dtype.names}
    assert types["uid"] == types["location/micrograph_uid"] == "<u8"
    assert types["location/micrograph_shape"] == types["location/exp_group_id"] == "<u4"
    assert types["location/center_x_frac"] == types["pick_stats/ncc_score"] == "<f4"
    back = read_many(tmp_path / "a.cs")
    np.testing.assert_allclose(back["J1/a.mrc"].y, table["J1/a.mrc"].y, atol=1e-3)
    with pytest.raises(CryoSegNetError, match="--shape"):
        write_cs({"a": Picks.empty()}, tmp_path / "b.cs")


def test_written_cs_is_read_by_cryosparc_tools(tmp_path: Path) -> None:
    dataset = pytest.importorskip("cryosparc.dataset")
    write_cs({"J1/a.mrc": some_picks(3)}, tmp_path / "a.cs")
    rows = dataset.Dataset.load(tmp_path / "a.cs")
    assert len(rows) == 3
    assert str(rows["location/micrograph_path"][0]) == "J1/a.mrc"


# --- real files -------------------------------------------------------------------------------------------------------


def test_real_star_files_of_other_pickers(shared_data: Path) -> None:
    paths = sorted((shared_data / "peers").rglob("*.star")) + sorted((shared_data / "labels").rglob("*.star"))
    assert paths
    for path in paths:
        picks = read_picks(path)
        frame = starfile.read(path)
        np.testing.assert_array_equal(picks.x, frame["rlnCoordinateX"], err_msg=str(path))
        np.testing.assert_array_equal(picks.y, frame["rlnCoordinateY"], err_msg=str(path))


def test_real_relion_autopick_file(shared_data: Path) -> None:
    path = next((shared_data / "micrographs" / "contamination").glob("*_autopick.star"))
    picks, frame = read_picks(path), starfile.read(path)
    np.testing.assert_array_equal(picks.x, frame["rlnCoordinateX"])
    np.testing.assert_array_equal(picks.score, frame["rlnAutopickFigureOfMerit"])


# --- atomic writing ---------------------------------------------------------------------------------------------------


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


# --- the command ------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    export.add_args(parser)
    return export.main(parser.parse_args([str(a) for a in arguments]))


def test_export_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = written(tmp_path / "May08_03.05.02.star", HEADER + "100 200 0.5\n")
    assert run(source, "--to", "box", "--box-size", 64, "-o", tmp_path / "out") == 0
    assert (tmp_path / "out" / "May08_03.05.02.box").read_text() == "68\t168\t64\t64\n"
    assert run(source, "--to", "csv", "-o", tmp_path / "deep" / "x.csv") == 0
    assert (tmp_path / "deep" / "x.csv").is_file()
    assert "1 micrograph, 1 pick ->" in capsys.readouterr().out


def test_export_a_folder_to_one_cs_and_back(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for seed in range(3):
        some_picks(4, whole=True, seed=seed).write(tmp_path / "in" / f"m{seed}.csv")
    table = tmp_path / "all.cs"
    assert run(tmp_path / "in", "--to", "cs", "--shape", *SHAPE, "--output", table) == 0
    assert run(table, "--to", "star", "--output", tmp_path / "out") == 0
    for seed in range(3):
        back = read_picks(tmp_path / "out" / f"m{seed}.star")
        assert back.x.tolist() == some_picks(4, whole=True, seed=seed).x.tolist()


def test_export_splits_a_table(tmp_path: Path) -> None:
    text = "image_name\tx_coord\ty_coord\tscore\nm.2\t10\t20\t-1.5\nm.1\t30\t40\t2.5\n"
    assert run(written(tmp_path / "t.txt", text), "--to", "star", "-o", tmp_path / "out") == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["m.1.star", "m.2.star"]
    names = "x,y,micrograph\n1,2,M/a.mrc\n3,4,M/b.mrc.gz\n"
    assert run(written(tmp_path / "t.csv", names), "--to", "star", "-o", tmp_path / "more") == 0
    assert sorted(p.name for p in (tmp_path / "more").iterdir()) == ["a.star", "b.star"]
    with pytest.raises(CryoSegNetError, match="give a folder"):
        run(tmp_path / "t.csv", "--to", "star", "-o", tmp_path / "one.star")


def test_export_flips_y(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = written(tmp_path / "a.star", HEADER + "5 0 1\n6 99 1\n")
    out = tmp_path / "out"
    assert run(source, "--to", "star", "--flip-y", "--shape", 100, 50, "-o", out) == 0
    assert read_picks(out / "a.star").y.tolist() == [99, 0]
    assert run(source, "--to", "star", "--flip-y", "-o", out) == 3
    assert "--shape NY NX" in caplog.text


def test_export_goes_on_after_a_bad_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = written(tmp_path / "a.star", HEADER + "5 0 1\n")
    bad = written(tmp_path / "b.star", "data_\n")
    assert run(bad, good, "--to", "csv", "-o", tmp_path / "out") == 2
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.csv"]
    assert len(caplog.messages) == 1


def test_export_never_writes_over_an_input_nor_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    a = written(tmp_path / "a.star", HEADER + "5.25 0 1\n")
    (tmp_path / "sub").mkdir()
    b = written(tmp_path / "sub" / "a.star", HEADER + "6 0 1\n")
    assert run(a, "--to", "star", "-o", tmp_path) == 3
    assert "one of the inputs" in caplog.text
    assert "5.25" in a.read_text()
    assert run(a, b, "--to", "csv", "-o", tmp_path / "out") == 2
    assert "two inputs would both be written to" in caplog.text


def test_export_keeps_apart_what_pick_kept_apart(tmp_path: Path) -> None:
    """``pick`` calls the files of m.mrc and m.tif so, and that of x.tif.mrc; an export once lost or renamed them."""
    (tmp_path / "picks").mkdir()
    for number, stem in enumerate(("m", "m.tif", "x.tif")):
        written(tmp_path / f"picks/{stem}.star", HEADER + f"{number} 0 1\n")
    assert run(tmp_path / "picks", "--to", "csv", "-o", tmp_path / "out") == 0
    found = {path.name: read_picks(path).x.tolist() for path in (tmp_path / "out").iterdir()}
    assert found == {"m.csv": [0], "m.tif.csv": [1], "x.tif.csv": [2]}


def test_export_of_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(CryoSegNetError, match="no pick files"):
        run(tmp_path, "--to", "box")
    with pytest.raises(CryoSegNetError, match="above zero"):
        run(tmp_path, "--to", "box", "--shape", 0, 5)
    with pytest.raises(SystemExit):
        run(tmp_path, "--to", "pdf")


def test_export_is_light_to_import() -> None:
    import subprocess

    code = "import sys, cryosegnet_ext.cli.export; assert not {'numpy', 'pandas', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_export_takes_the_output_of_pick_with_its_subfolders(tmp_path: Path) -> None:
    exact = Picks([10.25, 30.5], [20.75, 40.5], [90.0, 95.0], [0.9, 0.6], 1.5, (100, 120))
    for day in ("dayA", "dayB"):
        (tmp_path / "out" / "picks" / day).mkdir(parents=True)
        for suffix in ("star", "box", "csv"):
            exact.write(tmp_path / "out" / "picks" / day / f"m.{suffix}")
    (tmp_path / "out" / "summary.json").write_text("{}")
    parser = argparse.ArgumentParser()
    export.add_args(parser)
    words = [str(tmp_path / "out"), "--to", "cbox", "-o", str(tmp_path / "new")]
    assert export.main(parser.parse_args(words)) == 0
    for day in ("dayA", "dayB"):  # from the CSV, which keeps fractions and scores
        found = read_picks(tmp_path / "new" / day / "m.cbox", pixel_size=1.5)
        assert np.allclose(found.x, exact.x) and np.allclose(found.score, exact.score)


def test_export_of_nothing_says_so(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    export.add_args(parser)
    with pytest.raises(CryoSegNetError, match="no such file"):
        export.main(parser.parse_args([str(tmp_path / "nothere"), "--to", "star"]))
