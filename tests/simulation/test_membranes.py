"""Membranes: a bilayer's own thickness and contrast, and truth that keeps the particles which they do not hide."""

from __future__ import annotations

import numpy as np
import pytest

from cryosegnet_ext.simulation.contamination import Background
from cryosegnet_ext.simulation.membranes import add_disc, add_vesicle, bilayer
from cryosegnet_ext.simulation.optics import Optics
from cryosegnet_ext.simulation.specimens import CONTRAST_VOLT

INTERACTION = Optics().interaction


def empty(side=1200):
    shape = (side, side)
    return Background(np.zeros(shape, np.float32), np.ones(shape, np.float32), np.zeros(shape, bool))


def test_a_bilayer_from_above_is_as_dark_as_its_composition_says():
    w = np.linspace(-40, 40, 801)
    assert bilayer(w).sum() * 0.1 == pytest.approx(73, abs=5)  # volt x angstrom
    assert bilayer(np.array([-60.0, 60.0])) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("typical", [80.0, 300.0])
def test_the_wall_of_a_vesicle_is_as_thick_as_a_bilayer_whatever_the_particle(typical):
    for seed in range(40):
        planes = empty()
        add_vesicle(planes, 2.0, typical, INTERACTION, np.random.default_rng(seed))
        y, x = np.nonzero(planes.phase > 0)
        if len(x) == 0 or min(x.min(), y.min()) == 0 or max(x.max(), y.max()) == 1199 or np.ptp(y) < 60:
            continue  # whole vesicles only, wide enough to have an inside
        row = planes.phase[(y.min() + y.max() + 1) // 2]  # across the middle, where nothing is squeezed
        wall = np.flatnonzero(row > 0.05 * row.max())
        darkest = row.argmax()  # the inner sheet of heads, on either side
        assert min(darkest - wall[0], wall[-1] - darkest) * 2.0 == pytest.approx(34 + 10, abs=10)
        return
    pytest.fail("no vesicle lay inside the frame")


def test_large_particles_on_discs_and_in_vesicles_count():
    discs, vesicle = empty(), empty()
    rng = np.random.default_rng(0)
    for _ in range(60):
        add_disc(discs, 2.0, 170.0, INTERACTION, rng)
    seen = discs.phase > 0.2 * 70 * INTERACTION
    assert 0 < discs.junk.sum() < 0.3 * seen.sum()  # from their sides, not from above
    for _ in range(4):
        add_vesicle(vesicle, 2.0, 170.0, INTERACTION, rng)
    assert 0 < vesicle.junk.sum() < 0.7 * (vesicle.phase > 0).sum()


def test_a_disc_is_seen_and_hides_a_particle_smaller_than_itself():
    planes = empty(300)
    rng = np.random.default_rng(3)
    for _ in range(10):
        add_disc(planes, 2.0, 60.0, INTERACTION, rng)
    disc = planes.phase[planes.junk]
    assert np.median(disc) > 0.4 * CONTRAST_VOLT * 40 * INTERACTION  # of what a particle shifts the phase by
    assert planes.junk.sum() > 0.5 * (planes.phase > 0.5 * 70 * INTERACTION).sum()
