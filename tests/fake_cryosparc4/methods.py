"""The JSON-RPC methods of command_core, command_vis and command_rtp.

Parameter names are those with which cryosparc-tools 4.7.1 calls them. Those that it does not call are known from the
scripts of facilities that use 4.7; what they return is no more than what those scripts use.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, get_args

from cryosparc.models.asset import GridFSAsset
from cryosparc.models.job import Job
from cryosparc.models.job_spec import InputSlot, InputSpec, OutputSlot, OutputSpec
from cryosparc.spec import ASSET_CONTENT_TYPES, Datatype

from tests.fake_cryosparc.slots import SLOTS
from tests.fake_cryosparc.world import EPOCH, STATUSES, Refused, World

from .documents import USER, job_document, project_document, register_document, session_document, workspace_document

#: Service -> method -> what it does.
METHODS: dict[str, dict[str, Callable[..., Any]]] = {"core": {}, "vis": {}, "rtp": {}}
#: Method -> name of the same operation in 5.0, by which faults and tests call it.
OPERATIONS: dict[str, str] = {"system.describe": "describe"}


class InvalidSlots(Refused):
    """Slots that a type does not have, in the form that the client's ``InvalidSlotsError`` reads."""

    def __init__(self, kind: str, slots: list[Any]) -> None:
        fields = [_field(slot) for slot in slots]
        wrong = [field for field in fields if field["dtype"] not in SLOTS]
        super().__init__(422, f"invalid slots {', '.join(field['dtype'] for field in wrong)}")
        valid = [slot for slot, field in zip(slots, fields) if field not in wrong]
        self.data = {"slots": {"type": kind, "valid": valid, "invalid": wrong, "valid_dtypes": sorted(SLOTS)}}


def method(service: str, operation: str) -> Any:
    """Register a function as the method of its name."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        METHODS[service][function.__name__] = function
        OPERATIONS[function.__name__] = operation
        return function

    return register


def hello_world(world: World) -> dict[str, str]:
    return {"hello": "world"}


for _service in METHODS:
    method(_service, "health")(hello_world)


def find_job(world: World, project_uid: str, job_uid: str) -> Job:
    """A job; deleted ones stay in the data base."""
    world.check_project(project_uid)
    if job_uid not in world.jobs:
        raise Refused(400, f"ServerError: {project_uid}-{job_uid} does not exist")
    return world.jobs[job_uid] if world.jobs[job_uid].deleted else world.job(project_uid, job_uid)


# Login, projects, what there is to run


@method("core", "login")
def get_id_by_email_password(world: World, email: str, password: str) -> str:
    if email != world.email:
        raise Refused(400, "ServerError: User not found")
    if password != world.password:
        raise Refused(400, "ServerError: Incorrect password")
    return USER


@method("core", "config.get_version")
def get_running_version(world: World) -> str:
    return world.version


@method("core", "health")
def test_connection(world: World) -> bool:
    return True


@method("core", "resources.find_lanes")
def get_scheduler_lanes(world: World) -> list[dict[str, str]]:
    return [{"name": name, "type": "node", "title": name, "desc": ""} for name in ("default", "gpu")]


@method("core", "job_register")
def get_config_var(world: World, name: str) -> Any:
    if name != "job_types_available":
        raise Refused(400, f"ServerError: no variable {name}")
    return register_document(world)


@method("core", "job_register")
def get_job_sections(world: World) -> list[dict[str, Any]]:
    return [{**one, "contains": [job["name"] for job in one["contains"]]} for one in register_document(world)]


@method("core", "projects.find_one")
def get_project(world: World, project_uid: str) -> dict[str, Any]:
    world.check_project(project_uid)
    return project_document(world)


@method("core", "projects.get_directory")
def get_project_dir_abs(world: World, project_uid: str) -> str:
    world.check_project(project_uid)
    return str(world.project.project_dir)


@method("core", "workspaces.find_one")
def get_workspace(world: World, project_uid: str, workspace_uid: str) -> dict[str, Any]:
    world.check_project(project_uid)
    for one in (world.workspace, *world.sessions.values()):
        if one.uid == workspace_uid:
            return workspace_document(one)
    raise Refused(400, f"ServerError: {project_uid}-{workspace_uid} does not exist")


@method("core", "workspaces.find_one")
def check_workspace_exists(world: World, project_uid: str, workspace_uid: str) -> bool:
    world.check_project(project_uid)
    return workspace_uid in {"W1", *(one.uid for one in world.sessions.values())}


# Jobs


@method("core", "jobs.find_one")
def get_job(world: World, project_uid: str, job_uid: str, *fields: str) -> dict[str, Any]:
    document = job_document(world, find_job(world, project_uid, job_uid))
    # The fields are known from `cryosparcm cli "get_job('P1', 'J1', 'status')"`, which CryoSPARC's forum asks for.
    return {key: document[key] for key in ("_id", "project_uid", "uid", *fields)} if fields else document


@method("core", "jobs.get_status")
def get_job_status(world: World, project_uid: str, job_uid: str) -> str:
    return str(find_job(world, project_uid, job_uid).status)


@method("core", "jobs.find")
def get_jobs_by_type(world: World, project_uid: str, types: list[str]) -> list[dict[str, Any]]:
    """No more than which jobs there are: whoever needs their descriptions asks for each."""
    world.check_project(project_uid)
    jobs = [job for job in world.jobs.values() if job.spec.type in types]
    return [{"_id": job.id, "project_uid": project_uid, "uid": job.uid, "type": job.spec.type} for job in jobs]


@method("core", "jobs.delete")
def delete_job(world: World, project_uid: str, job_uid: str) -> None:
    find_job(world, project_uid, job_uid).deleted = True


@method("core", "jobs.get_directory")
def get_job_dir_abs(world: World, project_uid: str, job_uid: str) -> str:
    return str(world.directory / find_job(world, project_uid, job_uid).job_dir)


@method("core", "jobs.create")
def make_job(
    world: World,
    job_type: str,
    project_uid: str,
    workspace_uid: str,
    user_id: str,
    title: str | None = None,
    desc: str | None = None,
    params: dict[str, Any] | None = None,
    input_group_connects: dict[str, list[str]] | None = None,
) -> str:
    world.check_project(project_uid)
    _check_user(user_id)
    job = world.create(job_type, workspace_uid, title or "", desc or "", params or {})
    for name, sources in (input_group_connects or {}).items():
        for source in sources:
            world.connect(job, name, *_parts(source, 2))
    return job.uid


@method("core", "jobs.enqueue")
def enqueue_job(
    world: World,
    project_uid: str,
    job_uid: str,
    lane: str | None = None,
    user_id: str | None = None,
    hostname: str | None = None,
    gpus: Any = False,
) -> str:
    _check_user(user_id)
    return str(world.enqueue(world.job(project_uid, job_uid), lane).status)


@method("core", "jobs.kill")
def kill_job(world: World, project_uid: str, job_uid: str, killed_by_user_id: str) -> None:
    _check_user(killed_by_user_id)
    job = world.job(project_uid, job_uid)
    world.need(job, "queued", "launched", "started", "running", "waiting")
    world.set_status(job, "killed")


@method("core", "jobs.clear")
def clear_job(world: World, project_uid: str, job_uid: str) -> None:
    world.clear(world.job(project_uid, job_uid))


@method("core", "jobs.set_param")
def job_set_param(world: World, project_uid: str, job_uid: str, param_name: str, param_new_value: Any) -> bool:
    world.set_param(world.job(project_uid, job_uid), param_name, param_new_value)
    return True


@method("core", "jobs.connect")
def job_connect_group(world: World, project_uid: str, source_group: str, dest_group: str) -> bool:
    uid, name = _parts(dest_group, 2)
    world.connect(world.job(project_uid, uid), name, *_parts(source_group, 2))
    return True


@method("core", "jobs.disconnect")
def job_connected_group_clear(world: World, project_uid: str, dest_group: str, connect_idx: int) -> None:
    uid, name = _parts(dest_group, 2)
    job = world.job(project_uid, uid)
    world.need(job, "building")
    connections = job.spec.inputs.root[name].connections
    if not 0 <= connect_idx < len(connections):
        raise Refused(400, f"ServerError: no connection {connect_idx}")
    del connections[connect_idx]


@method("core", "jobs.mark_running")
def run_external_job(world: World, project_uid: str, job_uid: str, status: str = "waiting") -> None:
    if status not in ("running", "waiting"):
        raise Refused(400, f"ServerError: {status} is not running or waiting")
    world.mark_running(world.job(project_uid, job_uid), status)


@method("core", "jobs.mark_completed")  # or jobs.mark_failed: see `operation`
def set_job_status(world: World, project_uid: str, job_uid: str, status: str) -> None:
    # Nothing says that the server would refuse any: a killed job can be marked as completed.
    if status not in STATUSES:
        raise Refused(400, f"ServerError: {status} is not a status")
    world.set_status(world.job(project_uid, job_uid), status)


@method("core", "jobs.interactive_post")
def interactive_post(
    world: World, project_uid: str, job_uid: str, endpoint: str, body: dict[str, Any], timeout: int
) -> Any:
    return world.interact(world.job(project_uid, job_uid), endpoint, body)


# The log


@method("core", "jobs.add_event_log")  # or jobs.add_image_log: see `operation`
def job_send_streamlog(
    world: World,
    project_uid: str,
    job_uid: str,
    message: str,
    error: bool = False,
    flags: list[str] | None = None,
    imgfiles: list[dict[str, str]] | None = None,
) -> str:
    for one in imgfiles or []:
        if set(one) != {"fileid", "filename", "filetype"} or one["fileid"] not in world.assets:
            raise Refused(400, f"ServerError: {one} is not a file of this job")
    kind = "image" if imgfiles else "warning" if error else "text"  # the log knows one kind of line that stands out
    return _event(world, project_uid, job_uid, type=kind, text=message, imgfiles=imgfiles or [], flags=flags or [])


@method("core", "jobs.add_checkpoint")
def job_checkpoint_streamlog(world: World, project_uid: str, job_uid: str, meta: dict[str, Any]) -> str:
    return _event(world, project_uid, job_uid, type="checkpoint", meta=meta)


def _event(world: World, project_uid: str, job_uid: str, **content: Any) -> str:
    event = {"_id": secrets.token_hex(12), "project_uid": project_uid, "job_uid": job_uid, **content}
    world.log(world.job(project_uid, job_uid)).append(event)
    return event["_id"]


# External jobs


@method("vis", "jobs.create")
def create_external_job(
    world: World, project_uid: str, workspace_uid: str, user: str, title: str | None = None, desc: str | None = None
) -> str:
    world.check_project(project_uid)
    _check_user(user)
    return world.create("snowflake", workspace_uid, title or "", desc or "", {}).uid


@method("vis", "jobs.add_external_input")
def add_external_job_input(
    world: World,
    project_uid: str,
    job_uid: str,
    type: str,
    name: str | None = None,
    min: int = 0,
    max: int | str = "inf",
    slots: Any = (),
    title: str | None = None,
) -> str:
    job = world.job(project_uid, job_uid)
    name = name or _new_name(type, job.spec.inputs.root)
    made = [InputSlot(name=f["prefix"], dtype=f["dtype"], required=f["required"]) for f in _slots(type, slots)]
    spec = InputSpec(type=type, title=title or name, slots=made, count_min=min, count_max=max)  # type: ignore[arg-type]
    world.add_input(job, name, spec)
    # The client takes the last one for the new one.
    job.spec.inputs.root[name] = job.spec.inputs.root.pop(name)
    return name


@method("vis", "jobs.add_external_output")
def add_external_job_output(
    world: World,
    project_uid: str,
    job_uid: str,
    type: str,
    name: str | None = None,
    slots: Any = (),
    passthrough: str | None = None,
    title: str | None = None,
) -> str:
    job = world.job(project_uid, job_uid)
    name = name or _new_name(type, job.spec.outputs.root)
    made = [OutputSlot(name=field["prefix"], dtype=field["dtype"]) for field in _slots(type, slots)]
    world.add_output(job, name, OutputSpec(type=type, title=title or name, slots=made, passthrough=passthrough))  # type: ignore[arg-type]
    job.spec.outputs.root[name] = job.spec.outputs.root.pop(name)
    return name


@method("vis", "jobs.connect")
def connect_external_job(
    world: World,
    project_uid: str,
    source_job_uid: str,
    source_output: str,
    target_job_uid: str,
    target_input: str,
    slots: Any = (),
    title: str = "",
    desc: str = "",
) -> None:
    job = world.job(project_uid, target_job_uid)
    if target_input not in job.spec.inputs.root:
        output = world.job(project_uid, source_job_uid).spec.outputs.root.get(source_output)
        if output is None:
            raise Refused(400, f"ServerError: {source_job_uid} has no output {source_output}")
        every = slots or [one.name for one in output.results]
        add_external_job_input(world, project_uid, target_job_uid, output.type, target_input, slots=every, title=title)
    world.connect(job, target_input, source_job_uid, source_output)


@method("vis", "assets.find_one")
def list_job_files(world: World, project_uid: str, job_uid: str) -> list[dict[str, Any]]:
    find_job(world, project_uid, job_uid)
    return [
        {
            "_id": fileid,
            "filename": asset.filename,
            "contentType": ASSET_CONTENT_TYPES[asset.filetype],  # type: ignore[index]
            "uploadDate": EPOCH.isoformat(),
            "length": len(content),
            "chunkSize": 2**18,
            "md5": "",
            "project_uid": project_uid,
            "job_uid": owner,
        }
        for fileid, (asset, content, owner) in world.assets.items()
        if owner == job_uid
    ]


# Live


@method("rtp", "sessions.find_one")
def get_session(world: World, project_uid: str, session_uid: str) -> dict[str, Any]:
    world.check_project(project_uid)
    if session_uid not in world.sessions:
        raise Refused(400, f"ServerError: session {project_uid}-{session_uid} does not exist")
    return session_document(world.sessions[session_uid])


@method("rtp", "sessions.find")
def get_all_sessions_in_project(world: World, project_uid: str) -> list[dict[str, Any]]:
    world.check_project(project_uid)
    return [session_document(one) for one in world.sessions.values()]


def add_asset(world: World, job_uid: str, content: bytes, filename: str | None, form: str) -> dict[str, str]:
    """Keep an uploaded file; its ``EventLogAsset``."""
    name = filename or f"file.{form}"
    if form not in ASSET_CONTENT_TYPES or "/" in name or len(name) > 200:
        raise Refused(422, f"{name} cannot be a file of the log")
    asset = GridFSAsset(fileid=secrets.token_hex(12), filename=name, filetype=form)
    world.assets[asset.fileid] = (asset, content, job_uid)
    return {"fileid": asset.fileid, "filename": name, "filetype": ASSET_CONTENT_TYPES[form]}  # type: ignore[index]


def operation(world: World, name: str, params: dict[str, Any]) -> str:
    """The operation of a call; looking at an external job that was started is asking for its state."""
    if name == "get_job" and (job := world.jobs.get(params.get("job_uid", ""))) is not None:
        started = job.spec.type == "snowflake" and job.status != "building"
        return "jobs.get_status" if started else "jobs.find_one"
    if name == "set_job_status" and params.get("status") == "failed":
        return "jobs.mark_failed"
    if name == "job_send_streamlog" and params.get("imgfiles"):
        return "jobs.add_image_log"
    return OPERATIONS.get(name, name)


def _check_user(user: str | None) -> None:
    if user != USER:
        raise Refused(400, f"ServerError: there is no user {user}")


def _parts(text: str, count: int) -> list[str]:
    parts = text.split(".")
    if len(parts) != count:
        raise Refused(400, f"ServerError: {text} must have {count} parts")
    return parts


def _field(slot: Any) -> dict[str, Any]:
    """A slot as a ``Datafield``."""
    if isinstance(slot, str):
        return {"dtype": slot, "prefix": slot, "required": True}
    return {"required": True, **slot}


def _slots(kind: str, slots: Any) -> list[dict[str, Any]]:
    if kind not in get_args(Datatype):
        raise Refused(400, f"ServerError: {kind} is not a type")
    fields = [_field(slot) for slot in slots]
    if any(field["dtype"] not in SLOTS for field in fields):
        raise InvalidSlots(kind, list(slots))
    return fields


def _new_name(kind: str, taken: Any) -> str:
    return next(name for number in range(len(taken) + 1) if (name := f"{kind}{number or ''}") not in taken)
