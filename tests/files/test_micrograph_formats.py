"""Micrographs of microscopes and of tomography: DM3, DM4 and EM."""

from __future__ import annotations

import random
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.micrograph import read_micrograph, read_shape
from tests.files.dm_file import dm_bytes
from tests.files.helpers import NX_, NY_, picture, refusal, write_mrc, written

pytest.importorskip("ncempy", reason="ncempy is not installed: pip install '.[formats]'")
emfile = pytest.importorskip("emfile", reason="emfile is not installed: pip install '.[formats]'")


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32, np.int32, np.uint8])
@pytest.mark.parametrize("thumbnail", [True, False])
def test_dm_rows_and_columns_stay(tmp_path: Path, version: int, dtype: type, thumbnail: bool) -> None:
    data = picture(dtype)
    path = written(tmp_path / f"a.dm{version}", dm_bytes(data, version=version, thumbnail=thumbnail))
    found = read_micrograph(path)
    assert np.array_equal(found.data, data.astype(np.float32)) and found.pixel_size == 1.0
    assert read_shape(path) == (NY_, NX_)


@pytest.mark.parametrize(
    ("scale", "unit", "size"),
    [
        (0.083, "nm", 0.83),
        (0.000083, "µm", 0.83),
        (0.000083, "μm", 0.83),
        (1.25, "Å", 1.25),
        (83.0, "pm", 0.83),
        (0.02, "1/nm", None),
        (1.0, "", None),
        (0.0, "nm", None),
        (5000.0, "nm", None),
    ],
)
def test_dm_pixel_sizes_have_units(tmp_path: Path, scale: float, unit: str, size: float | None) -> None:
    path = written(tmp_path / "a.dm4", dm_bytes(picture(), scale=scale, unit=unit))
    assert read_micrograph(path).pixel_size == size
    assert read_micrograph(path, pixel_size=2.0).pixel_size == 2.0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (dm_bytes(np.zeros((3, NY_, NX_), np.float32)), "contains 3 frames"),
        (dm_bytes(picture(), picture()), "contains 2 images"),
        (dm_bytes(picture(), picture(), thumbnail=False), "contains 2 images"),
        (dm_bytes(), "contains 0 images"),
        (dm_bytes(picture(np.complex64)), "complex numbers"),
        (dm_bytes(picture(), endian=0), "Little Endian"),
        (dm_bytes(np.zeros((4, 4), np.float32)), "too small"),
        (dm_bytes(picture())[:-20000], "truncated|damaged"),
        (dm_bytes(picture())[:200], "damaged"),
        (b"\0\0\0\4" + bytes(100), "damaged"),
        (b"\0\0\0\3", "damaged"),
    ],
)
def test_dm_files_that_cannot_be_used(tmp_path: Path, content: bytes, words: str) -> None:
    assert re.search(words, refusal(written(tmp_path / "a.dm4", content)))


def write_em(path: Path, data: np.ndarray, thousandths: int = 1350) -> Path:
    """With the pixel size where TOM has it: emfile 0.3 writes parameters elsewhere."""
    emfile.write(path, data[None] if data.ndim == 2 else data, overwrite=True)
    content = path.read_bytes()
    return written(path, content[:120] + struct.pack("<i", thousandths) + content[124:])


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_em_rows_and_columns_stay(tmp_path: Path, dtype: type) -> None:
    data = picture(dtype)
    path = write_em(tmp_path / "a.em", data)
    found = read_micrograph(path)
    assert np.array_equal(found.data, data.astype(np.float32)) and found.pixel_size == 1.35
    assert read_shape(path) == (NY_, NX_)


def test_em_bytes_are_unsigned(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, (NY_, NX_), dtype=np.uint8)
    path = write_em(tmp_path / "a.em", data.view(np.int8), thousandths=0)
    found = read_micrograph(path)
    assert np.array_equal(found.data, data.astype(np.float32)) and found.pixel_size is None


def test_em_files_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "a.em"
    assert "contains 2 frames" in refusal(write_em(path, np.stack([picture(), picture()])))
    assert "too small" in refusal(write_em(path, picture()[:5]))
    good = write_em(path, picture()).read_bytes()
    assert "big-endian" in refusal(written(path, b"\3" + good[1:]))
    assert "complex" in refusal(written(path, good[:3] + b"\x08" + good[4:]))
    assert "truncated" in refusal(written(path, good[:-7]))
    assert "truncated" in refusal(written(path, good[:100]))


@pytest.mark.parametrize("kind", ["dm3", "dm4", "em"])
def test_no_damage_raises_anything_but_our_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    data = picture(np.int16)[:70, :70]
    good = write_em(path, data).read_bytes() if kind == "em" else dm_bytes(data, version=int(kind[-1]))
    chance = random.Random(kind)
    tags = 600 if kind == "em" else len(good)
    for _ in range(150):
        bad = bytearray(good)
        for _ in range(chance.choice([1, 2, 5])):
            bad[chance.randrange(4, tags)] = chance.randrange(256)
        if chance.random() < 0.3:
            del bad[chance.randrange(4, len(bad)) :]
        try:
            found = read_micrograph(written(path, bytes(bad)))
        except CryoSegNetError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert np.isfinite(found.data).all()


@pytest.mark.parametrize(("name", "module"), [("a.dm4", "ncempy"), ("a.em", "emfile")])
def test_a_library_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    path = tmp_path / name
    written(path, dm_bytes(picture())) if module == "ncempy" else write_em(path, picture())
    for missing in (module, "ncempy.io", "ncempy.io.dm"):
        monkeypatch.setitem(sys.modules, missing, None)
    assert f"needs {module}: pip install 'cryosegnet-ext[formats]'" in refusal(path)


def test_a_folder_takes_mrc_before_dm4_of_the_same_stem(tmp_path: Path) -> None:
    write_mrc(tmp_path / "a.mrc", picture())
    written(tmp_path / "a.dm4", dm_bytes(picture()))
    written(tmp_path / "b.dm4", dm_bytes(picture()))
    assert [one.path.name for one in expand_inputs([tmp_path])] == ["a.mrc", "b.dm4"]
