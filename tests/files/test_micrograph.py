"""Micrographs of every kind that is read: pixels, pixel size, name."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import mrcfile
import numpy as np
import pytest
import tifffile
from PIL import Image

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.micrograph import (
    MICROGRAPH_SUFFIXES,
    Micrograph,
    inverted,
    micrograph_stem,
    read_micrograph,
    read_shape,
    require_pixel_size,
)
from tests.files.helpers import NX_, NY_, TYPES, picture, refusal, write_mrc

# What is read


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("mode", TYPES)
def test_modes_and_byte_orders(tmp_path: Path, mode: int, order: str) -> None:
    data = picture(TYPES[mode])
    path = write_mrc(tmp_path / "a.mrc", data, order=order)
    with mrcfile.open(path) as mrc:
        assert mrc.header.mode == mode
        reference = np.array(mrc.data)
    micrograph = read_micrograph(path)
    assert micrograph.data.dtype == np.float32 and micrograph.data.dtype.isnative
    assert micrograph.data.flags.c_contiguous
    assert micrograph.valid is None and micrograph.name == str(path)
    np.testing.assert_array_equal(micrograph.data, data.astype(np.float32))
    np.testing.assert_array_equal(micrograph.data, reference.astype(np.float32))
    assert micrograph.pixel_size == 1.35


def test_extremes_of_integer_modes(tmp_path: Path) -> None:
    for dtype in (np.int8, np.int16, np.uint16):
        data = picture(dtype)
        data[3, 4], data[5, 6] = np.iinfo(dtype).min, np.iinfo(dtype).max
        np.testing.assert_array_equal(read_micrograph(write_mrc(tmp_path / "a.mrc", data)).data, data)


def write_bytes(path: Path, values: np.ndarray, low: float, high: float) -> Path:
    """An MRC file of mode 0 with these bytes, and a header with this range."""
    content = bytearray(write_mrc(path, values.view(np.int8)).read_bytes())
    struct.pack_into("<2f", content, 76, low, high)
    path.write_bytes(content)
    return path


# The header's range; the mean and spread of the values, which are cut off at the ends; and what the reader says.
UNSIGNED, SIGNED, NAN = "read as unsigned bytes (0 to 255)", "read as signed bytes (-128 to 127)", float("nan")


@pytest.mark.parametrize(
    ("low", "high", "mean", "spread", "said"),
    [
        (0, 255, 128, 40, UNSIGNED),  # the range of the type, as many programs write it
        (8, 231, 120, 20, UNSIGNED),
        (0, 255, 80, 20, UNSIGNED),  # 1 % of it above 127
        (0, 0, 128, 30, UNSIGNED),  # no statistics
        (0, -1, 150, 60, UNSIGNED),
        (NAN, NAN, 110, 15, UNSIGNED),
        (-3.1, 5312.7, 128, 30, UNSIGNED),  # statistics of the picture before its conversion
        (-128, 127, 128, 30, UNSIGNED),  # statistics of a program that read it wrong
        (-128, 127, 0, 30, SIGNED),
        (-120, 110, -5, 20, SIGNED),
        (0, 0, 0, 30, SIGNED),
        (-3.1, 5312.7, 3, 40, SIGNED),
        (0, 255, 0, 30, SIGNED),
    ],
)
def test_mode_0_is_read_with_its_sign(
    tmp_path: Path, low: float, high: float, mean: float, spread: float, said: str
) -> None:
    """Unsigned bytes that were read as signed ones once jumped from 127 to -128."""
    limits = (0, 255) if said == UNSIGNED else (-128, 127)
    truth = np.clip(np.random.default_rng(3).normal(mean, spread, (90, 130)).round(), *limits)
    values = truth.astype(np.uint8 if said == UNSIGNED else np.int8).view(np.uint8)
    read = read_micrograph(write_bytes(tmp_path / "a.mrc", values, low, high))
    np.testing.assert_array_equal(read.data, truth)
    assert read.remark is not None and read.remark.startswith(f"MRC mode 0 is {said}, by ")


def test_mode_0_without_a_choice_has_no_remark(tmp_path: Path) -> None:
    assert read_micrograph(write_bytes(tmp_path / "a.mrc", picture(np.uint8), 0, 120)).remark is None
    assert read_micrograph(write_mrc(tmp_path / "b.mrc", picture())).remark is None


def test_mode_0_with_two_values_goes_by_the_header(tmp_path: Path) -> None:
    """The values of a picture in black and white tell nothing."""
    values = np.zeros((90, 130), np.uint8)
    values[20:60, 30:80] = 255
    assert set(np.unique(read_micrograph(write_bytes(tmp_path / "a.mrc", values, 0, 255)).data)) == {0, 255}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("flags", "signed"), [(1, True), (0, False)])
def test_mode_0_of_imod(tmp_path: Path, order: str, flags: int, signed: bool) -> None:
    data = picture(np.int8)
    data[10:20] = -3
    path = write_mrc(tmp_path / "a.mrc", data, order=order)
    content = bytearray(path.read_bytes())
    struct.pack_into(f"{order}2i", content, 152, 1146047817, flags)
    path.write_bytes(content)
    np.testing.assert_array_equal(read_micrograph(path).data, data if signed else data.view(np.uint8))


@pytest.mark.parametrize("order", ["<", ">"])
def test_header_of_an_old_writer(tmp_path: Path, order: str) -> None:
    path = write_mrc(tmp_path / "a.mrc", picture(np.int16), order=order)
    content = bytearray(path.read_bytes())
    content[208:216] = bytes(8)
    path.write_bytes(content)
    np.testing.assert_array_equal(read_micrograph(path).data, picture(np.int16))


@pytest.mark.parametrize("stamp", [b"\x11\x11\0\0", b"\x44\x41\0\0", b"\x44\x44\0\0", b"\xff\xff\xff\xff"])
def test_wrong_machine_stamp(good: Path, stamp: bytes) -> None:
    content = good.read_bytes()
    good.write_bytes(content[:212] + stamp + content[216:])
    np.testing.assert_array_equal(read_micrograph(good).data, picture())


@pytest.mark.parametrize("order", ["<", ">"])
def test_extended_header_is_skipped(tmp_path: Path, order: str) -> None:
    path = write_mrc(tmp_path / "a.mrc", picture(), order=order, extended=bytes(range(256)) * 5)
    assert len(path.read_bytes()) == 1024 + 1280 + picture().nbytes
    np.testing.assert_array_equal(read_micrograph(path).data, picture())


@pytest.mark.parametrize(("suffix", "compress"), [(".mrc.gz", gzip.compress), (".mrc.bz2", bz2.compress)])
def test_compressed(good: Path, suffix: str, compress: object) -> None:
    path = good.with_suffix(suffix)
    path.write_bytes(compress(good.read_bytes()))  # type: ignore[operator]
    micrograph = read_micrograph(path)
    np.testing.assert_array_equal(micrograph.data, picture())
    assert micrograph.pixel_size == 1.35


def test_stack_of_one_frame(tmp_path: Path) -> None:
    path = write_mrc(tmp_path / "a.mrcs", picture()[np.newaxis])
    with mrcfile.open(path) as mrc:
        assert mrc.data.ndim == 3
    np.testing.assert_array_equal(read_micrograph(path).data, picture())


def test_bytes_behind_the_data_are_ignored(good: Path) -> None:
    good.write_bytes(good.read_bytes() + b"more")
    np.testing.assert_array_equal(read_micrograph(good).data, picture())


@pytest.mark.parametrize("shape", [(64, 64), (64, 500), (300, 65)])
def test_shapes(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = write_mrc(tmp_path / "a.mrc", picture(shape=shape))
    np.testing.assert_array_equal(read_micrograph(path).data, picture(shape=shape))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff(tmp_path: Path, dtype: type, order: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(dtype), byteorder=order)
    micrograph = read_micrograph(path)
    np.testing.assert_array_equal(micrograph.data, picture(dtype).astype(np.float32))
    assert micrograph.data.flags.c_contiguous
    assert micrograph.pixel_size is None


def test_tiff_in_tiles_big_and_with_a_thumbnail(tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        tif.write(picture(), tile=(32, 32))
        tif.write(picture()[::2, ::2], subfiletype=1)
    np.testing.assert_array_equal(read_micrograph(path).data, picture())


def test_tiff_compressed(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(np.int16), compression="zlib")
    np.testing.assert_array_equal(read_micrograph(path).data, picture(np.int16))


def test_tiff_compressed_in_a_way_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(np.int16), compression="zlib")

    def without_codec(self: object, **arguments: object) -> np.ndarray:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", without_codec)
    assert "install imagecodecs (pip install 'cryosegnet-ext[tiff]')" in refusal(path)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits"])
def test_tiff_compressed_with_an_optional_decoder(tmp_path: Path, compression: str) -> None:
    data = picture(np.uint16)
    Image.fromarray(data).save(tmp_path / "a.tif", compression=compression)
    if importlib.util.find_spec("imagecodecs") is None and compression == "tiff_lzw":
        assert "(compression LZW) that needs a decoder: install imagecodecs" in refusal(tmp_path / "a.tif")
    else:
        np.testing.assert_array_equal(read_micrograph(tmp_path / "a.tif").data, data)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int8, np.uint16, np.int16, np.float32])
def test_tiff_whose_zero_is_white(tmp_path: Path, dtype: type) -> None:
    """It was once read as if zero were black, with the contrast inverted."""
    data = picture() > 40 if dtype is np.bool_ else picture(dtype)
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="miniswhite")
    read = read_micrograph(tmp_path / "a.tif")
    assert np.ptp(read.data + data.astype(np.float32)) == 0
    assert read.remark is not None and "MinIsWhite" in read.remark


def test_tiff_with_a_palette(tmp_path: Path) -> None:
    data = picture(np.uint8)
    colours = np.stack([np.arange(256)[::-1] * 256] * 3).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="palette", colormap=colours)
    np.testing.assert_array_equal(read_micrograph(tmp_path / "a.tif").data, 256.0 * (255 - data.astype(np.float32)))


@pytest.mark.parametrize(
    ("name", "pack", "words"),
    [
        ("a.tif.gz", gzip.compress, "is a compressed TIFF picture, which is not read: unpack it first (gunzip"),
        ("a.png.gz", gzip.compress, "is a compressed PNG picture"),
        ("a.tif.bz2", bz2.compress, "is a compressed TIFF picture"),
        ("a.png.xz", lzma.compress, "is compressed with xz, which is not read: unpack it first"),
    ],
)
def test_compressed_pictures_are_to_be_unpacked(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes], words: str
) -> None:
    plain = tmp_path / name.rpartition(".")[0]
    assert cv2.imwrite(str(plain), picture(np.uint8))
    (tmp_path / name).write_bytes(pack(plain.read_bytes()))
    assert words in refusal(tmp_path / name)
    with pytest.raises(CryoSegNetError, match=r"is (a )?compressed"):
        read_shape(tmp_path / name)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_in_colour(tmp_path: Path, planar: str) -> None:
    path = tmp_path / "a.tif"
    rgb = np.stack([picture(np.uint16), picture(np.uint16) + 30, picture(np.uint16) + 3], axis=-1)
    stored = rgb if planar == "contig" else np.moveaxis(rgb, -1, 0)
    tifffile.imwrite(path, stored, photometric="rgb", planarconfig=planar)
    np.testing.assert_allclose(read_micrograph(path).data, picture(np.uint16) + 11.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png(tmp_path: Path, dtype: type) -> None:
    data = picture(dtype) * dtype(1 if dtype is np.uint8 else 500)
    assert cv2.imwrite(str(tmp_path / "a.png"), data)
    micrograph = read_micrograph(tmp_path / "a.png")
    np.testing.assert_array_equal(micrograph.data, data)
    assert micrograph.pixel_size is None


def test_png_in_colour_or_transparent(tmp_path: Path) -> None:
    grey, path = picture(np.uint8), str(tmp_path / "a.png")
    cv2.imwrite(path, np.stack([grey] * 3, axis=-1))
    np.testing.assert_array_equal(read_micrograph(path).data, grey)
    cv2.imwrite(path, np.stack([grey, grey + 30, grey + 3], axis=-1))
    np.testing.assert_allclose(read_micrograph(path).data, grey + 11.0)
    cv2.imwrite(path, np.stack([grey, grey, grey, grey // 2], axis=-1))
    np.testing.assert_array_equal(read_micrograph(path).data, grey)


@pytest.mark.parametrize("quality", [75, 100])
@pytest.mark.parametrize("flags", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]])
def test_jpeg(tmp_path: Path, quality: int, flags: list[int]) -> None:
    data = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (NY_, NX_)).astype(np.uint8), (0, 0), 4)
    data[:20, :30] = 255
    path = str(tmp_path / "a.jpg")
    cv2.imwrite(path, data, [cv2.IMWRITE_JPEG_QUALITY, quality, *flags])
    assert np.abs(read_micrograph(path).data - data.astype(np.float32)).mean() < 3
    reference = cv2.imread(path, cv2.IMREAD_UNCHANGED).astype(np.float32)
    assert np.abs(read_micrograph(path).data - reference).max() <= 1


def test_content_decides_not_the_suffix(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(good.read_bytes())
    np.testing.assert_array_equal(read_micrograph(path).data, picture())
    good.write_bytes(gzip.compress(good.read_bytes()))
    np.testing.assert_array_equal(read_micrograph(good).data, picture())


def test_few_bad_pixels_become_the_median(tmp_path: Path) -> None:
    data = picture()
    bad = np.zeros(data.shape, bool)
    bad.flat[np.random.default_rng(0).permutation(data.size)[: data.size // 11]] = True
    data[bad] = np.resize(np.array([np.nan, np.inf, -np.inf, 1e38, -2e15], np.float32), np.count_nonzero(bad))
    micrograph = read_micrograph(write_mrc(tmp_path / "a.mrc", data))
    assert micrograph.valid is not None
    np.testing.assert_array_equal(micrograph.valid, ~bad)
    np.testing.assert_array_equal(micrograph.data[~bad], data[~bad])
    assert np.all(micrograph.data[bad] == np.median(data[~bad]))


def test_bad_pixels_of_other_floats(tmp_path: Path) -> None:
    half = picture(np.float16)
    half[2, 3] = np.inf
    micrograph = read_micrograph(write_mrc(tmp_path / "a.mrc", half))
    assert micrograph.valid is not None and np.argwhere(~micrograph.valid).tolist() == [[2, 3]]
    double = picture(np.float64)
    double[4, 5] = 1e300
    tifffile.imwrite(tmp_path / "a.tif", double)
    micrograph = read_micrograph(tmp_path / "a.tif")
    assert micrograph.valid is not None and np.argwhere(~micrograph.valid).tolist() == [[4, 5]]
    assert np.isfinite(micrograph.data).all()


# Pixel size


def test_callers_pixel_size_wins(good: Path) -> None:
    assert read_micrograph(good).pixel_size == 1.35
    assert read_micrograph(good, pixel_size=2).pixel_size == 2.0
    assert read_micrograph(good, pixel_size=np.float32(0.5)).pixel_size == 0.5  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("voxel", "expected"),
    [
        (1.0, 1.0),
        (4.48, 4.48),
        ((1.2, 1.3, 1.0), 1.25),
        ((1.2, 0.0, 0.0), 1.2),
        (0.0, None),
        (-1.5, None),
        (0.01, None),
        (500.0, None),
        (float("nan"), None),
        (float("inf"), None),
    ],
)
def test_pixel_size_of_the_header(good: Path, voxel: object, expected: float | None) -> None:
    content = bytearray(good.read_bytes())
    x, y, _ = voxel if isinstance(voxel, tuple) else (voxel,) * 3
    struct.pack_into("<3f", content, 40, x * NX_, y * NY_, 1.0)
    good.write_bytes(content)
    assert read_micrograph(good).pixel_size == expected


def test_pixel_size_without_sampling(good: Path) -> None:
    content = bytearray(good.read_bytes())
    struct.pack_into("<3i", content, 28, 0, -1, 1)
    good.write_bytes(content)
    assert read_micrograph(good).pixel_size is None


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [((1e8 / 1.35, 1e8 / 1.35), "CENTIMETER", 1.35), ((72, 72), "INCH", None), ((5, 5), "NONE", None)],
)
def test_pixel_size_of_tiff(tmp_path: Path, resolution: object, unit: str, expected: float | None) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture(), resolution=resolution, resolutionunit=unit)
    assert read_micrograph(tmp_path / "a.tif").pixel_size == expected


@pytest.mark.parametrize("absurd", [0, -1, float("nan"), float("inf"), 0.04, 101, "wide\nopen"])
def test_absurd_pixel_size_of_the_caller(good: Path, absurd: object) -> None:
    assert "pixel size" in refusal(good, pixel_size=absurd)


def test_require_pixel_size() -> None:
    known = Micrograph(picture(), 1.5, "a.mrc")
    assert require_pixel_size(known, "a diameter in angstrom") == 1.5
    with pytest.raises(CryoSegNetError) as caught:
        require_pixel_size(Micrograph(picture(), None, "a.mrc"), "a diameter in angstrom")
    assert str(caught.value) == (
        "a.mrc has no pixel size, which a diameter in angstrom needs: give it with pixel_size=, in angstrom per pixel."
    )


# Names


def test_inverted(good: Path) -> None:
    micrograph = read_micrograph(good)
    found = inverted(micrograph)
    assert np.array_equal(found.data, -micrograph.data) and found.data.dtype == np.float32
    assert (found.pixel_size, found.name, found.valid) == (micrograph.pixel_size, micrograph.name, micrograph.valid)


def test_stem() -> None:
    for suffix in MICROGRAPH_SUFFIXES:
        assert micrograph_stem(f"dir.mrc/a.b{suffix}") == "a.b"
    assert micrograph_stem(Path("x/MIC.MRC.GZ")) == "MIC"
    assert micrograph_stem("a.eer") == "a.eer"
    assert micrograph_stem("x/.mrc") == ".mrc"


def test_name_that_a_terminal_cannot_show(tmp_path: Path) -> None:
    with pytest.raises(CryoSegNetError) as caught:
        read_micrograph(tmp_path / "two\nlines.mrc")
    assert "\n" not in str(caught.value) and "two\\nlines.mrc" in str(caught.value)
    with pytest.raises(CryoSegNetError, match="not a possible file name"):
        read_micrograph("nul\0byte.mrc")
    with pytest.raises(CryoSegNetError, match=r"^'' does not exist"):
        read_micrograph("")


# Real micrographs


def test_real_micrographs(shared_data: Path) -> None:
    folder = shared_data / "micrographs"
    path = sorted((folder / "empiar-10059").glob("*.mrc"))[0]
    with mrcfile.open(path, permissive=True) as mrc:
        reference = np.array(mrc.data, dtype=np.float32)
    micrograph = read_micrograph(path)
    np.testing.assert_array_equal(micrograph.data, reference)
    assert micrograph.pixel_size == 4.48

    path = sorted((folder / "empiar-10017-denoised").glob("*.jpg"))[0]
    micrograph = read_micrograph(path, pixel_size=1.77)
    assert micrograph.data.shape == (4096, 4096) and micrograph.pixel_size == 1.77
    assert np.abs(micrograph.data - cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)).max() <= 1

    path = sorted((folder / "quality-examples").glob("0Great*.png"))[0]
    assert read_micrograph(path).data.std() > 0
