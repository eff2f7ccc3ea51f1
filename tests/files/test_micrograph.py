from __future__ import annotations

import builtins
import bz2
import gzip
import io
import logging
import os
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path

import cv2
import mrcfile
import numpy as np
import pytest
import tifffile

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.limits import BadFile
from cryosegnet_ext.files.micrograph import (
    MICROGRAPH_SUFFIXES,
    Micrograph,
    micrograph_stem,
    read_micrograph,
    require_pixel_size,
)
from cryosegnet_ext.files.micrograph.mrc import read_compressed_mrc
from tests.damage import KINDS, MODE, NSYMBT, NX, NY, NZ, damaged_files, encoded, with_field

NY_, NX_ = 96, 128
TYPES = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16, 12: np.float16}


def picture(dtype: type = np.float32, shape: tuple[int, int] = (NY_, NX_)) -> np.ndarray:
    """No symmetry: noise, and values that tell each corner from the others."""
    data = np.random.default_rng(7).normal(40, 8, shape)
    data[0, 0], data[0, -1], data[-1, 0], data[-1, -1] = 1, 120, 5, 90
    return data.astype(dtype)


def write_mrc(path: Path, data: np.ndarray, voxel: object = 1.35, order: str = "<", extended: bytes = b"") -> Path:
    with warnings.catch_warnings(), mrcfile.new(path, overwrite=True) as mrc:
        warnings.simplefilter("ignore")  # mrcfile's, of NaN and overflow in the statistics of its header
        if extended:
            mrc.set_extended_header(np.frombuffer(extended, "V1"))
        mrc.set_data(data)
        if voxel is not None:
            mrc.voxel_size = voxel
    if order == ">":
        content = path.read_bytes()
        header = np.frombuffer(content[:1024], mrcfile.dtypes.HEADER_DTYPE).astype(
            mrcfile.dtypes.HEADER_DTYPE.newbyteorder(">")
        )
        header["machst"] = (0x11, 0x11, 0, 0)
        path.write_bytes(header.tobytes() + extended + data.astype(data.dtype.newbyteorder(">")).tobytes())
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_mrc(tmp_path / "mic_001.mrc", picture())


def refusal(path: Path, pixel_size: object = None) -> str:
    """The sentence with which a file is refused, checked to be one and to begin with the file's name."""
    with pytest.raises(CryoSegNetError) as caught:
        read_micrograph(path, pixel_size=pixel_size)  # type: ignore[arg-type]
    sentence = str(caught.value)
    assert sentence.startswith(str(path))
    rest = sentence[len(str(path)) :]
    assert "\n" not in sentence
    assert rest.endswith(".") and not rest.endswith("..") and ". " not in rest
    assert ": " in rest, "says what to do"
    return rest


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
    assert "install imagecodecs" in refusal(path)


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
        "a.mrc has no pixel size, which a diameter in angstrom needs: give it with --pixel-size, in angstrom per pixel."
    )


# Names


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


# What is refused


def test_missing(tmp_path: Path, good: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.mrc")
    assert "does not exist" in refusal(good / "below_a_file.mrc")
    (tmp_path / "dangling.mrc").symlink_to(tmp_path / "gone.mrc")
    assert "does not exist" in refusal(tmp_path / "dangling.mrc")
    assert "name too long" in refusal(tmp_path / ("a" * 3000 + ".mrc")).lower()


def test_not_a_file(tmp_path: Path) -> None:
    assert "is a directory" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.mrc")
    assert "pipe" in refusal(tmp_path / "pipe.mrc")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied"), "permission"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (OSError(116, "Stale file handle"), "Stale file handle"),
        (MemoryError(), "memory"),
        (RuntimeError("a\nsurprise."), "surprise"),
    ],
)
def test_errors_of_the_system(good: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    def failing(*arguments: object, **more: object) -> None:
        raise error

    monkeypatch.setattr(builtins, "open", failing)
    assert said in refusal(good)


@pytest.mark.parametrize("suffix", [".mrc", ".mrc.gz", ".mrc.bz2", ".tif", ".png", ".jpg"])
def test_error_while_reading(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    plain = good.read_bytes()
    packers = {".mrc": bytes, ".mrc.gz": gzip.compress, ".mrc.bz2": bz2.compress}
    path.write_bytes(packers[suffix](plain) if suffix in packers else encoded(picture(), suffix))

    class Failing(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:  # type: ignore[override]
            if size != 8:
                raise OSError(5, "Input/output error")
            return super().read(size)

        def readinto(self, buffer: object) -> int:
            raise OSError(5, "Input/output error")

        def readall(self) -> bytes:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(builtins, "open", lambda name, mode: Failing(name, mode))
    assert "Input/output error" in refusal(path)


def test_interrupt_passes(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(builtins, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_micrograph(good)


def test_truncation_names_the_bytes(good: Path) -> None:
    content = good.read_bytes()
    good.write_bytes(content[:-100])
    assert f"{len(content)} bytes expected, {len(content) - 100} found" in refusal(good)
    good.write_bytes(gzip.compress(content[:-100]))
    assert f"{len(content)} bytes expected, {len(content) - 100} found" in refusal(good)
    good.write_bytes(content[:1000])
    assert "not a micrograph (1000 bytes" in refusal(good)
    good.write_bytes(b"")
    assert "is empty" in refusal(good)


@pytest.mark.parametrize(
    ("offset", "value", "said"),
    [
        (MODE, 3, "Fourier transform"),
        (MODE, 4, "Fourier transform"),
        (MODE, 99, "MRC mode 99"),
        (MODE, 101, "MRC mode 101"),
        (MODE, -1, "damaged MRC header"),
        (NZ, 5, "motion-correct"),
        (NX, 63, "too small"),
        (NY, 32769, "32768 a side"),
        (NX, 0, "damaged MRC header"),
        (NY, 2**31 - 1, "damaged MRC header"),
        (NSYMBT, -4, "extended header of -4 bytes"),
        (NSYMBT, 2**31 - 1, "truncated"),
    ],
)
def test_headers(good: Path, offset: int, value: int, said: str) -> None:
    good.write_bytes(with_field(good.read_bytes(), offset, value))
    assert said in refusal(good)
    good.write_bytes(gzip.compress(good.read_bytes()))
    assert said in refusal(good)


def test_damaged_compression_is_named_before_what_it_spoils(good: Path) -> None:
    packed = bytearray(gzip.compress(with_field(good.read_bytes(), NX, 0)))
    packed[-8] ^= 1
    good.write_bytes(packed)
    assert "compressed stream" in refusal(good)


@pytest.mark.parametrize("fill", [np.nan, np.inf, 1e38])
def test_not_finite(tmp_path: Path, fill: float) -> None:
    data = np.full((NY_, NX_), fill, np.float32)
    assert "no usable pixel" in refusal(write_mrc(tmp_path / "a.mrc", data))
    data = picture()
    data[:12] = fill
    assert "12.5 % bad pixels" in refusal(write_mrc(tmp_path / "a.mrc", data))


@pytest.mark.parametrize("dtype", TYPES.values())
def test_constant(tmp_path: Path, dtype: type) -> None:
    assert "is constant" in refusal(write_mrc(tmp_path / "a.mrc", np.full((NY_, NX_), 3, dtype)))


def test_constant_but_for_bad_pixels(tmp_path: Path) -> None:
    data = np.full((NY_, NX_), 3, np.float32)
    data[0, :5] = np.nan
    assert "is constant" in refusal(write_mrc(tmp_path / "a.mrc", data))


def test_tiff_movie_and_complex(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.stack([picture(np.uint8)] * 3), photometric="minisblack")
    assert "motion-correct" in refusal(path)
    tifffile.imwrite(path, np.stack([picture()] * 3), imagej=True)
    assert "motion-correct" in refusal(path)
    tifffile.imwrite(path, picture().astype(np.complex64))
    assert "real numbers" in refusal(path)
    tifffile.imwrite(path, picture()[:50])
    assert "too small" in refusal(path)


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_png_that_only_claims_to_be_large(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    data = zlib.compress(bytes(10**6))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 32768, 32768, 8, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    path.write_bytes(png(chunks))
    assert "too few" in refusal(path)
    chunks[0] = (b"IHDR", struct.pack(">IIBBBBB", 1000, 1100, 8, 0, 0, 0, 0))
    path.write_bytes(png(chunks))
    assert "damaged or truncated" in refusal(path)
    path.write_bytes(png([chunks[0], (b"acTL", struct.pack(">II", 7, 0)), *chunks[1:]]))
    assert "animation" in refusal(path)
    path.write_bytes(png(chunks[1:]))
    assert "PNG" in refusal(path)


def test_jpeg_with_its_end_marker_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    content = encoded(picture(), ".jpg")
    path.write_bytes(content + b"behind the end")
    read_micrograph(path)
    path.write_bytes(content[:-2])
    assert "no end marker" in refusal(path)


def test_bomb_is_not_unpacked(good: Path) -> None:
    header = good.read_bytes()[:1024]
    for field in (NX, NY):
        header = with_field(header, field, 32768)
    good.write_bytes(gzip.compress(header + bytes(10**6)))
    tracemalloc.start()
    try:
        assert f"{1024 + 4 * 32768**2} bytes expected" in refusal(good)
        good.write_bytes(header)
        assert "truncated" in refusal(good)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


# Whatever a file holds


def test_two_hundred_damaged_files(good: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    paths = damaged_files(tmp_path / "damaged", good, count=200, seed=0)
    assert len(set(paths)) == 200 and all(p.is_file() for p in paths)
    for path in paths:
        refusal(path)
    assert capfd.readouterr() == ("", "")


def test_damaged_files_are_the_same_for_a_seed(good: Path, tmp_path: Path) -> None:
    first, second, other = (damaged_files(tmp_path / f"{i}", good, len(KINDS), s) for i, s in enumerate((3, 3, 4)))
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert [p.read_bytes() for p in first] != [p.read_bytes() for p in other]


def survives(path: Path) -> bool:
    """Whether the file is read, with finite data; any exception but CryoSegNetError fails the test."""
    try:
        micrograph = read_micrograph(path)
    except CryoSegNetError as error:
        sentence = str(error)
        assert "\n" not in sentence and sentence.endswith(".") and str(path) in sentence
        return False
    assert micrograph.data.ndim == 2 and np.isfinite(micrograph.data).all()
    assert micrograph.pixel_size is None or 0.05 <= micrograph.pixel_size <= 100
    return True


def test_random_bytes_in_the_header(good: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng, content = np.random.default_rng(0), good.read_bytes()
    tracemalloc.start()
    read = 0
    try:
        for i in range(300):
            damaged = bytearray(content)
            # Every other time in the fields that decide what is read.
            where = rng.integers(0, 1024, 4) if i % 2 else np.append(rng.integers(0, 52, 1), rng.integers(88, 96, 1))
            for position in where:
                damaged[position] = int(rng.integers(256))
            good.write_bytes(damaged)
            read += survives(good)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert 10 < read < 290
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["tif", "zlib.tif", "png", "jpg", "mrc.gz", "mrc.bz2"])
def test_random_bytes_anywhere(good: Path, tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "zlib.tif":
        tifffile.imwrite(path, picture(np.int16), compression="zlib", rowsperstrip=16)
        content = path.read_bytes()
    elif kind.startswith("mrc"):
        content = (gzip if kind.endswith("gz") else bz2).compress(good.read_bytes())
    else:
        content = encoded(picture(), f".{kind}")
    rng = np.random.default_rng(1)
    # Most of what decides is in the first bytes of a file, where a page's tags and a picture's size stand.
    for i in range(150):
        damaged = bytearray(content)
        for position in rng.integers(0, 300 if i % 2 else len(content), 1 + i % 3):
            damaged[position] = int(rng.integers(256))
        path.write_bytes(damaged)
        survives(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["gz", "bz2"])
def test_a_compressed_stream_is_not_read_on_after_it_failed(good: Path, kind: str) -> None:
    module, base = (gzip, gzip.GzipFile) if kind == "gz" else (bz2, bz2.BZ2File)
    failures: list[Exception] = []

    class Stream(base):  # type: ignore[misc, valid-type]
        def read(self, size: int = -1) -> bytes:
            assert not failures, "libbz2 corrupts memory where a failed stream is read on"
            try:
                return bytes(super().read(size))
            except (OSError, EOFError, zlib.error) as error:
                failures.append(error)
                raise

    content = module.compress(good.read_bytes())
    failed = 0
    for position in range(20, 200, 5):  # in the tables of the codes, without which nothing can be read
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        failures.clear()
        stream = Stream(io.BytesIO(damaged)) if kind == "bz2" else Stream(fileobj=io.BytesIO(damaged))
        with pytest.raises(BadFile):
            read_compressed_mrc(stream)
        failed += len(failures)
    assert failed > 10


def test_tifffile_does_not_print_through_loggings_last_resort() -> None:
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("tifffile").handlers)


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
