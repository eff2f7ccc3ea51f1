"""Bad labels are told from good ones by the image itself."""

from __future__ import annotations

import numpy as np
import pytest

from cryosegnet_ext import read_micrograph, read_picks
from cryosegnet_ext.picking.image_evidence import ImageEvidence, strength
from cryosegnet_ext.training import checks
from cryosegnet_ext.training.checks import (
    PLACEMENTS,
    check_all,
    check_frame,
    check_placement,
    check_shape,
)
from cryosegnet_ext.training.labels import Labels

from .helpers import DIAMETER, centres, picture

SHAPE = (420, 500)


def labels(x, y, **more):
    return Labels("mic.star", np.asarray(x, float), np.asarray(y, float), **more)


def placed(evidence, labels):
    return evidence.placed(labels.x, labels.y, PLACEMENTS)


@pytest.fixture(scope="module")
def scene():
    x, y = centres(SHAPE, 1)
    return x, y, ImageEvidence(picture(x, y, SHAPE, 1, depth=0.8), DIAMETER)


WRONG = {
    "--flip-labels y": lambda x, y: (x, SHAPE[0] - 1 - y),
    "--flip-labels x": lambda x, y: (SHAPE[1] - 1 - x, y),
    "--flip-labels xy": lambda x, y: (SHAPE[1] - 1 - x, SHAPE[0] - 1 - y),
    "--flip-labels swap": lambda x, y: (y, x),
    "--label-scale 2": lambda x, y: (x / 2, y / 2),
    "--label-scale 4": lambda x, y: (x / 4, y / 4),
}


def test_right_labels_are_believed(scene):
    x, y, evidence = scene
    seen = placed(evidence, labels(x, y))
    assert strength(seen)[0] > 20 and strength(seen)[1:].max() < 2
    assert check_placement("mic.mrc", labels(x, y), seen) is None


@pytest.mark.parametrize("remedy", WRONG)
def test_wrong_labels_are_named_with_their_remedy(scene, remedy):
    x, y, evidence = scene
    wrong = labels(*WRONG[remedy](x, y))
    problem = check_placement("mic.mrc", wrong, placed(evidence, wrong))
    assert problem is not None and problem.serious
    assert problem.remedy == remedy
    assert "mic.star" in str(problem) and remedy in str(problem)
    # and the remedy is one
    flip = remedy.split()[1] if "flip" in remedy else None
    scale = 1.0 if flip else float(remedy.split()[1])
    mended = checks.place(wrong, SHAPE, flip, scale)
    assert mended.x == pytest.approx(x) and mended.y == pytest.approx(y)


@pytest.mark.parametrize("kind", ["bright", "hollow"])
def test_any_particle_counts(kind):
    x, y = centres(SHAPE, 2)
    data = picture(x, y, SHAPE, 2, depth=-0.8 if kind == "bright" else 0.8)
    if kind == "hollow":
        data += picture(x, y, SHAPE, 3, diameter=DIAMETER * 0.7, depth=-1.1, noise=0)
    evidence = ImageEvidence(data, DIAMETER)
    assert check_placement("m", labels(x, y), placed(evidence, labels(x, y))) is None
    wrong = labels(x, SHAPE[0] - 1 - y)
    assert check_placement("m", wrong, placed(evidence, wrong)).remedy == "--flip-labels y"


def test_labels_on_noise_accuse_nobody():
    """Where nothing can be seen, nothing is claimed of a file; together they are told to show nothing."""
    seen = {}
    for i in range(12):
        x, y = centres(SHAPE, i)
        evidence = ImageEvidence(np.random.default_rng(i).normal(size=SHAPE).astype(np.float32), DIAMETER)
        seen[str(i)] = placed(evidence, labels(x, y))
        assert check_placement("m", labels(x, y), seen[str(i)]) is None
    assert "stands out" in str(check_all(seen, dict.fromkeys(seen, 80)))


def few_labels(each, count, seed=0, depth=0.8):
    """Of some micrographs, ``each`` labels on each: evidence right and flipped in y, and how many there are."""
    right, flipped = {}, {}
    for i in range(count):
        x, y = centres(SHAPE, i)
        evidence = ImageEvidence(picture(x, y, SHAPE, i, depth=depth), DIAMETER)
        some = np.random.default_rng([seed, i]).choice(len(x), each, replace=False)
        right[str(i)] = placed(evidence, labels(x[some], y[some]))
        flipped[str(i)] = placed(evidence, labels(x[some], SHAPE[0] - 1 - y[some]))
    return right, flipped, dict.fromkeys(right, each)


@pytest.mark.parametrize("each", [3, 5, 8, 12])
@pytest.mark.parametrize("depth", [0.4, 0.8])
def test_few_labels_accuse_together(each, depth):
    right, flipped, counts = few_labels(each, 5, depth=depth)
    for seen in flipped.values():
        few = labels(np.arange(each), np.arange(each))
        assert check_placement("m", few, seen) is None  # too few alone
    found = check_all(flipped, counts)
    assert found.serious and found.remedy == "--flip-labels y" and "the labels together fit" in str(found)
    assert check_all(right, counts) is None


def test_where_labels_are_too_few_to_tell_it_is_said():
    for seen, counts in [(few_labels(4, 2)[k], few_labels(4, 2)[2]) for k in (0, 1)]:
        found = check_all(seen, counts)
        assert not found.serious and "too few to tell" in str(found) and "labels.jpg" in str(found)
    faint = few_labels(5, 4, depth=0.0)
    assert "too few to tell" in str(check_all(faint[0], faint[2]))


def test_labels_of_other_micrographs_stop_the_training():
    seen, counts = {}, {}
    for i in range(5):
        x, y = centres(SHAPE, i)
        other = labels(*centres(SHAPE, i + 1))
        seen[str(i)] = placed(ImageEvidence(picture(x, y, SHAPE, i, depth=0.8), DIAMETER), other)
        counts[str(i)] = len(other)
    found = check_all(seen, counts)
    assert found.serious and str(found).startswith("the labels lie where nothing stands out in the images")


def test_shapes():
    x = np.array([10.0])
    assert check_shape("m", (400, 300), labels(x, x, mask_shape=(200, 150))) is None
    assert check_shape("m", (4092, 5760), labels(x, x, mask_shape=(256, 360))) is None
    assert "turned by 90" in str(check_shape("m", (400, 300), labels(x, x, mask_shape=(150, 200))))
    assert "mask of 256 x 256" in str(check_shape("m", (400, 300), labels(x, x, mask_shape=(256, 256))))
    other = check_shape("m", (400, 300), labels(x, x, micrograph_shape=(800, 600)))
    assert other.remedy == "--label-scale 0.5"


def test_outside(scene):
    x, y, evidence = scene

    def check(x, y):
        given = labels(x, y)
        return check_frame("m", SHAPE, given, placed(evidence, given))

    assert check(x, y) is None
    assert check(np.append(x, 600), np.append(y, 20)) is None  # one stray among many is left out
    # what the image bears out is suggested
    assert check(2 * x, 2 * y).remedy == "--label-scale 0.5"
    assert check(4 * x, 4 * y).remedy == "--label-scale 0.25"
    # and nothing else
    for factor in (1.6, 1.9):
        found = check(factor * x, factor * y)
        assert found.remedy == "" and "another binning" in str(found) and "times" not in str(found)
    assert check(x[:5] * 2, y[:5] * 2).remedy == ""
    elsewhere = check([10.0, -900], [20.0, 9000])
    assert elsewhere.remedy == "" and "1 of 2 labels outside" in str(elsewhere)


def test_outside_since_x_and_y_are_exchanged():
    shape = (300, 620)
    x, y = centres(shape, 1)
    given = labels(y, x)
    seen = placed(ImageEvidence(picture(x, y, shape, 1), DIAMETER), given)
    assert check_frame("m", shape, given, seen).remedy == "--flip-labels swap"


def real(shared_data):
    for name, suffix, size in (("empiar-10017-denoised", ".jpg", 96.0), ("apoferritin", ".mrc", 68.0)):
        for path in sorted((shared_data / "micrographs" / name).glob(f"*{suffix}"))[::4]:
            yield path, size, read_picks(shared_data / "labels" / name / f"{path.stem}.star")


def test_real_labels_raise_no_alarm_and_flipped_ones_do(shared_data):
    count = 0
    for path, size, picks in real(shared_data):
        micrograph = read_micrograph(path)
        ny = micrograph.data.shape[0]
        # the size is known to a quarter only
        for factor in (0.8, 1.25):
            evidence = ImageEvidence(micrograph.data, size * factor)
            assert check_placement("m", labels(picks.x, picks.y), placed(evidence, labels(picks.x, picks.y))) is None
        wrong = labels(picks.x, ny - 1 - picks.y)
        assert check_placement("m", wrong, placed(evidence, wrong)).remedy == "--flip-labels y"
        count += 1
    assert count == 6


def test_every_placement_has_its_own_remedy():
    remedies = [checks.remedy_of(p) for p in PLACEMENTS[1:]]
    assert len(set(remedies)) == len(remedies)


@pytest.mark.parametrize(
    ("remedy", "flip", "scale", "together"),
    [
        ("--flip-labels y", None, 1.0, "--flip-labels y"),
        ("--flip-labels y", "y", 1.0, "neither --flip-labels nor --label-scale"),
        ("--flip-labels y", "x", 1.0, "--flip-labels xy"),
        ("--flip-labels x", "xy", 1.0, "--flip-labels y"),
        ("--flip-labels y", None, 2.0, "--flip-labels y --label-scale 2"),
        ("--label-scale 0.5", "y", 4.0, "--flip-labels y --label-scale 2"),
    ],
)
def test_remedies_add_to_what_was_given(remedy, flip, scale, together):
    assert checks.further(remedy, flip, scale) == together
