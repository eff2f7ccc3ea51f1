"""Formats of picks: what holds for all of them, and real files."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import starfile

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.formats import READABLE, WRITABLE
from cryosegnet_ext.files.picks import Picks, read_picks
from tests.files.helpers import SHAPE, some_picks, written


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
    if suffix in (".box", ".plt"):  # EMAN's way to say that there are none
        assert len(read_picks(empty, shape=SHAPE)) == 0
    else:
        with pytest.raises(
            CryoSegNetError, match=r"no block|lacks|does not name columns|not a \.cs file|not a JSON file"
        ):
            read_picks(empty)


@pytest.mark.parametrize("suffix", READABLE)
def test_no_damage_raises_anything_but_our_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / ("mic" + suffix)
    if suffix in WRITABLE:
        some_picks(5).write(path)
    elif suffix == ".json":
        path.write_text('{"boxes": [[10.5, 20, "manual"], [30, 40, "manual"]]}')
    elif suffix == ".plt":
        path.write_text("2981.5 11.0 1.0\n2000.0 12.0 1.0\n")
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
            picks = read_picks(path, shape=SHAPE)
        except CryoSegNetError as error:
            refused += 1
            assert str(path) in str(error)
            assert "\n" not in str(error)
        else:
            assert np.isfinite([picks.x, picks.y, picks.score]).all()
    assert refused > 20


def test_unknown_formats(tmp_path: Path) -> None:
    with pytest.raises(CryoSegNetError, match=r"\.star, \.box"):
        some_picks().write(tmp_path / "mic.xml")
    with pytest.raises(CryoSegNetError, match=r"\.star, \.box"):
        read_picks(written(tmp_path / "mic.xml", "{}"))


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


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "x;y;score\n12,5;30,7;0,9\n"),
        ("b.csv", "x,y\n12,5,30,7\n"),
        ("c.csv", 'x,y\n"12,5","30,7"\n'),
        ("d.tsv", "x_coord\ty_coord\tscore\n12,5\t30,7\t-1,5e-01\n"),
        ("e.star", "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n12,5 30,7\n"),
        ("f.box", "12,5\t30,7\t64\t64\n"),
        ("g.cbox", "data_cryolo\n\nloop_\n_CoordinateX\n_CoordinateY\n_Width\n_Height\n12,5 30,7 64,0 64,0\n"),
    ],
)
def test_decimal_commas_are_named(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(CryoSegNetError, match=r"decimal commas.* with decimal points\.$"):
        read_picks(written(tmp_path / name, text))
