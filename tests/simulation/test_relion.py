"""Truth that the real RELION agrees with: extraction, CTF and orientations give the input map back, hand included."""

from __future__ import annotations

import shutil
import subprocess

import mrcfile
import numpy as np
import pytest
from scipy import ndimage

from cryosegnet_ext.cli import main
from tests.waiting import LIMIT

PROGRAMS = ("relion_preprocess", "relion_reconstruct")
pytestmark = [
    pytest.mark.relion,
    pytest.mark.skipif(
        any(shutil.which(program) is None for program in PROGRAMS), reason="RELION (relion_preprocess) is not installed"
    ),
]

VOXEL, BOX = 4.0, 64


def chiral_map(path):
    """A helix of balls that grow: no symmetry, and unlike its mirror image."""
    z, y, x = np.mgrid[:48, :48, :48] - 24.0
    volume = np.zeros_like(x)
    for i in range(14):
        a, b, c = 11 * np.cos(0.75 * i), 11 * np.sin(0.75 * i), 2.0 * i - 13
        volume += (0.6 + 0.06 * i) * np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * 1.6**2))
    with mrcfile.new(path) as mrc:
        mrc.set_data(volume.astype(np.float32))
        mrc.voxel_size = VOXEL
    return path


def relion(folder, *command):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def read(path):
    with mrcfile.open(path) as mrc:
        assert float(mrc.voxel_size.x) == pytest.approx(VOXEL)
        return np.array(mrc.data)


def correlation(first, second):
    """Within the particle, both low-passed to about 20 A: what is finer is noise in so few particles."""
    first, second = (ndimage.gaussian_filter(volume, 1.2) for volume in (first, second))
    z, y, x = np.mgrid[:BOX, :BOX, :BOX] - BOX // 2
    inside = x**2 + y**2 + z**2 < 24**2
    return float(np.corrcoef(first[inside], second[inside])[0, 1])


def shells(first, second):
    """Fourier shell correlation, shells of one pixel."""
    f, g = np.fft.fftn(first), np.fft.fftn(second)
    k = np.fft.fftfreq(BOX, 1 / BOX)
    r = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2).round().astype(int).ravel()
    cross, one, two = (np.bincount(r, (v.real).ravel())[: BOX // 2] for v in (f * g.conj(), f * f.conj(), g * g.conj()))
    return cross / np.sqrt(one * two)


def reconstruct(folder, name, table):
    relion(folder, "relion_reconstruct", "--i", table, "--o", name, "--ctf", "--pad", "2", "--sym", "C1", "--j", "1")
    return read(folder / name)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("relion")
    chiral_map(folder / "helix.mrc")
    options = "--count 2 --shape 560 640 --pixel-size 4 --coverage 0.35 --crowding 1.1 --dose 400 --gradient 0"
    options += " --defocus 1.2:1.6 --astigmatism 16000 --b-factor 0 --contrast 1 --device cpu --quiet --seed 4"
    assert main(["simulate", str(folder / "helix.mrc"), "-o", str(folder / "sim"), *options.split()]) == 0
    sim = folder / "sim"
    extract = "relion_preprocess --i micrographs.star --coord_dir truth/ --coord_suffix .star --part_dir extract/ "
    extract += f"--part_star particles.star --extract --extract_size {BOX} --norm --bg_radius 28 --invert_contrast"
    relion(sim, *extract.split())
    return sim


@pytest.fixture(scope="module")
def found(project):
    """What RELION reconstructs from its own boxes and the truth's orientations."""
    return reconstruct(project, "map.mrc", "particles.star")


def test_reconstruction_from_the_truth_is_the_input_map(project, found):
    truth = read(project / "specimens" / "helix.mrc")
    first = BOX // 2 - len(truth) // 2  # both centres lie at half the side
    truth = np.pad(truth, ((first, BOX - len(truth) - first),) * 3)
    assert correlation(found, truth) > 0.9
    mirrored = np.roll(truth[::-1], 1, 0)  # the centre lies at index BOX // 2
    assert correlation(found, mirrored) < 0.6
    # Detail of 20 A is right only where the CTF is, with its astigmatism.
    assert shells(found, truth)[3:13].min() > 0.9


def test_a_wrong_astigmatism_is_noticed(project, found):
    """The check above can fail: the same particles with the astigmatism turned by 90 degrees reconstruct worse."""
    lines = (project / "particles.star").read_text().split("\n")
    column = next(int(line.split("#")[1]) - 1 for line in lines if line.startswith("_rlnDefocusAngle"))
    turned = []
    for line in lines:
        words = line.split()
        if "@" in line:
            words[column] = f"{float(words[column]) + 90:.3f}"
            line = " ".join(words)
        turned.append(line)
    (project / "turned.star").write_text("\n".join(turned))
    wrong = reconstruct(project, "turned.mrc", "turned.star")
    assert shells(found, wrong)[14:17].max() < 0.3
