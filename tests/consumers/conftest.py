"""Folders that our commands filled, once for each test module."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryosegnet_ext.facility import FacilityJob

from .ours import PIXEL_SIZE, Picker, run, write_micrographs

MOVIES = "MotionCorr/job002/Movies"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with a micrograph of five particles, one of none, and RELION's list of both."""
    folder = tmp_path_factory.mktemp("project")
    paths = write_micrographs(folder / MOVIES)
    optics = "data_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n_rlnMicrographPixelSize #3\n"
    optics += f"_rlnVoltage #4\n_rlnSphericalAberration #5\n_rlnAmplitudeContrast #6\ng1 1 {PIXEL_SIZE} 300 2.7 0.1\n\n"
    table = "data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n"
    rows = "".join(f"{path.relative_to(folder)} 1\n" for path in paths)
    (folder / "MotionCorr/job002/corrected_micrographs.star").write_text(optics + table + rows)
    return folder


@pytest.fixture(scope="module")
def picked(project: Path) -> Path:
    """``picks/`` of ``cryosegnet pick``."""
    run(project, "pick", MOVIES, "-o", "picked", "--format", "star,box,cbox,csv")
    return project / "picked" / "picks"


@pytest.fixture(scope="module")
def particles(project: Path, picked: Path) -> Path:
    """The folder of ``cryosegnet export --cryosparc``."""
    run(project, "export", "picked", "--cryosparc", "-o", "for_cryosparc")
    return project / "for_cryosparc"


@pytest.fixture(scope="module")
def external(project: Path) -> Path:
    """The folder of RELION's External job."""
    micrographs = "MotionCorr/job002/corrected_micrographs.star"
    run(project, "relion", "--o", "External/job004/", "--in_mics", micrographs, "--j", "1")
    return project / "External" / "job004"


@pytest.fixture(scope="module")
def facility(project: Path) -> Path:
    """The folder of `FacilityJob`."""
    job = FacilityJob(Picker(), project / "AutoPick" / "job005")
    for path in sorted((project / MOVIES).iterdir()):
        assert job.pick(path).done
    return job.folder
