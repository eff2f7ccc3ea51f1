"""What each operation does. Parameter names and types are those of the interface."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from cryosparc.dataset import Dataset
from cryosparc.models.asset import GridFSAsset, GridFSFile
from cryosparc.models.auth import Token
from cryosparc.models.job import UiTileImage
from cryosparc.models.job_register import JobRegister, JobRegisterJobSpec, JobRegisterParamSpec
from cryosparc.models.job_spec import InputSpec, OutputSpec
from cryosparc.models.scheduler_lane import SchedulerLane
from cryosparc.models.user import User
from cryosparc.spec import ASSET_CONTENT_TYPES
from cryosparc.stream import Stream

from .world import Handler, Refused, World

HANDLERS: dict[str, Handler] = {}
#: Operations that need no token.
OPEN = {"login", "health"}
_PARAM_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}


def handles(name: str) -> Any:
    """Register a function as the handler of an operation."""

    def register(function: Handler) -> Handler:
        HANDLERS[name] = function
        return function

    return register


@handles("login")
def _login(world: World, *, username: str, password: str, **_: Any) -> Token:
    if username != world.email or password != hashlib.sha256(world.password.encode()).hexdigest():
        raise Refused(401, "Incorrect username or password")
    token = secrets.token_hex(16)
    world.tokens.add(token)
    return Token(access_token=token, token_type="bearer")


@handles("health")
def _health(world: World) -> str:
    return "OK"


@handles("users.me")
def _me(world: World) -> User:
    return User(_id="u" * 24, name="ali", first_name="Ali", last_name="Baba")


@handles("config.get_version")
def _version(world: World) -> str:
    return world.version


@handles("job_register")
def _register(world: World) -> JobRegister:
    specs = [
        JobRegisterJobSpec(
            type=name,
            title=kind.title,
            shorttitle=kind.title,
            description="",
            stability="stable",
            category=kind.category,  # type: ignore[arg-type]
            interactive=kind.interactive,
            inputs={n: InputSpec(type=t, title=n, slots=s, count_min=c) for n, (t, s, c, _) in kind.inputs.items()},  # type: ignore[arg-type]
            outputs={n: OutputSpec(type=t, title=n, slots=s) for n, (t, s) in kind.outputs.items()},  # type: ignore[arg-type]
            params={n: JobRegisterParamSpec(type=_PARAM_TYPES[t], title=n) for n, t in kind.params.items()},  # type: ignore[arg-type]
        )
        for name, kind in world.job_types.items()
    ]
    return JobRegister(specs=specs, categories={})


@handles("resources.find_lanes")
def _lanes(world: World) -> list[SchedulerLane]:
    return [SchedulerLane(name=name, type="node", title=name) for name in ("default", "gpu")]


# Projects and files


@handles("projects.find_one")
def _project(world: World, project_uid: str) -> Any:
    world.check_project(project_uid)
    return world.project


@handles("projects.get_directory")
def _project_directory(world: World, project_uid: str) -> str:
    world.check_project(project_uid)
    return world.project.project_dir


@handles("workspaces.find_one")
def _workspace(world: World, project_uid: str, workspace_uid: str) -> Any:
    world.check_project(project_uid)
    for one in (world.workspace, *world.sessions.values()):
        if one.uid == workspace_uid:
            return one
    raise Refused(404, f"workspace {workspace_uid} does not exist")


@handles("projects.download_file")
def _download(world: World, project_uid: str, *, path: str) -> Stream:
    world.check_project(project_uid)
    return Stream.from_iterator(iter([world.file(path)]))


@handles("projects.upload_file")
def _upload(world: World, project_uid: str, stream: bytes, *, path: str, overwrite: bool) -> str:
    world.check_project(project_uid)
    return world.store(path, stream, overwrite)


# Jobs


@handles("jobs.find")
def _find_jobs(
    world: World, *, order: int, after: str | None, limit: int, deleted: bool | None, **wanted: Any
) -> list[Any]:
    jobs = sorted(world.jobs.values(), key=lambda job: order * job.uid_num)
    jobs = [job for job in jobs if deleted is None or job.deleted == deleted]
    for attribute, values in (
        ("uid", wanted["uid"]),
        ("status", wanted["status"]),
        ("project_uid", wanted["project_uid"]),
    ):
        jobs = [job for job in jobs if not values or getattr(job, attribute) in values]
    if wanted["type"]:
        jobs = [job for job in jobs if job.spec.type in wanted["type"]]
    if wanted["workspace_uid"]:
        jobs = [job for job in jobs if set(job.workspace_uids) & set(wanted["workspace_uid"])]
    if after is not None:
        place = [job.id for job in jobs].index(after)
        jobs = jobs[place + 1 :]
    return jobs[:limit]


@handles("jobs.find_one")
def _find_job(world: World, project_uid: str, job_uid: str) -> Any:
    return world.job(project_uid, job_uid)


@handles("jobs.get_status")
def _status(world: World, project_uid: str, job_uid: str) -> Any:
    return world.job(project_uid, job_uid).status


@handles("jobs.get_directory")
def _job_directory(world: World, project_uid: str, job_uid: str) -> str:
    return str(world.directory / world.job(project_uid, job_uid).job_dir)


@handles("jobs.create")
def _create(
    world: World,
    project_uid: str,
    workspace_uid: str,
    params: Any,
    *,
    type: str,
    title: str,
    description: str,
    **_: Any,
) -> Any:
    world.check_project(project_uid)
    return world.create(type, workspace_uid, title, description, params or {})


@handles("jobs.delete")
def _delete(world: World, project_uid: str, job_uid: str) -> None:
    world.job(project_uid, job_uid).deleted = True


@handles("jobs.set_param")
def _set_param(world: World, project_uid: str, job_uid: str, param: str, value: Any) -> Any:
    return world.set_param(world.job(project_uid, job_uid), param, value)


@handles("jobs.set_title")
def _set_title(world: World, project_uid: str, job_uid: str, *, title: str) -> Any:
    job = world.job(project_uid, job_uid)
    job.title = title
    return job


@handles("jobs.connect")
def _connect(
    world: World, project_uid: str, job_uid: str, input_name: str, *, source_output_name: str, source_job_uid: str
) -> Any:
    return world.connect(world.job(project_uid, job_uid), input_name, source_job_uid, source_output_name)


@handles("jobs.disconnect")
def _disconnect(world: World, project_uid: str, job_uid: str, input_name: str, connection_index: int) -> Any:
    job = world.job(project_uid, job_uid)
    world.need(job, "building")
    connections = job.spec.inputs.root[input_name].connections
    if not 0 <= connection_index < len(connections):
        raise Refused(422, f"no connection {connection_index}")
    del connections[connection_index]
    return job


@handles("jobs.add_external_input")
def _add_input(world: World, project_uid: str, job_uid: str, input_name: str, body: InputSpec) -> Any:
    return world.add_input(world.job(project_uid, job_uid), input_name, body)


@handles("jobs.add_external_output")
def _add_output(world: World, project_uid: str, job_uid: str, output_name: str, body: OutputSpec) -> Any:
    return world.add_output(world.job(project_uid, job_uid), output_name, body)


@handles("jobs.get_output_fields")
def _output_fields(world: World, project_uid: str, job_uid: str, output_name: str, dtype_params: Any) -> Any:
    return world.output_fields(world.job(project_uid, job_uid), output_name)


@handles("jobs.mark_running")
def _mark_running(world: World, project_uid: str, job_uid: str, *, status: str) -> Any:
    return world.mark_running(world.job(project_uid, job_uid), status)


@handles("jobs.mark_completed")
def _mark_completed(world: World, project_uid: str, job_uid: str) -> Any:
    return world.mark_completed(world.job(project_uid, job_uid))


@handles("jobs.mark_failed")
def _mark_failed(world: World, project_uid: str, job_uid: str, *, error: str | None) -> Any:
    return world.mark_failed(world.job(project_uid, job_uid), error)


@handles("jobs.kill")
def _kill(world: World, project_uid: str, job_uid: str) -> Any:
    job = world.job(project_uid, job_uid)
    world.need(job, "queued", "launched", "started", "running", "waiting")
    return world.set_status(job, "killed")


@handles("jobs.clear")
def _clear(world: World, project_uid: str, job_uid: str) -> Any:
    return world.clear(world.job(project_uid, job_uid))


@handles("jobs.enqueue")
def _enqueue(world: World, project_uid: str, job_uid: str, *, lane: str | None, **_: Any) -> Any:
    return world.enqueue(world.job(project_uid, job_uid), lane)


@handles("jobs.interactive_post")
def _interact(
    world: World, project_uid: str, job_uid: str, body: dict[str, Any], *, endpoint: str, timeout: int
) -> Any:
    return world.interact(world.job(project_uid, job_uid), endpoint, body)


# Datasets


@handles("jobs.load_input")
def _load_input(
    world: World, project_uid: str, job_uid: str, input_name: str, *, force_join: Any, slots: Any
) -> Dataset:
    return world.load_input(world.job(project_uid, job_uid), input_name, slots)


@handles("jobs.load_output")
def _load_output(
    world: World, project_uid: str, job_uid: str, output_name: str, *, version: Any, slots: Any
) -> Dataset:
    return world.load_output(world.job(project_uid, job_uid), output_name, slots)


@handles("jobs.save_output")
def _save_output(
    world: World,
    project_uid: str,
    job_uid: str,
    output_name: str,
    dataset: bytes,
    *,
    filename: str | None,
    version: int,
) -> Any:
    job = world.job(project_uid, job_uid)
    if not dataset.startswith(b"\x95CSDAT"):
        raise Refused(500, "not a dataset stream")
    return world.save(job, output_name, Dataset.from_iterator(iter([dataset])), version)


# Logs and pictures


@handles("jobs.add_event_log")
def _log(world: World, project_uid: str, job_uid: str, text: str, *, type: str) -> Any:
    return _event(world, project_uid, job_uid, type=type, text=text)


@handles("jobs.update_event_log")
def _update_log(
    world: World, project_uid: str, job_uid: str, event_id: str, text: str | None, *, type: str | None
) -> Any:
    for event in world.log(world.job(project_uid, job_uid)):
        if event.get("_id") == event_id:
            event.update({k: v for k, v in (("text", text), ("type", type)) if v is not None})
            event["updates"] = event.get("updates", 0) + 1
            return {k: v for k, v in event.items() if k != "updates"}
    raise Refused(404, f"no event {event_id}")


@handles("jobs.add_checkpoint")
def _checkpoint(world: World, project_uid: str, job_uid: str, meta: dict[str, Any]) -> Any:
    return _event(world, project_uid, job_uid, type="checkpoint", meta=meta)


@handles("jobs.add_image_log")
def _image_log(
    world: World, project_uid: str, job_uid: str, images: list[GridFSAsset], *, text: str, flags: list[str]
) -> Any:
    for image in images:
        if image.fileid not in world.assets:
            raise Refused(404, f"no asset {image.fileid}")
    return _event(
        world, project_uid, job_uid, type="image", text=text, imgfiles=[i.model_dump() for i in images], flags=flags
    )


def _event(world: World, project_uid: str, job_uid: str, **content: Any) -> dict[str, Any]:
    log = world.log(world.job(project_uid, job_uid))
    event = {"_id": secrets.token_hex(12), "project_uid": project_uid, "job_uid": job_uid, **content}
    log.append(event)
    return event


@handles("assets.upload")
def _upload_asset(
    world: World, project_uid: str, job_uid: str, stream: bytes, *, filename: str | None, format: str | None
) -> GridFSAsset:
    world.job(project_uid, job_uid)
    if filename is None and format is None:
        raise Refused(422, "a file name or a format must be given")
    name = filename or f"file.{format}"
    if "/" in name or len(name) > 200:
        raise Refused(422, f"{name} is not a file name")
    asset = GridFSAsset(fileid=secrets.token_hex(12), filename=name, filetype=format or name.rsplit(".", 1)[-1])
    world.assets[asset.fileid] = (asset, stream, job_uid)
    return asset


@handles("assets.find_one")
def _find_asset(world: World, id: str) -> GridFSFile:
    if id not in world.assets:
        raise Refused(404, f"no asset {id}")
    asset, content, job_uid = world.assets[id]
    return GridFSFile(
        _id=id,
        filename=asset.filename,
        contentType=ASSET_CONTENT_TYPES[asset.filetype],  # type: ignore[index]
        length=len(content),
        chunkSize=2**18,
        project_uid="P1",
        job_uid=job_uid,
    )


@handles("assets.download")
def _download_asset(world: World, id: str) -> Stream:
    if id not in world.assets:
        raise Refused(404, f"no asset {id}")
    return Stream.from_iterator(iter([world.assets[id][1]]))


@handles("jobs.set_output_image")
def _output_image(world: World, project_uid: str, job_uid: str, output_name: str, body: GridFSAsset) -> Any:
    job = world.job(project_uid, job_uid)
    if output_name not in job.spec.outputs.root or body.fileid not in world.assets:
        raise Refused(404, "no such output or asset")
    job.spec.outputs.root[output_name].image = body.fileid
    return job


@handles("jobs.set_tile_image")
def _tile_image(world: World, project_uid: str, job_uid: str, body: GridFSAsset) -> Any:
    job = world.job(project_uid, job_uid)
    if body.fileid not in world.assets:
        raise Refused(404, "no such asset")
    job.ui_tile_images = [UiTileImage(name="tile0", fileid=body.fileid)]
    return job


# Live


@handles("sessions.find_one")
def _session(world: World, project_uid: str, session_uid: str) -> Any:
    world.check_project(project_uid)
    if session_uid not in world.sessions:
        raise Refused(404, f"session {session_uid} does not exist")
    return world.sessions[session_uid]


@handles("exposures.find")
def _exposures(world: World, *, order: int, after: str | None, limit: int, **wanted: Any) -> list[Any]:
    found = [e for e in world.exposures if not wanted["session_uid"] or e.session_uid in wanted["session_uid"]]
    found = [e for e in found if not wanted["stage"] or e.stage in wanted["stage"]]
    found.sort(key=lambda e: order * e.uid)
    if after is not None:
        found = found[[e.id for e in found].index(after) + 1 :]
    return found[:limit]
