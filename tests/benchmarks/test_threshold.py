"""What the default threshold costs on each data set."""

from __future__ import annotations

import json

import pytest

Row = tuple[str, str, float, float, float]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys: pytest.CaptureFixture[str]):
    """The script with these rows for the real sets; what it prints, and its file."""
    from benchmarks.accuracy import threshold

    class FixedPicker:
        threshold = 0.15

        def __init__(self, weights: str) -> None:
            pass

    def run(rows: list[Row]):
        monkeypatch.setattr(threshold, "Picker", FixedPicker)
        monkeypatch.setattr(threshold, "real", lambda *_: (threshold.Row(*row) for row in rows))
        monkeypatch.setattr("sys.argv", ["threshold", "--ratios", "--json", str(tmp_path / "rows.json")])
        threshold.main()
        return capsys.readouterr().out, json.loads((tmp_path / "rows.json").read_text())

    return run


def test_sets_on_which_the_default_threshold_is_far_from_the_best_are_named(run) -> None:
    out, rows = run([("near", "ours", 0.80, 0.82, 0.2), ("far", "ours", 0.1, 0.42, 0.0)])
    assert "| far | ours | 0.100 | 0.420 | 0.00 | 0.320 |" in out
    assert "on 1 of 2. Not on: far (ours)." in out
    assert [row["lost"] for row in rows] == pytest.approx([0.02, 0.32])


def test_all_near(run) -> None:
    out, _ = run([("near", "ours", 0.80, 0.82, 0.2)])
    assert out.rstrip().endswith("on 1 of 1.")
