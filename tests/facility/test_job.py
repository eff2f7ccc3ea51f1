"""The facility contract (docs/facilities.md): what a service that waits for picks can rely on."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from cryosegnet_ext import CryoSegNetError, read_picks
from cryosegnet_ext.facility import FacilityJob, PickedMicrograph, schema
from cryosegnet_ext.facility.job import Publisher
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.runs import batch
from tests.damage import flip
from tests.stub_picker import StubPicker, write_micrograph
from tests.waiting import LIMIT, start, wait_until

ROOT = Path(__file__).resolve().parents[2]


def check(entry: dict[str, Any], name: str) -> None:
    jsonschema.Draft202012Validator(schema(name)).validate(entry)


def star_rows(path: Path) -> list[tuple[float, float]]:
    """As Diamond's services read a STAR file: six lines skipped by count, two columns taken."""
    return [(float(x), float(y)) for x, y, *_ in (line.split() for line in path.read_text().splitlines()[6:]) if x]


def cbox_columns(path: Path) -> dict[str, list[float]]:
    """The columns of a CBOX file by name, as crYOLO's readers find them."""
    block = path.read_text().split("data_cryolo\n")[1].split("data_cryolo_include")[0].splitlines()
    labels = [line.split()[0] for line in block if line.startswith("_")]
    rows = [line.split() for line in block if line and not line.startswith(("_", "loop_"))]
    wanted = ("_CoordinateX", "_CoordinateY", "_Width", "_Height", "_EstWidth", "_EstHeight", "_Confidence")
    return {label: [float(row[labels.index(label)]) for row in rows] for label in wanted}


class Watching(StubPicker):
    """Notes what lies in STAR/ while it picks."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.seen = folder, []

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        self.seen.append(sorted(path.name for path in (self.folder / "STAR").iterdir()))
        return super().pick(micrograph, diameter)


def test_one_micrograph_gives_the_files_that_services_read(tmp_path: Path) -> None:
    folder = tmp_path / "AutoPick" / "job005"
    path = write_micrograph(tmp_path / "mic_001.mrc", pixel_size=2.0)
    picker = Watching(folder)
    picked = FacilityJob(picker, folder).pick(path)
    assert picker.seen == [["mic_001.tmp"]], "the .tmp file stands alone while the micrograph is being picked"
    assert sorted(one.name for one in (folder / "STAR").iterdir()) == ["mic_001.star"]
    assert picked.done and picked.picks == 24

    rows = star_rows(folder / "STAR" / "mic_001.star")
    assert len(rows) == picked.picks and all(x == round(x) and 0 <= x < 96 and 0 <= y < 64 for x, y in rows)
    cbox = cbox_columns(folder / "CBOX" / "mic_001.cbox")
    centres = np.array(cbox["_CoordinateX"]) + np.array(cbox["_Width"]) / 2
    assert np.allclose(centres, [x for x, _ in rows], atol=0.51), "CBOX has corners, STAR has centres"
    assert np.allclose(np.array(cbox["_EstWidth"]) * 2.0, picked.diameters, atol=0.01), "angstrom = pixels * 2 A"
    assert np.allclose(cbox["_Confidence"], picked.scores, atol=1e-5)
    assert (folder / "JPEG" / "mic_001.jpg").read_bytes()[:2] == b"\xff\xd8"
    told = json.loads((folder / "JSON" / "mic_001.json").read_text())
    assert len(told.pop("crc32")) == 8
    assert told == picked.as_json()
    assert (told["star"], told["pixel_size"], told["shape"]) == ("STAR/mic_001.star", 2.0, [64, 96])
    assert len(told["diameters"]) == len(told["scores"]) == told["picks"]
    check(told, "micrograph")


def test_marker_of_the_service_that_calls_us_stays_until_it_removes_it(tmp_path: Path) -> None:
    # CryoEM services make an empty one first, and tell from it, after a kill, that nobody was told of the picks yet.
    folder = tmp_path / "job"
    marker = folder / "STAR" / "mic.tmp"
    marker.parent.mkdir(parents=True)
    marker.touch()
    path = write_micrograph(tmp_path / "mic.mrc")
    assert FacilityJob(StubPicker(), folder).pick(path).done
    assert marker.read_bytes() == b"", "as it was"
    path.write_bytes(b"damaged on the way")
    assert not FacilityJob(StubPicker(), folder).pick(path).done
    assert marker.read_bytes() == b""


def test_message_delivered_twice_is_answered_without_picking_again(tmp_path: Path) -> None:
    path = write_micrograph(tmp_path / "mic.mrc")
    picker = StubPicker()
    job = FacilityJob(picker, tmp_path / "job")
    first = job.pick(path)
    assert job.pick(path) == first and FacilityJob(picker, tmp_path / "job").pick(path) == first
    assert len(picker.picked) == 1
    write_micrograph(path, seed=1, shape=(64, 64))
    assert job.pick(path).picks == 16, "another file of the same name is another micrograph"
    assert job.pick(path, pixel_size=3.0).pixel_size == 3.0
    (tmp_path / "job" / "STAR" / "mic.star").unlink()
    job.pick(path)
    assert len(picker.picked) == 4 and (tmp_path / "job" / "STAR" / "mic.star").exists()
    other = FacilityJob(StubPicker(threshold=0.9), tmp_path / "job")
    assert other.pick(path).picks == job.pick(path).picks
    assert len(picker.picked) == 5, "settings of their own"
    strict = StubPicker(threshold=0.9)
    strict.settings |= {"limits": [1, 2.5, None], "more": {"invert": True}}
    assert FacilityJob(strict, tmp_path / "job").pick(path) == FacilityJob(strict, tmp_path / "job").pick(path)
    assert len(strict.picked) == 1, "whatever is in the settings"


def test_failures_are_told_and_leave_no_picks(tmp_path: Path) -> None:
    job = FacilityJob(StubPicker(), tmp_path / "job")
    path = write_micrograph(tmp_path / "mic.mrc")
    assert job.pick(path).done
    path.write_bytes(b"damaged on the way")
    failed = job.pick(path)
    assert failed.status == "failed" and failed.reason and "\n" not in failed.reason
    assert (
        not (tmp_path / "job" / "STAR" / "mic.star").exists() and not (tmp_path / "job" / "STAR" / "mic.tmp").exists()
    )
    check(failed.as_json(), "micrograph")
    absent = job.pick(tmp_path / "absent.mrc")
    assert absent.status == "failed" and "absent.mrc" in (absent.reason or "")
    unsized = job.pick(write_micrograph(tmp_path / "unsized.mrc", pixel_size=0.0))
    assert "pixel size" in (unsized.reason or "")
    assert job.pick(tmp_path / "unsized.mrc", pixel_size=1.5).done


def files_of(folder: Path) -> dict[str, bytes]:
    """What a job holds for services, by path; without its own state."""
    every = (path for path in folder.rglob("*") if path.is_file() and ".cryosegnet" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in every}


@pytest.mark.parametrize("wrong", [-1, 0, 1e9, float("nan"), 10**400, True, "x", [2.0]], ids=ascii)
def test_a_wrong_argument_is_refused_before_anything_is_touched(tmp_path: Path, wrong: Any) -> None:
    job = FacilityJob(StubPicker(), tmp_path / "job")
    path = write_micrograph(tmp_path / "mic.mrc")
    first = job.pick(path)
    before = files_of(tmp_path / "job")
    assert len(before) == 4
    answer = job.pick(path, pixel_size=wrong)
    assert (
        answer.status == "failed" and "pixel size" in (answer.reason or "") and "0.05 to 100" in (answer.reason or "")
    )
    check(answer.as_json(), "micrograph")
    assert files_of(tmp_path / "job") == before and job.pick(path) == first
    assert job.pick(write_micrograph(tmp_path / "new.mrc"), pixel_size=wrong).status == "failed"
    assert files_of(tmp_path / "job") == before
    with pytest.raises(CryoSegNetError, match="pixel size"):
        FacilityJob(StubPicker(), tmp_path / "other", pixel_size=wrong)
    assert not (tmp_path / "other").exists()


def test_a_failed_repick_of_an_unchanged_micrograph_keeps_the_finished_picks(tmp_path: Path) -> None:
    class Failing(StubPicker):
        def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
            raise RuntimeError("can't start new thread")

    folder, path = tmp_path / "job", write_micrograph(tmp_path / "mic.mrc")
    first = FacilityJob(StubPicker(), folder).pick(path)
    before = files_of(folder)
    failing = FacilityJob(Failing(threshold=0.9), folder)
    for pixel_size in (None, 3.0):
        answer = failing.pick(path, pixel_size)
        assert answer.status == "failed" and "memory ran out" in (answer.reason or "")
        assert "the files of its earlier picks are kept" in (answer.reason or "") and answer.star is None
        assert files_of(folder) == before
    # A file system that is away for a moment, or a file that was archived.
    path.rename(tmp_path / "archived.mrc")
    assert failing.pick(path, 3.0).status == "failed" and files_of(folder) == before
    assert FacilityJob(StubPicker(), folder).pick(path) == first
    (tmp_path / "archived.mrc").rename(path)
    # A picture that is missing is drawn again; if that fails, the picks stay.
    (folder / "JPEG" / "mic.jpg").unlink()
    assert FacilityJob(Failing(), folder).pick(path).status == "failed"
    assert FacilityJob(StubPicker(), folder).pick(path).done
    assert {name for name in files_of(folder)} == set(before)


@pytest.mark.parametrize("name", ["STAR/mic.star", "JSON/mic.json"])
def test_what_may_be_somebodys_work_is_kept_when_the_repick_fails(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, path = tmp_path / "job", write_micrograph(tmp_path / "mic.mrc")
    assert FacilityJob(StubPicker(), folder).pick(path).done
    text = (folder / name).read_bytes() + b" "
    (folder / name).write_bytes(flip(text, 8 * len(text) // 2))
    changed = files_of(folder)
    assert FacilityJob(Broken(), folder).pick(path).status == "failed"
    kept_in = folder / ".cryosegnet" / "changed"
    kept = {str(one.relative_to(kept_in)): one.read_bytes() for one in kept_in.rglob("*") if one.is_file()}
    assert {one: changed[one] for one in ("STAR/mic.star", "CBOX/mic.cbox")} == kept
    assert "mic.mrc" in caplog.text and "STAR/mic.star was damaged or edited; the old file is kept in" in caplog.text
    assert ("JSON/mic.json was damaged" in caplog.text) == (name == "JSON/mic.json")


class Broken(StubPicker):
    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        raise ZeroDivisionError("a bug")


def test_a_bug_fails_one_micrograph_and_is_logged(tmp_path: Path) -> None:
    failed = FacilityJob(Broken(), tmp_path / "job").pick(write_micrograph(tmp_path / "mic.mrc"))
    assert failed.reason == "unexpected error ZeroDivisionError: a bug"
    assert "ZeroDivisionError" in (tmp_path / "job" / ".cryosegnet" / "errors.log").read_text()


class Hungry(StubPicker):
    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        raise RuntimeError("can't start new thread")


def test_memory_that_runs_out_is_no_bug(tmp_path: Path) -> None:
    failed = FacilityJob(Hungry(), tmp_path / "job").pick(write_micrograph(tmp_path / "mic.mrc"))
    assert failed.reason is not None and failed.reason.startswith("memory ran out")
    assert not (tmp_path / "job" / ".cryosegnet" / "errors.log").exists()


class Empty(StubPicker):
    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        return Picks.empty(micrograph.pixel_size, (64, 96))


def test_no_picks_is_no_failure(tmp_path: Path) -> None:
    picked = FacilityJob(Empty(), tmp_path / "job").pick(write_micrograph(tmp_path / "mic.mrc"))
    assert picked.done and picked.picks == 0 and picked.diameter is None
    assert star_rows(tmp_path / "job" / "STAR" / "mic.star") == []
    assert len((tmp_path / "job" / "STAR" / "mic.star").read_text().splitlines()) == 6
    check(picked.as_json(), "micrograph")


@pytest.mark.parametrize("name", ["STAR/m.star", "CBOX/m.cbox", "JSON/m.json"])
@pytest.mark.parametrize("layout", [False, True])
def test_a_flipped_bit_is_noticed_and_the_files_are_made_again(
    tmp_path: Path, name: str, layout: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path, folder = write_micrograph(tmp_path / "mics/m.mrc"), tmp_path / "job"

    def again() -> None:
        if layout:
            pick_with_layout(tmp_path / "mics", folder)
        else:
            assert FacilityJob(StubPicker(), folder, pictures=False).pick(path).done

    again()
    whole = (folder / name).read_bytes()
    for bit in (8 * len(whole) // 2, 8 * len(whole) - 100):
        (folder / name).write_bytes(flip(whole, bit))
        caplog.clear()
        again()
        text = (folder / name).read_bytes()
        assert text == whole or (name.startswith("JSON") and json.loads(text)["status"] == "done")
        (said,) = (record.getMessage() for record in caplog.records)  # once
        assert f"{folder / name} was damaged or edited" in said and "m.mrc" in said
        caplog.clear()
        again()
        assert not caplog.records


def pick_with_layout(mics: Path, folder: Path) -> None:
    publish = Publisher(folder, StubPicker().settings)
    inputs = expand_inputs([mics])
    how = {"formats": ("star", "cbox"), "progress": False, "begin": publish.check, "watch": publish}
    batch.run(StubPicker(), inputs, folder, **how)  # type: ignore[arg-type]


def test_same_stem_from_another_folder_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    job = FacilityJob(StubPicker(), tmp_path / "job")
    job.pick(write_micrograph(tmp_path / "a" / "mic.mrc"))
    before = (tmp_path / "job" / "STAR" / "mic.star").read_bytes()
    other = job.pick(write_micrograph(tmp_path / "b" / "mic.mrc", seed=1))
    assert other.status == "failed" and "same stem" in (other.reason or "")
    assert (tmp_path / "job" / "STAR" / "mic.star").read_bytes() == before


def test_the_size_is_learnt_from_eight_micrographs_and_kept(tmp_path: Path) -> None:
    picker = StubPicker()
    job = FacilityJob(picker, tmp_path / "job", pictures=False)
    for number in range(10):
        job.pick(write_micrograph(tmp_path / f"mic_{number}.mrc", seed=number))
    assert len(picker.estimated) == 8
    assert len({size for _, size in picker.picked[7:]}) == 1
    again = StubPicker()
    FacilityJob(again, tmp_path / "job").pick(write_micrograph(tmp_path / "later.mrc", seed=99))
    assert not again.estimated and again.picked[0][1] == picker.picked[-1][1]


def test_a_folder_that_cannot_be_used_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CryoSegNetError, match="cannot write"):
        FacilityJob(StubPicker(), tmp_path / "file" / "job")


def test_the_real_picker_keeps_the_contract(tmp_path: Path) -> None:
    from importlib.resources import files

    from cryosegnet_ext import Picker, read_micrograph

    sample = str(files("cryosegnet_ext") / "data" / "sample.mrc")
    picker = Picker(diameter=165, device="cpu")
    picked = FacilityJob(picker, tmp_path / "job").pick(sample)
    picks = picker.pick(read_micrograph(sample))
    assert picked.done and picked.picks == len(picks) > 20
    assert np.allclose(picked.diameters, picks.diameter, atol=0.01)
    assert 130 < (picked.diameter or 0) < 200, "angstrom"
    check(picked.as_json(), "micrograph")
    assert star_rows(tmp_path / "job" / "STAR" / "sample.star") == [
        (float(np.floor(x + 0.5)), float(np.floor(y + 0.5))) for x, y in zip(picks.x, picks.y)
    ]


# The same contract from the command line


def run_stub(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tests" / "stub_picker.py"), *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=LIMIT)


@pytest.mark.parametrize("how", ["list", "folder"])
def test_pick_with_the_facility_layout(tmp_path: Path, how: str) -> None:
    for number in range(3):
        write_micrograph(tmp_path / "mics" / f"mic_{number}.mrc", seed=number)
    (tmp_path / "mics" / "mic_1.mrc").write_bytes(b"damaged")
    names = "".join(f"{tmp_path}/mics/mic_{number}.mrc\n" for number in range(3))
    (tmp_path / "list.txt").write_text(names)
    source = f"@{tmp_path / 'list.txt'}" if how == "list" else tmp_path / "mics"
    done = run_stub("pick", source, "-o", tmp_path / "job", "--layout", "facility")
    assert done.returncode == 2, done.stderr
    job = tmp_path / "job"
    assert sorted(one.name for one in (job / "STAR").iterdir()) == ["mic_0.star", "mic_2.star"]
    for number in (0, 2):
        told = json.loads((job / "JSON" / f"mic_{number}.json").read_text())
        check(told, "micrograph")
        assert len(star_rows(job / "STAR" / f"mic_{number}.star")) == told["picks"] == len(told["diameters"])
        assert (job / "STAR" / f"mic_{number}.star").read_bytes() == (job / "picks" / f"mic_{number}.star").read_bytes()
        columns = cbox_columns(job / "CBOX" / f"mic_{number}.cbox")
        assert np.allclose(np.array(columns["_EstWidth"]) * told["pixel_size"], told["diameters"], atol=0.01)
        picture = job / "JPEG" / f"mic_{number}.jpg"
        assert picture.stat().st_size > 1000 and picture.samefile(job / "overlays" / picture.name)
    failed = json.loads((job / "JSON" / "mic_1.json").read_text())
    check(failed, "micrograph")
    assert failed["status"] == "failed"
    check(json.loads((job / "summary.json").read_text()), "summary")


def test_layout_that_is_asked_for_later_is_filled(tmp_path: Path) -> None:
    for number in range(2):
        write_micrograph(tmp_path / "mics" / f"mic_{number}.mrc", seed=number)
    words = ("pick", tmp_path / "mics", "-o", tmp_path / "job", "--quiet")
    assert run_stub(*words, "--format", "star,cbox").returncode == 0
    assert not (tmp_path / "job" / "STAR").exists()
    done = run_stub(*words, "--layout", "facility")
    assert done.returncode == 0, done.stderr
    (tmp_path / "job" / "STAR" / "mic_1.star").unlink()
    assert run_stub(*words, "--layout", "facility").returncode == 0
    assert len(list((tmp_path / "job" / "STAR").iterdir())) == 2
    for path in (tmp_path / "job" / "JSON").iterdir():
        check(json.loads(path.read_text()), "micrograph")


@pytest.mark.parametrize("gone", ["STAR/mic_1.star", "CBOX/mic_1.cbox", "JSON/mic_1.json", "JPEG/mic_1.jpg"])
def test_each_run_repairs_the_files_at_its_start(tmp_path: Path, gone: str) -> None:
    job = tmp_path / "job"
    for number in range(2):
        write_micrograph(tmp_path / "mics" / f"mic_{number}.mrc", seed=number)
    words = ("pick", tmp_path / "mics", "-o", job, "--layout", "facility")
    assert run_stub(*words, "--quiet").returncode == 0
    before = files_of(job)
    pictures = [job / folder / "mic_1.jpg" for folder in ("overlays", "JPEG")]
    for content in (None, flip(before[gone], 800)):
        if content is None:
            (job / gone).unlink()
        elif gone.startswith("JPEG"):
            break  # a picture has no checksum
        else:
            (job / gone).write_bytes(content)
        command = [sys.executable, str(ROOT / "tests" / "stub_picker.py"), *map(str, words), "--watch"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        run = start(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: (job / gone).exists() and (job / gone).read_bytes() == before[gone], "the repair", run)
        assert run.poll() is None, "while the run goes on"
        (job / "STOP").touch()
        _, said = run.communicate(timeout=LIMIT)
        assert run.returncode == 0 and said.count("damaged or edited") <= 1, said
        assert pictures[0].samefile(pictures[1])


def test_what_is_picked_again_is_not_repaired_from_damaged_picks(tmp_path: Path) -> None:
    job, mic = tmp_path / "job", write_micrograph(tmp_path / "mics" / "mic.mrc")
    words = ("pick", mic.parent, "-o", job, "--layout", "facility")
    assert run_stub(*words, "--quiet").returncode == 0
    before = files_of(job)
    for name in ("picks/mic.cbox", "STAR/mic.star"):
        (job / name).write_bytes(flip(before[name], 800))
    done = run_stub(*words)
    assert done.returncode == 0 and "error" not in done.stderr, done.stderr
    now = files_of(job)
    assert all(now[name] == before[name] for name in before if name.startswith(("STAR", "CBOX", "picks")))


def test_a_picture_is_stored_once_and_each_name_keeps_its_own(tmp_path: Path) -> None:
    mics, job = tmp_path / "mics", tmp_path / "job"
    for number in range(2):
        write_micrograph(mics / f"mic_{number}.mrc", seed=number)
    words = ("pick", mics, "-o", job, "--layout", "facility", "--quiet")
    assert run_stub(*words).returncode == 0
    pictures = [job / folder / "mic_0.jpg" for folder in ("overlays", "JPEG")]
    before = pictures[0].read_bytes()
    # Picked again by a run without this layout: its picture is not that of the published picks.
    write_micrograph(mics / "mic_0.mrc", seed=7)
    assert run_stub(*words[:4], "--format", "star,cbox", "--quiet").returncode == 0
    assert pictures[0].read_bytes() != before == pictures[1].read_bytes()
    # A micrograph that fails loses both; one that was picked again has one picture again.
    write_micrograph(mics / "mic_0.mrc", seed=8)
    (mics / "mic_1.mrc").write_bytes(b"damaged")
    assert run_stub(*words).returncode == 2
    assert pictures[0].samefile(pictures[1]) and pictures[0].read_bytes() != before
    assert not list(job.glob("*/mic_1.jpg")) and not list(job.glob("*/.tmp-*"))
    shutil.rmtree(job / "overlays")
    assert pictures[1].read_bytes()[:2] == b"\xff\xd8"


ODD = [
    b"a\xc2\xa0b",
    b"esc\x1b[31m",
    b"rtl\xe2\x80\xaename",
    b"two\nlines",
    b"lat\xe9in",
    b"\xff\xfe",
    b"\xe3\x80\x80",
    b"' \"",
]


def test_odd_names_are_published_like_others(tmp_path: Path) -> None:
    (tmp_path / "mics").mkdir()
    source = write_micrograph(tmp_path / "source.mrc").read_bytes()
    for name in (*ODD, b"x" * 242):
        (tmp_path / "mics" / f"{os.fsdecode(name)}.mrc").write_bytes(source)
    job = tmp_path / "job"
    done = run_stub("pick", tmp_path / "mics", "-o", job, "--layout", "facility", PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 2 and "Traceback" not in done.stderr and "1 failed" in done.stderr + done.stdout
    assert sorted(os.fsencode(one.stem) for one in (job / "STAR").iterdir()) == sorted(ODD)
    for name in ODD:
        told = json.loads((job / "JSON" / f"{os.fsdecode(name)}.json").read_text())
        assert told["status"] == "done" and len(read_picks(job / told["star"])) == told["picks"] == 24
    again = run_stub("pick", tmp_path / "mics", "-o", job, "--layout", "facility", "--quiet")
    assert again.returncode == 2 and "Traceback" not in again.stderr


def test_one_that_cannot_be_published_does_not_end_the_run(tmp_path: Path) -> None:
    for number in range(2):
        write_micrograph(tmp_path / "mics" / f"mic_{number}.mrc", seed=number)
    words = ("pick", tmp_path / "mics", "-o", tmp_path / "job", "--quiet")
    assert run_stub(*words, "--format", "star,cbox").returncode == 0
    cbox = tmp_path / "job" / "picks" / "mic_0.cbox"
    cbox.write_bytes(b"?" * cbox.stat().st_size)
    journal = tmp_path / "job" / ".cryosegnet" / "journal.jsonl"  # as of an earlier version, which knows sizes only
    journal.write_text(re.sub(r', "(checksums": {[^}]*}|crc32": "\w+")', "", journal.read_text()))
    done = run_stub(*words, "--layout", "facility")
    assert "Traceback" not in done.stderr and "mic_0.cbox" in done.stderr
    assert [one.name for one in (tmp_path / "job" / "STAR").iterdir()] == ["mic_1.star"]
    told = json.loads((tmp_path / "job" / "JSON" / "mic_0.json").read_text())
    assert told["status"] == "failed" and "mic_0.cbox" in told["reason"]


NAMES = [
    "a\0b.mrc",
    "\udc00\ud800.mrc",
    "\ud800/a.mrc",
    "a\0/a.mrc",
    "x" * 300,
    "x" * 5000,
    "",
    ".",
    "..",
    "/",
    "a/../..",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_no_name_raises_or_leads_out(tmp_path: Path, name: str) -> None:
    job = FacilityJob(StubPicker(), tmp_path / "job")
    assert job.pick(write_micrograph(tmp_path / "a.mrc")).done
    before = {path for path in tmp_path.rglob("*") if tmp_path / "job" not in path.parents}
    answer = job.pick(name)
    assert answer.status == "failed" and answer.reason
    check(answer.as_json(), "micrograph")
    assert {path for path in tmp_path.rglob("*") if tmp_path / "job" not in path.parents} == before


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "5", '{"micrograph": 5}', '{"angstrom": 5}', '{"angstrom": ["x", -1]}', "\xff", "{}"]
)
def test_damaged_files_of_the_job_are_written_anew(tmp_path: Path, text: str) -> None:
    path = write_micrograph(tmp_path / "mic.mrc")
    first = FacilityJob(StubPicker(), tmp_path / "job").pick(path)
    (tmp_path / "job" / "JSON" / "mic.json").write_text(text)
    (tmp_path / "job" / ".cryosegnet" / "diameter.json").write_text(text)
    again = FacilityJob(StubPicker(), tmp_path / "job").pick(path)
    assert replace(again, seconds=0) == replace(first, seconds=0)


# The schemas


@pytest.mark.parametrize("name", ["summary", "micrograph"])
def test_schema_is_one_and_describes_every_field(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(name))
    assert set(schema(name)["required"]) == set(schema(name)["properties"])


def test_schema_names_every_field_of_the_message() -> None:
    told = PickedMicrograph("a.mrc", "a", "failed", reason="why").as_json()
    assert set(told) == set(schema("micrograph")["properties"])
    check(told, "micrograph")
    for wrong in ({"status": "success"}, {"picks": 1}, {"reason": None}, {"diameters": [-1.0]}):
        with pytest.raises(jsonschema.ValidationError):
            check(told | wrong, "micrograph")
    done = replace(PickedMicrograph("a.mrc", "a", "done"), star="STAR/a.star").as_json()
    with pytest.raises(jsonschema.ValidationError):
        check(done, "micrograph")
    with pytest.raises(ValueError, match="no schema"):
        schema("other")


@pytest.mark.parametrize("pixel_size", [2.0, 0.0])
def test_summaries_of_real_runs_follow_their_schema(tmp_path: Path, pixel_size: float) -> None:
    from cryosegnet_ext.runs import batch

    for number in range(2):
        write_micrograph(tmp_path / "mics" / f"mic_{number}.mrc", seed=number, pixel_size=pixel_size)
    (tmp_path / "mics" / "bad.mrc").write_bytes(b"")
    inputs = expand_inputs([tmp_path / "mics"])
    batch.run(StubPicker(), inputs, tmp_path / "out", progress=False)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    check(summary, "summary")
    known = set(schema("summary")["properties"]["micrographs"]["items"]["properties"])
    assert {field for entry in summary["micrographs"] for field in entry} <= known
    assert set(summary) <= set(schema("summary")["properties"]), "a new field wants a description"
    stopped = batch.run(StubPicker(), inputs, tmp_path / "none", progress=False, stop=lambda: True)
    assert stopped.stopped
    check(json.loads((tmp_path / "none" / "summary.json").read_text()), "summary")
    with pytest.raises(jsonschema.ValidationError):
        check(summary | {"totals": {}}, "summary")


# The sample service

SERVICE = """
import runpy, sys, types
from tests.stub_picker import StubPicker
module = types.ModuleType("cryosegnet_ext.picking.picker")
module.Picker = StubPicker
sys.modules["cryosegnet_ext.picking.picker"] = module
sys.argv[0] = "service.py"
runpy.run_path({script!r}, run_name="__main__")
"""


def start_service(queue: Path, job: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    code = SERVICE.format(script=str(ROOT / "packaging" / "service.py"))
    command = [sys.executable, "-c", code, str(queue), str(job), "--wait", "0.05", "--name", "test", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def send(queue: Path, name: str, message: object) -> None:
    queue.mkdir(parents=True, exist_ok=True)
    (queue / f".{name}").write_text(message if isinstance(message, str) else json.dumps(message))
    (queue / f".{name}").rename(queue / f"{name}.json")


def test_sample_service_answers_each_message(tmp_path: Path) -> None:
    queue, job = tmp_path / "queue", tmp_path / "job"
    for number in range(2):
        send(queue, f"m{number}", {"micrograph": str(write_micrograph(tmp_path / f"mic_{number}.mrc"))})
    send(queue, "absent", {"micrograph": str(tmp_path / "absent.mrc")})
    send(queue, "nonsense", "not json")
    service = start_service(queue, job)
    wait_until((queue / "answers" / "nonsense.json").exists, "an answer", service)
    send(queue, "late", {"micrograph": str(write_micrograph(tmp_path / "late.mrc", pixel_size=0.0)), "pixel_size": 1.5})
    wait_until((queue / "done" / "late.json").exists, "an answer", service)
    (queue / "STOP").touch()
    output, errors = service.communicate(timeout=LIMIT)
    assert service.returncode == 0, errors
    answers = {path.stem: json.loads(path.read_text()) for path in (queue / "answers").iterdir()}
    assert {name: answer["status"] for name, answer in answers.items()} == {
        "m0": "done",
        "m1": "done",
        "late": "done",
        "absent": "failed",
        "nonsense": "failed",
    }
    assert answers["late"]["pixel_size"] == 1.5
    assert len(read_picks(job / answers["m0"]["star"])) == answers["m0"]["picks"]
    assert sorted(path.stem for path in (queue / "failed").iterdir()) == ["absent", "nonsense"]
    assert output.splitlines()[0].startswith("ready")


def test_a_wrong_message_does_not_cost_the_picks_of_an_earlier_one(tmp_path: Path) -> None:
    queue, job = tmp_path / "queue", tmp_path / "job"
    mic = str(write_micrograph(tmp_path / "mic.mrc"))
    send(queue, "good", {"micrograph": mic})
    service = start_service(queue, job)
    wait_until((queue / "done" / "good.json").exists, "an answer", service)
    before = files_of(job)
    send(queue, "wrong", {"micrograph": mic, "pixel_size": -1})
    wait_until((queue / "failed" / "wrong.json").exists, "an answer", service)
    (queue / "STOP").touch()
    service.communicate(timeout=LIMIT)
    assert files_of(job) == before and set(before) == {
        "STAR/mic.star",
        "CBOX/mic.cbox",
        "JPEG/mic.jpg",
        "JSON/mic.json",
    }
    assert json.loads((job / "JSON" / "mic.json").read_text())["status"] == "done"


def test_sample_service_survives_poison(tmp_path: Path) -> None:
    queue, job = tmp_path / "queue", tmp_path / "job"
    (queue / "running" / "test").mkdir(parents=True)
    for folder in (queue, queue / "running" / "test"):  # new messages, and those at which a service ended before
        send(folder, f"deep {folder.name}", "[" * 100_000)
        (folder / f"dir {folder.name}.json" / "below").mkdir(parents=True)
        (folder / f"dangling {folder.name}.json").symlink_to(tmp_path / "absent")
        os.mkfifo(folder / f"pipe {folder.name}.json")
        send(folder, f"huge {folder.name}", '{"micrograph": "x", "pixel_size": 1' + "0" * 400 + "}")
        send(folder, f"five {folder.name}", "5")
        send(folder, f"number {folder.name}", {"micrograph": 5})
        send(folder, f"empty {folder.name}", {"micrograph": ""})
        for kind, wrong in (("text", "3.0"), ("yes", True), ("list", [1])):
            send(folder, f"{kind} {folder.name}", {"micrograph": str(tmp_path / "mic.mrc"), "pixel_size": wrong})
        send(folder, f"null {folder.name}", {"micrograph": "a\0b.mrc"})
        send(folder, f"half {folder.name}", {"micrograph": "\ud800.mrc"})
        send(folder, f"long {folder.name}", {"micrograph": "x" * 300})
        send(folder, f"lat\udce9in {folder.name}", {"micrograph": "lat\udce9in.mrc"})
    (queue / "failed" / "dir test.json" / "below").mkdir(parents=True)
    send(queue, "good", {"micrograph": str(write_micrograph(tmp_path / "mic.mrc"))})
    service = start_service(queue, job, "--idle", "1", PYTHONIOENCODING="ascii:strict")
    _, errors = service.communicate(timeout=LIMIT)
    assert service.returncode == 0, errors
    every = {path.stem: json.loads(path.read_text()) for path in (queue / "answers").iterdir()}
    for answer in every.values():
        check(answer, "micrograph")
    assert "must be a number without quotes" in every["text test"]["reason"]
    answers = {name: answer["status"] for name, answer in every.items()}
    assert len(answers) == 31 and answers.pop("good") == "done" and set(answers.values()) == {"failed"}
    assert not list((queue / "running" / "test").iterdir()) and not list(queue.glob("*.json"))


def test_sample_service_survives_a_kill_and_a_polite_stop(tmp_path: Path) -> None:
    queue, job = tmp_path / "queue", tmp_path / "job"
    send(queue, "m0", {"micrograph": str(write_micrograph(tmp_path / "mic.mrc"))})
    service = start_service(queue, job, STUB_HOLD="mic.mrc")
    wait_until((job / "STAR" / "mic.tmp").exists, "the picking", service)
    service.kill()
    service.communicate()
    assert not (job / "STAR" / "mic.star").exists()
    service = start_service(queue, job)
    wait_until((queue / "done" / "m0.json").exists, "an answer", service)
    assert sorted(one.name for one in (job / "STAR").iterdir()) == ["mic.star"]
    service.send_signal(signal.SIGTERM)
    service.communicate(timeout=LIMIT)
    assert service.returncode == 0


def test_a_message_at_which_the_service_is_killed_twice_fails(tmp_path: Path) -> None:
    queue, job = tmp_path / "queue", tmp_path / "job"
    path = write_micrograph(tmp_path / "mic.mrc")
    send(queue, "m0", {"micrograph": str(path)})
    for _ in range(2):
        killed_while_it_picks(queue, job)
    send(queue, "m1", {"micrograph": str(write_micrograph(tmp_path / "other.mrc"))})
    service = start_service(queue, job, "--idle", "0.1", STUB_HOLD="mic.mrc")
    service.communicate(timeout=LIMIT)
    answers = {one.stem: json.loads(one.read_text()) for one in (queue / "answers").iterdir()}
    assert {name: answer["status"] for name, answer in answers.items()} == {"m0": "failed", "m1": "done"}
    assert "the program was killed 2 times while it picked this micrograph" in answers["m0"]["reason"]
    check(answers["m0"], "micrograph")
    assert not (job / "STAR" / "mic.tmp").exists()
    kept = job / ".cryosegnet" / "deaths" / "mic.json"
    assert str(kept) in answers["m0"]["reason"]
    assert FacilityJob(StubPicker(), job).pick(path).status == "failed"
    write_micrograph(path, seed=1)  # another file
    assert FacilityJob(StubPicker(), job).pick(path).status == "done" and not kept.exists()


def killed_while_it_picks(queue: Path, job: Path) -> None:
    working = job / "STAR" / "mic.tmp"
    service = start_service(queue, job, STUB_HOLD="mic.mrc")
    wait_until(lambda: working.exists() and f"process {service.pid} " in working.read_text(), "the picking", service)
    service.kill()
    service.communicate()


@pytest.mark.parametrize("left", ["", "process 1e9 on x", "process {pid} on elsewhere", "process 1 on {host}"])
def test_what_others_left_is_no_death(tmp_path: Path, left: str) -> None:
    path = write_micrograph(tmp_path / "mic.mrc")
    job = FacilityJob(StubPicker(), tmp_path / "job")
    kept = tmp_path / "job" / ".cryosegnet" / "deaths" / "mic.json"
    for part in (kept.parent, tmp_path / "job" / "STAR"):
        part.mkdir()
    kept.write_text("[1e999, 1, 2]")
    (tmp_path / "job" / "STAR" / "mic.tmp").write_text(left.format(pid=os.getpid(), host=socket.gethostname()))
    assert job.pick(path).status == "done" and not kept.exists()


def test_a_diameter_that_does_not_fit_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Given(StubPicker):
        needs_diameter = False

        def __init__(self) -> None:
            super().__init__()
            self.settings = {"diameter": 3.0, "recipe": "default"}

    job = FacilityJob(Given(), tmp_path / "job", pictures=False)
    for i in range(2):
        assert job.pick(write_micrograph(tmp_path / f"m{i}.mrc", i)).done
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "the particles look about 20 A; diameter=3 was given"
    ]
