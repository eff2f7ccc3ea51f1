"""The run for a GPU, in small on a CPU; whatever happens to a part, the others are done and the results are there."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import real_data
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import pack as packing
from benchmarks.gpu.fast import goals
from benchmarks.gpu.limits import card_of
from benchmarks.gpu.pack import Packed, made_up, pack
from benchmarks.gpu.parts import Context, Part, run
from cryosegnet_ext import Picker
from tests.waiting import FOREVER

HERE = "tests.benchmarks.gpu_parts"
#: Seconds for a part that hangs; it is ended whenever they are over.
SHORT = 6.0


def context(folder: Path, seconds: float = FOREVER) -> Context:
    return Context("cpu", False, None, folder, folder, time.monotonic() + seconds)


def noise() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((300, 300)).astype(np.float32)


def parts(*names: str, **more: float) -> list[Part]:
    return [Part("a", name, f"{HERE}:{name}", SHORT if name == "hangs" else FOREVER, **more) for name in names]


def test_no_part_stops_the_others(tmp_path: Path) -> None:
    said: list[str] = []
    results = run(parts("raises", "good", "dies", "hangs", "goes_on"), context(tmp_path), said.append)["parts"]
    assert {name: one["status"] for name, one in results.items()} == {
        "raises": "failed", "good": "done", "dies": "failed", "hangs": "failed", "goes_on": "done"
    }  # fmt: skip
    assert results["raises"]["error"] == "ValueError: the first line"
    assert "exit code -9" in results["dies"]["error"]
    assert "ran past its time" in results["hangs"]["error"]
    assert json.loads((tmp_path / "gpu.json").read_text())["parts"] == results
    tables = (tmp_path / "tables.md").read_text()
    assert "| answer | 0.5 |" in tables and "A note." in tables and "raises: ValueError" in tables
    assert "Traceback" in (tmp_path / "errors.txt").read_text()
    assert any("raises: failed" in one for one in said)


def test_what_is_done_is_not_done_again_and_what_failed_is(tmp_path: Path) -> None:
    run(parts("good", "raises"), context(tmp_path), str)
    again = run(parts("good", "raises"), context(tmp_path), str)["parts"]
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    assert again["good"]["figures"] == {"answer": 0.5} and again["raises"]["status"] == "failed"


def test_what_goes_on_keeps_its_figures_if_it_then_fails(tmp_path: Path) -> None:
    for _ in range(2):
        results = run(parts("goes_on", again=True), context(tmp_path), str)["parts"]
    assert results["goes_on"]["figures"] == {"steps": 7} and results["goes_on"]["status"] == "failed"


def test_nothing_begins_when_the_time_is_over(tmp_path: Path) -> None:
    said: list[str] = []
    results = run(parts("good"), context(tmp_path, 0.0), said.append)["parts"]
    assert results["good"]["status"] == "no time left" and not (tmp_path / "calls").exists()


def test_the_goals_alone_are_an_empty_table(tmp_path: Path) -> None:
    assert goals(context(tmp_path)).figures == {"rows": []}


def test_a_missing_gpu_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as caught:
        command.main(["--output", str(tmp_path)])
    assert caught.value.code == (
        "PyTorch finds no GPU here: run it where there is one, or try it with --device cpu --small."
    )


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--device", "cpu", "--small", "--output", str(tmp_path), "--seconds", str(FOREVER)]
    with pytest.raises(SystemExit) as caught:
        command.main(words)
    printed = capsys.readouterr().out
    assert caught.value.code == 0, printed
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert set(found) == {part.name for part in command.PARTS}
    assert found["picks"]["figures"]["least F1"] >= 0.99
    assert found["published denoising"]["figures"]["exact"]
    assert found["memory"]["figures"]["good"]
    assert {row[1] for row in found["memory"]["figures"]["rows"]} == {"picks", "a sentence"}  # the limits were felt
    assert found["built-in"]["figures"]["best"] > 0
    assert not (tmp_path / "errors.txt").exists()
    # the training goes on, and is judged again
    with pytest.raises(SystemExit):
        command.main([*words, "--stages", "c"])
    again = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert [one["training"]["figures"]["steps"] for one in (found, again)] == [3, 6]
    assert len(Picker(tmp_path / "unet.safetensors", diameter="85px").pick(noise())) == 0
    assert len(list(tmp_path.iterdir())) <= 7
    assert all(path.stat().st_size < 16e6 for path in tmp_path.iterdir())


def test_the_shell_line_can_be_given_as_it_is() -> None:
    text = command.__doc__ or ""
    lines = text[text.index("    export PYTHONUNBUFFERED") :].splitlines()
    line = " ".join(one.strip() for one in lines if one.strip())
    assert len(line) < 2000
    subprocess.run(["bash", "-n", "-c", line], check=True)
    options = {word for word in line.split() if word in ("--data", "--output", "--seconds")}
    assert options == {"--data", "--output", "--seconds"}


def test_cards_are_known_by_the_names_of_their_drivers() -> None:
    names = ["NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA H200", "NVIDIA A100-SXM4-80GB"]
    assert [card_of(name).bandwidth for name in names] == [3.35e12, 2.0e12, 4.8e12, 2.0e12]  # type: ignore[union-attr]
    assert card_of("NVIDIA GeForce RTX 3060") is None


def test_made_up_specimens_differ() -> None:
    one, other = made_up(2)
    assert 60 < one.diameter < 250 and not np.array_equal(one.density, other.density)


@pytest.mark.skipif(not (real_data.SHARED / "specimens").is_dir(), reason="the labelled micrographs are not here")
def test_packed_data_are_what_was_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "TRAINED", {"empiar-10017-denoised": 2, "apoferritin": 1})
    few = {"train": ["1bxn", "3qm1"], "test": ["3gl1"]}
    splits = {name: {part: stems[:1] for part, stems in one.items()} for name, one in real_data.SPLITS.items()}
    monkeypatch.setattr(real_data, "SPLITS", {**splits, "specimens": few})
    pack(tmp_path)
    packed = Packed(tmp_path)
    assert (tmp_path / "pack.npz").stat().st_size < 40e6
    assert {one.name for one in packed.specimens("train")} == {"1bxn", "3qm1"} and len(packed.specimens("test")) == 2
    assert packed.specimens("test")[0].density.max() > 1
    assert len(packed.micrographs("compared")) == 3 and packed.micrographs("empty")
    training = packed.micrographs("train")
    for group, one in (("apoferritin", 1), ("empiar-10017-denoised", 2)):
        (kept, *_), (whole, *_) = training[group], real_data.load(group, "train")
        assert len(kept.x) == len(whole.x) and kept.diameter_px == whole.diameter_px / one
        assert kept.data.shape == tuple(n // one for n in whole.data.shape)
        assert (kept.x + 0.5) * one - 0.5 == pytest.approx(whole.x, abs=0.01)
