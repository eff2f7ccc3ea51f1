"""The notebook runs from top to bottom against the fake CryoSPARC server."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import cryosegnet_ext
from cryosparc_job import chain
from tests.cryosparc_job.helpers import BlobPicker, add_exposures, environment
from tests.fake_cryosparc.running import RunningServer
from tests.notebooks import CRYOSPARC, check_outputs, executed, text_of


def test_the_notebook(
    fake: RunningServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The notebook sets this level; caplog takes it back.
    caplog.set_level(logging.INFO, "cryosparc_job")
    for name, value in {**environment(fake), "CRYOSPARC_BASE_URL": fake.url}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cryosegnet_ext, "Picker", BlobPicker, raising=False)
    monkeypatch.setattr(chain, "POLL_SECONDS", 0.02)
    add_exposures(fake.world, [(256, 320)] * 4, particles=8)
    fake.world.class_info = [{"class_idx": 0, "res_A": 8.0, "num_particles_total": 1000}]
    names: dict[str, Any] = {}
    said = text_of(executed(CRYOSPARC, names))
    check_outputs(CRYOSPARC)
    assert "4 exposures; the first: S1/motioncorrected/" in said
    assert "J2 has 32 particles on 4 exposures" in said
    assert "abinit: J6 queued" in caplog.messages
    assert names["jobs"] == {"extract": "J3", "classify": "J4", "select": "J5", "abinit": "J6"}
    assert names["picker"].given == names["diameter"]
    assert all(fake.world.jobs[uid].status == "completed" for uid in ("J2", "J3", "J4", "J5", "J6"))
