from __future__ import annotations

import pytest

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.diameter import Diameter


def test_units() -> None:
    angstrom, pixels = Diameter.of(180, 1.5), Diameter.of(120, None)
    assert (str(angstrom), str(pixels)) == ("180 A", "120 pixels")
    assert (angstrom.for_picks(1.5), angstrom.in_pixels(1.5)) == (180, 120)
    assert (pixels.for_picks(1.5), pixels.in_pixels(1.5), pixels.for_picks(None)) == (180, 120, 120)
    with pytest.raises(CryoSegNetError, match=r"in angstrom \(180 A\).*pixel_size="):
        angstrom.in_pixels(None)


@pytest.mark.parametrize("diameter", [Diameter(176.25, "angstrom"), Diameter(88.5, "pixels"), Diameter(9.0, None)])
def test_what_a_journal_holds_comes_back(diameter: Diameter) -> None:
    assert Diameter.from_json(diameter.as_json()) == diameter
    assert Diameter.from_json({"diameter": None, "in_angstrom": True}) is None


def test_the_form_in_journals() -> None:
    assert Diameter(176.25, "angstrom").as_json() == {"diameter": 176.25, "in_angstrom": True}
    assert Diameter(9.0, None).as_json() == {"diameter": 9.0, "in_angstrom": None}
