"""STAR files of picks: the text, other programs' variants, and damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import starfile

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.picks import Picks, read_many, read_picks
from tests.files.helpers import HEADER, SHAPE, some_picks, written


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
