"""The fake CryoSPARC 4.7 server agrees with cryosparc-tools 4.7, not with us."""

from __future__ import annotations

import ast
import inspect
import io
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import cryosparc
import numpy as np
import pytest
from cryosparc import spec
from cryosparc.dataset import Dataset
from cryosparc.errors import CommandError, InvalidSlotsError
from cryosparc.tools import CryoSPARC

from tests.cryosparc_job.helpers import add_exposures
from tests.fake_cryosparc.faults import Fault
from tests.fake_cryosparc4.documents import USER
from tests.fake_cryosparc4.methods import METHODS
from tests.fake_cryosparc4.server import FakeCryoSPARC4
from tests.waiting import LIMIT

#: Methods of the client that no command of this program leads to.
NOT_NEEDED = {
    "core": {"create_empty_workspace", "get_scheduler_targets", "set_cluster_job_custom_vars"}
    | {"job_connect_result", "job_connected_result_clear"},
    "vis": {"create_external_result", "list_project_files", "project_mkdir", "project_cp", "project_symlink"},
    "rtp": set(),
}


#: Where the types in the package are not what its code and its tests show: a result has a number of rows for each
#: version, a slot's type is "exposure.ctf", a parameter's value is of the parameter's own type.
LOOSE = {"OutputResult": "num_items", "InputSlot": "type", "Param": "value"}


def connect(fake: FakeCryoSPARC4, **other: Any) -> CryoSPARC:
    host, port = fake.url.removeprefix("http://").split(":")
    login = {"license": fake.world.license, "email": fake.world.email, "password": fake.world.password}
    return CryoSPARC(host=host, base_port=int(port), timeout=int(LIMIT), **{**login, **other})


@pytest.fixture
def client(fake: FakeCryoSPARC4) -> CryoSPARC:
    return connect(fake)


def calls_of_the_client() -> dict[str, dict[str, ast.Call]]:
    """Service -> method -> a call of it in the package's source."""
    found: dict[str, dict[str, ast.Call]] = {"core": {}, "vis": {}, "rtp": {}}
    assert cryosparc.__file__ is not None
    for file in Path(cryosparc.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                service = getattr(node.func.value, "attr", "")
                if service in ("cli", "vis", "rtp"):
                    found["core" if service == "cli" else service][node.func.attr] = node
    return found


def test_every_method_takes_what_the_client_sends() -> None:
    for service, methods in calls_of_the_client().items():
        assert set(methods) - NOT_NEEDED[service] <= set(METHODS[service])
        assert not NOT_NEEDED[service] & set(METHODS[service])
        for name in set(methods) & set(METHODS[service]):
            call = methods[name]
            named = {one.arg: None for one in call.keywords if one.arg is not None}
            inspect.signature(METHODS[service][name]).bind(None, *call.args, **named)


def conforms(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of a type of ``cryosparc/spec.py``."""
    origin = get_origin(kind)
    if kind is Any:
        return True
    if origin is Union:
        return any(conforms(value, one) for one in get_args(kind))
    if origin is Literal:
        return value in get_args(kind)
    if origin is list:
        return isinstance(value, list) and all(conforms(one, get_args(kind)[0]) for one in value)
    if origin is tuple:
        return len(value) == len(get_args(kind)) and all(map(conforms, value, get_args(kind)))
    if origin is dict:
        return isinstance(value, dict) and all(conforms(one, get_args(kind)[1]) for one in value.values())
    if hasattr(kind, "__total__"):
        hints = get_type_hints(kind)
        assert not kind.__total__ or set(hints) <= set(value), (kind.__name__, set(hints) - set(value))
        wrong = [name for name, hint in hints.items() if name in value and not conforms(value[name], hint)]
        # A result has a number of rows for each version, and a parameter's value is of the parameter's own type.
        assert set(wrong) <= {LOOSE.get(kind.__name__)}, (kind.__name__, {name: value[name] for name in wrong})
        return True
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def test_documents_are_what_the_client_describes(client: CryoSPARC, fake: FakeCryoSPARC4) -> None:
    add_exposures(fake.world, [(64, 64)], particles=1)
    job = client.create_external_job("P1", "W1", title="a title")
    job.add_input("exposure", "exposures", min=1, slots=["micrograph_blob"])
    job.connect("exposures", "J1", "exposures")
    job.add_output("exposure", "exposures", slots=["micrograph_blob"], passthrough="exposures")
    extract = client.create_job("P1", "W1", "extract_micrographs_multi", params={"box_size_pix": 64})
    for one in (client.find_job("P1", "J1"), job, extract):
        assert conforms(one.doc, spec.JobDocument), one.uid
    assert (job.doc["title"], job.status, job.type) == ("a title", "building", "snowflake")
    assert extract.doc["params_spec"] == {"box_size_pix": {"value": 64}}
    results = [(one["name"], one["passthrough"]) for one in job.doc["output_results"]]
    assert results == [("micrograph_blob", False), ("mscope_params", True), ("ctf", True)]
    assert conforms(client.find_project("P1").doc, spec.ProjectDocument)
    assert conforms(client.find_workspace("P1", "W1").doc, spec.WorkspaceDocument)
    assert conforms(client.get_lanes(), list[spec.SchedulerLane])
    assert conforms(client.get_job_specs(), list[spec.JobSpecSection])
    assert conforms(client.get_job_sections(), list[spec.JobSection])


def test_wrong_logins_and_licences_are_refused(fake: FakeCryoSPARC4) -> None:
    assert connect(fake).user_id == USER
    for other in ({"password": "wrong"}, {"email": "nobody@example.com"}):
        with pytest.raises(RuntimeError, match="authentication") as refusal:
            connect(fake, **other)
        assert "password" in str(refusal.value.__cause__) or "User" in str(refusal.value.__cause__)
    with pytest.raises(CommandError, match="401"), pytest.warns(UserWarning, match="Invalid license"):
        connect(fake, license=fake.world.license.replace("0", "1"))


def test_the_client_reaches_all_services(client: CryoSPARC, capsys: pytest.CaptureFixture[str]) -> None:
    assert client.test_connection()
    assert capsys.readouterr().out.count("succeeded") == 3


def test_outputs_go_there_and_back(client: CryoSPARC, fake: FakeCryoSPARC4) -> None:
    add_exposures(fake.world, [(64, 64)] * 3, particles=1)
    job = client.create_external_job("P1", "W1")
    job.add_input("exposure", "exposures", min=1, max=1, slots=["micrograph_blob", "mscope_params"])
    job.connect("exposures", "J1", "exposures")
    table = job.load_input("exposures")
    assert set(table["uid"]) == set(fake.world.outputs["J1", "exposures"]["uid"])
    assert "ctf/df1_A" in table.fields()
    assert job.load_input("exposures", ["ctf"]).prefixes() == ["ctf"]
    job.add_output("particle", "particles", slots=["location", "pick_stats"])
    job.add_output("exposure", "exposures", slots=["micrograph_blob"], passthrough="exposures")
    with pytest.raises(TypeError, match="does not have any results"):
        job.load_output("particles")
    with job.run():
        particles = job.alloc_output("particles", 5)
        particles["location/micrograph_path"] = "a.mrc"
        job.save_output("particles", particles)
        passed = job.alloc_output("exposures", table.slice(0, 2))
        job.save_output("exposures", passed)
    assert job.status == "completed"
    stored = job.load_output("particles")
    assert stored == particles
    exposures = job.load_output("exposures")
    assert list(exposures["uid"]) == list(table["uid"][:2])
    assert np.array_equal(exposures["ctf/df1_A"], table["ctf/df1_A"][:2])


def test_an_empty_output_is_an_empty_file(client: CryoSPARC) -> None:
    job = client.create_external_job("P1", "W1")
    job.add_output("particle", "particles", slots=["location"])
    with job.run():
        job.save_output("particles", job.alloc_output("particles", 0))
    assert len(job.load_output("particles")) == 0
    assert job.doc["output_results"][0]["num_items"] == [0]


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("location/micrograph_shape", np.zeros((3, 2), np.int32), "micrograph_shape"),
        ("location/center_x_frac", np.zeros(3, np.float64), "center_x_frac"),
        ("pick_stats/template_idx", np.zeros(3, np.int64), "template_idx"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*422")
def test_wrong_types_are_refused(client: CryoSPARC, field: str, values: Any, message: str) -> None:
    job = client.create_external_job("P1", "W1")
    job.add_output("particle", "particles", slots=["location", "pick_stats"])
    good = job.alloc_output("particles", 3)
    assert len(good.fields()) == 11  # as in the documentation of `alloc_output`
    columns = {name: np.asarray(good[name]) for name in good.fields()}
    columns[field] = values
    with job.run():
        with pytest.raises(CommandError, match=message) as refusal:
            job.save_output("particles", Dataset(columns))
        assert refusal.value.code == 422
        good.add_fields(["location/min_dist_A", "ctf/df1_A"], ["f4", "f4"])
        job.save_output("particles", good)
    assert set(job.load_output("particles").fields()) == {*columns, "location/min_dist_A"}


@pytest.mark.filterwarnings("ignore:.*HTTP Error")
def test_states_are_strict_but_for_the_status_that_is_set(client: CryoSPARC, fake: FakeCryoSPARC4) -> None:
    job = client.create_external_job("P1", "W1")
    job.add_output("particle", "particles", slots=["location"])
    with pytest.raises(CommandError, match="code 400"):
        job.save_output("particles", job.alloc_output("particles", 1))
    job.start("running")
    fake.world.set_status(fake.world.jobs[job.uid], "killed")
    with pytest.raises(CommandError, match="code 400"):
        job.save_output("particles", job.alloc_output("particles", 1))
    job.stop()
    assert job.status == "completed"


def test_unknown_methods_parameters_slots_lanes_and_inputs_are_refused(client: CryoSPARC) -> None:
    with pytest.raises(CommandError, match="MethodNotFoundError"):
        client.cli._get_callable("no_such_method")()
    with pytest.raises(CommandError, match="MethodNotFoundError"):
        client.rtp._get_callable("get_job")("P1", "J1")
    with pytest.raises(CommandError, match="InvalidParamsError"):
        client.cli.get_job("P1")  # type: ignore[attr-defined]
    for params in ({"box_size": 256}, {"box_size_pix": "256"}):
        with pytest.raises(CommandError, match="ServerError"):
            client.create_job("P1", "W1", "extract_micrographs_multi", params=params)
    with pytest.raises(CommandError, match="unknown job type class_2D_new"):
        client.create_job("P1", "W1", "class_2D_new")
    job = client.create_external_job("P1", "W1")
    for slot in ("no_such_slot", "?ctf"):
        with pytest.raises(InvalidSlotsError, match="micrograph_blob"):
            job.add_input("exposure", "exposures", slots=["micrograph_blob", slot])
    job.add_input("exposure", "exposures", slots=[{"dtype": "ctf", "prefix": "ctf", "required": False}])
    assert job.doc["input_slot_groups"][-1]["slots"][0]["optional"]
    with pytest.raises(CommandError, match="micrograph is not a type"):
        job.add_output("micrograph", "micrographs", slots=["micrograph_blob"])  # type: ignore[call-overload]
    with pytest.raises(CommandError, match="P1-J9 does not exist"):
        client.find_job("P1", "J9")


def test_logs_files_and_downloads(client: CryoSPARC, fake: FakeCryoSPARC4, tmp_path: Path) -> None:
    add_exposures(fake.world, [(64, 96)], particles=1)
    job = client.create_external_job("P1", "W1")
    assert job.log("a line") == fake.world.events[job.uid][0]["_id"]
    job.log("look", level="warning")
    job.log_checkpoint({"a": 1})
    picture = io.BytesIO(b"\x89PNG...")
    job.log_plot(picture, "Picks", formats=["png"], raw_data="1,2", raw_data_format="csv")
    kinds = [event["type"] for event in fake.world.events[job.uid]]
    assert kinds == ["text", "warning", "checkpoint", "image"]
    files = job.list_assets()
    assert conforms(files, list[spec.AssetDetails])
    assert [(one["filename"], one["length"]) for one in files] == [("Picks.png", 7), ("Picks.csv", 3)]
    assert job.download_asset(files[1]["_id"], tmp_path / "a.csv").read_text() == "1,2"  # type: ignore[union-attr]
    path = str(fake.world.outputs["J1", "exposures"]["micrograph_blob/path"][0])
    header, data = client.find_project("P1").download_mrc(path)
    assert (header.ny, header.nx) == (64, 96) == data.shape[-2:]
    client.upload("P1", "J1/a.txt", io.BytesIO(b"text"))
    assert (fake.world.directory / "J1/a.txt").read_bytes() == b"text"
    for wrong in ("J1/b.txt", "../outside"):
        with pytest.raises(CommandError), pytest.warns(UserWarning, match="HTTP Error 40"):
            client.download_file("P1", wrong, tmp_path / "b")


@pytest.mark.parametrize(("kind", "error"), [("torn", "IncompleteRead"), ("500", "code 500")])
@pytest.mark.filterwarnings("ignore:.*HTTP Error")
def test_faults_go_by_the_operations_names(client: CryoSPARC, fake: FakeCryoSPARC4, kind: str, error: str) -> None:
    fake.faults.append(Fault("jobs.create", kind))
    with pytest.raises(Exception, match=error):
        client.create_external_job("P1", "W1")
    assert len(fake.world.jobs) == (1 if kind == "torn" else 0)
    fake.faults.append(Fault("jobs.mark_failed", "500"))
    job = client.create_external_job("P1", "W1")
    job.start("running")
    with pytest.raises(CommandError):
        job.stop(error=True)
    job.stop()
    assert fake.world.calls[-2:] == ["jobs.mark_completed", "jobs.get_status"]


def test_deleted_jobs_stay_in_the_data_base(client: CryoSPARC) -> None:
    made = [client.create_external_job("P1", "W1").uid for _ in range(2)]
    client.cli.delete_job("P1", made[0])  # type: ignore[attr-defined]
    found = client.cli.get_jobs_by_type(project_uid="P1", types=["snowflake"])  # type: ignore[attr-defined]
    assert [one["uid"] for one in found] == made
    deleted = [client.cli.get_job("P1", uid, "deleted", "status") for uid in made]  # type: ignore[attr-defined]
    assert [(one["deleted"], one["status"]) for one in deleted] == [(True, "building"), (False, "building")]


def test_anybody_sees_a_web_page_at_the_base_port(fake: FakeCryoSPARC4) -> None:
    with urllib.request.urlopen(fake.url, timeout=LIMIT) as reply:
        assert reply.headers.get_content_type() == "text/html"
    host, port = fake.url.rsplit(":", 1)
    request = urllib.request.Request(f"{host}:{int(port) + 2}/api", json.dumps({"method": "get_job"}).encode())
    with pytest.raises(urllib.error.HTTPError, match="401") as refusal:
        urllib.request.urlopen(request, timeout=LIMIT)
    refusal.value.close()
