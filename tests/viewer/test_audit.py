"""Judging picks that no label vouches for: which they are, and the file of verdicts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryosegnet_ext.cli import main
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.picks import Picks, read_picks
from cryosegnet_ext.runs.candidates import read_candidates
from cryosegnet_ext.viewer import audit as module
from cryosegnet_ext.viewer.audit import Audit, AuditedPick, AuditSession, read_audit, unlabelled
from cryosegnet_ext.viewer.opening import open_audit
from tests.report.runs import make_run
from tests.viewer.test_server import ask, serve

NAMES = ["mic_0.mrc", "mic_1.mrc", "mic_2.mrc"]


def points(*xy: tuple[float, float]) -> Picks:
    x, y = np.array(xy, float).reshape(-1, 2).T
    return Picks(x, y, np.full(len(x), 20.0), np.linspace(0.9, 0.1, len(x)), None, (64, 96))


def picks_of(out: Path, stem: str) -> Picks:
    """The picks of a run, as exact as it keeps them, best first."""
    kept = read_candidates(out, stem)
    assert kept is not None
    return kept.candidates.take(np.arange(len(kept.candidates)) < len(read_picks(out / "picks" / f"{stem}.star")))


def write_labels(out: Path, labels: Path, stem: str, leave: int) -> Picks:
    """Label all picks of a micrograph but the first ones, which are returned."""
    picks = picks_of(out, stem)
    first = np.arange(len(picks)) < leave
    labels.mkdir(exist_ok=True)
    picks.take(~first).write(labels / f"{stem}.csv")
    return picks.take(first)


def session(path: Path, **todo: Picks) -> AuditSession:
    return AuditSession(path, todo, 6.0, {"labels": "labels"})


def test_picks_beyond_reach_of_a_label_or_beside_a_closer_pick_are_unlabelled() -> None:
    picks = points((10, 10), (13, 10), (40, 40), (60, 20))
    alone = unlabelled(picks, points((10.5, 10), (45.9, 40), (66.1, 20)), 6.0)
    assert list(zip(alone.x, alone.y)) == [(13, 10), (60, 20)]


def test_verdicts_are_kept_gone_on_with_and_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "audit.json"
    first = session(path, a=points((10, 10), (40, 40)), b=points((5, 5)))
    assert not path.exists()
    assert first.mark("a", 1, "junk") == {"path": str(path), "judged": 1, "all": 3}
    first.mark("b", 0, "particle")
    assert json.loads(path.read_text()) == {
        "labels": "labels",
        "picks": {"a": [[40, 40, 0.1, "junk"]], "b": [[5, 5, 0.9, "particle"]]},
    }
    # Another run of the same micrographs: one pick has moved a little, one is new, that of b is gone.
    later = session(path, a=points((80, 10), (42, 41)), b=points())
    assert [row[4] for row in later.rows("a")] == [None, "junk"] and later.judged == 1
    later.mark("a", 0, "unsure")
    assert read_audit(path).picks["b"] == [AuditedPick(5, 5, 0.9, ("particle",))]
    later.mark("a", 1, None)
    assert [(p.x, p.verdict) for p in read_audit(path).picks["a"]] == [(80, "unsure")]


def test_a_file_that_cannot_be_written_stays_whole_and_so_does_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.json"
    audit = session(path, a=points((10, 10), (40, 40)))
    audit.mark("a", 0, "particle")
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise CryoSegNetError("cannot write: free some disk space.")

    monkeypatch.setattr(module, "write_atomic", full)
    with pytest.raises(CryoSegNetError, match="disk space"):
        audit.mark("a", 0, "junk")
    assert path.read_bytes() == before and audit.rows("a")[0][4] == "particle"


@pytest.mark.parametrize(
    ("number", "verdict"),
    [(2, "junk"), (-1, "junk"), (True, "junk"), ("0", "junk"), (None, "junk"), (0, "good"), (0, 1)],
)
def test_what_is_no_pick_or_no_verdict_is_refused(tmp_path: Path, number: object, verdict: object) -> None:
    audit = session(tmp_path / "audit.json", a=points((10, 10), (40, 40)))
    with pytest.raises(CryoSegNetError):
        audit.mark("a", number, verdict)
    with pytest.raises(CryoSegNetError, match="no such pick"):
        audit.mark("elsewhere", 0, "junk")
    assert not (tmp_path / "audit.json").exists()


DAMAGED = [
    "", "[]", "{}", '{"picks": []}', '{"picks": {"a": [[1, 2, 0.5]]}}', '{"picks": {"a": [[1, 2, 0.5, "fine"]]}}',
    '{"picks": {"a": [["1", 2, 0.5, "junk"]]}}', '{"picks": {"a": [[NaN, 2, 0.5, "junk"]]}}', '{"picks": {"a": 1}}',
]  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_a_sentence_and_is_not_written_over(tmp_path: Path, content: str) -> None:
    path = tmp_path / "audit.json"
    path.write_text(content)
    with pytest.raises(CryoSegNetError, match=r"audit.json is no audit file, or damaged"):
        session(path, a=points((10, 10)))
    assert path.read_text() == content


def test_several_passes_agree_or_are_unsure(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    rows = [AuditedPick(1, 2, float("nan"), ("junk", "junk")), AuditedPick(9, 9, 0.25, ("junk", "particle"))]
    Audit({"made": "by hand"}, {"a": rows}).write(path)
    again = read_audit(path)
    assert again.about == {"made": "by hand"} and [p.verdict for p in again.picks["a"]] == ["junk", "unsure"]
    assert np.isnan(again.picks["a"][0].score) and again.picks["a"][1] == rows[1]
    with pytest.raises(CryoSegNetError, match="several verdicts"):
        session(path, a=points((10, 10)))


def test_a_run_is_audited_where_it_has_labels(tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES, count=8)
    alone = {stem: write_labels(out, tmp_path / "labels", stem, leave=2) for stem in ("mic_0", "mic_2")}
    opened = open_audit(out, tmp_path / "labels")
    assert [m.stem for m in opened.micrographs] == ["mic_0", "mic_2"]
    shown = opened.view("t")["audit"]
    assert shown["path"] == str(out / "audit.json")
    for i, stem in enumerate(("mic_0", "mic_2")):
        assert [row[:2] for row in shown["picks"][i]] == [[x, y] for x, y in zip(alone[stem].x, alone[stem].y)]
    with pytest.raises(CryoSegNetError, match="never overwritten"):
        open_audit(out, tmp_path / "labels", out / "picks" / "audit.json")
    (tmp_path / "others").mkdir()
    points((1, 1)).write(tmp_path / "others" / "something.csv")
    with pytest.raises(CryoSegNetError, match="none of the micrographs"):
        open_audit(out, tmp_path / "others")


def test_the_diameter_decides_what_is_labelled(tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES[:1], count=8)
    picks = picks_of(out, "mic_0")
    assert picks.pixel_size is not None and len(picks) > 2
    (tmp_path / "labels").mkdir()
    replace(picks, x=picks.x + 4).write(tmp_path / "labels" / "mic_0.csv")
    left = {}
    for pixels in (12, 15):
        audit = open_audit(out, tmp_path / "labels", diameter=pixels * picks.pixel_size).audit
        assert audit is not None
        left[pixels] = audit.total
    # 0.3 of 12 pixels is less than 4, 0.3 of 15 is more.
    assert left == {12: len(picks), 15: 0}


def test_the_server_notes_a_verdict_and_refuses_nonsense(tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES[:1], count=8)
    write_labels(out, tmp_path / "labels", "mic_0", leave=2)
    with serve(open_audit(out, tmp_path / "labels")) as server:
        token = {"X_CryoSegNet_Token": server.token}
        assert ask(server, "mark/0", "POST", b'{"pick": 0, "verdict": "junk"}')[0] == 403
        for body, status in (
            (b"{}", 400),
            (b'{"pick": 0}', 400),
            (b'{"pick": 9, "verdict": "junk"}', 422),
            (b'{"pick": 0, "verdict": "x"}', 422),
        ):
            assert ask(server, "mark/0", "POST", body, **token)[0] == status
        assert ask(server, "mark/1", "POST", b'{"pick": 0, "verdict": "junk"}', **token)[0] == 422
        assert not (out / "audit.json").exists()
        status, answer, _ = ask(server, "mark/0", "POST", b'{"pick": 0, "verdict": "junk"}', **token)
        assert status == 200 and json.loads(answer)["judged"] == 1
        page = ask(server, "")[1]
        assert b"audit-status" in page and b"edit-save" not in page
    assert read_audit(out / "audit.json").picks["mic_0"][0].verdict == "junk"


def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(make_run(tmp_path, NAMES[:1], count=8))
    assert main(["view", out, "--audit-file", "a.json"]) == 1
    assert main(["view", out, "--audit", "labels", "-o", "edited"]) == 1
    assert main(["view", "--micrographs", "x", "-o", "y", "--audit", "labels"]) == 1
    assert main(["view", out, "--audit", str(tmp_path / "nowhere")]) == 3
    errors = capsys.readouterr().err
    assert "Traceback" not in errors and "no such file or folder" in errors
