"""Picks that are mirrored, turned, binned or shifted are told from picks that are merely bad."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from cryosegnet_ext import Picks
from cryosegnet_ext.evaluation.misplaced import best_fit
from cryosegnet_ext.evaluation.remarks import on_picks, outside, repeated
from tests.evaluation.helpers import SHAPE, found_among, particles, table

NY, NX = SHAPE
REACH = 12.0


def truth_and_picks(seed: int, wrong: int = 15) -> tuple[dict[str, Picks], dict[str, Picks]]:
    rng = np.random.default_rng(seed)
    truth = {f"mic_{i}": particles(rng) for i in range(4)}
    return {s: table(xy) for s, xy in truth.items()}, {
        s: table(*found_among(xy, rng, wrong)) for s, xy in truth.items()
    }


def changed(picks: dict[str, Picks], change) -> dict[str, Picks]:
    return {s: replace(p, **dict(zip(("x", "y"), change(p.x, p.y)))) for s, p in picks.items()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (x, NY - 1 - y), r"mirrored top to bottom.*y becomes about (898|899|900) - y.*--flip-labels"),
        (lambda x, y: (NX - 1 - x, y), "mirrored left to right"),
        (lambda x, y: (NX - 1 - x, NY - 1 - y), "turned by 180 degrees"),
        (lambda x, y: (y, x), "with x and y exchanged"),
        (lambda x, y: (x / 4, y / 4), r"multiplied by (4|3\.99|4\.01) .*another binning"),
        (lambda x, y: (x * 2, y * 2), r"multiplied by 0\.5 .*another binning"),
        (lambda x, y: (x * 1024 / NX, y * 1024 / NY), r"multiplied by 1\.17 in x and 0\.8(78|79|8) in y"),
        (lambda x, y: (x / 4, (NY - 1 - y) / 4), r"multiplied by (4|3\.99|4\.01) and mirrored top to bottom"),
        (lambda x, y: (x - 20, y - 20), r"moved by (19|20|21) pixels in x and (19|20|21) in y.*corner"),
    ],
    ids=["y", "x", "180", "swapped", "binned", "unbinned", "squeezed", "binned and mirrored", "corners"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_what_was_done_to_the_picks_is_said(change, said, seed):
    labels, picks = truth_and_picks(seed)
    assert on_picks(picks, labels, REACH) == []
    sentences = on_picks(changed(picks, change), labels, REACH)
    assert len([s for s in sentences if re.search(said, s)]) == 1, sentences


@pytest.mark.parametrize("seed", range(6))
def test_bad_picks_are_not_called_mirrored(seed):
    """Random places, and a picker that is mostly wrong."""
    labels, picks = truth_and_picks(seed, wrong=300)
    rng = np.random.default_rng(seed + 100)
    places = {s: table(rng.uniform(0, [NX, NY], (80, 2))) for s in labels}
    assert on_picks(places, labels, REACH) == []
    assert on_picks(picks, labels, REACH) == []


def test_a_handful_is_too_little_to_tell():
    labels = {"a": table(np.array([[100.0, 100], [400, 300], [700, 800]]))}
    picks = {"a": table(np.array([[100.0, 799], [400, 599], [700, 99]]))}
    assert best_fit(picks, labels, REACH)[1] is None


@pytest.mark.parametrize("empty", ["picks", "labels", "both"])
def test_nothing_to_compare(empty):
    labels, picks = truth_and_picks(0)
    none = dict.fromkeys(labels, Picks.empty())
    mine, theirs = (none if empty in (what, "both") else full for what, full in (("picks", picks), ("labels", labels)))
    assert on_picks(mine, theirs, REACH) == []


def test_coordinates_outside_are_counted_and_one_micrograph_is_named():
    inside = Picks([0, NX - 1], [0, NY - 1], [9, 9], [1, 1], shape=SHAPE)
    out = Picks([5, NX + 3, -4], [5, 5, 5], [9] * 3, [1] * 3, shape=SHAPE)
    assert outside({"a": inside}, "label") is None
    said = outside({"a": inside, "b": out, "c": out}, "label")
    assert said.startswith(
        f"4 labels lie outside their micrographs, as on b ({NX} x {NY} pixels) and 1 more micrograph:"
    )
    assert outside({"a": Picks([1e6], [5], [9], [1])}, "pick") is None  # nobody knows how large it is
    assert outside({"a": Picks([-7], [5], [9], [1])}, "pick") is not None


def test_copies_of_picks_are_said():
    """Tables that were pasted together halve the precision of picks, and the recall of labels."""
    labels, picks = truth_and_picks(0)
    twice = {s: p.take(np.r_[np.arange(len(p)), np.arange(len(p))]) for s, p in picks.items()}
    said = f"{sum(map(len, picks.values()))} picks repeat the place of another, as on mic_0"
    assert [s for s in on_picks(twice, labels, REACH) if s.startswith(said)]
    assert repeated(picks, "pick") is None
    assert repeated({"a": Picks.empty()}, "label") is None
