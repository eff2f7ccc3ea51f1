"""What a batch keeps for the report, and the choice of other picks from it."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from cryosegnet_ext import Picker, read_micrograph
from cryosegnet_ext.cli import main
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.files.inputs import expand_inputs
from cryosegnet_ext.files.picks import Picks, read_picks
from cryosegnet_ext.report.filter import filtered, write_filtered_picks
from cryosegnet_ext.report.pack import level_of, levels_of, size_code
from cryosegnet_ext.runs import batch
from cryosegnet_ext.runs.candidates import candidates_path, encode_candidates, read_candidates, write_candidates
from cryosegnet_ext.runs.edited_picks import EditedPicks
from cryosegnet_ext.runs.finished import open_finished
from tests.report.runs import make_run
from tests.stub_picker import StubPicker, write_micrograph

NAMES = [f"m{i}.mrc" for i in range(4)]
SAMPLE = Path(batch.__file__).parents[1] / "data" / "sample.mrc"


def picks(n: int = 50, pixel_size: float | None = 2.0) -> Picks:
    rng = np.random.default_rng(5)
    return Picks(
        rng.uniform(0, 90, n), rng.uniform(0, 60, n), rng.normal(40, 5, n), rng.random(n), pixel_size, (64, 96)
    )


@pytest.mark.parametrize("pixel_size", [2.0, None])
def test_what_is_kept_comes_back_best_first_with_a_picture(tmp_path: Path, pixel_size: float | None) -> None:
    data = np.random.default_rng(0).normal(size=(64, 96)).astype(np.float32)
    given = picks(pixel_size=pixel_size)
    write_candidates(tmp_path, "day1/m", encode_candidates(data, given))
    kept = read_candidates(tmp_path, "day1/m", thumbnail=True)
    assert kept is not None
    wanted = given.by_score()
    for column in ("x", "y", "diameter", "score"):
        assert np.array_equal(getattr(kept.candidates, column), getattr(wanted, column))
    assert (kept.candidates.pixel_size, kept.candidates.shape) == (pixel_size, (64, 96))
    assert cv2.imdecode(np.frombuffer(kept.thumbnail, np.uint8), cv2.IMREAD_GRAYSCALE).shape == (64, 96)


def test_damaged_or_foreign_files_are_as_if_they_were_not_there(tmp_path: Path) -> None:
    write_candidates(tmp_path, "m", encode_candidates(np.eye(64, dtype=np.float32), picks()))
    path = candidates_path(tmp_path, "m")
    whole = path.read_bytes()
    for content in (b"", whole[:70], whole[: whole.index(b"\xff\xd8") + 40], b"\x93NUMPY" + bytes(200), b"hello" * 100):
        path.write_bytes(content)
        found = read_candidates(tmp_path, "m", thumbnail=True)
        assert found is None
    assert read_candidates(tmp_path, "other") is None


def test_the_threshold_is_the_last_step_of_picking() -> None:
    """So that candidates above a threshold are what picking with it gives, exactly."""
    micrograph = read_micrograph(SAMPLE)
    candidates = Picker(device="cpu", diameter=170, threshold=0.7).candidates(micrograph)
    assert len(candidates) > 20
    # Thresholds at which something happens, and one pick's own score.
    for threshold in (0.0, float(candidates.score[3]), 0.9, 1.0):
        picked = Picker(device="cpu", diameter=170, threshold=threshold).pick(micrograph)
        chosen = candidates.above(threshold)
        assert np.array_equal(picked.x, chosen.x) and np.array_equal(picked.score, chosen.score)


def test_a_batch_keeps_candidates_below_the_threshold_and_pick_files_hold_those_above(tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES)
    for name in NAMES:
        kept = read_candidates(out, name[:-4])
        assert kept is not None and len(kept.candidates) == 60
        assert kept.candidates.score.min() < 0.4
        written = read_picks(out / "picks" / f"{name[:-4]}.star")
        assert len(written) == (kept.candidates.score >= 0.5).sum()


def test_a_picker_that_tells_no_candidates_keeps_its_picks(tmp_path: Path) -> None:
    write_micrograph(tmp_path / "mics" / "a.mrc")
    batch.run(StubPicker(), expand_inputs([tmp_path / "mics"]), tmp_path / "out", progress=False, overlays=False)
    kept = read_candidates(tmp_path / "out", "a")
    assert kept is not None and len(kept.candidates) == 24


def test_a_write_that_was_cut_short_leaves_nothing(tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES)
    torn = candidates_path(out, "m0").parent / ".tmp-1-abc.cand"
    torn.write_bytes(b"half")
    make_run(tmp_path, NAMES)
    assert not torn.exists() and read_candidates(out, "m0") is not None


def test_overwriting_forgets_what_was_kept(tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES)
    (tmp_path / "mics" / "m0.mrc").unlink()
    from tests.report.runs import CandidatePicker

    batch.run(
        CandidatePicker(), expand_inputs([tmp_path / "mics"]), out, progress=False, overlays=False, overwrite=True
    )
    assert read_candidates(out, "m0") is None and read_candidates(out, "m1") is not None


@pytest.mark.parametrize("threshold", [0.0, 0.37, 0.5, 0.63, 0.99])
def test_chosen_picks_are_the_files_that_picking_with_that_threshold_writes(tmp_path: Path, threshold: float) -> None:
    out = make_run(tmp_path, [*NAMES, "empty.mrc"])
    other = make_run(tmp_path, [*NAMES, "empty.mrc"], threshold, "other")
    target = tmp_path / "chosen"
    assert main(["report", str(out), "--threshold", str(threshold), "--write-picks", str(target)]) == 0
    written = sorted(path.name for path in target.iterdir())
    assert written == sorted(path.name for path in (other / "picks").iterdir())
    for name in written:
        assert (target / name).read_bytes() == (other / "picks" / name).read_bytes()


@pytest.mark.parametrize("diameter", [None, 52.0])
def test_chosen_box_files_have_the_one_box_of_the_run(tmp_path: Path, diameter: float | None) -> None:
    out = make_run(tmp_path, NAMES)
    settings = out / ".cryosegnet" / "journal.jsonl"
    if diameter is not None:
        text = settings.read_text().replace('"weights": "stub"', f'"diameter": {diameter}')
        settings.write_text(re.sub(r', "crc32": "\w+"', "", text))
    write_filtered_picks(EditedPicks(open_finished(out)), tmp_path / "chosen", threshold=0.6, suffix="box")
    boxes = {size for file in (tmp_path / "chosen").iterdir() for size in read_picks(file).diameter}
    assert len(boxes) == 1
    # 2 A per pixel; the candidates are about 40 A large
    assert boxes == {26} if diameter else boxes <= {18, 20, 22}


def test_sizes_choose_too_and_unknown_ones_pass_only_without_a_limit(tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES)
    micrographs, picks, _ = write_filtered_picks(
        EditedPicks(open_finished(out)), tmp_path / "chosen", threshold=0.2, min_diameter=36, max_diameter=44
    )
    sets = [kept.candidates for name in NAMES if (kept := read_candidates(out, name[:-4])) is not None]
    wanted = sum(int(((p.score >= 0.2) & (p.diameter >= 36) & (p.diameter <= 44)).sum()) for p in sets)
    assert micrographs == len(NAMES) and 0 < picks == wanted
    unknown = Picks([1, 2], [1, 2], [np.nan, 40], [0.9, 0.9])
    for limits, count in (((), 2), ((10,), 1), ((None, 50), 1)):
        assert len(filtered(unknown, 0.5, *limits)) == count


def test_the_runs_own_files_are_never_the_target(tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES)
    before = {path: path.read_bytes() for path in (out / "picks").iterdir()}
    for target in (
        out / "picks",
        out / "picks" / "below",
        out / ".cryosegnet",
        tmp_path / "mics" / ".." / "out" / "picks",
    ):
        with pytest.raises(CryoSegNetError, match="own files"):
            write_filtered_picks(EditedPicks(open_finished(out)), target, threshold=0.9)
    assert {path: path.read_bytes() for path in (out / "picks").iterdir()} == before


def test_thresholds_below_what_was_kept_are_refused(tmp_path: Path) -> None:
    out = make_run(tmp_path, NAMES)
    candidates_path(out, "m1").unlink()
    assert write_filtered_picks(EditedPicks(open_finished(out)), tmp_path / "above", threshold=0.7)[0] == 4
    with pytest.raises(CryoSegNetError, match=r"m1\.mrc: .* were not saved"):
        write_filtered_picks(EditedPicks(open_finished(out)), tmp_path / "below", threshold=0.3)


def test_wrong_usage_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = make_run(tmp_path, NAMES)
    assert main(["report", str(out), "--threshold", "0.3"]) == 1
    assert main(["report", str(out), "--write-picks", "x", "--min-diameter", "9", "--max-diameter", "5"]) == 1
    assert main(["report", str(tmp_path)]) == 3
    assert "nothing was picked into this folder" in capsys.readouterr().err


def test_levels_and_sizes_compare_as_the_numbers_do() -> None:
    rng = np.random.default_rng(1)
    grid = np.arange(1001) / 1000
    score = np.concatenate([rng.random(500), grid, np.nextafter(grid, 0), np.nextafter(grid, 1)]).clip(0, 1)
    levels = levels_of(0.43217)
    level = level_of(score, levels)
    for i in [0, 1, 300, 433, 434, 500, 999, 1001]:
        assert np.array_equal(score >= levels[i], level >= i)
        assert levels[i] == 0.43217 or levels[i] == float(f"{levels[i]:.3f}")
    sizes = np.concatenate([rng.uniform(5, 300, 500), np.arange(5.0, 300), np.nextafter(np.arange(5.0, 300), 0)])
    code = size_code(sizes)
    for limit in (5, 36, 120, 299):
        assert np.array_equal(sizes >= limit, code >= 2 * limit)
        assert np.array_equal(sizes <= limit, code <= 2 * limit)
    assert size_code(np.array([np.nan]))[0] == 65535
