"""Picking, from exposures in CryoSPARC to particle locations in CryoSPARC."""

from __future__ import annotations

import re
import resource
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

from cryosegnet_ext.cli import running_options
from cryosegnet_ext.errors import CryoSegNetError, UsageError
from cryosegnet_ext.files.micrograph import Micrograph
from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.runs.journal import Journal, Record
from cryosegnet_ext.runs.stopping import Stopped
from cryosparc_job import cli
from cryosparc_job.connection import Connection, OutputName
from cryosparc_job.errors import EngineLost, ServerError
from cryosparc_job.jobs import create_external_job
from cryosparc_job.locations import read_locations
from cryosparc_job.pick import PickingJob, pick
from tests.cryosparc_job.helpers import CLIENT, BlobPicker, add_exposures, environment, make_blobs
from tests.fake_cryosparc.faults import Fault
from tests.fake_cryosparc.running import RunningServer
from tests.fake_cryosparc.world import World

EXPOSURES = OutputName("J1", "exposures")


def picking_job(**options: Any) -> PickingJob:
    return PickingJob("P1", "W1", EXPOSURES, **options)


def check_truth(world: World, job: str, truth: dict[int, np.ndarray], flip_y: bool = False) -> None:
    """Every true particle has a pick within a pixel, and every pick is true."""
    found = read_locations(world.outputs[job, "particles"])
    shapes = dict(
        zip(world.outputs["J1", "exposures"]["uid"], world.outputs["J1", "exposures"]["micrograph_blob/shape"])
    )
    assert set(found) == set(truth)
    for uid, places in truth.items():
        ny, nx = shapes[uid]
        picks = found[uid] * [nx, ny]
        if flip_y:
            picks[:, 1] = ny - 1 - picks[:, 1]
        assert len(picks) == len(places)
        distance = np.linalg.norm(picks[:, None] - places[None], axis=2)
        assert distance.min(axis=0).max() < 1.0
        assert distance.min(axis=1).max() < 1.0


@pytest.mark.parametrize("download", [None, True])
def test_fifty_exposures_of_three_kinds(
    connection: Connection, world: World, tmp_path: Path, download: bool | None
) -> None:
    truth = add_exposures(world, [(512, 512)] * 47)
    truth |= add_exposures(world, [(4092, 5760)], first=47, particles=40)
    truth |= add_exposures(world, [(384, 576)] * 2, first=48, dtype=np.float16)
    cache = tmp_path / "downloads"
    result = pick(connection, picking_job(download=download, cache=cache, cache_bytes=5_000_000), BlobPicker())
    job = world.jobs[result.job]
    assert job.status == "completed"
    assert (result.exposures, result.picks, result.failures) == (50, 49 * 12 + 40, [])
    check_truth(world, result.job, truth)
    # The exposures go on to the next job, with what the picker did not touch.
    passed = world.load_output(job, "exposures", ["all"])
    assert len(passed) == 50
    assert {"ctf/df1_A", "mscope_params/accel_kv", "micrograph_blob/path"} <= set(passed.fields())
    kept = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    if download is None:
        assert "projects.download_file" not in world.calls
    else:
        assert 50 <= world.calls.count("projects.download_file") <= 58  # eight twice, for the diameter
        assert kept < 5_000_000 + 2 * 4 * 4092 * 5760


def test_columns_are_what_inspect_picks_reads(connection: Connection, world: World) -> None:
    add_exposures(world, [(512, 640)] * 2)
    result = pick(connection, picking_job(), BlobPicker())
    particles = world.outputs[result.job, "particles"]
    exposures = world.outputs["J1", "exposures"]
    assert set(np.unique(particles["location/micrograph_uid"])) == set(exposures["uid"])
    assert np.all(particles["location/exp_group_id"] == 3)
    assert set(particles["location/micrograph_path"]) == set(exposures["micrograph_blob/path"])
    assert np.all(np.asarray(particles["location/micrograph_shape"]) == [512, 640])
    assert np.allclose(particles["location/micrograph_psize_A"], 1.06)
    assert np.allclose(particles["location/min_dist_A"], 16 * 1.06)
    assert np.all(particles["pick_stats/ncc_score"] > 0.5)
    assert np.array_equal(particles["pick_stats/ncc_score"], particles["pick_stats/power"])
    assert len(np.unique(particles["uid"])) == len(particles)


@pytest.mark.skipif(CLIENT == "4.7", reason="an output of CryoSPARC 4.7 may have more columns than it asks for")
def test_a_server_without_the_optional_columns_gets_none(connection: Connection, world: World) -> None:
    world.template_extras = False
    add_exposures(world, [(512, 512)])
    result = pick(connection, picking_job(), BlobPicker())
    assert world.jobs[result.job].status == "completed"
    assert "location/min_dist_A" not in world.outputs[result.job, "particles"].fields()


def test_log_plots_and_thumbnails(connection: Connection, world: World) -> None:
    add_exposures(world, [(512, 512)] * 6)
    result = pick(connection, picking_job(log_seconds=0.0), BlobPicker())
    job, log = world.jobs[result.job], world.events[result.job]
    lines = [event for event in log if event["type"] == "text" and "of 6 exposures" in event["text"]]
    assert len(lines) == 1
    speed = r"([\d.]+/s|[\d.]+ s a micrograph)"
    if CLIENT == "4.7":
        # It cannot replace a line: there is a new one each minute.
        assert re.match(rf"1 of 6 exposures, {speed}, ", lines[0]["text"])
    else:
        assert lines[0]["updates"] == 5
        assert re.fullmatch(rf"6 of 6 exposures, {speed}, \d+ particles", lines[0]["text"])
    share = 1 - world.outputs[result.job, "particles"]["pick_stats/ncc_score"].mean()
    assert result.expected_false == pytest.approx(share, abs=2e-4) and 0.01 < share < 0.99
    said = f"About {100 * share:.0f} % of the particles are expected to be false picks"
    assert [event["text"] for event in log if "expected" in event.get("text", "")] == [said]
    assert sum(event["type"] == "checkpoint" for event in log) == 2
    pictures = [event["text"] for event in log if event["type"] == "image"]
    assert {"Particles per exposure", "Score", "Diameter"} <= set(pictures)
    assert sum(text.startswith("Picks on S1/") for text in pictures) == 4
    assert all(content for _, content, _ in world.assets.values())
    if CLIENT == "4.7":
        # An external job has no pictures but those in its log.
        assert any("particles" in text for text in pictures)
        return
    assert job.spec.outputs.root["particles"].image in world.assets
    assert world.assets[job.ui_tile_images[0].fileid][1].startswith(b"\x89PNG")


def test_the_same_exposures_give_the_same_particles(connection: Connection, world: World) -> None:
    add_exposures(world, [(512, 512)] * 3)
    one, two = (pick(connection, picking_job(), BlobPicker()).job for _ in range(2))
    assert one != two
    a, b = world.outputs[one, "particles"], world.outputs[two, "particles"]
    assert a.fields() == b.fields()
    assert all(np.array_equal(a[name], b[name]) for name in a.fields())


def test_no_flip_by_default_and_flip_y_on_request(connection: Connection, world: World) -> None:
    truth = add_exposures(world, [(512, 640)] * 2)
    check_truth(world, pick(connection, picking_job(), BlobPicker()).job, truth)
    check_truth(world, pick(connection, picking_job(flip_y=True), BlobPicker()).job, truth, flip_y=True)


def test_bad_exposures_are_left_out_and_named(connection: Connection, world: World) -> None:
    add_exposures(world, [(512, 512)] * 5)
    files = sorted((world.directory / "S1" / "motioncorrected").iterdir())
    files[0].write_bytes(b"")
    files[1].unlink()
    files[2].write_bytes(files[2].read_bytes()[:100_000])
    add_exposures(world, [(512, 512)], first=5)
    world.outputs["J1", "exposures"]["micrograph_blob/shape"][5] = [512, 640]
    result = pick(connection, picking_job(), BlobPicker())
    assert result.exit_code == 2
    assert (result.exposures, len(result.failures)) == (2, 4)
    assert world.jobs[result.job].status == "completed"
    assert len(world.outputs[result.job, "exposures"]) == 2
    warned = [event["text"] for event in world.events[result.job] if event["type"] == "warning"]
    assert sum("Left out" in text for text in warned) == 4
    assert any("512 columns and CryoSPARC says 512 and 640" in text for text in warned)


def test_no_usable_exposure_fails_the_job_with_the_reason(connection: Connection, world: World) -> None:
    add_exposures(world, [(512, 512)] * 2)
    for file in (world.directory / "S1" / "motioncorrected").iterdir():
        file.write_bytes(b"")
    with pytest.raises(Exception, match="None of 2 exposures could be picked"):
        pick(connection, picking_job(), BlobPicker())
    assert world.jobs["J2"].status == "failed"
    assert "is empty" in world.events["J2"][-1]["text"]
    assert ("J2", "particles") not in world.outputs


def test_exposures_without_what_is_needed_are_refused_before_picking(connection: Connection, world: World) -> None:
    add_exposures(world, [(512, 512)])
    results = world.jobs["J1"].spec.outputs.root["exposures"].results
    results[:] = [one for one in results if one.name != "mscope_params"]
    picker = BlobPicker()
    with pytest.raises(CryoSegNetError, match=r"J2: CryoSPARC refused starting the job .*lacks mscope_params"):
        pick(connection, picking_job(), picker)
    assert picker.picked == []
    with pytest.raises(CryoSegNetError, match=r"J1 has no output micrographs: name one of its outputs \(exposures\)"):
        pick(connection, PickingJob("P1", "W1", OutputName("J1", "micrographs")), picker)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"project": "P9"}, "finding the project P9 .404"),
        ({"workspace": "W9"}, "finding the workspace W9 .404"),
        ({"exposures": OutputName("J9", "exposures")}, "J9 does not exist"),
        ({"job": "J9"}, "J9 does not exist"),
        (
            {"exposures": OutputName("J1", "particles")},
            "J1:particles is of the type particle: name an output of",
        ),
        ({"job": "J1"}, "J1 is not an external job"),
    ],
)
def test_wrong_names_are_one_sentence(connection: Connection, world: World, wrong: Any, message: str) -> None:
    add_exposures(world, [(256, 256)])
    outputs = world.jobs["J1"].spec.outputs.root
    outputs["particles"] = outputs["exposures"].model_copy(update={"type": "particle"})
    with pytest.raises(CryoSegNetError, match=message) as refusal:
        pick(connection, PickingJob(**{**picking_job().__dict__, **wrong}), BlobPicker())
    assert "\n" not in str(refusal.value)
    assert set(world.jobs) == {"J1"}


class Stopping(BlobPicker):
    """Is interrupted at its second micrograph."""

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        if self.picked:
            raise KeyboardInterrupt
        return super().pick(micrograph, diameter)


def test_other_settings_are_noticed_before_the_job_is_touched(connection: Connection, world: World) -> None:
    add_exposures(world, [(256, 256)] * 2, particles=8)
    world.jobs["J1"].spec.outputs.root["exposures"].num_items = 2

    with pytest.raises(KeyboardInterrupt):
        pick(connection, picking_job(), Stopping())
    assert world.jobs["J2"].status == "failed"
    with pytest.raises(CryoSegNetError, match="holds a run with other settings: threshold"):
        pick(connection, picking_job(job="J2"), BlobPicker(threshold=0.6))
    assert world.jobs["J2"].status == "failed"
    picker = BlobPicker()
    assert pick(connection, picking_job(job="J2"), picker).picks == 16
    assert len(picker.picked) == 1


def refuse(*_: Any, **__: Any) -> None:
    raise PermissionError(13, "Permission denied", "state")


def interrupt(*_: Any, **__: Any) -> None:
    raise Stopped("SIGINT")


@pytest.mark.parametrize(
    ("place", "broken", "error"),
    [
        ("cryosparc_job.pick.Journal", refuse, EngineLost),
        ("cryosparc_job.pick.connect_once", interrupt, Stopped),
    ],
)
def test_a_new_job_that_cannot_be_started_is_removed(
    connection: Connection, world: World, monkeypatch: pytest.MonkeyPatch, place: str, broken: Any, error: Any
) -> None:
    add_exposures(world, [(256, 256)])
    monkeypatch.setattr(place, broken)
    with pytest.raises(error, match="J2 had not started and was removed: run the same command again"):
        pick(connection, picking_job(), BlobPicker())
    assert world.jobs["J2"].deleted


def test_a_job_that_the_user_named_stays_when_it_cannot_be_started(
    connection: Connection, fake: RunningServer, world: World
) -> None:
    add_exposures(world, [(256, 256)])
    create_external_job(connection, "P1", "W1", "mine")
    connection.patience = 0.05
    fake.faults.append(Fault("jobs.connect", "500", -1))
    with pytest.raises(ServerError, match="connecting"):
        pick(connection, picking_job(job="J2"), BlobPicker())
    assert (world.jobs["J2"].status, world.jobs["J2"].deleted) == ("building", False)


def test_no_particles_at_all_is_a_completed_job_with_a_warning(connection: Connection, world: World) -> None:
    add_exposures(world, [(512, 512)] * 2)
    result = pick(connection, picking_job(), BlobPicker(threshold=1.1))
    assert result.picks == 0
    assert world.jobs[result.job].status == "completed"
    assert any("No particles were found" in event.get("text", "") for event in world.events[result.job])


def test_a_link_outside_the_project_says_where_to_run(connection: Connection, world: World, tmp_path: Path) -> None:
    add_exposures(world, [(512, 512)] * 2)
    file = sorted((world.directory / "S1" / "motioncorrected").iterdir())[0]
    outside = tmp_path / "elsewhere.mrc"
    file.rename(outside)
    file.symlink_to(outside)
    result = pick(connection, picking_job(download=True), BlobPicker())
    assert [reason for _, reason in result.failures if "outside the project" in reason and "mounted" in reason]
    assert pick(connection, picking_job(), BlobPicker()).failures == []


def test_a_full_disk_is_not_the_exposures_fault(connection: Connection, world: World, tmp_path: Path) -> None:
    add_exposures(world, [(64, 64)] * 2 + [(512, 512)] * 2, particles=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        with pytest.raises(ServerError, match=r"cannot be written .*make room there, or choose another with --cache"):
            pick(connection, picking_job(download=True, cache=tmp_path / "small"), BlobPicker())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert world.jobs["J2"].status == "failed"


def test_a_full_disk_under_what_is_remembered(
    connection: Connection, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(self: Journal, record: Record) -> None:
        raise OSError(28, "No space left on device", str(self.path))

    monkeypatch.setattr(Journal, "add", add)
    add_exposures(world, [(256, 256)])
    with pytest.raises(
        EngineLost, match=r"^J2: Nothing can be picked here any more: .*jsonl: No space left on device\.$"
    ):
        pick(connection, picking_job(), BlobPicker())
    assert world.jobs["J2"].status == "failed"


class Given(BlobPicker):
    """Was given a diameter, angstrom."""

    needs_diameter = False

    def __init__(self, diameter: float) -> None:
        super().__init__()
        self.settings |= {"diameter": diameter, "recipe": "default"}

    def pick(self, micrograph: Micrograph, diameter: float | None = None) -> Picks:
        return super().pick(micrograph, 17.0)


@pytest.mark.parametrize(("given", "doubted"), [(34.0, True), (8.0, True), (18.0, False)])
def test_a_diameter_that_does_not_fit_is_doubted(
    connection: Connection, world: World, given: float, doubted: bool
) -> None:
    add_exposures(world, [(512, 512)] * 3)
    result = pick(connection, picking_job(), Given(given))
    sentence = f"the particles look about 17 A; diameter={given:g} was given"
    assert result.doubt == (sentence if doubted else None)
    warned = [event["text"] for event in world.events[result.job] if event["type"] == "warning"]
    assert warned == [sentence] * doubted


def test_a_diameter_far_from_what_is_seen_is_refused(connection: Connection, world: World) -> None:
    add_exposures(world, [(512, 512)] * 3)
    with pytest.raises(UsageError, match=r"J2: the particles look about 17 A; diameter=4 was given: .*force=True"):
        pick(connection, picking_job(), Given(4.0))
    assert world.jobs["J2"].status == "failed"
    assert pick(connection, picking_job(job="J2", force=True), Given(4.0)).picks


def test_the_command(fake: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in environment(fake).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(running_options, "make_picker", make_blobs)
    add_exposures(fake.world, [(512, 512)] * 2)
    words = ["pick", "--url", fake.url + "/", "--project", "P1", "--workspace", "W1", "--exposures", "J1:exposures"]
    assert cli.main(words) == 0
    said = capsys.readouterr()
    assert "J2 completed: 24 particles on 2 exposures, median diameter 17 A" in said.out
    assert fake.world.password not in said.out + said.err


def test_bright_particles(
    fake: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment(fake).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(running_options, "make_picker", make_blobs)
    truth = add_exposures(fake.world, [(512, 512)] * 2)
    for path in (fake.world.directory / "S1" / "motioncorrected").iterdir():
        with mrcfile.open(path, "r+") as mrc:
            mrc.set_data(-mrc.data)
    words = ["pick", "--url", fake.url + "/", "--project", "P1", "--workspace", "W1", "--exposures", "J1:exposures"]
    assert cli.main([*words, "--invert"]) == 0
    check_truth(fake.world, "J2", truth)
    settings = [event["text"] for event in fake.world.events["J2"] if event.get("text", "").startswith("Settings:")]
    assert len(settings) == 1 and '"invert": true' in settings[0]
    assert cli.main(words) == 0
    warned = [event["text"] for event in fake.world.events["J3"] if event["type"] == "warning"]
    assert len(warned) == 1 and "--invert" in warned[0]


def test_a_run_that_goes_on_notices_the_other_contrast(connection: Connection, world: World) -> None:
    add_exposures(world, [(256, 256)] * 2, particles=8)

    with pytest.raises(KeyboardInterrupt):
        pick(connection, picking_job(), Stopping())
    with pytest.raises(CryoSegNetError, match=r"other settings: invert \(not set then, true now\)"):
        pick(connection, picking_job(job="J2"), BlobPicker(invert=True))
