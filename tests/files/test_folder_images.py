"""What a folder stands for: other programs put images beside the micrographs that are none."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.folder_images import choose_micrographs
from cryosegnet_ext.files.inputs import expand_inputs, output_stems


def taken(top: str, *names: str) -> list[str]:
    chosen, left_out = choose_micrographs([f"{top}/{name}" for name in names], top)
    others = [path for paths in left_out.values() for path in paths]
    assert sorted([*chosen, *others]) == sorted(f"{top}/{name}" for name in names)
    return [path.removeprefix(f"{top}/") for path in chosen]


MIC = "a/mic_1"


@pytest.mark.parametrize(
    "others",
    [
        # RELION's and MotionCor2's motion correction
        ["a/mic_1_PS.mrc", "a/mic_1_noDW.mrc", "a/mic_1_EVN.mrc", "a/mic_1_ODD.mrc"],
        ["a/mic_1_DWS.mrc"],
        # a preview, in the same folder or in one of its own, and a movie
        ["a/mic_1.jpg", "a/mic_1.tif", "a/mic_1.mrc.gz", "a/mic_1.mrcs", "previews/mic_1.png"],
        ["a/mic_1.mrc.png", "previews/mic_1.mrc.jpg", "a/mic_1_PS.mrc.png", "a/GridSquare_20250108_151151.mrc.jpg"],
        # EPU
        ["a/GridSquare_20250108_151151.jpg", "a/FoilHoles/FoilHole_9015889_20250108_154715.mrc", "Atlas/Tile_1.mrc"],
        ["a/mic_1_thumb.png", "a/mic_1_thumb_@1x.png", "thumbnails/x.png", "a/thumb_mic_1.jpg"],
        # Warp, cisTEM, masks, references
        ["powerspectrum/mic_1.mrc", "Spectra/mic_1.mrc", "a/mic_1_mask.png", "a/CountRef_b.mrc", "gain-ref.mrc"],
        ["a/mic_1_background.mrc", "a/mic_1_ctf_diag_2D.mrc", "a/mic_1.tif.gz", "a/other.png.gz"],
    ],
)
def test_what_lies_beside_a_micrograph_is_left_out(others: list[str]) -> None:
    assert taken("job", f"{MIC}.mrc", *others) == [f"{MIC}.mrc"]


def test_cryosparc_and_epu_name_the_micrograph_longer_than_its_companions() -> None:
    names = ["x_patch_aligned.mrc", "x_patch_aligned_doseweighted.mrc", "y_patch_aligned.mrc"]
    assert taken("J2/motioncorrected", *names) == names[1:]
    epu = "GridSquare_8999138/Data/FoilHole_9_Data_1_6_20250108_154915"
    assert taken("Images-Disc1", f"{epu}.jpg", f"{epu}_Fractions.mrc") == [f"{epu}_Fractions.mrc"]


def test_of_motioncor2_the_dose_weighted_sum_is_taken() -> None:
    assert taken("d", "a.mrc", "a_DW.mrc", "a_DWS.mrc", "b_DW.mrc", "c.mrc") == ["a_DW.mrc", "b_DW.mrc", "c.mrc"]


def test_what_only_looks_alike_is_kept() -> None:
    names = [
        *("a/mic_1.mrc", "b/mic_1.tif", "a/mic_2.tif", "a/mic_3.jpg"),  # two sessions, TIFF and JPEG micrographs
        *(
            "a/other_noDW.mrc",
            "a/other_ODD.mrc",
            "a/brain_mask.mrc",
            "a/PS_7.mrc",
            "a/gainesville.mrc",
            "a/SuperReflex_1.mrc",
        ),
        "FoilHole_9_Data_1_6_20250108_154915.mrc",
    ]
    assert taken("d", *names) == names
    assert taken("thumbnails", "x.png") == ["x.png"]
    assert choose_micrographs(["thumbs/x.png"], "thumbs/")[0] == ["thumbs/x.png"]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "job"
    folder.mkdir()
    for name in ("a.mrc", "a_PS.mrc", "a.jpg", "b.mrc", "b_PS.mrc", "c.tif.gz", "notes.txt"):
        (folder / name).write_bytes(b"x")
    return folder


@pytest.mark.parametrize("argument", ["job", "job/", "job/*", "**/*"])
def test_one_line_says_what_a_folder_stands_for(job: Path, argument: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        inputs = expand_inputs([argument])
    assert [one.name for one in inputs] == ["job/a.mrc", "job/b.mrc"]
    assert output_stems(inputs) == ["a", "b"]
    (line,) = caplog.messages
    assert line.startswith(f"{argument}: 2 micrographs; left out: ")
    assert "power spectra: 2 (a_PS.mrc, ...)" in line and "taken: 1 (a.jpg)" in line and "c.tif.gz" in line


def test_a_folder_that_stands_for_its_list_says_so(job: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = "data_coordinate_files\n\nloop_\n_rlnMicrographName #1\n_rlnMicrographCoordinates #2\n"
    (job / "autopick.star").write_text(f"{table}job/a.mrc job/a_autopick.star\n")
    with caplog.at_level(logging.INFO):
        assert [one.name for one in expand_inputs(["job"])] == ["job/a.mrc"]
    assert caplog.messages == ["job: 1 micrograph, those of its list autopick.star"]


def test_a_file_that_is_named_is_taken(job: Path) -> None:
    assert [one.name for one in expand_inputs(["job/a_PS.mrc", "job/a.jpg"])] == ["job/a.jpg", "job/a_PS.mrc"]


def test_a_folder_of_nothing_else_says_so(job: Path) -> None:
    (job / "a.mrc").unlink()
    (job / "b.mrc").unlink()
    (job / "a.jpg").unlink()
    with pytest.raises(CryoSegNetError, match=r"no micrographs, only files that are left out: power spectra: 2 \(a_PS"):
        expand_inputs(["job"])
    (job / "a_PS.mrc").unlink()
    (job / "b_PS.mrc").unlink()
    with pytest.raises(
        CryoSegNetError, match=r"compressed pictures, which are not read: 1 \(c\.tif\.gz\); unpack them$"
    ):
        expand_inputs(["job"])
