"""The orientation is found with a number, or reported as unknown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.picking.placements import Placement
from cryosparc_job import cli
from cryosparc_job.connection import OutputName, connect
from cryosparc_job.orientation import ORIENTATIONS, compare_with_images, compare_with_picks, oriented
from cryosparc_job.pick import PickingJob, pick
from tests.cryosparc_job.helpers import BlobPicker, add_exposures, environment, simulate
from tests.fake_cryosparc.running import RunningServer

SHAPE = (384, 512)


def truth(count: int = 6) -> tuple[dict[int, Any], dict[int, Any]]:
    made = {uid: simulate(SHAPE, 12, uid) for uid in range(count)}
    places = {uid: points / [SHAPE[1], SHAPE[0]] for uid, (_, points) in made.items()}
    return places, {uid: image for uid, (image, _) in made.items()}


@pytest.mark.parametrize("placement", ORIENTATIONS)
def test_every_orientation_is_told_from_picks_and_from_images(placement: Placement) -> None:
    places, images = truth()
    turned = {uid: oriented(points, placement, SHAPE) for uid, points in places.items()}
    shapes = dict.fromkeys(places, SHAPE)
    by_picks = compare_with_picks(turned, places, shapes, 8.0)
    assert by_picks.best == placement.name
    assert by_picks.scores[placement.name] > 0.99
    by_images = compare_with_images(turned, images, dict.fromkeys(places, 16.0))
    assert by_images.best == placement.name
    assert abs(by_images.scores[placement.name]) > 5


def test_noise_says_that_nothing_stands_out() -> None:
    rng = np.random.default_rng(0)
    places, images = truth()
    random = {uid: rng.uniform(0.1, 0.9, points.shape) for uid, points in places.items()}
    assert compare_with_picks(random, places, dict.fromkeys(places, SHAPE), 8.0).best is None
    verdict = compare_with_images(random, images, dict.fromkeys(places, 16.0))
    assert verdict.best is None
    assert "No orientation stands out" in verdict.lines()[-1]


def test_too_few_picks_are_refused() -> None:
    places, images = truth(1)
    with pytest.raises(CryoSegNetError, match="too few"):
        compare_with_images(places, images, dict.fromkeys(places, 16.0))


@pytest.mark.parametrize("against", ["picks", "images"])
@pytest.mark.parametrize("flip_y", [False, True])
def test_the_command(
    fake: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], against: str, flip_y: bool
) -> None:
    for name, value in environment(fake).items():
        monkeypatch.setenv(name, value)
    add_exposures(fake.world, [SHAPE] * 5)
    with connect(fake.url) as connection:
        job = PickingJob("P1", "W1", OutputName("J1", "exposures"))
        right = pick(connection, job, BlobPicker()).job
        mine = pick(connection, PickingJob(**{**job.__dict__, "flip_y": flip_y}), BlobPicker()).job
    words = ["check-orientation", "--url", fake.url, "--project", "P1", "--exposures", "J1:exposures"]
    words += ["--picks", f"{mine}:particles"] + (["--reference", f"{right}:particles"] if against == "picks" else [])
    assert cli.main(words) == (2 if flip_y else 0)
    said = capsys.readouterr().out
    assert ("pick again with --flip-y" if flip_y else "no --flip-y") in said
    assert "over 60 picks on 5 exposures" in said
