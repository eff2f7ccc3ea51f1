"""Labels and picks are found as programs leave them, and belong to the right micrographs."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cryosegnet_ext import Picks
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.evaluation.reading import on_micrographs, picks_of_others, read_labels, read_set
from cryosegnet_ext.files.labels import label_files
from tests.evaluation.helpers import particles, table, write


def labels_of(path):
    return read_labels(label_files(path))


STEMS = ["mic_1", "mic_10", "mic_1_2"]


@pytest.mark.parametrize("suffix", [".star", ".box", ".cbox", ".csv", ".cs"])
def test_every_format_is_read_as_labels_and_as_picks(tmp_path, suffix):
    rng = np.random.default_rng(0)
    tables = {}
    for stem in STEMS:
        xy = particles(rng, 12)
        tables[stem] = Picks(*xy.T, np.full(12, 30.0), rng.random(12), 1.0, (900, 1200))
    write(tmp_path, tables, suffix)
    for found in (labels_of(tmp_path), read_set(tmp_path, STEMS)):
        assert set(found.tables) == set(STEMS)
        for stem, p in found.tables.items():
            assert p.x == pytest.approx(tables[stem].x, abs=1e-3)
            assert p.y == pytest.approx(tables[stem].y, abs=1e-3)


def relion_job(folder, tables):
    """A job folder of RELION 3.1 or 4 as AutoPick leaves it, with STAR files in it that hold no coordinates."""
    write(folder / "Movies", {f"{stem}_autopick": p for stem, p in tables.items()})
    (folder / "job.star").write_text("data_job\n\n_rlnJobTypeLabel relion.autopick.log\n_rlnJobIsContinue 0\n")
    (folder / "run.out").write_text("x")
    (folder / "coords_suffix_autopick.star").write_text("CtfFind/job003/micrographs_ctf.star\n")
    (folder / "summary.star").write_text("data_\n\nloop_\n_rlnMicrographName #1\n_rlnGroupNrParticles #2\na.mrc 3\n")
    rows = "".join(f"Movies/{stem}.mrc {folder.name}/Movies/{stem}_autopick.star\n" for stem in tables)
    (folder / "autopick.star").write_text(
        f"data_coordinate_files\n\nloop_\n_rlnMicrographName #1\n_rlnMicrographCoordinates #2\n{rows}"
    )
    return folder


def test_relion_job_folders_and_their_lists(tmp_path):
    rng = np.random.default_rng(1)
    tables = {stem: table(particles(rng, 5), rng.random(5)) for stem in STEMS}
    job = relion_job(tmp_path / "job010", tables)
    for path in (job, job / "autopick.star"):
        found = read_set(path, STEMS)
        assert {s: len(p) for s, p in found.tables.items()} == dict.fromkeys(STEMS, 5)
        assert found.notes == []
    assert set(labels_of(job).tables) == set(STEMS)


def test_what_pick_wrote_is_its_picks_and_not_its_other_files(tmp_path):
    write(tmp_path / "picks", {"mic_1": table(np.array([[5.0, 6]]))})
    write(tmp_path / "picks", {"mic_1": Picks([5.4], [6.4], [30], [0.5], 1.0)}, ".csv")
    (tmp_path / "summary.json").write_text("{}")
    write(tmp_path / "elsewhere", {"mic_10": table(np.array([[1.0, 1]]))})
    found = read_set(tmp_path, STEMS)
    assert set(found.tables) == {"mic_1"}
    assert found.files["mic_1"].suffix == ".star"


def test_the_labels_of_a_simulation_are_its_truth(tmp_path):
    write(tmp_path / "truth" / "micrographs", {"sim_1": table(np.ones((2, 2)))})
    write(tmp_path / "distractors" / "micrographs", {"sim_1": table(np.ones((5, 2)))})
    (tmp_path / "specimens").mkdir()
    (tmp_path / "specimens" / "a.mrc").write_bytes(b"a map")
    (tmp_path / "simulation.json").write_text("{}")
    for found in (labels_of(tmp_path), read_set(tmp_path, ["sim_1"])):
        assert {s: len(p) for s, p in found.tables.items()} == {"sim_1": 2}


def test_labels_may_be_what_pick_wrote(tmp_path):
    write(tmp_path / "picks", {"mic_1": table(np.ones((2, 2)))})
    (tmp_path / "overlays").mkdir()
    cv2.imwrite(str(tmp_path / "overlays" / "mic_1.png"), np.random.default_rng(0).integers(9, 255, (90, 90)))
    (tmp_path / "summary.json").write_text("{}")
    assert len(labels_of(tmp_path).tables["mic_1"]) == 2


def test_a_table_of_many_micrographs(tmp_path):
    rows = "".join(f"00{i}\t{10 + i}\t{20 + i}\t{s}\n" for i, s in ((1, -1.5), (1, 2.0), (2, 0.5), (3, 1.0)))
    (tmp_path / "topaz.txt").write_text("image_name\tx_coord\ty_coord\tscore\n" + rows)
    found = read_set(tmp_path / "topaz.txt", ["001", "002"])
    assert {s: len(p) for s, p in found.tables.items()} == {"001": 2, "002": 1, "003": 1}
    assert found.tables["001"].score.tolist() == [-1.5, 2.0]


def test_one_file_against_one_file_whatever_their_names(tmp_path):
    write(tmp_path, {"truth_of_sample": table(np.ones((1, 2))), "whatever": table(np.ones((2, 2)))})
    found = read_set(tmp_path / "whatever.star", ["sample"])
    assert len(found.tables["sample"]) == 2
    assert "sample" in found.notes[0]


def test_one_file_of_another_micrograph_of_the_session_is_refused(tmp_path):
    """The picks of mic_002 were once compared with the labels of mic_001, with a note that names differ."""
    write(tmp_path, {"mic_002_autopick": table(np.ones((2, 2)))})
    with pytest.raises(CryoSegNetError, match="picks of another micrograph than mic_001, the only labelled one: give"):
        read_set(tmp_path / "mic_002_autopick.star", ["mic_001"])


def test_a_table_that_names_another_micrograph_is_not_taken_for_the_only_one(tmp_path):
    (tmp_path / "topaz.txt").write_text("image_name\tx_coord\ty_coord\tscore\nother\t1\t2\t3\n")
    with pytest.raises(
        CryoSegNetError, match=r"none of its picks \(other\) belongs to a labelled micrograph \(sample\)"
    ):
        read_set(tmp_path / "topaz.txt", ["sample"])


def test_of_several_files_none_is_taken_for_the_only_micrograph(tmp_path):
    write(tmp_path, {"a": table(np.ones((1, 2))), "b": table(np.ones((2, 2)))})
    with pytest.raises(CryoSegNetError, match=r"none of its picks \(a, b\) belongs to a labelled micrograph"):
        read_set(tmp_path, ["sample"])


def test_tables_of_the_same_micrographs_are_joined_and_said(tmp_path):
    """As the iterations of a RELION job; or a table with micrographs of one name in two folders."""
    rows = "image_name,x,y\nday1/mic_1,1,2\nmic_10,3,4\n"
    for name in ("run_it001.csv", "run_it002.csv"):
        (tmp_path / name).write_text(rows)
    found = read_set(tmp_path, STEMS)
    assert {s: len(p) for s, p in found.tables.items()} == {"mic_1": 2, "mic_10": 2}
    (said,) = found.notes
    assert said.startswith("micrograph mic_1 has picks in ")
    assert "run_it001.csv and under day1/mic_1 in " in said
    assert "run_it002.csv (1 other micrograph too); all of them count" in said
    (tmp_path / "one.csv").write_text(rows + "day2/mic_1,5,6\n")
    (said,) = read_set(tmp_path / "one.csv", STEMS).notes
    assert "one.csv and under day2/mic_1 in " in said


def test_an_empty_pick_file_is_a_micrograph_without_picks(tmp_path):
    write(tmp_path, {"mic_1": Picks.empty(), "mic_10": table(np.ones((1, 2)))})
    assert {s: len(p) for s, p in read_set(tmp_path, STEMS).tables.items()} == {"mic_1": 0, "mic_10": 1}
    assert len(labels_of(tmp_path / "mic_1.star").tables["mic_1"]) == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mic_2.star", ""),
        ("mic_2.star", "# a comment\n"),
        ("mic_2.star", "\0" * 300),
        ("mic_2.star", "data_\n\nloop_\n"),
        ("mic_2.star", "  652.0 258.0\n  700.0 300.0\n"),
        ("mic_2.cbox", ""),
        ("mic_2.cbox", "\f\v"),
        ("mic_2.csv", "\n"),
        ("mic_2.csv", "652.0,258.0\n700,300\n"),
        ("topaz.txt", "mic_2\t652\t258\t0.5\n"),
        ("mic_2.cs", ""),
    ],
)
def test_an_emptied_label_file_is_refused(tmp_path, name, content):
    """Passed over, its micrograph would not count and the score would rise."""
    write(tmp_path, {"mic_1": table(np.ones((1, 2)))})
    (tmp_path / name).write_text(content)
    with pytest.raises(CryoSegNetError, match=rf"{name}: it is empty or has lost its header: restore or remove it"):
        labels_of(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("mic_2.star", "data_\n\nloop_\n_rlnCoordinateY #1\n3\n", "no block has the columns"),
        ("mic_2.csv", '"X","Z"\n1,2\n', "does not name columns x and y"),
    ],
)
def test_a_damaged_header_is_read_and_complained_about(tmp_path, name, content, said):
    write(tmp_path, {"mic_1": table(np.ones((1, 2)))})
    (tmp_path / name).write_text(content)
    with pytest.raises(CryoSegNetError, match=said):
        labels_of(tmp_path)


@pytest.mark.parametrize("header", ['"x","y"', "# by hand\nx,y", "\n\nX-Coordinate,Y-Coordinate"])
def test_headers_that_other_programs_write_are_known(tmp_path, header):
    (tmp_path / "mic_1.csv").write_text(f"{header}\n3,4\n")
    assert labels_of(tmp_path).tables["mic_1"].x.tolist() == [3]


def test_coordinates_after_many_optics_groups_are_found(tmp_path):
    groups = "".join(f"{i} opticsGroup{i} 1.06 300.0 2.7 0.1\n" for i in range(1, 3001))
    columns = ("OpticsGroup", "OpticsGroupName", "MicrographPixelSize", "Voltage", "SphericalAberration", "Contrast")
    header = "".join(f"_rln{name} #{i}\n" for i, name in enumerate(columns, 1))
    body = "data_particles\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnOpticsGroup #3\n3 4 7\n"
    (tmp_path / "mic_1.star").write_text(f"data_optics\n\nloop_\n{header}{groups}\n{body}")
    assert labels_of(tmp_path).tables["mic_1"].pixel_size == 1.06


def test_a_header_without_rows_is_a_micrograph_without_labels(tmp_path):
    write(tmp_path, {"mic_1": Picks.empty()})
    write(tmp_path, {"mic_2": Picks.empty()}, ".box")
    write(tmp_path, {"mic_3": Picks.empty()}, ".csv")
    assert {s: len(p) for s, p in labels_of(tmp_path).tables.items()} == {
        "mic_1": 0,
        "mic_2": 0,
        "mic_3": 0,
    }


def test_pick_files_of_other_micrographs_are_named(tmp_path):
    write(tmp_path, {"mic_1": table(np.ones((1, 2))), "mic_7": table(np.ones((1, 2)))})
    assert picks_of_others(read_set(tmp_path, STEMS), STEMS) == ["mic_7"]


def test_two_files_of_one_micrograph(tmp_path):
    write(tmp_path, {"mic_1_autopick": table(np.ones((1, 2))), "mic_1": table(np.ones((3, 2)))})
    found = read_set(tmp_path, STEMS)
    assert len(found.tables["mic_1"]) == 3
    assert "mic_1.star" in found.notes[0] and "mic_1_autopick.star" in found.notes[0]
    with pytest.raises(CryoSegNetError, match="labels twice"):
        labels_of(tmp_path)


def test_nothing_in_common_is_said_with_names(tmp_path):
    write(tmp_path, {"foo": table(np.ones((1, 2)))})
    with pytest.raises(CryoSegNetError, match=r"none of its picks \(foo\) belongs to a labelled micrograph \(mic_1"):
        read_set(tmp_path, STEMS)


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_no_files(tmp_path, name):
    (tmp_path / "empty").mkdir()
    for read in (lambda p: read_set(p, STEMS), label_files):
        with pytest.raises(CryoSegNetError, match=r"no such file|there are no"):
            read(tmp_path / name)


@pytest.mark.parametrize("factor", [1, 4])
def test_masks_are_scaled_to_their_micrographs(tmp_path, factor):
    rng = np.random.default_rng(2)
    xy = particles(rng, 25, gap=60, shape=(800, 800))
    mask = np.zeros((800 // factor, 800 // factor), np.uint8)
    for x, y in xy / factor:
        cv2.circle(mask, (round(x), round(y)), 24 // factor, 255, -1)
    cv2.imwrite(str(tmp_path / "mic_1_mask.png"), mask)
    cv2.imwrite(str(tmp_path / "mic_10_mask.png"), np.zeros_like(mask))
    found = on_micrographs(labels_of(tmp_path), {"mic_1": (800, 800), "mic_10": (800, 800)})
    assert len(found["mic_10"]) == 0
    p = found["mic_1"]
    assert len(p) == 25
    distance = np.hypot(p.x[:, None] - xy[:, 0], p.y[:, None] - xy[:, 1]).min(1)
    assert distance.max() < 1.5 * factor
    assert np.median(p.diameter_px) == pytest.approx(48, rel=0.12)


def test_a_picture_is_no_mask(tmp_path):
    picture = np.random.default_rng(0).normal(190, 8, (200, 200)).clip(0, 255).astype(np.uint8)
    picture[:4, :4] = 0
    cv2.imwrite(str(tmp_path / "mic_1.png"), picture)
    with pytest.raises(CryoSegNetError, match=r"mic_1\.png: .*mask"):
        labels_of(tmp_path)
