"""Weights with names: where they come from, where they are cached, and their sha256."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from ..errors import UsageError


@dataclass(frozen=True)
class WeightsSource:
    """Where named weights come from.

    Attributes
    ----------
    kind
        The network they belong to.
    file
        Name of the file in the package's ``data`` folder (built in) or in the cache.
    licence, about
        For the user.
    url
        Address to download from; None where the file is built in.
    sha256
        Of the file; None where its publisher gives none. Later loads are then compared with the sha256 of the first
        download.
    member
        The file's path in the archive, where ``url`` is a tar archive.
    """

    kind: Literal["unet", "sam"]
    file: str
    licence: str
    about: str
    url: str | None = None
    sha256: str | None = None
    member: str | None = None


def _segment_anything(file: str, sha256: str, about: str) -> WeightsSource:
    return WeightsSource(
        "sam", file, "Apache-2.0", about, f"https://dl.fbaipublicfiles.com/segment_anything/{file}", sha256=sha256
    )


SOURCES: dict[str, WeightsSource] = {
    "default": WeightsSource("unet", "unet_default.safetensors", "MIT", "built-in U-Net"),
    "sam_small": WeightsSource("sam", "sam_small.safetensors", "MIT", "built-in small SAM, asked at peaks"),
    "cryosegnet": WeightsSource(
        "unet",
        "cryosegnet.pth",
        "MIT",
        "published U-Net (no sha256 is published)",
        "https://calla.rnet.missouri.edu/CryoSegNet/pretrained_models.tar.gz",
        member="pretrained_models/cryosegnet.pth",
    ),
    # the hexadecimal digits in these file names are the start of the MD5, not of the sha256
    "sam_vit_h": _segment_anything(
        "sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e", "SAM ViT-H, 2.6 GB"
    ),
    "sam_vit_l": _segment_anything(
        "sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622", "SAM ViT-L, 1.2 GB"
    ),
    "sam_vit_b": _segment_anything(
        "sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912", "SAM ViT-B, 0.4 GB"
    ),
}


def cache_folder() -> Path:
    """Folder of downloaded weights: ``$CRYOSEGNET_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("CRYOSEGNET_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import pooch

    return Path(pooch.os_cache("cryosegnet"))


def named(name: str) -> WeightsSource:
    """The source of named weights.

    Raises
    ------
    UsageError
        There are no weights of that name.
    """
    if name not in SOURCES:
        raise UsageError(f"no weights are called '{name}'; names are {', '.join(SOURCES)}")
    return SOURCES[name]


def location(name: str) -> Path:
    """Where the weights called ``name`` are, or will be once downloaded.

    Raises
    ------
    UsageError
        There are no weights of that name.
    """
    source = named(name)
    if source.url is None:
        return Path(str(files("cryosegnet_ext") / "data" / source.file))
    return cache_folder() / source.file


def sha256_of(path: str | Path) -> str:
    """sha256 of a file, 64 lower-case hexadecimal digits. A process reads an unchanged file once."""
    status = os.stat(path)
    return _sha256_of(os.path.abspath(path), status.st_size, status.st_mtime_ns)


@lru_cache
def _sha256_of(path: str, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def expected_sha256(name: str) -> str | None:
    """sha256 that the file of named weights must have: the published one, or the one recorded at the first download."""
    source = named(name)
    if source.sha256 is not None or source.url is None:
        return source.sha256
    record = record_of(location(name))
    return record.read_text(encoding="ascii").split()[0] if record.is_file() else None


def record_of(path: Path) -> Path:
    """The file beside cached weights that records their sha256."""
    return path.with_name(path.name + ".sha256")
