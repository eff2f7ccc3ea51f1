"""Find, make and connect jobs, each once, although the client repeats a call whose reply was lost."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from cryosegnet_ext._version import __version__
from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.runs.stopping import Stop, Stopped

from .connection import Connection, OutputName
from .errors import ServerError

TRIES = 3
RETRY_SECONDS = 1.0
_NEWEST, _ALL = 100, 5000


def find_workspace(connection: Connection, project: str, workspace: str) -> None:
    """Check that a project and a workspace exist.

    Raises
    ------
    ServerError
        They do not exist, or this user may not see them.
    """
    connection.call(f"finding the project {project}", connection.client.find_project, project)
    connection.call(f"finding the workspace {workspace}", connection.client.find_workspace, project, workspace)


def find_marked(
    connection: Connection, project: str, workspace: str, mark: str, kind: str, most: int = _ALL
) -> list[Any]:
    """Jobs of a workspace whose description contains a mark, oldest first; looks at the newest ``most`` jobs only.

    Raises
    ------
    ServerError
    """
    find = connection.client.marked_jobs
    jobs = connection.call("looking for the job", find, project, workspace, mark, kind, most)
    return sorted(jobs, key=lambda job: int(job.uid[1:]))


def create_once(
    connection: Connection, project: str, workspace: str, mark: str, kind: str, make: Callable[[], Any]
) -> Any:
    """Make a job once; if lost replies made several, all but the first are deleted.

    Parameters
    ----------
    mark
        Text that only this job's description contains.
    kind
        The job's type.
    make
        Asks the server to make it.

    Returns
    -------
    Any
        The job's controller.

    Raises
    ------
    ServerError
        The job cannot be made.
    """
    error: ServerError | None = None
    new: Any = None
    for _ in range(TRIES):
        try:
            new = connection.call("creating the job", make, patience=0)
        except ServerError as problem:
            error = problem
        try:
            made = find_marked(connection, project, workspace, mark, kind, _NEWEST)
        except ServerError:
            # It cannot be known whether lost replies made several.
            if new is not None:
                delete(connection, project, new.uid)
            raise
        for duplicate in made[1:]:
            if duplicate.status == "building":
                delete(connection, project, duplicate.uid)
        if made:
            return made[0]
        if error is None or not error.passing:
            break
        time.sleep(RETRY_SECONDS)
    raise error or ServerError("CryoSPARC made a job but does not list it: look at the workspace.")


def delete(connection: Connection, project: str, uid: str) -> None:
    """Delete a job that was never started, if the server answers."""
    with contextlib.suppress(ServerError):
        connection.call(f"deleting {uid}", connection.client.delete, project, uid, patience=0)


def create_external_job(connection: Connection, project: str, workspace: str, title: str, note: str = "") -> Any:
    """Make an external job once, with a mark in its description; a signal waits until it is made.

    Raises
    ------
    ServerError
        The job cannot be made.
    Stopped
        A signal came meanwhile; the job is deleted.
    """
    mark = f"run {secrets.token_hex(6)}"
    text = f"Picked with cryosegnet-ext {__version__} ({mark}{', ' * bool(note)}{note})"
    make = partial(connection.cs.create_external_job, project, workspace, title, text)
    with Stop() as stop:
        made = create_once(connection, project, workspace, mark, "snowflake", make)
        try:
            job = connection.call("finding the new job", connection.cs.find_external_job, project, made.uid)
            stop.check()
        except (ServerError, Stopped):
            delete(connection, project, made.uid)
            raise
    return job


def connect_once(connection: Connection, job: Any, name: str, source: OutputName, **options: Any) -> None:
    """Connect an output to an input of a job once.

    Raises
    ------
    CryoSegNetError
        The output is missing, something else is connected, or the server refuses.
    """
    problem: ServerError | None = None
    connected = connected_outputs(connection, job, name)
    for _ in range(TRIES):
        if connected:
            break
        try:
            connection.call(f"connecting {source}", job.connect, name, source.job, source.output, patience=0, **options)
        except ServerError as error:
            if isinstance(error.__cause__, ValueError) and "does not have output" in str(error.__cause__):
                raise CryoSegNetError(
                    f"{source.job} has no output {source.output}: look at its Outputs tab."
                ) from error
            problem = error
        connection.call(f"finding {job.uid}", job.refresh)
        connected = connected_outputs(connection, job, name)
        if not connected and problem is not None and not problem.passing:
            break
        if not connected:
            time.sleep(RETRY_SECONDS)
    if not connected:
        raise problem or ServerError(f"{source} could not be connected: look at {job.uid} in CryoSPARC.")
    if set(connected) != {source}:
        raise CryoSegNetError(f"{job.uid} picks {connected[0]}, not {source}: name that output, or leave out --job.")
    # A second connection, made by a lost reply, would give every exposure or particle twice.
    for extra in range(len(connected) - 1, 0, -1):
        connection.call("removing a duplicate connection", job.disconnect, name, extra)


def connected_outputs(connection: Connection, job: Any, name: str) -> list[OutputName]:
    """The outputs that are connected to an input of a job."""
    return [OutputName(*one) for one in connection.client.inputs(job)[name]]
