"""Simulated micrographs: the physics against plain formulas, and truth that lies where the particles are."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cryosegnet_ext.simulation.micrograph import ProjectionStack, Scene, simulate_micrograph
from cryosegnet_ext.simulation.optics import Optics, contrast_transfer, layered_contrast
from cryosegnet_ext.simulation.projection import project, random_rotations
from cryosegnet_ext.simulation.specimens import Specimen
from tests.simulation.balls import POSITIONS, WEIGHTS, balls

NOTHING = Scene(
    coverage=0,
    clusters=0,
    dose=1e9,
    detector_efficiency=1,
    structural_noise=0,
    gradient=0,
    optics=Optics(defocus_u=8000, defocus_v=8000),
)


def lopsided_stack(n=40, diameter=100.0, voxel=4.0, views=3):
    """Projections with a heavy and a light end, about their centre of mass."""
    yy, xx = np.mgrid[:n, :n] - (n - 1) / 2
    images = []
    for angle in np.linspace(0, 2, views):
        c, s = 7 * np.cos(angle), 7 * np.sin(angle)
        heavy = np.exp(-((xx + c / 2) ** 2 + (yy + s / 2) ** 2) / 18)
        light = 0.5 * np.exp(-((xx - c) ** 2 + (yy - s) ** 2) / 18)
        images.append((heavy + light) * 120)
    return ProjectionStack("lopsided", np.array(images, np.float32), voxel, diameter)


STACK = lopsided_stack()


def test_electron_optics_of_the_usual_voltages():
    """Wavelengths and interaction constants as in textbooks (Reimer and Kohl; Kirkland)."""
    for voltage, wavelength, interaction in (
        (100, 0.03701, 9.244e-4),
        (200, 0.02508, 7.288e-4),
        (300, 0.01969, 6.526e-4),
    ):
        optics = Optics(voltage=voltage)
        assert optics.wavelength == pytest.approx(wavelength, abs=6e-6)
        assert optics.interaction == pytest.approx(interaction, rel=5e-4)


@pytest.mark.parametrize("shape", [(12, 16), (9, 11)])
def test_contrast_transfer_pixel_by_pixel(shape):
    optics = Optics(200, 2.0, 0.1, 21000, 16000, 37, 60)
    found = contrast_transfer(optics, shape, 2.3)
    assert found.shape == (shape[0], shape[1] // 2 + 1)
    volts = 200e3
    wavelength = 12.2643 / math.sqrt(volts * (1 + 0.978466e-6 * volts))
    for i in range(shape[0]):
        for j in range(shape[1] // 2 + 1):
            sy = (i if i < (shape[0] + 1) // 2 else i - shape[0]) / (shape[0] * 2.3)
            sx = j / (shape[1] * 2.3)
            s = math.hypot(sx, sy)
            # the defocus along an axis at 37 degrees from x is 21000, across it 16000
            along = math.atan2(sy, sx) - math.radians(37)
            defocus = 21000 * math.cos(along) ** 2 + 16000 * math.sin(along) ** 2
            chi = math.pi * wavelength * defocus * s**2 - math.pi / 2 * 2.0e7 * wavelength**3 * s**4
            expected = -(math.sqrt(1 - 0.1**2) * math.sin(chi) + 0.1 * math.cos(chi)) * math.exp(-60 / 4 * s**2)
            # at half the sampling rate the sign of the frequency is a convention, which astigmatism can see
            if 2 * i != shape[0] and 2 * j != shape[1]:
                assert found[i, j] == pytest.approx(expected, abs=2e-3)


def test_protein_looks_dark_and_empty_ice_is_one():
    assert layered_contrast([(0.0, np.zeros((30, 40), np.float32))], Optics(), 2.0) == pytest.approx(1)
    phase = np.zeros((128, 128), np.float32)
    phase[60:68, 60:68] = 0.1
    image = layered_contrast([(0.0, phase)], Optics(), 4.0)
    assert image[60:68, 60:68].mean() < 0.97
    assert image[0, 0] == pytest.approx(1, abs=0.02)
    half = np.full((128, 128), 0.5, np.float32)
    assert layered_contrast([(0.0, phase)], Optics(), 4.0, half) == pytest.approx(0.5 * image, rel=1e-5)


@pytest.mark.parametrize("n", [32, 33])
def test_projections_show_the_rotated_particle(n):
    specimen = Specimen("balls", balls(n, POSITIONS, weights=WEIGHTS), 3.0, 50.0)
    rotations = np.concatenate([np.eye(3, dtype=np.float32)[None], random_rotations(6, np.random.default_rng(0))])
    images = project(specimen, rotations)
    assert images.shape == (7, n, n) and images.dtype == np.float32
    y, x = np.mgrid[:n, :n] - (n - 1) / 2
    for image, rotation in zip(images, rotations):
        seen = np.array(POSITIONS) @ rotation  # the grid turns by the rotation, so the particle turns back
        # a sum along z of a Gaussian ball; linear interpolation widens it by up to 1/4 of a squared voxel an axis
        expected = sum(
            w * np.sqrt(2 * np.pi) * 2 * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 8)
            for w, (a, b, _) in zip(WEIGHTS, seen)
        )
        assert np.abs(image / 3.0 - expected).max() < 0.08 * expected.max()
        assert np.corrcoef(image.ravel(), expected.ravel())[0, 1] > 0.998
        assert image.sum() == pytest.approx(specimen.density.sum() * 3.0, rel=1e-3)


def test_without_rotation_a_projection_is_the_sum_along_z():
    odd = Specimen("balls", balls(31, POSITIONS), 2.0, 50.0)
    image = project(odd, np.eye(3, dtype=np.float32)[None])[0]
    assert image == pytest.approx(odd.density.sum(0) * 2.0, abs=1e-3)
    even = Specimen("balls", balls(32, POSITIONS), 2.0, 50.0)  # its centre moves by half a voxel, to (n - 1) / 2
    expected = ndimage.shift(even.density.sum(0) * 2.0, -0.5, order=1)
    assert project(even, np.eye(3, dtype=np.float32)[None])[0] == pytest.approx(
        expected, abs=0.01 * float(expected.max())
    )


def test_rotations_are_uniform_and_repeatable():
    first, second = (random_rotations(2000, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, second)
    assert first @ first.transpose(0, 2, 1) == pytest.approx(np.broadcast_to(np.eye(3), first.shape), abs=1e-5)
    assert np.linalg.det(first) == pytest.approx(np.ones(2000), abs=1e-5)
    assert np.abs(first.mean(0)).max() < 0.06
    assert (first**2).mean(0) == pytest.approx(np.full((3, 3), 1 / 3), abs=0.03)


@pytest.mark.parametrize("rotation", [Rotation.from_euler("z", 90, degrees=True), Rotation.from_euler("y", 180, True)])
def test_right_angles(rotation):
    specimen = Specimen("balls", balls(31, POSITIONS, weights=WEIGHTS), 1.0, 50.0)
    plain, turned = project(specimen, np.stack([np.eye(3), rotation.as_matrix()]).astype(np.float32))
    same = (np.rot90(plain, 1), np.rot90(plain, -1)) if rotation.as_matrix()[2, 2] > 0 else (plain[:, ::-1],)
    assert min(np.abs(turned - view).max() for view in same) < 1e-3


@pytest.mark.parametrize("pixel_size", [2.0, 4.0, 5.3])
def test_truth_lies_on_the_particles(pixel_size):
    scene = replace(NOTHING, coverage=0.2, crowding=1.0)
    shape = (int(1400 / pixel_size), int(2000 / pixel_size))
    image, truth = simulate_micrograph([STACK], scene, shape, pixel_size, seed=4)
    assert len(truth.x) > 20
    r = int(60 / pixel_size)
    boxes = []
    for x, y in zip(truth.x, truth.y):
        if r < x < shape[1] - 1 - r and r < y < shape[0] - 1 - r:
            at = np.mgrid[-r : r + 1, -r : r + 1] + np.array([y, x])[:, None, None]
            boxes.append(ndimage.map_coordinates(image, at, order=1))
    mean = np.mean(boxes, axis=0)
    depth = np.clip(np.median(mean[0]) - mean, 0, None)
    yy, xx = np.mgrid[-r : r + 1, -r : r + 1]
    depth[np.hypot(xx, yy) > 0.8 * r] = 0
    assert mean[r - 1 : r + 2, r - 1 : r + 2].mean() < np.median(image) * 0.995
    assert abs((depth * xx).sum() / depth.sum()) < 0.5
    assert abs((depth * yy).sum() / depth.sum()) < 0.5


def test_each_particle_has_its_truth():
    """One by one, with a single view whose centre of mass is known."""
    scene = replace(NOTHING, coverage=0.05, crowding=2.0, optics=replace(NOTHING.optics, amplitude_contrast=1.0))
    image, truth = simulate_micrograph([lopsided_stack(views=1)], scene, (300, 340), 4.0, seed=1)
    dark = ndimage.gaussian_filter(image.max() - image, 2)
    labels, count = ndimage.label(dark > 0.3 * dark.max())
    found = np.array(ndimage.center_of_mass(dark, labels, range(1, count + 1)))[:, ::-1]
    inner = found[(found > 25).all(1) & (found[:, 0] < 315) & (found[:, 1] < 275)]
    assert len(inner) > 3
    for x, y in inner:
        assert np.hypot(truth.x - x, truth.y - y).min() < 1.5


@pytest.mark.parametrize("seed", [0, 7])
def test_the_same_seed_gives_the_same_bytes(seed):
    scene = Scene(coverage=0.2, ice_blobs=2, rings=1, gold=2, aggregates=1, carbon=0.2, crystalline=0.3, gradient=0.2)
    runs = [simulate_micrograph([STACK], scene, (150, 190), 5.0, seed) for _ in range(2)]
    assert np.array_equal(runs[0][0], runs[1][0])
    for f in fields(runs[0][1]):
        assert np.array_equal(getattr(runs[0][1], f.name), getattr(runs[1][1], f.name)), f.name
    assert not np.array_equal(runs[0][0], simulate_micrograph([STACK], scene, (150, 190), 5.0, seed + 1)[0])
    image, truth = runs[0]
    assert image.shape == truth.junk.shape == (150, 190) and image.dtype == np.float32


def test_with_every_ingredient_at_zero_there_is_nothing():
    image, truth = simulate_micrograph([STACK], NOTHING, (100, 120), 5.0, 0)
    assert image == pytest.approx(np.full(image.shape, 1e9 * 25), rel=1e-4)
    assert len(truth.x) == len(truth.name) == 0
    assert not truth.junk.any()
    image, _ = simulate_micrograph([STACK], replace(NOTHING, dose=0.0), (100, 120), 5.0, 0)
    assert not image.any()


@pytest.mark.parametrize(
    ("ingredient", "value", "is_junk"),
    [
        ("coverage", 0.3, False),
        ("structural_noise", 1.0, False),
        ("gradient", 0.3, False),
        ("ice_blobs", 6, True),
        ("rings", 4, True),
        ("gold", 12, True),
        ("aggregates", 3, True),
        ("carbon", 0.5, True),
        ("crystalline", 1.0, True),
    ],
)
def test_each_ingredient_alone(ingredient, value, is_junk):
    image, truth = simulate_micrograph([STACK], replace(NOTHING, **{ingredient: value}), (200, 240), 5.0, 2)
    assert np.isfinite(image).all()
    assert image.std() / image.mean() > 0.002
    assert truth.junk.any() == is_junk
    assert (len(truth.x) > 0) == (ingredient == "coverage")
    if ingredient == "carbon":
        assert truth.junk.mean() == pytest.approx(0.5, abs=0.3)


def test_crystalline_ice_shows_its_lattice():
    scene = replace(NOTHING, crystalline=1.0, optics=replace(NOTHING.optics, b_factor=20))
    image, truth = simulate_micrograph([STACK], scene, (512, 512), 1.5, 2)
    assert truth.junk.all()
    window = np.hanning(512)[:, None] * np.hanning(512)
    power = np.abs(np.fft.rfft2((image / image.mean() - 1) * window)) ** 2
    s = np.hypot(np.fft.fftfreq(512, 1.5)[:, None], np.fft.rfftfreq(512, 1.5))
    ring, beside = (power[(s > 1 / coarsest) & (s < 1 / finest)] for coarsest, finest in ((4.0, 3.4), (5.5, 4.3)))
    assert ring.max() > 100 * beside.max()
    assert np.median(ring) < 0.01 * ring.max()  # spots


def test_gold_beads_are_cut_at_the_frame_and_cost_their_own_area():
    image, truth = simulate_micrograph([STACK], replace(NOTHING, gold=3000), (600, 640), 8.0, 2)
    assert np.isfinite(image).all()
    assert truth.junk.mean() > 0.2
    edges = [truth.junk[0], truth.junk[-1], truth.junk[:, 0], truth.junk[:, -1]]
    assert all(edge.any() for edge in edges)


def test_without_contrast_particles_are_not_seen():
    scene = replace(NOTHING, coverage=0.3, contrast=0.0)
    image, _ = simulate_micrograph([STACK], scene, (100, 120), 5.0, 0)
    assert image.std() / image.mean() < 1e-3


def test_noise_follows_dose_and_efficiency():
    for dose, efficiency in ((20, 1.0), (80, 0.4)):
        scene = replace(NOTHING, dose=dose, detector_efficiency=efficiency)
        image, _ = simulate_micrograph([], scene, (200, 220), 2.0, 0)
        assert image.mean() == pytest.approx(dose * 4, rel=0.01)
        assert image.var() == pytest.approx(dose * 4 / efficiency, rel=0.03)


def test_few_electrons_are_counted_one_by_one():
    scene = replace(NOTHING, dose=2.0, detector_efficiency=0.5)
    image, _ = simulate_micrograph([], scene, (400, 420), 0.5, 0)
    counted = image * 0.5
    assert counted.min() > -1e-3 and np.abs(counted - counted.round()).max() < 1e-3
    assert image.mean() == pytest.approx(0.5, rel=0.02)
    assert image.var() == pytest.approx(0.5 / 0.5, rel=0.03)
    assert (counted.round() == 0).mean() == pytest.approx(np.exp(-0.25), abs=0.01)


@pytest.mark.parametrize(("crowding", "clusters"), [(0.7, 0.6), (1.0, 0.0), (1.3, 0.5)])
def test_particles_keep_their_distance(crowding, clusters):
    small = lopsided_stack(diameter=70.0)
    scene = replace(NOTHING, coverage=0.35, crowding=crowding, clusters=clusters)
    _, truth = simulate_micrograph([STACK, replace(small, name="small")], scene, (400, 400), 4.0, 3)
    assert set(truth.name) == {"lopsided", "small"}
    d = truth.diameter / 4.0
    gap = np.hypot(truth.x[:, None] - truth.x, truth.y[:, None] - truth.y) - crowding * (d[:, None] + d) / 2
    np.fill_diagonal(gap, np.inf)
    assert gap.min() > -1.0  # centres are moved to the pixel grid
    if clusters:
        assert gap.min() < 0.2 * 25


def test_coverage_is_the_share_of_the_area():
    scene = replace(NOTHING, coverage=0.25, crowding=0.9)
    _, truth = simulate_micrograph([STACK], scene, (700, 900), 4.0, 3)
    assert (np.pi / 4 * (truth.diameter / 4.0) ** 2).sum() / (700 * 900) == pytest.approx(0.25, rel=0.12)
    assert ((truth.x >= 0) & (truth.x <= 899) & (truth.y >= 0) & (truth.y <= 699)).all()


def test_particles_on_junk_are_no_truth():
    scene = replace(NOTHING, coverage=0.3, carbon=0.5, gold=5)
    _, truth = simulate_micrograph([STACK], scene, (400, 500), 4.0, 5)
    _, all_of_them = simulate_micrograph([STACK], replace(scene, carbon=0, gold=0), (400, 500), 4.0, 5)
    assert 0 < len(truth.x) < 0.8 * len(all_of_them.x)
    assert not truth.junk[truth.y.round().astype(int), truth.x.round().astype(int)].any()
