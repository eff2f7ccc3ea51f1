"""Errors of a CryoSPARC server and of an external job, one class for each way to deal with them."""

from __future__ import annotations

from cryosegnet_ext.errors import CryoSegNetError
from cryosegnet_ext.runs.stopping import Stopped


class ServerError(CryoSegNetError):
    """The server did not do what was asked; the text is one sentence.

    Attributes
    ----------
    code
        HTTP status; 0 if there was no reply.
    passing
        Whether the same call may succeed later: the connection broke, or the server was busy.
    """

    def __init__(self, sentence: str, code: int = 0, passing: bool = False) -> None:
        super().__init__(sentence)
        self.code = code
        self.passing = passing


class Expired(ServerError):
    """The login is not valid or has expired."""


class EngineLost(CryoSegNetError):
    """Neither these exposures nor others can be picked here any more, for example because all workers have died."""


class JobLost(Stopped):
    """The job was killed, cleared or deleted while it ran; it is neither stopped nor marked as failed."""

    def __init__(self, uid: str, status: str) -> None:
        super().__init__(f"{uid} was {status} in CryoSPARC: stopped, and left as it is.")
        self.status = status
