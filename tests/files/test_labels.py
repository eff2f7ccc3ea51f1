"""Which micrograph a name means."""

from __future__ import annotations

import pytest

from cryosegnet_ext.files.labels import match_name, match_names, stem_of

STEMS = ["mic_1", "mic_10", "mic_1_2"]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("mic_001.star", "mic_001"),
        ("AutoPick/job010/Movies/mic_001_autopick.star", "mic_001"),
        ("mic_001_manualpick.star", "mic_001"),
        ("001234567890123456789_mic_001_patch_aligned_doseweighted.mrc", "mic_001"),
        ("20170629_00021_frameImage.mrc", "20170629_00021_frameImage"),
        ("mic_001_mask.png", "mic_001"),
        ("May08_05.55.31.star", "May08_05.55.31"),
        ("picks.star", "picks"),
    ],
)
def test_the_micrograph_in_a_name(name, stem):
    assert stem_of(name) == stem


def test_names_go_to_the_longest_stem_and_numbers_are_no_additions():
    names = ["mic_1.star", "mic_10.star", "mic_1_2.star", "mic_1_weird.star", "mic_1_3.star", "other.star"]
    assert match_names(names, STEMS) == {
        "mic_1.star": "mic_1",
        "mic_10.star": "mic_10",
        "mic_1_2.star": "mic_1_2",
        "mic_1_weird.star": "mic_1",
    }


def test_a_whole_name_comes_before_what_programs_add():
    stems = {"grid", "grid_particles"}
    assert match_name("grid_particles.star", stems) == "grid_particles"
    assert match_name("grid_autopick.star", stems) == "grid"
