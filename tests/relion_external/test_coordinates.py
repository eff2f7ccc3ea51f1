from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.micrograph_names import match_micrographs
from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.files.relion import micrographs_of
from relion_external.arguments import Arguments
from relion_external.coordinates import ExistingPicks, match
from relion_external.logfile import write_logfile

FOLDER = "MotionCorr/job002/Micrographs/"
NAME = FOLDER + "mic_000.mrc"
HEAD = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"
LIST = "data_coordinate_files\n\nloop_\n_rlnMicrographName #1\n_rlnMicrographCoordinates #2\n"


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


def listed(kind: str, called: str) -> str:
    """Write two picks of a micrograph that is called so, below the current folder; the file to give."""
    if kind == "list":
        write("AutoPick/job008/mic_000_autopick.star", f"{HEAD}100 200\n300 250\n")
        write("list.star", f"{LIST}{called} AutoPick/job008/mic_000_autopick.star\n")
        return "list.star"
    if kind == "particles":
        write("particles.star", f"{HEAD}_rlnMicrographName #3\n100 200 {called}\n300 250 {called}\n")
        return "particles.star"
    write("picks.csv", f"x,y,micrograph\n100,200,{called}\n300,250,{called}\n")
    return "picks.csv"


@pytest.mark.parametrize(
    "called",
    [
        "mic_000.mrc",
        "Micrographs/mic_000.mrc",
        "MotionCorr/job009/Micrographs/mic_000.mrc",
        "/elsewhere/MotionCorr/job002/Micrographs/mic_000.mrc",
        "raw/grid1/mic_000.tif",
        "J12/motioncorrected/001234567890123456789_mic_000_patch_aligned_doseweighted.mrc",
    ],
)
@pytest.mark.parametrize("kind", ["list", "particles", "csv"])
def test_picks_are_found_under_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    existing = ExistingPicks(listed(kind, called), [NAME])
    found = existing.of(NAME)
    assert (found.x.tolist(), found.y.tolist()) == ([100, 300], [200, 250])
    assert existing.remarks == [] and existing.others == ""


def test_why_no_coordinates_are_found_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("picks.csv", "micrograph,x,y\nMotionCorr/job008/a.mrc,1,2\nMotionCorr/job009/a.mrc,3,4\n")
    with pytest.raises(CryoSegNetError, match=r"several called like MotionCorr/job002/a\.mrc in other jobs"):
        ExistingPicks("picks.csv", ["MotionCorr/job002/a.mrc"])
    write("picks/a_autopick.star", "data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n10 20\n")
    with pytest.raises(CryoSegNetError, match="this folder has no list of coordinate files"):
        ExistingPicks("picks", ["MotionCorr/job002/a.mrc"])


@pytest.mark.parametrize("names", [[FOLDER + "g1/a.mrc"], ["x/a.mrc", "y/a.mrc"]])
def test_a_name_that_may_mean_two_is_not_guessed(tmp_path: Path, names: list[str]) -> None:
    found, unclear = match_micrographs(names, ["p/a.mrc", "q/a.mrc", "x/a.mrc"])
    assert found == ({"x/a.mrc": "x/a.mrc"} if "x/a.mrc" in names else {})
    assert unclear == names[-1:]


def test_micrographs_of_one_name_are_told_apart_by_their_folders() -> None:
    names = ["MotionCorr/job009/g1/a.mrc", "MotionCorr/job009/g2/a.mrc", "MotionCorr/job009/g3/a.mrc"]
    there = ["MotionCorr/job002/g2/a.mrc", "MotionCorr/job002/g1/a.mrc"]
    found, unclear = match_micrographs(names, there)
    assert found == {names[0]: there[1], names[1]: there[0]} and unclear == names[2:]
    # One that has its own entry does not make another's name unclear.
    assert match_micrographs(["x/a.mrc", "y/a.mrc"], ["x/a.mrc"]) == ({"x/a.mrc": "x/a.mrc"}, [])


def test_the_log_shows_every_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = Arguments(output=f"{tmp_path}/")
    shown: list[str] = []
    monkeypatch.setattr(Figure, "text", lambda self, x, y, text, **more: shown.append(text))
    write_logfile(arguments, [], {}, ["line"], ["first warning", "second warning"])
    assert "WARNING: first warning\nWARNING: second warning" in shown
