"""What the picker takes: paths, arrays, lists of them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from cryosegnet_ext import CryoSegNetError, Picker, Picks, read_micrograph
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.micrograph import Micrograph, micrograph_of
from tests.picking.micrographs import micrograph, scattered
from tests.stub_picker import write_micrograph

SHAPE, SIZE = (500, 520), 44


@pytest.fixture
def picker(default_weights: Path, network: object) -> Picker:
    return Picker(default_weights, device="cpu")


def written(folder: Path, count: int, pixel_size: float = 2.0) -> list[Path]:
    import mrcfile

    paths = []
    for i in range(count):
        paths.append(folder / f"m{i}.mrc")
        with mrcfile.new(paths[-1]) as file:
            file.set_data(micrograph(scattered(SHAPE, SIZE), SIZE, SHAPE).data + np.float32(i))
            file.voxel_size = pixel_size
    return paths


def same(one: Picks | None, other: Picks | None) -> bool:
    assert one is not None and other is not None
    return len(one) > 5 and np.array_equal(one.x, other.x) and np.array_equal(one.diameter, other.diameter)


def test_one_micrograph_in_every_form(tmp_path: Path, picker: Picker) -> None:
    (path,) = written(tmp_path, 1)
    read = read_micrograph(path)
    expected = picker.pick(read)
    assert expected.micrograph == str(path)
    for form in (str(path), path, expand_inputs([path])[0]):
        assert same(picker.pick(form), expected) and same(picker.candidates(form).above(picker.threshold), expected)
    array = read.data.astype(np.float64)
    before = array.copy()
    assert same(picker.pick(array, pixel_size=2.0), expected)
    assert same(picker.pick(array[None], pixel_size=2.0), expected)
    assert np.array_equal(array, before)
    wider = picker.pick(path, pixel_size=3.0)
    assert wider.pixel_size == picker.pick(read, pixel_size=3.0).pixel_size == 3.0
    assert picker.estimate_diameter(path) == picker.estimate_diameter([read])
    assert picker.estimate_diameter(path, pixel_size=4.0) == pytest.approx(2 * picker.estimate_diameter([read]))


def test_a_list_has_one_size_and_keeps_its_order(tmp_path: Path, picker: Picker) -> None:
    paths = written(tmp_path, 3)
    size = picker.estimate_diameter(paths)
    for given in (paths, tuple(map(str, paths)), iter(paths), expand_inputs([tmp_path]), map(read_micrograph, paths)):
        every = picker.pick(given)
        assert all(same(one, picker.pick(path, size)) for one, path in zip(every, paths, strict=True))
    assert picker.pick([]) == []
    assert [len(one) for one in picker.candidates(paths, 88.0)] == [len(picker.candidates(p, 88.0)) for p in paths]


def test_a_bad_micrograph_of_a_list_is_none_and_told(
    tmp_path: Path, picker: Picker, caplog: pytest.LogCaptureFixture
) -> None:
    good = written(tmp_path, 2)
    bad = tmp_path / "bad.mrc"
    bad.write_bytes(good[0].read_bytes()[:5000])
    with caplog.at_level(logging.WARNING):
        every = picker.pick([good[0], bad, tmp_path / "missing.mrc", good[1]])
    assert [one is None for one in every] == [False, True, True, False]
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == [
        "micrograph 2 of 4 was not picked",
        "micrograph 3 of 4 was not picked",
    ]
    assert "bad.mrc" in caplog.text and "truncated" in caplog.text
    with pytest.raises(CryoSegNetError, match=r"none of the 2 micrographs could be picked; the first: .*bad.mrc"):
        picker.pick([bad, bad])
    with pytest.raises(CryoSegNetError, match=r"bad\.mrc is truncated"):
        picker.pick(bad)


def test_the_size_of_a_list_leaves_out_what_cannot_be_read(
    tmp_path: Path, picker: Picker, caplog: pytest.LogCaptureFixture
) -> None:
    good = written(tmp_path, 2)
    bad = tmp_path / "bad.mrc"
    bad.write_bytes(good[0].read_bytes()[:5000])
    flat = np.zeros((3, 4, 5), np.float32)
    with caplog.at_level(logging.INFO):
        size = picker.estimate_diameter([bad, good[0], tmp_path / "missing.mrc", flat, good[1]])
    assert size == picker.estimate_diameter(good)
    assert [record.getMessage().partition(": ")[0] for record in caplog.records if "left out" in record.message] == [
        f"micrograph {number} of 5 was left out" for number in (1, 3, 4)
    ]
    assert "in pixels" not in caplog.text
    with pytest.raises(CryoSegNetError, match=r"none of the 2 micrographs could be read; the first: .*bad.mrc"):
        picker.estimate_diameter([bad, bad])
    with pytest.raises(CryoSegNetError, match=r"bad\.mrc is truncated"):
        picker.estimate_diameter(bad)


def test_a_size_in_pixels_is_said(tmp_path: Path, picker: Picker, caplog: pytest.LogCaptureFixture) -> None:
    array = read_micrograph(written(tmp_path, 1)[0]).data
    size = picker.estimate_diameter([array, array])
    assert f"the estimated diameter of {size:.0f} is in pixels" in caplog.text and "pixel_size=" in caplog.text
    caplog.clear()
    picker.pick([array, array])
    assert "in pixels" not in caplog.text


def test_known_and_unknown_pixel_sizes_in_a_list(tmp_path: Path, picker: Picker) -> None:
    """A size in angstrom is no size in pixels."""
    (path,) = written(tmp_path, 1)
    every = picker.pick([path, read_micrograph(path).data])
    assert every[0] is not None and every[1] is None
    assert None not in picker.pick([path, read_micrograph(path).data], pixel_size=2.0)


def test_a_diameter_in_pixels_needs_no_pixel_size(default_weights: Path, network: object, tmp_path: Path) -> None:
    (path,) = written(tmp_path, 1)
    array = read_micrograph(path).data
    given = Picker(default_weights, device="cpu", diameter=f"{SIZE}px")
    assert same(given.pick(path), Picker(default_weights, device="cpu", diameter=2.0 * SIZE).pick(path))
    assert len(given.pick(array)) == len(given.pick(path))
    assert given.settings["diameter"] == f"{SIZE}px" and not given.needs_diameter
    for wrong in ("px", "0px", "-4px", "nanpx", "abc", "20000px"):
        with pytest.raises(CryoSegNetError, match=r"^diameter= must be between 1 and 10000"):
            Picker(default_weights, device="cpu", diameter=wrong)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 100, 100)), "two axes"),
        (np.zeros(100), "two axes"),
        (np.zeros((100, 100), complex), "complex"),
        (np.array([["a"] * 100] * 100), "type"),
        (np.zeros((100, 100)), "constant"),
        (np.full((100, 100), np.nan), "no usable pixel"),
        (np.random.default_rng(0).normal(size=(10, 10)), "too small"),
    ],
    ids=str,
)
def test_arrays_that_are_no_micrographs(picker: Picker, array: np.ndarray, words: str) -> None:
    with pytest.raises(CryoSegNetError, match=rf"^the array .*{words}"):
        picker.pick(array)


def test_bad_pixels_of_an_array_stay_as_they_are() -> None:
    array = np.random.default_rng(0).normal(size=(100, 100)).astype(np.float32)
    array[3, 4] = np.nan
    found = micrograph_of(array, 1.2)
    assert np.isnan(array[3, 4]) and np.isfinite(found.data).all() and found.valid is not None
    with pytest.raises(CryoSegNetError, match="pixel size of -1"):
        micrograph_of(array, -1)


def test_a_micrograph_shows_no_pixels(tmp_path: Path) -> None:
    path = write_micrograph(tmp_path / "m.mrc")
    assert repr(read_micrograph(path)) == f"<Micrograph {path}: 64 x 96 (ny x nx), 2 A/px>"
    data = np.zeros((64, 96), np.float32)
    valid = np.ones((64, 96), bool)
    valid[0, :3] = False
    assert repr(Micrograph(data, None, "x\n", valid)) == (
        r"<Micrograph 'x\n': 64 x 96 (ny x nx), pixel size not known, 3 bad pixels>"
    )


def test_a_given_size_of_few_pixels_is_told_once(
    default_weights: Path, network: object, caplog: pytest.LogCaptureFixture
) -> None:
    array = np.random.default_rng(0).normal(size=(100, 120)).astype(np.float32)
    with caplog.at_level(logging.WARNING):
        picker = Picker(default_weights, device="cpu", diameter=12)
        picker.pick([array, array], pixel_size=1.5)
        assert [r.message.split(":")[0] for r in caplog.records] == ["a particle diameter of 12 A is only 8 pixels"]
        assert "enlarged 4.0 times" in caplog.text and "diameter=" in caplog.text
        caplog.clear()
        Picker(default_weights, device="cpu", diameter=40).pick(array, pixel_size=1.5)
        assert caplog.text == ""
