"""Lengths in angstrom or in pixels: the particle diameter, and the columns of picks.

A `Diameter` names its unit. Columns of picks, and the picker's arguments, do not: they are in angstrom where the pixel
size of the micrograph is known, and in pixels where it is not. `to_pixels` and `from_pixels` convert them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..errors import CryoSegNetError, option

if TYPE_CHECKING:
    # The command line needs `Diameter` before anything heavy is loaded.
    import numpy as np
    from numpy.typing import NDArray

    Length = TypeVar("Length", float, NDArray[np.float64])

Unit = Literal["angstrom", "pixels"]


def to_pixels(length: Length, pixel_size: float | None) -> Length:
    """Pixels, of a length as picks hold it.

    >>> to_pixels(180.0, 1.5), to_pixels(180.0, None)
    (120.0, 180.0)
    """
    return length if pixel_size is None else length / pixel_size


def from_pixels(length: Length, pixel_size: float | None) -> Length:
    """A length in pixels as picks hold it: angstrom, or pixels where the pixel size is not known."""
    return length if pixel_size is None else length * pixel_size


def as_picks_hold(given: float | str, pixel_size: float | None) -> float:
    """A given diameter as picks hold it, where a number without a pixel size counts as pixels.

    >>> as_picks_hold(180.0, 1.5), as_picks_hold("100px", 1.5), as_picks_hold(100, None)
    (180.0, 150.0, 100.0)
    """
    if isinstance(given, str):
        return Diameter.given(given).for_picks(pixel_size)
    return float(given)


@dataclass(frozen=True)
class Diameter:
    """A particle diameter and its unit.

    Attributes
    ----------
    value
        The number.
    unit
        ``"angstrom"`` or ``"pixels"``; None in journals of earlier versions that did not note it: as picks hold it.

    Examples
    --------
    >>> str(Diameter(176.3, "angstrom")), str(Diameter(108, "pixels"))
    ('176 A', '108 pixels')
    """

    value: float
    unit: Unit | None

    @classmethod
    def of(cls, length: float, pixel_size: float | None) -> Diameter:
        """The diameter of a length as picks hold it."""
        return cls(float(length), "pixels" if pixel_size is None else "angstrom")

    @classmethod
    def given(cls, value: float | str) -> Diameter:
        """The diameter that a user gives: a number or text in angstrom, or text in pixels.

        >>> str(Diameter.given(180)), str(Diameter.given("180A")), str(Diameter.given("151px"))
        ('180 A', '180 A', '151 pixels')

        Raises
        ------
        ValueError
            The text is not that of a number.
        """
        text = str(value).strip().lower()
        if text.endswith("px"):
            return cls(float(text[:-2]), "pixels")
        return cls(float(text.removesuffix("a")), "angstrom")

    @property
    def as_given(self) -> float | str:
        """The diameter as options and settings hold it: a number in angstrom, or text such as ``"151px"``."""
        return f"{self.value:.10g}px" if self.unit == "pixels" else float(self.value)

    def __str__(self) -> str:
        unit = {"angstrom": " A", "pixels": " pixels", None: ""}[self.unit]
        return f"{self.value:.0f}{unit}"

    def for_picks(self, pixel_size: float | None) -> float:
        """The diameter as picks of a micrograph hold it.

        Raises
        ------
        CryoSegNetError
            The diameter is in angstrom and there is no pixel size.
        """
        if self.unit == "pixels":
            return from_pixels(self.value, pixel_size)
        if self.unit == "angstrom" and pixel_size is None:
            raise CryoSegNetError(
                f"the particle diameter is known in angstrom ({self}) and the pixel size of this micrograph is not: "
                f"give it with {option('pixel_size')}, in angstrom per pixel"
            )
        return self.value

    def in_pixels(self, pixel_size: float | None) -> float:
        """The diameter in pixels of a micrograph; raises as `for_picks` does."""
        return self.value if self.unit == "pixels" else to_pixels(self.for_picks(pixel_size), pixel_size)

    def as_json(self) -> dict[str, object]:
        """As journals hold it."""
        return {"diameter": self.value, "in_angstrom": None if self.unit is None else self.unit == "angstrom"}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Diameter | None:
        """The diameter that `as_json` gave; None where it could not be estimated.

        Raises
        ------
        ValueError, TypeError, KeyError
            `as_json` did not give this.
        """
        units: dict[bool | None, Unit | None] = {True: "angstrom", False: "pixels", None: None}
        value = entry["diameter"]
        if value is not None and not 0 < value < 1e9:
            raise ValueError("not the diameter of a particle")
        return None if value is None else cls(float(value), units[entry.get("in_angstrom")])
