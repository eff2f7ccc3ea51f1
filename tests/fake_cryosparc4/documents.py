"""What the world's projects, jobs and sessions look like in CryoSPARC 4.7: the documents of ``cryosparc/spec.py``."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from cryosparc.dataset import NUMPY_FORMAT, Dataset
from cryosparc.models.job import Job
from cryosparc.models.job_spec import Input, Output

from tests.fake_cryosparc.register import JobType
from tests.fake_cryosparc.world import EPOCH, World

USER = "u" * 24
_PARAM_TYPES = {int: "number", float: "number", bool: "boolean", str: "string"}


def project_document(world: World) -> dict[str, Any]:
    """A ``ProjectDocument``."""
    project = world.project
    return {
        "_id": project.id,
        "uid": project.uid,
        "uid_num": project.uid_num,
        "title": project.title,
        "description": "",
        "project_dir": project.project_dir,
        "project_params_pdef": {},
        "owner_user_id": USER,
        "created_at": EPOCH.isoformat(),
        "deleted": False,
        "users_with_access": [USER],
        "size": 0,
        "last_accessed": {},
        "archived": False,
        "detached": False,
        "hidden": False,
        "project_stats": {},
        "generate_intermediate_results_settings": {},
    }


def workspace_document(workspace: Any) -> dict[str, Any]:
    """A ``WorkspaceDocument``, for a workspace or a Live session."""
    return {
        "_id": f"{workspace.uid_num:024x}",
        "uid": workspace.uid,
        "uid_num": workspace.uid_num,
        "project_uid": workspace.project_uid,
        "project_uid_num": workspace.project_uid_num,
        "created_at": EPOCH.isoformat(),
        "created_by_user_id": USER,
        "deleted": False,
        "title": workspace.title or "",
        "description": None,
        "workspace_type": workspace.workspace_type,
    }


def session_document(session: Any) -> dict[str, Any]:
    """A Live session: its workspace, and what facilities' scripts read of it."""
    return {
        **workspace_document(session),
        "session_uid": session.session_uid,
        "session_dir": session.session_dir,
        "status": session.status,
        "errors": [],
    }


def job_document(world: World, job: Job) -> dict[str, Any]:
    """A ``JobDocument``."""
    kind = world.job_types.get(job.spec.type)
    given = {name: value for name, value in job.spec.params.model_dump().items() if kind and name in kind.params}
    document = {
        "_id": job.id,
        "uid": job.uid,
        "uid_num": job.uid_num,
        "project_uid": job.project_uid,
        "project_uid_num": job.project_uid_num,
        "type": job.spec.type,
        "job_type": job.spec.type,
        "title": job.title,
        "description": job.description,
        "status": job.status,
        "created_at": job.created_at.isoformat(),
        "created_by_user_id": USER,
        "deleted": job.deleted,
        "parents": list(job.parents),
        "children": [one.uid for one in world.jobs.values() if job.uid in one.parents],
        "input_slot_groups": [_input(world, name, one) for name, one in job.spec.inputs.root.items()],
        "output_result_groups": [],
        "output_results": [],
        "params_base": _params(kind),
        "params_spec": {name: {"value": value} for name, value in given.items() if value is not None},
        "params_secs": {},
        "workspace_uids": list(job.workspace_uids),
        "errors_build": {},
        "errors_run": [],
    }
    for number, (name, output) in enumerate(job.spec.outputs.root.items()):
        results = _results(world, job, name, output)
        contained = ("uid", "type", "name", "group_name", "passthrough")
        document["output_results"] += results
        document["output_result_groups"].append(
            {
                "uid": f"{job.uid}-G{number}",
                "type": output.type,
                "name": name,
                "title": output.title,
                "description": "",
                "contains": [{key: result[key] for key in contained} for result in results],
                "passthrough": output.passthrough or False,
                "num_items": output.num_items,
                "summary": {},
            }
        )
    return document


def _input(world: World, name: str, one: Input) -> dict[str, Any]:
    connections = []
    for connection in one.connections:
        source = world.jobs[connection.job_uid].spec.outputs.root.get(connection.output)
        have = {} if source is None else {result.name: result.dtype for result in source.results}
        wanted = {slot.name for slot in one.slots}
        slots = [
            {
                "slot_name": result if result in wanted else None,
                "job_uid": connection.job_uid,
                "group_name": connection.output,
                "result_name": result,
                "result_type": f"{one.type}.{dtype}",
                "version": "F",
            }
            for result, dtype in have.items()
        ]
        connections.append({"job_uid": connection.job_uid, "group_name": connection.output, "slots": slots})
    return {
        "type": one.type,
        "name": name,
        "title": one.title,
        "description": "",
        "count_min": one.count_min,
        "count_max": None if one.count_max == "inf" else one.count_max,
        "repeat_allowed": False,
        "slots": [
            {
                "type": f"{one.type}.{slot.dtype}",
                "name": slot.name,
                "title": slot.name,
                "description": "",
                "optional": not slot.required,
            }
            for slot in one.slots
        ],
        "connections": connections,
    }


def _results(world: World, job: Job, name: str, output: Output) -> list[dict[str, Any]]:
    """The results of an output: its own, then those that are passed through from an input."""
    results = [(slot.name, slot.dtype, False) for slot in output.slots]
    own = {slot.name for slot in output.slots}
    if output.passthrough is not None:
        for connection in job.spec.inputs.root[output.passthrough].connections:
            source = world.jobs[connection.job_uid].spec.outputs.root[connection.output]
            results += [(one.name, one.dtype, True) for one in source.results if one.name not in own]
    saved = (job.uid, name) in world.outputs
    return [
        {
            "uid": f"{job.uid}-R{number}",
            "type": f"{output.type}.{dtype}",
            "name": result,
            "group_name": name,
            "title": result,
            "description": "",
            "versions": [0] if saved else [],
            "metafiles": [metafile(job.uid, name, passed)] if saved else [],
            "min_fields": [[field.split("/")[1], kind] for field, kind in world.slot_fields(result, dtype)],
            # A number for each version, as in the tests of cryosparc-tools; its types say a single one.
            "num_items": [output.num_items] if saved else [],
            "passthrough": passed,
        }
        for number, (result, dtype, passed) in enumerate(results)
    ]


def _params(kind: JobType | None) -> dict[str, Any]:
    """The ``params_base`` of a job type."""
    return {
        name: {
            "type": _PARAM_TYPES[python],
            "value": None,
            "title": name,
            "desc": "",
            "order": number,
            "section": "",
            "advanced": False,
            "hidden": False,
        }
        for number, (name, python) in enumerate((kind.params if kind else {}).items())
    }


def register_document(world: World) -> list[dict[str, Any]]:
    """The job types by section: a list of ``JobSpecSection``."""
    sections: dict[str, Any] = {}
    for name, kind in world.job_types.items():
        section = {"name": kind.category, "title": kind.category, "description": "", "contains": []}
        inputs = [
            {
                "type": type_,
                "name": input_name,
                "title": input_name,
                "description": "",
                "count_min": least,
                "count_max": None,
                "repeat_allowed": False,
                "slots": [
                    {
                        "type": f"{type_}.{slot.lstrip('?')}",
                        "name": slot.lstrip("?"),
                        "title": slot.lstrip("?"),
                        "description": "",
                        "optional": slot.startswith("?"),
                    }
                    for slot in slots
                ],
                "connections": [],
            }
            for input_name, (type_, slots, least, _) in kind.inputs.items()
        ]
        sections.setdefault(kind.category, section)["contains"].append(
            {
                "name": name,
                "title": kind.title,
                "shorttitle": kind.title,
                "description": "",
                "input_slot_groups": inputs,
                "params_base": _params(kind),
                "params_secs": {},
                "is_interactive": kind.interactive,
                "is_lightweight": kind.interactive,
                "hidden": False,
                "develop_only": False,
            }
        )
    return list(sections.values())


def metafile(job: str, output: str, passed: bool) -> str:
    """Path of the file with an output's own results, or with those that are passed through."""
    return f"{job}/{job}_{'passthrough_' if passed else ''}{output}.cs"


def metafile_content(world: World, path: str) -> bytes | None:
    """Content of an output's file, as numpy's own format; None if the path is not that of one."""
    for (uid, name), dataset in world.outputs.items():
        if path == metafile(uid, name, False):
            return _saved(dataset)
        if path == metafile(uid, name, True):
            job = world.jobs[uid]
            output = job.spec.outputs.root[name]
            if output.passthrough is None:
                return None
            own = {slot.name for slot in output.slots}
            source = world.load_input(job, output.passthrough, ["all"])
            rows = source.query({"uid": dataset["uid"]}) if len(dataset) else source.slice(0, 0)
            return _saved(rows.filter_prefixes([p for p in rows.prefixes() if p not in own], copy=True))
    return None


def _saved(dataset: Dataset) -> bytes:
    file = BytesIO()
    dataset.save(file, format=NUMPY_FORMAT)
    return file.getvalue()
