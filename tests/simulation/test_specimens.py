"""Specimens as their files store them: axes, voxels, signs and atoms that are no numbers."""

from __future__ import annotations

import itertools

import mrcfile
import numpy as np
import pytest
from scipy import ndimage

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.simulation.specimens import read_specimen

PLACES, WEIGHTS = [(9, 0, -4), (-6, 7, 3), (0, -10, 6)], [1.0, 0.6, 0.3]


def chiral(sides=(2.0, 2.0, 2.0)):
    """Balls, unlike their mirror image, in 88 x 96 x 104 angstrom (z, y, x), sampled at ``sides`` (z, y, x)."""
    axes = [np.arange(round(length / side)) * side - length / 2 for length, side in zip((88, 96, 104), sides)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    volume = sum(
        w * np.exp(-((x - 2 * a) ** 2 + (y - 2 * b) ** 2 + (z - 2 * c) ** 2) / 72)
        for w, (a, b, c) in zip(WEIGHTS, PLACES)
    )
    return np.asarray(volume, np.float32)


def write_map(path, data, sides=(2.0, 2.0, 2.0), axes=(1, 2, 3), angle=90.0):
    """``data`` (z, y, x) with voxels ``sides`` (z, y, x), its columns, rows and sections along ``axes`` (1 is x)."""
    stored = np.ascontiguousarray(data.transpose([3 - axis for axis in reversed(axes)]))
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(stored)
        mrc.header.mapc, mrc.header.mapr, mrc.header.maps = axes
        mrc.header.mx, mrc.header.my, mrc.header.mz = data.shape[::-1]
        lengths = [n * side for n, side in zip(data.shape, sides)]
        mrc.header.cella.x, mrc.header.cella.y, mrc.header.cella.z = reversed(lengths)
        mrc.header.cellb.beta = angle
    return path


@pytest.mark.parametrize("axes", list(itertools.permutations((1, 2, 3))))
def test_the_axes_of_the_file_do_not_matter(tmp_path, axes):
    plain = read_specimen(write_map(tmp_path / "plain.mrc", chiral()))
    turned = read_specimen(write_map(tmp_path / "turned.mrc", chiral(), axes=axes))
    assert np.array_equal(turned.density, plain.density)
    assert (turned.diameter, turned.voxel_size) == (plain.diameter, plain.voxel_size)


def test_axes_without_numbers_are_the_usual_and_other_numbers_are_refused(tmp_path):
    plain = read_specimen(write_map(tmp_path / "plain.mrc", chiral()))
    path = write_map(tmp_path / "old.mrc", chiral())
    for axes in ((0, 0, 0), (1, 1, 3)):
        with mrcfile.open(path, mode="r+") as mrc:
            mrc.header.mapc, mrc.header.mapr, mrc.header.maps = axes
        if axes == (0, 0, 0):
            assert np.array_equal(read_specimen(path).density, plain.density)
        else:
            with pytest.raises(CryoSegNetError, match="1, 1, 3"):
                read_specimen(path)


@pytest.mark.parametrize("sides", [(4.0, 2.0, 2.0), (2.0, 2.0, 4.0), (2.0, 4.0, 2.0)])
@pytest.mark.parametrize("axes", [(1, 2, 3), (3, 2, 1)])
def test_voxels_that_are_no_cubes_keep_the_shape(tmp_path, sides, axes):
    plain = read_specimen(write_map(tmp_path / "plain.mrc", chiral()))
    flat = read_specimen(write_map(tmp_path / "flat.mrc", chiral(sides), sides, axes))
    assert flat.voxel_size == 2.0
    assert flat.diameter == pytest.approx(plain.diameter, abs=2)
    n = len(plain.density)
    assert abs(len(flat.density) - n) <= 2
    first, second = (
        s.density[tuple(slice(len(s.density) // 2 - 20, len(s.density) // 2 + 20) for _ in range(3))]
        for s in (plain, flat)
    )
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.98
    assert ndimage.center_of_mass(flat.density) == pytest.approx([len(flat.density) // 2] * 3, abs=0.2)


def noisy(volume):
    return volume + np.random.default_rng(0).normal(0, 0.02, volume.shape).astype(np.float32)


@pytest.mark.filterwarnings("ignore:Data array contains:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda v: -v, "-1"),
        (lambda v: noisy(-v), "-1"),
        (lambda v: 5 - v, "-1"),
        (lambda v: np.where(v == v.max(), np.inf, v), "1 of its voxels are not finite"),
        (lambda v: np.where(np.arange(v.shape[2]) == 3, np.nan, v), "not finite"),
    ],
)
def test_maps_that_would_make_a_wrong_particle(tmp_path, change, word):
    path = write_map(tmp_path / "wrong.mrc", np.asarray(change(chiral()), np.float32))
    with pytest.raises(CryoSegNetError, match=word) as caught:
        read_specimen(path)
    assert "wrong.mrc" in str(caught.value)


def test_noise_around_a_map_does_not_make_it_a_negative(tmp_path):
    assert read_specimen(write_map(tmp_path / "noisy.mrc", noisy(chiral()))).diameter > 50


def test_a_skewed_cell_is_refused(tmp_path):
    with pytest.raises(CryoSegNetError, match="right angles"):
        read_specimen(write_map(tmp_path / "skewed.mrc", chiral(), angle=110.0))


def atoms(residue="ALA", x="   1.000", count=30):
    lines = [
        f"ATOM  {i:5d}  CA  {residue:>3s} A{i:4d}    {x if i == 5 else f'{i % 5 * 4:8.3f}'}{i % 3 * 5:8.3f}{i:8.3f}"
        "  1.00 20.00           C  "
        for i in range(1, count + 1)
    ]
    return "\n".join([*lines, "END", ""])


@pytest.mark.parametrize("resolution", [None, 8.0])
@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("nan.pdb", atoms(x="     nan"), "coordinates are not finite"),
        ("far.pdb", atoms(x="99999.00"), "angstrom apart"),
        ("water.pdb", atoms(residue="HOH"), "no atoms but water"),
        ("blank.cif", "data_nothing\n#\n", "no atoms"),
    ],
)
def test_models_that_make_no_particle(tmp_path, name, text, word, resolution):
    pytest.importorskip("gemmi")
    (tmp_path / name).write_text(text)
    with pytest.raises(CryoSegNetError, match=word) as caught:
        read_specimen(tmp_path / name, 4.0, resolution)
    assert name in str(caught.value)
