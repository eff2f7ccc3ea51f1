from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.files.relion import micrographs_of
from relion_external.coordinates import ExistingPicks, match

from .project import PIXEL, SHAPE, Project
from .stub import DIAMETER

NAME = "MotionCorr/job002/Micrographs/mic_000.mrc"


def table(x: list[float], y: list[float], score: list[float] | None = None) -> Picks:
    return Picks(x, y, [40.0] * len(x), score or [1.0] * len(x), 1.0, (200, 200))


def test_rescore_keeps_centres() -> None:
    found = match(table([50, 120, 150], [50, 50, 150]), table([53, 118], [50, 52], [0.8, 0.6]), refine=False)
    assert found.x.tolist() == [50, 120, 150] and found.score.tolist() == [0.8, 0.6, 0.0]


def test_refine_moves_and_drops() -> None:
    found = match(table([50, 120, 150], [50, 50, 150]), table([53, 118], [50, 52], [0.8, 0.6]), refine=True)
    assert found.x.tolist() == [53, 118] and found.y.tolist() == [50, 52] and found.score.tolist() == [0.8, 0.6]


def test_a_candidate_serves_one_pick() -> None:
    found = match(table([50, 54], [50, 50]), table([53], [50], [0.8]), refine=True)
    assert found.x.tolist() == [53] and match(
        table([50, 54], [50, 50]), Picks.empty(), refine=False
    ).score.tolist() == [0, 0]


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def test_lists_of_every_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(
        "ManualPick/job005/Micrographs/mic_000_manualpick.star",
        "data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n10 20\n",
    )
    write("CtfFind/job003/mics.star", "")
    write("ManualPick/job005/coords_suffix_manualpick.star", "CtfFind/job003/mics.star\n")
    write(
        "ManualPick/job005/manualpick.star",
        "data_coordinate_files\nloop_\n_rlnMicrographName #1\n_rlnMicrographCoordinates #2\n"
        f"{NAME} ManualPick/job005/Micrographs/mic_000_manualpick.star\n",
    )
    write(
        "Extract/job006/particles.star",
        f"data_particles\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnMicrographName #3\n10 20 {NAME}\n",
    )
    assert micrographs_of("ManualPick/job005/coords_suffix_manualpick.star") == "CtfFind/job003/mics.star"
    other = "MotionCorr/job002/Micrographs/other.mrc"
    for path in (
        "ManualPick/job005/coords_suffix_manualpick.star",
        "ManualPick/job005/manualpick.star",
        "Extract/job006/particles.star",
    ):
        existing = ExistingPicks(path, [NAME, other])
        assert (existing.of(NAME).x.tolist(), existing.of(NAME).y.tolist()) == ([10.0], [20.0]), path
        assert len(existing.of(other)) == 0
    write("broken.star", "no star")
    with pytest.raises(CryoSegNetError):
        ExistingPicks("broken.star", [NAME])


@pytest.mark.parametrize("coords", ["rescore", "refine"])
def test_job_on_existing_picks(tmp_path: Path, coords: str) -> None:
    project = Project(tmp_path, micrographs=1)
    project.call("--in_mics", project.mics_star, "--threshold", "0.5", job="External/job004/")
    truth = project.coordinates("External/job004/", NAME)
    rng = np.random.default_rng(0)
    moved = truth.copy()
    moved[:, :2] += rng.integers(-3, 4, size=(len(truth), 2))
    moved[:, :2] = np.clip(moved[:, :2], 0, [SHAPE[1] - 1, SHAPE[0] - 1])
    bad = np.array([[5.0, 5.0, 1.0], [9999.0, 5.0, 1.0]])  # on no particle; outside the micrograph
    file = project.folder / "External/job004/Micrographs/mic_000_autopick.star"
    head = "".join(file.read_text().splitlines(keepends=True)[:6])
    file.write_text(head + "".join(f"{x} {y} {s}\n" for x, y, s in np.vstack([moved, bad])))

    project.call("--in_coords", "External/job004/autopick.star", "--coords", coords, job="External/job005/")
    assert project.text("External/job005/run.err").count("Traceback") == 0
    assert project.markers("External/job005/") == ["RELION_JOB_EXIT_SUCCESS"]
    found = project.coordinates("External/job005/", NAME)
    if coords == "refine":
        distance = np.hypot(*(found[:, None, :2] - truth[None, :, :2]).transpose(2, 0, 1)).min(axis=1)
        assert len(found) == len(truth) and (distance == 0).mean() > 0.9
    else:
        assert len(found) == len(truth) + 1
        assert np.isin(found[:-1, 0], moved[:, 0]).all()
        assert found[-1].tolist()[:2] == [5.0, 5.0]
        assert np.median(np.abs(np.sort(found[:-1, 2]) - np.sort(truth[:, 2]))) < 1e-3
    assert DIAMETER / PIXEL == 40
