"""The chain from extraction to ab initio: whole, stopped and continued, and with errors."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryosparc.dataset import Dataset

from cryosegnet_ext.errors import CryoSegNetError
from cryosparc_job import chain, cli, jobs
from cryosparc_job.chain import ChainPlan, ClassRule, read_plan, run, steps
from cryosparc_job.connection import Connection, OutputName, connect
from cryosparc_job.pick import PickingJob, pick
from tests.cryosparc_job.helpers import CLIENT, BlobPicker, add_exposures, environment
from tests.fake_cryosparc.faults import Fault
from tests.fake_cryosparc.running import RunningServer
from tests.fake_cryosparc.world import World
from tests.waiting import LIMIT

CLASSES = [
    {"class_idx": 0, "res_A": 8.0, "num_particles_total": 10},
    {"class_idx": 1, "res_A": 30.0, "num_particles_total": 8},
    {"class_idx": 2, "res_A": 12.0, "num_particles_total": 4},
    {"class_idx": 3, "res_A": 9.0, "num_particles_total": 2},
]
RULE = ClassRule(resolution=15.0, particles=3)
CLASSIFY = "class_2D" if CLIENT == "4.7" else "class_2D_new"


@pytest.fixture
def connection(fake: RunningServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    for name, value in environment(fake).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jobs, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(chain, "POLL_SECONDS", 0.02)
    fake.world.class_info = CLASSES
    add_exposures(fake.world, [(256, 256)] * 3, particles=8)
    with connect(fake.url, patience=LIMIT) as one:
        pick(one, PickingJob("P1", "W1", OutputName("J1", "exposures")), BlobPicker())
        yield one


def plan(**options: Any) -> ChainPlan:
    options = {"lane": "gpu", "rule": RULE, **options}
    return ChainPlan("P1", "W1", OutputName("J2", "particles"), OutputName("J2", "exposures"), **options)


def test_the_whole_chain(connection: Connection, world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cryosparc_job")
    made = run(connection, plan())
    assert made == {"extract": "J3", "classify": "J4", "select": "J5", "abinit": "J6"}
    assert [world.jobs[uid].status for uid in made.values()] == ["completed"] * 4
    assert [world.jobs[uid].queued_to_lane for uid in made.values()] == ["gpu", "gpu", None, "gpu"]
    # 16 pixels of diameter: one and a half of it, rounded up to a multiple of 16.
    assert world.jobs["J3"].spec.params.box_size_pix == 32
    assert world.selected_classes == {0, 2}
    assert world.jobs["J5"].spec.outputs.root["particles_selected"].num_items == 14
    assert world.jobs["J6"].parents == ["J5"]
    assert "select: 2 of 4 classes kept" in caplog.messages
    assert "abinit: J6 completed, 14 particles_all_classes, 1 volume_class_0" in caplog.messages


def test_the_same_plan_makes_no_second_chain(connection: Connection, world: World) -> None:
    first = run(connection, plan(last="classify"))
    assert first == {"extract": "J3", "classify": "J4"}
    assert run(connection, plan()) == {
        "extract": "J3",
        "classify": "J4",
        "select": "J5",
        "abinit": "J6",
    }
    other = run(connection, plan(box=64, last="extract"))
    assert other == {"extract": "J7"}


@pytest.mark.parametrize(
    "operation", ["jobs.create", "jobs.connect", "jobs.enqueue", "jobs.interactive_post", "jobs.find_one"]
)
@pytest.mark.parametrize("kind", ["torn", "500_after_store"])
def test_faults_make_no_twins(
    connection: Connection, world: World, fake: RunningServer, operation: str, kind: str
) -> None:
    after = 5 if operation == "jobs.interactive_post" else 0  # the call that finishes the selection
    fake.faults.append(Fault(operation, kind, 3 if kind == "torn" else 1, after=after))
    made = run(connection, plan())
    assert [world.jobs[uid].status for uid in made.values()] == ["completed"] * 4
    assert len([job for job in world.jobs.values() if not job.deleted]) == 6
    for uid in made.values():
        assert all(len(one.connections) == 1 for one in world.jobs[uid].spec.inputs.root.values())


@pytest.mark.parametrize("status", ["failed", "killed"])
def test_a_job_that_fails_ends_the_chain_and_can_be_cleared(connection: Connection, world: World, status: str) -> None:
    world.ends[CLASSIFY] = status
    for _ in range(2):
        with pytest.raises(CryoSegNetError, match=rf"J4 \({CLASSIFY}\) (was )?{status}"):
            run(connection, plan())
    world.ends.clear()
    world.clear(world.jobs["J4"])
    assert run(connection, plan())["abinit"] == "J6"


def test_a_select_job_that_fails_before_it_waits_does_not_hang(connection: Connection, world: World) -> None:
    world.ends["select_2D"] = "failed"
    with pytest.raises(CryoSegNetError, match=r"J5 \(select_2D\) failed"):
        run(connection, plan())


def test_a_step_has_a_time_limit(connection: Connection, world: World) -> None:
    world.step_seconds = 100
    with pytest.raises(CryoSegNetError, match="still queued after"):
        run(connection, plan(hours=1e-6))


def test_no_class_passes(connection: Connection, world: World) -> None:
    with pytest.raises(CryoSegNetError, match=r"the best has 8\.0 A and 10 particles"):
        run(connection, plan(rule=ClassRule(resolution=3.0)))
    assert world.jobs["J5"].status == "waiting"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lane": "none"}, "There is no lane none: this CryoSPARC has default, gpu"),
        ({"lane": None}, "needs a lane"),
        ({"params": {"extract": {"box_size": 3}}}, "extract_micrographs_multi has no parameter box_size"),
        ({"params": {"pick": {}}}, "pick is not a step of the chain: use extract"),
    ],
)
def test_bad_plans_make_no_jobs(connection: Connection, world: World, options: Any, message: str) -> None:
    with pytest.raises(CryoSegNetError, match=message):
        run(connection, plan(**options))
    assert set(world.jobs) == {"J1", "J2"}


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (ClassRule(15.0, 3), [0, 2]),
        (ClassRule(15.0, 1), [0, 3, 2]),
        (ClassRule(50.0, 1), [0, 3, 2, 1]),
        (ClassRule(50.0, 1, 0.3), [0]),
        (ClassRule(50.0, 1, 0.6), [0, 3, 2]),
    ],
)
def test_rules(rule: ClassRule, kept: list[int]) -> None:
    assert rule.choose(CLASSES) == kept


def test_a_plan_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(
        "lane: gpu\nrule: {resolution: 12}\nclassify: {class2D_K: 100}\nabinit: {lane: default, abinit_K: 3}\n"
    )
    found = read_plan(file)
    made = plan(**found)
    assert (made.lane, made.lanes, made.rule.resolution) == ("gpu", {"abinit": "default"}, 12)
    assert made.params == {"classify": {"class2D_K": 100}, "abinit": {"abinit_K": 3}}
    for text in ("lane: [", "- a", "lanes: gpu", "rule: {res: 1}", "last: refine", "classify: 3"):
        file.write_text(text)
        with pytest.raises(CryoSegNetError):
            read_plan(file)
    with pytest.raises(CryoSegNetError, match="check the path"):
        read_plan(tmp_path / "missing.yaml")


def test_the_command_and_its_dry_run(
    connection: Connection, fake: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["chain", "--url", fake.url, "--project", "P1", "--workspace", "W1", "--particles", "J2:particles"]
    words += ["--lane", "gpu", "--classes", "20", "--min-particles", "3"]
    assert cli.main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "extract_micrographs_multi on gpu; box_size_pix=32" in said
    assert "class2D_K=20" in said
    assert "select_2D on the master" in said
    assert set(fake.world.jobs) == {"J1", "J2"}
    assert cli.main(words) == 0
    said = capsys.readouterr()
    assert "cryosegnet-cryosparc: abinit: J6 completed" in said.err
    assert said.out.splitlines() == ["extract: J3", "classify: J4", "select: J5", "abinit: J6"]
    with connect(fake.url) as one:
        assert [step.name for step in steps(one, plan(last="select"))] == ["extract", "classify", "select"]


def test_several_pixel_sizes_get_the_largest_box_and_are_said(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    table = Dataset({"location/min_dist_A": [100.0] * 3, "location/micrograph_psize_A": [2.0, 2.0, 1.0]})
    monkeypatch.setattr(connection, "call", lambda *_, **__: table)
    assert chain._box_size(connection, plan()) == 160
    assert "160 pixels at 1 A, 80 pixels at 2 A" in caplog.text
