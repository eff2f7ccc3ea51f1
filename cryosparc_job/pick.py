"""One external job: the exposures of a CryoSPARC job are picked, and their particle locations stored and read back."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryosegnet_ext._version import __version__
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.runs.batch import MicrographPicker
from cryosegnet_ext.runs.engines.base import Engine
from cryosegnet_ext.runs.engines.threads import engine_for
from cryosegnet_ext.runs.journal import Journal
from cryosegnet_ext.runs.stopping import Stopped
from cryosegnet_ext.weights import cache_folder

from .connection import Connection
from .errors import EngineLost, JobLost, ServerError
from .exposure_picker import ExposurePicker
from .external_job import ExternalJobRun
from .jobs import connect_once, create_external_job, find_workspace
from .locations import EXPOSURE_SLOTS, PARTICLE_SLOTS, TABLE_SLOTS, particle_dataset, read_exposures
from .micrographs import ProjectMicrographs
from .outputs import JobOutputs, exposure_rows
from .picking_job import PickingJob, PickingResult

__all__ = ["PickingJob", "PickingResult", "pick", "state_folder"]

_LONGEST_LIST = 20


def pick(
    connection: Connection,
    task: PickingJob,
    picker: MicrographPicker | Engine,
    progress: Callable[[int, int, int], None] | None = None,
) -> PickingResult:
    """Pick exposures in an external job.

    The job is completed only after its outputs were read back and found to be what was sent; it fails with the reason
    otherwise. Exposures that cannot be read are left out and named in the log. A run that was cut off goes on where it
    was, with ``PickingJob.job``, and gives the same particles with the same identifiers.

    Parameters
    ----------
    connection
        The server.
    task
        What to pick.
    picker
        Picks one micrograph, here; or an engine, which has them picked elsewhere and which the caller closes. Where
        they are picked changes nothing in the outputs, and a run goes on elsewhere than it began.
    progress
        Called with (exposures done, all, picks so far).

    Raises
    ------
    CryoSegNetError
        The task could not be done; the job, where there is one, says so too. `EngineLost`: nor can another one be.
    JobLost
        The job was killed, cleared or deleted in CryoSPARC.
    Stopped
        A signal stopped the process.
    """
    with contextlib.nullcontext(picker) if isinstance(picker, Engine) else engine_for(picker) as engine:
        return _pick(connection, task, engine, progress)


def _pick(
    connection: Connection, task: PickingJob, engine: Engine, progress: Callable[[int, int, int], None] | None
) -> PickingResult:
    # Weights or a device that do not load must not leave an empty job behind.
    settings = {**engine.settings, "server": connection.url}
    job = _find_job(connection, task)
    folder = task.state or state_folder(connection.url, task.project, job.uid)
    # Picks of other settings must be refused before the job is touched.
    settings["job"] = f"{task.project}-{job.uid}"
    with Journal(folder, settings, task.overwrite or task.job is None) as journal:
        resume = _resume(connection, task, job.uid)
        run = ExternalJobRun(connection, job, resume)
        try:
            _prepare(connection, task, job)
            with run:
                outcome = _work(connection, task, engine, run, journal, progress)
            outcome.late_signal = run.stop.signal
        except CryoSegNetError as error:
            raise _with_note(error, job.uid, run) from error
        except OSError as error:
            # What is remembered here cannot be written: no other exposure, and no other batch, would fare better.
            what = f"{error.filename or folder}: {error.strerror or error}"
            raise _with_note(EngineLost(f"Nothing can be picked here any more: {what}."), job.uid, run) from error
        except JobLost:
            raise
        except Stopped as end:
            note = "" if run.note is None else f" {run.note}: kill it there, or continue it."
            again = f" It can be continued: {resume}" if resume else ""
            raise Stopped(f"{job.uid} was stopped ({end}).{note}{again}") from None
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)
    return outcome


def _resume(connection: Connection, task: PickingJob, uid: str) -> str:
    """How to go on with the job; nothing for a batch of ``live``, which makes another one of what is left."""
    if task.exposures is None or task.only is not None:
        return ""
    return (
        f"cryosegnet-cryosparc pick --url {connection.url} --project {task.project} --workspace {task.workspace} "
        f"--exposures {task.exposures} --job {uid} and the same options."
    )


def _with_note(error: CryoSegNetError, uid: str, run: ExternalJobRun) -> CryoSegNetError:
    text = f"{uid}: {error}"
    if run.note is not None:
        text = f"{text.rstrip('.')}; {run.note}: kill it there."
    if isinstance(error, ServerError):
        return type(error)(text, error.code, error.passing)
    return EngineLost(text) if isinstance(error, EngineLost) else CryoSegNetError(text)


def state_folder(url: str, project: str, job: str) -> Path:
    """Where the picks of an unfinished job are kept."""
    return cache_folder() / "cryosparc" / "state" / hashlib.sha256(url.encode()).hexdigest()[:16] / f"{project}-{job}"


# The job


def _find_job(connection: Connection, task: PickingJob) -> Any:
    """The external job, made where none was named."""
    find_workspace(connection, task.project, task.workspace)
    if task.exposures is not None:
        # A wrong name must not leave an empty job behind.
        find = connection.cs.find_job
        source = connection.call(f"finding {task.exposures.job}", find, task.project, task.exposures.job)
        if task.exposures.output not in source.outputs:
            have = ", ".join(source.outputs) or "none yet"
            raise CryoSegNetError(
                f"{task.exposures.job} has no output {task.exposures.output}: name one of its outputs ({have})."
            )
        kind = source.outputs[task.exposures.output].type
        if kind != "exposure":
            raise CryoSegNetError(f"{task.exposures} is of the type {kind}: name an output of exposures.")
    if task.job is None:
        return create_external_job(connection, task.project, task.workspace, task.title, task.note)
    try:
        job = connection.call(f"finding {task.job}", connection.cs.find_external_job, task.project, task.job)
    except ServerError as error:
        if isinstance(error.__cause__, TypeError):
            raise CryoSegNetError(f"{task.job} is not an external job: name one that this program made.") from error
        raise
    if job.status == "completed":
        raise CryoSegNetError(f"{task.job} is completed already: leave out --job to pick in a new job.")
    return job


def _prepare(connection: Connection, task: PickingJob, job: Any) -> None:
    """Give the job its input, the connection and its outputs, whatever of them is there already."""
    call = connection.call
    if job.status in ("failed", "killed"):
        call(f"clearing {job.uid}", connection.api.jobs.clear, task.project, job.uid)
        call(f"finding {job.uid}", job.refresh)
    slots, source = ["micrograph_blob"], None
    if task.exposures is None:
        slots = [name for name in task.table.prefixes() if name in TABLE_SLOTS]
    else:
        source = "exposures"
        if source not in job.inputs:
            wanted = EXPOSURE_SLOTS
            call("adding the input", job.add_input, "exposure", source, min=1, max=1, slots=wanted, title="Exposures")
            call(f"finding {job.uid}", job.refresh)
        if job.status == "building" or not job.inputs[source].connections:
            connect_once(connection, job, source, task.exposures)
        elif (job.inputs[source].connections[0].job_uid, job.inputs[source].connections[0].output) != (
            task.exposures.job,
            task.exposures.output,
        ):
            raise CryoSegNetError(f"{job.uid} picks other exposures than {task.exposures}: name those, or a new job.")
    title = "Picked particles"
    call("adding the output", job.add_output, "particle", "particles", slots=PARTICLE_SLOTS, title=title)
    title = "Picked exposures"
    add = job.add_output
    call("adding the output", add, "exposure", "exposures", slots=slots, passthrough=source, title=title)


def _work(
    connection: Connection,
    task: PickingJob,
    engine: Engine,
    run: ExternalJobRun,
    journal: Journal,
    progress: Callable[[int, int, int], None] | None,
) -> PickingResult:
    """The work inside a running job; returns when the job is completed."""
    cache = task.cache or cache_folder() / "cryosparc" / "micrographs"
    source = ProjectMicrographs(connection, task.project, cache, task.cache_bytes, task.download)
    store = JobOutputs(connection, run)
    picking = ExposurePicker(task, engine, source, journal, store, progress)
    table = task.table
    if table is None:
        table = connection.call("reading the exposures", run.job.load_input, "exposures")
    exposures = read_exposures(table)
    if task.only is not None:
        exposures = [one for one in exposures if one.uid in task.only]
    if not exposures:
        raise CryoSegNetError(f"{task.exposures or 'The session'} holds no exposures: look at its job.")
    # The types must be known to fit before hours of picking, not after.
    template = connection.call("asking for the columns", run.job.alloc_output, "particles", 0)
    particle_dataset(template, [])
    run.say(f"cryosegnet-ext {__version__}: {len(exposures)} exposures of {task.exposures or 'Live'}")
    run.say(f"Settings: {json.dumps(dict(engine.settings), default=str)}")
    outcome = picking.every(exposures)
    if outcome.exposures == 0:
        path, reason = outcome.failures[0]
        raise CryoSegNetError(f"None of {len(exposures)} exposures could be picked; the first, {path}: {reason}")
    run.checkpoint()
    picked = [(one, picking.load(one)) for one in exposures if picking.is_done(one)]
    if outcome.picks == 0:
        run.say("No particles were found on any exposure: lower --threshold or check --diameter.", level="warning")
    store.save("particles", particle_dataset(template, picked, task.flip_y))
    store.save("exposures", exposure_rows(store.template("exposures"), table, {one.uid for one, _ in picked}))
    store.pictures(picked, picking.folder)
    for path, reason in outcome.failures[:_LONGEST_LIST]:
        run.say(f"Left out {path}: {reason}", level="warning")
    more = len(outcome.failures) - _LONGEST_LIST
    run.say(
        f"{outcome.picks} particles on {outcome.exposures} exposures, {outcome.without_picks} of them without any; "
        f"{len(outcome.failures)} exposures left out" + (f" ({more} not named here)" if more > 0 else "")
    )
    run.complete()
    return outcome
