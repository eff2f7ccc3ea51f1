from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from cryosegnet_ext.files.overlay import draw_overlay, encode_overlay, save_overlay
from cryosegnet_ext.files.picks import Picks


def picks(n: int = 1, pixel_size: float | None = 2.0, **columns: object) -> Picks:
    values = {"x": np.full(n, 300.0), "y": np.full(n, 500.0), "diameter": np.full(n, 160.0), "score": np.full(n, 1.0)}
    return Picks(**{**values, **columns}, pixel_size=pixel_size)  # type: ignore[arg-type]


def test_circle_lies_where_the_particle_is() -> None:
    data = np.random.default_rng(0).normal(size=(1600, 2400)).astype(np.float32)
    with_pick, without = draw_overlay(data, picks()), draw_overlay(data, picks(0))
    assert with_pick.dtype == np.uint8 and with_pick.shape[1:] == (1200, 3) and with_pick.shape[0] > 800
    yellow = np.all(np.abs(with_pick[:800].astype(int) - (253, 231, 37)) < 12, axis=2)
    rows, columns = np.nonzero(yellow)
    assert without.shape == with_pick.shape
    assert (columns.min() + columns.max()) / 2 == pytest.approx(300 / 2, abs=1)
    assert (rows.min() + rows.max()) / 2 == pytest.approx(500 / 2, abs=1)
    assert np.ptp(columns) == pytest.approx(160 / 2.0 / 2, abs=3)


def test_colour_follows_the_score() -> None:
    data = np.zeros((700, 700), np.float32)
    lightness = [
        draw_overlay(data, picks(score=np.array([s]), y=np.array([300.0])))[:700].max() for s in (0.0, 0.5, 1.0)
    ]
    assert lightness[0] < lightness[1] < lightness[2]


@pytest.mark.parametrize("shape", [(64, 64), (64, 3000), (3000, 64), (512, 700), (1, 1)])
@pytest.mark.parametrize("pixel_size", [None, 0.01, 1.0, 90.0])
def test_any_shape_and_pixel_size(shape: tuple[int, int], pixel_size: float | None) -> None:
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for some in (picks(0, pixel_size), picks(1, pixel_size), picks(3, pixel_size)):
        picture = draw_overlay(data, some, max_side=400)
        assert max(picture.shape[:2]) <= 460


def test_awkward_numbers() -> None:
    bad = picks(4, x=np.array([np.nan, -500.0, 1e9, 5.0]), diameter=np.array([1.0, 1e7, 10.0, np.nan]))
    data = np.full((100, 100), np.nan, np.float32)
    data[:50] = 1e30
    assert draw_overlay(data, bad).any()


def test_the_file(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(400, 500)).astype(np.float32)
    save_overlay(tmp_path / "m.jpg", data, picks())
    content = (tmp_path / "m.jpg").read_bytes()
    assert content == encode_overlay(data, picks())
    assert cv2.imread(str(tmp_path / "m.jpg")).shape == draw_overlay(data, picks()).shape
    assert [p.name for p in tmp_path.iterdir()] == ["m.jpg"]
