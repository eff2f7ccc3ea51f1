"""``cryosegnet train`` and ``finetune`` as a user runs them, killed and in two processes too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from cryosegnet_ext import read_picks
from cryosegnet_ext.cli import main
from cryosegnet_ext.evaluation import agreement
from cryosegnet_ext.weights import load_unet, location, metadata_of
from tests.waiting import LIMIT, start, wait_until

from .helpers import dataset, write_star

SMALL = ["--base-channels", "2", "--levels", "2", "--crop", "64", "--batch", "4", "--device", "cpu", "--diameter", "96"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    dataset(folder, 4, (220, 240))
    return folder


def arguments(data, output, *more, command="train"):
    words = [command, "--micrographs", str(data / "mics"), "--labels", str(data / "labels"), "-o", str(output)]
    return [*words, *(SMALL if command == "train" else []), *map(str, more)]


def test_a_trained_network_picks(tmp_path, capsys):
    found = dataset(tmp_path, 3, (260, 300))
    out = tmp_path / "out"
    code = main(arguments(tmp_path, out, "--steps", 60, "--base-channels", 4, "--learning-rate", 0.01))
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "this network, calibrated" in said.out and "step 60/60" in said.err
    files = {p.name for p in out.iterdir()}
    assert {"unet.safetensors", "training.json", "model_card.md", "split.json", "loss.csv", "curves.png"} <= files
    assert not {".cryosegnet-frames", "checkpoint.pt", "candidate.safetensors", ".cryosegnet-lock"} & files
    note = metadata_of(out / "unet.safetensors")
    assert note["recipe"] == "default" and note["diameter"] == 32 and 0.2 <= note["threshold"] <= 0.8
    report = json.loads((out / "training.json").read_text())
    assert report["status"] == "finished" and report["data"]["train_labels"] > 20
    split = json.loads((out / "split.json").read_text())
    assert len(split["train"]) == 2 and len(split["validation"]) == 1

    # easy particles, short training: most of them are found on the micrograph that was held out
    held = split["validation"][0]
    pick = ["pick", held, "-o", str(tmp_path / "picked"), "--diameter", "96", "--device", "cpu", "--quiet"]
    assert main([*pick, "--weights", str(out / "unet.safetensors")]) == 0
    number = int(held[-5])
    picks = read_picks(tmp_path / "picked" / "picks" / f"mic_{number}.star")
    agreed = agreement(np.c_[picks.x, picks.y], np.c_[found[number]], 8)
    assert agreed.precision > 0.7 and agreed.recall > 0.4

    before = (out / "unet.safetensors").stat().st_mtime_ns
    assert main(arguments(tmp_path, out, "--steps", 60, "--base-channels", 4, "--learning-rate", 0.01)) == 0
    assert "already finished" in capsys.readouterr().out
    assert (out / "unet.safetensors").stat().st_mtime_ns == before
    assert main(arguments(tmp_path, out, "--steps", 70)) == 3
    assert "other settings" in capsys.readouterr().err


def program(words, **options):
    return start([sys.executable, "-m", "cryosegnet_ext", *words], env=ONE_THREAD, text=True, **options)


def test_a_killed_run_goes_on_to_the_same_weights(data, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    steps = ("--steps", 60)
    undisturbed = program(arguments(data, whole, *steps, "--quiet"))
    process = program(arguments(data, killed, *steps, "--quiet"))
    wait_until((killed / "checkpoint.pt").exists, "the checkpoint", process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "unet.safetensors").exists()
    state = torch.load(killed / "checkpoint.pt", weights_only=True)
    assert state["step"] < 60
    resumed = program(arguments(data, killed, *steps), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert "going on with the run" in resumed.communicate()[1]
    assert resumed.returncode == 0 and undisturbed.wait() == 0
    ours, theirs = (load_unet(folder / "unet.safetensors")[0].state_dict() for folder in (whole, killed))
    assert all(torch.equal(a, b) for a, b in zip(ours.values(), theirs.values()))
    assert metadata_of(whole / "unet.safetensors")["threshold"] == metadata_of(killed / "unet.safetensors")["threshold"]
    tables = [
        [line.rsplit(",", 1)[0] for line in (folder / "loss.csv").read_text().splitlines()]
        for folder in (whole, killed)
    ]
    assert tables[0] == tables[1] and len(tables[0]) == 7
    assert (whole / "split.json").read_text() == (killed / "split.json").read_text()


def two_processes(*words):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run([*launcher, *words], env=ONE_THREAD, capture_output=True, text=True, timeout=LIMIT)


def test_two_processes_train_one_network(data, tmp_path):
    out = tmp_path / "out"
    words = arguments(data, out, "--steps", 20, "--log-file", tmp_path / "log")
    done = two_processes("-m", "cryosegnet_ext", *words)
    assert done.returncode == 0, done.stderr
    kept = (tmp_path / "log").read_text()
    for sentence in ("labels for ", "to validate; particle diameter", "step 20/20", "calibrating the score"):
        assert done.stderr.count(sentence) == kept.count(sentence) == 1, (sentence, done.stderr, kept)
    assert done.stdout.count("this network, calibrated:") == 1  # one of them speaks
    assert (out / "unet.safetensors").exists() and not (out / ".cryosegnet-frames").exists()
    lines = (out / "loss.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "10", "20"]


def said_once(done, sentence):
    """torchrun's own error, of which process failed, has a traceback without these marks."""
    assert done.returncode != 0
    assert done.stderr.count(sentence) == 1, done.stderr
    assert "[rank0]" not in done.stderr and "[rank1]" not in done.stderr, done.stderr


def test_a_mistake_is_said_once_by_two_processes(data, tmp_path):
    words = arguments(data, tmp_path / "out", "--steps", 10, "--labels", tmp_path / "nowhere")
    said_once(two_processes("-m", "cryosegnet_ext", *words), "no such file or folder")


FAILING = """
import sys, time, torch
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.training.parallel import PartnerFailed, joined

failing, meeting = int(sys.argv[1]), sys.argv[2]
try:
    with joined("cpu") as group:
        group.wait()
        if group.rank == failing:
            time.sleep(0.5)
            raise CryoSegNetError("the sentence")
        group.wait() if meeting == "wait" else group.total(torch.ones(3))
        raise SystemExit("went on")
except CryoSegNetError as error:
    print(error, file=sys.stderr)
    sys.exit(3)
except PartnerFailed:
    sys.exit(3)
"""


@pytest.mark.parametrize(("failing", "meeting"), [(0, "wait"), (1, "wait"), (0, "sum"), (1, "sum")])
def test_a_process_whose_partner_failed_leaves_quietly(tmp_path, failing, meeting):
    (tmp_path / "failing.py").write_text(FAILING)
    said_once(two_processes(str(tmp_path / "failing.py"), str(failing), meeting), "the sentence")


def test_sigint_stops_and_the_same_command_goes_on(data, tmp_path):
    words = arguments(data, tmp_path / "out", "--steps", 400)
    process = program(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    wait_until((tmp_path / "out" / "loss.csv").exists, "the first losses", process)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate()
    assert process.returncode == 4 and "Traceback" not in error
    assert "the same command goes on" in out
    assert (tmp_path / "out" / "checkpoint.pt").exists()


def test_the_published_recipe(data, tmp_path):
    size = ["--base-channels", "2", "--levels", "2", "--device", "cpu", "--diameter", "96", "--denoised"]
    words = ["train", "--micrographs", str(data / "mics"), "--labels", str(data / "labels"), "-o", str(tmp_path / "p")]
    assert main([*words, *size, "--recipe", "published", "--epochs", "2", "--batch", "2", "--quiet"]) == 0
    note = metadata_of(tmp_path / "p" / "unet.safetensors")
    assert note["recipe"] == "published" and "calibration" not in note and "threshold" in note
    report = json.loads((tmp_path / "p" / "training.json").read_text())
    assert report["results"]["steps"] == 4  # three micrographs in batches of two, twice


def test_flipped_labels_stop_the_training_with_their_remedy(data, tmp_path, capsys):
    (tmp_path / "flipped").mkdir()
    for path in (data / "labels").iterdir():
        picks = read_picks(path)
        write_star(tmp_path / "flipped" / path.name, picks.x, 219 - picks.y)
    words = ["train", "--micrographs", str(data / "mics"), "--labels", str(tmp_path / "flipped"), "--quiet"]
    assert main([*words, "-o", str(tmp_path / "out"), *SMALL, "--steps", "2"]) == 3
    said = capsys.readouterr().err
    assert "run again with --flip-labels y" in said and "mic_0.star" in said and "mic_3.star" in said
    assert main([*words, "-o", str(tmp_path / "out2"), *SMALL, "--steps", "2", "--flip-labels", "y"]) == 0


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--epochs", "3"], 1, "--epochs goes with --recipe published"),
        (["--levels", "9"], 1, "--levels"),
        (["--crop", "100"], 1, "must be a multiple of 32"),
        (["--split", "nowhere.json"], 1, "no such file"),
        (["--recipe", "published", "--simulate", "x.mrc"], 1, "leave out --simulate"),
        (["--crops-on-device"], 1, "--crops-on-device goes with --simulate"),
        (["--start", "default", "--levels", "3"], 1, "leave out"),
        (["--device", "cuda:77"], 1, "cuda:77"),
        (["--diameter", "20000"], 1, "diameter"),
        (["--simulate", "nowhere.mrc"], 3, "nowhere.mrc"),
        (["--precision", "float16"], 3, "needs a GPU"),
        (["--labels", "nowhere"], 3, "no such file or folder"),
        (["--start", "nowhere.pt"], None, "nowhere.pt"),
    ],
)
def test_mistakes_are_one_sentence(data, tmp_path, capsys, more, code, words):
    given = arguments(data, tmp_path / "out", "--steps", 2)
    if more[0] == "--start" and len(more) == 2:
        given = [w for i, w in enumerate(given) if not {w, given[i - 1]} & {"--base-channels", "--levels"}]
    result = main([*given, *more])
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said
    assert result == code if code is not None else result in (1, 3)


def test_finetune_keeps_the_start_weights_when_it_does_not_help(data, tmp_path, capsys):
    """With a learning rate of almost 0 nothing changes: the picks of the start weights are not lost."""
    more = ("--diameter", 96, "--steps", 1, "--crop", 64, "--batch", 2, "--learning-rate", 1e-7, "--device", "cpu")
    assert main(arguments(data, tmp_path / "out", *more, command="finetune")) == 0
    report = json.loads((tmp_path / "out" / "training.json").read_text())
    said = capsys.readouterr().out
    if report["kept"]["share"] == 0 and "kept unchanged" in said:
        assert (tmp_path / "out" / "unet.safetensors").read_bytes() == location("default").read_bytes()
    after = report["results"]["scores"].get("fine-tuned", report["results"]["scores"]["start weights"])
    assert after["f1"] >= report["results"]["scores"]["start weights"]["f1"]


def test_finetune_needs_something_to_learn_from(data, tmp_path, capsys):
    assert main(["finetune", "--micrographs", str(data / "mics"), "-o", str(tmp_path / "out")]) == 1
    assert "--self-train" in capsys.readouterr().err
