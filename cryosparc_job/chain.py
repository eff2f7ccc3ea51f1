"""The chain after picking, as CryoSPARC's own jobs: extraction, 2D classes, their selection, an ab initio volume."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cryosegnet_ext.errors import CryoSegNetError

from .chain_plan import STEPS, ChainPlan, ClassRule, read_plan
from .connection import Connection, OutputName
from .errors import ServerError
from .jobs import connect_once, create_once, find_marked

__all__ = ["STEPS", "ChainPlan", "ClassRule", "Step", "read_plan", "run", "steps"]

log = logging.getLogger(__name__)

#: Box side in particle diameters. It is rounded up to a multiple that suits Fourier transforms.
_BOX_DIAMETERS, _BOX_MULTIPLE = 1.5, 16
#: 2D Classification: its job types, the newest first.
_CLASSIFY = ("class_2D_new", "class_2D")
#: How often the state of a job is asked for.
POLL_SECONDS = 10.0
_DONE = ("completed", "failed", "killed")


@dataclass(frozen=True)
class Step:
    """One job of the chain.

    Attributes
    ----------
    name, kind
        Our name ("extract") and CryoSPARC's job type ("extract_micrographs_multi").
    params
        Its parameters.
    inputs
        Input -> (step of the chain or job, output).
    lane
        None: the job runs on the master.
    """

    name: str
    kind: str
    params: dict[str, Any]
    inputs: dict[str, tuple[str, str]]
    lane: str | None

    def line(self) -> str:
        """The step in words."""
        params = ", ".join(f"{name}={value}" for name, value in self.params.items()) or "no parameters"
        sources = ", ".join(f"{name} <- {source}:{output}" for name, (source, output) in self.inputs.items())
        return f"{self.name:<9} {self.kind} on {self.lane or 'the master'}; {params}; {sources}"


def steps(connection: Connection, plan: ChainPlan) -> list[Step]:
    """The jobs of a plan, checked against the job types and lanes of this CryoSPARC.

    Raises
    ------
    CryoSegNetError
        A lane, job type, parameter or output does not exist.
    """
    picks = connection.call(f"finding {plan.particles.job}", connection.cs.find_job, plan.project, plan.particles.job)
    have = connection.client.outputs(picks)
    for output in (plan.particles, plan.micrographs):
        if output.job == picks.uid and output.output not in have:
            raise CryoSegNetError(f"{output.job} has no output {output.output}: look at its Outputs tab.")
    box = plan.box or _box_size(connection, plan)
    given = {name: dict(values) for name, values in plan.params.items()}
    known = connection.call("asking for the job types", connection.client.job_types)
    unknown = sorted(set(given) - set(STEPS) | set(plan.lanes) - set(STEPS))
    if unknown:
        raise CryoSegNetError(f"{unknown[0]} is not a step of the chain: use {', '.join(STEPS)}.")

    def params(name: str, **ours: Any) -> dict[str, Any]:
        return {**ours, **given.get(name, {})}

    def lane(name: str) -> str | None:
        return plan.lanes.get(name, plan.lane)

    picked = {"micrographs": _source(plan.micrographs), "particles": _source(plan.particles)}
    chain = [
        Step("extract", "extract_micrographs_multi", params("extract", box_size_pix=box), picked, lane("extract")),
        Step(
            "classify",
            next((kind for kind in _CLASSIFY if kind in known), _CLASSIFY[0]),
            params("classify", class2D_K=50),
            {"particles": ("extract", "particles")},
            lane("classify"),
        ),
        # Interactive: it is queued without a lane, runs on the master and waits for the selection.
        Step(
            "select",
            "select_2D",
            params("select"),
            {"particles": ("classify", "particles"), "templates": ("classify", "class_averages")},
            None,
        ),
        Step(
            "abinit",
            "homo_abinit",
            params("abinit", abinit_K=1),
            {"particles": ("select", "particles_selected")},
            lane("abinit"),
        ),
    ][: STEPS.index(plan.last) + 1]
    _check(connection, chain, known)
    return chain


def _source(output: OutputName) -> tuple[str, str]:
    return output.job, output.output


def _box_size(connection: Connection, plan: ChainPlan) -> int:
    """Box side in pixels, from the diameter stored with the picks; the largest, if there are several pixel sizes."""
    load = connection.client.load_output
    table = connection.call(f"reading {plan.particles}", load, plan.project, plan.particles.job, plan.particles.output)
    names = ("location/min_dist_A", "location/micrograph_psize_A")
    if all(name in table.fields() for name in names) and len(table):
        diameter = float(np.median(np.asarray(table[names[0]])))
        sizes = np.unique(np.asarray(table[names[1]]))
        sizes = sizes[sizes > 0]
        if diameter > 0 and len(sizes):
            boxes = [math.ceil(_BOX_DIAMETERS * diameter / size / _BOX_MULTIPLE) * _BOX_MULTIPLE for size in sizes]
            if len(set(boxes)) > 1:
                each = ", ".join(f"{box} pixels at {size:.4g} A" for box, size in zip(boxes, sizes))
                log.warning(
                    f"{plan.particles} has several pixel sizes: all get the largest box ({each}); extract each size in "
                    "a chain of its own to give it its own box."
                )
            return boxes[0]
    raise CryoSegNetError(f"{plan.particles} does not contain the particle diameter: give --box, in pixels.")


def _check(connection: Connection, chain: Sequence[Step], known: Mapping[str, Collection[str]]) -> None:
    lanes = connection.call("asking for the lanes", connection.client.lanes)
    for step in chain:
        if step.kind not in known:
            raise CryoSegNetError(f"This CryoSPARC has no job type {step.kind}: its version is not supported.")
        for name in step.params:
            if name not in known[step.kind]:
                raise CryoSegNetError(
                    f"{step.kind} has no parameter {name}: job.print_param_spec() of cryosparc-tools lists them."
                )
        if step.kind != "select_2D" and step.lane is None:
            raise CryoSegNetError(f"The step {step.name} needs a lane: give --lane, one of {', '.join(lanes)}.")
        if step.lane is not None and step.lane not in lanes:
            raise CryoSegNetError(f"There is no lane {step.lane}: this CryoSPARC has {', '.join(lanes)}.")


def run(
    connection: Connection,
    plan: ChainPlan,
) -> dict[str, str]:
    """Make and queue the jobs of a plan, one after the other, and wait for each.

    The descriptions of the jobs contain the plan's mark, so that the same plan continues where it was stopped, on any
    machine. The jobs themselves go on in CryoSPARC when this stops.

    Parameters
    ----------
    connection
        The server.
    plan
        What to make.

    Returns
    -------
    dict
        Step -> the job's identifier.

    Raises
    ------
    CryoSegNetError
        A job failed, was killed or takes longer than ``ChainPlan.hours``, or no class passes the rule.
    """
    made: dict[str, str] = {}
    for step in steps(connection, plan):
        job = _job(connection, plan, step, made)
        made[step.name] = job.uid
        if job.status == "building":
            _queue(connection, step, job)
            log.info("%s: %s queued", step.name, job.uid)
        if step.kind == "select_2D":
            _select(connection, plan, job)
        status = _wait(connection, job, ("completed",), plan.hours)
        if status != "completed":
            raise CryoSegNetError(
                f"{job.uid} ({step.kind}) {'was ' if status == 'killed' else ''}{status}: look at its log; "
                "clear it in CryoSPARC and run the same command to try it again."
            )
        counts = ", ".join(f"{output.items} {name}" for name, output in connection.client.outputs(job).items())
        log.info("%s: %s completed, %s", step.name, job.uid, counts)
    return made


def _job(connection: Connection, plan: ChainPlan, step: Step, made: Mapping[str, str]) -> Any:
    """The job of a step, from an earlier run or new, with its inputs connected."""
    mark = f"{plan.mark} {step.name}"
    found = find_marked(connection, plan.project, plan.workspace, mark, step.kind)
    job = found[0] if found else None
    if job is None:
        text = f"After {plan.particles}, by cryosegnet-cryosparc ({mark})"
        make = partial(connection.cs.create_job, plan.project, plan.workspace, step.kind, params=step.params, desc=text)
        job = create_once(connection, plan.project, plan.workspace, mark, step.kind, make)
    if job.status == "building":
        for name, (source, output) in step.inputs.items():
            connect_once(connection, job, name, OutputName(made.get(source, source), output))
    return job


def _queue(connection: Connection, step: Step, job: Any) -> None:
    try:
        connection.call(f"queueing {job.uid}", job.queue, step.lane, patience=0)
    except ServerError as error:
        # The job may be queued although the reply was lost.
        connection.call(f"finding {job.uid}", job.refresh)
        if job.status == "building":
            if not error.passing:
                raise
            connection.call(f"queueing {job.uid}", job.queue, step.lane)


def _wait(connection: Connection, job: Any, statuses: Sequence[str], hours: float) -> str:
    """Wait until the job has one of these states or has ended, but no longer than ``hours``."""
    end = time.monotonic() + 3600 * hours
    while True:
        connection.call(f"asking for the state of {job.uid}", job.refresh)
        status = str(job.status)
        if status in statuses or status in _DONE:
            return status
        if status == "building":
            raise CryoSegNetError(f"{job.uid} was cleared in CryoSPARC: run the same command to queue it again.")
        if time.monotonic() > end:
            raise CryoSegNetError(
                f"{job.uid} is still {status} after {hours:g} hours: run the same command to wait for it again."
            )
        time.sleep(POLL_SECONDS)


def _select(connection: Connection, plan: ChainPlan, job: Any) -> None:
    """Select the classes of an interactive Select 2D job once it waits for them."""
    if _wait(connection, job, ("waiting",), plan.hours) != "waiting":
        return
    classes = connection.call("reading the 2D classes", job.interact, "get_class_info")
    kept = plan.rule.choose(classes)
    for one in classes:
        number = int(one["class_idx"])
        body = {"class_idx": number, "selected": number in kept}
        connection.call("selecting 2D classes", job.interact, "set_class_selected", body)
    log.info("select: %d of %d classes kept", len(kept), len(classes))
    try:
        connection.call("finishing the selection", job.interact, "finish", patience=0)
    except ServerError:
        connection.call(f"finding {job.uid}", job.refresh)
        if job.status == "waiting":
            connection.call("finishing the selection", job.interact, "finish")
