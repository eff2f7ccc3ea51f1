"""Which weights are kept by labelled validation micrographs; the scores are made up."""

from __future__ import annotations

import pytest

from cryosegnet_ext.picking.scoring import Calibration
from cryosegnet_ext.training import finetune
from cryosegnet_ext.training.calibration import Scores
from cryosegnet_ext.weights import metadata_of, sha256_of

from .conftest import STARTED

FITTED = Calibration(0.3, 0.7, -2.0)


@pytest.fixture
def judge(monkeypatch, trained):
    """Conclude with ``fitted`` as the F1 of shares 0, 1, 0.6 and 0.3, and pickers with the given right picks."""

    def conclude(untouched: float, fitted: tuple[float, ...], old: int, tuned: int, with_sam: int = 0) -> dict:
        seen = iter(range(4))

        def f1_of(number, calibration, threshold):
            if calibration == STARTED:
                assert (number, threshold) == (0, 0.4)
                return untouched
            assert (calibration, threshold) == (FITTED, 0.55)
            return fitted[number]

        def score_picker(note, judged):
            assert judged == trained.data.validation
            started = note["name"] == "start"
            return Scores(10, 10, old if started else with_sam if note.get("segmenters") else tuned)

        monkeypatch.setattr(finetune, "gather", lambda *_: next(seen))
        monkeypatch.setattr(finetune, "fit_calibration", lambda number, prior: FITTED)
        monkeypatch.setattr(finetune, "best_threshold", lambda number, calibration: 0.55)
        monkeypatch.setattr(finetune, "f1_of", f1_of)
        monkeypatch.setattr(finetune, "Picker", lambda file, device: metadata_of(file))
        monkeypatch.setattr(finetune, "score_picker", score_picker)
        finetune._conclude(trained)
        return trained.folder.report

    return conclude


def kept(trained) -> dict:
    return metadata_of(trained.folder.path / "unet.safetensors")


def test_the_best_blend_is_kept(judge, trained):
    report = judge(0.5, (0.5, 0.6, 0.7, 0.65), old=5, tuned=7, with_sam=6)
    assert report["kept"]["share"] == 0.6 and report["kept"]["threshold"] == 0.55
    assert kept(trained)["threshold"] == 0.55 and "segmenters" not in kept(trained)
    assert report["results"]["scores"]["fine-tuned"]["right"] == 7


def test_the_start_weights_sam_serves_where_it_picks_as_well(judge, trained):
    report = judge(0.5, (0.5, 0.6, 0.7, 0.65), old=5, tuned=7, with_sam=7)
    assert kept(trained)["segmenters"] == {"peaks": {}} and report["kept"]["share"] == 0.6


def test_a_score_fitted_to_the_start_weights_can_be_best(judge, trained):
    report = judge(0.5, (0.7, 0.6, 0.7, 0.65), old=5, tuned=6)
    assert report["kept"]["share"] == 0 and kept(trained)["threshold"] == 0.55
    assert "only score and threshold" in report["results"]["remarks"][0]


@pytest.mark.parametrize(
    ("fitted", "tuned"),
    [((0.5, 0.5015, 0.4, 0.3), 9), ((0.5, 0.6, 0.7, 0.65), 5)],
    ids=["too little gained", "no better when picked"],
)
def test_the_start_weights_stay(judge, trained, fitted, tuned):
    report = judge(0.5, fitted, old=5, tuned=tuned)
    assert sha256_of(trained.folder.path / "unet.safetensors") == sha256_of(trained.start)
    assert report["kept"]["threshold"] == 0.4 and report["kept"]["calibration"]["offset"] == STARTED.offset
