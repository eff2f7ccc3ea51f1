"""Wrong options in all three front ends: exit code 1, one sentence that says what is wrong, and where to read on."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from cryosegnet_ext import cli as commands
from cryosegnet_ext.picking import segment
from cryosegnet_ext.picking.options import PickerOptions
from cryosparc_job import cli
from relion_external import arguments
from tests.stub_picker import write_micrograph

REPOSITORY = Path(__file__).resolve().parents[2]

WRONG = [
    ("device", "gpu", "(got gpu)"),
    ("device", "cuda:99", "--device cuda:99: "),
    ("weights", "cryosegnett", "no weights file cryosegnett"),
    ("sam", "nowhere.pth", "no weights file nowhere.pth"),
    ("segmenter", "magic", "must be one of peaks, grid, watershed (got magic)"),
    ("segmenter", "grid", "needs a SAM"),
    ("recipe", "published", "trained for the default recipe"),
    ("diameter", "1e9", "must be between 1 and 10000 angstrom (got 1e9)"),
    ("threshold", "2", "must be between 0 and 1 (got 2)"),
]


@pytest.fixture
def mic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_micrograph(tmp_path / "m.mrc")


@pytest.mark.parametrize(("name", "value", "said"), WRONG)
def test_pick(name: str, value: str, said: str, mic: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["pick", str(mic), "-o", "out", f"--{name}", value]) == 1
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert first.startswith("cryosegnet pick: error: ") and said in first and not out
    assert second == "cryosegnet pick --help tells more"
    assert not Path("out").exists()


@pytest.mark.parametrize(("name", "value", "said"), WRONG)
def test_cryosparc(
    name: str, value: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "require_client", lambda: "5.0.0")
    words = ["pick", "--project", "P1", "--workspace", "W1", "--exposures", "J1:exposures"]
    assert cli.main([*words, f"--{name}", value]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("cryosegnet-cryosparc pick: error: ") and said in first
    assert second == "cryosegnet-cryosparc pick --help tells more"


@pytest.mark.parametrize(("name", "value", "said"), WRONG)
def test_relion(name: str, value: str, said: str, mic: Path) -> None:
    """RELION takes no notice of exit codes, and shows what its user typed."""
    Path("mics.star").write_text("data_\n\nloop_\n_rlnMicrographName #1\nm.mrc\n")
    label = arguments.LABELS[name]
    words = ["--o", "External/job001/", "--in_mics", "mics.star", f"--{label}", value]
    # A process of its own, as RELION starts it: threads of a torch that worked here before do not survive its fork.
    program = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\nfrom relion_external.job import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    err = done.stderr
    assert done.returncode == 1, err
    assert arguments.in_relion_words(said) in err and "Traceback" not in err
    assert label in err.splitlines()[-1] or name in ("weights", "sam", "recipe")
    assert Path("External/job001/RELION_JOB_EXIT_FAILURE").exists()


def test_the_options_are_those_of_the_picker() -> None:
    import inspect

    from cryosegnet_ext import Picker

    defaults = {option.name: option.default for option in fields(PickerOptions)}
    assert defaults == {name: one.default for name, one in inspect.signature(Picker).parameters.items()}
    choices = {option.name: option.metadata["choices"] for option in fields(PickerOptions)}
    assert all(callable(getattr(segment, name)) for name in choices["segmenter"])
    assert set(arguments.LABELS) == {*defaults, "pixel_size", "force"}


def test_a_gpu_that_is_not_there(
    mic: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert commands.main(["pick", str(mic), "-o", "out", "--device", "cuda"]) == 1
    assert "PyTorch finds no GPU here" in capsys.readouterr().err
