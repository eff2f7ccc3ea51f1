"""An image as a file has it."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray


class StoredImage(NamedTuple):
    """What a file says.

    Attributes
    ----------
    pixels : (ny, nx)
        As stored.
    pixel_size
        Angstrom per pixel; None where the file does not give it.
    remark
        What was assumed where the file leaves it open.
    """

    pixels: NDArray[Any]
    pixel_size: float | None = None
    remark: str | None = None
