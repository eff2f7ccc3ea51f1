"""Filaments without end and noise, in which nothing is to be picked."""

from __future__ import annotations

import numpy as np
import pytest

from cryosegnet_ext.simulation.specimens import Specimen

STEP = 6
"""Voxels from one turn of the made-up helix to the next."""


@pytest.fixture
def helix() -> Specimen:
    """Beads around the z axis, three to a turn, in the middle of a box."""
    n = 48
    z, y, x = np.indices((n, n, n)) - n / 2
    density = np.zeros((n, n, n), np.float32)
    for k in range(-9, 10):
        angle = 2 * np.pi * k / 3
        centre = k * STEP / 3, 5 * np.sin(angle), 5 * np.cos(angle)
        density += np.exp(-((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2) / 2)
    return Specimen("helix", density, 4.0, 160.0)


def test_a_filament_goes_on_with_the_period_of_its_helix(helix: Specimen) -> None:
    from benchmarks.accuracy import filaments

    line = filaments.repeated(filaments.side_view(helix, 20.0, 4.0), 300)
    assert line.shape[1] == 300
    profile = line.sum(0)
    assert profile.min() > 0.3 * profile.max()  # no gap, as between pieces that are only put side by side
    inner = line[:, 20:-20]
    for shift in (STEP, 3 * STEP, 10 * STEP):
        assert np.corrcoef(inner[:, shift:].ravel(), inner[:, :-shift].ravel())[0, 1] > 0.8
    assert np.corrcoef(inner[:, STEP // 2 :].ravel(), inner[:, : -STEP // 2].ravel())[0, 1] < 0.6


def test_filaments_cross_the_field_at_the_ratio_that_is_asked_for(
    helix: Specimen, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.accuracy import filaments

    monkeypatch.setattr(filaments, "helix", lambda: helix)
    monkeypatch.setattr(filaments, "SIDE", 256)
    faint, clear = filaments.micrograph(0.1, 0), filaments.micrograph(2.0, 0)
    assert faint.data.shape == (256, 256)
    signal = clear.data - faint.data  # the noise is the same
    assert signal.std() > 0.2
    assert np.abs(signal).max() > 5 * np.median(np.abs(signal))  # filaments, not a texture
    assert np.array_equal(filaments.micrograph(2.0, 0).data, clear.data)


def test_pink_noise_has_the_power_of_one_over_the_frequency() -> None:
    from benchmarks.accuracy import no_particles

    images: dict[str, list[np.ndarray]] = {}
    for group, _, m in no_particles.noise(128):
        assert m.data.std() == pytest.approx(1, abs=0.01)
        images.setdefault(group, []).append(m.data)
    frequency = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128)[None, :])

    def slope(group: str) -> float:
        power = np.mean([np.abs(np.fft.rfft2(image)) ** 2 for image in images[group]], axis=0)
        some = (frequency > 0.02) & (frequency < 0.4)
        return float(np.polyfit(np.log(frequency[some]), np.log(power[some]), 1)[0])

    assert slope("white noise") == pytest.approx(0, abs=0.15)
    assert slope("pink noise") == pytest.approx(-1, abs=0.15)
