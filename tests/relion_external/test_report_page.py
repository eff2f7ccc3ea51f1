"""report.html in the job's directory."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from .project import Project

JOB = "External/job004/"


def test_the_page_shows_what_the_micrographs_star_says_and_the_parameter_to_change(tmp_path: Path) -> None:
    project = Project(tmp_path, micrographs=0)
    project.names = [f"{project.micrographs}/mic_{number}.mrc" for number in range(2)]
    for number, name in enumerate(project.names):
        project.write(name, np.random.default_rng(number).normal(size=(128, 128)))
    project.write_star()
    project.call("--in_mics", project.mics_star)
    assert project.text(JOB + "run.err") == ""
    share = json.loads(project.text(JOB + "summary.json"))["totals"]["expected_false"]
    assert f"about {100 * share:.0f} % of the picks are expected to be false" in project.text(JOB + "run.out")
    page = project.text(JOB + "report.html")
    found = re.search(r'id="data">(.*?)</script>', page, re.S)
    assert found
    data = json.loads(found[1])
    assert data["micrographs"]["name"] == project.names
    counts = [len(project.coordinates(JOB, name)) for name in project.names]
    assert data["micrographs"]["picks"] == counts
    # Not Continue, which would pick all again and not use edits.
    (command,) = data["commands"]
    assert command["label"] == "A new External job, labels and values on the Params tab"
    assert command["parts"] == ["from_run ", JOB, " threshold ", {"value": "threshold"}]
    star = project.text(project.mics_star)
    assert ("_rlnDefocusU" in star) == any(column["key"] == "defocus" for column in data["columns"])


def test_one_micrograph_is_said_as_such(tmp_path: Path) -> None:
    project = Project(tmp_path, micrographs=0)
    project.names = [f"{project.micrographs}/mic_0.mrc"]
    project.write(project.names[0], np.random.default_rng(0).normal(size=(128, 128)))
    project.write_star()
    project.call("--in_mics", project.mics_star)
    said = project.text(JOB + "run.out")
    assert "1/1 micrograph (100 %)" in said and " on 1 micrograph (0 picked before)" in said
