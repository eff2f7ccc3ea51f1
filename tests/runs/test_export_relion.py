"""``cryosegnet export --relion``: picks of CryoSPARC and others for RELION's Extract."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile

from cryosegnet_ext.cli import main
from cryosegnet_ext.files.picks import Picks, read_picks, write_cs
from cryosegnet_ext.runs.upside_down import fits_upside_down
from tests.files.helpers import picture, write_mrc, written

SHAPE = (200, 240)
BOX = 16
UID = "002345678901234567890_"
ADDED = "_patch_aligned_doseweighted.mrc"
STEMS = ("FoilHole_1_fractions", "a.b_2")


def picks_of(seed: int, shape: tuple[int, int] = SHAPE, count: int = 12) -> Picks:
    """Whole pixels whose boxes lie inside."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(BOX, shape[1] - BOX, count), rng.integers(BOX, shape[0] - BOX, count)
    return Picks(x, y, np.full(count, 20.0), rng.uniform(0.1, 0.9, count), 1.5, shape)


class World:
    """A RELION project, and the picks of CryoSPARC on the same micrographs."""

    def __init__(self, folder: Path, suffix: str = ".mrc") -> None:
        self.folder = folder
        self.names = [f"MotionCorr/job002/Movies/{stem}{suffix}" for stem in STEMS]
        self.star = folder / "CtfFind/job003/micrographs_ctf.star"
        for seed, name in enumerate(self.names):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if suffix == ".mrc":
                write_mrc(path, np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32))
        self.star.parent.mkdir(parents=True)
        rows = "".join(f"{name} 1\n" for name in self.names)
        optics = "data_optics\n\nloop_\n_rlnOpticsGroupName\n_rlnOpticsGroup\n_rlnMicrographPixelSize\n_rlnVoltage\n"
        optics += "_rlnSphericalAberration\n_rlnAmplitudeContrast\nopticsGroup1 1 1.5 300 2.7 0.1\n\n"
        head = "data_micrographs\n\nloop_\n_rlnMicrographName\n_rlnOpticsGroup\n"
        self.star.write_text(f"{optics}{head}{rows}")

    def cs(self, picks: dict[str, Picks] | None = None) -> Path:
        """What CryoSPARC leaves: paths of its own job, a uid before each name, and what was done after it."""
        table = picks or {stem: picks_of(seed) for seed, stem in enumerate(STEMS)}
        write_cs({f"J12/motioncorrected/{UID}{stem}{ADDED}": p for stem, p in table.items()}, self.folder / "p.cs")
        return self.folder / "p.cs"

    def export(self, *words: object, picks: Path | None = None) -> int:
        source = [picks or self.cs(), "--relion", self.star, "-o", self.folder / "Import/from_cs", *words]
        return main(["export", *map(str, source)])

    def coordinates(self, stem: str) -> Picks:
        return read_picks(self.folder / f"Import/from_cs/Movies/{stem}_autopick.star")

    def extract(self, *words: str) -> list[tuple[str, int, int, float, np.ndarray]]:
        """What the real RELION cuts out: micrograph, x, y, figure of merit and box."""
        command = ["relion_preprocess", "--i", str(self.star.relative_to(self.folder)), *words, "--extract"]
        command += ["--part_dir", "Extract/", "--part_star", "Extract/p.star", "--extract_size", str(BOX)]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)
        rows = starfile.read(self.folder / "Extract/p.star", always_dict=True)["particles"].to_dict("records")
        found = []
        for row in rows:
            number, _, stack = row["rlnImageName"].partition("@")
            with mrcfile.open(self.folder / stack, permissive=True) as mrc:
                box = mrc.data.reshape(-1, BOX, BOX)[int(number) - 1].copy()
            place = int(row["rlnCoordinateX"]), int(row["rlnCoordinateY"])
            found.append((row["rlnMicrographName"], *place, float(row["rlnAutopickFigureOfMerit"]), box))
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def same(found: Picks, wanted: Picks) -> bool:
    return found.x.tolist() == wanted.x.tolist() and found.y.tolist() == wanted.y.tolist()


def test_a_cs_file_becomes_what_extract_takes(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.export() == 0
    for seed, stem in enumerate(STEMS):
        assert same(world.coordinates(stem), picks_of(seed))
        assert world.coordinates(stem).score == pytest.approx(picks_of(seed).score, abs=1e-6)
    rows = starfile.read(world.folder / "Import/from_cs/autopick.star")
    assert rows["rlnMicrographName"].tolist() == world.names
    assert rows["rlnMicrographCoordinates"].tolist() == [
        f"Import/from_cs/Movies/{stem}_autopick.star" for stem in STEMS
    ]
    old = (world.folder / "Import/from_cs/coords_suffix_autopick.star").read_text()
    assert old == "CtfFind/job003/micrographs_ctf.star\n"
    said = capsys.readouterr().out
    assert "24 picks on 2 of 2 micrographs" in said and "Import/from_cs/autopick.star (RELION 4, 5)" in said


@pytest.mark.relion
@pytest.mark.skipif(shutil.which("relion_preprocess") is None, reason="RELION is not installed")
def test_the_real_extract_cuts_out_the_pixels_under_the_picks(world: World) -> None:
    assert world.export() == 0
    found = world.extract("--coord_dir", "Import/from_cs/", "--coord_suffix", "_autopick.star")
    assert len(found) == 24
    for name, x, y, score, box in found:
        wanted = picks_of(world.names.index(name))
        i = np.flatnonzero((wanted.x == x) & (wanted.y == y))[0]
        assert score == pytest.approx(wanted.score[i], abs=1e-5)
        with mrcfile.open(world.folder / name) as mrc:
            cut = mrc.data[y - BOX // 2 : y + BOX // 2, x - BOX // 2 : x + BOX // 2]
        assert np.corrcoef(cut.ravel(), box.ravel())[0, 1] > 0.999


def test_from_inside_the_project(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.folder)
    world.cs()
    words = ["export", "p.cs", "--relion", "CtfFind/job003/micrographs_ctf.star", "-o", "cs"]
    assert main(words) == 0
    assert starfile.read("cs/autopick.star")["rlnMicrographCoordinates"][0] == f"cs/Movies/{STEMS[0]}_autopick.star"
    assert main([*words[:-1], str(world.folder.parent / "elsewhere")]) == 0
    listed = starfile.read(world.folder.parent / "elsewhere/autopick.star")["rlnMicrographCoordinates"][0]
    assert Path(listed).is_absolute() and Path(listed).exists()


def test_micrographs_that_cryosparc_cropped_are_scaled(world: World) -> None:
    half = (SHAPE[0] // 2, SHAPE[1] // 2)
    small = {stem: picks_of(seed, half) for seed, stem in enumerate(STEMS)}
    assert world.export(picks=world.cs(small)) == 0
    for stem, picks in small.items():
        assert np.abs(world.coordinates(stem).x - (2 * picks.x + 0.5)).max() <= 0.5


def test_micrographs_of_another_shape_are_refused(world: World, caplog: pytest.LogCaptureFixture) -> None:
    turned = {STEMS[0]: picks_of(0, (SHAPE[1], SHAPE[0])), STEMS[1]: picks_of(1)}
    assert world.export(picks=world.cs(turned)) == 2
    assert "240 x 200 pixels, but its picks were made on 200 x 240" in caplog.text
    assert len(world.coordinates(STEMS[0])) == 0 and len(world.coordinates(STEMS[1])) == 12


def test_flip_y(world: World) -> None:
    assert world.export("--flip-y") == 0
    for seed, stem in enumerate(STEMS):
        assert world.coordinates(stem).y.tolist() == (SHAPE[0] - 1 - picks_of(seed).y).tolist()


def test_what_is_missing_on_either_side_is_counted_and_named(world: World, caplog: pytest.LogCaptureFixture) -> None:
    table = {STEMS[0]: picks_of(0), "other_7": picks_of(1), "other_8": picks_of(2)}
    assert world.export(picks=world.cs(table)) == 2
    assert "2 of 3 micrographs with picks (24 picks) left out" in caplog.text and "other_8" in caplog.text
    assert "1 of 2 micrographs got no picks" in caplog.text and world.names[1] in caplog.text
    assert len(world.coordinates(STEMS[1])) == 0  # a file of its own: without one Extract 5 skips it silently


def test_nothing_that_matches_is_an_error_with_a_name_of_each_side(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    assert world.export(picks=world.cs({"other": picks_of(0)})) == 3
    assert f"{UID}other{ADDED}" in caplog.text and world.names[0] in caplog.text
    assert not (world.folder / "Import").exists()


def test_picks_outside_the_micrograph_are_left_out_and_counted(world: World, caplog: pytest.LogCaptureFixture) -> None:
    picks = Picks([50, -30, 239.4, 239.6], [60, 60, 199.4, 60], np.full(4, 20.0), np.ones(4), 1.5, SHAPE)
    assert world.export(picks=world.cs({stem: picks for stem in STEMS})) == 0
    assert world.coordinates(STEMS[0]).x.tolist() == [50, 239]
    assert "4 picks outside the micrograph left out" in caplog.text


def test_micrographs_that_differ_in_their_job_only_are_refused(world: World, caplog: pytest.LogCaptureFixture) -> None:
    text = world.star.read_text()
    world.star.write_text(text + f"MotionCorr/job009/Movies/{STEMS[0]}.mrc 1\n")
    assert world.export() == 3
    assert "differ in their job or suffix only" in caplog.text


def test_tiff_micrographs_as_relion_reads_them(tmp_path: Path) -> None:
    world = World(tmp_path, ".tif")
    assert world.export("--shape", *SHAPE) == 0
    assert world.coordinates(STEMS[0]).y.tolist() == (SHAPE[0] - 1 - picks_of(0).y).tolist()


def test_other_formats_and_micrographs_that_are_gone(world: World, caplog: pytest.LogCaptureFixture) -> None:
    (world.folder / world.names[0]).unlink()
    text = f"image_name\tx_coord\ty_coord\tscore\n{STEMS[0]}\t50\t60\t-1.5\n{STEMS[1]}\t10\t20\t2\n"
    assert world.export(picks=written(world.folder / "topaz.txt", text)) == 0
    assert world.coordinates(STEMS[0]).x.tolist() == [50]
    assert "could not be read" in caplog.text and STEMS[0] in caplog.text


def test_an_input_is_never_written_over(world: World, caplog: pytest.LogCaptureFixture) -> None:
    assert world.export() == 0
    before = world.coordinates(STEMS[0])
    assert world.export("--flip-y", picks=world.folder / "Import/from_cs") == 3
    assert "choose another --output" in caplog.text
    assert same(world.coordinates(STEMS[0]), before)


def test_bad_arguments(world: World, caplog: pytest.LogCaptureFixture) -> None:
    assert world.export("--to", "star") == 1
    assert world.export("--box-size", 64) == 1
    world.star.write_text("data_\n\nloop_\n_rlnMicrographMovieName\nm.tiff\n")
    assert world.export() == 3
    assert "lists movies" in caplog.text


@pytest.mark.parametrize("sign", [-1, 1])
def test_micrographs_that_lie_upside_down_are_noticed(
    world: World, caplog: pytest.LogCaptureFixture, sign: int
) -> None:
    """As when CryoSPARC corrected the motion for its picks, and RELION for its own micrographs."""
    for seed, name in enumerate(world.names):
        picks, image = picks_of(seed), np.random.default_rng(seed).normal(size=SHAPE)
        yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
        for x, y in zip(picks.x, picks.y):
            image += sign * ((xx - x) ** 2 + (yy - y) ** 2 < 36)
        write_mrc(world.folder / name, image[::-1].astype(np.float32))
    assert world.export() == 0
    assert "mirrored top to bottom" in caplog.text and "again with --flip-y" in caplog.text
    caplog.clear()
    assert world.export("--flip-y") == 0
    assert "mirrored" not in caplog.text


def test_few_picks_and_noise_decide_nothing(tmp_path: Path) -> None:
    path = write_mrc(tmp_path / "a.mrc", picture(shape=SHAPE))
    assert not fits_upside_down([(path, picks_of(0, count=300))])
    assert not fits_upside_down([(path, picks_of(0, count=3))])
    assert not fits_upside_down([(tmp_path / "gone.mrc", picks_of(0, count=300))])
