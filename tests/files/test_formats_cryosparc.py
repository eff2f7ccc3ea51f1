"""CryoSPARC's .cs files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.picks import Picks, read_many, read_picks, write_cs
from tests.files.helpers import SHAPE, some_picks, written


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
    with pytest.raises(CryoSegNetError, match="shape="):
        write_cs({"a": Picks.empty()}, tmp_path / "b.cs")


def test_written_cs_is_read_by_cryosparc_tools(tmp_path: Path) -> None:
    dataset = pytest.importorskip("cryosparc.dataset")
    write_cs({"J1/a.mrc": some_picks(3)}, tmp_path / "a.cs")
    rows = dataset.Dataset.load(tmp_path / "a.cs")
    assert len(rows) == 3
    assert str(rows["location/micrograph_path"][0]) == "J1/a.mrc"


def test_a_file_of_one_micrograph_names_it_as_it_was_given(tmp_path: Path) -> None:
    known = dataclasses.replace(some_picks(3), micrograph="Movies/mic_1.mrc")
    known.write(tmp_path / "x.cs")
    assert set(read_many(tmp_path / "x.cs")) == {"Movies/mic_1.mrc"}
    some_picks(3).write(tmp_path / "x.cs")
    assert set(read_many(tmp_path / "x.cs")) == {"x"}
