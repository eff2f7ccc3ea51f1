"""A second set of picks over those of a run: what is paired, by which names, and what is said of the rest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryosegnet_ext.cli import main
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.evaluation.matching import agreement
from cryosegnet_ext.files.picks import Picks, read_picks, write_cs
from cryosegnet_ext.runs.stopping import Stopped
from cryosegnet_ext.viewer.opening import open_run
from cryosegnet_ext.viewer.session import ViewSession
from tests.report.runs import make_run
from tests.viewer.test_server import ask, serve

NAMES = ["a.mrc", "b.mrc", "c.mrc", "d.mrc"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return make_run(tmp_path, NAMES)


def common(session: ViewSession) -> dict[int, int]:
    """Common picks of each compared micrograph, at the run's own threshold."""
    assert session.comparison is not None
    sets = {}
    for number in session.comparison.tables:
        path = session.target.parent / "picks" / f"{session.micrographs[number].stem}.star"
        picks = read_picks(path)
        sets[str(number)] = np.c_[picks.x, picks.y].tolist()
    return {int(key): len(mine) for key, (mine, _) in session.comparison.common(sets).items()}


@pytest.mark.parametrize("suffix", ["star", "box", "cbox", "csv"])
def test_a_folder_of_another_program_is_paired_by_the_names_of_micrographs(
    tmp_path: Path, out: Path, suffix: str
) -> None:
    expected = {}
    for number, name in enumerate(("a", "b", "c")):
        own = read_picks(out / "picks" / f"{name}.star")
        moved = own.take(np.arange(len(own)) % 3 > 0)
        moved = replace(moved, diameter=np.full(len(moved), 40.0), x=np.clip(moved.x + 2, 0, 95), shape=(64, 96))
        (tmp_path / "other").mkdir(exist_ok=True)
        path = tmp_path / "other" / f"{name}_autopick.{suffix}"
        moved.write(path, box_size=40)
        places = [np.c_[p.x, p.y] for p in (own, read_picks(path))]
        expected[number] = agreement(*places, 0.3 * open_run(out).diameter).right
    (tmp_path / "other" / f"stranger.{suffix}").write_bytes((tmp_path / "other" / f"a_autopick.{suffix}").read_bytes())
    session = open_run(out, compare=tmp_path / "other")
    assert common(session) == expected and min(expected.values()) > 3
    notes = " ".join(session.comparison.notes)  # type: ignore[union-attr]
    assert "1 of 4 micrographs have no picks there" in notes and "d.mrc" in notes
    assert "1 micrograph there not among those shown" in notes and "stranger" in notes
    assert session.view("t")["compare"]["counts"][:3] == [len(t) for t in session.comparison.tables.values()]  # type: ignore[union-attr]


def test_another_run_counts_with_its_own_threshold_and_its_edited_picks(tmp_path: Path, out: Path) -> None:
    other = make_run(tmp_path, NAMES, 0.8, "other")
    open_run(other).save(1, [[10, 20, 40, 1]])
    session = open_run(out, compare=other)
    assert session.comparison is not None
    sizes = [len(table) for table in session.comparison.tables.values()]
    assert sizes == [len(read_picks(other / "picks" / f"{n}.star")) if n != "b" else 1 for n in "abcd"]
    # Every pick of the higher threshold is one of the lower one.
    assert {i: n for i, n in common(session).items() if i != 1} == {0: sizes[0], 2: sizes[2], 3: sizes[3]}
    assert any("edited" in note for note in session.comparison.notes)


def test_the_terminal_counts_common_and_own_picks(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the page, at the run's threshold: edited picks first, on both sides."""

    def stopped(*_: object, **__: object) -> None:
        raise Stopped("SIGINT")

    monkeypatch.setattr("cryosegnet_ext.viewer.server.ViewServer.serve_forever", stopped)
    (tmp_path / "other").mkdir()
    for name in "ab":
        own = read_picks(out / "picks" / f"{name}.star")
        kept = own.take(np.arange(len(own)) > 1)
        replace(kept, shape=(64, 96)).write(tmp_path / "other" / f"{name}.star")
    counts = [len(read_picks(out / "picks" / f"{name}.star")) for name in "ab"]
    command = ["view", str(out), "--compare", str(tmp_path / "other"), "--no-browser"]
    assert main(command) == 0
    said = (
        f"over them, on 2 micrographs: {tmp_path / 'other'}; {sum(counts) - 4} picks in both, 4 only here, 0 only there"
    )
    assert said in capsys.readouterr().out.splitlines()
    open_run(out).save(0, [])
    (out / "picks_edited" / "b.star").write_text("damaged")
    assert main(command) == 0
    said = f"; 0 picks in both, 0 only here, {sum(counts) - 4} only there"
    assert said in capsys.readouterr().out


def test_one_table_of_many_micrographs(tmp_path: Path, out: Path) -> None:
    tables = {f"J7/motioncorrected/012345678901234567890_{n}_patch_aligned_doseweighted.mrc": n for n in "ab"}
    picks = {name: replace(read_picks(out / "picks" / f"{n}.star"), shape=(64, 96)) for name, n in tables.items()}
    write_cs(
        {name: replace(p, diameter=np.full(len(p), 40.0), pixel_size=1.0) for name, p in picks.items()},
        tmp_path / "p.cs",
    )
    session = open_run(out, compare=tmp_path / "p.cs")
    assert common(session) == {i: len(p) for i, p in enumerate(picks.values())}


def test_what_cannot_be_compared_is_said_and_nothing_else_is_lost(tmp_path: Path, out: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for n in "abc":
        (other / f"{n}.star").write_bytes((out / "picks" / f"{n}.star").read_bytes())
    text = (other / "b.star").read_text()
    (other / "b.star").write_text(text.rstrip() + "\n12 nonsense\n")
    picks = read_picks(other / "c.star")
    (other / "c.star").unlink()
    write_cs(
        {"c.mrc": Picks(picks.x * 2, picks.y * 2, np.full(len(picks), 40.0), picks.score, 0.5, (128, 192))},
        other / "c.cs",
    )
    session = open_run(out, compare=other)
    assert session.comparison is not None and list(session.comparison.tables) == [0]
    notes = " ".join(session.comparison.notes)
    assert "1 file not read" in notes and "b.star" in notes
    assert "of another size in pixels" in notes and "192 x 128" in notes
    mirrored = tmp_path / "mirrored"
    mirrored.mkdir()
    for n in "abcd":
        own = read_picks(out / "picks" / f"{n}.star")
        replace(own, y=63 - own.y).write(mirrored / f"{n}.star")
    assert "mirror" in " ".join(open_run(out, compare=mirrored).comparison.notes)  # type: ignore[union-attr]


def test_nothing_in_common_is_a_sentence(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(CryoSegNetError, match="nothing to compare with"):
        open_run(out, compare=tmp_path / "none")
    (tmp_path / "none" / "x.star").write_bytes((out / "picks" / "a.star").read_bytes())
    with pytest.raises(CryoSegNetError, match="give picks of the same micrographs"):
        open_run(out, compare=tmp_path / "none")
    assert main(["view", str(out), "--compare", str(tmp_path / "gone")]) == 3
    assert main(["view", "--micrographs", str(tmp_path / "mics"), "-o", "x", "--compare", str(out)]) == 1
    assert "--compare needs the folder of a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "sets",
    [
        None,
        [],
        {"x": []},
        {"9": []},
        {"-1": []},
        {"\u00b2": []},
        {"0": [[1]]},
        {"0": "x"},
        {"0": [[1, 1e9]]},
        {"0": [[1, None]]},
    ],
)
def test_the_server_pairs_only_picks(out: Path, sets: object) -> None:
    with serve(open_run(out, compare=out)) as server:
        body = json.dumps({"sets": sets}).encode()
        assert ask(server, "common", "POST", body, X_CryoSegNet_Token=server.token)[0] == 422
        assert ask(server, "common", "POST", body)[0] == 403
    with serve(open_run(out)) as server:
        assert ask(server, "common", "POST", b'{"sets": {}}', X_CryoSegNet_Token=server.token)[0] == 422
