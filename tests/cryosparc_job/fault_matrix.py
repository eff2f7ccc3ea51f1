"""Every fault at every call of a picking run: what the user sees, the final state of the job, and that nothing is lost.

``python -m tests.cryosparc_job.fault_matrix`` prints the table of docs/cryosparc_faults.md for the version of CryoSPARC
whose client comes first on the path.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from cryosegnet_ext.errors import CryoSegNetError
from cryosparc_job import connection as connection_module
from cryosparc_job import external_job, jobs
from cryosparc_job.connection import OutputName, connect
from cryosparc_job.errors import JobLost
from cryosparc_job.pick import PickingJob, pick
from tests.cryosparc_job.helpers import CLIENT, BlobPicker, add_exposures, environment, new_server
from tests.fake_cryosparc.faults import Fault
from tests.fake_cryosparc.running import RunningServer
from tests.waiting import LIMIT

#: Calls of 5.0 alone: with 4.7 the columns are read from the job, a line of the log stays as it is, and only the log
#: has pictures.
_NOT_IN_4 = ("jobs.get_output_fields", "jobs.update_event_log", "jobs.set_output_image", "jobs.set_tile_image")


def _calls(*names: str) -> tuple[str, ...]:
    return tuple(name for name in names if CLIENT != "4.7" or name not in _NOT_IN_4)


#: Every call of a run, in the order in which they first come.
BEFORE = (
    "projects.find_one",
    "workspaces.find_one",
    "jobs.create",
    "jobs.find",
    "jobs.find_one",
    "jobs.add_external_input",
    "jobs.connect",
    "jobs.add_external_output",
)
START = ("jobs.mark_running", "jobs.get_status")
READ = _calls("jobs.load_input", "jobs.get_output_fields")
FILES = ("projects.get_directory", "projects.download_file")
LOG = _calls("jobs.add_event_log", "jobs.update_event_log", "jobs.add_checkpoint")
PICTURES = _calls(
    "assets.upload", "assets.find_one", "jobs.add_image_log", "jobs.set_output_image", "jobs.set_tile_image"
)
WRITE = ("jobs.save_output", "jobs.load_output")
END = ("jobs.mark_completed",)
CALLS = BEFORE + START + READ + FILES + LOG + PICTURES + WRITE + END
#: Calls of the login, before a run.
LOGIN = {"openapi.json", "/api/cmd/openapi.json", "describe", "login", "users.me", "config.get_version"}
#: Calls without which a run is still a good run.
COSMETIC = LOG + PICTURES
STREAMS = ("jobs.save_output", "assets.upload")
#: Calls that change something, where every kind of fault is tried.
CHANGES = ("jobs.create", "jobs.connect", "jobs.mark_running", "jobs.save_output", "jobs.mark_completed")
#: Calls whose effect is seen from the job when their replies are lost; 5.0 may repeat the others, 4.7 may not.
SEEN = (*CHANGES, "jobs.add_external_input", "jobs.add_external_output") if CLIENT == "4.7" else CHANGES
EXPOSURES, PARTICLES = 2, 8

#: How often the client itself tries a call whose connection breaks.
TRIES = 1 if CLIENT == "4.7" else 3
#: A single fault: as often as gets past the client's own tries.
ONCE = {"torn": TRIES, "torn_before": TRIES, "500": 1, "500_after_store": 1, "slow": 1}


@dataclass(frozen=True)
class Case:
    """Result of one run.

    Attributes
    ----------
    said : the error's sentence, "" where there was none
    status : of the job in CryoSPARC at the end; "none" where there is no job
    particles : rows of its output, None where there is none
    jobs : external jobs that exist
    connections : of the job's input
    resumed : whether ``--job`` completed it afterwards
    """

    said: str
    status: str
    particles: int | None
    jobs: int
    connections: int
    resumed: bool


@contextmanager
def quick() -> Iterator[None]:
    """Short waits; the number of retries is unchanged."""
    with (
        mock.patch.object(connection_module, "_FIRST_WAIT", 0.01),
        mock.patch.object(jobs, "RETRY_SECONDS", 0.01),
        mock.patch.object(external_job, "_ENDING_PATIENCE", 0.1),
        mock.patch.object(external_job, "WATCH_SECONDS", 0.2),
    ):
        yield


def run_case(server: RunningServer, root: Path, operation: str, kind: str, times: int, patience: float = LIMIT) -> Case:
    """One run with a fault, in a world of its own, and a second run that continues its job."""
    world = server.reset(root / "server")
    add_exposures(world, [(256, 256)] * EXPOSURES, particles=PARTICLES)
    job = PickingJob(
        "P1",
        "W1",
        OutputName("J1", "exposures"),
        download=True,
        state=root / "state",
        cache=root / "cache",
        log_seconds=0.0,
    )
    said = ""
    with mock.patch.dict("os.environ", environment(server)), quick():
        with connect(server.url, patience=patience) as connection:
            server.faults.append(Fault(operation, kind, times, seconds=0.2))
            try:
                pick(connection, job, BlobPicker())
            except (CryoSegNetError, JobLost) as error:
                said = str(error)
            server.faults.clear()
        made = [one for one in world.jobs.values() if one.spec.type == "snowflake" and not one.deleted]
        status, particles, connections, resumed = "none", None, 0, False
        if made:
            last = made[-1]
            status = last.status
            rows = world.outputs.get((last.uid, "particles"))
            particles = None if rows is None else len(rows)
            connections = sum(len(one.connections) for one in last.spec.inputs.root.values())
            if status == "completed":
                assert rows is not None
                assert len(np.unique(rows["uid"])) == EXPOSURES * PARTICLES
            else:
                again = PickingJob(**{**job.__dict__, "job": last.uid})
                with connect(server.url) as connection:
                    pick(connection, again, BlobPicker())
                resumed = (
                    last.status == "completed" and len(world.outputs[last.uid, "particles"]) == EXPOSURES * PARTICLES
                )
    return Case(said, status, particles, len(made), connections, resumed)


def main() -> None:
    """Print the table of faults that last longer than the patience."""
    groups = (
        ("project, workspace", BEFORE[:2]),
        ("making and connecting the job", BEFORE[2:]),
        ("starting the job, its state", START),
        ("exposures, columns, download", READ + FILES),
        ("log", LOG),
        ("pictures", PICTURES),
        ("saving, reading back", WRITE),
        ("completing", END),
    )
    names = {
        "torn": "replies lost",
        "torn_before": "no connection",
        "500": "error 500",
        "500_after_store": "error 500, though done",
        "killed": "killed in the web interface",
        "expired": "login expires",
    }
    if CLIENT == "4.7":
        del names["expired"]  # its login is only a question at the beginning
    print("| fault | at | what the user sees | state of the job | afterwards |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, new_server(Path(folder)) as server:
        count = 0
        for kind, name in names.items():
            for title, calls in groups:
                rows: dict[tuple[str, str, str], None] = {}
                for call in calls:
                    if kind == "killed" and call in BEFORE + START[:1] + FILES:
                        continue
                    count += 1
                    times = 1 if kind in ("killed", "expired") else -1
                    case = run_case(server, Path(folder) / str(count), call, kind, times, patience=0.1)
                    rows[_words(case)] = None
                for said, status, after in rows:
                    print(f"| {name} | {title} | {said} | {status} | {after} |")


_SENTENCES = (
    "was killed in CryoSPARC ...",
    "CryoSPARC refused the login ... (with the command that renews it)",
    "CryoSPARC refused ... (500)",
    "The connection to ... broke while ...",
)


def _words(case: Case) -> tuple[str, str, str]:
    if not case.said:
        return "nothing, or a warning in the log", case.status, "complete"
    status = case.status
    if status == "none":
        status = "removed" if "was removed" in case.said else "not made"
    known = [words for words in _SENTENCES if words.split(" ...")[0] in case.said]
    assert known, case.said
    said = known[0]
    for words in ("may still be shown as running", "may still be shown in CryoSPARC"):
        if words in case.said:
            said += f"; the job {words}"
    return said, status, "`--job` completes it" if case.resumed else "run it again"


if __name__ == "__main__":
    main()
