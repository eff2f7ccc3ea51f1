"""Micrographs and specimens in one small file, for a machine that has no other data.

The micrographs are reduced to 8 bits, those of EMPIAR-10017 to half their sides as well; the specimens are densities in
float16. The data are licensed by others: the file is for carrying, not for the repository.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks import real_data
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.atomic import write_atomic
from cryosegnet_ext.simulation.specimens import Specimen, make_specimen, read_specimen
from cryosegnet_ext.training.crops import Labelled

NAME = "pack.npz"
#: What may travel, less the repository itself.
MOST_MEGABYTES = 40.0
#: Real micrographs of the comparison of devices; none of them is trained on.
COMPARED = {"empiar-10017-denoised": 0, "apoferritin": 0, "empiar-10059": 0}
#: Sets for training, and the factor by which their sides are reduced.
TRAINED = {"empiar-10017-denoised": 2, "apoferritin": 1, "empiar-10059": 1, "apoferritin-one-frame": 1, "views": 1}
QUALITY = 92


def pack(folder: Path) -> str:
    """Fill a folder with ``pack.npz``; what to tell.

    Raises
    ------
    CryoSegNetError
        The labelled micrographs are not there, or the file would be too large to travel.
    """
    if not (real_data.SHARED / "specimens").is_dir():
        raise CryoSegNetError(f"{real_data.SHARED} does not hold the labelled micrographs: set CRYOSEGNET_TEST_DATA.")
    arrays: dict[str, np.ndarray] = {}
    notes: dict[str, Any] = {"specimens": {}, "micrographs": {}}
    for split, specimen, key in _specimens():
        arrays[key] = specimen.density.astype(np.float16)
        notes["specimens"][key] = [split, specimen.name, specimen.voxel_size, specimen.diameter]
    for role, group, one, reduced in _micrographs():
        key = f"{role}/{group}/{sum(name.startswith(f'{role}/{group}/') for name in notes['micrographs'])}"
        image, labels = _smaller(one, reduced)
        coding = (".jpg", [cv2.IMWRITE_JPEG_QUALITY, QUALITY]) if reduced > 1 else (".png", [])
        arrays[key] = cv2.imencode(coding[0], image, coding[1])[1].ravel()
        arrays[f"{key}/labels"] = np.c_[labels.x, labels.y].astype(np.float32)
        notes["micrographs"][key] = [role, group, labels.diameter_px]
    stream = io.BytesIO()
    np.savez_compressed(stream, notes=np.frombuffer(json.dumps(notes).encode(), np.uint8), **arrays)
    size = stream.getbuffer().nbytes / 1e6
    if size > MOST_MEGABYTES:
        raise CryoSegNetError(
            f"the packed data are {size:.0f} MB, more than {MOST_MEGABYTES:.0f}: reduce them further."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / NAME, stream.getbuffer())
    return (
        f"{folder / NAME}: {size:.1f} MB, {len(notes['specimens'])} specimens, {len(notes['micrographs'])} micrographs"
    )


def _specimens() -> Iterator[tuple[str, Specimen, str]]:
    splits = real_data.SPLITS["specimens"]
    for number, path in enumerate(sorted((real_data.SHARED / "specimens").glob("*/*"))):
        for split in ("train", "test"):
            if path.name.split(".")[0] in splits[split]:
                yield split, read_specimen(path), f"specimen/{number}"


def _micrographs() -> Iterator[tuple[str, str, Labelled, int]]:
    """Role, group, micrograph, factor to reduce it by."""
    for group, number in COMPARED.items():
        yield "compared", group, real_data.load(group, "test")[number], 1 if group != "empiar-10017-denoised" else 2
    for group, sets in real_data.load_training(tuple(TRAINED), ()).items():
        for one in sets:
            yield "train", group, one, TRAINED[group]
    for role, split in (("empty", "train"), ("blank", "test")):
        for one in real_data.load_empty(split):
            yield role, "no-particles", one, 1


def _smaller(one: Labelled, factor: int) -> tuple[np.ndarray, Labelled]:
    """Bytes of a micrograph, and its labels on them."""
    data = one.data
    if factor > 1:
        side = (data.shape[1] // factor, data.shape[0] // factor)
        data = cv2.resize(data[: side[1] * factor, : side[0] * factor], side, interpolation=cv2.INTER_AREA)
    low, high = np.percentile(data, (0.02, 99.98))
    image = np.rint(np.clip((data - low) / max(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)
    x, y = ((v + 0.5) / factor - 0.5 for v in (one.x, one.y))
    return image, Labelled(image.astype(np.float32), x, y, one.diameter_px / factor)


@dataclass(frozen=True)
class Packed:
    """What `pack` put into a folder."""

    folder: Path

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / NAME, allow_pickle=False) as file:
            return dict(file)

    @cached_property
    def _notes(self) -> dict[str, Any]:
        return dict(json.loads(self._arrays["notes"].tobytes()))

    def specimens(self, split: str) -> list[Specimen]:
        """Those of the ``train`` or the ``test`` list."""
        return [
            Specimen(name, self._arrays[key].astype(np.float32), voxel_size, diameter)
            for key, (part, name, voxel_size, diameter) in self._notes["specimens"].items()
            if part == split
        ]

    def micrographs(self, role: str) -> dict[str, list[Labelled]]:
        """By data set: those ``compared``, for ``train``; without particles: ``empty`` to train, ``blank`` to test."""
        found: dict[str, list[Labelled]] = {}
        for key, (part, group, diameter) in self._notes["micrographs"].items():
            if part == role:
                data = cv2.imdecode(self._arrays[key], cv2.IMREAD_GRAYSCALE).astype(np.float32)
                x, y = self._arrays[f"{key}/labels"].astype(np.float64).reshape(-1, 2).T
                found.setdefault(group, []).append(Labelled(data, x, y, diameter))
        return found


def made_up(count: int) -> list[Specimen]:
    """Lumps of spheres in the place of specimens, where there are no data."""
    result = []
    grid = np.indices((40, 40, 40), np.float32)
    for number in range(count):
        rng = np.random.default_rng(number)
        density = np.zeros((40, 40, 40), np.float32)
        for centre in rng.normal(19.5, 4.5, (12, 3)):
            density += np.exp(-((grid - centre[:, None, None, None]) ** 2).sum(0) / rng.uniform(8, 30))
        result.append(make_specimen(f"lump {number}", density, 4.0))
    return result
