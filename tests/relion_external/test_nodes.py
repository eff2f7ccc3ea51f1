from __future__ import annotations

from pathlib import Path

import pytest
import starfile

from cryosegnet_ext.errors import CryoSegNetError
from relion_external import nodes
from relion_external.nodes import Version

OUTPUT = "External/job004/"
MICS = "CtfFind/job003/micrographs_ctf.star"
NAMES = ["MotionCorr/job002/Micrographs/mic_001.mrc", "MotionCorr/job002/Micrographs/mic_002.mrc"]
FILES = [f"{OUTPUT}Micrographs/mic_00{number}_autopick.star" for number in (1, 2)]


@pytest.fixture(autouse=True)
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(OUTPUT).mkdir(parents=True)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("# version 30001\ndata_job\n_rlnJobType   99\n", Version.V31),
        ("data_job\n_rlnJobType   99\n", Version.V31),
        ("# version 30001\ndata_job\n_rlnJobTypeLabel   relion.external\n_rlnJobIsContinue 0\n", Version.V4),
        ("# version 40001\ndata_job\n_rlnJobTypeLabel   relion.external\n", Version.V4),
        ("# version 50001\ndata_job\n_rlnJobTypeLabel   relion.external\n_rlnJobIsTomo 0\n", Version.V5),
    ],
)
def test_version_from_job_star(text: str, version: Version) -> None:
    (Path(OUTPUT) / "job.star").write_text(text)
    assert nodes.read_version(Path(OUTPUT)) == (version, OUTPUT + "job.star")


def test_version_without_job_star() -> None:
    assert nodes.read_version(Path(OUTPUT)) is None
    Path("default_pipeline.star").write_text(
        "# version 30001\ndata_pipeline_processes\nloop_\n_rlnPipeLineProcessType #3\n"
    )
    assert nodes.read_version(Path(OUTPUT)) == (Version.V31, "default_pipeline.star")


def output_nodes(version: Version) -> list[list[str]]:
    nodes.write_output_nodes(OUTPUT, version, with_log=True)
    text = Path(OUTPUT, nodes.OUTPUT_NODES).read_text()
    return [line.split() for line in text.splitlines() if line and line[0] not in "#_"]


def test_output_nodes_of_3_1() -> None:
    assert output_nodes(Version.V31) == [
        ["data_output_nodes"],
        ["loop_"],
        [OUTPUT + "coords_suffix_autopick.star", "2"],
        [OUTPUT + "logfile.pdf", "13"],
    ]
    text = Path(OUTPUT, nodes.OUTPUT_NODES).read_text()
    assert "_rlnPipeLineNodeName #1\n_rlnPipeLineNodeType #2\n" in text and "# version 30001" in text


@pytest.mark.parametrize(
    ("version", "label", "stamp"),
    [
        (Version.V4, "MicrographsCoords.star.relion.autopick", "30001"),
        (Version.V5, "MicrographCoordsGroup.star.relion.autopick", "50001"),
    ],
)
def test_output_nodes_of_4_and_5(version: Version, label: str, stamp: str) -> None:
    assert output_nodes(version)[2:] == [
        [OUTPUT + "autopick.star", label, "1"],
        [OUTPUT + "logfile.pdf", "LogFile.pdf.relion.autopick", "1"],
    ]
    text = Path(OUTPUT, nodes.OUTPUT_NODES).read_text()
    head = "_rlnPipeLineNodeName #1\n_rlnPipeLineNodeTypeLabel #2\n_rlnPipeLineNodeTypeLabelDepth #3\n"
    assert head in text and f"# version {stamp}" in text


@pytest.mark.parametrize("version", [Version.V4, Version.V5])
def test_coordinate_list_of_4_and_5(version: Version) -> None:
    nodes.write_coordinate_list(OUTPUT, version, MICS, NAMES)
    tables = starfile.read(OUTPUT + "autopick.star", always_dict=True)
    assert list(tables) == ["coordinate_files"]
    assert tables["coordinate_files"].to_dict("list") == {
        "rlnMicrographName": NAMES,
        "rlnMicrographCoordinates": FILES,
    }


def test_coordinate_file_of_3_1() -> None:
    nodes.write_coordinate_list(OUTPUT, Version.V31, MICS, NAMES)
    assert Path(OUTPUT, "coords_suffix_autopick.star").read_text() == MICS + "\n"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("MotionCorr/job002/Micrographs/mic_001.mrc", "Micrographs/mic_001_autopick.star"),
        ("job002_mics/mic_007.mrc", "mic_007_autopick.star"),
        ("job002_mics/job003/mic_007.mrc", "mic_007_autopick.star"),
        ("Micrographs/job002.mrc", "Micrographs/job002_autopick.star"),
        ("MotionCorr/job1234/a/b/mic.1.mrc", "a/b/mic.1_autopick.star"),
        ("Import/job001/mic", "mic_autopick.star"),
        ("Micrographs/mic_001.mrc", "Micrographs/mic_001_autopick.star"),
        ("jobs/jobless/mic.mrc", "jobs/jobless/mic_autopick.star"),
        ("/data/mic.mrc", "data/mic_autopick.star"),
    ],
)
def test_stripped_paths(name: str, file: str) -> None:
    assert nodes.coordinate_files([name], Version.V31) == [file]


def test_equal_stripped_paths() -> None:
    twins = ["MotionCorr/job002/a.mrc", "MotionCorr/job005/a.mrc"]
    files = nodes.coordinate_files([*twins, "MotionCorr/job005/b.mrc"], Version.V5)
    assert files == ["MotionCorr/job002/a_autopick.star", "MotionCorr/job005/a_autopick.star", "b_autopick.star"]
    with pytest.raises(CryoSegNetError, match=r"RELION 3\.1 keeps one coordinate file"):
        nodes.coordinate_files(twins, Version.V31)


def test_micrographs_that_differ_in_their_suffix_have_a_file_each() -> None:
    names = ["MotionCorr/job002/a.mrc", "MotionCorr/job002/a.tif", "Import/job001/a.mrc", "b.mrc"]
    files = nodes.coordinate_files(names, Version.V5)
    assert len(set(files)) == 4 and files[3] == "b_autopick.star"
    with pytest.raises(CryoSegNetError, match="one coordinate file for both"):
        nodes.coordinate_files(names[:2], Version.V31)


def test_names_outside_the_project() -> None:
    with pytest.raises(CryoSegNetError, match="outside the project"):
        nodes.coordinate_files(["../raw/mic.mrc"], Version.V5)


def test_boxes() -> None:
    for size, pixel_size, box, binned in ((150, 1.0, 226, 64), (120, 0.5, 360, 48), (160, 4.0, 60, 60)):
        assert nodes.Suggestion.usual(size, pixel_size) == nodes.Suggestion(size, box, binned, pixel_size)


@pytest.mark.parametrize("version", list(Version))
def test_files_for_extract_and_display(version: Version) -> None:
    for diameter in (152.25, 155.0):
        # Continue with more micrographs: Extract goes on with the boxes that it has.
        written = nodes.write_suggestion(Path(OUTPUT), version, nodes.Suggestion.usual(diameter, 1.06))
        assert (written.box, written.binned) == (216, 64)
    block = starfile.read(OUTPUT + nodes.SUGGESTION, always_dict=True)["picker"]
    assert float(block["rlnParticleDiameter"]) == 152.2 and int(block["rlnOriginalImageSize"]) == 216
    nodes.write_display_settings(Path(OUTPUT), version, 152.25, 1.06, 4096)
    blocks = starfile.read(OUTPUT + nodes.DISPLAY_SETTINGS, always_dict=True)
    options = blocks["joboptions_values"].set_index("rlnJobOptionVariable")["rlnJobOptionValue"]
    assert (options["angpix"], options["diameter"], options["micscale"]) == ("1.06", "152", "0.24")
    assert ("rlnJobType" in blocks["job"]) is (version is Version.V31)
    # RELION reads the project's.
    assert Path(nodes.DISPLAY_SETTINGS).read_text() == Path(OUTPUT, nodes.DISPLAY_SETTINGS).read_text()


@pytest.mark.parametrize("version", list(Version))
def test_display_settings_of_the_user_stay(version: Version) -> None:
    nodes.write_display_settings(Path(OUTPUT), version, 150, 1.0, 4096)
    nodes.write_display_settings(Path(OUTPUT), version, 180, 1.0, 4096)
    assert "\ndiameter 180\n" in Path(nodes.DISPLAY_SETTINGS).read_text()
    Path(nodes.DISPLAY_SETTINGS).write_text("data_job\n")
    nodes.write_display_settings(Path(OUTPUT), version, 150, 1.0, 4096)
    assert Path(nodes.DISPLAY_SETTINGS).read_text() == "data_job\n"
