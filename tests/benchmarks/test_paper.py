"""The paper's tables: what is published and what is measured here stand apart; a stopped run goes on."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from cryosegnet_ext.evaluation.cryoppp import PUBLISHED

ALONE = ("--small", "--stages", "ours whole, size given")


def tables(page: str) -> dict[str, list[list[str]]]:
    """Rows of cells of the page's tables, by the heading above; the header first."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in page.splitlines():
        if line.startswith("## "):
            heading = line[3:]
        elif line.startswith("|"):
            found.setdefault(heading, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return found


@pytest.mark.slow
def test_the_whole_page_in_small_and_again_from_its_figures(tmp_path, capsys):
    from benchmarks.accuracy import paper

    paper.main([str(tmp_path), *ALONE])
    page = capsys.readouterr().out
    assert len(tables(page)) == len(paper.TABLES)
    assert "of one sample micrograph" in page

    # What was measured is not measured again, and what is printed as "here" is what was measured.
    file = tmp_path / "figures.json"
    figures = json.loads(file.read_text())
    for row in figures["ours: sample"]:
        row["published"]["dice"] = 0.123
    file.write_text(json.dumps(figures))
    before = file.stat().st_mtime_ns
    paper.main([str(tmp_path), *ALONE])
    again = capsys.readouterr().out
    assert file.stat().st_mtime_ns == before
    assert again.count("0.123") == 2
    assert "0.123" not in page


def test_every_column_says_where_it_is_from(tmp_path, capsys, figures):
    from benchmarks.accuracy import paper

    paper.main([str(tmp_path), *ALONE])
    for heading, rows in tables(capsys.readouterr().out).items():
        for header in [row for row, below in pairwise(rows) if set(below) == {"---"}]:
            unmarked = [c for c in header if not c.endswith(("published", "here"))]
            known = {"", "EMPIAR", "data", "picker", "stages", "what"}
            assert set(unmarked) <= known, heading


def test_published_figures_stand_in_the_column_of_their_picker(tmp_path, capsys, figures):
    from benchmarks.accuracy import paper

    paper.main([str(tmp_path), "--small", "--tables", "picking"])
    rows = tables(capsys.readouterr().out)["Picking (the paper's Table 1)"]
    assert ["10017", *(f"{f:.3f}" for f in PUBLISHED["10017"])] in rows


def test_sets_are_summed_by_their_counts_and_the_papers_statistic_is_a_mean() -> None:
    from benchmarks.accuracy import paper

    one = {"micrographs": 1, "particles": 10, "picks": 10, "right": 10, "dice": 0.9, "random_f1": 0.1}
    two = {"micrographs": 2, "particles": 90, "picks": 40, "right": 20, "dice": 0.5, "random_f1": 0.3}
    best = dict.fromkeys(paper.MEASURES, 0.8), dict.fromkeys(paper.MEASURES, 0.6)
    both = paper.together([one | {"published": best[0]}, two | {"published": best[1]}])
    assert (both["micrographs"], both["precision"], both["recall"]) == (3, 0.6, 0.3)
    assert both["f1"] == pytest.approx(2 * 30 / 150)
    assert both["published"] == pytest.approx(dict.fromkeys(paper.MEASURES, 0.7))
    assert both["random_f1"] == pytest.approx(0.2)


def test_figures_of_other_weights_are_not_mixed_in(tmp_path, figures):
    from benchmarks.accuracy import paper

    with pytest.raises(SystemExit, match="give another folder"):
        paper.main([str(tmp_path), "--tables", "time"])  # not --small


def test_a_report_of_a_stopped_run_measures_nothing(tmp_path, capsys, figures):
    from benchmarks.accuracy import paper

    file = tmp_path / "figures.json"
    there = json.loads(file.read_text())
    for name in ("self-training", "training step: published", "steps: sample"):
        del there[name]
    file.write_text(json.dumps(there))
    paper.main([str(tmp_path), *ALONE, "--report"])
    page = capsys.readouterr().out
    assert page.count("not measured yet") == 2
    assert "| sample | 1 | ours, size given |" in page
    assert json.loads(file.read_text()) == there


def test_a_stopped_run_measures_only_what_is_missing(tmp_path):
    from benchmarks.accuracy.paper_figures import Kept

    asked = []
    kept = Kept(tmp_path / "figures.json", {"weights": "a"})
    kept("one", lambda: asked.append("one") or [1.5])
    with pytest.raises(KeyboardInterrupt):
        kept("two", stopped)
    kept = Kept(tmp_path / "figures.json", {"weights": "a"})
    assert kept("one", lambda: asked.append("one")) == [1.5]
    assert "two" not in kept
    assert asked == ["one"]


def stopped() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def figures(tmp_path) -> None:
    """A finished run in small, made up."""
    from benchmarks.accuracy.paper_figures import Measured
    from cryosegnet_ext.weights import resolve, sha256_of

    m = Measured(tmp_path, True)
    best = dict.fromkeys(("precision", "recall", "f1", "dice"), 0.5)
    row = {"data": "sample", "set": "sample", "picker": "ours, size given", "micrographs": 1, "particles": 4}
    row |= {"picks": 4, "right": 2, "precision": 0.5, "recall": 0.5, "f1": 0.5, "dice": 0.5, "random_f1": 0.1}
    row |= {"published": best}
    step = {"batch": 1, "side": 64, "parameters": 10, "processor_seconds": 0.1}
    everything = {
        "of": {"weights": sha256_of(resolve("default"))[:12], "small": True},
        "ours: sample": [row],
        "stored: sample": [],
        "steps: sample": [row],
        "self-training": {"specimen": "s", "ratio": 0.4, "micrographs": 3, "test": 1, "steps": 2, "seconds": 1.0}
        | {"processor_seconds": 1.0, "kept": {"share": 0}, "before": row, "after": row},
        "seconds: ours whole, size given": {"wall": 1.0, "cpu": 1.0, "peak_mb": 100.0, "size": 1024},
        "training step: published": step,
        "training step: ours": step,
    }
    (m.folder / "figures.json").write_text(json.dumps(everything))
