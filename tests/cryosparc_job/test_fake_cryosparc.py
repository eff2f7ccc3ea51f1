"""The fake CryoSPARC server agrees with cryosparc-tools, not with us."""

from __future__ import annotations

import inspect
import json
import urllib.error
import urllib.request
from typing import Any

import numpy as np
import pytest
from cryosparc.dataset import Dataset
from cryosparc.errors import APIError
from cryosparc.models.job import Job
from cryosparc.tools import CryoSPARC

from tests.fake_cryosparc.handlers import HANDLERS
from tests.fake_cryosparc.interface import operations
from tests.fake_cryosparc.server import FakeCryoSPARC
from tests.waiting import LIMIT

JSON_TYPES = {str: "string", int: "integer", bool: "boolean", float: "number"}


@pytest.fixture
def schema(fake: FakeCryoSPARC) -> dict[str, Any]:
    with urllib.request.urlopen(f"{fake.url}/api/cmd/openapi.json", timeout=LIMIT) as reply:
        return json.load(reply)


@pytest.fixture
def client(fake: FakeCryoSPARC) -> CryoSPARC:
    return CryoSPARC(fake.url, email=fake.world.email, password=fake.world.password)


def test_every_operation_is_as_the_interface_file_says(schema: dict[str, Any]) -> None:
    published = {one["summary"]: (path, one) for path, methods in schema["paths"].items() for one in methods.values()}
    assert set(published) == set(HANDLERS)
    for name, (path, one) in published.items():
        operation = operations()[name]
        parameters = one.get("parameters", [])
        assert [f"{{{p.name}}}" for p in operation.path] == path.split("/")[2:], name
        assert [p["name"] for p in parameters if p["in"] == "path"] == [p.name for p in operation.path], name
        if name != "login":
            assert {p["name"] for p in parameters if p["in"] == "query"} == {p.name for p in operation.query}, name
        for parameter in operation.query:
            for found in parameters:
                if found["name"] == parameter.name:
                    assert found["required"] == (parameter.default is inspect.Parameter.empty), (name, parameter.name)
                    if parameter.annotation in JSON_TYPES:
                        assert found["schema"]["type"] == JSON_TYPES[parameter.annotation], (name, parameter.name)
        assert ("requestBody" in one) == bool(operation.body or name == "login"), name
        assert len(operation.body) <= 1, name


def test_models_are_the_packages_own(schema: dict[str, Any]) -> None:
    for name, model in (("Job", Job),):
        assert set(schema["components"]["schemas"][name]["properties"]) == set(model.model_json_schema()["properties"])


def test_a_job_arrives_as_the_clients_model(client: CryoSPARC) -> None:
    job = client.create_external_job("P1", "W1", title="a title")
    assert isinstance(job.model, Job)
    assert (job.title, job.status, job.type) == ("a title", "building", "snowflake")
    assert [one.uid for one in client.find_jobs("P1", "W1", type="snowflake")] == [job.uid]


def test_wrong_password_and_missing_token_are_refused(fake: FakeCryoSPARC) -> None:
    with pytest.raises(RuntimeError, match="401"):
        CryoSPARC(fake.url, email=fake.world.email, password="wrong")
    with pytest.raises(urllib.error.HTTPError, match="401") as refusal:
        urllib.request.urlopen(f"{fake.url}/api/cmd/users.me", timeout=LIMIT)
    refusal.value.close()


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("location/micrograph_shape", np.zeros((3, 2), np.int32), "micrograph_shape"),
        ("location/center_x_frac", np.zeros(3, np.float64), "center_x_frac"),
        ("pick_stats/template_idx", np.zeros(3, np.int64), "template_idx"),
        ("location/made_up", np.zeros(3, np.float32), "unexpected field"),
    ],
)
def test_wrong_types_are_refused(client: CryoSPARC, field: str, values: Any, message: str) -> None:
    job = client.create_external_job("P1", "W1")
    job.add_output("particle", "particles", slots=["location", "pick_stats"])
    good = job.alloc_output("particles", 3)
    columns = {name: np.asarray(good[name]) for name in good.fields()}
    columns[field] = values
    with job.run():
        with pytest.raises(APIError) as refusal:
            job.save_output("particles", Dataset(columns))
        assert refusal.value.code == 422
        assert message in str(refusal.value)
        job.save_output("particles", good)


def test_states_are_strict(client: CryoSPARC, fake: FakeCryoSPARC) -> None:
    job = client.create_external_job("P1", "W1")
    job.add_output("particle", "particles", slots=["location"])
    with pytest.raises(APIError, match="400"):
        job.save_output("particles", job.alloc_output("particles", 1))
    job.start("running")
    fake.world.set_status(fake.world.jobs[job.uid], "killed")
    with pytest.raises(APIError, match="400"):
        job.save_output("particles", job.alloc_output("particles", 1))
    with pytest.raises(APIError, match="400"):
        job.start("running")


def test_unknown_parameters_slots_lanes_and_inputs_are_refused(client: CryoSPARC) -> None:
    with pytest.raises(APIError, match="422"):
        client.create_job("P1", "W1", "extract_micrographs_multi", params={"box_size": 256})
    with pytest.raises(APIError, match="422"):
        client.create_job("P1", "W1", "extract_micrographs_multi", params={"box_size_pix": "256"})
    with pytest.raises(APIError, match="422"):
        client.create_job("P1", "W1", "no_such_job")
    job = client.create_external_job("P1", "W1")
    with pytest.raises(APIError, match="422"):
        job.add_output("particle", "particles", slots=["no_such_slot"])
    with pytest.raises(ValueError, match="exposure"):
        job.add_output("micrograph", "micrographs", slots=["micrograph_blob"])  # type: ignore[call-overload]
