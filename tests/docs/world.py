"""The files that the documentation's commands name: small, and real where it matters.

Micrographs are parts of the sample that comes with the program, turned over so that no two are the same; their labels
are the sample's true centres.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

import mrcfile
import numpy as np

from cryosegnet_ext import Picks, read_micrograph, read_picks
from cryosegnet_ext.cli import main
from cryosegnet_ext.files.picks import write_cs
from tests.docs import published
from tests.docs.docs_commands import ROOT

DATA = ROOT / "cryosegnet_ext" / "data"
PIXEL_SIZE, DIAMETER = 2.0, 165.0
SIDE = 640

#: Writes files below the folder of a page.
Builder = Callable[[Path], None]


@cache
def _sample() -> tuple[np.ndarray, np.ndarray]:
    """The sample and (n, 2) of x, y."""
    truth = read_picks(DATA / "sample_truth.star")
    return read_micrograph(DATA / "sample.mrc").data, np.c_[truth.x, truth.y]


@cache
def view(number: int, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """A part of the sample (``side`` x ``side``) and its true centres, (n, 2) of x, y."""
    image, centres = _sample()
    rng = np.random.default_rng([7, number])
    # The left of the sample is carbon and ice.
    y, x = int(rng.integers(0, image.shape[0] - side)), int(rng.integers(250, image.shape[1] - side))
    part, found = image[y : y + side, x : x + side], centres - (x, y)
    if number % 2:
        part, found = part[:, ::-1], np.c_[side - 1 - found[:, 0], found[:, 1]]
    if number % 4 > 1:
        part, found = part[::-1], np.c_[found[:, 0], side - 1 - found[:, 1]]
    return np.ascontiguousarray(part), found[((found > 0) & (found < side - 1)).all(axis=1)]


def write_micrograph(path: Path, number: int, pixel_size: float = PIXEL_SIZE, side: int = SIDE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(view(number, side)[0])
        mrc.voxel_size = pixel_size


def centres(number: int, score: float = 1.0) -> Picks:
    """The true centres as picks."""
    x, y = view(number)[1].T
    return Picks(x, y, np.full(len(x), DIAMETER), np.full(len(x), score), PIXEL_SIZE, (SIDE, SIDE))


def micrographs(*names: str, pixel_size: float = PIXEL_SIZE, side: int = SIDE) -> Builder:
    """Micrographs of these names; with a smaller pixel size, of smaller particles."""

    def build(folder: Path) -> None:
        for number, name in enumerate(names):
            write_micrograph(folder / name, number, pixel_size, side)

    return build


def labels(*names: str, scale: float = 1.0) -> Builder:
    """A file of true centres for each name, in the format of its suffix."""

    def build(folder: Path) -> None:
        for number, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            found = centres(number)
            Picks(scale * found.x, scale * found.y, found.diameter, found.score).write(folder / name)

    return build


def numbered(pattern: str, count: int, first: int = 1) -> list[str]:
    return [pattern.format(i) for i in range(first, first + count)]


def together(*builders: Builder) -> Builder:
    def build(folder: Path) -> None:
        for builder in builders:
            builder(folder)

    return build


def star(name: str, columns: Sequence[str], rows: Iterable[Sequence[object]], optics: bool = True) -> Builder:
    """A table of RELION 3.1, with an optics group of the micrographs' pixel size."""
    head = (
        "\ndata_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n_rlnMicrographOriginalPixelSize #3\n"
        "_rlnVoltage #4\n_rlnSphericalAberration #5\n_rlnAmplitudeContrast #6\n_rlnMicrographPixelSize #7\n"
        f"opticsGroup1 1 {PIXEL_SIZE} 300 2.7 0.1 {PIXEL_SIZE}\n\n"
    )

    def build(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        loop = "".join(f"_{column} #{i}\n" for i, column in enumerate(columns, 1))
        lines = "".join(" ".join(map(str, row)) + "\n" for row in rows)
        table = "particles" if "rlnCoordinateX" in columns else "micrographs"
        (folder / name).write_text(f"{head if optics else ''}\ndata_{table}\n\nloop_\n{loop}{lines}\n")

    return build


def corrected(name: str, files: Sequence[str]) -> Builder:
    """RELION's list of motion-corrected micrographs, with these."""
    rows = [(file, 1) for file in files]
    return together(micrographs(*files), star(name, ("rlnMicrographName", "rlnOpticsGroup"), rows))


def particles(name: str, files: Sequence[str]) -> Builder:
    """RELION's list of particles, on these micrographs."""
    columns = ("rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnOpticsGroup")
    rows = [(file, f"{x:.1f}", f"{y:.1f}", 1) for i, file in enumerate(files) for x, y in view(i)[1]]
    return star(name, columns, rows)


def locations(name: str, files: Sequence[str]) -> Builder:
    """CryoSPARC's particles on these micrographs, as its motion correction names them."""

    def build(folder: Path) -> None:
        stems = [Path(file).stem for file in files]
        table = {f"J3/motioncorrected/{10**20 + i}_{s}_patch_aligned.mrc": centres(i) for i, s in enumerate(stems)}
        write_cs(table, folder / name)

    return build


def topaz(name: str, stems: Sequence[str]) -> Builder:
    """Topaz's table of picks."""

    def build(folder: Path) -> None:
        rows = [f"{stem}\t{x:.0f}\t{y:.0f}\t1.5\n" for i, stem in enumerate(stems) for x, y in view(i)[1]]
        (folder / name).write_text("image_name\tx_coord\ty_coord\tscore\n" + "".join(rows))

    return build


def text(name: str, content: str) -> Builder:
    def build(folder: Path) -> None:
        (folder / name).write_text(content)

    return build


def picked(name: str, *files: str, side: int = SIDE) -> Builder:
    """What `cryosegnet pick` writes of these micrographs."""

    def build(folder: Path) -> None:
        micrographs(*files, side=side)(folder)
        words = [*files, "-o", name, "--diameter", f"{DIAMETER}", "--device", "cpu", "--quiet"]
        assert main(["pick", *words]) == 0

    return build


def copied(source: str, name: str) -> Builder:
    def build(folder: Path) -> None:
        shutil.copytree(folder / source, folder / name)

    return build


def cryoppp(name: str, stems: Sequence[str]) -> Builder:
    """A data set of CryoPPP, as its archive unpacks; its y counts from the last row."""

    def build(folder: Path) -> None:
        coordinates = folder / name / "ground_truth" / "particle_coordinates"
        coordinates.mkdir(parents=True)
        for number, stem in enumerate(stems):
            write_micrograph(folder / name / "micrographs" / f"{stem}.mrc", number)
            rows = "".join(f"{x:.0f},{SIDE - 1 - y:.0f},{DIAMETER / PIXEL_SIZE:.0f}\n" for x, y in view(number)[1])
            (coordinates / f"{stem}.csv").write_text("X-Coordinate,Y-Coordinate,Diameter\n" + rows)

    return build


def repository(name: str) -> Builder:
    """A file of the repository, in which the documentation has its reader stand."""

    def build(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)

    return build


def published_sam(name: str) -> Builder:
    """A small SAM under the name of a published one; see `published.stand_ins`."""

    def build(folder: Path) -> None:
        (folder / name).write_bytes(published.sam())

    return build


def relion_project(name: str) -> Builder:
    def build(folder: Path) -> None:
        (folder / name).mkdir()
        (folder / name / "default_pipeline.star").write_text("data_pipeline_general\n\n_rlnPipeLineJobCounter 2\n")

    return build


# Specimens


def model(name: str) -> Builder:
    """A compact protein of alanines, as PDB or mmCIF by the suffix, gzipped or not."""

    def build(folder: Path) -> None:
        import gemmi

        rng = np.random.default_rng(len(name))
        chain = gemmi.Chain("A")
        for number, centre in enumerate(_inside_a_ball(rng, 24.0, 5.0), 1):
            residue = gemmi.Residue()
            residue.name, residue.seqid = "ALA", gemmi.SeqId(number, " ")
            for atom_name, element in (("N", "N"), ("CA", "C"), ("C", "C"), ("O", "O"), ("CB", "C")):
                atom = gemmi.Atom()
                atom.name, atom.element, atom.occ, atom.b_iso = atom_name, gemmi.Element(element), 1.0, 20.0
                atom.pos = gemmi.Position(*(centre + rng.normal(0, 1.0, 3)))
                residue.add_atom(atom)
            chain.add_residue(residue)
        structure, one = gemmi.Structure(), gemmi.Model("1")
        one.add_chain(chain)
        structure.add_model(one)
        structure.setup_entities()
        plain = name.removesuffix(".gz")
        content = structure.make_pdb_string() if plain.endswith(".pdb") else structure.make_mmcif_document().as_string()
        (folder / name).write_bytes(gzip.compress(content.encode()) if name != plain else content.encode())

    return build


def _inside_a_ball(rng: np.random.Generator, radius: float, apart: float) -> np.ndarray:
    """(n, 3) places on a lattice inside a ball that is flattened, angstrom."""
    steps = np.arange(-radius, radius + apart, apart)
    grid = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
    kept = grid[(grid**2 * (1, 1, 2)).sum(axis=1) < radius**2]
    return kept + rng.normal(0, 0.5, kept.shape)


def density(name: str) -> Builder:
    """A lopsided map."""

    def build(folder: Path) -> None:
        z, y, x = np.mgrid[:40, :40, :40] - 20.0
        volume = np.exp(-(x**2 + (y / 1.3) ** 2 + z**2) / 60) * (1 + 0.5 * np.sin(x))
        with mrcfile.new(folder / name) as mrc:
            mrc.set_data(volume.astype(np.float32))
            mrc.voxel_size = 4.0

    return build
