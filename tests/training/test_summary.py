"""What a training says at its end."""

from __future__ import annotations

from pathlib import Path

from cryosegnet_ext.training.ending import summary

REPORT = {
    "results": {
        "scored_on": "1 validation micrograph",
        "scores": {"this network": {"precision": 0.9, "recall": 0.8, "f1": 0.847}},
        "remarks": [],
        "threshold": 0.5,
    },
    "data": {"diameter": 180.0, "angstrom": True},
}


def test_curves_are_named_only_where_they_were_drawn(tmp_path: Path) -> None:
    """Runs of fewer than ten steps have none."""
    assert not any("curves.png" in line for line in summary(REPORT, tmp_path))
    (tmp_path / "curves.png").touch()
    said = summary(REPORT, tmp_path)
    assert f"look at:  {tmp_path / 'curves.png'}" in said
    assert said[-1].endswith("unet.safetensors --diameter 180")
