"""Micrographs that are refused: missing, damaged, or without an image; whatever a file holds."""

from __future__ import annotations

import builtins
import bz2
import gzip
import io
import logging
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.limits import BadFile
from cryosegnet_ext.files.micrograph import read_micrograph
from cryosegnet_ext.files.micrograph.mrc import read_compressed_mrc
from tests.damage import KINDS, MODE, NSYMBT, NX, NY, NZ, damaged_files, encoded, with_field
from tests.files.helpers import NX_, NY_, TYPES, picture, refusal, write_mrc


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
    assert (said if said != "truncated" else "too few for an image") in refusal(good)


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
        assert f"too few for an image of {1024 + 4 * 32768**2} bytes" in refusal(good)
        good.write_bytes(header)
        assert "truncated" in refusal(good)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


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
            read_compressed_mrc(stream, 1 << 20)
        failed += len(failures)
    assert failed > 10


def test_tifffile_does_not_print_through_loggings_last_resort() -> None:
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("tifffile").handlers)
