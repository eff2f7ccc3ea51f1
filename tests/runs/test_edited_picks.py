"""Picks that were edited in ``cryosegnet view`` are those of their micrograph, wherever picks are handed on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from cryosegnet_ext.cli import main
from cryosegnet_ext.files.picks import Picks, read_picks
from cryosegnet_ext.runs.edited_picks import EditedPicks, edited_file
from cryosegnet_ext.runs.finished import open_finished
from cryosegnet_ext.viewer.session import ViewSession
from tests.report.runs import make_run

NAMES = ["a.mrc", "b.mrc", "c.mrc", "d.mrc"]
DIAMETER = 50.0


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run of four micrographs: b is edited, and of c a person has removed all picks."""
    out = make_run(tmp_path, NAMES)
    edit(out, "b", [[10, 20, 0.1], [30, 5, 0.9]])
    edit(out, "c", [])
    return out


def edit(out: Path, stem: str, rows: list[list[float]], suffix: str = "star") -> Path:
    x, y, score = np.array(rows, float).reshape(-1, 3).T
    path = out / f"picks_edited/{stem}.{suffix}"
    path.parent.mkdir(exist_ok=True, parents=True)
    Picks(x, y, np.full(len(x), np.nan), score, 2.0, (64, 96)).write(path)
    return path


def places(folder: Path, suffix: str = "star") -> dict[str, list[tuple[float, float]]]:
    found = {path.stem: read_picks(path, 2.0, (64, 96)) for path in sorted(folder.rglob(f"*.{suffix}"))}
    return {stem: sorted(zip(picks.x.tolist(), picks.y.tolist())) for stem, picks in found.items()}


EDITED = {"b": [(10.0, 20.0), (30.0, 5.0)], "c": []}


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_report_writes_edited_picks(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], threshold: float | None
) -> None:
    """The picks of the run came back, also those that a person had removed."""
    words = ["report", str(out), "--write-picks", str(tmp_path / "new")]
    words += [] if threshold is None else ["--threshold", str(threshold), "--min-diameter", "36"]
    assert main(words) == 0
    assert main([*words[:2], "--no-edits", "--write-picks", str(tmp_path / "old"), *words[4:]]) == 0
    new, old = places(tmp_path / "new"), places(tmp_path / "old")
    assert new == old | EDITED
    assert old["b"] != new["b"] and old["c"]
    said = capsys.readouterr()
    assert f"2 of 4 micrographs are edited: picks from {out / 'picks_edited'}" in said.out
    assert "the edits are ignored" in said.out
    assert "1 edited micrograph has no picks left, and stays empty" in said.err and "c.mrc" in said.err


def test_export_of_a_run_has_edited_picks(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(out), "--to", "star", "-o", str(tmp_path / "new")]) == 0
    assert main(["export", str(out), "--to", "star", "--no-edits", "-o", str(tmp_path / "old")]) == 0
    assert places(tmp_path / "old") == places(out / "picks")
    assert places(tmp_path / "new") == places(out / "picks") | EDITED
    assert "2 of 4 micrographs are edited" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["", "picks", "picks_edited", "picks_edited/b.star"])
def test_export_knows_the_diameter_of_the_run(out: Path, tmp_path: Path, what: str) -> None:
    """STAR files have no diameters, and boxes need one; the run knows it."""
    (out / "summary.json").write_text(
        (out / "summary.json").read_text().replace('"dataset_diameter": null', f'"dataset_diameter": {DIAMETER}')
    )
    assert main(["export", str(out / what), "--to", "box", "-o", str(tmp_path / "boxes")]) == 0
    sides = {line.split()[2] for path in (tmp_path / "boxes").iterdir() for line in path.read_text().splitlines()}
    assert sides == {"26"}  # 25 pixels, even


def test_boxes_without_a_run_say_which_option_to_give(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(out / "picks_edited", tmp_path / "elsewhere")
    assert main(["export", str(tmp_path / "elsewhere"), "--to", "box", "-o", str(tmp_path / "boxes")]) == 2
    assert "--box-size" in capsys.readouterr().err


def test_picks_of_an_edited_run_named_past_its_edits(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(out / "picks"), "--to", "csv", "-o", str(tmp_path / "new")]) == 0
    assert f"give the folder {out} to use the edits" in capsys.readouterr().err


def test_export_for_cryosparc_has_edited_picks(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(out), "--cryosparc", "-o", str(tmp_path / "new")]) == 0
    table = (tmp_path / "new/particles.star").read_text().splitlines()
    rows = [line.split() for line in table if line.startswith("b.mrc")]
    assert [(float(row[1]), float(row[2])) for row in rows] == [(10, 20), (30, 5)]
    assert not any(line.startswith("c.mrc") for line in table)
    sizes = np.load(tmp_path / "new/particles.cs")["location/min_dist_A"]
    assert (sizes > 0).all()  # an edited STAR has no diameters: those of the run
    assert "2 of 4 micrographs are edited" in capsys.readouterr().out
    assert main(["export", str(out), "--cryosparc", "--no-edits", "-o", str(tmp_path / "old")]) == 0
    assert "\nc.mrc" in (tmp_path / "old/particles.star").read_text()


def test_export_for_relion_has_edited_picks(out: Path, tmp_path: Path) -> None:
    star = tmp_path / "micrographs.star"
    star.write_text("data_\nloop_\n_rlnMicrographName\n" + "".join(f"mics/{name}\n" for name in NAMES))
    assert main(["export", str(out), "--relion", str(star), "-o", str(tmp_path / "job")]) == 0
    found = {stem.removesuffix("_autopick"): at for stem, at in places(tmp_path / "job/mics").items()}
    assert found == places(out / "picks") | EDITED


def test_damaged_edits_cost_their_micrograph_and_are_named(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own picks would be those that a person has corrected; the other micrographs are written."""
    (out / "picks_edited/b.star").write_text("")
    edit(out, "d", [[90, 60, 1]]).write_text((out / "picks_edited/d.star").read_text().replace("90.0", "900"))
    for words in (["report", str(out), "--write-picks"], ["export", str(out), "--to", "star", "-o"]):
        target = tmp_path / words[0]
        assert main([*words, str(target)]) == 2
        assert sorted(places(target)) == ["a", "c"]
        said = capsys.readouterr().err
        assert "the edited picks of 2 micrographs cannot be used" in said and "b.mrc" in said and "d.mrc" in said
        assert "Traceback" not in said
    assert main(["export", str(out), "--cryosparc", "-o", str(tmp_path / "cs")]) == 2
    assert "b.mrc gets no picks, because its edited ones cannot be used" in capsys.readouterr().err


def test_edits_to_look_at_are_told(out: Path) -> None:
    edit(out, "stranger", [[1, 1, 1]])
    os.utime(out / "picks_edited/b.star", ns=(10**9, 10**9))
    edits = EditedPicks(open_finished(out))
    assert len(edits) == 2
    text = "\n".join(edits.remarks)
    assert "the edits of 1 micrograph" in text and "stranger" in text
    assert "1 micrograph was picked again, or copied, after the edits" in text and "b.mrc" in text


def test_edits_in_another_folder_and_format(out: Path, tmp_path: Path) -> None:
    """``view -o corrected --format csv`` saves them there; a later session without --format did not show them."""
    shutil.move(out / "picks_edited", tmp_path / "corrected")
    path = tmp_path / "corrected/a.csv"
    Picks([7.25], [8.5], [33.0], [0.2], 2.0, (64, 96)).write(path)
    words = ["report", str(out), "--edits", str(tmp_path / "corrected"), "--format", "csv", "--write-picks"]
    assert main([*words, str(tmp_path / "new")]) == 0
    found = read_picks(tmp_path / "new/a.csv")
    assert (found.x.tolist(), found.diameter.tolist()) == ([7.25], [33.0])
    assert edited_file(tmp_path / "corrected", "a") == path
    newer = edit(tmp_path, "a", [[1, 1, 1]]).rename(tmp_path / "corrected/a.star")
    os.utime(newer, ns=(path.stat().st_mtime_ns + 10**10,) * 2)
    assert edited_file(tmp_path / "corrected", "a") == newer
    assert main(["report", str(out), "--edits", str(tmp_path / "nowhere"), "--write-picks", str(tmp_path / "x")]) == 3


def test_the_page_of_report_says_that_it_shows_no_edits(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(out)]) == 0
    assert "2 micrographs of this run are edited" in capsys.readouterr().out
    assert main(["report", str(out), "--write-picks", str(out / "picks_edited")]) == 3
    assert "never overwritten" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["", "picks"])
def test_evaluate_judges_the_program_and_knows_the_diameter_of_the_run(
    out: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    """With the edits as labels, picks that have those edits would all be right."""
    assert main(["evaluate", "--labels", str(out / "picks_edited"), str(out / what)]) == 0
    said = capsys.readouterr().out
    assert "2 micrographs of this run are edited; what the program picked is judged, not the edits" in said
    assert f"the run {out}" in said


def test_view_shows_the_commands_that_hand_on_the_edits(out: Path, tmp_path: Path) -> None:
    from cryosegnet_ext.cli.view import _commands
    from cryosegnet_ext.viewer.opening import open_audit, open_run

    def text(session: ViewSession) -> list[str]:
        commands = session.data["commands"]
        return ["".join(p if isinstance(p, str) else f"<{p['value']}>" for p in one["parts"]) for one in commands]

    assert text(open_run(out)) == [
        f"cryosegnet report {out} --threshold <threshold><sizes> --write-picks {out}/picks_chosen",
        f"cryosegnet export {out} --to box -o boxes",
        f"--from_run {out} --threshold <threshold>",
        "cryosegnet-cryosparc pick --project P1 --workspace W1 --exposures J12:exposures "
        f"--from-run {out} --threshold <threshold>",
    ]
    other = open_run(out, tmp_path / "my edits")
    assert all("my edits" in one for one in text(other))
    assert (
        f"  CryoSPARC: cryosegnet-cryosparc pick --project P1 --workspace W1 --exposures J12:exposures --from-run {out}"
        in _commands(other)
    )
    assert not open_audit(out, out / "picks_edited", diameter=20).hand_on
