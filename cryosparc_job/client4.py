"""CryoSPARC 4.7: the calls of `client.Client` with cryosparc-tools 4.7.

Its functions are those of three command servers, ``cs.cli`` (command_core), ``cs.vis`` and ``cs.rtp``. Two that
cryosparc-tools 4.7 does not use itself are called here: ``get_jobs_by_type`` and ``delete_job`` of command_core.
"""

from __future__ import annotations

import contextlib
import getpass
import http.client
import importlib
import io
import json
import os
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryosegnet_ext.errors import CryoSegNetError

from .address import host_and_port
from .client import JobOutput, check_version
from .client4_errors import LOGIN, explain, refused_login
from .errors import ServerError

if TYPE_CHECKING:
    from cryosparc.dataset import Dataset

_LICENSE = r"[a-f\d]{8}-[a-f\d]{4}-[a-f\d]{4}-[a-f\d]{4}-[a-f\d]{12}"
_NO_SESSIONS = (
    "cryosparc-tools 4.7 cannot list the exposures of a Live session: export them in CryoSPARC Live, and follow the "
    "output of that job with --exposures."
)
_LINK = (
    "If it is a link to a file outside the project, run this where the project's folder and the linked files are "
    "mounted."
)
_CHUNK = 2**20


@dataclass(frozen=True)
class Login4:
    """License, email and password; none of them is shown."""

    license: str = field(repr=False)
    email: str = field(repr=False)
    password: str = field(repr=False)


class Client4:
    """A login at a server of version 4.7; see `client.Client`.

    Parameters
    ----------
    cs
        cryosparc-tools.
    url
        The server's address.
    """

    replaces_lines = False
    #: Said when the login is sent by http to another machine.
    openly = (
        "the license and the login go to another machine without encryption, and CryoSPARC 4.7 knows no other way: use "
        "an SSH tunnel if others use this network"
    )

    def __init__(self, cs: Any, url: str) -> None:
        self.cs = cs
        self.url = url

    @staticmethod
    def login(address: str, prompt: bool) -> Login4:
        """License, email and password from the environment, else from a prompt."""
        host_and_port(address)
        given = [os.environ.get(f"CRYOSPARC_{name}", "") for name in ("LICENSE_ID", "EMAIL", "PASSWORD")]
        license_id, email, password = given
        if not all(given):
            if not prompt or sys.stdin is None or not sys.stdin.isatty():
                raise CryoSegNetError(f"There is no login for {address}: set {LOGIN}.")
            license_id = license_id or getpass.getpass(f"License ID of {address}: ")
            email = email or input(f"Email for {address}: ")
            password = password or getpass.getpass("Password: ")
        license_id = license_id.strip()
        if not re.fullmatch(_LICENSE, license_id):
            raise CryoSegNetError(
                "The license of CryoSPARC cannot be used: set CRYOSPARC_LICENSE_ID as in cryosparc_master/config.sh, "
                "32 hexadecimal digits in five groups."
            )
        return Login4(license_id, email.strip(), password)

    @classmethod
    def connect(cls, address: str, login: Login4, timeout: int, installed: str) -> Client4:
        """Log in."""
        command: Any = importlib.import_module("cryosparc.command")
        tools: Any = importlib.import_module("cryosparc.tools")
        # The client would call again itself, after 30 seconds each, and send what it streams empty the second time.
        # `Connection.call` calls again.
        command.MAX_ATTEMPTS, command.RETRY_INTERVAL = 2, 0
        host, port = host_and_port(address)
        what = f"connecting to {address}"
        problem: CryoSegNetError = CryoSegNetError(f"The server at {address} is not CryoSPARC 4.7 or 5.0: check --url.")
        try:
            headers = {"License-ID": login.license}
            core = command.CommandClient("command_core", host, port + 2, timeout=timeout, headers=headers)
            check_version(address, core.get_running_version(), installed)
            cs = tools.CryoSPARC(login.license, host, port, login.email, login.password, timeout)
            if cs.user_id:
                return cls(cs, address)
            problem = refused_login(what)
        except CryoSegNetError:
            raise
        except json.JSONDecodeError:
            pass
        except RuntimeError as error:
            # From here on the arguments of the call, and so the password, are in the text of the client's error.
            found = explain(error.__cause__ or error, what, address)
            problem = found if found.passing else refused_login(what)
        except Exception as error:
            found = explain(error, what, address)
            if found.code == 403:
                problem = refused_login(what)
            elif found.code == 0 and found.passing:
                ports = f"The ports {port + 2}, {port + 3} and {port + 5} must be reachable."
                problem = ServerError(f"{found} {ports}", 0, True)
            elif found.code not in (0, 404):
                problem = found
        # Not in the handler: the error would keep the client's one.
        raise problem

    def close(self) -> None:
        """Nothing is open between two calls."""

    def explain(self, error: BaseException, what: str) -> ServerError:
        return explain(error, what, self.url)

    def find_project(self, project: str) -> None:
        _ = self.cs.find_project(project).doc

    def find_workspace(self, project: str, workspace: str) -> None:
        _ = self.cs.find_workspace(project, workspace).doc

    def project_folder(self, project: str) -> str:
        return str(self.cs.cli.get_project_dir_abs(project))

    def chunks(self, project: str, path: str) -> Iterator[bytes]:
        done = 0
        try:
            with self.cs.download(project, path) as reply:
                while part := reply.read(_CHUNK):
                    done += len(part)
                    yield part
                size = reply.headers.get("Content-Length")
        except importlib.import_module("cryosparc.errors").CommandError as error:
            problem = self.explain(error, f"downloading {path}")
            if problem.code != 500:
                raise
            # Reported of links out of the project, which cannot be told from a fault that passes.
            raise ServerError(f"{problem} {_LINK}", problem.code, problem.passing) from error
        except OSError as error:
            raise http.client.HTTPException("the connection broke") from error
        # The client takes an end that comes too early for the end of the file.
        if size is not None and done != int(size):
            raise http.client.IncompleteRead(b"", int(size) - done)

    def marked_jobs(self, project: str, workspace: str, mark: str, kind: str, most: int) -> list[Any]:
        found = []
        listed = self.cs.cli.get_jobs_by_type(project_uid=project, types=[kind])
        for short in sorted(listed, key=lambda one: int(one["uid"][1:]), reverse=True)[:most]:
            # The list may hold parts of the jobs only.
            if mark in (short.get("description") or mark) and workspace in (short.get("workspace_uids") or [workspace]):
                job = self._job_that_exists(project, short["uid"])
                if (
                    job is not None
                    and mark in (job.doc["description"] or "")
                    and workspace in job.doc["workspace_uids"]
                ):
                    found.append(job)
        return found

    def _job_that_exists(self, project: str, uid: str) -> Any:
        try:
            job = self.cs.find_job(project, uid)
            return None if job.doc.get("deleted") else job
        except Exception as error:
            if self.explain(error, "").code == 404:
                return None
            raise

    def status(self, project: str, uid: str) -> str:
        doc = self.cs.find_job(project, uid).doc
        return "deleted" if doc.get("deleted") else str(doc["status"])

    def delete(self, project: str, uid: str) -> None:
        self.cs.cli.delete_job(project, uid)

    def mark_running(self, project: str, uid: str) -> None:
        self.cs.cli.run_external_job(project, uid, "running")

    def mark_completed(self, project: str, uid: str) -> None:
        self.cs.cli.set_job_status(project, uid, "completed")

    def mark_failed(self, project: str, uid: str, reason: str) -> None:
        with contextlib.suppress(Exception):
            self.add_line(project, uid, reason, warning=True)
        self.cs.cli.set_job_status(project, uid, "failed")

    def children(self, job: Any) -> Collection[str]:
        return job.doc["children"]

    def inputs(self, job: Any) -> dict[str, list[tuple[str, str]]]:
        return {
            group["name"]: [(one["job_uid"], one["group_name"]) for one in group["connections"]]
            for group in job.doc["input_slot_groups"]
        }

    def outputs(self, job: Any) -> dict[str, JobOutput]:
        results = job.doc["output_results"]
        found = {}
        for group in job.doc["output_result_groups"]:
            own = [one for one in results if one["group_name"] == group["name"] and not one["passthrough"]]
            stored = any(one["metafiles"] for one in own)
            found[group["name"]] = JobOutput(group["type"], int(group.get("num_items") or 0), stored)
        return found

    def add_input(self, job: Any, name: str, slots: list[str], title: str) -> None:
        # A call whose reply was lost would make a second one.
        if name not in self.inputs(job.refresh()):
            job.add_input("exposure", name, min=1, max=1, slots=[_slot(one) for one in slots], title=title)

    def add_output(
        self, job: Any, kind: str, name: str, slots: list[str], title: str, passthrough: str | None = None
    ) -> None:
        if name not in self.outputs(job.refresh()):
            job.add_output(kind, name, slots=slots, passthrough=passthrough, title=title)

    def template(self, job: Any, name: str, more: Sequence[Any]) -> Dataset:
        table = job.alloc_output(name, 0)
        names, slots = table.fields(), table.prefixes()
        return table.add_fields([one for one in more if one[0] not in names and one[0].split("/")[0] in slots])

    def save_output(self, job: Any, name: str, dataset: Dataset, version: int) -> None:
        job.save_output(name, dataset)

    def saved_output(self, job: Any, name: str) -> Dataset:
        return _load_own(job.refresh(), name)

    def load_output(self, project: str, uid: str, name: str, own: bool = False) -> Dataset:
        job = self.cs.find_job(project, uid)
        return _load_own(job, name) if own else job.load_output(name)

    def add_line(self, project: str, uid: str, text: str, warning: bool = False) -> str:
        send = self.cs.cli.job_send_streamlog
        return str(send(project_uid=project, job_uid=uid, message=text, error=warning))

    def replace_line(self, project: str, uid: str, line: str, text: str) -> None:
        raise NotImplementedError("cryosparc-tools 4.7 replaces no lines")

    def add_checkpoint(self, project: str, uid: str) -> None:
        self.cs.cli.job_checkpoint_streamlog(project_uid=project, job_uid=uid, meta={})

    def upload(self, job: Any, content: bytes, filename: str) -> Any:
        return job.upload_asset(io.BytesIO(content), filename=filename, format=filename.rsplit(".", 1)[-1])

    def uploaded_size(self, job: Any, asset: Any) -> int:
        return next((int(one["length"]) for one in job.list_assets() if one["_id"] == asset["fileid"]), -1)

    def add_plot(self, project: str, uid: str, assets: list[Any], text: str) -> None:
        send = self.cs.cli.job_send_streamlog
        send(project_uid=project, job_uid=uid, message=text, flags=["plots"], imgfiles=assets)

    def set_picture(self, project: str, uid: str, output: str, asset: Any) -> None:
        # Only version 5 lets an external job choose its picture.
        self.add_plot(project, uid, [asset], f"The output {output}")

    def job_types(self) -> dict[str, Collection[str]]:
        return {
            spec["name"]: spec["params_base"] for section in self.cs.get_job_specs() for spec in section["contains"]
        }

    def lanes(self) -> list[str]:
        return [lane["name"] for lane in self.cs.get_lanes()]

    def session_status(self, project: str, session: str) -> str:
        raise ServerError(_NO_SESSIONS)

    def ready_exposures(self, project: str, session: str) -> dict[int, dict[str, Any]]:
        raise ServerError(_NO_SESSIONS)


def _slot(name: str) -> Any:
    """A slot of an input as version 4.7 writes it."""
    if not name.startswith("?"):
        return name
    return {"dtype": name[1:], "prefix": name[1:], "required": False}


def _load_own(job: Any, name: str) -> Dataset:
    """An output without the slots that come from the job's input."""
    slots = [one["name"] for one in job.doc["output_results"] if one["group_name"] == name and not one["passthrough"]]
    return job.load_output(name, slots=slots)
