"""An external job that hands on the picks of a run, corrected in ``cryosegnet view``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.runs import batch
from cryosparc_job import cli
from cryosparc_job.locations import read_locations
from tests.cryosparc_job.helpers import BlobPicker, add_exposures, environment, words
from tests.fake_cryosparc.running import RunningServer
from tests.fake_cryosparc.world import World

SHAPE = (256, 384)


@pytest.fixture
def run(world: World, tmp_path: Path) -> Path:
    """A run of three exposures: of the second one two picks are left, of the third none."""
    add_exposures(world, [SHAPE] * 3)
    out = tmp_path / "out"
    mics = expand_inputs([world.directory / "S1/motioncorrected"])
    batch.run(BlobPicker(), mics, out, progress=False, overlays=False)
    stems = sorted(path.stem for path in (out / "picks").iterdir())
    edit(out, stems[1], [[100, 20, 0.1], [300, 60, 1]])
    edit(out, stems[2], [])
    return out


def edit(out: Path, stem: str, rows: list[list[float]]) -> None:
    x, y, score = np.array(rows, float).reshape(-1, 3).T
    path = out / f"picks_edited/{stem}.star"
    path.parent.mkdir(exist_ok=True)
    Picks(x, y, np.full(len(x), np.nan), score, 1.06, SHAPE).write(path)


@pytest.fixture
def pick(fake: RunningServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``cryosegnet-cryosparc pick`` with more words."""
    for name, value in environment(fake).items():
        monkeypatch.setenv(name, value)
    return lambda *more: cli.main(["pick", *words(fake), "--no-prompt", *map(str, more)])


@pytest.mark.parametrize("more", [[], ["--download"], ["--flip-y"]])
def test_edited_picks_become_particles(
    pick: Callable[..., int], world: World, run: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    assert pick("--from-run", run, *more) == 0
    assert world.jobs["J2"].status == "completed"
    said = capsys.readouterr()
    assert "2 of 3 micrographs are edited" in said.out and "1 edited micrograph has no picks left" in said.err
    found = read_locations(world.outputs["J2", "particles"])
    first, second, _ = world.outputs["J1", "exposures"]["uid"]
    assert set(found) == {first, second}
    ny, nx = SHAPE
    expected = np.array([[100, 20], [300, 60]], float)
    if "--flip-y" in more:
        expected[:, 1] = ny - 1 - expected[:, 1]
    places = found[second] * [nx, ny]
    assert np.allclose(places[np.argsort(places[:, 0])], expected, atol=1e-3)
    assert len(found[first]) == 12
    assert len(world.outputs["J2", "exposures"]) == 3
    assert (np.asarray(world.outputs["J2", "particles"]["location/min_dist_A"]) > 0).all()


def test_without_edits_they_are_those_of_picking(pick: Callable[..., int], world: World, run: Path) -> None:
    assert pick("--from-run", run, "--no-edits") == 0
    assert len(world.outputs["J2", "particles"]) == 36


def test_exposures_that_the_run_lacks_are_left_out_and_named(
    pick: Callable[..., int], world: World, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_exposures(world, [SHAPE], first=3)
    assert pick("--from-run", run) == 2
    err = capsys.readouterr().err
    assert "0003_patch_aligned_doseweighted.mrc" in err and "Traceback" not in err


def test_another_run_fails_the_job(
    pick: Callable[..., int], world: World, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = world.outputs["J1", "exposures"]["micrograph_blob/path"]
    world.outputs["J1", "exposures"]["micrograph_blob/path"] = [str(p).replace("/0", "/other_") for p in paths]
    assert pick("--from-run", run) == 3
    assert "it has none of the 3 micrographs of this job" in capsys.readouterr().err
    assert world.jobs["J2"].status == "failed"


def test_options_that_do_nothing_are_refused(
    pick: Callable[..., int], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pick("--from-run", run, "--diameter", "150") == 1
    assert pick("--from-run", run, "--force") == 1
    assert pick("--no-edits") == 1
    assert pick("--from-run", run.parent / "nowhere") == 3
    err = capsys.readouterr().err
    assert "--diameter cannot be used with --from-run" in err and "--force cannot be used" in err
    assert "go with --from-run" in err
