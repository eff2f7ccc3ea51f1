"""The folder of a run: what is the user's stays, what cannot be written is said, what changed is not gone on with."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest
import torch

from cryosegnet_ext import CryoSegNetError
from cryosegnet_ext.cli import main
from cryosegnet_ext.files.diameter import Diameter
from cryosegnet_ext.runs.folder import locked
from cryosegnet_ext.runs.stopping import Stopped
from cryosegnet_ext.training import fit
from cryosegnet_ext.training.folder import FRAMES

from .helpers import dataset, write_star

SMALL = ["--steps", "1", "--batch", "1", "--crop", "64", "--base-channels", "2", "--levels", "2", "--device", "cpu"]


@pytest.fixture
def data(tmp_path):
    dataset(tmp_path, 4, (220, 240))
    return tmp_path


def train(data, output, *more):
    words = ["train", "--micrographs", str(data / "mics"), "--labels", str(data / "labels"), "-o", str(output)]
    return main([*words, "--diameter", "96", *SMALL, *map(str, more)])


def test_a_users_folder_of_frames_is_left_alone(data):
    movie = data / "proj" / "frames" / "movie1.tif"
    movie.parent.mkdir(parents=True)
    movie.write_text("movie")
    assert train(data, data / "proj", "--quiet") == 0
    assert movie.read_text() == "movie" and (data / "proj" / "unet.safetensors").is_file()
    assert train(data, data / "proj", "--quiet", "--overwrite") == 0
    assert movie.read_text() == "movie"


@pytest.mark.parametrize("name", ["unet.safetensors", "model_card.md", "checkpoint.pt", "tensorboard", "split.json"])
@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_a_folder_with_files_of_these_names_and_no_run_is_refused(data, capsys, name, more):
    (data / "proj").mkdir()
    (data / "proj" / name).write_text("mine")
    assert train(data, data / "proj", *more) == 3
    said = capsys.readouterr().err
    assert name in said and "another folder" in said and "Traceback" not in said
    assert (data / "proj" / name).read_text() == "mine"
    assert [p.name for p in (data / "proj").iterdir()] == [name]


@pytest.mark.parametrize("content", ["{}", "not json", '{"kind": 3, "settings": {}}'])
def test_another_training_json_is_no_run(data, capsys, content):
    (data / "proj").mkdir()
    (data / "proj" / "training.json").write_text(content)
    assert train(data, data / "proj", "--overwrite") == 3
    assert "not the record of a run" in capsys.readouterr().err
    assert (data / "proj" / "training.json").read_text() == content


def test_overwriting_with_bad_input_leaves_the_earlier_run(data, capsys):
    out = data / "out"
    assert train(data, out, "--quiet") == 0
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    assert train(data, out, "--overwrite", "--labels", data / "nowhere") == 3
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before
    capsys.readouterr()
    assert train(data, out, "--overwrite", "--quiet", "--seed", 5) == 0
    assert json.loads((out / "training.json").read_text())["settings"]["seed"] == 5


@pytest.mark.parametrize("where", ["/proc/xx", "afile/x", "closed/x", "readonly"])
def test_a_folder_that_cannot_be_written_is_one_sentence(data, capsys, monkeypatch, where):
    (data / "afile").write_text("")
    (data / "readonly").mkdir()
    mkdir, opened = type(data).mkdir, os.open

    def no_mkdir(self, *args, **kwargs):
        if self == data / "closed" / "x":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return mkdir(self, *args, **kwargs)

    def no_open(path, *args, **kwargs):
        if str(path).startswith(str(data / "readonly")):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(type(data), "mkdir", no_mkdir)
    monkeypatch.setattr(os, "open", no_open)
    assert train(data, data / where) == 3
    said = capsys.readouterr().err
    assert "cannot write" in said and where in said and said.count("\n") == 1


def stopped(data, output, *more):
    """A run that a signal ended before its last step."""
    kept = fit._Run.save

    def save_and_stop(self):
        kept(self)
        raise Stopped

    fit._Run.save = save_and_stop
    try:
        return train(data, output, "--quiet", *more)
    finally:
        fit._Run.save = kept


def test_an_option_that_puts_labels_right_works_in_the_same_folder(data, capsys):
    for path in (data / "labels").iterdir():
        rows = [line.split() for line in path.read_text().splitlines()[5:]]
        write_star(path, [float(x) for x, _ in rows], [219 - float(y) for _, y in rows])
    assert train(data, data / "out") == 3
    assert "run again with --flip-labels y" in capsys.readouterr().err
    assert train(data, data / "out", "--flip-labels", "y", "--quiet") == 0


def test_settings_count_from_the_first_checkpoint_on(data, capsys):
    assert stopped(data, data / "out") == 4
    assert train(data, data / "out", "--seed", 3) == 3
    assert "seed (0 then, 3 now)" in capsys.readouterr().err


def test_a_run_that_goes_on_notices_the_other_contrast(data, capsys):
    assert stopped(data, data / "out") == 4
    assert train(data, data / "out", "--invert") == 3
    assert "invert (false then, true now)" in capsys.readouterr().err
    # a version that did not have the option
    report = json.loads((data / "out" / "training.json").read_text())
    del report["settings"]["invert"]
    (data / "out" / "training.json").write_text(json.dumps(report))
    assert train(data, data / "out", "--invert") == 3
    assert "invert (not set then, true now)" in capsys.readouterr().err
    assert train(data, data / "out", "--quiet") == 0


def test_sizes_are_estimated_with_dark_particles(data, monkeypatch):
    from cryosegnet_ext.files.inputs import expand_inputs
    from cryosegnet_ext.files.micrograph import read_micrograph
    from cryosegnet_ext.training import data as loading
    from cryosegnet_ext.training.options import Options

    inputs = [(one, None) for one in expand_inputs([data / "mics"])]
    seen = []

    def estimate(_, micrographs):
        seen.append(micrographs[0].data)
        return Diameter(100.0 + len(seen), "angstrom")

    monkeypatch.setattr(loading, "seen_diameter", estimate)
    sizes = [
        loading.known_diameter(Options([], [], invert=invert), inputs, data / "out", "cpu").value
        for invert in (False, True)
    ]
    assert sizes == [101, 102]
    plain = read_micrograph(inputs[0][0].path).data
    assert np.array_equal(seen[0], plain) and np.array_equal(seen[1], -plain)


def test_labels_that_went_are_missed(data, capsys):
    assert stopped(data, data / "out") == 4
    gone = (data / "labels" / "mic_1.star").read_bytes()
    (data / "labels" / "mic_1.star").unlink()
    assert train(data, data / "out") == 3
    said = capsys.readouterr().err
    assert "changed since the run" in said and "mic_1.mrc" in said and "mic_2" not in said
    (data / "labels" / "mic_1.star").write_bytes(gone)
    assert train(data, data / "out", "--quiet") == 0


def test_labels_that_were_edited_are_noticed(data, capsys):
    assert stopped(data, data / "out") == 4
    with open(data / "labels" / "mic_2.star", "a") as stream:
        stream.write("100.0 100.0\n")
    assert train(data, data / "out") == 3
    assert "mic_2.mrc" in capsys.readouterr().err
    assert train(data, data / "out", "--overwrite", "--quiet") == 0


def test_a_corrected_split_is_read_again(data, capsys):
    names = [str(data / "mics" / f"mic_{i}.mrc") for i in range(4)]
    split = data / "sp.json"
    split.write_text(json.dumps({"train": names, "validation": []}))
    assert train(data, data / "out", "--split", split) == 3
    assert "0 to validate on" in capsys.readouterr().err
    split.write_text(json.dumps({"train": names[:3], "validation": names[3:]}))
    assert stopped(data, data / "out", "--split", split) == 4
    assert json.loads((data / "out" / "split.json").read_text())["validation"] == names[3:]
    split.write_text(json.dumps({"train": names[1:], "validation": names[:1]}))
    assert train(data, data / "out", "--split", split) == 3
    assert "sp.json" in capsys.readouterr().err


def test_sizes_are_not_those_of_other_labels(data):
    from cryosegnet_ext.files.inputs import expand_inputs
    from cryosegnet_ext.training.data import known_diameter
    from cryosegnet_ext.training.labels import Labels
    from cryosegnet_ext.training.options import Options

    inputs = expand_inputs([data / "mics"])
    options = Options([], [])

    def size(diameter):
        chosen = [(one, Labels("l", np.zeros(2), np.zeros(2), diameter)) for one in inputs]
        return known_diameter(options, chosen, data / "out", "cpu").value

    assert size(20.0) == pytest.approx(80) and size(30.0) == pytest.approx(120) and size(20.0) == pytest.approx(80)
    notes = [json.loads(file.read_text()) for file in (data / "out" / FRAMES).glob("size-*.json")]
    assert sorted(note["value"] for note in notes) == pytest.approx([80, 120])
    assert all(note["angstrom"] is True and note["source"] == "from the labels" for note in notes)


def test_a_folder_that_another_process_works_in_is_refused(data, capsys):
    with locked(data / "out"):
        assert train(data, data / "out") == 3
    assert f"process {os.getpid()} on " in (said := capsys.readouterr().err) and "works in this folder" in said
    assert not any((data / "out").iterdir())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you ..."
        ),
    ],
)
def test_too_little_memory_is_one_sentence(data, capsys, monkeypatch, error):
    def advance(*_):
        raise error

    monkeypatch.setattr(fit._Run, "advance", advance)
    assert train(data, data / "out") == 3
    said = capsys.readouterr().err
    assert "ran out of memory on cpu: give a smaller --batch or --crop" in said and "Traceback" not in said


@pytest.mark.parametrize("more", [(), ("--skip-bad",)])
def test_a_full_disk_is_no_fault_of_the_labels(data, capsys, monkeypatch, more):
    def save(path, _):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(np, "save", save)
    assert train(data, data / "out", *more) == 3
    said = capsys.readouterr().err
    assert "No space left on device" in said and "free some disk space" in said
    assert "label" not in said.splitlines()[-1] and "skip-bad" not in said


def test_a_damaged_micrograph_is_no_problem_with_the_labels(data, capsys):
    broken = data / "mics" / "mic_1.mrc"
    broken.write_bytes(broken.read_bytes()[:50_000])
    assert train(data, data / "out") == 3
    said = capsys.readouterr().err
    assert "1 problem with the micrographs;" in said and "mic_1.mrc" in said
    assert train(data, data / "out", "--skip-bad", "--quiet") == 0


def test_a_damaged_micrograph_is_left_out_where_the_size_is_still_to_be_found(data):
    from cryosegnet_ext.files.inputs import expand_inputs
    from cryosegnet_ext.training.data import known_diameter
    from cryosegnet_ext.training.labels import Labels
    from cryosegnet_ext.training.options import Options

    (data / "mics" / "mic_1.mrc").write_bytes(b"broken")
    one = Labels("l", np.zeros(2), np.zeros(2), 20.0)
    chosen = [(each, one) for each in expand_inputs([data / "mics"])]
    options = Options([], [])
    assert known_diameter(options, chosen, data / "out", "cpu").value == pytest.approx(80)
    with pytest.raises(CryoSegNetError, match="mic_1"):
        known_diameter(options, chosen[1:2], data / "out", "cpu")


def test_an_early_end_is_on_record(data, capsys):
    more = ("--steps", 100, "--patience", 1, "--learning-rate", 1e-7)
    assert train(data, data / "out", *more) == 0
    results = json.loads((data / "out" / "training.json").read_text())["results"]
    assert results["planned_steps"] == 100 and results["steps"] < 100 and results["best_step"] < results["steps"]
    early = f"at step {results['steps']} of 100"
    assert early in capsys.readouterr().out and early in (data / "out" / "model_card.md").read_text()


@pytest.mark.parametrize("each", [3, 8])
def test_few_flipped_labels_stop_finetune_and_name_what_helps(tmp_path, capsys, each):
    for i, (x, y) in enumerate(dataset(tmp_path, 5, (220, 240))):
        write_star(tmp_path / "labels" / f"mic_{i}.star", x[:each], 219 - y[:each])
    words = ["finetune", "--micrographs", str(tmp_path / "mics"), "--labels", str(tmp_path / "labels")]
    words += ["--diameter", "96", "-o", str(tmp_path / "out")]
    assert main(words) == 3
    assert "run again with --flip-labels y" in capsys.readouterr().err
    # what was done to the labels already is counted in
    assert main([*words, "--flip-labels", "x"]) == 3
    said = capsys.readouterr().err
    assert "turned by 180 degrees: use --flip-labels y" in said and "--flip-labels xy" not in said


def test_labels_too_few_to_tell_are_drawn(data, capsys):
    for i in (1, 2, 3):
        (data / "labels" / f"mic_{i}.star").unlink()
    for i in range(2):
        write_star(data / "labels" / f"mic_{i}.star", [50.0, 100.0], [60.0, 90.0])
    assert train(data, data / "out") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "too few to tell" in line]
    assert len(said) == 1 and "labels.jpg" in said[0]
    assert (data / "out" / "labels.jpg").stat().st_size > 1000


def test_float16_on_a_processor_is_refused_before_anything_is_prepared(data, capsys):
    assert train(data, data / "out", "--precision", "float16") == 3
    said = capsys.readouterr().err
    assert "needs a GPU" in said and said.count("\n") == 1 and not (data / "out").exists()


def test_a_card_that_cannot_be_written_leaves_none(data, capsys, monkeypatch):
    from cryosegnet_ext.training import result

    monkeypatch.setattr(result, "model_card", lambda _: "\ud800")  # no UTF-8
    with pytest.raises(UnicodeEncodeError):
        train(data, data / "out", "--quiet")
    assert not (data / "out" / "model_card.md").exists()
