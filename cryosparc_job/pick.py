"""Pick the exposures of a CryoSPARC job in an external job, from its creation to its completion."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from cryosegnet_ext._version import __version__
from cryosegnet_ext.errors import CryoSegNetError, UsageError, plural
from cryosegnet_ext.runs.batch import MicrographPicker
from cryosegnet_ext.runs.engines.base import Engine
from cryosegnet_ext.runs.engines.threads import engine_for
from cryosegnet_ext.runs.false_picks import in_percent
from cryosegnet_ext.runs.journal import Journal
from cryosegnet_ext.runs.progress import heard_by
from cryosegnet_ext.runs.stopping import Stopped
from cryosegnet_ext.weights import cache_folder

from .connection import Connection
from .errors import EngineLost, JobLost, ServerError
from .exposure_picker import ExposurePicker
from .external_job import ExternalJobRun
from .jobs import connect_once, connected_outputs, create_external_job, find_workspace
from .locations import EXPOSURE_SLOTS, MORE_OF_LOCATIONS, PARTICLE_SLOTS, TABLE_SLOTS, particle_dataset, read_exposures
from .micrographs import ProjectMicrographs
from .outputs import JobOutputs, exposure_rows
from .picking_job import PickingJob, PickingResult

__all__ = ["PickingJob", "PickingResult", "pick", "state_folder"]

_LONGEST_LIST = 20


def pick(
    connection: Connection,
    spec: PickingJob,
    picker: MicrographPicker | Engine,
    show_progress: bool = False,
) -> PickingResult:
    """Pick exposures in an external job.

    The job is completed only after its outputs were read back and are equal to what was sent; otherwise it fails with
    the reason. Exposures that cannot be read are left out and named in the log. A run that was stopped continues with
    ``PickingJob.job`` and gives the same particles with the same identifiers.

    Parameters
    ----------
    connection
        The server.
    spec
        What to pick.
    picker
        Picks one micrograph, in this process; or an engine, which picks them elsewhere and which the caller closes. The
        outputs are the same, and a run may continue with another engine.
    show_progress
        Show on standard error how far the picking is.

    Raises
    ------
    CryoSegNetError
        The exposures could not be picked; the job, if there is one, fails with the reason. `EngineLost`: no other job
        could be picked here either.
    JobLost
        The job was killed, cleared or deleted in CryoSPARC.
    Stopped
        A signal stopped the process.
    """
    with contextlib.nullcontext(picker) if isinstance(picker, Engine) else engine_for(picker) as engine:
        return _pick(connection, spec, engine, show_progress)


def _pick(connection: Connection, spec: PickingJob, engine: Engine, show_progress: bool) -> PickingResult:
    # Before the job is made: weights or a device that cannot be loaded must not leave an empty job.
    settings = {**engine.settings, "server": connection.url}
    job = _find_job(connection, spec)
    folder = spec.state or state_folder(connection.url, spec.project, job.uid)
    # Picks made with other settings must be refused before the job is changed.
    settings["job"] = f"{spec.project}-{job.uid}"
    run = ExternalJobRun(connection, job, _resume(connection, spec, job.uid))
    try:
        with Journal(folder, settings, spec.overwrite or spec.job is None) as journal:
            _prepare(connection, spec, job)
            with run, heard_by(run.log):
                result = _work(connection, spec, engine, run, journal, show_progress)
            result.late_signal = run.stop.signal
    except CryoSegNetError as error:
        raise _with_note(error, job.uid, _left(connection, spec, run, folder)) from error
    except OSError as error:
        # The journal or the picks cannot be written: no other exposure and no other job could be picked either.
        what = f"{error.filename or folder}: {error.strerror or error}"
        lost = EngineLost(f"Nothing can be picked here any more: {what}.")
        raise _with_note(lost, job.uid, _left(connection, spec, run, folder)) from error
    except JobLost:
        raise
    except Stopped as end:
        raise Stopped(f"{job.uid} was stopped ({end}).{_left(connection, spec, run, folder, stopped=True)}") from None
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)
    return result


def _resume(connection: Connection, spec: PickingJob, uid: str) -> str:
    """The command that continues the job; empty for a batch of ``live``, which makes a new job of what is left."""
    if spec.exposures is None or spec.only is not None:
        return ""
    return (
        f"cryosegnet-cryosparc pick --url {connection.url} --project {spec.project} --workspace {spec.workspace} "
        f"--exposures {spec.exposures} --job {uid} and the same options."
    )


def _left(connection: Connection, spec: PickingJob, run: ExternalJobRun, folder: Path, stopped: bool = False) -> str:
    """What the user should know of the job after an error; a new job that never started is removed."""
    uid, resume = run.job.uid, run.resume
    if run.note is not None:
        return f" {run.note}: kill it there{', or continue it.' if stopped else '.'}"
    # If somebody cleared a running job, it is theirs.
    if spec.job is None and run.stop.lost is None:
        try:
            status = run.status(patience=0.0)
            if status == "building":
                connection.call(f"deleting {uid}", connection.client.delete, *run.where, patience=0.0)
        except ServerError:
            return f" {uid} may still be shown in CryoSPARC: delete it there{', or continue it.' if resume else '.'}"
        if status == "building":
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)
            return f" {uid} had not started and was removed{': run the same command again.' if resume else '.'}"
    return f" It can be continued: {resume}" if stopped and resume else ""


def _with_note(error: CryoSegNetError, uid: str, note: str) -> CryoSegNetError:
    text = f"{uid}: {error}{note}"
    if isinstance(error, ServerError):
        return type(error)(text, error.code, error.passing)
    kind = next((kind for kind in (EngineLost, UsageError) if isinstance(error, kind)), CryoSegNetError)
    return kind(text)


def state_folder(url: str, project: str, job: str) -> Path:
    """The folder that keeps the picks of an unfinished job."""
    return cache_folder() / "cryosparc" / "state" / hashlib.sha256(url.encode()).hexdigest()[:16] / f"{project}-{job}"


# The job


def _find_job(connection: Connection, spec: PickingJob) -> Any:
    """The external job: a new one, or the one to continue."""
    find_workspace(connection, spec.project, spec.workspace)
    if spec.exposures is not None:
        # Before the job is made: a wrong name must not leave an empty job.
        find = connection.cs.find_job
        source = connection.call(f"finding {spec.exposures.job}", find, spec.project, spec.exposures.job)
        outputs = connection.client.outputs(source)
        if spec.exposures.output not in outputs:
            have = ", ".join(outputs) or "none yet"
            raise CryoSegNetError(
                f"{spec.exposures.job} has no output {spec.exposures.output}: name one of its outputs ({have})."
            )
        kind = outputs[spec.exposures.output].kind
        if kind != "exposure":
            raise CryoSegNetError(f"{spec.exposures} is of the type {kind}: name an output of the type exposure.")
    if spec.job is None:
        return create_external_job(connection, spec.project, spec.workspace, spec.title, spec.note)
    try:
        job = connection.call(f"finding {spec.job}", connection.cs.find_external_job, spec.project, spec.job)
    except ServerError as error:
        if isinstance(error.__cause__, TypeError):
            raise CryoSegNetError(f"{spec.job} is not an external job: name one that this program made.") from error
        raise
    if job.status == "completed":
        raise CryoSegNetError(f"{spec.job} is completed already: leave out --job to pick in a new job.")
    return job


def _prepare(connection: Connection, spec: PickingJob, job: Any) -> None:
    """Give the job its input, its connection and its outputs, unless it has them."""
    call, client = connection.call, connection.client
    if job.status in ("failed", "killed"):
        call(f"clearing {job.uid}", job.clear)
        call(f"finding {job.uid}", job.refresh)
    slots, source = ["micrograph_blob"], None
    if spec.exposures is None:
        slots = [name for name in spec.table.prefixes() if name in TABLE_SLOTS]
    else:
        source = "exposures"
        if source not in client.inputs(job):
            call("adding the input", client.add_input, job, source, EXPOSURE_SLOTS, "Exposures")
            call(f"finding {job.uid}", job.refresh)
        if job.status == "building" or not client.inputs(job)[source]:
            connect_once(connection, job, source, spec.exposures)
        elif connected_outputs(connection, job, source)[0] != spec.exposures:
            raise CryoSegNetError(f"{job.uid} does not pick {spec.exposures}: name its exposures, or leave out --job.")
    particles = ("particle", "particles", PARTICLE_SLOTS, "Picked particles")
    call("adding the output", client.add_output, job, *particles)
    call("adding the output", client.add_output, job, "exposure", "exposures", slots, "Picked exposures", source)


def _work(
    connection: Connection,
    spec: PickingJob,
    engine: Engine,
    run: ExternalJobRun,
    journal: Journal,
    show_progress: bool,
) -> PickingResult:
    """Pick, save the outputs and complete the job."""
    cache = spec.cache or cache_folder() / "cryosparc" / "micrographs"
    micrographs = ProjectMicrographs(connection, spec.project, cache, spec.cache_bytes, spec.download)
    outputs = JobOutputs(connection, run)
    exposure_picker = ExposurePicker(spec, engine, micrographs, journal, outputs, show_progress)
    table = spec.table
    if table is None:
        table = connection.call("reading the exposures", run.job.load_input, "exposures")
    exposures = read_exposures(table)
    if spec.only is not None:
        exposures = [one for one in exposures if one.uid in spec.only]
    if not exposures:
        raise CryoSegNetError(f"{spec.exposures or 'The session'} has no exposures: look at its job.")
    if spec.handed is not None:
        spec.handed.match({micrographs.called(one): one.path for one in exposures if one.path})
        for sentence in spec.handed.sentences:
            run.log.write(f"Handing on the picks of {spec.handed.edits.run.output}: {sentence}")
        for sentence in spec.handed.remarks:
            run.log.write(sentence[:1].upper() + sentence[1:], warning=True)
    # Wrong column types must be noticed before hours of picking, not after.
    template = outputs.template("particles", MORE_OF_LOCATIONS)
    particle_dataset(template, [])
    run.log.write(f"cryosegnet-ext {__version__}: {plural(len(exposures), 'exposure')} of {spec.exposures or 'Live'}")
    run.log.write(f"Settings: {json.dumps(dict(engine.settings), default=str)}")
    result = exposure_picker.every(exposures)
    if result.exposures == 0:
        path, reason = result.failures[0]
        raise CryoSegNetError(
            f"None of {plural(len(exposures), 'exposure')} could be picked; the first, {path}: {reason}"
        )
    run.log.checkpoint()
    picked = [(one, exposure_picker.load(one)) for one in exposures if exposure_picker.is_done(one)]
    if result.picks == 0:
        run.log.write(
            "No particles were found on any exposure: lower --threshold, check --diameter, or give --invert if "
            "the particles are brighter than the ice.",
            warning=True,
        )
    outputs.save("particles", particle_dataset(template, picked, spec.flip_y))
    columns = outputs.template("exposures", table.descr(exclude_uid=True))
    outputs.save("exposures", exposure_rows(columns, table, {one.uid for one, _ in picked}))
    outputs.pictures(picked, exposure_picker.folder)
    for path, reason in result.failures[:_LONGEST_LIST]:
        run.log.write(f"Left out {path}: {reason}", warning=True)
    not_named = max(0, len(result.failures) - _LONGEST_LIST)
    run.log.write(
        f"{plural(result.picks, 'particle')} on {plural(result.exposures, 'exposure')}, {result.without_picks} of them "
        f"without particles; {plural(len(result.failures), 'exposure')} left out"
        + (f" ({not_named} not named here)" if not_named else "")
    )
    if result.expected_false is not None:
        run.log.write(
            f"{in_percent(result.expected_false).capitalize()} of the particles are expected to be false picks"
        )
    run.complete()
    return result
