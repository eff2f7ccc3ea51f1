"""Optics groups of a RELION job: several pixel sizes, and groups that are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from relion_external.markers import SUCCESS

from .project import PIXEL, Project

JOB = "External/job004/"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project", micrographs=2)


def run(project: Project, words: str) -> str:
    """Run the job; what run.err says."""
    project.call("--in_mics", project.mics_star, words)
    return project.text(JOB + "run.err")


def with_groups(project: Project, second: str, *names: str) -> None:
    """Give the micrographs of these names the optics group 2, of which ``second`` is the row in the optics table."""
    star = project.folder / project.mics_star
    text = star.read_text().replace(f"0.07 {PIXEL}\n", f"0.07 {PIXEL}\n{second}\n")
    for name in names:
        text = text.replace(f"{name} 1 ", f"{name} 2.000000 ")
    star.write_text(text)


def test_boxes_of_several_pixel_sizes_are_said_and_the_largest_written(project: Project) -> None:
    with_groups(project, f"opticsGroup2 02 {PIXEL / 2} 300 2.7 0.07 {PIXEL / 2}", project.names[1])
    said = run(project, "--particle_diameter 160")
    assert project.markers() == [SUCCESS]
    assert "the micrographs have 2 pixel sizes (2 A on 1 micrograph: box 120 pixels" in said
    assert "4 A on 1 micrograph: box 60 pixels" in said
    assert f"the pixel size of 1 of 2 micrographs ({project.names[1]}: 2 and 4 A)" in said
    text = project.text(JOB + "output_for_relion.star")
    assert "_rlnOriginalImageSize 120\n" in text and "_rlnMicrographPixelSize 2\n" in text


def test_a_missing_optics_group_fails_its_micrographs_only(project: Project) -> None:
    with_groups(project, "", project.names[1])
    assert "1 failed" in run(project, "--particle_diameter 160")
    assert project.markers() == [SUCCESS]
    assert len(project.coordinates(JOB, project.names[0])) and not len(project.coordinates(JOB, project.names[1]))
    assert "optics group 2.000000, which the optics table of" in project.text(JOB + "failed.csv")
    run(project, f"--particle_diameter 160 --angpix {PIXEL}")
    assert len(project.coordinates(JOB, project.names[1]))
