"""The expected share of false picks: of one micrograph, of a run, and in what a run writes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from cryosegnet_ext.files.picks import Picks, read_picks
from cryosegnet_ext.picking.scoring import Calibration
from cryosegnet_ext.runs.false_picks import expected_false, expected_false_of, has_probabilities, in_percent
from cryosegnet_ext.runs.journal import Record, read_records
from tests.runs.helpers import pick
from tests.stub_picker import StubPicker

PICKS = Picks([1, 2], [1, 2], [9, 9], [0.9, 0.7])


def test_only_calibrated_scores_are_probabilities() -> None:
    fitted, unfitted = asdict(Calibration(offset=0.3)), asdict(Calibration())
    assert has_probabilities({"recipe": "default", "calibration": fitted}) and has_probabilities({})
    assert not has_probabilities({"recipe": "default", "calibration": unfitted})
    assert not has_probabilities({"recipe": "published", "calibration": fitted})
    assert expected_false_of(PICKS, {"calibration": fitted}) == 0.2
    assert expected_false_of(PICKS, {"calibration": unfitted}) is None
    assert expected_false_of(Picks.empty(), {}) is None


def record(picks: int, share: float | None) -> Record:
    return Record("k", "n", "s", "done", picks, expected_false=share)


def test_of_several_micrographs_it_is_weighted_by_their_picks() -> None:
    assert expected_false([record(30, 0.1), record(10, 0.5), record(0, None)]) == 0.2
    assert expected_false([record(30, 0.1), record(500, None)]) == 0.1, "a record of an earlier version is left out"
    assert expected_false([record(0, None)]) is expected_false([]) is None


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.0, "less than 1 %"),
        (0.0049, "less than 1 %"),
        (0.006, "about 1 %"),
        (0.123, "about 12 %"),
        (1, "about 100 %"),
    ],
)
def test_in_words(share: float, words: str) -> None:
    assert in_percent(share) == words


def test_a_run_keeps_it_for_each_micrograph_and_for_all(mics: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (mics / "m11.mrc").write_bytes(b"no image")
    result = pick(mics, out)
    summary = json.loads((out / "summary.json").read_text())
    entries = {entry["stem"]: entry for entry in summary["micrographs"]}
    assert entries.pop("m11")["expected_false"] is None
    tables = {stem: read_picks(out / f"picks/{stem}.star") for stem in entries}
    for stem, picks in tables.items():
        assert entries[stem]["expected_false"] == pytest.approx(1 - picks.score.mean(), abs=2e-4)
    assert len({entry["expected_false"] for entry in entries.values()}) == 11
    every = sum(float((1 - picks.score).sum()) for picks in tables.values()) / sum(map(len, tables.values()))
    assert summary["totals"]["expected_false"] == result.expected_false == pytest.approx(every, abs=2e-4)
    assert {r.stem: r.expected_false for r in read_records(out).values() if r.done} == {
        stem: entry["expected_false"] for stem, entry in entries.items()
    }


def test_a_run_of_an_earlier_version_goes_on_without_it(mics: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pick(mics, out)
    journal = out / ".cryosegnet/journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line in lines:
        for name in ("expected_false", "checksums", "crc32"):
            line.pop(name, None)
    journal.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    result = pick(mics, out)
    assert result.skipped == 12 and result.expected_false is None
    summary = json.loads((out / "summary.json").read_text())
    assert summary["totals"]["expected_false"] is None
    assert {entry["expected_false"] for entry in summary["micrographs"]} == {None}


def test_scores_of_the_published_recipe_give_none(mics: Path, tmp_path: Path) -> None:
    picker = StubPicker()
    picker.settings["recipe"] = "published"
    assert pick(mics, tmp_path / "out", picker).expected_false is None
