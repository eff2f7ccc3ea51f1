"""CSV and Topaz's tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.picks import Picks, read_many, read_picks
from tests.files.helpers import written


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
