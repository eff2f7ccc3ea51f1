"""CryoSPARC 5.0: the calls of `client.Client` with cryosparc-tools 5.0."""

from __future__ import annotations

import getpass
import io
import json
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from cryosegnet_ext.errors import CryoSegNetError

from .client import JobOutput, broke, check_version, not_understood, refused
from .errors import Expired, ServerError

if TYPE_CHECKING:
    from cryosparc.dataset import Dataset
    from cryosparc.tools import CryoSPARC

Login = tuple["str | None", "str | None"]

_PAGE = 500
#: Stages of a Live exposure at which its micrograph is final.
_READY = ("ready",)


class Client5:
    """A login at a server of version 5.0; see `client.Client`.

    Parameters
    ----------
    cs
        cryosparc-tools.
    url
        The server's address.
    """

    replaces_lines = True
    #: Said when the login is sent by http to another machine.
    openly = "the login goes to another machine without encryption; use https:// if it can"

    def __init__(self, cs: CryoSPARC, url: str) -> None:
        self.cs: Any = cs
        self.url = url

    @staticmethod
    def login(address: str, prompt: bool) -> Login:
        """Email and password; both may be None if a saved login is used."""
        from cryosparc.auth import InstanceAuthSessions

        email, password = os.environ.get("CRYOSPARC_EMAIL") or None, os.environ.get("CRYOSPARC_PASSWORD") or None
        if email and password:
            return email, password
        saved = InstanceAuthSessions.load()
        if saved.find(address, email) is not None:
            return email, None
        if prompt and sys.stdin is not None and sys.stdin.isatty():
            email = email or input(f"Email for {address}: ").strip()
            return email, getpass.getpass("Password: ")
        others = [known for known in saved.root if saved.find(known, email) is not None]
        hint = f" (a login is saved for {', '.join(others)}; the address must be exactly the same)" if others else ""
        raise CryoSegNetError(f"There is no login for {address}{hint}: {_relogin(address)}")

    @classmethod
    def connect(cls, address: str, login: Login, timeout: int, installed: str) -> Client5:
        """Log in."""
        from cryosparc.tools import CryoSPARC

        email, password = login
        try:
            # Every argument is given: the defaults are those of the environment when the client was imported.
            cs = CryoSPARC(
                address, host=None, base_port=None, email=email, password=password, license=None, timeout=timeout
            )
        except RuntimeError as error:
            problem = explain(error.__cause__ or error, f"connecting to {address}", address)
            if problem.code in (0, 404) and not problem.passing:
                raise CryoSegNetError(f"The server at {address} is not CryoSPARC 4.7 or 5.0: check --url.") from None
            raise problem from None
        except ValueError:
            raise CryoSegNetError(f"The saved login for {address} has expired: {_relogin(address)}") from None
        client = cls(cs, address)
        try:
            check_version(address, client.cs.api.config.get_version(), installed)
        except CryoSegNetError:
            client.close()
            raise
        except Exception as error:
            client.close()
            raise client.explain(error, "asking for the version") from error
        return client

    def close(self) -> None:
        # Private: cryosparc-tools has no close, and would leave the socket to the garbage collector.
        self.cs.api._client.close()

    def explain(self, error: BaseException, what: str) -> ServerError:
        return explain(error, what, self.url)

    def find_project(self, project: str) -> None:
        self.cs.api.projects.find_one(project)

    def find_workspace(self, project: str, workspace: str) -> None:
        self.cs.api.workspaces.find_one(project, workspace)

    def project_folder(self, project: str) -> str:
        return str(self.cs.api.projects.get_directory(project))

    def chunks(self, project: str, path: str) -> Iterator[bytes]:
        yield from self.cs.api.projects.download_file(project, path=path).stream()

    def marked_jobs(self, project: str, workspace: str, mark: str, kind: str, most: int) -> list[Any]:
        # The client lists jobs by the hundred.
        jobs = islice(self.cs.find_jobs(project, workspace, type=kind, order=-1), most)
        return [job for job in jobs if mark in job.desc]

    def status(self, project: str, uid: str) -> str:
        return str(self.cs.api.jobs.get_status(project, uid))

    def delete(self, project: str, uid: str) -> None:
        self.cs.api.jobs.delete(project, uid)

    def mark_running(self, project: str, uid: str) -> None:
        self.cs.api.jobs.mark_running(project, uid, status="running")

    def mark_completed(self, project: str, uid: str) -> None:
        self.cs.api.jobs.mark_completed(project, uid)

    def mark_failed(self, project: str, uid: str, reason: str) -> None:
        self.cs.api.jobs.mark_failed(project, uid, error=reason)

    def children(self, job: Any) -> Collection[str]:
        return job.model.children

    def inputs(self, job: Any) -> dict[str, list[tuple[str, str]]]:
        return {name: [(one.job_uid, one.output) for one in given.connections] for name, given in job.inputs.items()}

    def outputs(self, job: Any) -> dict[str, JobOutput]:
        return {
            name: JobOutput(one.type, one.num_items, any(result.versions for result in one.results))
            for name, one in job.outputs.items()
        }

    def add_input(self, job: Any, name: str, slots: list[str], title: str) -> None:
        job.add_input("exposure", name, min=1, max=1, slots=slots, title=title)

    def add_output(
        self, job: Any, kind: str, name: str, slots: list[str], title: str, passthrough: str | None = None
    ) -> None:
        job.add_output(kind, name, slots=slots, passthrough=passthrough, title=title)

    def template(self, job: Any, name: str, more: Sequence[Any]) -> Dataset:
        return job.alloc_output(name, 0)

    def save_output(self, job: Any, name: str, dataset: Dataset, version: int) -> None:
        job.save_output(name, dataset, version=version)

    def saved_output(self, job: Any, name: str) -> Dataset:
        return job.load_output(name)

    def load_output(self, project: str, uid: str, name: str, own: bool = False) -> Dataset:
        return self.cs.api.jobs.load_output(project, uid, name, slots="default" if own else "all")

    def add_line(self, project: str, uid: str, text: str, warning: bool = False) -> str:
        return str(self.cs.api.jobs.add_event_log(project, uid, text, type="warning" if warning else "text").id)

    def replace_line(self, project: str, uid: str, line: str, text: str) -> None:
        self.cs.api.jobs.update_event_log(project, uid, line, text, type="text")

    def add_checkpoint(self, project: str, uid: str) -> None:
        self.cs.api.jobs.add_checkpoint(project, uid, {})

    def upload(self, job: Any, content: bytes, filename: str) -> Any:
        from cryosparc.stream import Stream

        stream = Stream.load(io.BytesIO(content))
        names = {"filename": filename, "format": filename.rsplit(".", 1)[-1]}
        return self.cs.api.assets.upload(job.project_uid, job.uid, stream, **names)

    def uploaded_size(self, job: Any, asset: Any) -> int:
        return int(self.cs.api.assets.find_one(asset.fileid).length)

    def add_plot(self, project: str, uid: str, assets: list[Any], text: str) -> None:
        self.cs.api.jobs.add_image_log(project, uid, assets, text=text)

    def set_picture(self, project: str, uid: str, output: str, asset: Any) -> None:
        self.cs.api.jobs.set_output_image(project, uid, output, asset)
        self.cs.api.jobs.set_tile_image(project, uid, asset)

    def job_types(self) -> dict[str, Collection[str]]:
        return {spec.type: spec.params for spec in self.cs.api.job_register().specs}

    def lanes(self) -> list[str]:
        return [lane.name for lane in self.cs.get_lanes()]

    def session_status(self, project: str, session: str) -> str:
        return str(self.cs.api.sessions.find_one(project, session).status)

    def ready_exposures(self, project: str, session: str) -> dict[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        given = {"project_uid": [project], "session_uid": [session], "stage": list(_READY), "limit": _PAGE}
        after: str | None = None
        while page := list(self.cs.api.exposures.find(after=after, **given)):
            for one in page:
                exposure = one.groups.exposure
                rejected = one.failed or one.manual_reject or one.threshold_reject or one.deleted
                if exposure.micrograph_blob is not None and not rejected:
                    found[int(exposure.uid)] = exposure.model_dump()
            after = page[-1].id
        return found


def _relogin(address: str) -> str:
    return f"run python -m cryosparc.tools login --url {address}, or set CRYOSPARC_EMAIL and CRYOSPARC_PASSWORD."


def explain(error: BaseException, what: str, url: str) -> ServerError:
    """An exception of cryosparc-tools 5.0 as one sentence."""
    import httpx
    from cryosparc.errors import APIError, DatasetLoadError

    if isinstance(error, APIError):
        if error.code == 401:
            return Expired(f"CryoSPARC refused the login while {what}: {_relogin(url)}", 401)
        words = error.data.get("detail", error.data) if isinstance(error.data, dict) else error.data
        return refused(what, error.code, error.code >= 500 or error.code == 429, words)
    # If a stream breaks while it is read, the client raises a RuntimeError of its generator.
    torn = isinstance(error, RuntimeError) and "generator" in str(error)
    if torn or isinstance(error, httpx.TransportError | DatasetLoadError | json.JSONDecodeError):
        return broke(what, url)
    return not_understood(what, error)
