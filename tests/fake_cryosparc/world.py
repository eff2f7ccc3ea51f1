"""The state of a CryoSPARC instance and its rules: projects, jobs, data sets, files, logs, Live sessions."""

from __future__ import annotations

import datetime
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cryosparc.dataset import Dataset
from cryosparc.models.asset import GridFSAsset
from cryosparc.models.exposure import Exposure
from cryosparc.models.job import Job
from cryosparc.models.job_spec import (
    Connection,
    Input,
    InputSlot,
    InputSpec,
    JobSpec,
    Output,
    OutputResult,
    OutputSlot,
    OutputSpec,
    Params,
)
from cryosparc.models.project import Project
from cryosparc.models.resource import ResourceSpec
from cryosparc.models.session import Session
from cryosparc.models.workspace import Workspace

from .register import JOB_TYPES, JobType
from .slots import EXTRAS, SLOTS, same_type, slot_fields

Handler = Callable[..., Any]
EPOCH = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
STATUSES = ["building", "queued", "launched", "started", "running", "waiting", "completed", "killed", "failed"]
NAME = re.compile(r"[A-Za-z][0-9A-Za-z_]*")


class Refused(Exception):
    """A request that the server refuses, with its HTTP status."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass
class World:
    """State of the instance; one lock guards it, since requests come from several threads.

    Attributes
    ----------
    outputs : (job uid, output name) -> dataset that was saved, all slots
    template_extras : False: the columns that are asked for do not include the optional ones of a location
    extra_columns : True: an output may have more columns than those; what belongs to none of its slots is dropped
    step_seconds : how long a queued job takes for each of its states
    """

    root: Path
    password: str = "correct horse"
    email: str = "ali@example.com"
    license: str = "01234567-89ab-cdef-0123-456789abcdef"
    version: str = "v5.0.2"
    template_extras: bool = True
    extra_columns: bool = False
    step_seconds: float = 0.02
    tokens: set[str] = field(default_factory=set)
    jobs: dict[str, Job] = field(default_factory=dict)
    outputs: dict[tuple[str, str], Dataset] = field(default_factory=dict)
    saves: list[tuple[str, str, int]] = field(default_factory=list)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    assets: dict[str, tuple[GridFSAsset, bytes, str]] = field(default_factory=dict)
    job_types: dict[str, JobType] = field(default_factory=lambda: JOB_TYPES)
    exposures: list[Exposure] = field(default_factory=list)
    sessions: dict[str, Session] = field(default_factory=dict)
    class_info: list[dict[str, Any]] = field(default_factory=list)
    selected_classes: set[int] = field(default_factory=set)
    when_queued: dict[str, float] = field(default_factory=dict)
    finished_interaction: set[str] = field(default_factory=set)
    #: Job type -> the state it ends in, for jobs that are to fail.
    ends: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.directory = self.root / "CS-project"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.project = Project(
            _id="1" * 24,
            uid="P1",
            project_dir=str(self.directory),
            owner_user_id="u" * 24,
            title="A project",
            size_last_updated=EPOCH,
            uid_num=1,
        )
        self.workspace = Workspace(uid="W1", project_uid="P1", workspace_type="base", uid_num=1, project_uid_num=1)

    # Finding

    def job(self, project: str, uid: str) -> Job:
        self.check_project(project)
        if uid not in self.jobs or self.jobs[uid].deleted:
            raise Refused(404, f"{project}-{uid} does not exist")
        self._advance(self.jobs[uid])
        return self.jobs[uid]

    def check_project(self, uid: str) -> None:
        if uid != "P1":
            raise Refused(404, f"project {uid} does not exist")

    def file(self, path: str) -> bytes:
        """Content of a file in the project's folder."""
        file = self._inside(path)
        if not file.is_file():
            raise Refused(404, f"{path} does not exist")
        return file.read_bytes()

    def store(self, path: str, content: bytes, overwrite: bool) -> str:
        """Write a file into the project's folder."""
        file = self._inside(path)
        if file.exists() and not overwrite:
            raise Refused(409, f"{path} exists")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return str(file)

    def _inside(self, path: str) -> Path:
        if not path:
            raise Refused(400, "the path is empty")
        top = os.path.realpath(self.directory)
        real = os.path.realpath(self.directory / path)
        if os.path.commonpath([top, real]) != top:
            raise Refused(403, f"{path} is outside the project directory")
        return Path(real)

    def log(self, job: Job) -> list[dict[str, Any]]:
        return self.events.setdefault(job.uid, [])

    def set_status(self, job: Job, status: Any) -> Job:
        job.status = status
        job.status_num = STATUSES.index(status)
        return job

    # Making jobs

    def create(self, kind: str, workspace: str, title: str, description: str, params: dict[str, Any]) -> Job:
        if workspace != "W1" and workspace not in {s.uid for s in self.sessions.values()}:
            raise Refused(404, f"workspace {workspace} does not exist")
        if kind != "snowflake" and kind not in self.job_types:
            raise Refused(422, f"unknown job type {kind}")
        number = 1 + max((int(uid[1:]) for uid in self.jobs), default=0)
        job = Job(
            _id=f"{number:024x}",
            uid=f"J{number}",
            project_uid="P1",
            workspace_uids=[workspace],
            title=title,
            description=description,
            spec=JobSpec(
                type=kind,
                ui_tile_width=1,
                ui_tile_height=1,
                resource_spec=ResourceSpec(),
                params=Params(),
                inputs={},
                outputs={},
            ),
            job_dir=f"J{number}",
            job_dir_size_last_updated=EPOCH,
            created_at=datetime.datetime.now(datetime.timezone.utc),
            uid_num=number,
            project_uid_num=1,
            status_num=0,
            build_errors=[],
        )
        self.jobs[job.uid] = job
        for name, (type_, slots, low, _) in (self.job_types[kind].inputs if kind in self.job_types else {}).items():
            spec = InputSpec(type=type_, title=name, slots=slots, count_min=low)
            job.spec.inputs.root[name] = self._input(spec)
        for name, value in params.items():
            self.set_param(job, name, value)
        return job

    def set_param(self, job: Job, name: str, value: Any) -> Job:
        self.need(job, "building")
        known = self.job_types[job.spec.type].params if job.spec.type in self.job_types else {}
        if name not in known:
            raise Refused(422, f"{job.spec.type} has no parameter {name}")
        if value is not None and (
            isinstance(value, bool) != (known[name] is bool) or not isinstance(value, known[name])
        ):
            raise Refused(422, f"{name} must be {known[name].__name__}, not {value!r}")
        setattr(job.spec.params, name, value)
        return job

    def need(self, job: Job, *statuses: str) -> None:
        if job.status not in statuses:
            raise Refused(400, f"{job.uid} is {job.status}; must be {' or '.join(statuses)}")

    def external(self, job: Job) -> None:
        if job.spec.type != "snowflake":
            raise Refused(400, f"{job.uid} is not an external job")

    def add_input(self, job: Job, name: str, spec: InputSpec) -> Job:
        self.external(job)
        self.need(job, "building", "running", "waiting")
        self._check_name(name)
        old = job.spec.inputs.root.get(name)
        job.spec.inputs.root[name] = self._input(spec)
        if old is not None:
            job.spec.inputs.root[name].connections = old.connections
        return job

    def add_output(self, job: Job, name: str, spec: OutputSpec) -> Job:
        self.external(job)
        self.need(job, "building", "running", "waiting")
        self._check_name(name)
        if not spec.slots:
            raise Refused(422, "an output needs at least one slot")
        slots = [OutputSlot(name=s, dtype=s) if isinstance(s, str) else s for s in spec.slots]
        self._check_slots(slots)
        if spec.passthrough is not None:
            source = job.spec.inputs.root.get(spec.passthrough)
            if source is None or source.type != spec.type:
                raise Refused(422, f"no input {spec.passthrough} of type {spec.type} to pass through")
        output = Output(type=spec.type, title=spec.title, slots=slots, passthrough=spec.passthrough)
        output.results = [OutputResult(name=slot.name, dtype=slot.dtype) for slot in slots]
        job.spec.outputs.root[name] = output
        self.outputs.pop((job.uid, name), None)
        return job

    def _check_name(self, name: str) -> None:
        if not NAME.fullmatch(name):
            raise Refused(422, f"{name} is not a name")

    def _check_slots(self, slots: list[Any]) -> None:
        unknown = [slot.dtype for slot in slots if slot.dtype not in SLOTS]
        if unknown:
            raise Refused(422, f"unknown slot {', '.join(unknown)}")

    def _input(self, spec: InputSpec) -> Input:
        slots = []
        for slot in spec.slots:
            if isinstance(slot, str):
                required = not slot.startswith("?")
                slot = InputSlot(name=slot.lstrip("?"), dtype=slot.lstrip("?"), required=required)
            slots.append(slot)
        self._check_slots(slots)
        return Input(type=spec.type, title=spec.title, slots=slots, count_min=spec.count_min, count_max=spec.count_max)

    def connect(self, job: Job, name: str, source_uid: str, source_output: str) -> Job:
        self.need(job, "building")
        source = self.job(job.project_uid, source_uid)
        if name not in job.spec.inputs.root:
            raise Refused(422, f"{job.uid} has no input {name}")
        if source_output not in source.spec.outputs.root and source.spec.type not in self.job_types:
            raise Refused(422, f"{source_uid} has no output {source_output}")
        if source.spec.type in self.job_types:
            if source_output not in self.job_types[source.spec.type].outputs:
                raise Refused(422, f"{source_uid} has no output {source_output}")
            kind = self.job_types[source.spec.type].outputs[source_output][0]
        else:
            kind = source.spec.outputs.root[source_output].type
        if kind != job.spec.inputs.root[name].type:
            raise Refused(422, f"{source_output} is a {kind}, {name} takes a {job.spec.inputs.root[name].type}")
        job.spec.inputs.root[name].connections.append(Connection(job_uid=source_uid, output=source_output))
        job.parents = sorted({*job.parents, source_uid})
        return job

    # Running external jobs

    def mark_running(self, job: Job, status: str) -> Job:
        self.external(job)
        self.need(job, "building", "running", "waiting")
        for name, one in job.spec.inputs.root.items():
            if len(one.connections) < one.count_min:
                raise Refused(400, f"input {name} needs {one.count_min} connections")
            for connection in one.connections:
                have = {s.name for s in self.jobs[connection.job_uid].spec.outputs.root[connection.output].results}
                lacking = [s.name for s in one.slots if s.required and s.name not in have]
                if lacking:
                    raise Refused(400, f"input {name} lacks {', '.join(lacking)}")
        return self.set_status(job, status)

    def mark_completed(self, job: Job) -> Job:
        if job.spec.type == "snowflake":
            self.need(job, "running", "waiting", "killed", "failed")
        else:
            self.need(job, "killed", "failed")
        job.completed_count += 1
        return self.set_status(job, "completed")

    def mark_failed(self, job: Job, error: str | None) -> Job:
        self.need(job, "queued", "launched", "started", "running", "waiting")
        if error:
            self.log(job).append({"type": "error", "text": error})
        return self.set_status(job, "failed")

    def clear(self, job: Job) -> Job:
        job.spec.outputs.root = {k: v for k, v in job.spec.outputs.root.items() if job.spec.type == "snowflake"}
        for name, output in job.spec.outputs.root.items():
            self.outputs.pop((job.uid, name), None)
            output.num_items = 0
        self.events[job.uid] = []
        return self.set_status(job, "building")

    # Datasets

    def output_fields(self, job: Job, name: str) -> list[tuple[str, str]]:
        if name not in job.spec.outputs.root:
            raise Refused(404, f"{job.uid} has no output {name}")
        slots = job.spec.outputs.root[name].slots
        return [field for slot in slots for field in self.slot_fields(slot.name, slot.dtype)]

    def slot_fields(self, name: str, dtype: str) -> list[tuple[str, str]]:
        """Fields ("slot/field", type) that a slot needs."""
        fields = slot_fields(name, dtype)
        return fields if self.template_extras else [f for f in fields if f[0].split("/")[1] not in EXTRAS]

    def save(self, job: Job, name: str, dataset: Dataset, version: int) -> Job:
        self.need(job, "running", "waiting")
        expected = dict(self.output_fields(job, name))
        problems = []
        for column in dataset.descr(exclude_uid=True):
            if column[0] not in expected:
                if not self.extra_columns:
                    problems.append(f"unexpected field {column[0]}")
            elif not same_type(column, expected[column[0]]):
                problems.append(f"{column[0]} is {column[1:]}, must be {expected[column[0]]}")
        problems += [f"missing field {field}" for field in expected if field not in dataset.fields()]
        uids = np.asarray(dataset["uid"])
        if len(np.unique(uids)) != len(uids):
            problems.append("uids are not unique")
        if problems:
            raise Refused(422, "; ".join(problems))
        if self.extra_columns:
            dataset = dataset.filter_prefixes([slot.name for slot in job.spec.outputs.root[name].slots], copy=True)
        self.outputs[job.uid, name] = dataset
        self.saves.append((job.uid, name, len(dataset)))
        output = job.spec.outputs.root[name]
        output.num_items = len(dataset)
        for result in output.results:
            result.versions, result.num_items = [version], [len(dataset)]
        return job

    def load_output(self, job: Job, name: str, slots: Any) -> Dataset:
        if len(self.outputs.get((job.uid, name), ())) == 0:
            raise Refused(400, f"output {name} of {job.uid} is empty or does not exist")
        dataset = self.outputs[job.uid, name]
        passed = job.spec.outputs.root[name].passthrough
        if passed is not None:
            source = self.load_input(job, passed, ["all"])
            source = source.drop_fields(lambda f: f != "uid" and f in dataset.fields(), copy=True)
            dataset = Dataset.innerjoin_many(dataset, source)
        return _slots(dataset, slots, [s.name for s in job.spec.outputs.root[name].slots])

    def load_input(self, job: Job, name: str, slots: Any) -> Dataset:
        if name not in job.spec.inputs.root or not job.spec.inputs.root[name].connections:
            raise Refused(400, f"nothing is connected to input {name} of {job.uid}")
        one = job.spec.inputs.root[name]
        parts = [self.load_output(self.jobs[c.job_uid], c.output, ["all"]) for c in one.connections]
        return _slots(Dataset.append_many(*parts), slots, [s.name for s in one.slots])

    # Queued jobs, which run by themselves

    def enqueue(self, job: Job, lane: str | None) -> Job:
        if job.spec.type == "snowflake":
            raise Refused(400, "external jobs cannot be queued")
        self.need(job, "building")
        kind = self.job_types[job.spec.type]
        if kind.interactive and lane is not None:
            raise Refused(400, f"{job.spec.type} runs on the master: queue it without a lane")
        if not kind.interactive and lane not in ("default", "gpu"):
            raise Refused(404, f"lane {lane} does not exist")
        for name, (_, _, low, _) in kind.inputs.items():
            if len(job.spec.inputs.root[name].connections) < low:
                raise Refused(400, f"input {name} is not connected")
        job.queued_to_lane = lane
        self.when_queued[job.uid] = time.monotonic()
        return self.set_status(job, "queued")

    def interact(self, job: Job, endpoint: str, body: dict[str, Any]) -> Any:
        """An action on a job that waits for the user."""
        self.need(job, "waiting")
        if endpoint == "get_class_info":
            return self.class_info
        if endpoint == "set_class_selected":
            index, selected = body["class_idx"], body["selected"]
            if index not in {one["class_idx"] for one in self.class_info}:
                raise Refused(422, f"no class {index}")
            (self.selected_classes.add if selected else self.selected_classes.discard)(index)
            return None
        if endpoint == "finish":
            self.finished_interaction.add(job.uid)
            return None
        raise Refused(404, f"{job.spec.type} has no endpoint {endpoint}")

    def _advance(self, job: Job) -> None:
        if job.uid not in self.when_queued or job.status in ("completed", "killed", "failed", "building"):
            return
        kind = self.job_types[job.spec.type]
        steps = int((time.monotonic() - self.when_queued[job.uid]) / self.step_seconds)
        path = [
            "queued",
            "launched",
            "running",
            self.ends.get(job.spec.type, "waiting" if kind.interactive else "completed"),
        ]
        status = path[min(steps, 3)]
        if status == "waiting" and job.uid in self.finished_interaction:
            status = "completed"
        if status == "completed":
            for name, output in self.job_types[job.spec.type].results(self, job).items():
                job.spec.outputs.root[name] = output
        self.set_status(job, status)


def _slots(dataset: Dataset, slots: Any, default: list[str]) -> Dataset:
    wanted = slots if isinstance(slots, list) else [slots]
    if wanted == ["all"]:
        return dataset.copy()
    names = default if wanted == ["default"] else wanted
    if wanted == ["passthrough"]:
        names = [p for p in dataset.prefixes() if p not in default]
    return dataset.filter_prefixes(names, copy=True)
