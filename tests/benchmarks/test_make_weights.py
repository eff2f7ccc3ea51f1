"""The one command that makes the built-in weights: its stages, and how it goes on after it was stopped."""

from __future__ import annotations

import argparse
import csv
import json
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.distributed.run import get_args_parser

from benchmarks.weights import make_weights, train_sam
from benchmarks.weights import state as state_file
from benchmarks.weights.make_weights import Keeper, Plan
from benchmarks.weights.stages import SAM, SAM_STAGE, STAGES, UNET, UNET_PARTS, Stage
from benchmarks.weights.state import Finished, State
from benchmarks.weights.window_samples import LabelledPeaks
from cryosegnet_ext import CryoSegNetError
from cryosegnet_ext.networks import window_sam
from cryosegnet_ext.networks.unet import AttentionUNet
from cryosegnet_ext.runs.stopping import Stop, Stopped
from cryosegnet_ext.training.fit import fit
from cryosegnet_ext.weights import build_sam
from tests.benchmarks.tiny_training import RECIPE, batch

ROOT = Path(__file__).resolve().parents[2]
TINY = "tests.benchmarks.tiny_training"
ONE = Stage("one", TINY, "", RECIPE.steps, 6)
TWO = Stage("two", TINY, "--from {runs}/one/checkpoint.pt", RECIPE.steps, 4)


def plan(runs: Path, *stages: Stage) -> Plan:
    return Plan(runs, stages or (ONE, TWO), last=("two",))


def tiny(runs: Path, stage: Stage, until: int, start: Path | None = None) -> AttentionUNet:
    """Steps of a stage, in this process."""
    weights = state_file.weights_in(torch.load(start, weights_only=True)) if start else None
    return fit(RECIPE, batch, runs / stage.name, weights, stop_after=until, checkpoint_every=1)


def losses(table: Path) -> dict[int, float]:
    with open(table, newline="") as stream:
        return {int(row["step"]): float(row["loss"]) for row in csv.DictReader(stream)}


class Parsed(Exception):
    """Raised in the place of what a script would do next."""


def parsed(words: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """What a training script's own parser makes of its words (after ``-m``)."""
    whole = argparse.ArgumentParser.parse_args

    def only_parse(self, args=None, namespace=None):
        raise Parsed(whole(self, args, namespace))

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
        patch.setattr("sys.argv", words)
        patch.delitem(sys.modules, words[0], raising=False)
        with pytest.raises(Parsed) as caught:
            runpy.run_module(words[0], run_name="__main__")
    (args,) = caught.value.args
    return args


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_each_listed_command_is_understood(
    device: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_weights.main(["/some/runs", "--list", "--device", device])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(STAGES) + 1
    before: set[str] = set()
    for line, stage in zip(lines, STAGES):
        words = line.split()
        assert words.count("-m") == 1 + ("torch.distributed.run" in words)
        args = parsed(words[len(words) - words[::-1].index("-m") :], monkeypatch)
        assert (args.output, args.steps) == (Path("/some/runs") / stage.name, stage.steps)
        assert args.stdin_stops
        if stage.script == UNET:
            assert args.stop_after == stage.taken
            assert args.device == device
            assert args.batches * (2 if "torch.distributed.run" in words else 1) == stage.processes
        starts = {Path(w).parent.name for w in words if w.endswith("checkpoint.pt")}
        assert starts == stage.needs()
        assert starts <= before, f"{stage.name} starts from what comes later: {starts - before}"
        before.add(stage.name)
    args = parsed(lines[-1].split()[2:], monkeypatch)
    assert {path.parent.name: share for path, share in args.checkpoint} == UNET_PARTS
    assert args.sam.parent.name == SAM_STAGE and sum(UNET_PARTS.values()) == pytest.approx(1)


@pytest.mark.parametrize("script", [UNET, SAM])
def test_no_option_is_ambiguous_for_torchrun(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []
    whole = argparse.ArgumentParser.add_argument

    def note(self, *names, **more):
        found.extend(name for name in names if name.startswith("--"))
        return whole(self, *names, **more)

    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", note)
    words = ["--unet", "u", "--output", "o"] if script == SAM else ["--stage", "mixed", "--output", "o", "--steps", "9"]
    parsed([script, *words], monkeypatch)
    own = list(found)
    monkeypatch.undo()
    assert len(own) > 10
    for name in own:
        args = get_args_parser().parse_args(["--standalone", "--nproc-per-node", "2", "-m", script, name])
        assert args.training_script_args == [name]
    with pytest.raises(SystemExit):  # as --start once was
        get_args_parser().parse_args(["-m", script, "--start"])


def test_fewer_gpus_than_processes(tmp_path: Path) -> None:
    stage = next(s for s in STAGES if s.name == "faint")
    one, two = (stage.command(tmp_path, 1, "cuda", devices) for devices in (1, 2))
    assert "--nproc-per-node" in two and "--batches" not in two
    assert "--nproc-per-node" not in one and one[one.index("--batches") + 1] == "2"


def test_the_recipe_is_the_same_on_every_machine(tmp_path: Path) -> None:
    for stage in STAGES:
        assert str(tmp_path) not in stage.recipe(1) and sys.executable not in stage.recipe(1)


def test_the_list_of_the_data_has_every_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from benchmarks import real_data

    monkeypatch.setattr(real_data, "SHARED", tmp_path)
    suffixes = {"empiar-10017-denoised": ".jpg", "apoferritin": ".mrc", "empiar-10059": ".mrc"}
    expected: dict[str, set[str]] = {"train": set(), "validation": set()}
    for name, splits in real_data.SPLITS.items():
        for split, files in expected.items():
            for stem in splits.get(split, []):
                folder = {"views": "quality-examples", "no-particles": "quality-examples"}.get(name, name)
                place = "specimens/any" if name == "specimens" else f"micrographs/{folder}"
                files.add(f"{place}/{stem}{suffixes.get(name, '.mrc' if name == 'specimens' else '.png')}")
    for path in expected["train"] | expected["validation"]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    found = make_weights.data_list()
    assert {split: set(files) for split, files in found.items()} == expected
    assert any("apoferritin-one-frame" in path for path in found["validation"])
    assert any("specimens" in path for path in found["validation"])


def test_a_state_file_goes_on_in_an_empty_folder(tmp_path: Path) -> None:
    file, stage = tmp_path / "state.safetensors", Stage("one", TINY, "", RECIPE.steps, 20)
    here, there = plan(tmp_path / "here", stage), plan(tmp_path / "there", stage)
    tiny(here.runs, stage, 10)
    Keeper(here, file).write()
    assert there.take(state_file.read(file), file)
    assert there.step(stage) == 10
    before, after = (torch.load(p.checkpoint(stage), weights_only=True) for p in (here, there))
    assert after["recipe"] == before["recipe"]
    for part in ("model", "mean"):
        for name, tensor in before[part].items():
            assert after[part][name].dtype == tensor.dtype
            torch.testing.assert_close(after[part][name], tensor, rtol=1e-3, atol=1e-7)
    for number, moments in before["optimizer"]["state"].items():
        moved = after["optimizer"]["state"][number]
        torch.testing.assert_close(moved["exp_avg_sq"], moments["exp_avg_sq"], rtol=2**-8, atol=0)
        assert moved["step"] == moments["step"] == 10
        assert not moved["exp_avg"].any()
    tiny(there.runs, stage, 20)
    tiny(tmp_path / "whole", stage, 20)
    whole, moved = (losses(p / "one" / "loss.csv") for p in (tmp_path / "whole", there.runs))
    assert list(moved) == [20]
    assert moved == pytest.approx({step: whole[step] for step in moved}, rel=0.05)
    tables = [
        (p / "one" / "loss.csv").read_text().splitlines()[-1].split(",") for p in (tmp_path / "whole", there.runs)
    ]
    assert tables[0][2] == tables[1][2]


def test_six_steps_in_one_go_and_in_two_places(tmp_path: Path) -> None:
    here, there, file = plan(tmp_path / "here"), plan(tmp_path / "there"), tmp_path / "state.safetensors"
    whole = tiny(tmp_path / "whole", ONE, 6)
    tiny(here.runs, ONE, 3)
    Keeper(here, file).write()
    assert there.take(state_file.read(file), file)
    moved = tiny(there.runs, ONE, 6)
    x = torch.from_numpy(batch(99)[0])[:, None]
    fresh = AttentionUNet(2, 2).eval()
    with torch.no_grad():
        assert (whole(x) - moved(x)).abs().mean() < 0.2 * (whole(x) - fresh(x)).abs().mean()
    there.finish(ONE)
    assert list(there.finished()) == ["one"]


def test_finished_stages_are_known_and_what_the_next_needs_is_exact(tmp_path: Path) -> None:
    here, there, file = plan(tmp_path / "here"), plan(tmp_path / "there"), tmp_path / "state.safetensors"
    tiny(here.runs, ONE, 6)
    here.finish(ONE)
    Keeper(here, file).write()
    assert there.take(state_file.read(file), file)
    assert there.finished() == here.finished() != {}
    mine, its = (state_file.weights_in(torch.load(p.checkpoint(ONE), weights_only=True)) for p in (here, there))
    assert state_file.digest(mine) == state_file.digest(its)
    tiny(here.runs, TWO, 2, here.checkpoint(ONE))
    assert set(here.state().weights) == set(), "a stage that has begun needs no weights to begin with"
    tiny(here.runs, TWO, 4)
    here.finish(TWO)
    Keeper(here, file).write()
    assert there.take(state_file.read(file), file)
    assert set(there.finished()) == {"one", "two"} and there.checkpoint(TWO).exists()
    assert not there.take(state_file.read(file), file)


def test_the_further_one_counts(tmp_path: Path) -> None:
    here, there, file = plan(tmp_path / "here"), plan(tmp_path / "there"), tmp_path / "state.safetensors"
    tiny(here.runs, ONE, 3)
    Keeper(here, file).write()
    tiny(there.runs, ONE, 4)
    assert not there.take(state_file.read(file), file) and there.step(ONE) == 4
    tiny(here.runs, ONE, 5)
    Keeper(here, file).write()
    assert there.take(state_file.read(file), file) and there.step(ONE) == 5


def test_a_state_of_other_runs_is_refused(tmp_path: Path) -> None:
    here, file = plan(tmp_path / "here"), tmp_path / "state.safetensors"
    tiny(here.runs, ONE, 6)
    here.finish(ONE)
    Keeper(here, file).write()
    state = state_file.read(file)
    other = Stage("one", TINY, "--endless", RECIPE.steps, 6)
    with pytest.raises(CryoSegNetError, match="another recipe of the stage one"):
        plan(tmp_path / "a", other, TWO).take(state, file)
    with pytest.raises(CryoSegNetError, match="other stages"):
        plan(tmp_path / "a", TWO).take(state, file)
    there = plan(tmp_path / "b")
    (there.runs / "one").mkdir(parents=True)
    (there.runs / "one" / "DONE").write_text(json.dumps({"recipe": there.recipe(ONE), "sha256": "0"}))
    with pytest.raises(CryoSegNetError, match="its stage one gave other weights"):
        there.take(state, file)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "text", "folder"])
def test_a_damaged_state_is_one_sentence(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, file = plan(tmp_path / "here"), tmp_path / "state.safetensors"
    tiny(here.runs, ONE, 3)
    Keeper(here, file).write()
    data = bytearray(file.read_bytes())
    file.unlink()
    if damage == "folder":
        file.mkdir()
    else:
        data[-3] ^= 1
        pieces = {"cut": data[: len(data) // 2], "empty": b"", "flipped": data, "text": b"weights\n" * 99}
        file.write_bytes(pieces[damage])
    monkeypatch.setattr(make_weights, "STAGES", (ONE, TWO))
    with pytest.raises(SystemExit) as caught:
        make_weights.main([str(tmp_path / "there"), "--state", str(file)])
    assert isinstance(caught.value.code, str) and "is damaged or not a state file" in caught.value.code
    assert "\n" not in caught.value.code and "going on" not in capsys.readouterr().out


def trained(network: torch.nn.Module, mean: bool) -> dict[str, object]:
    """A checkpoint as after one step."""
    optimizer = torch.optim.AdamW(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    return {"model": weights, "mean": dict(weights) if mean else None, "optimizer": optimizer.state_dict(), "step": 1}


def test_every_state_of_the_real_networks_is_below_16_mb(tmp_path: Path) -> None:
    unet, sam = trained(AttentionUNet(16, 4), True), trained(build_sam(window_sam.SIZES), False)
    whole = Plan(tmp_path, STAGES)
    sizes = {}
    for begun in (False, True):
        for index, stage in enumerate((*STAGES, None)):
            left = STAGES[index:]
            needed = set(whole.last).union(*(s.needs(begun and s is stage) for s in left))
            weights = {
                s.name: state_file.weights_in(unet if s.script == UNET else sam)
                for s in STAGES[:index]
                if s.name in needed
            }
            own = (unet if stage.script == UNET else sam) if stage and begun else None
            finished = {s.name: Finished(whole.recipe(s), "0" * 64) for s in STAGES[:index]}
            file = tmp_path / "state.safetensors"
            state_file.write(file, State(stage.name if stage else "", "", 1, finished, own, weights))
            sizes[stage.name if stage else "calibration", begun] = file.stat().st_size
    assert 12e6 < max(sizes.values()) < 16 * 2**20, sizes
    with safe_open(file, "pt") as opened:  # not a pickle
        assert set(opened.metadata()) == {"state", "sha256"}


def make_alone(runs: Path, *more: str) -> subprocess.Popen[str]:
    """`make_weights` of two tiny stages in another process, without the calibration."""
    code = (
        "import sys; from benchmarks.weights import make_weights as m; from benchmarks.weights.stages import Stage\n"
        f"m.STAGES = (Stage('one', {TINY!r}, '--endless', {RECIPE.steps}, 12), {TWO!r})\n"
        "m.make = lambda plan, stop: print('made')\n"
        f"m.main({[str(runs), *more]!r})"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_stopped_by_a_signal_and_moved_it_ends_the_way_it_began(tmp_path: Path) -> None:
    here, there, file = tmp_path / "here", tmp_path / "there", tmp_path / "state.safetensors"
    first = make_alone(here, "--state", str(file))
    wait_for(here / "one" / "slow", first)
    first.send_signal(signal.SIGTERM)
    out, _ = first.communicate(timeout=400)
    assert first.returncode == 0
    assert "everything is saved: the same command goes on" in out and "made" not in out
    step = state_file.read(file).step
    assert 2 < step < 12
    (there / "one").mkdir(parents=True)
    (there / "one" / "fast").touch()
    second = make_alone(there, "--state", str(file))
    out, _ = second.communicate(timeout=400)
    assert second.returncode == 0 and "going on from it" in out and "made" in out
    assert {name for name in ("one", "two") if (there / name / "DONE").exists()} == {"one", "two"}
    state = state_file.read(file)
    assert state.stage == "" and set(state.weights) == set() and list(state.finished) == ["one", "two"]


def test_minutes_stop_a_command_that_saves(tmp_path: Path) -> None:
    code = f"import sys; sys.stdin.read(); open({str(tmp_path / 'saved')!r}, 'w')"
    end = time.monotonic() + 0.3
    with Stop(lambda: time.monotonic() > end) as stop, pytest.raises(Stopped):
        make_weights.run([sys.executable, "-S", "-c", code], stop)
    assert (tmp_path / "saved").exists()


def test_a_failed_command_is_said(tmp_path: Path) -> None:
    with Stop() as stop:
        make_weights.run([sys.executable, "-S", "-c", ""], stop)
        with pytest.raises(SystemExit, match="this stage failed"):
            make_weights.run([sys.executable, "-S", "-c", "raise SystemExit(3)"], stop)


def test_the_state_is_written_from_time_to_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here, file = plan(tmp_path / "here"), tmp_path / "state.safetensors"
    tiny(here.runs, ONE, 2)
    Keeper(here, file).keep()
    assert not file.exists()
    Keeper(here, file, seconds=0).keep()
    assert state_file.read(file).step == 2
    Keeper(here, tmp_path / "missing" / "state", seconds=0).keep()
    assert "warning: cannot write" in capsys.readouterr().out


def fake_scenes(first: int) -> Iterator[tuple[int, LabelledPeaks]]:
    """Every second number is a scene, with four peaks."""
    for number in range(first, 1000):
        rng = np.random.default_rng(number)
        if number % 2 == 0:
            image, places = rng.normal(size=(120, 120)).astype(np.float16), rng.integers(20, 100, (2, 4))
            x, y = places[1].astype(float), places[0].astype(float)
            yield number, LabelledPeaks(image, image.clip(0, 1), places[0], places[1], x, y, np.full(4, 32.0))


def test_a_stopped_sam_ends_as_an_undisturbed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_sam, "BATCH", 4)
    monkeypatch.setattr(train_sam, "SCENES_PER_BATCH", 2)
    recipe = train_sam.SamRecipe(steps=6, scenes=3, seed=5)
    whole = train_sam.train(recipe, fake_scenes, tmp_path / "whole")
    drawn: list[int] = []

    def watched(first: int) -> Iterator[tuple[int, LabelledPeaks]]:
        drawn.append(first)
        return fake_scenes(first)

    stops = iter([False] * 3 + [False] * 3 + [True])  # three scenes of the pool, then the fourth step
    with pytest.raises(Stopped):
        train_sam.train(recipe, watched, tmp_path / "parts", asked=lambda: next(stops))
    parts = train_sam.train(recipe, watched, tmp_path / "parts")
    assert drawn == [0, 8], "the pool after four steps begins with the fifth scene"
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, parts.state_dict()[name]), name
    with pytest.raises(CryoSegNetError, match="another recipe"):
        train_sam.train(train_sam.SamRecipe(steps=6, scenes=3, seed=6), fake_scenes, tmp_path / "parts")
    torch.save(whole.state_dict(), tmp_path / "parts" / "checkpoint.pt")
    with pytest.raises(CryoSegNetError, match="weights only"):
        train_sam.train(recipe, fake_scenes, tmp_path / "parts")
