from __future__ import annotations

from pathlib import Path

import pytest

from cryosegnet_ext.errors import CryoSegNetError
from relion_external import arguments
from relion_external.arguments import in_relion_words
from relion_external.job import main


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mics.star").touch()


def parse(text: str) -> arguments.Arguments:
    return arguments.parse(["--o", "External/job004/", "--in_mics", "mics.star", *text.split()])


def test_everything_that_relion_sends() -> None:
    found = parse(
        "--in_movies m.star --in_parts p.star --in_coords mics.star --in_3dref r.mrc --in_mask k.mrc "
        "--particle_diameter 180 --threshold 0.3 --weights published --gpu 1 --denoised --invert Yes --j 8 --sam "
        "--angpix=1.2 "
        "--pipeline_control External/job004/"
    )
    assert found == arguments.Arguments(
        output="External/job004/",
        in_mics="mics.star",
        in_coords="mics.star",
        unused=("--in_movies", "--in_parts", "--in_3dref", "--in_mask"),
        threads=8,
        diameter=180.0,
        threshold=0.3,
        pixel_size=1.2,
        weights="published",
        device="cuda:1",
        denoised=True,
        invert=True,
    )


def test_labels_without_a_value_are_not_set() -> None:
    assert parse("--particle_diameter --threshold --weights --gpu --j 1") == parse("--j 1")


@pytest.mark.parametrize(
    "words",
    [
        ["--gpu", ""],
        ["--gpu="],
        ["--gpu", " "],
        ["--threshold", "", "--particle_diameter="],
        ["--denoised", ""],
        ["--invert="],
        ["--j", ""],
        ["--in_coords", "", "--in_parts="],
        ["--relion", "", "--coords", "", "--growing="],
    ],
)
def test_empty_values_are_not_set(words: list[str]) -> None:
    assert arguments.parse(["--o", "External/job004/", "--in_mics", "mics.star", *words]) == parse("")


def test_empty_value_and_another() -> None:
    words = ["--o", "External/job004/", "--in_mics", "", "--in_mics", "mics.star", "--gpu=", "--gpu", "0"]
    assert arguments.parse(words).device == arguments.parse([*words, "--gpu", "", "--gpu"]).device == "cuda:0"
    with pytest.raises(CryoSegNetError, match="did you mean threshold"):
        arguments.parse(["--o", "External/job004/", "--in_mics", "mics.star", "--thresold="])
    with pytest.raises(CryoSegNetError, match="no micrographs were given"):
        arguments.parse(["--o", "External/job004/", "--in_mics="])
    assert arguments.output_folder(["--o="]) is arguments.output_folder(["--o", ""]) is None


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("0", "cuda:0"),
        ("-1", "cpu"),
        ("cpu", "cpu"),
        ("cuda:2", "cuda:2"),
        ("auto", "auto"),
        ("0:1", "cuda:0,1"),
        ("0,3", "cuda:0,3"),
    ],
)
def test_devices(text: str, device: str) -> None:
    assert parse(f"--gpu {text}").device == device


@pytest.mark.parametrize("label", ["particle-diameter", "--particle_diameter"])
def test_ways_to_write_a_label(label: str) -> None:
    assert parse(f"--{label} 90").diameter == 90


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--particle_diametre 180", r"'particle_diametre' is none of them: did you mean particle_diameter\?$"),
        ("--Threshold 1", "the parameters are particle_diameter, min_diameter, .*did you mean threshold"),
        ("--xyzzy", r"'xyzzy' is none of them\.$"),
        ("--particle_diameter 180 A", "'A' follows a value"),
        ("--particle diameter 180", r"'particle' is none of them: did you mean particle_diameter\?$"),
        ("--particle_diameter big", r"--particle_diameter must be between 1 and 10000 angstrom \(got big\)"),
        ("--particle_diameter nan", r"\(got nan\)"),
        ("--angpix 0", "must be between 0.05 and 100 angstrom"),
        ("--threshold 1.5", "between 0 and 1"),
        ("--min_diameter 200 --max_diameter 100", "exchange them"),
        ("--min_diameter 200 --particle_diameter 100", "give one or the other"),
        ("--gpu 0/1", "must be GPU numbers"),
        ("--gpu x", "must be GPU numbers"),
        ("--denoised maybe", "must be Yes or No"),
        ("--segmenter magic", "must be one of peaks, grid, watershed"),
        ("--j 0", "--j must be a whole number from 1 to 4096"),
        ("--threshold 0.1 --threshold 0.2", "given twice"),
        ("--in_coords nowhere.star", "nowhere.star does not exist"),
    ],
)
def test_mistakes(text: str, expected: str) -> None:
    with pytest.raises(CryoSegNetError, match=expected):
        parse(text)


def test_inputs_that_cannot_be_picked() -> None:
    with pytest.raises(CryoSegNetError, match="was given movies: use 'Input micrographs'"):
        arguments.parse(["--o", "External/job004/", "--in_movies", "mics.star"])
    with pytest.raises(CryoSegNetError, match="no micrographs were given"):
        arguments.parse(["--o", "External/job004/", "--in_mics", "--j", "1"])
    with pytest.raises(CryoSegNetError, match="--o is missing"):
        arguments.parse(["--in_mics", "mics.star"])


def test_output_folder_is_found_in_any_command_line() -> None:
    assert arguments.output_folder(["--bad", "x y", "--o", "External/job004/"]) == Path("External/job004")
    assert arguments.output_folder(["--o=External/job004/"]) == Path("External/job004")
    assert arguments.output_folder(["--o", "--in_mics"]) is None


def test_help_names_every_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in arguments.OPTIONS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("cryosegnet-relion ")
    assert main(["--in_mics", "mics.star"]) == 1
    assert "--o is missing" in capsys.readouterr().err


def test_sentences_of_the_core_use_the_words_of_relion() -> None:
    text = "--min-diameter 5 and --diameter, --device cuda:9: use --device cpu or --diameters"
    assert in_relion_words(text) == "min_diameter 5 and particle_diameter, gpu cuda:9: use gpu cpu or --diameters"
