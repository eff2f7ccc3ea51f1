"""Audited figures: what verdicts add to the labels, how samples are scaled up, and how the sheets become a list."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cryosegnet_ext.files.picks import Picks
from cryosegnet_ext.viewer.audit import AuditedPick, read_audit

LISTS = sorted((Path(__file__).resolve().parents[2] / "benchmarks" / "audit").glob("*.json"))


def entry(x: float, y: float, *passes: str) -> AuditedPick:
    return AuditedPick(x, y, 0.5, passes)


def test_unlabelled_picks_take_the_verdict_of_the_entry_within_reach():
    from benchmarks.accuracy.audit_lists import tally

    labels = np.array([[10.0, 10], [50, 50], [90, 90]])
    picks = np.array([[11.0, 10], [52, 50], [30, 30], [70, 30], [30, 70], [99, 9]])
    entries = [
        entry(31, 30, "particle", "particle"),
        entry(70, 32, "junk", "junk"),
        entry(30, 70, "particle", "junk"),
        entry(50, 51, "junk", "junk"),  # a label vouches for the pick here
        entry(99, 19, "particle", "particle"),  # beyond reach
    ]
    counted = tally(picks, labels, entries, 6.0)
    assert (counted.labels, counted.picks, counted.right, counted.unlabelled, counted.judged) == (3, 6, 2, 4, 3)
    assert counted.verdicts == Counter(particle=1, junk=1, unsure=1)
    both = counted + counted
    assert (both.picks, both.judged) == (12, 6)
    # One of three judged is a particle, so of the fourth a third.
    likely, low, high = counted.precision(("particle",))
    assert likely == pytest.approx((2 + 1 + 1 / 3) / 6) and low < likely < high
    likely, low, high = counted.precision(("particle", "unsure"))
    assert likely == pytest.approx((2 + 2 + 2 / 3) / 6) and 4 / 6 < low < likely < high < 5 / 6


def test_what_is_judged_whole_has_no_interval_and_what_is_not_judged_a_wide_one():
    from benchmarks.accuracy.audit_lists import scale_up

    assert scale_up(7, 10, 10) == (7, 7, 7)
    assert scale_up(0, 0, 0) == (0, 0, 0)
    likely, low, high = scale_up(0, 0, 10)
    assert math.isnan(likely) and (low, high) == (0, 10)


def test_the_interval_of_a_sample_holds_the_truth_nearly_always():
    from benchmarks.accuracy.audit_lists import scale_up

    rng = np.random.default_rng(0)
    for total, particles, judged in ((400, 200, 100), (400, 20, 100), (130, 90, 100)):
        drawn = rng.hypergeometric(particles, total - particles, judged, 2000)
        found = [scale_up(int(k), judged, total) for k in drawn]
        held = np.mean([low <= particles <= high for _, low, high in found])
        assert 0.92 < held <= 1, (total, particles, held)
        assert np.mean([likely for likely, _, _ in found]) == pytest.approx(particles, rel=0.03)
        # Narrower than if nobody knew how the judged ones turned out.
        assert np.mean([high - low for _, low, high in found]) < 0.25 * total


def test_a_border_through_a_particle_breaks_no_pair():
    from benchmarks.accuracy.audited import within

    first = np.array([[9.0, 50], [50, 50], [5, 20], [80, 80]])
    second = np.array([[11.0, 50], [51, 50], [70, 30], [99, 60]])
    inside = within(first, second, 5.0, (100, 100), 10.0)
    assert (inside.right, inside.picks, inside.labels) == (2, 3, 3)
    every = within(first, second, 5.0, (100, 100), -np.inf)
    assert (every.right, every.picks, every.labels) == (2, 4, 4)


def small_set(folder: Path):
    """A data set of one made-up micrograph of 400 x 400 pixels with labels, and picks half of which lie at them."""
    from benchmarks.accuracy.audit_lists import AuditSet

    labels = np.array([(x, y) for x in range(40, 400, 80) for y in (40, 120)], float)
    alone = np.array([(x, 200) for x in range(40, 400, 80)], float)

    class Small(AuditSet):
        def file(self, stem: str) -> Path:
            return folder / f"{stem}.mrc"

        def labels(self, stem: str) -> np.ndarray:
            return labels

        def pick(self, folder: Path, weights: str = "default", threshold: float | None = None) -> dict[str, Picks]:
            (folder / "picks").mkdir(parents=True)
            (folder / "summary.json").write_text(json.dumps({"settings": {"weights_sha256": "00", "threshold": 0.2}}))
            xy = np.r_[labels + 1, alone]
            return {"mic": Picks(*xy.T, np.full(len(xy), 30.0), np.linspace(0.9, 0.3, len(xy)))}

    return Small("small", ("mic",), ".mrc", 30.0, 60.0, 2.0), alone


def test_sheets_hold_every_place_once_a_pass_and_the_letters_become_the_list(tmp_path):
    import cv2

    from benchmarks.accuracy import audit_sheets
    from tests.stub_picker import write_micrograph

    write_micrograph(tmp_path / "mic.mrc", shape=(400, 400))
    data, alone = small_set(tmp_path)
    sheets = tmp_path / "small"
    audit_sheets.draw(data, sheets, "default", seed=3)
    key = json.loads((sheets / "key.json").read_text())
    kinds = Counter(place["kind"] for place in key["places"])
    assert kinds == {"unlabelled": len(alone), "labelled": 10, "background": 6}
    orders = []
    for number in (1, 2):
        cells = [k for sheet in key[f"pass {number}"].values() for k in sheet]
        assert sorted(cells) == list(range(len(key["places"])))
        orders.append(cells)
        for sheet in key[f"pass {number}"]:
            assert cv2.imread(str(sheets / f"{sheet}.png"), cv2.IMREAD_GRAYSCALE).std() > 10
    assert orders[0] != orders[1]
    letters = {"unlabelled": "p", "labelled": "p", "background": "j"}
    for number, cells in enumerate(orders, start=1):
        text = ["u" if number == 2 and k == cells[0] else letters[key["places"][k]["kind"]] for k in cells]
        name = next(iter(key[f"pass {number}"]))
        (sheets / f"pass-{number}.txt").write_text(f"{name} {''.join(text[:9])} {''.join(text[9:])}\n")
    audit = audit_sheets.collect(sheets)
    assert {(p.x, p.y) for p in audit.picks["mic"]} == set(map(tuple, alone.tolist()))
    assert audit.about["passes alike"] == [len(orders[0]) - 1, len(orders[0])]
    assert audit.about["controls, by verdict"]["background"].get("junk", 0) >= 5
    assert sum(sum(c.values()) for c in audit.about["controls, by verdict"].values()) == 16
    (sheets / "pass-1.txt").write_text(f"{name.replace('pass-2', 'pass-1')} ppp\n")
    with pytest.raises(SystemExit, match="letters of p, j, u are needed"):
        audit_sheets.collect(sheets)


def test_background_lies_away_from_everything(tmp_path):
    from benchmarks.accuracy import audit_sheets
    from tests.stub_picker import write_micrograph

    write_micrograph(tmp_path / "mic.mrc", shape=(400, 400))
    data, alone = small_set(tmp_path)
    taken = np.r_[data.labels("mic"), alone]
    xy = audit_sheets.background_places(data, "mic", taken, np.random.default_rng(0))
    assert len(xy) == 40
    assert np.hypot(*(xy[:, None] - taken).transpose(2, 0, 1)).min() > 0.8 * data.label_diameter
    assert xy.min() >= 15 and xy.max() <= 384


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_the_lists_kept_here_are_whole(path):
    audit = read_audit(path)
    rows = [pick for picks in audit.picks.values() for pick in picks]
    assert audit.about["data set"] == path.stem
    assert 0 < len(rows) <= audit.about["unlabelled picks of this run"]
    assert {len(pick.passes) for pick in rows} == {2}
    assert set(audit.about["controls, by verdict"]) == {"labelled", "background"}
    # Nobody could be trusted who takes background for particles as readily as labelled particles.
    shares = {}
    for kind, counts in audit.about["controls, by verdict"].items():
        shares[kind] = counts.get("particle", 0) / sum(counts.values())
    assert shares["labelled"] > shares["background"]
