"""Labels of every format find their micrograph."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest

from cryosegnet_ext import CryoSegNetError, Picks
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.picks import write_cs, write_picks
from cryosegnet_ext.runs.finished import open_finished
from cryosegnet_ext.training.labels import find_labels, scaled_labels
from tests.report.runs import make_run

from .helpers import write_mrc, write_star

SHAPE = (120, 150)
X, Y = np.array([30.0, 80, 110.5]), np.array([40.0, 60, 100.25])


@pytest.fixture
def mics(tmp_path):
    folder = tmp_path / "mics"
    folder.mkdir()
    for name in ("mic_1", "mic_10", "mic_2"):
        write_mrc(folder / f"{name}.mrc", np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))
    return folder


def found(mics, *labels):
    inputs = expand_inputs([mics])
    result, unknown = find_labels(inputs, labels)
    return {inputs[i].path.stem: labels for i, labels in result.items()}, unknown


def picks(pixel_size=2.0):
    return Picks(X, Y, np.full(3, 40.0), np.ones(3), pixel_size, SHAPE)


@pytest.mark.parametrize("suffix", ["star", "box", "cbox", "csv"])
def test_one_file_for_each(mics, tmp_path, suffix):
    write_picks(picks(), tmp_path / f"mic_1.{suffix}")
    write_picks(picks(), tmp_path / f"mic_2_autopick.{suffix}")
    labels, unknown = found(mics, tmp_path / f"mic_1.{suffix}", tmp_path / f"mic_2_autopick.{suffix}")
    assert set(labels) == {"mic_1", "mic_2"} and not unknown
    assert labels["mic_1"].x == pytest.approx(X, abs=0.5) and labels["mic_1"].y == pytest.approx(Y, abs=0.5)
    known = suffix in ("cbox", "csv")  # a box is not the particle's size
    assert labels["mic_2"].diameter == pytest.approx(20) if known else np.isnan(labels["mic_2"].diameter)


def test_one_file_for_all(mics, tmp_path):
    star = tmp_path / "particles.star"
    rows = "".join(f"{x} {y} Micrographs/{name}.mrc\n" for name in ("mic_10", "mic_2", "other") for x, y in zip(X, Y))
    star.write_text("data_particles\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnMicrographName #3\n" + rows)
    labels, unknown = found(mics, star)
    assert set(labels) == {"mic_10", "mic_2"}
    assert unknown == ["Micrographs/other.mrc"]
    assert labels["mic_2"].x.tolist() == X.tolist()


def test_cryosparc(mics, tmp_path):
    write_cs({"J2/motioncorrected/mic_1.mrc": picks(), "J2/motioncorrected/mic_2.mrc": picks()}, tmp_path / "p.cs")
    labels, _ = found(mics, tmp_path / "p.cs")
    assert labels["mic_1"].x == pytest.approx(X, abs=1e-3)
    assert labels["mic_1"].micrograph_shape == SHAPE
    assert labels["mic_1"].diameter == pytest.approx(20, rel=1e-3)


def test_relions_list_of_coordinate_files(mics, tmp_path):
    (tmp_path / "job7").mkdir()
    write_star(tmp_path / "job7" / "mic_2_autopick.star", X, Y)
    (tmp_path / "job7" / "autopick.star").write_text(
        "data_coordinate_files\nloop_\n_rlnMicrographName #1\n_rlnMicrographCoordinates #2\n"
        "MotionCorr/mic_2.mrc job7/mic_2_autopick.star\n"
    )
    labels, unknown = found(mics, tmp_path / "job7" / "autopick.star")
    assert set(labels) == {"mic_2"} and not unknown
    assert labels["mic_2"].y.tolist() == Y.tolist()


def test_masks_smaller_than_the_micrograph(mics, tmp_path):
    mask = np.zeros((60, 75), np.uint8)
    cv2.circle(mask, (20, 30), 6, 255, -1)
    cv2.imwrite(str(tmp_path / "mic_1_mask.png"), mask)
    labels, _ = found(mics, tmp_path / "mic_1_mask.png")
    assert labels["mic_1"].mask_shape == (60, 75)
    placed = scaled_labels(labels["mic_1"], SHAPE)
    assert placed.x == pytest.approx([40.5]) and placed.y == pytest.approx([60.5])
    assert placed.diameter == pytest.approx(24, abs=2.5)


def test_masks_as_mrc(mics, tmp_path):
    mask = np.zeros(SHAPE, np.float32)
    mask[30:50, 60:80] = 1
    write_mrc(tmp_path / "mic_1_mask.mrc", mask)
    labels, _ = found(mics, tmp_path / "mic_1_mask.mrc")
    assert labels["mic_1"].x.tolist() == [69.5] and labels["mic_1"].y.tolist() == [39.5]


def test_labels_beside_the_micrographs(mics):
    write_star(mics / "mic_1.star", X, Y)
    labels, _ = found(mics, mics)
    assert set(labels) == {"mic_1"}


def test_an_empty_file_is_a_micrograph_without_particles(mics, tmp_path):
    write_star(tmp_path / "mic_1.star", [], [])
    write_star(tmp_path / "mic_2.star", X, Y)
    labels, _ = found(mics, tmp_path / "mic_1.star", tmp_path / "mic_2.star")
    assert len(labels["mic_1"]) == 0 and len(labels["mic_2"]) == 3


def test_names_repeat_in_folders(tmp_path):
    for day in ("a", "b"):
        (tmp_path / day).mkdir()
        write_mrc(tmp_path / day / "mic.mrc", np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))
    inputs = expand_inputs([tmp_path / "a", tmp_path / "b"])
    rows = "1 2 a/mic.mrc\n3 4 b/mic.mrc\n"
    star = tmp_path / "all.star"
    star.write_text("data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnMicrographName\n" + rows)
    result, _ = find_labels(inputs, [star])
    assert {inputs[i].path.parent.name: labels.x.tolist() for i, labels in result.items()} == {"a": [1], "b": [3]}
    write_star(tmp_path / "mic.star", X, Y)
    with pytest.raises(CryoSegNetError, match="could belong to"):
        find_labels(inputs, [tmp_path / "mic.star"])


def test_mistakes_are_named(mics, tmp_path):
    write_star(tmp_path / "mic_1.star", X, Y)
    write_star(tmp_path / "mic_1_b.star", X, Y)
    write_star(tmp_path / "elsewhere.star", X, Y)
    (tmp_path / "mic_1.xyz").write_text("")
    (tmp_path / "none").mkdir()
    for labels, words in (
        ([tmp_path / "mic_1.star", tmp_path / "mic_1_b.star"], "give one"),
        ([tmp_path / "elsewhere.star"], "no labels for the 3 micrographs.*elsewhere"),
        ([tmp_path / "mic_1.xyz"], "not a format of labels"),
        ([tmp_path / "missing.star"], "no such file"),
        ([tmp_path / "none"], "there are no labels"),
    ):
        with pytest.raises(CryoSegNetError, match=words):
            found(mics, *labels)


def test_names_of_cryosparc_and_numbers_that_are_no_additions(tmp_path):
    """As evaluation has it: CryoSPARC's number in front of a name is none of it; mic_1_2 is not mic_1."""
    (tmp_path / "mics").mkdir()
    for name in ("001234567890123456789_mic_1_patch_aligned_doseweighted", "mic_3"):
        write_mrc(tmp_path / "mics" / f"{name}.mrc", np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))
    for name in ("mic_1", "mic_3_autopick", "mic_3_4"):
        write_star(tmp_path / f"{name}.star", X, Y)
    labels, unknown = found(tmp_path / "mics", *sorted(tmp_path.glob("*.star")))
    assert set(labels) == {"001234567890123456789_mic_1_patch_aligned_doseweighted", "mic_3"}
    assert [name.rpartition("/")[2] for name in unknown] == ["mic_3_4.star"]


def test_a_folder_of_labels_holds_other_files_as_well(mics, tmp_path):
    labelled = tmp_path / "labels"
    labelled.mkdir()
    for suffix in ("star", "cbox"):  # one micrograph in two formats
        write_picks(picks(), labelled / f"mic_1.{suffix}")
    (labelled / "job.star").write_text("data_job\n\n_rlnJobTypeLabel relion.manualpick\n")
    (labelled / "notes.txt").write_text("picked by hand\n")
    labels, unknown = found(mics, labelled)
    assert set(labels) == {"mic_1"} and not unknown
    (labelled / "mic_2.star").write_text("")
    with pytest.raises(CryoSegNetError, match=r"mic_2\.star: it is empty or has lost its header"):
        found(mics, labelled)


@pytest.mark.parametrize("suffix", ["star", "box", "cbox", "csv"])
def test_picks_edited_of_a_run(tmp_path, suffix):
    """STAR and BOX have no diameter, which the run knows; a micrograph without a pick left is one of no particles."""
    out = make_run(tmp_path, ["a.mrc", "b.mrc", "grid1/c.mrc", "grid2/c.mrc"])
    edited = {"a": [[10, 20, 30.0]], "grid1/c": [[30, 15, 30.0]], "grid2/c": []}
    for stem, rows in edited.items():
        path = out / f"picks_edited/{stem}.{suffix}"
        path.parent.mkdir(exist_ok=True, parents=True)
        x, y, size = np.array(rows, float).reshape(-1, 3).T
        Picks(x, y, size, np.ones(len(x)), 2.0, (64, 96)).write(path)
    inputs = expand_inputs([tmp_path / "mics"])
    labels, unknown = find_labels(inputs, [out / "picks_edited"])
    assert not unknown
    by_name = {str(inputs[i].path.relative_to(tmp_path / "mics")): one for i, one in labels.items()}
    places = {name: list(zip(one.x.tolist(), one.y.tolist())) for name, one in by_name.items()}
    assert places == {"a.mrc": [(10, 20)], "grid1/c.mrc": [(30, 15)], "grid2/c.mrc": []}
    of_run = open_finished(out).diameters[True] / 2
    assert 15.5 < of_run < 25
    assert by_name["a.mrc"].diameter == pytest.approx(of_run if suffix in ("star", "box") else 15)


def test_of_several_formats_of_an_edited_micrograph_the_newest_counts(tmp_path):
    out = make_run(tmp_path, ["a.mrc"])
    (out / "picks_edited").mkdir()
    for suffix, x in (("star", 10.0), ("csv", 50.0)):
        Picks([x], [20.0], [30.0], [1.0], 2.0, (64, 96)).write(out / f"picks_edited/a.{suffix}")
    os.utime(out / "picks_edited/a.star", ns=(10**9, 10**9))
    labels, _ = find_labels(expand_inputs([tmp_path / "mics"]), [out / "picks_edited"])
    assert labels[0].x.tolist() == [50]


@pytest.mark.parametrize("what", ["", "picks"])
def test_labels_of_an_edited_run_that_are_not_the_edits_are_said(tmp_path, caplog, what):
    out = make_run(tmp_path, ["a.mrc", "b.mrc"])
    (out / "picks_edited").mkdir()
    write_picks(picks(), out / "picks_edited/a.star")
    labels, _ = find_labels(expand_inputs([tmp_path / "mics"]), [out / what])
    assert len(labels) == 2 and np.isfinite(labels[0].diameter)
    assert "1 micrograph of the run" in caplog.text and f"give {out / 'picks_edited'}" in caplog.text
