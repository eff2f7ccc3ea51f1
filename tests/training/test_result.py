"""The summary at the end of a training."""

from __future__ import annotations

from pathlib import Path

from cryosegnet_ext.training.calibration import Scores
from cryosegnet_ext.training.result import model_card, summary, useless

REPORT = {
    "results": {
        "scored_on": "1 validation micrograph",
        "scores": {"this network": {"precision": 0.9, "recall": 0.8, "f1": 0.847}},
        "remarks": [],
        "threshold": 0.5,
    },
    "data": {"diameter": 180.0, "angstrom": True},
    "settings": {"invert": False},
}


def test_curves_are_named_only_where_they_were_drawn(tmp_path: Path) -> None:
    """Runs of fewer than ten steps have none."""
    assert not any("curves.png" in line for line in summary(REPORT, tmp_path))
    (tmp_path / "curves.png").touch()
    said = summary(REPORT, tmp_path)
    assert f"look at:  {tmp_path / 'curves.png'}" in said
    assert said[-1].endswith("unet.safetensors --diameter 180")


def test_the_command_for_a_network_of_inverted_micrographs_inverts_them(tmp_path: Path) -> None:
    said = summary({**REPORT, "settings": {"invert": True}}, tmp_path)
    assert said[-1].endswith("unet.safetensors --diameter 180 --invert")


def test_a_network_that_picks_nothing_right_is_not_recommended(tmp_path: Path) -> None:
    scores = {"built-in network": Scores(10, 10, 8), "this network": Scores(10, 10, 0)}
    assert "picks no particle right" in useless(scores)[0]
    assert useless({"this network": Scores(10, 10, 1)}) == []
    nothing = {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    report = {**REPORT, "results": {**REPORT["results"], "scores": {"this network": nothing}}}
    assert not any("use them" in line for line in summary(report, tmp_path))


def test_one_of_a_kind_is_no_plural() -> None:
    data = {"name": "n", "diameter": 180.0, "angstrom": True, "diameter_from": "given", "train": ["a"]}
    data |= {"validation": ["b"], "train_labels": 1, "validation_labels": 2}
    results = {**REPORT["results"], "steps": 1, "planned_steps": 1, "best_step": 1}
    report = {"settings": {"base_channels": 2, "levels": 2, "preset": "default"}, "kind": "train", "weights": "w"}
    card = model_card(report | {"data": data, "results": results, "environment": {"cryosegnet-ext": "1"}})
    assert "1 micrograph, 1 particle |" in card and "1 micrograph, 2 particles |" in card
    assert "--invert" not in card
    report["settings"]["invert"] = True
    card = model_card(report | {"data": data, "results": results, "environment": {"cryosegnet-ext": "1"}})
    assert "| contrast | inverted: pick such micrographs with `--invert` |" in card
