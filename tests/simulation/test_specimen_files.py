"""Specimens read from density maps and atomic models."""

from __future__ import annotations

import bz2
import gzip

import mrcfile
import numpy as np
import pytest
from scipy import ndimage

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.simulation.specimens import CONTRAST_VOLT, make_specimen, read_specimen
from tests.simulation.balls import POSITIONS, balls


def write_map(path, data, voxel=2.0):
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(np.asarray(data, np.float32))
        mrc.voxel_size = voxel
    return path


def test_a_map_becomes_a_specimen(tmp_path):
    z, y, x = np.mgrid[:50, :60, :70]
    ball = (((x - 40) ** 2 + (y - 25.5) ** 2 + (z - 22) ** 2) <= 15**2) * 7.0
    ball[2:4, 2:4, 2:4] = 7.0  # dust, which must not count
    specimen = read_specimen(write_map(tmp_path / "ball.v2.mrc", ball))
    assert specimen.name == "ball"
    assert specimen.voxel_size == 2.0
    assert specimen.diameter == pytest.approx(60, abs=2)
    n = len(specimen.density)
    assert specimen.density.shape == (n, n, n)
    assert ndimage.center_of_mass(specimen.density) == pytest.approx([n // 2] * 3, abs=0.1)
    assert specimen.density[specimen.density > 1].mean() == pytest.approx(CONTRAST_VOLT, rel=0.05)
    assert 30 <= n <= 36
    packed = tmp_path / "ball.map.gz"
    packed.write_bytes(gzip.compress((tmp_path / "ball.v2.mrc").read_bytes()))
    assert np.array_equal(read_specimen(packed).density, specimen.density)


def test_the_scale_of_a_map_does_not_matter():
    volume = balls(40, POSITIONS, sigma=4)
    first, second = (make_specimen("balls", volume * gain, 3.0) for gain in (1.0, 1e-4))
    assert first.diameter == pytest.approx(second.diameter)
    assert first.density == pytest.approx(second.density, rel=1e-3, abs=1e-3)


BIOMT = """\
REMARK 350 BIOMOLECULE: 1
REMARK 350 AUTHOR DETERMINED BIOLOGICAL UNIT: DIMERIC
REMARK 350 APPLY THE FOLLOWING TO CHAINS: A
REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000
REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000
REMARK 350   BIOMT1   2 -1.000000  0.000000  0.000000       90.00000
REMARK 350   BIOMT2   2  0.000000 -1.000000  0.000000        0.00000
REMARK 350   BIOMT3   2  0.000000  0.000000  1.000000        0.00000
"""


def pdb_text(assembly="", atoms=600, residue="ALA"):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(atoms, 3))
    points *= (15 * rng.random(atoms) ** (1 / 3) / np.linalg.norm(points, axis=1))[:, None]
    lines = [
        f"ATOM  {i + 1:5d}  CA  {residue:>3s} A{i + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00           C  "
        for i, (x, y, z) in enumerate(points)
    ]
    return assembly + "\n".join([*lines, "END", ""])


def test_an_atomic_model_becomes_its_assembly(tmp_path):
    pytest.importorskip("gemmi")
    (tmp_path / "one.pdb").write_text(pdb_text())
    (tmp_path / "two.pdb").write_text(pdb_text(BIOMT))
    (tmp_path / "two.ent.gz").write_bytes(gzip.compress(pdb_text(BIOMT).encode()))
    one, two, packed = (read_specimen(tmp_path / name, 3.0) for name in ("one.pdb", "two.pdb", "two.ent.gz"))
    assert two.density.sum() == pytest.approx(2 * one.density.sum(), rel=0.05)
    assert one.diameter == pytest.approx(30, abs=8)
    assert two.diameter == pytest.approx(90 + 30, abs=12)  # the two halves are 90 A apart
    assert np.array_equal(packed.density, two.density)


def test_water_does_not_count(tmp_path):
    pytest.importorskip("gemmi")
    dry = pdb_text()
    wet = dry.replace("END", "HETATM 9999  O   HOH A9999     200.000 200.000 200.000  1.00 20.00           O  \nEND")
    for name, text in (("dry.pdb", dry), ("wet.pdb", wet)):
        (tmp_path / name).write_text(text)
    assert np.array_equal(*(read_specimen(tmp_path / n).density for n in ("dry.pdb", "wet.pdb")))


def test_a_map_that_fills_its_box_is_refused(tmp_path):
    """Its box once became the particle: a cube of its size."""
    particle = balls(40, POSITIONS, sigma=4)
    noise = np.random.default_rng(0).normal(size=particle.shape)
    for name, data in {
        "offset": particle + 5,
        "noise": noise,
        "half": particle + 0.3 * noise,
        "one": noise * 0 + 1,
    }.items():
        with pytest.raises(CryoSegNetError, match=f"^{name}: the density fills its box.*that is masked"):
            read_specimen(write_map(tmp_path / f"{name}.mrc", data))
    y, x = np.mgrid[-20:20, -20:20]
    fibre = np.broadcast_to(x**2 + y**2 < 8**2, (40, 40, 40)) + 0.02 * noise
    assert read_specimen(write_map(tmp_path / "fibre.mrc", fibre)).diameter > 60


@pytest.mark.parametrize("voxel", [0, None])
def test_a_map_without_voxel_size_says_how_to_give_it(tmp_path, voxel):
    path = tmp_path / "a.map"
    with mrcfile.new(path) as mrc:
        mrc.set_data(balls(40, POSITIONS, sigma=4).astype(np.float32))
        if voxel is not None:
            mrc.voxel_size = voxel
    with pytest.raises(CryoSegNetError, match="voxel size of 0 angstrom: write the right one into it, as with relion"):
        read_specimen(path)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.pdb", "HEADER    HYDROLASE               01-JAN-20   1ABC\nEND\n", "holds no atoms: give the whole file"),
        ("b.pdb", "HEADER    HYDROLASE\nMODEL        1\nENDMDL\nEND\n", "holds no atoms: give the whole file"),
        ("c.cif", "data_1ABC\n_entry.id 1ABC\n", "holds no atoms: give the whole file"),
        ("d.pdb", "<html>404 not found</html>\n", "holds no atoms: give the whole file"),
        ("e.cif", "", "is empty: copy or download it again"),
        ("f.pdb", "\n", "is empty: copy or download it again"),
    ],
)
def test_a_model_without_atoms_says_so(tmp_path, name, text, words):
    pytest.importorskip("gemmi")
    (tmp_path / name).write_text(text)
    with pytest.raises(CryoSegNetError, match=words):
        read_specimen(tmp_path / name)


@pytest.mark.parametrize("suffix", [".ccp4", ".CCP4", ".map.bz2", ".mrc.bz2", ".ccp4.gz", ".ccp4.bz2", ".MRC.GZ"])
def test_maps_under_other_names(tmp_path, suffix):
    volume = balls(30, POSITIONS)
    plain = write_map(tmp_path / "plain.mrc", volume)
    pack = {".gz": gzip.compress, "bz2": bz2.compress}.get(suffix.lower()[-3:], bytes)
    (tmp_path / f"a{suffix}").write_bytes(pack(plain.read_bytes()))
    assert np.array_equal(read_specimen(tmp_path / f"a{suffix}").density, read_specimen(plain).density)


@pytest.mark.parametrize(
    "suffix", [".mmcif", ".mmcif.gz", ".cif.bz2", ".PDB", ".pdb.bz2", ".ent.gz", ".PDB.GZ", ".CIF.Gz"]
)
def test_models_under_other_names(tmp_path, suffix):
    gemmi = pytest.importorskip("gemmi")
    text = pdb_text()
    (tmp_path / "plain.pdb").write_text(text)
    if "cif" in suffix.lower():
        text = gemmi.read_pdb_string(text).make_mmcif_document().as_string()
    pack = {".gz": gzip.compress, "bz2": bz2.compress}.get(suffix.lower()[-3:], bytes)
    (tmp_path / f"a{suffix}").write_bytes(pack(text.encode()))
    found, plain = read_specimen(tmp_path / f"a{suffix}"), read_specimen(tmp_path / "plain.pdb")
    assert found.diameter == pytest.approx(plain.diameter, abs=0.1)
    assert found.density == pytest.approx(plain.density, abs=0.05)


def test_mmcif_with_blocks_of_ligands(tmp_path):
    gemmi = pytest.importorskip("gemmi")
    model = gemmi.read_pdb_string(pdb_text()).make_mmcif_document().as_string()
    ligand = "data_comp_LIG\nloop_\n_chem_comp_atom.comp_id\n_chem_comp_atom.atom_id\nLIG C1\nLIG C2\n"
    (tmp_path / "plain.cif").write_text(model)
    (tmp_path / "more.cif").write_text(f"{ligand}\n{model}")
    assert np.array_equal(read_specimen(tmp_path / "more.cif").density, read_specimen(tmp_path / "plain.cif").density)
    (tmp_path / "two.cif").write_text(model + model.replace(model.split()[0], "data_second"))
    with pytest.raises(CryoSegNetError, match="2 models with atoms"):
        read_specimen(tmp_path / "two.cif")


def bad_files():
    def truncated_map(path):
        write_map(path, balls(30, POSITIONS))
        path.write_bytes(path.read_bytes()[:40_000])

    def nan_map(path):
        data = write_map(path, np.ones((20, 20, 20))).read_bytes()
        path.write_bytes(data[:1024] + np.full(8000, np.nan, np.float32).tobytes())

    def truncated_gzip(path):
        path.write_bytes(gzip.compress(np.random.default_rng(0).bytes(50_000))[:20_000])

    def damaged_gzip(path):
        packed = bytearray(gzip.compress(np.random.default_rng(0).bytes(50_000)))
        packed[200:300] = bytes(100)
        path.write_bytes(packed)

    def text(content):
        return lambda path: path.write_text(content)

    return {
        "missing.mrc": lambda path: None,
        "empty.mrc": text(""),
        "text.mrc": text("not a map\n" * 300),
        "short.map": truncated_map,
        "short.map.gz": truncated_gzip,
        "damaged.mrc.gz": damaged_gzip,
        "plane.mrc": lambda path: write_map(path, np.ones((40, 40))),
        "nothing.mrc": lambda path: write_map(path, np.zeros((20, 20, 20))),
        "negative.mrc": lambda path: write_map(path, -np.ones((20, 20, 20))),
        "nan.mrc": nan_map,
        "scale.mrc": lambda path: write_map(path, balls(20, POSITIONS), 0.0),
        "table.txt": text("x y z\n"),
        "empty.pdb": text(""),
        "prose.pdb": text("This is no model.\n"),
        "water.pdb": text(pdb_text(atoms=3, residue="HOH")),
        "short.pdb.gz": truncated_gzip,
        "empty.cif": text(""),
        "prose.cif": text("This is no model.\n"),
        "blank.cif": text("data_nothing\n#\n"),
        "blocks.cif": text("data_a\n_x.y 1\ndata_b\n_x.y 2\n"),
    }


@pytest.mark.parametrize("name", list(bad_files()))
def test_bad_files_are_explained(tmp_path, name):
    if ".pdb" in name or ".cif" in name:
        pytest.importorskip("gemmi")
    path = tmp_path / name
    bad_files()[name](path)
    with pytest.raises(CryoSegNetError) as caught:
        read_specimen(path)
    message = str(caught.value)
    assert name.split(".")[0] in message
    assert "\n" not in message and message.endswith(".")
