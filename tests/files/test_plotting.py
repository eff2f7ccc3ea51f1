"""Picks drawn with matplotlib, and as a notebook shows them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryosegnet_ext import CryoSegNetError, Picks, draw_overlay
from tests.stub_picker import write_micrograph

DATA = np.random.default_rng(0).normal(size=(200, 300)).astype(np.float32)
COLUMNS = np.array([[10, 250], [20, 150], [40, 60], [0.3, 0.9]])
PICKS = replace(Picks(*COLUMNS), pixel_size=2.0, shape=(200, 300))


@pytest.fixture(autouse=True)
def _no_windows() -> Iterator[None]:
    import matplotlib

    matplotlib.use("Agg")
    yield
    from matplotlib import pyplot

    pyplot.close("all")


def test_axes_are_those_of_the_array() -> None:
    ax = PICKS.plot(DATA)
    assert ax.get_xlim() == (-0.5, 299.5) and ax.get_ylim() == (199.5, -0.5)
    (image,) = ax.images
    assert tuple(image.get_extent()) == (-0.5, 299.5, 199.5, -0.5) and image.origin == "upper"
    (circles,) = ax.collections
    assert circles.get_offsets().tolist() == [[10, 20], [250, 150]]
    assert circles.get_widths().tolist() == [20, 30] and circles.get_array().tolist() == [0.3, 0.9]
    assert circles.get_clim() == (0, 1)


def test_a_dark_particle_is_drawn_where_its_pick_is() -> None:
    data = DATA.copy()
    data[140:160, 240:260] -= 20
    ax = PICKS.take([1]).plot(data)
    ax.figure.canvas.draw()
    shown = np.asarray(ax.images[0].get_array())
    assert shown[145:155, 245:255].max() < 60 < shown[45:55, 245:255].mean()


def test_an_axes_that_is_given_and_no_picks() -> None:
    from matplotlib import pyplot

    _, mine = pyplot.subplots()
    assert Picks.empty(shape=(200, 300)).plot(DATA, mine) is mine


def test_picks_of_any_program_are_seen() -> None:
    unknown = replace(PICKS, diameter=np.full(2, np.nan), score=np.array([-3.0, 6.0]))
    circles = unknown.plot(DATA).collections[0]
    assert circles.get_widths().tolist() == [7.5, 7.5] and circles.get_clim() == (-3, 6)
    assert replace(unknown, sought=50.0).plot(DATA).collections[0].get_widths().tolist() == [25, 25]
    none = draw_overlay(DATA, Picks.empty(2.0))
    assert (draw_overlay(DATA, unknown)[:400] != none[:400]).any()


def test_the_micrograph_is_read_again(tmp_path: Path) -> None:
    write_micrograph(tmp_path / "m.mrc", 1)
    known = replace(PICKS, shape=None, micrograph=str(tmp_path / "m.mrc"))
    assert known.plot().images and "<img" in known._repr_html_()
    with pytest.raises(CryoSegNetError, match="is not known: give it"):
        PICKS.plot()
    with pytest.raises(CryoSegNetError, match="is not there: give it"):
        replace(known, micrograph="the array").plot()
    for draw in (lambda: PICKS.plot(DATA[:100]), lambda: draw_overlay(DATA[:100], PICKS)):
        with pytest.raises(CryoSegNetError, match=r"of 200 x 300 pixels, and this one has 100 x 300"):
            draw()
    with pytest.raises(CryoSegNetError, match="two axes"):
        draw_overlay(DATA[None], PICKS)


def test_a_sentence_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(CryoSegNetError, match="pip install matplotlib"):
        PICKS.plot(DATA)


def test_a_notebook_shows_a_table_and_never_an_error(tmp_path: Path) -> None:
    said = PICKS._repr_html_()
    assert (
        "2 picks, median diameter 50 A, scores 0.30 to 0.90" in said and said.count("<tr>") == 3 and "<img" not in said
    )
    (tmp_path / "bad.mrc").write_bytes(b"no micrograph")
    for name in ("", "gone.mrc", "a\0b", str(tmp_path), str(tmp_path / "bad.mrc")):
        assert "<img" not in replace(PICKS, micrograph=name)._repr_html_()
    many = Picks(*np.ones((4, 50)))
    assert "and 45 more" in many._repr_html_()
    assert (
        "0 picks" in Picks.empty()._repr_html_() and "nan" in replace(PICKS, diameter=np.full(2, np.nan))._repr_html_()
    )
