"""BOX and CBOX: corners of boxes, and the sizes of particles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.labels import coordinate_files
from cryosegnet_ext.files.picks import Picks, read_picks, write_picks
from tests.files.helpers import some_picks, written


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
    with pytest.raises(CryoSegNetError, match="box_size="):
        Picks([1], [1], [np.nan], [1]).write(tmp_path / "a.box")


def test_box_of_other_programs(tmp_path: Path) -> None:
    text = "-12 -6\t24 12 -3\n\n# note\n  10.5\t20.0\t5\t5\n"
    picks = read_picks(written(tmp_path / "a.box", text), pixel_size=2.0)
    assert picks.x.tolist() == [0, 13]
    assert picks.y.tolist() == [0, 22.5]
    assert picks.diameter.tolist() == [36, 10]
    with pytest.raises(CryoSegNetError, match="line 1 has 3 values"):
        read_picks(written(tmp_path / "a.box", "1 2 3\n"))
    with pytest.raises(CryoSegNetError, match="pick 1 has an impossible size"):
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
    # Of crYOLO before 1.8: x, y, width, height, confidence, estimated width and height.
    for old in ("10.5\t20.0\t160\t160\t0.9\t100\t120\n", "\n-3 20 160 160 0.9\n", "1e2,20,160,160,0.9\n"):
        with pytest.raises(
            CryoSegNetError, match=r"columns have no names, as in CBOX files of crYOLO before 1\.8; give"
        ):
            read_picks(written(tmp_path / "old.cbox", old))
        assert coordinate_files(tmp_path)[0]
    with pytest.raises(CryoSegNetError, match="data_cryolo lacks"):
        read_picks(written(tmp_path / "d.cbox", "data_cryolo\n"))
