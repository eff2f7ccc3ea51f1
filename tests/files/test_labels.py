"""Files of labels and picks: which micrograph a name means, and what is read the same by everybody."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from cryosegnet_ext.cli import main
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.evaluation.reading import read_labels, read_set
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.labels import coordinate_files, label_files, match_name, match_names, stem_of
from cryosegnet_ext.files.picks import read_picks
from cryosegnet_ext.training.labels import find_labels
from relion_external.coordinates import ExistingPicks
from tests.training.helpers import write_mrc, write_star

STEMS = ["mic_1", "mic_10", "mic_1_2"]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("mic_001.star", "mic_001"),
        ("AutoPick/job010/Movies/mic_001_autopick.star", "mic_001"),
        ("mic_001_manualpick.star", "mic_001"),
        ("001234567890123456789_mic_001_patch_aligned_doseweighted.mrc", "mic_001"),
        ("20170629_00021_frameImage.mrc", "20170629_00021_frameImage"),
        ("mic_001_mask.png", "mic_001"),
        ("May08_05.55.31.star", "May08_05.55.31"),
        ("picks.star", "picks"),
    ],
)
def test_the_micrograph_in_a_name(name, stem):
    assert stem_of(name) == stem


def test_names_go_to_the_longest_stem_and_numbers_are_no_additions():
    names = ["mic_1.star", "mic_10.star", "mic_1_2.star", "mic_1_weird.star", "mic_1_3.star", "other.star"]
    assert match_names(names, STEMS) == {
        "mic_1.star": "mic_1",
        "mic_10.star": "mic_10",
        "mic_1_2.star": "mic_1_2",
        "mic_1_weird.star": "mic_1",
    }


def test_a_whole_name_comes_before_what_programs_add():
    stems = {"grid", "grid_particles"}
    assert match_name("grid_particles.star", stems) == "grid_particles"
    assert match_name("grid_autopick.star", stems) == "grid"


# --- RELION's lists, wherever coordinates are read --------------------------------------------------------------------

NAMES = ["MotionCorr/job002/Movies/mic_1.mrc", "MotionCorr/job002/Movies/mic_2.mrc"]


def relion_project(folder: Path, version: str, damage: str = "") -> Path:
    """A project with two micrographs and a picking job of RELION; its list of coordinate files."""
    job = folder / "ManualPick/job005"
    (folder / NAMES[0]).parent.mkdir(parents=True)
    (job / "Movies").mkdir(parents=True)
    for i, name in enumerate(NAMES):
        write_mrc(folder / name, np.random.default_rng(i).normal(size=(120, 150)).astype(np.float32))
    mics = folder / "CtfFind/job003/micrographs_ctf.star"
    mics.parent.mkdir(parents=True)
    mics.write_text("data_micrographs\n\nloop_\n_rlnMicrographName #1\n" + "\n".join(NAMES) + "\n")
    for number in (1, 2):
        if damage != "all are gone" and not (damage == "one is gone" and number == 2):
            write_star(job / f"Movies/mic_{number}_manualpick.star", [10.0 * number], [20.0])
    (job / "run.out").write_text("done")
    (job / "job.star").write_text("data_job\n\n_rlnJobTypeLabel relion.manualpick\n_rlnJobIsContinue 0\n")
    if version == "3.1":
        (job / "coords_suffix_manualpick.star").write_text(f"{mics.relative_to(folder)}\n")
        return job / "coords_suffix_manualpick.star"
    rows = "".join(f"{name} ManualPick/job005/Movies/mic_{i}_manualpick.star\n" for i, name in enumerate(NAMES, 1))
    if damage == "cut off":
        rows = rows.rsplit(" ", 1)[0]
    head = "data_coordinate_files\n\nloop_\n_rlnMicrographName #1\n_rlnMicrographCoordinates #2\n"
    (job / "manualpick.star").write_text(head + rows)
    return job / "manualpick.star"


def by_training(project: Path, path: Path) -> dict[str, float]:
    inputs = expand_inputs([project / "MotionCorr"])
    found, unknown = find_labels(inputs, [path])
    assert not unknown
    return {inputs[i].path.stem: float(labels.x[0]) for i, labels in found.items()}


def by_evaluation_as_labels(project: Path, path: Path) -> dict[str, float]:
    return {stem: float(picks.x[0]) for stem, picks in read_labels(label_files(path)).tables.items()}


def by_evaluation_as_picks(project: Path, path: Path) -> dict[str, float]:
    return {stem: float(picks.x[0]) for stem, picks in read_set(path, ["mic_1", "mic_2"]).tables.items()}


def by_export(project: Path, path: Path) -> dict[str, float]:
    out = project / "out"
    if main(["export", str(path), "--to", "csv", "-o", str(out)]) != 0:
        raise CryoSegNetError("export failed")
    return {
        Path(file.stem).stem.removesuffix("_manualpick"): float(read_picks(file).x[0]) for file in out.rglob("*.csv")
    }


def by_in_coords(project: Path, path: Path) -> dict[str, float]:
    existing = ExistingPicks(str(path), NAMES)
    found = {Path(name).stem: existing.of(name) for name in NAMES}
    return {stem: float(picks.x[0]) for stem, picks in found.items() if len(picks)}


READERS = [by_training, by_evaluation_as_labels, by_evaluation_as_picks, by_export, by_in_coords]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("version", ["3.1", "4"])
def test_a_list_of_relion_is_read_everywhere(tmp_path, read, version):
    assert read(tmp_path, relion_project(tmp_path, version)) == {"mic_1": 10.0, "mic_2": 20.0}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("version", ["3.1", "4"])
def test_a_coordinate_file_that_is_gone_is_a_micrograph_that_was_not_picked(tmp_path, read, version):
    assert read(tmp_path, relion_project(tmp_path, version, "one is gone")) == {"mic_1": 10.0}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(("version", "damage"), [("3.1", "all are gone"), ("4", "all are gone"), ("4", "cut off")])
def test_a_list_that_leads_nowhere_is_refused_everywhere(tmp_path, read, version, damage):
    with pytest.raises(CryoSegNetError):
        read(tmp_path, relion_project(tmp_path, version, damage))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("version", ["3.1", "4"])
def test_of_a_job_folder_the_coordinates_are_taken_everywhere(tmp_path, read, version):
    job = relion_project(tmp_path, version).parent
    # An older pick file that the list does not name, and RELION 4's table of the chosen micrographs.
    write_star(job / "Movies/old_manualpick.star", [99.0], [20.0])
    (job / "micrographs_selected.star").write_text(f"data_micrographs\n\nloop_\n_rlnMicrographName #1\n{NAMES[0]}\n")
    assert read(tmp_path, job) == {"mic_1": 10.0, "mic_2": 20.0}
    assert sorted(one.name for one in expand_inputs([job])) == NAMES


@pytest.mark.parametrize("version", ["3.1", "4"])
def test_the_list_of_a_job_names_its_micrographs(tmp_path, version):
    assert sorted(one.name for one in expand_inputs([relion_project(tmp_path, version)])) == NAMES


def test_a_job_that_was_copied_without_its_project_keeps_its_picks(tmp_path):
    job = relion_project(tmp_path / "project", "4").parent
    shutil.copytree(job, tmp_path / "copy")
    shutil.rmtree(tmp_path / "project")
    files, _ = coordinate_files(tmp_path / "copy")
    assert [file.name for file in files] == NAMES


def test_listed_files_that_are_gone_are_said(tmp_path, caplog):
    coordinate_files(relion_project(tmp_path, "4", "one is gone"))
    assert "1 of 2 listed coordinate files not found" in caplog.text and NAMES[1] in caplog.text


def test_relion_counts_y_of_tiff_micrographs_from_the_last_row(tmp_path):
    path = relion_project(tmp_path, "4")
    tiff = NAMES[1].replace(".mrc", ".tif")
    tifffile.imwrite(tmp_path / tiff, np.random.default_rng(0).normal(size=(120, 150)).astype(np.float32))
    path.write_text(path.read_text().replace(NAMES[1], tiff))
    picks = read_set(path, ["mic_1", "mic_2"]).tables
    assert (picks["mic_1"].y.tolist(), picks["mic_2"].y.tolist()) == ([20.0], [99.0])
    (tmp_path / tiff).unlink()
    with pytest.raises(CryoSegNetError, match=r"mic_2\.tif does not exist"):
        read_set(path, ["mic_1", "mic_2"])


@pytest.mark.parametrize("version", ["3.1", "4"])
@pytest.mark.parametrize("given", ["folder", "file"])
def test_files_of_tiff_micrographs_are_known_from_the_list_of_their_job(tmp_path, version, given):
    listing = relion_project(tmp_path, version)
    tiff = NAMES[1].replace(".mrc", ".tif")
    tifffile.imwrite(tmp_path / tiff, np.random.default_rng(0).normal(size=(120, 150)).astype(np.float32))
    for star in tmp_path.rglob("*.star"):
        star.write_text(star.read_text().replace(NAMES[1], tiff))
    (folder,) = {file.parent for file in listing.parent.rglob("mic_2*.star")}
    assert folder != listing.parent
    picks = read_set(folder if given == "folder" else next(folder.glob("mic_2*.star")), ["mic_2"]).tables
    assert picks["mic_2"].y.tolist() == [99.0]


def test_particles_that_relion_extracted_from_tiff_micrographs(tmp_path):
    tiff, star = tmp_path / "Movies/mic_2.tif", tmp_path / "Extract/job005/particles.star"
    for file in (tiff, star):
        file.parent.mkdir(parents=True)
    tifffile.imwrite(tiff, np.random.default_rng(0).normal(size=(120, 150)).astype(np.float32))
    columns = "_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n"
    rows = "Movies/mic_1.mrc 10 20 1@a.mrcs\nMovies/mic_2.tif 10 20 1@b.mrcs\n"
    star.write_text(f"data_particles\n\nloop_\n{columns}_rlnImageName\n{rows}")
    assert {name: p.y.tolist() for name, p in read_set(star, ["mic_1", "mic_2"]).tables.items()} == {
        "mic_1": [20.0],
        "mic_2": [99.0],
    }
    # Other programs' tables, and ours for CryoSPARC, count rows of the file.
    star.write_text(f"data_particles\n\nloop_\n{columns}{rows.replace(' 1@a.mrcs', '').replace(' 1@b.mrcs', '')}")
    assert read_set(star, ["mic_2"]).tables["mic_2"].y.tolist() == [20.0]


def test_a_file_that_is_listed_for_two_micrographs_is_refused(tmp_path):
    path = relion_project(tmp_path, "4")
    path.write_text(path.read_text().replace("mic_2_manualpick", "mic_1_manualpick"))
    with pytest.raises(CryoSegNetError, match=r"mic_1_manualpick.*one of them"):
        coordinate_files(path)


# --- masks ------------------------------------------------------------------------------------------------------------


def by_training_of_masks(folder: Path, shape: tuple[int, int]) -> dict[str, int]:
    (folder / "mics").mkdir()
    for name in ("mic_1", "mic_2"):
        write_mrc(folder / "mics" / f"{name}.mrc", np.random.default_rng(0).normal(size=shape).astype(np.float32))
    inputs = expand_inputs([folder / "mics"])
    found, _ = find_labels(inputs, [folder / "masks"])
    return {inputs[i].path.stem: len(labels) for i, labels in found.items()}


def by_evaluation_of_masks(folder: Path, shape: tuple[int, int]) -> dict[str, int]:
    return {stem: len(picks) for stem, picks in read_labels(label_files(folder / "masks")).tables.items()}


@pytest.mark.parametrize("read", [by_training_of_masks, by_evaluation_of_masks])
@pytest.mark.parametrize("suffix", ["png", "mrc", "bmp"])
def test_an_empty_mask_is_a_micrograph_without_particles_and_a_full_one_is_refused(tmp_path, read, suffix):
    (tmp_path / "masks").mkdir()
    mask = np.zeros((80, 100), np.uint8)

    def write(name: str) -> None:
        path = tmp_path / "masks" / f"{name}_mask.{suffix}"
        write_mrc(path, mask.astype(np.float32)) if suffix == "mrc" else cv2.imwrite(str(path), mask)

    write("mic_1")
    cv2.circle(mask, (30, 40), 9, 255, -1)
    write("mic_2")
    assert read(tmp_path, mask.shape) == {"mic_1": 0, "mic_2": 1}
    mask[:] = 255
    write("mic_1")
    shutil.rmtree(tmp_path / "mics", ignore_errors=True)
    with pytest.raises(CryoSegNetError, match=r"mic_1_mask.*particles cover 100% of the mask"):
        read(tmp_path, mask.shape)


NOISE = np.random.default_rng(3).normal(120, 20, (120, 150))
DISCS = cv2.circle(cv2.circle(np.zeros((120, 150), np.uint8), (40, 50), 9, 255, -1), (100, 70), 9, 255, -1)


@pytest.mark.parametrize("beside", ["b.mrc", "b.png", "b.jpg", "b_PS.mrc", "b.tif", "gt1_b.mrc", "seg-b.png"])
def test_a_micrograph_without_labels_is_not_a_mask(tmp_path, beside):
    write_mrc(tmp_path / "a.mrc", NOISE.astype(np.float32))
    write_star(tmp_path / "a.star", [10.0, 30], [20.0, 40])
    if beside.endswith("mrc"):
        write_mrc(tmp_path / beside, NOISE.astype(np.float32))
    else:
        cv2.imwrite(str(tmp_path / beside), NOISE.astype(np.uint8))
    found = read_labels(label_files(tmp_path))
    assert {stem: len(picks) for stem, picks in found.tables.items()} == {"a": 2}
    assert found.notes == [f"left out, as they are not masks: 1 picture ({tmp_path / beside})."]
    (tmp_path / "a.star").unlink()
    with pytest.raises(CryoSegNetError, match=r"a\.mrc: it is not a mask"):
        read_labels(label_files(tmp_path))


def test_a_damaged_picture_without_labels_does_not_stop_the_others(tmp_path):
    write_star(tmp_path / "a.star", [10.0], [20.0])
    (tmp_path / "b.mrc").write_bytes(b"no image")
    assert list(read_labels(label_files(tmp_path)).tables) == ["a"]
    (tmp_path / "b.mrc").rename(tmp_path / "b_mask.mrc")
    with pytest.raises(CryoSegNetError, match="b_mask"):
        read_labels(label_files(tmp_path))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.mrc"])
def test_a_mask_is_known_by_its_pixels_also_beside_its_micrograph(tmp_path, name):
    if name == "a.mrc":
        write_mrc(tmp_path / name, DISCS.astype(np.float32))
    else:
        write_mrc(tmp_path / "a.mrc", NOISE.astype(np.float32))
        cv2.imwrite(str(tmp_path / name), DISCS)
    assert len(read_labels(label_files(tmp_path)).tables["a"]) == 2


@pytest.mark.parametrize("read", [by_evaluation_as_labels, by_evaluation_as_picks])
def test_tables_of_the_motion_are_not_picks(tmp_path, read):
    motion = "data_general\n\n_rlnMicrographBinning 1.0\n\ndata_hot_pixels\n\nloop_\n_rlnCoordinateX #1\n"
    motion += "_rlnCoordinateY #2\n7 8\n\n"
    (tmp_path / "mic_1.star").write_text(motion)
    write_star(tmp_path / "mic_2.star", [10.0], [20.0])
    assert read(tmp_path, tmp_path) == {"mic_2": 10.0}
    with pytest.raises(CryoSegNetError, match="data_hot_pixels"):
        read(tmp_path, tmp_path / "mic_1.star")


def test_a_table_in_latin_1_belongs_to_its_micrographs(tmp_path: Path) -> None:
    """Names in Latin-1 once matched no micrograph, and names of macOS (with accents of their own) neither."""
    (tmp_path / "mics").mkdir()
    for name in ("probe_é.mrc", "probe_ü.mrc"):
        write_mrc(tmp_path / "mics" / name, np.zeros((64, 64), np.float32))
    (tmp_path / "labels.csv").write_bytes("micrograph,x,y\nprobe_é.mrc,10,20\n".encode("latin-1"))
    (tmp_path / "mac.csv").write_text("micrograph,x,y\nprobe_u\u0308.mrc,10,20\n")
    inputs = expand_inputs([tmp_path / "mics"])
    found, unknown = find_labels(inputs, [tmp_path / "labels.csv", tmp_path / "mac.csv"])
    assert sorted(inputs[i].path.name for i in found) == ["probe_é.mrc", "probe_ü.mrc"] and not unknown
    assert list(read_labels(label_files(tmp_path / "labels.csv")).tables) == ["probe_é"]
