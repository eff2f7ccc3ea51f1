"""The two clients of CryoSPARC: which one is installed, and the calls by which they differ.

`client5.Client5` and `client4.Client4` make these calls, each with its own cryosparc-tools. All other calls are the
same in both and are made at the client itself, ``cs``, and at its jobs: ``find_job``, ``find_external_job``,
``create_job``, ``create_external_job``; ``uid``, ``project_uid``, ``status``, ``refresh``, ``connect``, ``disconnect``,
``load_input``, ``alloc_output``, ``clear``, ``queue``, ``interact``.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cryosegnet_ext.errors import CryoSegNetError

from .address import describes_version_5, version_4
from .errors import ServerError

if TYPE_CHECKING:
    from cryosparc.dataset import Dataset

#: Version of CryoSPARC and of its client -> the extra that installs the client.
EXTRAS = {"5.0": "cryosparc", "4.7": "cryosparc4"}
LONGEST_DETAIL = 300
_BOTH = "4.7.x and 5.0.x"


@dataclass(frozen=True)
class JobOutput:
    """An output of a job.

    Attributes
    ----------
    kind
        CryoSPARC's type of it, such as "exposure".
    items
        Number of rows.
    stored
        Whether a data set has been saved.
    """

    kind: str
    items: int
    stored: bool


class Client(Protocol):
    """A login at a server. Its functions raise the errors of the installed cryosparc-tools, which `explain` knows.

    ``project`` and ``uid`` are identifiers, such as P1 and J2; ``job`` is a job of ``cs``.
    """

    cs: Any
    #: Whether a line of a job's log can be replaced.
    replaces_lines: bool

    def close(self) -> None:
        """Close the connection."""

    def explain(self, error: BaseException, what: str) -> ServerError:
        """An error of this client as one sentence; ``what`` is what was being done."""

    def find_project(self, project: str) -> None:
        """Check that a project exists."""

    def find_workspace(self, project: str, workspace: str) -> None:
        """Check that a workspace exists."""

    def project_folder(self, project: str) -> str:
        """The project's folder on the server."""

    def chunks(self, project: str, path: str) -> Iterator[bytes]:
        """The content of a file of a project; raises no `OSError`, so that one means the own disk."""

    def marked_jobs(self, project: str, workspace: str, mark: str, kind: str, most: int) -> list[Any]:
        """Jobs of a type whose description contains a text, of the newest ``most`` jobs of this type."""

    def status(self, project: str, uid: str) -> str:
        """State of a job, "deleted" if it was deleted."""

    def delete(self, project: str, uid: str) -> None:
        """Delete a job."""

    def mark_running(self, project: str, uid: str) -> None:
        """Start an external job."""

    def mark_completed(self, project: str, uid: str) -> None:
        """Complete an external job."""

    def mark_failed(self, project: str, uid: str, reason: str) -> None:
        """Mark an external job as failed, with the reason in its log."""

    def children(self, job: Any) -> Collection[str]:
        """Jobs that come after a job."""

    def inputs(self, job: Any) -> dict[str, list[tuple[str, str]]]:
        """Input -> the job and the output of each of its connections."""

    def outputs(self, job: Any) -> dict[str, JobOutput]:
        """The outputs of a job."""

    def add_input(self, job: Any, name: str, slots: list[str], title: str) -> None:
        """Give an external job an input of exposures; a slot with a question mark is optional."""

    def add_output(
        self, job: Any, kind: str, name: str, slots: list[str], title: str, passthrough: str | None = None
    ) -> None:
        """Give an external job an output, unless it has it."""

    def template(self, job: Any, name: str, more: Sequence[Any]) -> Dataset:
        """An empty data set with the columns of an output of an external job, and of ``more`` those that it may have.

        Version 5 names every column that an output may have, version 4.7 the least ones.
        """

    def save_output(self, job: Any, name: str, dataset: Dataset, version: int) -> None:
        """Save an output of an external job."""

    def saved_output(self, job: Any, name: str) -> Dataset:
        """What was saved as an output of an external job."""

    def load_output(self, project: str, uid: str, name: str, own: bool = False) -> Dataset:
        """An output of a job; ``own``: without what comes from its inputs."""

    def add_line(self, project: str, uid: str, text: str, warning: bool = False) -> str:
        """Add a line to a job's log; returns its identifier."""

    def replace_line(self, project: str, uid: str, line: str, text: str) -> None:
        """Replace a line of a job's log."""

    def add_checkpoint(self, project: str, uid: str) -> None:
        """Add a checkpoint to a job's log."""

    def upload(self, job: Any, content: bytes, filename: str) -> Any:
        """Upload a picture or a table for a job's log."""

    def uploaded_size(self, job: Any, asset: Any) -> int:
        """Size of an upload on the server, bytes."""

    def add_plot(self, project: str, uid: str, assets: list[Any], text: str) -> None:
        """Add uploads to a job's log, as a plot."""

    def set_picture(self, project: str, uid: str, output: str, asset: Any) -> None:
        """Show a picture at a job and at one of its outputs."""

    def job_types(self) -> Mapping[str, Collection[str]]:
        """Job type -> names of its parameters."""

    def lanes(self) -> list[str]:
        """Names of the lanes."""

    def session_status(self, project: str, session: str) -> str:
        """State of a Live session."""

    def ready_exposures(self, project: str, session: str) -> dict[int, dict[str, Any]]:
        """Exposures of a Live session that are ready and not rejected: uid -> slot -> its values by name, or None."""


def require_client() -> str:
    """The version of cryosparc-tools.

    Raises
    ------
    CryoSegNetError
        It is not installed, or its version is not supported.
    """
    choice = f"{install('5.0')} for a server of version 5.0, {install('4.7')} for one of 4.7."
    try:
        version = importlib.metadata.version("cryosparc-tools")
    except importlib.metadata.PackageNotFoundError:
        raise CryoSegNetError(f"cryosparc-tools is not installed: {choice}") from None
    if _family(version) not in EXTRAS:
        raise CryoSegNetError(f"cryosparc-tools {version} is not supported: {choice}")
    return version


def install(family: str) -> str:
    """The command that installs the client of "5.0" or "4.7"."""
    return f"pip install 'cryosegnet-ext[{EXTRAS[family]}]'"


def check_server(address: str, installed: str, license_id: str | None) -> None:
    """Look which version answers at an address, before the client of another one tries to log in there.

    Parameters
    ----------
    installed
        Version of cryosparc-tools.
    license_id
        The license, if it is known: a server of version 4 tells its exact version only with it.

    Raises
    ------
    CryoSegNetError
        A server of another version answers. If none answers, the login says why.
    """
    if describes_version_5(address):
        if _family(installed) != "5.0":
            raise other_version(address, "version 5 or newer", installed, "5.0")
    elif _family(installed) != "4.7" and (version := version_4(address, license_id)) is not None:
        check_version(address, version, installed)


def check_version(address: str, version: str, installed: str) -> None:
    """Compare the version that a server tells with that of the client.

    Raises
    ------
    CryoSegNetError
        They do not fit.
    """
    family = _family(version)
    if family == "v4":
        raise other_version(address, "version 4", installed, "4.7")
    if family not in EXTRAS:
        raise CryoSegNetError(
            f"CryoSPARC at {address} is {version} and this program supports {_BOTH} only: update CryoSPARC, or import "
            f"the picks as files (cryosegnet export)."
        )
    if family != _family(installed):
        raise other_version(address, version, installed, family)


def other_version(address: str, version: str, installed: str, family: str) -> CryoSegNetError:
    """The error of a server that needs the other client."""
    return CryoSegNetError(
        f"CryoSPARC at {address} is {version} and the installed cryosparc-tools is {installed}: {install(family)}; to "
        "use servers of both versions, make an environment for each."
    )


def _family(version: str) -> str:
    """``4.7`` of ``v4.7.1`` or ``4.7.1+240101``; a text that is no version stays as it is."""
    match = re.match(r"v?(\d+\.\d+)(?!\d)", version)
    return version if match is None else match[1]


def detail(text: object) -> str:
    """A server's own words about an error, for a sentence: ``, `` and the words in one line, or nothing."""
    words = " ".join(str(text or "").split())[:LONGEST_DETAIL]
    return f", {words}" if words else ""


def refused(what: str, code: int, passing: bool, words: object = "") -> ServerError:
    """The error of a call that the server refused."""
    remedy = "look at CryoSPARC's own log" if passing else "check the names and the job's state in CryoSPARC"
    return ServerError(f"CryoSPARC refused {what} ({code}{detail(words)}): {remedy}.", code, passing)


def broke(what: str, url: str) -> ServerError:
    """The error of a call whose connection broke."""
    return ServerError(
        f"The connection to {url} broke while {what}: check the network and that CryoSPARC runs.", 0, True
    )


def not_understood(what: str, error: BaseException) -> ServerError:
    """The error of a reply that the client cannot read."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_DETAIL]
    return ServerError(f"The reply of CryoSPARC could not be understood while {what} ({text}): please report it.")
