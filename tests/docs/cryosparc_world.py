"""A CryoSPARC project with the jobs that docs/cryosparc.md names, on the fake CryoSPARC server."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.docs.world import PIXEL_SIZE, write_micrograph

EXPOSURES = 3
#: Large enough for the contrast at the picks to tell which way up they are.
SIDE = 880


def available() -> None:
    """Skip where the client or the server's libraries are not installed."""
    for name, extra in (("cryosparc", "cryosparc"), ("fastapi", "dev"), ("uvicorn", "dev")):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install '.[{extra}]'")


@contextmanager
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the server; logins and caches are its own."""
    available()
    from cryosparc_job import chain, jobs
    from tests.cryosparc_job.helpers import add_exposures, environment
    from tests.fake_cryosparc.server import FakeCryoSPARC

    for name in ("BASE_URL", "MASTER_HOSTNAME", "BASE_PORT", "LICENSE_ID"):
        monkeypatch.delenv(f"CRYOSPARC_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.setattr(jobs, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(chain, "POLL_SECONDS", 0.1)
    with FakeCryoSPARC(folder) as fake:
        for name, value in environment(fake).items():
            monkeypatch.setenv(name, value)
        world = fake.world
        _add_session(world)
        _fill_up_to(world, 11)
        options: dict[str, Any] = {"pixel_size": PIXEL_SIZE, "particles": 1, "job": "J12"}
        add_exposures(world, [(SIDE, SIDE)] * EXPOSURES, first=10, **options)
        for number, path in enumerate(world.outputs["J12", "exposures"]["micrograph_blob/path"]):
            write_micrograph(world.directory / path, number, side=SIDE)
        # The particles to compare with are those of an earlier picking.
        _fill_up_to(world, 19)
        from cryosparc_job.cli import main

        words = ["--url", fake.url, "--project", "P1", "--workspace", "W1", "--exposures", "J12:exposures"]
        assert main(["pick", *words, "--quiet"]) == 0
        assert "J20" in world.jobs
        _fill_up_to(world, 33)
        yield fake.url


def _fill_up_to(world: Any, number: int) -> None:
    """Other people's jobs, so that the next one has the number that the page gives it."""
    while len(world.jobs) < number:
        world.create("snowflake", "W1", "another job", "", {})


def _add_session(world: Any) -> None:
    """The Live session S1 in the workspace W5, completed, with exposures that are ready."""
    from cryosparc.models.exposure import Exposure, ExposureElement, ExposureGroups, MicrographBlob, MScopeParams
    from cryosparc.models.session import Session

    known: dict[str, Any] = {"project_uid": "P1", "session_uid": "S1"}
    numbers = {"uid_num": 5, "project_uid_num": 1, "session_uid_num": 1}
    live = {"workspace_type": "live", "session_dir": "S1", "status": "completed", "errors": []}
    world.sessions["S1"] = Session(uid="W5", **known, **numbers, **live)
    for number in range(EXPOSURES):
        path = Path("S1") / "motioncorrected" / f"{number:04d}_patch_aligned_doseweighted.mrc"
        write_micrograph(world.directory / path, number, side=SIDE)
        blob = MicrographBlob(
            path=str(path),
            shape=[SIDE, SIDE],
            psize_A=PIXEL_SIZE,
            idx=0,
            format="MRC/2",
            is_background_subtracted=True,
        )
        scope = MScopeParams(accel_kv=300, cs_mm=2.7, exp_group_id=1, phase_plate=0, total_dose_e_per_A2=50)
        element = ExposureElement(uid=str(number + 1), micrograph_blob=blob, mscope_params=scope)
        world.exposures.append(
            Exposure(
                _id=f"{number:024x}",
                uid=number + 1,
                exp_group_id=1,
                abs_file_path="",
                size=1,
                discovered_at=datetime.datetime.now(datetime.timezone.utc),
                stage="ready",
                groups=ExposureGroups(exposure=element),
                **known,
            )
        )
