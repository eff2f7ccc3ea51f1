"""The whole program with its built-in network, as a user runs it."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryosegnet_ext import Picker, read_micrograph, read_picks
from cryosegnet_ext.evaluation import agreement
from tests.conftest import REPOSITORY
from tests.damage import damaged_files
from tests.waiting import start, wait_until

pytestmark = pytest.mark.slow

DATA = REPOSITORY / "cryosegnet_ext" / "data"
SIDE = 448


def program(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "cryosegnet_ext", *map(str, words)]


def run(*words: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(program(*words), capture_output=True, text=True, env=environment, **options)  # type: ignore


def processor_seconds() -> float:
    """What the programs that have ended took, which other programs on the machine hardly change."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def picked(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((folder / "picks").iterdir())}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 small micrographs, each another part of the sample."""
    folder = tmp_path_factory.mktemp("small")
    sample = read_micrograph(DATA / "sample.mrc")
    rng = np.random.default_rng(3)
    for i in range(20):
        y, x = (int(rng.integers(0, n - SIDE)) for n in sample.data.shape)
        with mrcfile.new(folder / f"mic_{i:02d}.mrc") as mrc:
            mrc.set_data(sample.data[y : y + SIDE, x : x + SIDE])
            mrc.voxel_size = 2.0
    return folder


def test_demo_finds_the_particles_within_a_minute(tmp_path: Path) -> None:
    before = processor_seconds()
    done = run("demo", "--output", tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    assert processor_seconds() - before < 60, "a minute where a core is free"
    picks, truth = read_picks(tmp_path / "demo" / "picks" / "sample.star"), read_picks(DATA / "sample_truth.star")
    found = agreement(np.c_[picks.x, picks.y], np.c_[truth.x, truth.y], 25)
    assert found.precision > 0.85 and found.recall > 0.85
    assert f"precision {found.precision:.2f}, recall {found.recall:.2f}" in done.stdout
    assert (tmp_path / "demo" / "overlays" / "sample.jpg").stat().st_size > 20_000


def test_damaged_files_among_good_ones(small: Path, tmp_path: Path) -> None:
    bad = damaged_files(tmp_path / "bad", small / "mic_00.mrc", count=200, seed=1)
    done = run("pick", small, tmp_path / "bad", "-o", tmp_path / "out", "--diameter", "170", "--no-overlays")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert len(list((tmp_path / "out" / "picks").rglob("mic_*.star"))) == 20
    totals = json.loads((tmp_path / "out" / "summary.json").read_text())["totals"]
    assert (totals["micrographs"], totals["failed"]) == (20, 200) and totals["picks"] > 50
    with open(tmp_path / "out" / "failed.csv", newline="", errors="surrogateescape") as stream:
        reasons = {Path(row["name"]).name: row["reason"] for row in csv.DictReader(stream)}
    assert set(reasons) == {p.name for p in bad} and all(reasons.values())
    assert not any("unexpected" in reason for reason in reasons.values())


def test_same_bytes_twice_and_after_a_kill(small: Path, tmp_path: Path) -> None:
    words = ("pick", small, "--format", "star,cbox", "--max-diameter", "250", "--no-overlays", "--quiet", "-o")
    assert run(*words, tmp_path / "a").returncode == 0
    assert run(*words, tmp_path / "b").returncode == 0
    expected = picked(tmp_path / "a")
    assert len(expected) == 40 and picked(tmp_path / "b") == expected

    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = start(program(*words, tmp_path / "c"), env=environment)
    journal = tmp_path / "c" / ".cryosegnet" / "journal.jsonl"
    wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 8, "line 8", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = len(list((tmp_path / "c" / "picks").glob("*.star")))
    assert 0 < before < 20
    assert run(*words, tmp_path / "c").returncode == 0
    assert picked(tmp_path / "c") == expected


def test_threshold_only_filters(small: Path) -> None:
    micrograph = read_micrograph(small / "mic_03.mrc")
    everything = Picker(diameter=170, threshold=0).pick(micrograph)
    for threshold in (0.3, 0.5, 0.9):
        fewer = Picker(diameter=170, threshold=threshold).pick(micrograph)
        kept = everything.above(threshold)
        assert np.array_equal(fewer.x, kept.x) and np.array_equal(fewer.score, kept.score)


def test_noise_gives_no_picks(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(1000, 30, (1024, 1024)).astype(np.float32)
    with mrcfile.new(tmp_path / "noise.mrc") as mrc:
        mrc.set_data(noise)
        mrc.voxel_size = 1.5
    assert len(Picker().pick(read_micrograph(tmp_path / "noise.mrc"))) < 3


@pytest.mark.parametrize("name,suffix,options,least", [
    ("apoferritin", ".mrc", [], 0.80),
    ("empiar-10017-denoised", ".jpg", ["--denoised"], 0.80),
])  # fmt: skip
def test_real_micrographs_that_were_not_trained_on(
    name: str, suffix: str, options: list[str], least: float, shared_data: Path, tmp_path: Path
) -> None:
    stems = json.loads((REPOSITORY / "benchmarks" / "splits.json").read_text())[name]["test"][:2]
    files = [shared_data / "micrographs" / name / (stem + suffix) for stem in stems]
    done = run("pick", *files, "-o", tmp_path, "--no-overlays", *options)
    assert done.returncode == 0, done.stderr
    right = total = 0
    for stem in stems:
        picks = read_picks(tmp_path / "picks" / f"{stem}.star")
        labels = read_picks(shared_data / "labels" / name / f"{stem}.star")
        reach = 0.3 * (64 if name == "apoferritin" else 108)
        found = agreement(np.c_[picks.x, picks.y], np.c_[labels.x, labels.y], reach)
        right, total = right + 2 * found.right, total + found.picks + found.labels
    assert right / total >= least
