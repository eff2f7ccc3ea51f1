"""DM3 and DM4 files, written from the layout that DigitalMicrograph's tag trees have: no library writes them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

_DM_TYPES = {"int16": 1, "float32": 2, "complex64": 3, "uint8": 6, "int32": 7, "uint16": 10, "uint32": 11}
_TAG_TYPES = {"int16": 2, "int32": 3, "uint16": 4, "uint32": 5, "float32": 6, "uint8": 10, "complex64": 6}
_RGB = 23


class _Writer:
    def __init__(self, version: int) -> None:
        self.version = version
        self.word = ">I" if version == 3 else ">Q"

    def words(self, *values: int) -> bytes:
        return b"".join(struct.pack(self.word, value) for value in values)

    def group(self, entries: Sequence[tuple[str, Any]]) -> bytes:
        return bytes([1, 0]) + self.words(len(entries)) + b"".join(self.entry(*entry) for entry in entries)

    def entry(self, label: str, value: Any) -> bytes:
        is_group = isinstance(value, list)
        body = self.group(value) if is_group else b"%%%%" + self.data(value)
        size = b"" if self.version == 3 else self.words(len(body))
        return bytes([20 if is_group else 21]) + struct.pack(">H", len(label)) + label.encode() + size + body

    def data(self, value: Any) -> bytes:
        if isinstance(value, str):
            value = np.array([ord(c) for c in value], np.uint16)
        if isinstance(value, np.ndarray):
            count = value.size * (2 if value.dtype.kind == "c" else 1)
            return self.words(3, 20, _TAG_TYPES[value.dtype.name], count) + value.tobytes()
        if isinstance(value, float):
            return self.words(1, 6) + struct.pack("<f", value)
        return self.words(1, 5) + struct.pack("<I", value)


def _image(data: np.ndarray, scale: float, unit: str, dm_type: int) -> list[tuple[str, Any]]:
    axes = [("", [("Origin", 0.0), ("Scale", scale), ("Units", unit)]) for _ in data.shape]
    content = [
        ("Calibrations", [("Dimension", axes)]),
        ("Data", data),
        ("DataType", dm_type),
        ("Dimensions", [("", int(n)) for n in data.shape[::-1]]),
        ("PixelDepth", data.dtype.itemsize),
    ]
    return [("ImageData", content), ("Name", "a")]


def dm_bytes(
    *images: np.ndarray, version: int = 4, scale: float = 0.1, unit: str = "nm", thumbnail: bool = True, endian: int = 1
) -> bytes:
    """The content of a DM file; by default with a thumbnail, as DigitalMicrograph writes it."""
    writer = _Writer(version)
    entries = [("", _image(np.zeros((8, 8), np.uint32), 1.0, "", _RGB))] if thumbnail else []
    entries += [("", _image(image, scale, unit, _DM_TYPES[image.dtype.name])) for image in images]
    root = writer.group([("ApplicationBounds", 7), ("ImageList", entries), ("InImageMode", 1)])
    return struct.pack(">I", version) + writer.words(len(root)) + struct.pack(">I", endian) + root + bytes(8)
