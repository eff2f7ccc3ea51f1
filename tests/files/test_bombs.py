"""Small files that would fill the memory are refused by their headers."""

from __future__ import annotations

import bz2
import gzip
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from mrcfile.dtypes import HEADER_DTYPE

from cryosegnet_ext import CryoSegNetError
from cryosegnet_ext.files import limits
from cryosegnet_ext.files.micrograph import read_micrograph, read_shape
from tests.stub_picker import write_micrograph


def mrc_header(nx: int, ny: int, extended: int = 0) -> bytes:
    header = np.zeros((), HEADER_DTYPE)
    header["nx"], header["ny"], header["nz"], header["mode"], header["nsymbt"] = nx, ny, 1, 2, extended
    header["map"], header["machst"] = b"MAP ", [0x44, 0x44, 0, 0]
    return header.tobytes()


def png(side: int, colour: int, data: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", data) + chunk(b"IEND", b"")


BOMBS = {
    "pixels.mrc.bz2": bz2.compress(mrc_header(32768, 32768) + bytes(1 << 20)),
    "pixels.mrc.gz": gzip.compress(mrc_header(32768, 32768) + bytes(1 << 20)),
    "extended.mrc.bz2": bz2.compress(mrc_header(64, 64, extended=2**31 - 1) + bytes(1 << 20)),
    "grey.png": png(30000, 0, bytes(900_000)),
    "rgb.png": png(20000, 2, bytes(1_200_000)),  # 1028 bytes of pixels for each byte of the file
    "rgba.png": png(16000, 6, bytes(1_100_000)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_by_their_headers(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BOMBS[name])
    with pytest.raises(CryoSegNetError, match="too few for an image"):
        read_micrograph(path)


@pytest.mark.parametrize("suffix", [".mrc.gz", ".mrc.bz2"])
def test_an_image_larger_than_the_memory_is_refused(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write_micrograph(tmp_path / "mic.mrc").read_bytes()
    packed = tmp_path / f"mic{suffix}"
    packed.write_bytes((gzip if suffix == ".mrc.gz" else bz2).compress(content))
    assert read_micrograph(packed).data.shape == read_shape(packed) == (64, 96)
    monkeypatch.setattr(limits, "_LARGE", 1000)
    monkeypatch.setattr(limits, "_available_memory", lambda: 50_000)
    with pytest.raises(CryoSegNetError, match="does not fit into memory"):
        read_micrograph(packed)


@pytest.mark.parametrize("size", [(64, 64), (128, 96)])
def test_an_image_without_compression_larger_than_the_memory_is_refused(
    tmp_path: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_micrograph(tmp_path / "mic.mrc", shape=size)
    monkeypatch.setattr(limits, "_LARGE", 1000)
    monkeypatch.setattr(limits, "_available_memory", lambda: 50_000)
    assert read_shape(path) == size  # by the header alone
    if size == (64, 64):
        read_micrograph(path)
    else:
        with pytest.raises(CryoSegNetError, match="does not fit into memory"):
            read_micrograph(path)


def test_the_memory_there_is_is_known() -> None:
    assert 0 < limits._available_memory() < float("inf")


GIB = 2**30
STATISTICS = "anon 5\nactive_file 100\ninactive_file 20\nshmem 7\n"


@pytest.mark.parametrize(
    ("groups", "files", "left"),
    [
        ("0::/\n", {"memory.max": 3 * GIB, "memory.current": GIB, "memory.stat": "anon 5\n"}, 2 * GIB),
        ("0::/\n", {"memory.max": "max", "memory.current": GIB, "memory.stat": ""}, 8 * GIB),
        # Files that were read count as used, and make room for what is needed.
        ("0::/\n", {"memory.max": GIB, "memory.current": GIB, "memory.stat": STATISTICS}, 120),
        # A job of SLURM: its step has no limit of its own.
        (
            "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n",
            {
                "system.slice/slurmstepd.scope/job_7/memory.max": 2 * GIB,
                "system.slice/slurmstepd.scope/job_7/memory.current": GIB,
                "system.slice/slurmstepd.scope/job_7/memory.stat": "",
                "system.slice/slurmstepd.scope/job_7/step_0/memory.max": "max",
            },
            GIB,
        ),
        (
            "5:memory:/slurm/uid_1/job_7\n3:cpu:/\n",
            {
                "memory/slurm/uid_1/job_7/memory.limit_in_bytes": 4 * GIB,
                "memory/slurm/uid_1/job_7/memory.usage_in_bytes": GIB,
                "memory/slurm/uid_1/job_7/memory.stat": "active_file 1\ntotal_active_file 50\ntotal_inactive_file 3\n",
                "memory/memory.limit_in_bytes": 2**63 - 4096,
                "memory/memory.usage_in_bytes": 6 * GIB,
                "memory/memory.stat": "",
            },
            3 * GIB + 53,
        ),
        ("", {}, 8 * GIB),
    ],
)
def test_memory_of_a_container_or_a_job(
    tmp_path: Path, groups: str, files: dict[str, object], left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
    for name, text in {"meminfo": f"MemAvailable: {8 * GIB // 1024} kB", "self/cgroup": groups}.items():
        (tmp_path / "proc" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc" / name).write_text(text)
    for name, value in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(value))
    assert limits._available_memory(tmp_path) == left
